//! The misbehaving module: built once, by the way that steps are built.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

/// The component of `tests/guests/misbehave`.
pub fn misbehave_component() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/guests/misbehave").canonicalize().unwrap();
        let target = Path::new(env!("CARGO_BIN_EXE_runner")).ancestors().nth(2).unwrap().join("guest");
        let built = guest_build::build(&source, &target);
        built.unwrap_or_else(|error| panic!("{error:#}: run `cargo xtask setup`")).remove(0).path
    })
}
