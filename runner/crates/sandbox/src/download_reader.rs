//! Downloads for threads that read: a task receives, and a reader takes what it has received.
//!
//! Invariant: the task ends with its call, and the reader with the task.

use std::{
    collections::VecDeque,
    io::{self, Read},
};

use tokio::sync::mpsc;

use super::{kept_download::KeptDownload, log::GuestLog};
use contract::step::{MessageLevel, StepProgress};
use fetch::net::{self, Download};

/// The most interruptions of one download that are logged.
const MAX_REPORTED_INTERRUPTIONS: u32 = 20;

/// Passes chunks from an async task to a reading thread, after those that were kept.
pub(super) struct DownloadReader {
    /// `None` is the end. A channel that closes without it belonged to a cancelled call.
    chunks: mpsc::Receiver<io::Result<Option<Vec<u8>>>>,
    chunk: io::Cursor<Vec<u8>>,
    is_finished: bool,
    /// What is kept of each content, the one that is read first.
    kept: VecDeque<Option<KeptDownload>>,
}

impl DownloadReader {
    pub(super) fn new(
        chunks: mpsc::Receiver<io::Result<Option<Vec<u8>>>>,
        kept: impl IntoIterator<Item = Option<KeptDownload>>,
    ) -> Self {
        Self { chunks, chunk: io::Cursor::default(), is_finished: false, kept: kept.into_iter().collect() }
    }

    /// Goes on after an end.
    pub(super) fn begin_next(&mut self) {
        self.is_finished = false;
        self.kept.pop_front();
    }

    /// How many bytes come from an earlier attempt.
    pub(super) fn kept_bytes(&self) -> u64 {
        self.kept.iter().flatten().map(KeptDownload::len).sum()
    }

    fn kept(&mut self) -> Option<&mut KeptDownload> {
        self.kept.front_mut()?.as_mut()
    }
}

impl Read for DownloadReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(kept) = self.kept() {
            let read = kept.read(buffer)?;
            if read > 0 {
                return Ok(read);
            }
        }
        loop {
            let read = self.chunk.read(buffer)?;
            if read > 0 || self.is_finished {
                return Ok(read);
            }
            match self.chunks.blocking_recv() {
                Some(chunk) => match chunk? {
                    Some(chunk) => {
                        if let Some(kept) = self.kept() {
                            kept.append(&chunk);
                        }
                        self.chunk = io::Cursor::new(chunk);
                    }
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
    kept: Option<KeptDownload>,
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
    (DownloadTask(task), DownloadReader::new(chunks, [kept]))
}

/// Logs that an earlier attempt has received a part of a download.
pub(super) fn report_kept(kept: u64, size: Option<u64>, name: &str, log: &GuestLog) {
    if kept > 0 {
        let of_size = size.map_or_else(String::new, |size| format!(" of {size}"));
        let message =
            format!("an earlier attempt has received {kept}{of_size} bytes of {name}; the download goes on there");
        log.send(StepProgress::Log { level: MessageLevel::Info, message, fields: serde_json::Map::new() });
    }
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
