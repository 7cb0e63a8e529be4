//! Hides this process's environment from the programs that steps start.
//!
//! Linux shows the environment that a program was executed with in `/proc/PID/environ`, to every process of the same user. So
//! a command that runs steps executes the runner once more, in place: the process, its files, its terminal and its group stay the
//! same, the environment is empty, and the variables come through an anonymous file. They are then set as usual; what is set
//! later is not in `/proc`. Deliberately absent: the environment of the runner's parent, and memory; only another user hides
//! those (docs/plan.md, "Programs").

#![expect(
    unsafe_code,
    reason = "variables are set before any other thread exists, and a descriptor is taken over from exec"
)]

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, Read as _, Seek as _, Write as _},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::{
            ffi::{OsStrExt as _, OsStringExt as _},
            process::CommandExt as _,
        },
    },
    path::PathBuf,
    process::Command,
};

use rustix::fs::{MemfdFlags, memfd_create};

/// The variable that names the descriptor of the anonymous file, for the second execution only.
const DESCRIPTOR_VARIABLE: &str = "PAWL_ENVIRONMENT_FD";

/// The name of the anonymous file.
const FILE_NAME: &str = "pawl-environment";

/// This very program, even if its file was replaced.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// Variables that the dynamic linker reads: it runs before [`restore`].
const LINKER_PREFIX: &[u8] = b"LD_";

/// Where the environment of this process can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EnvironmentVisibility {
    /// By every process of this user.
    Visible,
    /// Nowhere outside of this process.
    Hidden,
}

/// Sets the variables that the first execution left, if this is the second one. It must run before anything else in the
/// process: before other threads, and before anything reads a variable.
pub(super) fn restore() -> EnvironmentVisibility {
    #[expect(clippy::disallowed_methods, reason = "the one variable that is read before all others are set")]
    let Some(descriptor) = std::env::var_os(DESCRIPTOR_VARIABLE) else { return EnvironmentVisibility::Visible };
    // SAFETY: this process has no other thread yet.
    unsafe { std::env::remove_var(DESCRIPTOR_VARIABLE) };
    let Some(mut file) = inherited_file(&descriptor) else { return EnvironmentVisibility::Visible };
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).expect("a file in memory can be read");
    for (name, value) in decode(&bytes) {
        // SAFETY: this process has no other thread yet.
        unsafe { std::env::set_var(name, value) };
    }
    // The kernel named the process after `/proc/self/exe`.
    let _ = rustix::thread::set_name(c"runner");
    EnvironmentVisibility::Hidden
}

/// Executes this program again with a hidden environment. Returns only if that is not possible.
pub(super) fn execute_hidden() -> io::Error {
    match try_execute() {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

fn try_execute() -> io::Result<std::convert::Infallible> {
    // Without /proc, nobody can read the environment there, and nothing could be executed.
    fs::metadata(THIS_PROGRAM)?;
    let mut file = File::from(memfd_create(FILE_NAME, MemfdFlags::empty())?);
    file.write_all(&encode(std::env::vars_os()))?;
    file.rewind()?;
    let mut arguments = std::env::args_os();
    let mut command = Command::new(THIS_PROGRAM);
    command.arg0(arguments.next().unwrap_or_else(|| "runner".into())).args(arguments).env_clear();
    command.envs(std::env::vars_os().filter(|(name, _)| name.as_bytes().starts_with(LINKER_PREFIX)));
    command.env(DESCRIPTOR_VARIABLE, file.as_raw_fd().to_string());
    Err(command.exec())
}

/// The file that the first execution left open. A number that somebody else put into the variable is not touched.
fn inherited_file(descriptor: &OsStr) -> Option<File> {
    let descriptor: RawFd = descriptor.to_str()?.parse().ok()?;
    let target = fs::read_link(format!("/proc/self/fd/{descriptor}")).ok()?;
    let expected = PathBuf::from(format!("/memfd:{FILE_NAME} (deleted)"));
    // SAFETY: the first execution left this descriptor open for this one, and nothing else in this process knows it.
    (target == expected).then(|| File::from(unsafe { OwnedFd::from_raw_fd(descriptor) }))
}

/// `NAME=VALUE` and a NUL for each variable, as the kernel has them.
fn encode(variables: impl Iterator<Item = (OsString, OsString)>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in variables {
        bytes.extend_from_slice(name.as_bytes());
        bytes.push(b'=');
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
    }
    bytes
}

/// The variables; those whose names can't be set are left out.
fn decode(bytes: &[u8]) -> impl Iterator<Item = (OsString, OsString)> {
    bytes.split(|byte| *byte == 0).filter_map(|entry| {
        let end = entry.iter().position(|byte| *byte == b'=').filter(|end| *end > 0)?;
        Some((OsString::from_vec(entry[..end].to_vec()), OsString::from_vec(entry[end + 1..].to_vec())))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &[u8], value: &[u8]) -> (OsString, OsString) {
        (OsString::from_vec(name.to_vec()), OsString::from_vec(value.to_vec()))
    }

    #[test]
    fn variables_are_read_back() {
        let variables = [pair(b"A", b""), pair(b"B", b"x=y\nz"), pair(b"C\xff", b"\xfe")];
        let read: Vec<_> = decode(&encode(variables.clone().into_iter())).collect();
        assert_eq!(read, variables);
        assert_eq!(decode(&encode([pair(b"=A", b"1")].into_iter())).count(), 0);
    }

    #[test]
    fn a_descriptor_of_somebody_else_is_not_taken() {
        for number in ["0", "1", "-1", "none", "99999"] {
            assert!(inherited_file(OsStr::new(number)).is_none(), "{number}");
        }
    }
}
