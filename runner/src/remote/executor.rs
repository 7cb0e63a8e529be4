//! Makes the calls of steps on another host.
//!
//! Invariant: `apply` and `revert` return only what the host recorded, or that the outcome is unknown. When the connection is cut
//! meanwhile, the host is asked again: it has finished and recorded the call, ended it, or never got it; only then it is sent again.

#![expect(clippy::wildcard_enum_match_arm, reason = "an answer to another question is one error, whichever it is")]

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    io,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use serde_json::Value;

use contract::{
    GrantName, StepId,
    diagnostic::{Diagnostic, ErrorCode, Notice},
    hash::Blake3Hash,
    step::{FailureKind, ProbeFinding, Receipt, StepFailure, StepOutcome},
};
use journal::{StepCompletion, StepIntent, StepTarget, UndoCompletion, UndoIntent};
use plan::{PlanHost, PlanStep};
use sandbox::{CallChannel, InputError, ModuleDescription, NoticeHandler, PreviewChange, module_display_name};

use super::{
    AgentConnection, ConnectionError, Dialer, FileHashes,
    shipping::{self, Shipment},
};
use crate::{
    agent::wire::{
        self, AgentAnswer, BeginSession, CheckedStep, Export, FILE_PIECE_BYTES, HostRecord, Problem, ShippedDirs,
        ToAgent,
    },
    deploy::{Executor, PlannedStep},
};

/// How often a lost host is dialed again, and for how long.
const MAX_DIALS: u32 = 3;
const REDIAL_PAUSE: Duration = Duration::from_secs(1);
/// How long an answer may take beyond the time that the call itself may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// The executor of the steps of one host.
pub struct RemoteExecutor {
    host: Arc<PlanHost>,
    descriptions: Rc<BTreeMap<String, ModuleDescription>>,
    notify: NoticeHandler,
    dialer: Rc<Dialer>,
    hashes: Arc<FileHashes>,
    connection: RefCell<Option<Rc<AgentConnection>>>,
    session: RefCell<Option<BeginSession>>,
    /// What the host knew of each step before the call that is being made.
    records: RefCell<BTreeMap<StepTarget, HostRecord>>,
}

/// What a host knows of a call whose connection was cut.
enum Recalled {
    Ended(StepOutcome),
    Undone,
    NeverArrived,
    Unknown(String),
}

impl RemoteExecutor {
    /// An executor that connects when it is needed. `descriptions` are those of the modules, by their display names; `dialer` is
    /// that of all hosts.
    #[must_use]
    pub fn new(
        host: Arc<PlanHost>,
        descriptions: Rc<BTreeMap<String, ModuleDescription>>,
        notify: NoticeHandler,
        dialer: Rc<Dialer>,
        hashes: Arc<FileHashes>,
    ) -> Self {
        Self {
            host,
            descriptions,
            notify,
            dialer,
            hashes,
            connection: RefCell::default(),
            session: RefCell::default(),
            records: RefCell::default(),
        }
    }

    /// Connects, if there is no connection.
    ///
    /// # Errors
    /// The host can't be reached, or can't run the agent.
    pub async fn connect(&self) -> Result<Rc<AgentConnection>, Diagnostic> {
        let connected = self.connection.borrow().clone().filter(|connection| !connection.has_ended());
        if let Some(connection) = connected {
            return Ok(connection);
        }
        let connection = Rc::new(self.dialer.dial(&self.host, &|megabytes| self.tell_upload(megabytes)).await?);
        let session = self.session.borrow().clone();
        if let Some(session) = session {
            let records = connection.begin(session).await.map_err(|error| self.session_error(&error))?;
            self.learn(records);
        }
        // Not before its session has begun: without one, it can't tell what an earlier one did.
        *self.connection.borrow_mut() = Some(Rc::clone(&connection));
        Ok(connection)
    }

    /// Whether it is connected now.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.connection.borrow().as_ref().is_some_and(|connection| !connection.has_ended())
    }

    /// Begins the session of an attempt.
    ///
    /// # Errors
    /// The host can't be reached, a newer attempt has worked on it, or its state can't be used.
    pub async fn begin(&self, session: BeginSession) -> Result<(), Diagnostic> {
        let connection = self.connect().await?;
        let records = connection.begin(session.clone()).await.map_err(|error| self.session_error(&error))?;
        self.learn(records);
        *self.session.borrow_mut() = Some(session);
        Ok(())
    }

    /// How an earlier attempt's call ended by the host's own record, if it has one of exactly that call.
    #[must_use]
    pub fn recall(&self, step_target: &StepTarget, key: &str, epoch: u64) -> Option<StepOutcome> {
        let records = self.records.borrow();
        let record = records.get(step_target).filter(|record| record.key == key && record.epoch == Some(epoch))?;
        record.outcome.clone()
    }

    /// What steps need on the host and lack.
    ///
    /// # Errors
    /// The host can't be reached.
    pub async fn check(&self, steps: &[&PlannedStep], create: bool) -> Result<Vec<(StepId, Diagnostic)>, Diagnostic> {
        let unsent = steps.iter().flat_map(|planned| self.unsent_dir_problems(planned));
        let problems: Vec<_> = unsent.collect();
        if !problems.is_empty() {
            return Ok(problems);
        }
        let connection = self.connect().await?;
        let mut checked = Vec::new();
        for planned in steps {
            let config = &planned.step.with;
            let shipped = match self.ship(&connection, &planned.step, config).await {
                Ok(shipped) => shipped,
                Err(failure) if failure.kind == FailureKind::Transient => return Err(self.lost(&failure.message)),
                Err(failure) => {
                    let hint = failure.hint.unwrap_or_else(|| "create it, or correct the path".to_owned());
                    let problem = Diagnostic::new(ErrorCode::InputUnreadable, failure.message).with_hint(hint);
                    return Ok(vec![(planned.step.id.clone(), problem)]);
                }
            };
            let upstream = planned.upstream.iter().cloned().collect();
            checked.push(CheckedStep { step: planned.step.clone(), upstream, shipped });
        }
        let is_asked = |step: &StepId| steps.iter().any(|planned| planned.step.id == *step);
        let answer =
            connection.call(None, ANSWER_TIMEOUT, |call| ToAgent::Check { call, steps: checked, create }).await;
        match answer {
            Ok(AgentAnswer::Checked { problems }) if problems.iter().all(|(step, _)| is_asked(step)) => {
                Ok(problems.into_iter().map(|(step, problem)| (step, self.diagnostic(&problem))).collect())
            }
            Ok(_) => Err(self.lost("the host's answer does not match the request")),
            Err(error) => Err(self.session_error(&error)),
        }
    }

    /// The directories of this machine that a step would find empty on the host.
    fn unsent_dir_problems(&self, planned: &PlannedStep) -> Vec<(StepId, Diagnostic)> {
        let id = &planned.step.id;
        let problem = |name: &GrantName| {
            let message = format!(
                "directory `{name}` of step `{id}` is on this machine, and the step names no file in it to send to `{}`",
                self.host.name
            );
            let hint = match shipping::partly_sent_dir(&planned.step, &planned.description, name) {
                Some(dir) => format!("the step works in `{dir}`: list the whole, `inputs: [{dir}]`"),
                None => {
                    "use a directory of the host, by its absolute path; a `run` step can list files under `inputs:`"
                        .to_owned()
                }
            };
            (id.clone(), Diagnostic::new(ErrorCode::InvalidGrant, message).with_hint(hint))
        };
        shipping::unsent_dirs(&planned.step, &planned.description).into_iter().map(problem).collect()
    }

    fn learn(&self, records: Vec<HostRecord>) {
        let known = records.into_iter().map(|record| (record.step_target.clone(), record));
        *self.records.borrow_mut() = known.collect();
    }

    fn session_error(&self, error: &ConnectionError) -> Diagnostic {
        match error {
            ConnectionError::Lost(why) => self.lost(why),
            ConnectionError::Refused(problem) => self.diagnostic(problem),
        }
    }

    fn tell_upload(&self, megabytes: usize) {
        let name = &self.host.name;
        (self.notify)(Notice::note(format!("{name}: sending the runner ({megabytes} MB, once for each version)")));
    }

    fn lost(&self, why: &str) -> Diagnostic {
        Diagnostic::new(ErrorCode::HostUnreachable, format!("the connection to host `{}` was lost", self.host.name))
            .with_cause(why)
            .with_hint("check the host, then run the same command again: it continues from there")
    }

    fn diagnostic(&self, problem: &Problem) -> Diagnostic {
        let code = ErrorCode::parse(&problem.code).unwrap_or(ErrorCode::HostUnusable);
        let message = format!("on {}: {}", self.host.name, problem.message);
        let diagnostic = problem.causes.iter().fold(Diagnostic::new(code, message), Diagnostic::with_cause);
        match &problem.hint {
            Some(hint) => diagnostic.with_hint(hint),
            None => diagnostic,
        }
    }

    fn description(&self, step: &PlanStep) -> &ModuleDescription {
        self.descriptions.get(&module_display_name(&step.uses)).expect("the preflight describes every module")
    }

    /// Sends the files that a step reads from this machine, as far as the host does not have them.
    async fn ship(
        &self,
        connection: &AgentConnection,
        step: &PlanStep,
        config: &Value,
    ) -> Result<ShippedDirs, StepFailure> {
        if !step.grants.dirs.values().any(|grant| grant.is_relative) {
            return Ok(ShippedDirs::new());
        }
        // Reading much must not keep the connections of all hosts silent.
        let (owned, description, config) = (step.clone(), self.description(step).clone(), config.clone());
        let hashes = Arc::clone(&self.hashes);
        let collecting = tokio::task::spawn_blocking(move || shipping::collect(&owned, &description, &config, &hashes));
        let collected = collecting.await.expect("collecting files does not panic");
        let Shipment { dirs, files } = collected.map_err(|(path, error)| {
            StepFailure::new(FailureKind::NotFound, format!("can't read {}: {error}", path.display()))
        })?;
        if files.is_empty() {
            return Ok(dirs);
        }
        let offered: Vec<_> = files.keys().cloned().collect();
        let answer = connection.call(None, ANSWER_TIMEOUT, |call| ToAgent::Offer { call, files: offered }).await;
        let wanted = match answer.map_err(|error| transient(error.to_string()))? {
            AgentAnswer::Wanted { hashes } => BTreeSet::from_iter(hashes),
            AgentAnswer::Refused { problem } => {
                let cause = problem.causes.first().map_or_else(String::new, |cause| format!(": {cause}"));
                let failure = StepFailure::new(FailureKind::Permanent, format!("{}{cause}", problem.message));
                return Err(StepFailure { hint: problem.hint, ..failure });
            }
            _ => return Err(transient("the host's answer does not match the request".to_owned())),
        };
        for (file, path) in files.iter().filter(|(file, _)| wanted.contains(&file.hash)) {
            let sent = send_file(connection, file.hash, file.size, path).await;
            sent.map_err(|error| transient(format!("can't send {}: {error}", path.display())))?;
        }
        Ok(dirs)
    }

    /// Makes a call that changes nothing. A lost connection is dialed once more.
    async fn ask(
        &self,
        step: &PlanStep,
        config: &Value,
        channel: &CallChannel,
        export: impl Fn() -> Export,
    ) -> Result<AgentAnswer, StepFailure> {
        let mut tries = 0;
        loop {
            let connection = self.connect().await.map_err(|diagnostic| transient(diagnostic.message))?;
            let shipped = self.ship(&connection, step, config).await?;
            let request = |call| ToAgent::Call { call, step: Box::new(step.clone()), shipped, export: export() };
            match connection.call(Some(channel.clone()), step.timeout + ANSWER_TIMEOUT, request).await {
                Ok(answer) => return Ok(answer),
                Err(ConnectionError::Lost(_)) if tries == 0 => tries += 1,
                Err(error) => return Err(transient(format!("{}: {error}", self.host.name))),
            }
        }
    }

    /// Makes a call that changes something, and finds out how it ended.
    async fn act(
        &self,
        step: &PlanStep,
        step_target: &StepTarget,
        key: Option<&str>,
        input: &Value,
        channel: &CallChannel,
        export: impl Fn() -> Export,
    ) -> Result<AgentAnswer, StepFailure> {
        let (config, epoch) = (&input["config"], input["epoch"].as_u64());
        let mut last = String::new();
        for _ in 0..MAX_DIALS {
            let before = self.records.borrow().get(step_target).cloned();
            let connection = match self.connect().await {
                Ok(connection) => connection,
                Err(diagnostic) => return Err(StepFailure::new(FailureKind::NotBegun, diagnostic.message)),
            };
            let shipped = self.ship(&connection, step, config).await?;
            let request = |call| ToAgent::Call { call, step: Box::new(step.clone()), shipped, export: export() };
            let error = match connection.call(Some(channel.clone()), step.timeout + ANSWER_TIMEOUT, request).await {
                Ok(answer) => {
                    if let (AgentAnswer::Outcome { outcome }, Some(key)) = (&answer, key) {
                        let outcome = match outcome {
                            StepOutcome::Unknown { .. } => None,
                            StepOutcome::Succeeded { .. } | StepOutcome::Failed { .. } => Some(outcome.clone()),
                        };
                        let (step_target, key) = (step_target.clone(), key.to_owned());
                        let record =
                            HostRecord { step_target: step_target.clone(), key, epoch, outcome, undone: false };
                        self.records.borrow_mut().insert(step_target, record);
                    }
                    return Ok(answer);
                }
                Err(error) => error,
            };
            last = error.to_string();
            match self.recall_after_loss(step_target, key, before.as_ref(), &last).await {
                Recalled::Ended(outcome) => return Ok(AgentAnswer::Outcome { outcome }),
                Recalled::Undone => return Ok(AgentAnswer::Reverted { failure: None }),
                Recalled::NeverArrived => {}
                Recalled::Unknown(why) => {
                    let failure = transient(format!("the connection to {} was lost: {why}", self.host.name));
                    return Ok(AgentAnswer::Outcome { outcome: StepOutcome::Unknown { failure } });
                }
            }
        }
        let failure = transient(format!("the connection to {} was lost on every try: {last}", self.host.name));
        Ok(AgentAnswer::Outcome { outcome: StepOutcome::Unknown { failure } })
    }

    /// Dials a lost host again, and reads what it recorded. Its former agent ends the call first.
    async fn recall_after_loss(
        &self,
        step_target: &StepTarget,
        key: Option<&str>,
        before: Option<&HostRecord>,
        why: &str,
    ) -> Recalled {
        let mut last = why.to_owned();
        for _ in 0..MAX_DIALS {
            tokio::time::sleep(REDIAL_PAUSE).await;
            match self.connect().await {
                Ok(_) => {
                    let records = self.records.borrow();
                    return match (records.get(step_target), key) {
                        (Some(HostRecord { undone: true, .. }), None) => Recalled::Undone,
                        (now, _) if now == before && now.is_none_or(|record| record.outcome.is_some()) => {
                            Recalled::NeverArrived
                        }
                        (Some(HostRecord { key, outcome: Some(outcome), .. }), Some(ours)) if key == ours => {
                            Recalled::Ended(outcome.clone())
                        }
                        _ => Recalled::Unknown("the host was cut off before it recorded how the step ended".to_owned()),
                    };
                }
                Err(diagnostic) => last = diagnostic.message,
            }
        }
        Recalled::Unknown(last)
    }
}

fn transient(message: String) -> StepFailure {
    StepFailure { retryable: true, ..StepFailure::new(FailureKind::Transient, message) }
}

async fn send_file(
    connection: &AgentConnection,
    hash: Blake3Hash,
    size: u64,
    path: &std::path::Path,
) -> Result<(), io::Error> {
    use tokio::io::AsyncReadExt as _;
    let ended = |error: ConnectionError| io::Error::other(error.to_string());
    connection.send(wire::message_frame(&ToAgent::File { hash, size })).await.map_err(ended)?;
    let mut file = tokio::fs::File::open(path).await?;
    let mut piece = vec![0; FILE_PIECE_BYTES];
    loop {
        match file.read(&mut piece).await? {
            0 => return Ok(()),
            length => connection.send(wire::bytes_frame(&piece[..length])).await.map_err(ended)?,
        }
    }
}

fn other_answer() -> StepFailure {
    StepFailure::new(FailureKind::Permanent, "the host's answer does not match the request")
}

#[async_trait(?Send)]
impl Executor for RemoteExecutor {
    async fn input_hashes(
        &self,
        step: &PlanStep,
        _description: &ModuleDescription,
        config: &Value,
    ) -> Result<BTreeMap<String, Blake3Hash>, InputError> {
        let export = || Export::InputHashes { config: config.clone() };
        match self.ask(step, config, &CallChannel::unobserved(), export).await? {
            AgentAnswer::InputHashes { hashes } => Ok(hashes),
            AgentAnswer::InputUnreadable { message, hint } => {
                let message = format!("{}: {message}", self.host.name);
                Err(StepFailure::new(FailureKind::NotFound, message).with_hint(hint).into())
            }
            AgentAnswer::Failed { failure } => {
                let message = format!("{}: {}", self.host.name, failure.message);
                Err(StepFailure { message, ..failure }.into())
            }
            _ => Err(other_answer().into()),
        }
    }

    async fn preview(
        &self,
        step: &PlanStep,
        input: &Value,
        channel: CallChannel,
    ) -> Result<Vec<PreviewChange>, StepFailure> {
        let export = || Export::Preview { input: input.clone() };
        match self.ask(step, &input["config"], &channel, export).await? {
            AgentAnswer::Preview { changes } => Ok(changes),
            AgentAnswer::Failed { failure } => Err(failure),
            _ => Err(other_answer()),
        }
    }

    async fn probe(&self, step: &PlanStep, input: &Value, channel: CallChannel) -> ProbeFinding {
        let export = || Export::Probe { input: input.clone() };
        match self.ask(step, &input["config"], &channel, export).await {
            Ok(AgentAnswer::Finding { finding }) => finding,
            Ok(AgentAnswer::Failed { failure }) | Err(failure) => ProbeFinding::Failed { failure },
            Ok(_) => ProbeFinding::Failed { failure: other_answer() },
        }
    }

    async fn apply(&self, step: &PlanStep, intent: StepIntent, channel: CallChannel) -> StepCompletion {
        let began = Instant::now();
        let (step_target, input) = (intent.step_target().clone(), intent.input().clone());
        let key = input["key"].as_str().unwrap_or_default().to_owned();
        let export = || Export::Apply {
            step_target: step_target.clone(),
            key: key.clone(),
            fingerprint: intent.fingerprint().clone(),
            input: input.clone(),
            effect: intent.effect(),
        };
        let answer = self.act(step, &step_target, Some(&key), &input, &channel, export).await;
        let outcome = match answer {
            Ok(AgentAnswer::Outcome { outcome }) => outcome,
            Ok(AgentAnswer::Failed { failure }) | Err(failure) => StepOutcome::Failed { failure },
            Ok(_) => StepOutcome::Unknown { failure: other_answer() },
        };
        intent.complete(outcome, began.elapsed())
    }

    async fn revert(
        &self,
        step: &PlanStep,
        intent: UndoIntent,
        input: &Value,
        receipt: &Receipt,
        channel: CallChannel,
    ) -> UndoCompletion {
        let step_target = intent.step_target().clone();
        let export =
            || Export::Revert { step_target: step_target.clone(), input: input.clone(), receipt: receipt.clone() };
        let answer = self.act(step, &step_target, None, input, &channel, export).await;
        let failure = match answer {
            Ok(AgentAnswer::Reverted { failure }) => failure,
            Ok(AgentAnswer::Failed { failure }) | Err(failure) => Some(failure),
            Ok(AgentAnswer::Outcome { outcome: StepOutcome::Unknown { failure } }) => Some(failure),
            Ok(_) => Some(other_answer()),
        };
        intent.complete(failure)
    }
}
