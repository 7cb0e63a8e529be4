//! Bytes that nobody can change any more: a file without a name, in memory, sealed.
//!
//! It can be filled piece by piece while a MAC is computed, and mapped afterwards, so that big modules are copied once and
//! read lazily. Where the system has no such files, it is plain memory of the process.

#[cfg(target_os = "linux")]
mod here {
    use std::{
        fs::File,
        io::{self, Write},
        os::fd::AsRawFd as _,
    };

    use rustix::fs::{MemfdFlags, SealFlags};

    pub(in crate::sandbox) struct Memory(File);

    impl Memory {
        pub(in crate::sandbox) fn new() -> io::Result<Self> {
            let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
            Ok(Self(rustix::fs::memfd_create("module", flags)?.into()))
        }

        pub(in crate::sandbox) fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.0.write_all(bytes)
        }

        pub(in crate::sandbox) fn seal(self) -> io::Result<Sealed> {
            let all = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
            rustix::fs::fcntl_add_seals(&self.0, all)?;
            Ok(Sealed(self.0))
        }
    }

    pub(in crate::sandbox) struct Sealed(File);

    impl Sealed {
        /// A path that leads to this file in this process.
        pub(in crate::sandbox) fn path(&self) -> String {
            format!("/proc/self/fd/{}", self.0.as_raw_fd())
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod here {
    use std::io;

    pub(in crate::sandbox) struct Memory(Vec<u8>);

    impl Memory {
        pub(in crate::sandbox) fn new() -> io::Result<Self> {
            Ok(Self(Vec::new()))
        }

        pub(in crate::sandbox) fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.0.extend_from_slice(bytes);
            Ok(())
        }

        pub(in crate::sandbox) fn seal(self) -> io::Result<Sealed> {
            Ok(Sealed(self.0))
        }
    }

    pub(in crate::sandbox) struct Sealed(Vec<u8>);

    impl Sealed {
        pub(in crate::sandbox) fn bytes(&self) -> &[u8] {
            &self.0
        }
    }
}

pub(in crate::sandbox) use here::{Memory, Sealed};

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_sealed_stays() {
        let mut memory = Memory::new().unwrap();
        memory.push(b"co").unwrap();
        memory.push(b"de").unwrap();
        let sealed = memory.seal().unwrap();
        assert_eq!(fs::read(sealed.path()).unwrap(), b"code");
        assert!(fs::write(sealed.path(), b"evil").is_err());
        assert_eq!(fs::read(sealed.path()).unwrap(), b"code");
    }
}
