//! Blocking work of the host on dedicated threads, and what remains of it after its call was cancelled.
//!
//! Invariant: a new call, and the end of the process, wait for the rest of earlier calls, but not forever. Deliberately
//! absent: the work itself.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use contract::step::{FailureKind, StepFailure};

/// The number of running blocking tasks in this process.
static ACTIVE_TASKS: AtomicUsize = AtomicUsize::new(0);

/// Waits until all blocking tasks have ended, including those of cancelled calls.
pub async fn wait_for_tasks(timeout: Duration) {
    let deadline = Instant::now() + timeout;
    while ACTIVE_TASKS.load(Ordering::Acquire) > 0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Counts a blocking task while it runs.
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

/// Runs blocking work on its own thread. If the call is cancelled, the work gets a stop signal. Work that ignores it is
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
    done.map_err(|error| StepFailure::new(FailureKind::Permanent, format!("blocking work failed: {error}")))
}
