//! What coordinator and agent tell each other.
//!
//! A frame is `u32 length | u8 kind | body`, the length that of the body, in network order: a message as JSON (kind 0), or bytes of the
//! content that is being sent (kind 1). Invariant: a frame is at most [`MAX_FRAME_BYTES`] long; a longer one ends the connection. Secrets of
//! steps are in here, so no message is logged.

mod content;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod limits;
mod releases;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::mpsc::WeakSender,
};

use contract::{
    AppName, AttemptNumber, EnvironmentName, GrantName, RunId, StepId, TargetName,
    hash::{Blake3Hash, InputHash},
    step::{PreviewChange, ProbeFinding, Receipt, StepFailure, StepOutcome, StepProgress},
};
use db::migrate::{LintFinding, LintLevel};
use fetch::archive::DecodedArchive;
use journal::{
    StepTarget,
    event::{Fingerprint, OutputStream, Release},
    file::StepEffect,
};
use plan::PlanStep;

pub use content::{Bitmap, RecipeSizes};
pub use releases::{PruneMode, ReleaseFate, ReleaseFolder, ReleaseRetention};

/// The longest body of a frame, in bytes: more than the largest input, receipt or finding.
pub const MAX_FRAME_BYTES: u32 = 8 << 20;
/// How many bytes of content one frame has. With those that may wait, it is what is in memory for a host.
pub const PIECE_BYTES: usize = 64 << 10;

/// The line that an agent says before its first frame: what comes before it is noise of a login shell.
pub const AGENT_MARK: &str = "PAWL-AGENT";

const MESSAGE: u8 = 0;
const BYTES: u8 = 1;

/// The number of a call on its connection.
pub type CallId = u32;

/// What a coordinator says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub enum ToAgent {
    /// The attempt that the agent works for. Before it, nothing may be changed.
    Begin(BeginSession),
    /// A call of a step.
    Call { call: CallId, step: Box<PlanStep>, shipped: ShippedDirs, export: Export },
    /// What the steps of this host need and lack. With `create`, writable directories are made.
    Check { call: CallId, steps: Vec<CheckedStep>, create: bool },
    /// What becomes of the releases in these directories. Only in a session, they are removed.
    Prune { call: CallId, dirs: BTreeSet<PathBuf>, retention: ReleaseRetention, mode: PruneMode },
    /// Which release the host's own records say that it shows.
    Recall { call: CallId, place: AgentPlace },
    /// The module that has this name in steps is that file. The answer: whether the file is missing.
    Module { call: CallId, name: String, file: OfferedFile },
    /// The directories that a step gets from the coordinator's machine. The answer: those that are not laid out yet.
    Dirs { call: CallId, dirs: Vec<Blake3Hash> },
    /// Some of the files of such a directory, by their paths.
    Listing { dir: Blake3Hash, files: BTreeMap<String, OfferedFile> },
    /// The whole directory is listed. The answer: which of its files are missing, in the order of their paths.
    Offer { call: CallId, dir: Blake3Hash },
    /// The bytes of this file follow, in frames.
    File { file: OfferedFile },
    /// The files of the directory are there: it can be laid out.
    LayOut { call: CallId, dir: Blake3Hash },
    /// What the host has of earlier releases of a step.
    FindSeeds { call: CallId, step: Box<PlanStep> },
    /// The recipe of an archive's tar follows, in frames.
    Recipe { archive: Box<OfferedArchive>, sizes: RecipeSizes },
    /// The recipe is there. The answer: which of its chunks are missing.
    FindChunks { call: CallId },
    /// The missing chunks follow, as one zstd stream, in frames.
    Chunks,
    /// The chunks are there: the archive can be used.
    FinishArchive { call: CallId },
    /// The host can be reached by a new connection: the call with this key and epoch counts, if its agent waits for that.
    Confirm { call: CallId, app: AppName, environment: EnvironmentName, target: TargetName, key: String, epoch: u64 },
    /// The programs of the running call must end.
    Stop,
    /// The agent is still needed.
    Ping,
}

/// What an agent says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub enum ToCoordinator {
    /// The first message.
    Hello(Hello),
    /// Progress of a call.
    Progress { call: CallId, progress: StepProgress },
    /// Output of a program of a call. The bytes are in base64.
    Output { call: CallId, at: Timestamp, stream: OutputStream, bytes: String },
    /// The end of a call.
    Answer { call: CallId, answer: AgentAnswer },
    /// The call succeeded, and is undone unless a new connection confirms it in time.
    AwaitsConfirmation { call: CallId },
    /// The session has begun.
    Begun(BegunSession),
    /// The session can't begin.
    Refused(Problem),
    /// The agent is there.
    Pong,
}

/// The first message of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The digest of its binary and its version: another build is not talked to.
    pub build: String,
    /// Its clock.
    pub clock: Timestamp,
}

/// The attempt that an agent works for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BeginSession {
    pub app: AppName,
    pub environment: EnvironmentName,
    pub target: TargetName,
    pub run: RunId,
    pub attempt: AttemptNumber,
    pub release: Release,
    /// The epoch of the coordinator's attempt. It compares only with epochs of the same lineage.
    pub epoch: u64,
    pub lineage: String,
    /// The operator.
    pub by: String,
    /// The secrets of the steps of this host, by name, for its redactor.
    pub secrets: BTreeMap<String, String>,
}

/// A session that has begun on a host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BegunSession {
    /// What the host knows of earlier steps.
    pub records: Vec<HostRecord>,
    /// The agent of an earlier attempt that still worked, and was made to end.
    pub ended_agent: Option<EndedAgent>,
    /// The last attempts whose calls would be in these records, if they had arrived.
    pub attempts: Vec<(RunId, AttemptNumber)>,
}

/// An agent that another one made to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndedAgent {
    /// Its process on the host.
    pub pid: u32,
    /// The epoch of its coordinator's attempt.
    pub epoch: u64,
    /// Whether it had to be killed.
    pub was_killed: bool,
}

/// A call of a step's module.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "export", rename_all = "kebab-case")]
pub enum Export {
    InputHashes {
        config: Value,
    },
    Preview {
        input: Value,
    },
    Rehearse {
        input: Value,
    },
    Probe {
        input: Value,
    },
    /// Not the module's own: the runner lints the migrations that the step would apply.
    LintMigrations,
    Apply {
        step_target: StepTarget,
        key: String,
        fingerprint: Fingerprint,
        input: Value,
        effect: StepEffect,
    },
    Revert {
        step_target: StepTarget,
        input: Value,
        receipt: Receipt,
    },
}

/// The end of a call.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum AgentAnswer {
    InputHashes {
        hashes: BTreeMap<String, InputHash>,
    },
    /// The inputs can't be read.
    InputUnreadable {
        message: String,
        hint: String,
    },
    Preview {
        changes: Vec<PreviewChange>,
    },
    Rehearsed,
    Finding {
        finding: ProbeFinding,
    },
    Linted {
        findings: Vec<LintFinding>,
        level: LintLevel,
    },
    Outcome {
        outcome: StepOutcome,
    },
    Reverted {
        failure: Option<StepFailure>,
    },
    /// The call succeeded, nobody confirmed it in time, and the agent undid it, or failed to.
    NotConfirmed {
        failure: Option<StepFailure>,
    },
    /// Whether what was to be confirmed is confirmed.
    Confirmation {
        confirmed: bool,
    },
    /// The call failed before the module was called.
    Failed {
        failure: StepFailure,
    },
    Checked {
        problems: Vec<(StepId, Problem)>,
    },
    /// The releases that were looked at or removed.
    Releases {
        folders: Vec<ReleaseFolder>,
    },
    /// The release that the host shows by its own records; none: nothing, or it has no records.
    Recalled {
        live: Option<Release>,
    },
    /// Which of the named directories, files or chunks the host lacks.
    Missing {
        which: Bitmap,
    },
    /// How much content of earlier releases the host has, in bytes.
    Seeds {
        bytes: u64,
    },
    /// It is stored, unless it could not be rebuilt.
    Stored {
        is_stored: bool,
    },
    /// The agent can't do it.
    Refused {
        problem: Problem,
    },
}

/// Whose records an agent keeps: those of a target of an environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentPlace {
    pub app: AppName,
    pub environment: EnvironmentName,
    pub target: TargetName,
}

/// A step whose needs are checked.
#[derive(Debug, Serialize, Deserialize)]
pub struct CheckedStep {
    pub step: PlanStep,
    pub upstream: Vec<StepId>,
    pub shipped: ShippedDirs,
}

/// The directories of a step that come from the coordinator's machine, each by the hash of its list of files ([`dir_id`]).
pub type ShippedDirs = BTreeMap<GrantName, Blake3Hash>;

/// A file on the coordinator's machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OfferedFile {
    pub hash: Blake3Hash,
    pub size: u64,
    pub kind: FileKind,
}

/// What a file is for the steps of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileKind {
    Plain,
    Program,
    /// An archive that is only unpacked, so its tar may stand for it.
    Archive,
}

/// An archive that a host may rebuild the tar of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferedArchive {
    /// The hash of the archive.
    pub hash: Blake3Hash,
    /// Its tar.
    pub tar: Blake3Hash,
    pub tar_bytes: u64,
    /// What it was; none if it is a tar itself.
    pub decoded: Option<DecodedArchive>,
}

/// The hash of a directory's list of files, by which it is laid out.
#[must_use]
pub fn dir_id(files: &BTreeMap<String, OfferedFile>) -> Blake3Hash {
    let line = |(path, file): (&String, &OfferedFile)| format!("{:?} {:?} {path}\n", file.hash, file.kind);
    Blake3Hash::of(files.iter().map(line).collect::<String>().as_bytes())
}

/// What the host knows of a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostRecord {
    pub step_target: StepTarget,
    /// The idempotency key of its last intent.
    pub key: String,
    /// The epoch of the coordinator's attempt that it was for.
    pub epoch: Option<u64>,
    /// How it ended; none if that is unknown, or if it was undone.
    pub outcome: Option<StepOutcome>,
    /// Whether it was undone.
    pub undone: bool,
}

/// An error of the agent, for a [`Diagnostic`](contract::diagnostic::Diagnostic) of the coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The code, such as `P0233`.
    pub code: String,
    pub message: String,
    pub causes: Vec<String>,
    pub hint: Option<String>,
}

/// A frame.
#[derive(Debug)]
pub enum Frame<T> {
    Message(T),
    Bytes(Vec<u8>),
}

/// Reads a frame; none at the end of the stream between two frames.
///
/// # Errors
/// A stream that ends within a frame, a frame that is too long, or one that is no message.
pub async fn read_frame<T: DeserializeOwned>(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Frame<T>>> {
    read_frame_with(from, |body| serde_json::from_slice(body)).await
}

/// The same, with a function that reads a message.
///
/// # Errors
/// As for [`read_frame`].
pub async fn read_frame_with<T>(
    from: &mut (impl AsyncRead + Unpin),
    read_message: impl FnOnce(&[u8]) -> serde_json::Result<T>,
) -> io::Result<Option<Frame<T>>> {
    let length = match from.read_u32().await {
        Ok(length) if length <= MAX_FRAME_BYTES => length,
        Ok(length) => return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {length} bytes"))),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let kind = from.read_u8().await?;
    let mut body = vec![0; length as usize];
    from.read_exact(&mut body).await?;
    match kind {
        // The error would show what the message says, which may be a secret.
        MESSAGE => match read_message(&body) {
            Ok(message) => Ok(Some(Frame::Message(message))),
            Err(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is not a message of this build")),
        },
        BYTES => Ok(Some(Frame::Bytes(body))),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of unknown kind {kind}"))),
    }
}

/// The frame of a message.
#[must_use]
pub fn message_frame(message: &impl Serialize) -> Vec<u8> {
    frame(MESSAGE, &serde_json::to_vec(message).expect("a message has only text keys and finite numbers"))
}

/// A frame with bytes of content.
#[must_use]
pub fn bytes_frame(bytes: &[u8]) -> Vec<u8> {
    frame(BYTES, bytes)
}

fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], &[kind], body].concat()
}

/// Writes frames until there are no more.
///
/// # Errors
/// The stream is closed.
pub async fn write_frames(
    mut frames: tokio::sync::mpsc::Receiver<Vec<u8>>,
    mut to: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    while let Some(frame) = frames.recv().await {
        to.write_all(&frame).await?;
        if frames.is_empty() {
            to.flush().await?;
        }
    }
    to.shutdown().await
}

/// Says the same again and again, until the connection has ended.
pub async fn keep_saying(frames: WeakSender<Vec<u8>>, interval: Duration, message: impl Serialize) {
    let frame = message_frame(&message);
    loop {
        tokio::time::sleep(interval).await;
        let Some(frames) = frames.upgrade() else { break };
        if frames.send(frame.clone()).await.is_err() {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: &[u8]) -> io::Result<Option<Frame<ToAgent>>> {
        read_frame(&mut &*bytes).await
    }

    #[tokio::test(flavor = "current_thread")]
    async fn frames_are_read_back_and_anything_else_ends_the_connection() {
        let frame = message_frame(&ToAgent::Ping);
        assert!(matches!(read(&frame).await, Ok(Some(Frame::Message(ToAgent::Ping)))));
        assert!(matches!(read(&bytes_frame(b"abc")).await, Ok(Some(Frame::Bytes(bytes))) if bytes == b"abc"));
        assert!(matches!(read(b"").await, Ok(None)));
        for bad in [&frame[..frame.len() - 1], b"\0\0\0\x01\x07x", b"\xff\xff\xff\xff\0", b"\0\0\0\x02\0{}"] {
            assert!(read(bad).await.is_err(), "{bad:?}");
        }
    }
}
