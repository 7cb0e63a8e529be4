//! Work of the host's own on threads of its own: what of it goes on when its call was given up.
//!
//! Invariant: whoever begins a call, or ends, waits for what is left of the calls before, and not for ever. Deliberately absent:
//! what is worked on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use contract::step::StepFailure;

/// How many pieces of native work are under way in this process.
static ACTIVE_TASKS: AtomicUsize = AtomicUsize::new(0);

/// Waits until all native work has ended, that of calls which were given up too.
pub async fn wait_for_tasks(timeout: Duration) {
    let deadline = Instant::now() + timeout;
    while ACTIVE_TASKS.load(Ordering::Acquire) > 0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Counts a piece of native work for as long as it goes on.
#[derive(Debug)]
pub struct BlockingTaskGuard;

impl BlockingTaskGuard {
    pub fn begin() -> Self {
        ACTIVE_TASKS.fetch_add(1, Ordering::AcqRel);
        Self
    }
}

impl Drop for BlockingTaskGuard {
    fn drop(&mut self) {
        ACTIVE_TASKS.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Runs blocking work on a thread of its own. If the call is given up, the work is told to stop; what does not listen is
/// short, and [`wait_for_tasks`] waits for it.
pub async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce(Arc<AtomicBool>) -> T + Send + 'static,
) -> Result<T, StepFailure> {
    struct StopOnDrop(Arc<AtomicBool>);
    impl Drop for StopOnDrop {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let stop = StopOnDrop(Arc::default());
    let stop_flag = Arc::clone(&stop.0);
    let working = BlockingTaskGuard::begin();
    let done = tokio::task::spawn_blocking(move || {
        let _working = working;
        work(stop_flag)
    });
    let done = done.await;
    done.map_err(|error| StepFailure::new("permanent", format!("blocking work failed: {error}")))
}
