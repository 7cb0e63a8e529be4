//! What the kernel can run, by the first bytes of a file.
//!
//! Invariant: nothing is called unusable that may run: on a machine where other formats are registered (binfmt_misc), only the kernel
//! can tell.

use std::sync::OnceLock;

/// Why the kernel can't run what is in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileFormat {
    Empty,
    /// A script that an editor saved with a byte order mark.
    ByteOrderMark,
    /// An ELF file for another kind of machine.
    OtherMachine,
    /// Neither ELF nor a script with `#!`.
    Unknown,
}

/// `e_machine` of what runs here: the own kind, and the one of 32 bits. Empty where that is not known.
const MACHINES: &[u16] = if cfg!(target_arch = "x86_64") {
    &[62, 3]
} else if cfg!(target_arch = "aarch64") {
    &[183, 40]
} else {
    &[]
};

impl FileFormat {
    /// The format of a file that begins so, if it can't be run.
    pub(super) fn unusable(start: &[u8]) -> Option<Self> {
        let format = match start {
            [b'#', b'!', ..] => return None,
            [] => return Some(Self::Empty),
            [0x7f, b'E', b'L', b'F', rest @ ..] if runs_here(rest) => return None,
            [0x7f, b'E', b'L', b'F', ..] => Self::OtherMachine,
            [0xef, 0xbb, 0xbf, ..] => Self::ByteOrderMark,
            _ => Self::Unknown,
        };
        (!other_formats_are_registered()).then_some(format)
    }
}

/// Whether an ELF file is for this kind of machine; `rest` follows the first four bytes.
fn runs_here(rest: &[u8]) -> bool {
    match rest {
        // The byte order, which that of the machine's number is, is the sixth byte of the file; the number is at 18.
        [_, order, _, _, _, _, _, _, _, _, _, _, _, _, first, second, ..] => {
            let machine = [*first, *second];
            let machine = if *order == 2 { u16::from_be_bytes(machine) } else { u16::from_le_bytes(machine) };
            MACHINES.is_empty() || MACHINES.contains(&machine)
        }
        _ => true,
    }
}

/// Whether interpreters for other formats are registered.
fn other_formats_are_registered() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let Ok(entries) = std::fs::read_dir("/proc/sys/fs/binfmt_misc") else { return false };
        entries.flatten().any(|entry| !["register", "status"].iter().any(|own| entry.file_name() == *own))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The start of an ELF file for a machine.
    fn elf(machine: u16) -> Vec<u8> {
        let mut start = b"\x7fELF\x02\x01\x01".to_vec();
        start.resize(18, 0);
        start.extend(machine.to_le_bytes());
        start
    }

    #[test]
    fn file_of_another_machine_is_told_apart() {
        for machine in MACHINES {
            assert_eq!(FileFormat::unusable(&elf(*machine)), None);
        }
        if !MACHINES.is_empty() && !other_formats_are_registered() {
            // A Z80 has 220.
            assert_eq!(FileFormat::unusable(&elf(220)), Some(FileFormat::OtherMachine));
        }
        assert_eq!(FileFormat::unusable(b"\x7fELF"), None, "too short to tell");
        assert_eq!(FileFormat::unusable(b"#!/bin/sh"), None);
        assert_eq!(FileFormat::unusable(b""), Some(FileFormat::Empty));
    }
}
