//! What a call and the attempt tell each other while the call runs.
//!
//! Invariant: the bytes of programs that wait here are bounded: a program that writes faster than its lines are logged waits at its
//! pipe. Messages of the guest are bounded by its log. Deliberately absent: redaction, which the attempt does.

use std::{path::Path, sync::Arc};

use tokio::{
    sync::{
        OwnedSemaphorePermit, Semaphore,
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
        watch,
    },
    time::Instant,
};

use contract::step::StepProgress;
use journal::OutputChunk;

/// How many chunks of output may wait.
const MAX_WAITING_CHUNKS: usize = 8;

/// A message of a running call.
#[derive(Debug)]
pub enum CallMessage {
    /// A message or progress of the module.
    Progress(StepProgress),
    /// Output of a program that the module runs.
    Output(ProgramOutput),
}

/// Bytes that a program wrote. Until they are taken, they count as waiting.
#[derive(Debug)]
pub struct ProgramOutput {
    chunk: OutputChunk,
    _slot: OwnedSemaphorePermit,
}

impl ProgramOutput {
    /// The bytes.
    #[must_use]
    pub fn into_chunk(self) -> OutputChunk {
        self.chunk
    }
}

/// The call's end of the connection with its attempt.
#[derive(Clone, Debug)]
pub struct CallChannel {
    messages: UnboundedSender<CallMessage>,
    slots: Arc<Semaphore>,
    stop_requested: Option<watch::Receiver<Option<Instant>>>,
    program_records: Option<Arc<Path>>,
}

impl CallChannel {
    /// A channel, and the receiver of the call's messages.
    #[must_use]
    pub fn new() -> (Self, UnboundedReceiver<CallMessage>) {
        let (messages, received) = unbounded_channel();
        let slots = Arc::new(Semaphore::new(MAX_WAITING_CHUNKS));
        (Self { messages, slots, stop_requested: None, program_records: None }, received)
    }

    /// A channel to nobody.
    #[must_use]
    pub fn unobserved() -> Self {
        Self::new().0
    }

    /// Ends the programs of the call as soon as the receiver has a time.
    #[must_use]
    pub fn with_stop(self, requested: watch::Receiver<Option<Instant>>) -> Self {
        Self { stop_requested: Some(requested), ..self }
    }

    /// Records running programs in a file, for [`end_leftover_programs`](super::end_leftover_programs).
    #[must_use]
    pub fn with_program_records(self, path: Arc<Path>) -> Self {
        Self { program_records: Some(path), ..self }
    }

    pub(super) fn program_records(&self) -> Option<&Arc<Path>> {
        self.program_records.as_ref()
    }

    /// Returns when the attempt wants the call's programs to end.
    pub async fn stop_requested(&self) {
        let Some(mut requested) = self.stop_requested.clone() else { return std::future::pending().await };
        if requested.wait_for(Option::is_some).await.is_err() {
            std::future::pending().await
        }
    }

    /// Sends a message of the module. After the attempt nobody listens, and the message is dropped.
    pub fn send(&self, progress: StepProgress) {
        let _ = self.messages.send(CallMessage::Progress(progress));
    }

    /// Sends output of a program, once there is room for it.
    pub async fn send_output(&self, chunk: OutputChunk) {
        // The semaphore is never closed.
        if let Ok(slot) = Arc::clone(&self.slots).acquire_owned().await {
            let _ = self.messages.send(CallMessage::Output(ProgramOutput { chunk, _slot: slot }));
        }
    }
}
