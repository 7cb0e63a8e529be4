//! Downloads for threads that read: a task receives, and a reader takes what it has received.
//!
//! Invariant: the task ends with its call, and the reader with the task.

use std::io::{self, Read};

use tokio::sync::mpsc;

use super::log::GuestLog;
use contract::step::{MessageLevel, StepProgress};
use fetch::net::{self, Download};

/// The most interruptions of one download that are logged.
const MAX_REPORTED_INTERRUPTIONS: u32 = 20;

/// Passes chunks from an async task to a reading thread.
pub(super) struct DownloadReader {
    /// `None` is the end. A channel that closes without it belonged to a cancelled call.
    chunks: mpsc::Receiver<io::Result<Option<Vec<u8>>>>,
    chunk: io::Cursor<Vec<u8>>,
    is_finished: bool,
}

impl DownloadReader {
    pub(super) fn new(chunks: mpsc::Receiver<io::Result<Option<Vec<u8>>>>) -> Self {
        Self { chunks, chunk: io::Cursor::default(), is_finished: false }
    }

    /// Goes on after an end.
    pub(super) fn begin_next(&mut self) {
        self.is_finished = false;
    }
}

impl Read for DownloadReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.chunk.read(buffer)?;
            if read > 0 || self.is_finished {
                return Ok(read);
            }
            match self.chunks.blocking_recv() {
                Some(chunk) => match chunk? {
                    Some(chunk) => self.chunk = io::Cursor::new(chunk),
                    None => self.is_finished = true,
                },
                None => return Err(io::ErrorKind::ConnectionAborted.into()),
            }
        }
    }
}

/// A task that ends with its call, so that a reader never waits for a server in vain.
pub(super) struct DownloadTask(pub(super) tokio::task::JoinHandle<()>);

impl Drop for DownloadTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Downloads on a task, for a reader on a thread.
pub(super) fn spawn_download_reader(
    mut download: Box<Download>,
    name: String,
    log: GuestLog,
) -> (DownloadTask, DownloadReader) {
    let (sender, chunks) = mpsc::channel(16);
    let task = tokio::spawn(async move {
        let mut reported = 0;
        loop {
            let chunk = match download.next_chunk().await {
                Ok(chunk) => Ok(chunk.map(|bytes| bytes.to_vec())),
                Err(error) => Err(io::Error::other(error)),
            };
            report_interruption(download.take_interruption(), &mut reported, &name, &log);
            let is_last = !matches!(chunk, Ok(Some(_)));
            if sender.send(chunk).await.is_err() || is_last {
                return;
            }
        }
    });
    (DownloadTask(task), DownloadReader::new(chunks))
}

/// Logs an interruption after which a download resumed.
pub(super) fn report_interruption(error: Option<net::NetError>, reported: &mut u32, name: &str, log: &GuestLog) {
    if let Some(error) = error
        && *reported < MAX_REPORTED_INTERRUPTIONS
    {
        *reported += 1;
        let message = format!("the download of {name} was interrupted and resumes: {error}");
        log.send(StepProgress::Log { level: MessageLevel::Warn, message, fields: serde_json::Map::new() });
    }
}
