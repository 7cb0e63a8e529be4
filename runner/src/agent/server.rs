//! The agent's loop: one call at a time, with its messages, until the connection ends.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};

use contract::{
    StepId,
    diagnostic::{Diagnostic, ErrorCode, ExitKind},
    step::{FailureKind, StepFailure, StepOutcome},
};
use journal::{
    JournalError, RecordStatus, StepTarget, UndoCompletion, UndoIntent, clock, event::Fingerprint, file::StepEffect,
};
use plan::{Confirmation, PlanStep};
use sandbox::{
    CallChannel, CallMessage, LoadedModule, ModuleDescription, ModuleRuntime, NoticeHandler, UserPaths,
    module_display_name,
};

use super::{
    cleanup,
    confirmation::{AwaitingConfirmation, Confirmable},
    files::FileStore,
    own_build::own_build,
    session::{self, Session, begun_session, problem},
    store::ContentStore,
    wire::{
        self, AgentAnswer, BegunSession, CallId, CheckedStep, Export, Frame, Hello, Problem, PruneMode,
        ReleaseRetention, ToAgent, ToCoordinator,
    },
};
use crate::deploy::{self, Interrupt, examine_releases, host_problems, release_dir};

/// A coordinator that says nothing for this long is gone.
const SILENCE: Duration = Duration::from_secs(10);
/// How long the last frames may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the agent says that it is there.
const PONG_INTERVAL: Duration = Duration::from_secs(3);
/// How long a call may go on as if nothing were once the connection has ended; then its programs get SIGTERM, and SIGKILL after 4 s.
const GRACE_PERIOD: Duration = Duration::from_secs(5);
/// When the agent ends, counted from the end of the connection, whatever the call does.
const LAST_MOMENT: Duration = Duration::from_millis(9_500);
/// How many frames may wait to be written. A call that says more waits.
const WAITING_FRAMES: usize = 64;

/// Where an agent keeps things.
pub struct AgentFolders {
    pub paths: UserPaths,
    /// The runner's folder in the user's state.
    pub state: PathBuf,
    /// The runner's folder in the user's cache.
    pub cache: PathBuf,
}

struct Agent {
    runtime: ModuleRuntime,
    modules: BTreeMap<String, (LoadedModule, ModuleDescription)>,
    files: FileStore,
    folders: AgentFolders,
    session: Option<Session>,
    frames: mpsc::Sender<Vec<u8>>,
    requests: mpsc::Receiver<Frame<ToAgent>>,
    /// A newer agent needs the host.
    interrupt: Interrupt,
}

/// Serves a coordinator over standard input and output, until it is gone or a newer one comes.
pub async fn serve(folders: AgentFolders) -> ExitKind {
    // What the end of the session on the host sends is not for the agent: it still has something to end. sshd has made it the leader
    // of a session already.
    let _ = rustix::process::setsid();
    let (Ok(interrupt), Ok(_hangup)) = (Interrupt::listen(), signal(SignalKind::hangup())) else {
        return ExitKind::Bug;
    };
    let (frames, waiting) = mpsc::channel(WAITING_FRAMES);
    let (received, requests) = mpsc::channel(1);
    let writing = tokio::spawn(wire::write_frames(waiting, tokio::io::stdout()));
    tokio::spawn(async move {
        let mut from = tokio::io::BufReader::new(tokio::io::stdin());
        // Silence, a bad frame and the end are one: nobody is there.
        while let Ok(Ok(Some(frame))) = tokio::time::timeout(SILENCE, wire::read_frame(&mut from)).await {
            if received.send(frame).await.is_err() {
                break;
            }
        }
    });
    // Also while it waits for the lock, or for what a check runs.
    tokio::spawn(wire::keep_saying(frames.downgrade(), PONG_INTERVAL, ToCoordinator::Pong));
    let notify: NoticeHandler = Arc::new(|_| {});
    let Ok(runtime) = ModuleRuntime::new(folders.paths.clone(), notify) else { return ExitKind::Bug };
    let files = FileStore::new(folders.cache.join("shipped"));
    let (modules, session) = (BTreeMap::new(), None);
    let mut agent = Agent { runtime, modules, files, folders, session, frames, requests, interrupt: interrupt.clone() };
    cleanup::mark_agent_as_used();
    let _ = agent.frames.send(format!("\n{}\n", wire::AGENT_MARK).into_bytes()).await;
    agent.say(&ToCoordinator::Hello(Hello { build: own_build(), clock: clock::now() })).await;
    loop {
        tokio::select! {
            biased;
            _ = interrupt.requested() => break,
            frame = agent.requests.recv() => match frame {
                Some(frame) => agent.handle(frame).await,
                None => break,
            },
        }
    }
    let session = agent.session.take();
    let had_session = session.is_some();
    if let Some(session) = session {
        session.end().await;
    }
    let files = agent.end();
    // What a dead connection does not take is dropped.
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, writing).await;
    if had_session {
        files.clean_up();
    }
    ExitKind::Success
}

impl Agent {
    /// Closes the connection.
    fn end(self) -> FileStore {
        self.files
    }

    async fn say(&self, message: &ToCoordinator) {
        // When the connection has ended, nobody hears it; the journal has what counts.
        let _ = self.frames.send_timeout(wire::message_frame(message), SILENCE).await;
    }

    async fn handle(&mut self, frame: Frame<ToAgent>) {
        match frame {
            Frame::Bytes(bytes) => {
                self.files.receive(&bytes);
            }
            Frame::Message(ToAgent::Ping | ToAgent::Stop) => {}
            Frame::Message(ToAgent::Begin(begin)) => {
                if let Some(former) = self.session.take() {
                    former.end().await;
                }
                let answer = match Session::begin(&self.folders.state, &begin).await {
                    Ok((session, ended_agent)) => {
                        let begun = BegunSession { ended_agent, ..begun_session(session.journal.state()) };
                        self.session = Some(session);
                        ToCoordinator::Begun(begun)
                    }
                    Err(problem) => ToCoordinator::Refused(problem),
                };
                self.say(&answer).await;
            }
            Frame::Message(ToAgent::Confirm { call, app, environment, target, key, epoch }) => {
                let place = (&target, &app, &environment);
                let confirmed = session::confirm(&self.folders.state, place, &key, epoch).await;
                self.say(&ToCoordinator::Answer { call, answer: AgentAnswer::Confirmation { confirmed } }).await;
            }
            Frame::Message(ToAgent::Recall { call, place }) => {
                let answer = match session::live_release(&self.folders.state, &place) {
                    Ok(live) => AgentAnswer::Recalled { live },
                    Err(problem) => AgentAnswer::Refused { problem },
                };
                self.say(&ToCoordinator::Answer { call, answer }).await;
            }
            Frame::Message(ToAgent::Check { call, steps, create }) => {
                let answer = self.check(steps, create).await;
                self.say(&ToCoordinator::Answer { call, answer }).await;
            }
            Frame::Message(ToAgent::Prune { call, dirs, retention, mode }) => {
                let answer = self.prune(dirs, retention, mode).await;
                self.say(&ToCoordinator::Answer { call, answer }).await;
            }
            Frame::Message(ToAgent::Call { call, mut step, shipped, export }) => {
                let answer = match self.files.use_dirs(&mut step, &shipped, &self.runtime.decoded_archives) {
                    Ok(()) => self.call(call, &step, export).await,
                    Err(error) => AgentAnswer::Failed { failure: store_failure(&error, self.files.store()) },
                };
                self.say(&ToCoordinator::Answer { call, answer }).await;
            }
            Frame::Message(ToAgent::FindSeeds { call, step }) => {
                let bytes = self.find_seeds(&step).await;
                self.say(&ToCoordinator::Answer { call, answer: AgentAnswer::Seeds { bytes } }).await;
            }
            Frame::Message(message) => {
                if let Some((call, answer)) = self.files.take(message).await {
                    self.say(&ToCoordinator::Answer { call, answer }).await;
                }
            }
        }
    }

    /// Looks for content in the directory that a step installs releases into. Returns its size in bytes.
    async fn find_seeds(&mut self, step: &PlanStep) -> u64 {
        if self.load(step).await.is_err() {
            return 0;
        }
        let (_, description) = &self.modules[&module_display_name(&step.uses)];
        match release_dir(step, description) {
            Some(dir) => self.files.find_seeds(dir.to_owned()).await,
            None => 0,
        }
    }

    async fn check(&mut self, steps: Vec<CheckedStep>, create: bool) -> AgentAnswer {
        let mut described = Vec::new();
        let mut problems: Vec<(StepId, Problem)> = Vec::new();
        for CheckedStep { mut step, upstream, shipped } in steps {
            if let Err(error) = self.files.use_dirs(&mut step, &shipped, &self.runtime.decoded_archives) {
                problems.push((step.id.clone(), store_problem(&error, self.files.store())));
                continue;
            }
            match self.load(&step).await {
                Ok(()) => {
                    let (_, description) = &self.modules[&module_display_name(&step.uses)];
                    described.push((step, upstream, description.clone()));
                }
                Err(failure) => {
                    let diagnostic = Diagnostic::new(ErrorCode::UnknownModule, failure.message);
                    problems.push((step.id.clone(), problem(&diagnostic)));
                }
            }
        }
        if let (Some((step, ..)), Err(problem)) = (described.first(), session::check_folder(&self.folders.state)) {
            problems.push((step.id.clone(), problem));
        }
        let found = host_problems(described, create).await;
        problems.extend(found.into_iter().map(|(step, diagnostic)| (step, problem(&diagnostic))));
        AgentAnswer::Checked { problems }
    }

    /// Looks at the releases in some directories, or removes the old ones.
    async fn prune(&self, dirs: BTreeSet<PathBuf>, retention: ReleaseRetention, mode: PruneMode) -> AgentAnswer {
        let refused = |problem: Problem| AgentAnswer::Refused { problem };
        let failed = |error: &dyn std::fmt::Display| {
            refused(problem(&Diagnostic::new(ErrorCode::PruneFailed, error.to_string())))
        };
        if mode == PruneMode::Remove {
            match self.session.as_ref().map(Session::check_lock) {
                Some(Ok(())) => {}
                Some(Err(problem)) => return refused(problem),
                None => return failed(&"the session has not begun"),
            }
        }
        // Much content takes long, in which the agent must not seem dead.
        let pruned = tokio::task::spawn_blocking(move || match mode {
            PruneMode::Examine => examine_releases(&dirs, &retention),
            PruneMode::Remove => deploy::prune(&dirs, &retention),
        });
        match pruned.await {
            Ok(Ok(folders)) => AgentAnswer::Releases { folders },
            Ok(Err(error)) => failed(&error),
            Err(error) => failed(&error),
        }
    }

    /// Loads the module of a step, once.
    async fn load(&mut self, step: &PlanStep) -> Result<(), StepFailure> {
        let name = module_display_name(&step.uses);
        if self.modules.contains_key(&name) {
            return Ok(());
        }
        let failed = |what: String| StepFailure::new(FailureKind::NotBegun, what);
        let unusable = |error| failed(format!("can't use module {name}: {error}"));
        let uses = self.files.module(&step.uses).map_err(unusable)?;
        let module = self.runtime.load(&uses).await.map_err(|error| failed(error.to_string()))?;
        let description = self.runtime.describe(&module, step).await.map_err(|error| failed(error.to_string()))?;
        self.modules.insert(name, (module, description));
        Ok(())
    }

    /// Makes a call; sends its messages meanwhile, and ends its programs when the coordinator says so or is gone.
    async fn call(&mut self, call: CallId, step: &PlanStep, export: Export) -> AgentAnswer {
        if let Err(failure) = self.load(step).await {
            return AgentAnswer::Failed { failure };
        }
        let Self { runtime, modules, session, frames, requests, interrupt, .. } = self;
        let (module, description) = &modules[&module_display_name(&step.uses)];
        let (channel, mut messages) = CallChannel::new();
        let (stop, stopped) = watch::channel(None);
        let records = session.as_ref().map(Session::program_records);
        let mut channel = channel.with_stop(stopped);
        if let Some(records) = records {
            channel = channel.with_program_records(records.into());
        }
        let acts = matches!(export, Export::Apply { .. });
        let awaiting = AwaitingConfirmation { call, frames, interrupt, has_begun: &Cell::new(false) };
        let work = run_export(runtime, (module, description), step, session.as_mut(), export, channel, &awaiting);
        tokio::pin!(work);
        let mut ended_at: Option<tokio::time::Instant> = None;
        let at =
            |ended_at: Option<tokio::time::Instant>, later| ended_at.unwrap_or_else(tokio::time::Instant::now) + later;
        let answer = loop {
            tokio::select! {
                biased;
                answer = &mut work => break answer,
                Some(message) = messages.recv(), if frames.capacity() > 0 => {
                    let _ = frames.try_send(wire::message_frame(&call_message(call, message)));
                }
                // Waits for room, without keeping the other branches waiting.
                _ = frames.reserve(), if frames.capacity() == 0 => {}
                request = requests.recv(), if ended_at.is_none() => match request {
                    Some(Frame::Message(ToAgent::Stop)) => {
                        stop.send_replace(Some(tokio::time::Instant::now()));
                    }
                    // A coordinator makes one call at a time.
                    Some(_) => {}
                    None => ended_at = Some(tokio::time::Instant::now()),
                },
                requested_at = interrupt.requested(), if ended_at.is_none() => ended_at = Some(requested_at),
                () = tokio::time::sleep_until(at(ended_at, GRACE_PERIOD)), if ended_at.is_some() && stop.borrow().is_none() => {
                    stop.send_replace(Some(tokio::time::Instant::now()));
                }
                () = tokio::time::sleep_until(at(ended_at, LAST_MOMENT)), if ended_at.is_some() && !awaiting.has_begun.get() => {
                    // Waiting for a confirmation, and undoing without one, takes its time.
                    if awaiting.has_begun.get() {
                        continue;
                    }
                    // The intent stays without an outcome: the next attempt asks the step's probe.
                    let failure = StepFailure::new(FailureKind::TimeOut, "the connection ended");
                    break match acts {
                        true => AgentAnswer::Outcome { outcome: StepOutcome::Unknown { failure } },
                        false => AgentAnswer::Failed { failure },
                    };
                }
            }
        };
        while let Ok(message) = messages.try_recv() {
            let sent = frames.send_timeout(wire::message_frame(&call_message(call, message)), SILENCE).await;
            if sent.is_err() {
                break;
            }
        }
        answer
    }
}

/// Runs one export of a module. `apply` and `revert` need a session.
async fn run_export(
    runtime: &ModuleRuntime,
    (module, description): (&LoadedModule, &ModuleDescription),
    step: &PlanStep,
    session: Option<&mut Session>,
    export: Export,
    channel: CallChannel,
    awaiting: &AwaitingConfirmation<'_>,
) -> AgentAnswer {
    match export {
        Export::InputHashes { config } => match runtime.input_hashes(step, description, &config) {
            Ok(hashes) => AgentAnswer::InputHashes { hashes },
            Err(error) => AgentAnswer::InputUnreadable { message: error.to_string(), hint: error.hint() },
        },
        Export::Preview { input } => match runtime.preview(module, step, &input, channel).await {
            Ok(changes) => AgentAnswer::Preview { changes },
            Err(failure) => AgentAnswer::Failed { failure },
        },
        Export::Rehearse { input } => match runtime.rehearse(module, step, &input, channel).await {
            Ok(()) => AgentAnswer::Rehearsed,
            Err(failure) => AgentAnswer::Failed { failure },
        },
        Export::Probe { input } => AgentAnswer::Finding { finding: runtime.probe(module, step, &input, channel).await },
        Export::LintMigrations => {
            let Some(migrates) = &description.behaviors.migrates else { return not_begun("the step migrates nothing") };
            match runtime.lint_migrations(step, migrates).await {
                Ok((findings, level)) => AgentAnswer::Linted { findings, level },
                Err(failure) => AgentAnswer::Failed { failure },
            }
        }
        Export::Apply { step_target, key, fingerprint, input, effect } => {
            let Some(session) = session else { return not_begun("the session has not begun") };
            if let Err(problem) = session.check_lock() {
                return not_begun(&problem.message);
            }
            let prepare = |confirm: &Confirmation| {
                let epoch = input["epoch"].as_u64().unwrap_or_default();
                Ok::<_, io::Error>((Confirmable::prepare(session.folder(), &key, epoch)?, confirm.within))
            };
            let confirmable = match step.confirm.as_ref().map(prepare).transpose() {
                Ok(confirmable) => confirmable,
                Err(error) => return not_begun(&error.to_string()),
            };
            let intent = session.journal.record_intent(&step_target, &key, fingerprint, input.clone(), effect);
            let intent = match intent {
                Ok(intent) => intent,
                Err(error) => return not_begun(&error.to_string()),
            };
            let completion = runtime.apply(module, step, intent, channel).await;
            if let (Some((confirmable, within)), StepOutcome::Succeeded { receipt }) =
                (confirmable, completion.outcome())
                && !awaiting.is_confirmed(&confirmable, within).await
            {
                let revert = async |intent| {
                    runtime.revert(module, step, intent, &input, receipt, CallChannel::unobserved()).await
                };
                let undone = undo(session, &step_target, revert).await;
                return AgentAnswer::NotConfirmed {
                    failure: undone.unwrap_or_else(|error| Some(journal_failure(&error))),
                };
            }
            match session.journal.record_outcome(completion) {
                Ok(outcome) => AgentAnswer::Outcome { outcome },
                Err(error) => {
                    AgentAnswer::Outcome { outcome: StepOutcome::Unknown { failure: journal_failure(&error) } }
                }
            }
        }
        Export::Revert { step_target, input, receipt } => {
            let Some(session) = session else { return not_begun("the session has not begun") };
            if let Err(problem) = session.check_lock() {
                return not_begun(&problem.message);
            }
            match session.journal.state().status(&step_target) {
                // An answer was lost: it is undone.
                Some(RecordStatus::Reverted) => return AgentAnswer::Reverted { failure: None },
                // The effect was made before this host had a record of it.
                None => {
                    let (key, effect) = (input["key"].as_str().unwrap_or_default(), StepEffect::Mutating);
                    let begun = session.journal.record_adoption_intent(
                        &step_target,
                        key,
                        Fingerprint::default(),
                        input.clone(),
                        effect,
                    );
                    if let Err(error) = begun {
                        return not_begun(&error.to_string());
                    }
                }
                Some(_) => {}
            }
            let intent = match session.journal.record_undo_intent(&step_target) {
                Ok(intent) => intent,
                Err(error) => return not_begun(&error.to_string()),
            };
            let completion = runtime.revert(module, step, intent, &input, &receipt, channel).await;
            let failure = completion.failure().cloned();
            match session.journal.record_undo_outcome(completion) {
                Ok(()) => AgentAnswer::Reverted { failure },
                Err(error) => AgentAnswer::Reverted { failure: Some(journal_failure(&error)) },
            }
        }
    }
}

/// Undoes a step of which only the intent is on record. Returns the failure of undoing it.
///
/// # Errors
/// It is not recorded.
async fn undo(
    session: &mut Session,
    step_target: &StepTarget,
    revert: impl AsyncFnOnce(UndoIntent) -> UndoCompletion,
) -> Result<Option<StepFailure>, JournalError> {
    let completion = revert(session.journal.record_undo_intent(step_target)?).await;
    let failure = completion.failure().cloned();
    session.journal.record_undo_outcome(completion)?;
    Ok(failure)
}

fn journal_failure(error: &JournalError) -> StepFailure {
    StepFailure::new(FailureKind::Permanent, error.to_string())
}

fn not_begun(why: &str) -> AgentAnswer {
    AgentAnswer::Failed { failure: StepFailure::new(FailureKind::NotBegun, format!("not started on the host: {why}")) }
}

fn call_message(call: CallId, message: CallMessage) -> ToCoordinator {
    match message {
        CallMessage::Progress(progress) => ToCoordinator::Progress { call, progress },
        CallMessage::Output(output) => {
            let chunk = output.into_chunk();
            let at: Timestamp = chunk.at;
            let bytes = BASE64_STANDARD.encode(&chunk.bytes);
            ToCoordinator::Output { call, at, stream: chunk.stream, bytes }
        }
    }
}

/// The error of a store that can't store.
pub(super) fn store_problem(error: &io::Error, store: &ContentStore) -> Problem {
    let message = "can't store files from the runner's machine on the host";
    let hint = format!("free space in {} on the host, and give the user write access to it", store.folder().display());
    problem(&Diagnostic::new(ErrorCode::ResourceNotReady, message).with_cause(error).with_hint(hint))
}

fn store_failure(error: &io::Error, store: &ContentStore) -> StepFailure {
    let failure =
        StepFailure::new(FailureKind::NotBegun, format!("can't store files from the runner's machine: {error}"));
    failure.with_hint(format!("free space in {} on the host", store.folder().display()))
}
