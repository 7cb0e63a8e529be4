//! Sends the directories of a step and its third-party module to its host, as far as the host lacks them.
//!
//! An archive that the step only unpacks goes as the chunks that the host does not have of earlier releases, if those are less than most
//! of it, and else as it is. Invariant: when a connection ends, nothing that has arrived is sent again over the next one. Deliberately
//! absent: which files a step gets, and dialing.

#![expect(clippy::wildcard_enum_match_arm, reason = "an answer to another question is one error, whichever it is")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::FileExt as _,
    path::Path,
    time::Duration,
};

use contract::{
    GrantName,
    step::{FailureKind, StepFailure},
};
use plan::PlanStep;

use super::{
    AgentConnection, ConnectionError, DecomposedArchives,
    shipping::{Shipment, ThirdPartyModule},
};
use crate::{
    agent::wire::{self, AgentAnswer, CallId, FileKind, OfferedFile, PIECE_BYTES, ShippedDirs, ToAgent},
    content::Bitmap,
};

/// How long an answer may take: a host may read all of its releases for it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(600);
/// An archive that is smaller is sent as it is: asking for its chunks takes longer.
const MIN_ARCHIVE_BYTES: u64 = 256 << 10;
/// Of how much content chunks are sent, in percent. For more, the archive is better compressed as a whole.
const MAX_MISSING_PERCENT: u64 = 60;
/// A transfer that is smaller is not told.
const MIN_TOLD_BYTES: u64 = 1_000_000;
/// About how large the list of files in one message is, in bytes.
const PAGE_BYTES: usize = 1 << 20;

/// Sends over one connection, for one step.
pub(super) struct ContentSender<'s> {
    pub(super) connection: &'s AgentConnection,
    pub(super) step: &'s PlanStep,
    pub(super) archives: &'s DecomposedArchives,
    /// Tells the operator of a transfer.
    pub(super) tell: &'s dyn Fn(String),
}

/// Why something was not sent.
pub(super) enum SendError {
    /// The connection has ended, and the next one may be better.
    Lost(String),
    Failed(StepFailure),
}

/// Why no chunks are sent.
enum ChunksNotSent {
    /// The host has no chunks, or the archive can't be taken apart.
    NoUse,
    Error(SendError),
}

impl From<SendError> for ChunksNotSent {
    fn from(error: SendError) -> Self {
        Self::Error(error)
    }
}

impl From<ConnectionError> for SendError {
    fn from(error: ConnectionError) -> Self {
        Self::Lost(error.to_string())
    }
}

impl ContentSender<'_> {
    /// Sends directories. Returns how the host names them.
    pub(super) async fn send(&self, shipments: &BTreeMap<GrantName, Shipment>) -> Result<ShippedDirs, SendError> {
        let shipped: ShippedDirs = shipments.iter().map(|(name, shipment)| (name.clone(), shipment.id())).collect();
        let unknown: Vec<_> = {
            let laid_out = self.connection.laid_out();
            shipments.iter().filter(|(name, _)| !laid_out.contains(&shipped[*name])).collect()
        };
        if unknown.is_empty() {
            return Ok(shipped);
        }
        let dirs = unknown.iter().map(|(name, _)| shipped[*name]).collect();
        let missing = self.missing(|call| ToAgent::Dirs { call, dirs }).await?;
        for (position, (_, shipment)) in unknown.iter().enumerate() {
            if missing.contains(position) {
                self.send_dir(shipment).await?;
            }
        }
        self.connection.laid_out().extend(unknown.iter().map(|(name, _)| shipped[*name]));
        Ok(shipped)
    }

    /// Sends a module that has this name in steps, unless the agent knows it.
    pub(super) async fn send_module(&self, name: &str, module: &ThirdPartyModule) -> Result<(), SendError> {
        if self.connection.modules().contains(name) {
            return Ok(());
        }
        let (file, known_as) = (module.offered, name.to_owned());
        let missing = self.missing(|call| ToAgent::Module { call, name: known_as, file }).await?;
        if !missing.is_empty() {
            self.connection.send(wire::message_frame(&ToAgent::File { file })).await?;
            for piece in module.bytes.chunks(PIECE_BYTES) {
                self.connection.send(wire::bytes_frame(piece)).await?;
            }
        }
        self.connection.modules().insert(name.to_owned());
        Ok(())
    }

    async fn send_dir(&self, shipment: &Shipment) -> Result<(), SendError> {
        let dir = shipment.id();
        for files in pages(&shipment.files) {
            self.connection.send(wire::message_frame(&ToAgent::Listing { dir, files })).await?;
        }
        let missing = self.missing(|call| ToAgent::Offer { call, dir }).await?;
        let files = shipment.files.iter().enumerate().filter(|(position, _)| missing.contains(*position));
        let mut sent = BTreeSet::new();
        for (_, (name, file)) in files {
            if sent.insert(file) {
                self.send_file(name, file, &shipment.sources[file]).await?;
            }
        }
        self.is_stored(|call| ToAgent::LayOut { call, dir }).await.map(|_| ())
    }

    async fn send_file(&self, name: &str, file: &OfferedFile, path: &Path) -> Result<(), SendError> {
        let before = self.connection.sent_bytes();
        let in_chunks =
            file.kind == FileKind::Archive && file.size >= MIN_ARCHIVE_BYTES && self.send_chunks(file, path).await?;
        if !in_chunks {
            let opened = fs::File::open(path).map_err(|error| unreadable(path, &error))?;
            self.connection.send(wire::message_frame(&ToAgent::File { file: *file })).await?;
            self.send_content(&opened, path).await?;
        }
        if file.kind == FileKind::Archive && file.size >= MIN_TOLD_BYTES {
            let (sent, size) = (megabytes(self.connection.sent_bytes() - before), megabytes(file.size));
            let why = if in_chunks { ": the host had the rest" } else { "" };
            (self.tell)(format!("sent {sent} MB for {name} ({size} MB){why}"));
        }
        Ok(())
    }

    /// Sends the chunks of an archive that the host lacks. Returns whether it has the archive now.
    async fn send_chunks(&self, file: &OfferedFile, path: &Path) -> Result<bool, SendError> {
        let step = Box::new(self.step.clone());
        // The host reads its releases, while the archive is taken apart here.
        let seeds = async {
            match self.ask(|call| ToAgent::FindSeeds { call, step }).await? {
                AgentAnswer::Seeds { bytes: 0 } => Err(ChunksNotSent::NoUse),
                AgentAnswer::Seeds { .. } => Ok(()),
                answer => Err(ChunksNotSent::Error(unexpected(answer))),
            }
        };
        let archive = async { self.archives.get(file, path).await.ok_or(ChunksNotSent::NoUse) };
        let archive = match futures_util::future::try_join(seeds, archive).await {
            Ok(((), archive)) => archive,
            Err(ChunksNotSent::NoUse) => return Ok(false),
            Err(ChunksNotSent::Error(error)) => return Err(error),
        };
        let (offered, sizes) = (Box::new(archive.offered.clone()), archive.recipe.sizes());
        self.connection.send(wire::message_frame(&ToAgent::Recipe { archive: offered, sizes })).await?;
        for piece in archive.recipe.parts().into_iter().flat_map(|part| part.chunks(PIECE_BYTES)) {
            self.connection.send(wire::bytes_frame(piece)).await?;
        }
        let missing = match self.ask(|call| ToAgent::FindChunks { call }).await? {
            AgentAnswer::Missing { which } => which,
            AgentAnswer::Stored { is_stored: false } => return Ok(false),
            answer => return Err(unexpected(answer)),
        };
        if archive.percent_of(&missing) > MAX_MISSING_PERCENT {
            return Ok(false);
        }
        if !missing.is_empty() {
            // What can't be made here can be sent as it is.
            let Ok(content) = archive.content_of(missing).await else { return Ok(false) };
            self.connection.send(wire::message_frame(&ToAgent::Chunks)).await?;
            self.send_content(&content, path).await?;
        }
        self.is_stored(|call| ToAgent::FinishArchive { call }).await
    }

    async fn send_content(&self, content: &fs::File, path: &Path) -> Result<(), SendError> {
        let (mut piece, mut position) = (vec![0; PIECE_BYTES], 0);
        loop {
            match content.read_at(&mut piece, position).map_err(|error| unreadable(path, &error))? {
                0 => return Ok(()),
                length => {
                    self.connection.send(wire::bytes_frame(&piece[..length])).await?;
                    position += length as u64;
                }
            }
        }
    }

    async fn missing(&self, request: impl FnOnce(CallId) -> ToAgent) -> Result<Bitmap, SendError> {
        match self.ask(request).await? {
            AgentAnswer::Missing { which } => Ok(which),
            answer => Err(unexpected(answer)),
        }
    }

    async fn is_stored(&self, request: impl FnOnce(CallId) -> ToAgent) -> Result<bool, SendError> {
        match self.ask(request).await? {
            AgentAnswer::Stored { is_stored } => Ok(is_stored),
            answer => Err(unexpected(answer)),
        }
    }

    async fn ask(&self, request: impl FnOnce(CallId) -> ToAgent) -> Result<AgentAnswer, SendError> {
        Ok(self.connection.call(None, ANSWER_TIMEOUT, request).await?)
    }
}

/// A directory's files in lists that fit into a message each; one at least.
fn pages(files: &BTreeMap<String, OfferedFile>) -> Vec<BTreeMap<String, OfferedFile>> {
    let (mut pages, mut bytes) = (vec![BTreeMap::new()], 0);
    for (path, file) in files {
        // A character takes six at most, and the rest of a file fewer than 200.
        bytes += 6 * path.len() + 200;
        if bytes > PAGE_BYTES {
            pages.push(BTreeMap::new());
            bytes = 6 * path.len() + 200;
        }
        if let Some(page) = pages.last_mut() {
            page.insert(path.clone(), *file);
        }
    }
    pages
}

fn unexpected(answer: AgentAnswer) -> SendError {
    SendError::Failed(match answer {
        AgentAnswer::Refused { problem } => {
            let cause = problem.causes.first().map_or_else(String::new, |cause| format!(": {cause}"));
            let failure = StepFailure::new(FailureKind::Permanent, format!("{}{cause}", problem.message));
            StepFailure { hint: problem.hint, ..failure }
        }
        _ => StepFailure::new(FailureKind::Permanent, "the host's answer does not match the request"),
    })
}

fn unreadable(path: &Path, error: &io::Error) -> SendError {
    let message = format!("can't read {}: {error}", path.display());
    SendError::Failed(StepFailure::new(FailureKind::NotFound, message))
}

/// As text, with two digits after the point.
fn megabytes(bytes: u64) -> String {
    format!("{}.{:02}", bytes / 1_000_000, bytes % 1_000_000 / 10_000)
}

#[cfg(test)]
mod tests {
    use contract::hash::Blake3Hash;

    use super::*;

    #[test]
    fn every_page_fits_into_a_frame() {
        let file = OfferedFile { hash: Blake3Hash::of(b""), size: u64::MAX, kind: FileKind::Program };
        let name = |n: usize| format!("{n:06}{}", "\u{1}".repeat(n % 1000));
        let files: BTreeMap<_, _> = (0..30_000).map(|n| (name(n), file)).collect();
        let (mut all, mut count) = (BTreeMap::new(), 0);
        for page in pages(&files) {
            let frame = wire::message_frame(&ToAgent::Listing { dir: Blake3Hash::of(b"a"), files: page.clone() });
            assert!(frame.len() < wire::MAX_FRAME_BYTES as usize, "{}", frame.len());
            all.extend(page);
            count += 1;
        }
        assert!(count > 50 && all == files);
        assert_eq!(pages(&BTreeMap::new()), [BTreeMap::new()]);
    }

    #[test]
    fn sizes_are_in_megabytes() {
        let shown = [0, 9_999, 10_000, 412_345, 12_100_000].map(megabytes);
        assert_eq!(shown, ["0.00", "0.00", "0.01", "0.41", "12.10"]);
    }
}
