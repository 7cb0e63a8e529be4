//! The guest's log: `log.write`, `log.progress`, stdout and stderr, all limited.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use tokio::{io::AsyncWrite, sync::Notify};
use wasmtime::{Error, Result};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};

use super::{bindings::log, channel::CallChannel, host::HostState, limits::GuestLimitExceeded};
use contract::step::{MessageLevel, StepProgress};

/// The most bytes of messages in one call.
const MAX_LOG_BYTES: usize = 4 << 20;

/// The most messages and progress events in one call.
const MAX_LOG_MESSAGES: usize = 20_000;

/// The sink of a guest's messages.
#[derive(Clone)]
pub(super) struct GuestLog {
    channel: CallChannel,
    usage: Arc<GuestLogUsage>,
}

#[derive(Default)]
struct GuestLogUsage {
    bytes: AtomicUsize,
    messages: AtomicUsize,
    limit_exceeded: Notify,
}

impl GuestLog {
    pub(super) fn new(channel: CallChannel) -> Self {
        Self { channel, usage: Arc::default() }
    }

    /// Forwards a message.
    pub(super) fn write(&self, level: MessageLevel, message: String, fields: &str) -> Result<(), GuestLimitExceeded> {
        self.charge(message.len() + fields.len(), 1)?;
        let fields = serde_json::from_str(fields).unwrap_or_default();
        self.send(StepProgress::Log { level, message, fields });
        Ok(())
    }

    /// Forwards progress. The host's own progress does not count.
    pub(super) fn send(&self, progress: StepProgress) {
        self.channel.send(progress);
    }

    /// Returns when the guest has exceeded a limit of the log.
    pub(super) async fn wait_for_limit_exceeded(&self) -> GuestLimitExceeded {
        self.usage.limit_exceeded.notified().await;
        self.charge(0, 0).err().unwrap_or_else(GuestLimitExceeded::log_bytes)
    }

    fn charge(&self, bytes: usize, messages: usize) -> Result<(), GuestLimitExceeded> {
        let bytes = self.usage.bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        let messages = self.usage.messages.fetch_add(messages, Ordering::Relaxed).saturating_add(messages);
        let exceeded = if bytes > MAX_LOG_BYTES {
            GuestLimitExceeded::log_bytes()
        } else if messages > MAX_LOG_MESSAGES {
            GuestLimitExceeded { resource: "log message", limit: MAX_LOG_MESSAGES.to_string() }
        } else {
            return Ok(());
        };
        self.usage.limit_exceeded.notify_one();
        Err(exceeded)
    }
}

impl GuestLimitExceeded {
    fn log_bytes() -> Self {
        Self { resource: "log", limit: format!("{} MiB", MAX_LOG_BYTES >> 20) }
    }
}

impl log::Host for HostState {
    async fn write(&mut self, level: String, message: String, fields: String) -> Result<()> {
        let level = match level.as_str() {
            "error" => MessageLevel::Error,
            "warn" => MessageLevel::Warn,
            "debug" => MessageLevel::Debug,
            "trace" => MessageLevel::Trace,
            _ => MessageLevel::Info,
        };
        self.log.write(level, message, &fields).map_err(Error::new)
    }

    async fn progress(&mut self, task: String, done: u64, total: Option<u64>, unit: String) -> Result<()> {
        self.log.charge(task.len() + unit.len(), 1).map_err(Error::new)?;
        self.log.send(StepProgress::Meter { task, done, total, unit });
        Ok(())
    }
}

/// A guest's stdout or stderr, line by line into its log.
#[derive(Clone)]
pub(super) struct GuestOutputStream {
    log: GuestLog,
    level: MessageLevel,
    line: Vec<u8>,
}

impl GuestOutputStream {
    pub(super) fn new(log: GuestLog, level: MessageLevel) -> Self {
        Self { log, level, line: Vec::new() }
    }

    fn end_line(&mut self) -> io::Result<()> {
        let line = std::mem::take(&mut self.line);
        let message = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
        // Bytes count as they arrive, so endless lines count too.
        self.log.charge(0, 1).map_err(io::Error::other)?;
        self.log.send(StepProgress::Log { level: self.level, message, fields: Default::default() });
        Ok(())
    }
}

impl Drop for GuestOutputStream {
    fn drop(&mut self) {
        if !self.line.is_empty() {
            // A guest beyond its limit has already been stopped.
            let _ = self.end_line();
        }
    }
}

impl IsTerminal for GuestOutputStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for GuestOutputStream {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(Self::new(self.log.clone(), self.level))
    }
}

impl AsyncWrite for GuestOutputStream {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.log.charge(bytes.len(), 0).map_err(io::Error::other)?;
        for byte in bytes {
            if *byte == b'\n' {
                self.end_line()?;
            } else {
                // A line is never cut before redaction; it may be as long as the whole log.
                self.line.push(*byte);
            }
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
