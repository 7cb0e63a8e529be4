//! How a caller reaches into the statement that runs on the session's thread.
//!
//! Invariant: giving one call up never stops another. An interrupt stops whatever SQLite is doing and is lost when it is doing
//! nothing yet; so each call has a flag too, which SQLite's progress and busy handlers look at.

use std::sync::{
    Arc, Mutex, OnceLock, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use rusqlite::InterruptHandle;

use super::worker::SqliteWorker;
use hostio::blocking::BlockingTaskGuard;

/// One call, and whether its caller has given it up.
pub(super) struct SqliteCall {
    pub(super) cancelled: Arc<AtomicBool>,
    pub(super) work: Box<dyn FnOnce(&mut SqliteWorker) + Send>,
}

/// How callers reach into the running statement.
#[derive(Default)]
pub(super) struct SqliteCallControl {
    running: Mutex<Option<Arc<AtomicBool>>>,
    closing: AtomicBool,
    interrupt: OnceLock<InterruptHandle>,
    /// Set when the session is gone and its thread is not.
    detached_work: Mutex<Option<BlockingTaskGuard>>,
}

impl SqliteCallControl {
    /// Gives up one call. Whatever else is running goes on.
    pub(super) fn cancel(&self, call: &Arc<AtomicBool>) {
        call.store(true, Ordering::SeqCst);
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.as_ref().is_some_and(|running| Arc::ptr_eq(running, call)) {
            self.interrupt();
        }
    }

    /// Gives up whatever runs, now and later.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
        self.interrupt();
    }

    /// The thread goes on without its session: it counts as work under way until it ends.
    pub(super) fn mark_detached(&self) {
        *self.detached_work.lock().unwrap_or_else(PoisonError::into_inner) = Some(BlockingTaskGuard::begin());
    }

    /// Says which call is worked on.
    pub(super) fn set_running(&self, call: Option<Arc<AtomicBool>>) {
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = call;
    }

    /// Takes the handle of the connection in, once it is open.
    pub(super) fn set_interrupt_handle(&self, connection: InterruptHandle) {
        let first = self.interrupt.set(connection);
        assert!(first.is_ok(), "a control belongs to one connection");
    }

    fn interrupt(&self) {
        if let Some(handle) = self.interrupt.get() {
            handle.interrupt();
        }
    }

    /// Whether the call that is worked on was given up.
    pub(super) fn is_cancelled(&self) -> bool {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        self.closing.load(Ordering::SeqCst) || running.as_ref().is_some_and(|call| call.load(Ordering::SeqCst))
    }
}
