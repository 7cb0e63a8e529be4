//! Which Rust can build for wasm here: the one in use, with the target installed, or Debian's, which builds the standard
//! library from its source package.
//!
//! The cargo that runs this library leaks nothing into the one it starts, or the same sources would give other bytes.

use std::{
    env,
    ffi::OsStr,
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::TARGET;

/// A Rust that can build step modules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WasmToolchain {
    /// `cargo` and `rustc` of the PATH, with the target's standard library installed.
    Installed,
    /// Debian's packages: the standard library is built from source, once per target directory.
    Debian {
        /// LLVM's linker for wasm.
        linker: PathBuf,
    },
}

/// Neither toolchain is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingWasmToolchain;

impl fmt::Display for MissingWasmToolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no Rust toolchain here builds for {TARGET}: run `cargo xtask setup`")
    }
}

impl std::error::Error for MissingWasmToolchain {}

impl fmt::Display for WasmToolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Installed => write!(f, "the installed Rust, with {TARGET}"),
            Self::Debian { .. } => f.write_str("Debian's Rust, with the standard library from source"),
        }
    }
}

/// The checkout that this library was built in.
const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_SOURCE: &str = "/usr/lib/rustlib/src/rust";

/// Finds a toolchain; the installed one first, since it has nothing to build.
///
/// # Errors
/// When there is none. The message names the command that installs one.
pub fn find_toolchain() -> Result<WasmToolchain, MissingWasmToolchain> {
    if has_installed_target() {
        return Ok(WasmToolchain::Installed);
    }
    let source = Path::new(DEBIAN_SOURCE).join("library/Cargo.lock");
    if [Path::new(DEBIAN_CARGO), Path::new(DEBIAN_RUSTC), &source].into_iter().all(Path::exists)
        && let Some(linker) = newest_linker(Path::new("/usr/bin"))
    {
        return Ok(WasmToolchain::Debian { linker });
    }
    Err(MissingWasmToolchain)
}

impl WasmToolchain {
    /// A cargo of this toolchain that works in `folder` and has nothing of an outer cargo in its environment.
    pub(crate) fn cargo(&self, folder: &Path) -> Command {
        let mut cargo = match self {
            Self::Installed => without_outer_cargo_env(Command::new("cargo")),
            Self::Debian { linker } => {
                let mut cargo = without_outer_cargo_env(Command::new(DEBIAN_CARGO));
                // `-Zbuild-std` is not stable yet; the pair of compiler and source package is Debian's own.
                cargo.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
                cargo.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
                cargo
            }
        };
        cargo.current_dir(folder);
        cargo
    }

    /// What `cargo build` needs besides the target.
    pub(crate) fn build_flags(&self) -> &'static [&'static str] {
        match self {
            Self::Installed => &[],
            Self::Debian { .. } => &["-Zbuild-std=std,panic_abort"],
        }
    }

    /// Panic messages hold file names; these are made the same on every machine. SHA-256 in a loop instead of unrolled is
    /// a twentieth of a component, and modules hash little: content is hashed by the host.
    pub(crate) fn rustc_flags(&self, manifest_dir: &Path, target_dir: &Path) -> Vec<String> {
        let manifest_dir = fs::canonicalize(manifest_dir).unwrap_or_else(|_| manifest_dir.to_owned());
        // Equal flags for all of this repository's guests: then they share one build of the standard library.
        let root = fs::canonicalize(REPOSITORY).unwrap_or_else(|_| REPOSITORY.into());
        let own = if manifest_dir.starts_with(&root) { (root, "/pawl") } else { (manifest_dir, "/steps") };
        let mut prefixes = vec![own, (target_dir.to_owned(), "/target")];
        if let Some(home) = cargo_home() {
            prefixes.push((home, "/cargo"));
        }
        if let Self::Debian { .. } = self {
            prefixes.push((DEBIAN_SOURCE.into(), "/rust"));
        }
        // The last match wins, so that the target directory may lie inside one of the others.
        prefixes.sort_by_key(|(path, _)| path.as_os_str().len());
        let remapped = prefixes.iter().map(|(path, name)| format!("--remap-path-prefix={}={name}", path.display()));
        remapped.chain([r#"--cfg=sha2_backend_soft="compact""#.to_owned()]).collect()
    }
}

fn has_installed_target() -> bool {
    let mut rustc = without_outer_cargo_env(Command::new("rustc"));
    let Ok(output) = rustc.args(["--print", "target-libdir", "--target", TARGET]).output() else { return false };
    let folder = String::from_utf8_lossy(&output.stdout);
    output.status.success()
        && fs::read_dir(folder.trim())
            .is_ok_and(|files| files.flatten().any(|file| file.file_name().as_encoded_bytes().starts_with(b"libstd-")))
}

/// `wasm-ld-<version>` by the highest version, else `wasm-ld`.
fn newest_linker(folder: &Path) -> Option<PathBuf> {
    let version = |name: &OsStr| {
        let rest = name.to_str()?.strip_prefix("wasm-ld")?;
        if rest.is_empty() { Some(0) } else { rest.strip_prefix('-')?.parse::<u32>().ok() }
    };
    let files = fs::read_dir(folder).ok()?.flatten();
    files.filter_map(|file| Some((version(&file.file_name())?, file.path()))).max().map(|(_, path)| path)
}

fn cargo_home() -> Option<PathBuf> {
    let set = env::vars_os().find(|(name, _)| name == "CARGO_HOME").map(|(_, value)| value.into());
    set.or_else(|| env::home_dir().map(|home| home.join(".cargo")))
}

fn without_outer_cargo_env(mut command: Command) -> Command {
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(is_set_by_outer_cargo) {
            command.env_remove(name);
        }
    }
    command
}

/// Kept is what says where cargo, its toolchain and its registry are, and how they are reached.
fn is_set_by_outer_cargo(name: &str) -> bool {
    const KEPT: [&str; 5] = ["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR", "RUSTUP_"];
    const OTHERS: [&str; 9] =
        ["TARGET", "HOST", "OUT_DIR", "PROFILE", "OPT_LEVEL", "DEBUG", "NUM_JOBS", "MAKEFLAGS", "MFLAGS"];
    let is_kept = KEPT.iter().any(|kept| name.starts_with(kept));
    OTHERS.contains(&name) || (!is_kept && (name.starts_with("CARGO") || name.starts_with("RUST")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outer_cargo_variables_are_recognized() {
        for name in
            ["CARGO", "CARGO_MANIFEST_DIR", "CARGO_TARGET_DIR", "CARGO_MAKEFLAGS", "RUSTFLAGS", "RUSTC", "OUT_DIR"]
        {
            assert!(is_set_by_outer_cargo(name), "{name}");
        }
        for name in ["CARGO_HOME", "CARGO_HTTP_PROXY", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN", "PATH", "HOME"] {
            assert!(!is_set_by_outer_cargo(name), "{name}");
        }
    }

    #[test]
    fn newest_linker_picks_the_highest_version() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(newest_linker(folder.path()), None);
        for name in ["wasm-ld", "wasm-ld-9", "wasm-ld-22", "wasm-ld-next", "wasm2wat"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(newest_linker(folder.path()), Some(folder.path().join("wasm-ld-22")));
    }

    #[test]
    fn the_longer_prefix_is_remapped_last() {
        let flags =
            WasmToolchain::Installed.rustc_flags(Path::new("/nowhere/app"), Path::new("/nowhere/app/target/guest"));
        let position = |text: &str| flags.iter().position(|flag| flag.ends_with(text)).unwrap();
        assert!(position("=/steps") < position("=/target"));
    }
}
