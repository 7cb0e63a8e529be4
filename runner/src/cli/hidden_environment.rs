//! Hides this process's environment from the programs that steps start.
//!
//! Linux shows the memory that the environment was passed in as `/proc/PID/environ`, to every process of the same user. So before
//! anything else, each variable is set anew, which copies it to the heap, and that memory is overwritten. Deliberately absent:
//! the environment of the runner's parent, and the memory of this process; only another user hides those (docs/plan.md, "Grants").

#![expect(unsafe_code, reason = "variables are set anew while this process has no other thread")]

use std::{
    fs::{self, OpenOptions},
    io,
    ops::Range,
    os::unix::{ffi::OsStrExt as _, fs::FileExt as _},
};

/// The number of the field `env_start` in `/proc/PID/stat`, from 1; `env_end` follows. See proc_pid_stat(5).
const ENV_START_FIELD: usize = 50;

/// Moves the environment to where no other process sees it. It must run before anything else in this process: before other
/// threads, and before anything keeps a reference to a variable.
///
/// # Errors
/// When the kernel does not tell where the environment is, or does not let it be overwritten: it can still be seen.
pub(super) fn hide() -> io::Result<()> {
    let names = std::env::vars_os().filter(|(name, _)| !name.as_bytes().contains(&b'='));
    for (name, value) in names {
        // SAFETY: this process has no other thread yet.
        unsafe { std::env::set_var(name, value) };
    }
    let range = environment_range(&fs::read_to_string("/proc/self/stat")?)
        .ok_or_else(|| io::Error::other("/proc/self/stat does not show where the environment is"))?;
    let memory = OpenOptions::new().write(true).open("/proc/self/mem")?;
    let zeros = vec![0; usize::try_from(range.end - range.start).unwrap_or(0)];
    memory.write_all_at(&zeros, range.start)?;
    match fs::read("/proc/self/environ")?.iter().all(|byte| *byte == 0) {
        true => Ok(()),
        false => Err(io::Error::other("/proc/self/environ still shows the environment")),
    }
}

/// The addresses of the initial environment. The name of the program, the second field, may contain anything.
fn environment_range(stat: &str) -> Option<Range<u64>> {
    let (_, after_name) = stat.rsplit_once(") ")?;
    let mut fields = after_name.split_ascii_whitespace().skip(ENV_START_FIELD - 3);
    let (start, end) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    (start > 0 && start <= end).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_is_found_whatever_the_programs_name() {
        let fields: Vec<_> = (4..=52).map(|number| number.to_string()).collect();
        let stat = |name: &str| format!("7 ({name}) S {}\n", fields.join(" "));
        for name in ["runner", "a b) S 1 2", ""] {
            assert_eq!(environment_range(&stat(name)), Some(50..51), "{name}");
        }
        assert_eq!(environment_range("7 (runner) S 4 5"), None);
        // What another user's process shows of itself.
        assert_eq!(environment_range(&stat("runner").replace(" 50 51 ", " 0 0 ")), None);
    }
}
