//! What runner and guard tell each other. Both are the same binary, so the form may change with each version.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long a program may take to end after SIGTERM, before SIGKILL.
pub(super) const STOP_GRACE: Duration = Duration::from_secs(4);

/// The same, when the runner has died.
pub(super) const ORPHAN_GRACE: Duration = Duration::from_secs(10);

/// Ends the program: SIGTERM, then SIGKILL.
pub(super) const TERMINATE: u8 = b't';

/// Kills the program at once.
pub(super) const KILL: u8 = b'k';

/// The first line that a guard gets, as JSON. The bytes of the standard input follow.
#[derive(Serialize, Deserialize)]
pub(super) struct GuardJob {
    pub(super) program: String,
    pub(super) arguments: Vec<String>,
    pub(super) environment: Vec<(String, String)>,
    /// The length of the standard input, if there is one.
    pub(super) stdin_bytes: Option<usize>,
    /// Whether what it leaves behind in its group is killed when it ends.
    pub(super) ends_group: bool,
}

/// A line from the guard, as JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(super) enum GuardEvent {
    /// The program runs, as the leader of a process group.
    Started { pid: i32 },
    /// The program could not be started.
    Failed { os_error: Option<i32>, message: String },
    /// The program has ended, by itself or by a signal.
    Exited { status: Option<i32>, signal: Option<i32> },
}
