//! Loads the file of a plan's module: a component, or a core module with the contract, which is converted here. So
//! authors need only their compiler.
//!
//! Anything else gets an explanation. Deliberately absent: whether the component matches the contract
//! (`contract_mismatch`), and compiling.

use std::borrow::Cow;

use wit_component::{ComponentEncoder, metadata};

/// Why a file can't become a component.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ComponentError {
    #[error("the file is empty")]
    Empty,
    #[error("it is WebAssembly's text form")]
    TextFormat,
    #[error("it is already compiled to machine code")]
    Precompiled,
    #[error("it is not WebAssembly: it begins with `{}`", contract::text::escape_line(.0))]
    NotWasm(String),
    #[error("it is WebAssembly in an unknown binary format")]
    UnknownVersion,
    #[error("it is a core module without the step contract")]
    NoContract,
    #[error("it is a core module for the old WASI (`wasi_snapshot_preview1`)")]
    WasiPreview1,
    #[error("this core module can't be turned into a component: {0}")]
    EncodingFailed(String),
}

impl ComponentError {
    /// The hint.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Empty => "build it again; the build that wrote it did not finish",
            Self::TextFormat => "convert it to binary with `wasm-tools parse` or `wat2wasm`",
            Self::Precompiled => "use the .wasm that it was compiled from: the runner compiles modules itself",
            Self::NotWasm(_) => "point `uses` at the .wasm that the build wrote, not at its source; see docs/steps.md",
            Self::UnknownVersion => "rebuild it with tools that produce WASI 0.2 components; see docs/steps.md",
            Self::NoContract => "export the contract: start with `runner new-step`; see docs/steps.md",
            Self::WasiPreview1 => {
                "in Rust, build for wasm32-unknown-unknown; in another language, build a component with its tools; see docs/steps.md"
            }
            Self::EncodingFailed(_) => "rebuild it as docs/steps.md describes",
        }
    }
}

/// Converts a file's bytes into a component.
///
/// # Errors
/// What the bytes are instead.
pub(super) fn to_component(bytes: &[u8]) -> Result<Cow<'_, [u8]>, ComponentError> {
    // After the magic number: a version, and a layer that distinguishes modules from components.
    match bytes {
        [] => Err(ComponentError::Empty),
        [0, b'a', b's', b'm', 0x0d, 0, 1, 0, ..] => Ok(Cow::Borrowed(bytes)),
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => encode_core_module(bytes).map(Cow::Owned),
        [0, b'a', b's', b'm', ..] => Err(ComponentError::UnknownVersion),
        [0x7f, b'E', b'L', b'F', ..] => Err(ComponentError::Precompiled),
        _ if is_text(bytes) => Err(ComponentError::TextFormat),
        _ => {
            let begins: String = String::from_utf8_lossy(&bytes[..bytes.len().min(64)]).chars().take(16).collect();
            Err(ComponentError::NotWasm(begins))
        }
    }
}

fn encode_core_module(module: &[u8]) -> Result<Vec<u8>, ComponentError> {
    let encoding_failed = |error: &dyn std::fmt::Display| ComponentError::EncodingFailed(error.to_string());
    let (contract, _) = metadata::decode(module).map_err(|error| encoding_failed(&error.root_cause()))?;
    let imports_wasi_preview1 = || module.windows(WASI_PREVIEW1.len()).any(|window| window == WASI_PREVIEW1);
    if contract.is_none() {
        return Err(if imports_wasi_preview1() { ComponentError::WasiPreview1 } else { ComponentError::NoContract });
    }
    let encoded = ComponentEncoder::default().validate(true).module(module).and_then(|mut encoder| encoder.encode());
    encoded.map_err(|error| {
        if imports_wasi_preview1() { ComponentError::WasiPreview1 } else { encoding_failed(&error.root_cause()) }
    })
}

const WASI_PREVIEW1: &[u8] = b"wasi_snapshot_preview1";

fn is_text(bytes: &[u8]) -> bool {
    let text = bytes.trim_ascii_start();
    [&b"(module"[..], b"(component", b";;"].iter().any(|start| text.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_non_component_has_its_own_error() {
        let table: [(&[u8], ComponentError); 8] = [
            (b"", ComponentError::Empty),
            (b"\n(module)", ComponentError::TextFormat),
            (b"\x7fELF\x02\x01", ComponentError::Precompiled),
            (b"export const step = {", ComponentError::NotWasm("export const ste".into())),
            (b"\0asm\x0a\0\x01\0", ComponentError::UnknownVersion),
            (b"\0asm\x01\0\0\0", ComponentError::NoContract),
            // A custom section with the old interface's name is enough of a sign.
            (b"\0asm\x01\0\0\0\0\x17\x16wasi_snapshot_preview1", ComponentError::WasiPreview1),
            (b"\0asm\x01\0\0\0\x01", ComponentError::EncodingFailed("unexpected end-of-file".into())),
        ];
        for (bytes, expected) in table {
            let found = to_component(bytes).unwrap_err();
            match (&found, &expected) {
                (ComponentError::EncodingFailed(_), ComponentError::EncodingFailed(_)) => {}
                _ => assert_eq!(found, expected),
            }
        }
    }
}
