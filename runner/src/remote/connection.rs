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
    sync::{Notify, mpsc, oneshot},
};

use contract::hash::Blake3Hash;
use journal::{OutputChunk, clock};
use sandbox::CallChannel;

use super::foreign_text;
use crate::agent::wire::{
    self, AgentAnswer, BeginSession, BegunSession, CallId, Frame, Hello, Problem, ToAgent, ToCoordinator,
    limits::{Admission, CallQuota, is_output_within_limits},
};

/// How often the agent hears that it is still needed.
const PING_INTERVAL: Duration = Duration::from_secs(2);
/// An agent that says nothing for this long is gone.
const SILENCE: Duration = Duration::from_secs(10);
/// How long a session may take to begin: a former agent may still hold the lock.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a host may take nothing of what is sent to it: a frame with a piece of a file, of 64 KiB.
const SEND_TIMEOUT: Duration = Duration::from_secs(20);
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
    /// Somebody has ended the connection: nothing more is read.
    ended: Notify,
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
    quota: CallQuota,
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
            tokio::select! {
                why = reading.read_all(&mut from) => reading.end(why),
                () = reading.ended.notified() => {}
            }
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
        let open =
            OpenCall { answer: sender, messages: channel.clone(), awaits_confirmation, quota: CallQuota::default() };
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

    /// Sends a frame. A host that takes none for long is lost.
    ///
    /// # Errors
    /// [`ConnectionError::Lost`].
    pub async fn send(&self, frame: Vec<u8>) -> Result<(), ConnectionError> {
        let bytes = frame.len() as u64;
        match self.frames.send_timeout(frame, SEND_TIMEOUT).await {
            Ok(()) => {
                self.sent.fetch_add(bytes, Ordering::Relaxed);
                return Ok(());
            }
            Err(mpsc::error::SendTimeoutError::Closed(_)) => {}
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => {
                self.shared.end(format!("the host has taken no data for {} s", SEND_TIMEOUT.as_secs()));
            }
        }
        Err(self.shared.lost())
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
        self.ended.notify_one();
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
            if let Err(what) = self.receive(message.within_limits()).await {
                return format!("the host sent {what}, which the runner's own agent never does");
            }
        }
    }

    /// Takes a message within limits; an error says what no agent sends.
    async fn receive(&self, message: ToCoordinator) -> Result<(), &'static str> {
        match message {
            ToCoordinator::Pong => Ok(()),
            ToCoordinator::Hello(_) => Err("a second greeting"),
            ToCoordinator::Progress { call, progress } => {
                let admit = |open: &mut OpenCall| (open.quota.admit(&progress), open.messages.clone());
                match self.with_call(call, admit)? {
                    (Admission::Taken, Some(channel)) => channel.send(progress),
                    (Admission::Taken | Admission::Dropped, _) => {}
                    (Admission::TooMuch, _) => return Err("more messages than a step may send"),
                }
                Ok(())
            }
            ToCoordinator::Output { call, at, stream, bytes } => {
                let channel = self.with_call(call, |open| open.messages.clone())?;
                if !is_output_within_limits(&bytes) {
                    return Err("too much output at once");
                }
                let bytes = BASE64_STANDARD.decode(bytes).map_err(|_| "output that is not base64")?;
                if let Some(channel) = channel {
                    channel.send_output(OutputChunk { at, stream, bytes }).await;
                }
                Ok(())
            }
            ToCoordinator::Answer { call, answer } => {
                // A call that the attempt has given up is still answered.
                match self.with(|state| state.calls.remove(&call)) {
                    Ok(Some(open)) => drop(open.answer.send(answer)),
                    Ok(None) => return Err("an answer to no call"),
                    Err(_) => {}
                }
                Ok(())
            }
            ToCoordinator::AwaitsConfirmation { call } => {
                if let Some(told) = self.with_call(call, |open| open.awaits_confirmation.take())? {
                    let _ = told.send(());
                }
                Ok(())
            }
            ToCoordinator::Begun(begun) => self.answer_session(Ok(begun)),
            ToCoordinator::Refused(problem) => self.answer_session(Err(problem)),
        }
    }

    /// Something of a call that is not answered yet.
    fn with_call<T>(&self, call: CallId, read: impl FnOnce(&mut OpenCall) -> T) -> Result<T, &'static str> {
        let found = self.with(|state| state.calls.get_mut(&call).map(read));
        found.ok().flatten().ok_or("a message about no call")
    }

    fn answer_session(&self, answer: Result<BegunSession, Problem>) -> Result<(), &'static str> {
        match self.with(|state| state.session.take()) {
            Ok(Some(sender)) => drop(sender.send(answer)),
            Ok(None) => return Err("a session that nobody began"),
            Err(_) => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use journal::OutputStream;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    use super::*;

    /// How long a call may take here.
    const LIMIT: Duration = Duration::from_millis(100);

    /// A connection with an agent that sends these frames again and again; and its guard, which lives as long.
    async fn connect(endless: Vec<u8>) -> (AgentConnection, mpsc::Receiver<()>, Arc<AtomicU32>) {
        let (from, mut agent): (DuplexStream, DuplexStream) = tokio::io::duplex(64 << 10);
        let (to, mut heard) = tokio::io::duplex(64 << 10);
        let (guard, guarded) = mpsc::channel::<()>(1);
        let count = Arc::new(AtomicU32::new(0));
        let sent = Arc::clone(&count);
        tokio::spawn(async move {
            agent.write_all(&wire::message_frame(&ToCoordinator::Hello(hello()))).await.unwrap();
            // The call has been made.
            let _ = heard.read_u8().await;
            while agent.write_all(&endless).await.is_ok() {
                sent.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        });
        (AgentConnection::open(from, to, guard).await.unwrap(), guarded, count)
    }

    fn hello() -> Hello {
        Hello { build: "1".to_owned(), clock: Timestamp::UNIX_EPOCH }
    }

    async fn call(connection: &AgentConnection, channel: Option<CallChannel>) -> Result<AgentAnswer, ConnectionError> {
        connection.call(channel, LIMIT, |call| ToAgent::Dirs { call, dirs: Vec::new() }).await
    }

    #[tokio::test(flavor = "current_thread")]
    async fn host_that_only_says_that_it_is_there_is_given_up() {
        let (connection, mut guarded, _) = connect(wire::message_frame(&ToCoordinator::Pong)).await;
        let error = call(&connection, None).await.unwrap_err();
        assert!(matches!(&error, ConnectionError::Lost(why) if why.starts_with("the host gave no answer")), "{error}");
        assert_eq!(guarded.recv().await, None, "ssh is ended, although the host goes on");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn endless_output_waits_at_the_host_until_the_call_is_given_up() {
        let bytes = BASE64_STANDARD.encode([b'x'; 1 << 10]);
        let (at, stream) = (Timestamp::UNIX_EPOCH, OutputStream::Stdout);
        let output = wire::message_frame(&ToCoordinator::Output { call: 1, at, stream, bytes });
        let (connection, mut guarded, sent) = connect(output).await;
        // Nobody takes the output.
        let (channel, _messages) = CallChannel::new();
        assert!(call(&connection, Some(channel)).await.is_err());
        assert_eq!(guarded.recv().await, None);
        assert!(sent.load(Ordering::Relaxed) < 200, "{sent:?} frames of a KiB are not all in memory");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_no_agent_sends_ends_the_connection() {
        let output = |bytes: &str| ToCoordinator::Output {
            call: 1,
            at: Timestamp::UNIX_EPOCH,
            stream: OutputStream::Stdout,
            bytes: bytes.to_owned(),
        };
        let answer = |call| ToCoordinator::Answer { call, answer: AgentAnswer::Rehearsed };
        let begun = BegunSession { records: Vec::new(), ended_agent: None, attempts: Vec::new() };
        for (message, what) in [
            (ToCoordinator::Hello(hello()), "a second greeting"),
            (answer(2), "an answer to no call"),
            (output("###"), "output that is not base64"),
            (output(&"eHh4".repeat(1 << 16)), "too much output at once"),
            (ToCoordinator::Begun(begun), "a session that nobody began"),
        ] {
            let (connection, mut guarded, _) = connect(wire::message_frame(&message)).await;
            let error = call(&connection, None).await.unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
            assert_eq!(guarded.recv().await, None);
        }
        // It is asked once, and says the same twice.
        let (connection, _, _) = connect(wire::message_frame(&answer(1))).await;
        assert!(call(&connection, None).await.is_ok());
        let again = call(&connection, None).await.unwrap_err().to_string();
        assert!(again.contains("an answer to no call"), "{again}");
    }
}
