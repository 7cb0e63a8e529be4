//! Kills a runner at an exact call, in a shop that is put back if strace itself fails.

use std::{
    fs,
    io::{self, Write as _},
    process::Command,
};

use anyhow::{Result, bail};

pub(crate) use crate::tracer::{TracedCall, TracedRun};
use crate::{example_shop::ExampleShop, tracer};

/// How often a run is begun before strace's own failures are the test's.
const MAX_TRACES: usize = 3;

/// Runs the runner until `is_last` says of a call that it is killed behind it, or to its end.
///
/// About once in some thousand runs, strace itself fails at a stopped thread (`ptrace(PTRACE_LISTEN…): Input/output error`),
/// and the runner would stand still for ever. The shop is then put back as it was, and the run begins again.
pub(crate) fn run_traced(
    shop: &ExampleShop,
    words: &[&str],
    is_last: impl Fn(&TracedCall) -> bool,
) -> Result<TracedRun> {
    let folder = tempfile::tempdir()?;
    let before = shop.copy_to(&folder.path().join("shop"))?;
    for _ in 0..MAX_TRACES {
        let mut command = Command::new("strace");
        shop.make_hermetic(&mut command);
        let (run, strace_error) = tracer::trace_once(command, words, &is_last)?;
        if strace_error.is_empty() {
            return run;
        }
        writeln!(io::stderr().lock(), "strace failed, the run begins again: {}", strace_error.trim_end())?;
        fs::remove_dir_all(shop.folder())?;
        before.copy_to(shop.folder())?;
    }
    bail!("strace failed {MAX_TRACES} times; the lines above say how")
}
