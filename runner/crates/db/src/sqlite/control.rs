//! Lets a caller cancel the statement on the session's thread.
//!
//! Invariant: cancelling one call never stops another. An interrupt stops whatever SQLite is doing, and is lost if it
//! is idle. So each call also has a flag, which SQLite's progress and busy handlers check.

use std::sync::{
    Arc, Mutex, OnceLock, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use rusqlite::InterruptHandle;

use super::worker::SqliteWorker;
use hostio::blocking::BlockingTaskGuard;

/// A call, and whether its caller has cancelled it.
pub(super) struct SqliteCall {
    pub(super) cancelled: Arc<AtomicBool>,
    pub(super) work: Box<dyn FnOnce(&mut SqliteWorker) + Send>,
}

/// The callers' control over the running statement.
#[derive(Default)]
pub(super) struct SqliteCallControl {
    running: Mutex<Option<Arc<AtomicBool>>>,
    closing: AtomicBool,
    interrupt: OnceLock<InterruptHandle>,
    /// Set when the session is dropped but its thread still runs.
    detached_work: Mutex<Option<BlockingTaskGuard>>,
}

impl SqliteCallControl {
    /// Cancels one call. Others continue.
    pub(super) fn cancel(&self, call: &Arc<AtomicBool>) {
        call.store(true, Ordering::SeqCst);
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.as_ref().is_some_and(|running| Arc::ptr_eq(running, call)) {
            self.interrupt();
        }
    }

    /// Cancels everything that runs now or later.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
        self.interrupt();
    }

    /// The thread outlives its session, so it counts as a blocking task until it ends.
    pub(super) fn mark_detached(&self) {
        *self.detached_work.lock().unwrap_or_else(PoisonError::into_inner) = Some(BlockingTaskGuard::begin());
    }

    /// Sets the current call.
    pub(super) fn set_running(&self, call: Option<Arc<AtomicBool>>) {
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = call;
    }

    /// Stores the handle of the open connection.
    pub(super) fn set_interrupt_handle(&self, connection: InterruptHandle) {
        let first = self.interrupt.set(connection);
        assert!(first.is_ok(), "a control belongs to one connection");
    }

    fn interrupt(&self) {
        if let Some(handle) = self.interrupt.get() {
            handle.interrupt();
        }
    }

    /// Whether the current call was cancelled.
    pub(super) fn is_cancelled(&self) -> bool {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        self.closing.load(Ordering::SeqCst) || running.as_ref().is_some_and(|call| call.load(Ordering::SeqCst))
    }
}
