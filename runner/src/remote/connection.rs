//! The connection with the agent of one host.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{mpsc, oneshot},
};

use contract::hash::Blake3Hash;
use journal::{OutputChunk, clock};
use sandbox::CallChannel;

use super::foreign_text;
use crate::agent::wire::{
    self, AgentAnswer, BeginSession, BegunSession, CallId, Frame, Hello, Problem, ToAgent, ToCoordinator,
};

/// How often the agent hears that it is still needed.
const PING_INTERVAL: Duration = Duration::from_secs(2);
/// An agent that says nothing for this long is gone.
const SILENCE: Duration = Duration::from_secs(10);
/// How long a session may take to begin: a former agent may still hold the lock.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(60);
/// How many frames may wait to be written.
const WAITING_FRAMES: usize = 8;

/// Why a call got no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionError {
    /// The connection has ended: what the agent did since is not known.
    #[error("the connection ended: {0}")]
    Lost(String),
    /// The agent refuses to work.
    #[error("{}", .0.message)]
    Refused(Problem),
}

/// A connection with an agent that has said hello.
pub struct AgentConnection {
    pub hello: Hello,
    /// How far its clock was ahead of this machine's when it said that, in seconds.
    pub clock_difference: i64,
    frames: mpsc::Sender<Vec<u8>>,
    shared: Arc<Shared>,
    next_call: AtomicU32,
    /// How many bytes were sent.
    sent: AtomicU64,
    /// The directories of this machine that are laid out there.
    laid_out: Mutex<BTreeSet<Blake3Hash>>,
    /// The names of third-party modules that the agent knows.
    modules: Mutex<BTreeSet<String>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<ConnectionState>,
}

#[derive(Default)]
struct ConnectionState {
    /// The calls without an answer.
    calls: BTreeMap<CallId, OpenCall>,
    session: Option<oneshot::Sender<Result<BegunSession, Problem>>>,
    /// Why the connection has ended.
    ended: Option<String>,
}

struct OpenCall {
    answer: oneshot::Sender<AgentAnswer>,
    messages: Option<CallChannel>,
    /// Told once when the call has succeeded and awaits its confirmation.
    awaits_confirmation: Option<oneshot::Sender<()>>,
}

impl AgentConnection {
    /// A connection over two streams, of which nothing but frames is left. Needs a tokio runtime. `guard` lives as long as the
    /// connection.
    ///
    /// # Errors
    /// The agent's first message is not a greeting.
    pub async fn open<G: Send + 'static>(
        mut from: impl AsyncRead + Unpin + Send + 'static,
        to: impl AsyncWrite + Unpin + Send + 'static,
        guard: G,
    ) -> Result<Self, ConnectionError> {
        let hello = match tokio::time::timeout(SILENCE, foreign_text::read_plain_frame(&mut from)).await {
            Ok(Ok(Some(Frame::Message(ToCoordinator::Hello(hello))))) => hello,
            Ok(Ok(_)) => return Err(ConnectionError::Lost("the agent's first message was not a greeting".to_owned())),
            Ok(Err(error)) => return Err(ConnectionError::Lost(error.to_string())),
            Err(_) => return Err(ConnectionError::Lost("the agent did not answer".to_owned())),
        };
        let clock_difference = hello.clock.as_second() - clock::now().as_second();
        let (frames, waiting) = mpsc::channel(WAITING_FRAMES);
        let shared = Arc::new(Shared::default());
        tokio::spawn(wire::write_frames(waiting, to));
        tokio::spawn(wire::keep_saying(frames.downgrade(), PING_INTERVAL, ToAgent::Ping));
        let reading = Arc::clone(&shared);
        tokio::spawn(async move {
            let why = reading.read_all(&mut from).await;
            reading.end(why);
            drop(guard);
        });
        let (next_call, sent) = (AtomicU32::new(1), AtomicU64::default());
        let (laid_out, modules) = (Mutex::default(), Mutex::default());
        Ok(Self { hello, clock_difference, frames, shared, next_call, sent, laid_out, modules })
    }

    /// Begins the session of an attempt.
    ///
    /// # Errors
    /// [`ConnectionError`].
    pub async fn begin(&self, begin: BeginSession) -> Result<BegunSession, ConnectionError> {
        let (sender, answer) = oneshot::channel();
        self.shared.with(|state| state.session = Some(sender))?;
        self.send(wire::message_frame(&ToAgent::Begin(begin))).await?;
        match tokio::time::timeout(BEGIN_TIMEOUT, answer).await {
            Ok(Ok(begun)) => begun.map_err(ConnectionError::Refused),
            Ok(Err(_)) => Err(self.shared.lost()),
            Err(_) => Err(ConnectionError::Lost("the host did not start the session".to_owned())),
        }
    }

    /// Makes a call that must be answered within `limit`; its messages go to `channel`, and its programs end when that asks for it.
    ///
    /// # Errors
    /// [`ConnectionError::Lost`]: the call may have happened.
    pub async fn call(
        &self,
        channel: Option<CallChannel>,
        limit: Duration,
        request: impl FnOnce(CallId) -> ToAgent,
    ) -> Result<AgentAnswer, ConnectionError> {
        self.call_to_confirm(channel, limit, None, request).await
    }

    /// The same for a call that may have to be confirmed; `awaits_confirmation` is told when that is so.
    ///
    /// # Errors
    /// As for [`call`](Self::call).
    pub async fn call_to_confirm(
        &self,
        channel: Option<CallChannel>,
        limit: Duration,
        awaits_confirmation: Option<oneshot::Sender<()>>,
        request: impl FnOnce(CallId) -> ToAgent,
    ) -> Result<AgentAnswer, ConnectionError> {
        let call = self.next_call.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        let open = OpenCall { answer: sender, messages: channel.clone(), awaits_confirmation };
        self.shared.with(|state| state.calls.insert(call, open))?;
        self.send(wire::message_frame(&request(call))).await?;
        let stop = async {
            match &channel {
                Some(channel) => channel.stop_requested().await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(answer, stop);
        let answered = async {
            tokio::select! {
                answer = &mut answer => Ok(answer),
                () = &mut stop => {
                    self.send(wire::message_frame(&ToAgent::Stop)).await?;
                    Ok(answer.await)
                }
            }
        };
        match tokio::time::timeout(limit, answered).await {
            Ok(answer) => answer?.map_err(|_| self.shared.lost()),
            Err(_) => {
                self.shared.end(format!("the host gave no answer for {} s", limit.as_secs()));
                Err(self.shared.lost())
            }
        }
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// [`ConnectionError::Lost`].
    pub async fn send(&self, frame: Vec<u8>) -> Result<(), ConnectionError> {
        self.sent.fetch_add(frame.len() as u64, Ordering::Relaxed);
        self.frames.send(frame).await.map_err(|_| self.shared.lost())
    }

    /// How many bytes were sent, without those of ssh.
    pub(super) fn sent_bytes(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// The directories of this machine that are laid out there.
    pub(super) fn laid_out(&self) -> MutexGuard<'_, BTreeSet<Blake3Hash>> {
        self.laid_out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The names of third-party modules that the agent knows.
    pub(super) fn modules(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.modules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the connection has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.shared.with(|_| ()).is_err()
    }
}

impl Shared {
    fn with<T>(&self, change: impl FnOnce(&mut ConnectionState) -> T) -> Result<T, ConnectionError> {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match &state.ended {
            Some(why) => Err(ConnectionError::Lost(why.clone())),
            None => Ok(change(&mut state)),
        }
    }

    fn lost(&self) -> ConnectionError {
        match self.with(|_| ()) {
            Err(error) => error,
            Ok(()) => ConnectionError::Lost("the agent closed the connection".to_owned()),
        }
    }

    /// Ends the connection: every call fails.
    fn end(&self, why: String) {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *state = ConnectionState { ended: Some(why), ..ConnectionState::default() };
    }

    /// Reads until the end, and returns why it ended.
    async fn read_all(&self, from: &mut (impl AsyncRead + Unpin)) -> String {
        loop {
            let message = match tokio::time::timeout(SILENCE, foreign_text::read_plain_frame(from)).await {
                Err(_) => return format!("the host has said nothing for {} s", SILENCE.as_secs()),
                Ok(Err(error)) => return error.to_string(),
                Ok(Ok(None)) => return "the host closed the connection".to_owned(),
                Ok(Ok(Some(Frame::Bytes(_)))) => return "the host sent something that is not a message".to_owned(),
                Ok(Ok(Some(Frame::Message(message)))) => message,
            };
            self.receive(message).await;
        }
    }

    async fn receive(&self, message: ToCoordinator) {
        match message {
            ToCoordinator::Hello(_) | ToCoordinator::Pong => {}
            ToCoordinator::Progress { call, progress } => {
                if let Some(channel) = self.channel(call) {
                    channel.send(progress);
                }
            }
            ToCoordinator::Output { call, at, stream, bytes } => {
                if let (Some(channel), Ok(bytes)) = (self.channel(call), BASE64_STANDARD.decode(bytes)) {
                    channel.send_output(OutputChunk { at, stream, bytes }).await;
                }
            }
            ToCoordinator::Answer { call, answer } => {
                let open = self.with(|state| state.calls.remove(&call));
                if let Ok(Some(open)) = open {
                    let _ = open.answer.send(answer);
                }
            }
            ToCoordinator::AwaitsConfirmation { call } => {
                let told =
                    self.with(|state| state.calls.get_mut(&call).and_then(|open| open.awaits_confirmation.take()));
                if let Ok(Some(told)) = told {
                    let _ = told.send(());
                }
            }
            ToCoordinator::Begun(begun) => self.answer_session(Ok(begun)),
            ToCoordinator::Refused(problem) => self.answer_session(Err(problem)),
        }
    }

    fn channel(&self, call: CallId) -> Option<CallChannel> {
        self.with(|state| state.calls.get(&call).and_then(|open| open.messages.clone())).ok().flatten()
    }

    fn answer_session(&self, answer: Result<BegunSession, Problem>) {
        if let Ok(Some(sender)) = self.with(|state| state.session.take()) {
            let _ = sender.send(answer);
        }
    }
}
