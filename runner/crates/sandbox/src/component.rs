//! What the file is that a plan uses: a component, or a core module with the contract in it, of which one is made here. So
//! authors need no tool beside their compiler.
//!
//! Anything else is told what it is. Deliberately absent: whether the component fits the contract (`misfit`), and compiling.

use std::borrow::Cow;

use wit_component::{ComponentEncoder, metadata};

/// Why no component comes of a file.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAComponent {
    #[error("the file is empty")]
    Empty,
    #[error("it is WebAssembly's text form")]
    Text,
    #[error("it is machine code, compiled already")]
    Compiled,
    #[error("it is no WebAssembly: it begins with {0:?}")]
    Foreign(String),
    #[error("it is WebAssembly in a binary form that this runner does not know")]
    Unknown,
    #[error("it is a core module without the step contract in it")]
    NoContract,
    #[error("it is a core module that expects a host of the old WASI (`wasi_snapshot_preview1`)")]
    OldWasi,
    #[error("no component can be made of this core module: {0}")]
    Broken(String),
}

impl NotAComponent {
    /// What to do.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Empty => "build it again; the build that wrote it did not finish",
            Self::Text => "make it binary, with `wasm-tools parse` or `wat2wasm`",
            Self::Compiled => "use the .wasm that it was compiled from: the runner compiles modules itself",
            Self::Foreign(_) => "`uses` takes the .wasm that a build wrote, not its source; see docs/steps.md",
            Self::Unknown => "build it again with tools that make components of WASI 0.2, see docs/steps.md",
            Self::NoContract => "a step exports the contract: begin with `runner new-step`, see docs/steps.md",
            Self::OldWasi => {
                "in Rust, build for wasm32-unknown-unknown; else make a component with the tools of your language, see docs/steps.md"
            }
            Self::Broken(_) => "build it again as docs/steps.md says",
        }
    }
}

/// The component of a file's bytes.
///
/// # Errors
/// What they are instead.
pub(super) fn component(bytes: &[u8]) -> Result<Cow<'_, [u8]>, NotAComponent> {
    // After the magic: a version, and a layer that tells modules from components.
    match bytes {
        [] => Err(NotAComponent::Empty),
        [0, b'a', b's', b'm', 0x0d, 0, 1, 0, ..] => Ok(Cow::Borrowed(bytes)),
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => made_of(bytes).map(Cow::Owned),
        [0, b'a', b's', b'm', ..] => Err(NotAComponent::Unknown),
        [0x7f, b'E', b'L', b'F', ..] => Err(NotAComponent::Compiled),
        _ if is_text(bytes) => Err(NotAComponent::Text),
        _ => {
            let begins: String = String::from_utf8_lossy(&bytes[..bytes.len().min(64)]).chars().take(16).collect();
            Err(NotAComponent::Foreign(begins))
        }
    }
}

fn made_of(module: &[u8]) -> Result<Vec<u8>, NotAComponent> {
    let broken = |error: &dyn std::fmt::Display| NotAComponent::Broken(error.to_string());
    let (contract, _) = metadata::decode(module).map_err(|error| broken(&error.root_cause()))?;
    let imports_old_wasi = || module.windows(OLD_WASI.len()).any(|window| window == OLD_WASI);
    if contract.is_none() {
        return Err(if imports_old_wasi() { NotAComponent::OldWasi } else { NotAComponent::NoContract });
    }
    let made = ComponentEncoder::default().validate(true).module(module).and_then(ComponentEncoder::encode);
    made.map_err(|error| if imports_old_wasi() { NotAComponent::OldWasi } else { broken(&error.root_cause()) })
}

const OLD_WASI: &[u8] = b"wasi_snapshot_preview1";

fn is_text(bytes: &[u8]) -> bool {
    let text = bytes.trim_ascii_start();
    [&b"(module"[..], b"(component", b";;"].iter().any(|start| text.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_component_is_told_what_it_is() {
        let table: [(&[u8], NotAComponent); 8] = [
            (b"", NotAComponent::Empty),
            (b"\n(module)", NotAComponent::Text),
            (b"\x7fELF\x02\x01", NotAComponent::Compiled),
            (b"export const step = {", NotAComponent::Foreign("export const ste".into())),
            (b"\0asm\x0a\0\x01\0", NotAComponent::Unknown),
            (b"\0asm\x01\0\0\0", NotAComponent::NoContract),
            // A custom section that only names the old interface is enough of a sign.
            (b"\0asm\x01\0\0\0\0\x17\x16wasi_snapshot_preview1", NotAComponent::OldWasi),
            (b"\0asm\x01\0\0\0\x01", NotAComponent::Broken("unexpected end-of-file".into())),
        ];
        for (bytes, expected) in table {
            let found = component(bytes).unwrap_err();
            match (&found, &expected) {
                (NotAComponent::Broken(_), NotAComponent::Broken(_)) => {}
                _ => assert_eq!(found, expected),
            }
        }
    }
}
