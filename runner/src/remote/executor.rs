//! Makes the calls of steps on another host.
//!
//! Invariant: `apply` and `revert` return only what the host recorded, or that the outcome is unknown. When the connection is cut
//! meanwhile, the host is asked again: it has finished and recorded the call, ended it, or never got it; only then it is sent again.

#![expect(clippy::wildcard_enum_match_arm, reason = "an answer to another question is one error, whichever it is")]

mod calls;
mod confirmation;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;

use contract::{
    AttemptNumber, GrantName, RunId, StepId,
    diagnostic::{Diagnostic, ErrorCode, Notice},
    step::{FailureKind, StepFailure, StepOutcome},
};
use journal::{StepTarget, decision::HostOutcome, state::IntentRecord};
use plan::{PlanHost, PlanStep};
use sandbox::{CallChannel, ModuleDescription, NoticeHandler, module_display_name};

use self::confirmation::ConfirmedCall;
use super::{
    AgentConnection, ConnectionError, DecomposedArchives, Dialer, FileHashes,
    sending::{ContentSender, SendError},
    shipping::{self, Shipment, ThirdPartyModules},
    survey::clock_warning,
};
use crate::{
    agent::wire::{
        AgentAnswer, BeginSession, BegunSession, CheckedStep, Export, HostRecord, Problem, PruneMode, ReleaseFolder,
        ReleaseRetention, ShippedDirs, ToAgent,
    },
    deploy::PlannedStep,
};

/// How often a lost host is dialed again, and for how long.
const MAX_DIALS: u32 = 3;
const REDIAL_PAUSE: Duration = Duration::from_secs(1);
/// How long an answer may take beyond the time that the call itself may take: its programs end within 4.5 s then, and what they wrote is
/// read for 1 s. The rest is for a slow host.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(12);
/// The same for a third-party module, which the host compiles before the first call.
const COMPILED_ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a host may take to look for what its steps need: it asks their programs for their versions, one after the other.
const CHECK_TIMEOUT: Duration = Duration::from_secs(120);
/// How long it may take to remove old releases.
const PRUNE_TIMEOUT: Duration = Duration::from_secs(600);
/// A clock that is so far off is wrong.
const WRONG_CLOCK: Duration = Duration::from_secs(600);

/// The executor of the steps of one host.
pub struct RemoteExecutor {
    host: Arc<PlanHost>,
    descriptions: Rc<BTreeMap<String, ModuleDescription>>,
    third_party_modules: Rc<ThirdPartyModules>,
    notify: NoticeHandler,
    dialer: Rc<Dialer>,
    hashes: Arc<FileHashes>,
    archives: Rc<DecomposedArchives>,
    connection: RefCell<Option<Rc<AgentConnection>>>,
    session: RefCell<Option<BeginSession>>,
    /// Whether the operator was told that its clock is wrong.
    is_clock_told: Cell<bool>,
    /// What the host knew of each step before the call that is being made.
    records: RefCell<BTreeMap<StepTarget, HostRecord>>,
    /// The attempts whose calls the host would know of.
    known_attempts: RefCell<Vec<(RunId, AttemptNumber)>>,
}

/// Why the files of a step are not on the host.
enum ShipError {
    Unreachable(Diagnostic),
    Failed(StepFailure),
}

/// What a host knows of a call whose connection was cut.
enum Recalled {
    Ended(StepOutcome),
    Undone,
    NeverArrived,
    Unknown(String),
}

impl RemoteExecutor {
    /// An executor that connects when it is needed. `descriptions` are those of the modules, by their display names; `third_party_modules` are
    /// those of them that are sent; `dialer` is that of all hosts.
    #[must_use]
    pub fn new(
        host: Arc<PlanHost>,
        descriptions: Rc<BTreeMap<String, ModuleDescription>>,
        third_party_modules: Rc<ThirdPartyModules>,
        notify: NoticeHandler,
        dialer: Rc<Dialer>,
        hashes: Arc<FileHashes>,
        archives: Rc<DecomposedArchives>,
    ) -> Self {
        Self {
            host,
            descriptions,
            third_party_modules,
            notify,
            dialer,
            hashes,
            archives,
            connection: RefCell::default(),
            session: RefCell::default(),
            is_clock_told: Cell::default(),
            records: RefCell::default(),
            known_attempts: RefCell::default(),
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
        self.tell_clock(connection.clock_difference);
        let session = self.session.borrow().clone();
        if let Some(session) = session {
            let begun = connection.begin(session).await.map_err(|error| self.session_error(&error))?;
            self.learn(begun);
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
        let begun = connection.begin(session.clone()).await.map_err(|error| self.session_error(&error))?;
        if let Some(agent) = begun.ended_agent.as_ref().filter(|agent| agent.epoch < session.epoch) {
            let how = if agent.was_killed { "did not end, and was killed" } else { "was made to end" };
            let (host, pid, epoch) = (&self.host.name, agent.pid, agent.epoch);
            let message =
                format!("{host}: process {pid} still worked for an earlier attempt (epoch {epoch}); it {how}");
            (self.notify)(Notice::warning(message));
        }
        self.learn(begun);
        *self.session.borrow_mut() = Some(session);
        Ok(())
    }

    /// How an earlier attempt's call ended by the host's own record: as that of exactly this call says. It never arrived if the
    /// host has the records of that attempt, and none of this call.
    #[must_use]
    pub fn recall(&self, step_target: &StepTarget, intent: &IntentRecord) -> Option<HostOutcome> {
        let records = self.records.borrow();
        let record = records.get(step_target);
        if let Some(record) = record.filter(|record| record.key == intent.key && record.epoch == Some(intent.epoch)) {
            return match &record.outcome {
                Some(outcome) => Some(HostOutcome::Ended(outcome.clone())),
                None => record.undone.then_some(HostOutcome::NotConfirmed),
            };
        }
        // What runs once for a group may have been for another host then.
        let was_for_this_host = intent.input["host"]["name"] == self.host.name.as_str();
        let is_older = record.is_none_or(|record| record.epoch.is_some_and(|epoch| epoch < intent.epoch));
        let has_records_of = |(run, attempt): &(RunId, AttemptNumber)| *run == intent.run && *attempt == intent.attempt;
        let never_arrived = was_for_this_host && is_older && self.known_attempts.borrow().iter().any(has_records_of);
        let failure = || StepFailure::new(FailureKind::NotBegun, "the call never arrived on the host");
        never_arrived.then(|| HostOutcome::Ended(StepOutcome::Failed { failure: failure() }))
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
        // The files that are sent are hashed while ssh logs in; what can't be read is an error when it is sent.
        let hashing = async {
            for planned in steps {
                drop(self.collect(&planned.step, &planned.step.with).await);
            }
        };
        let (connection, ()) = futures_util::future::join(self.connect(), hashing).await;
        let mut connection = connection?;
        let mut checked = Vec::new();
        for planned in steps {
            let shipped = match self.ship(&planned.step, &planned.step.with).await {
                Ok((shipped_over, shipped)) => {
                    connection = shipped_over;
                    shipped
                }
                Err(ShipError::Unreachable(diagnostic)) => return Err(diagnostic),
                Err(ShipError::Failed(failure)) if failure.kind == FailureKind::Transient => {
                    return Err(self.lost(&failure.message));
                }
                Err(ShipError::Failed(failure)) => {
                    let hint = failure.hint.unwrap_or_else(|| "create it, or correct the path".to_owned());
                    let problem = Diagnostic::new(ErrorCode::InputUnreadable, failure.message).with_hint(hint);
                    return Ok(vec![(planned.step.id.clone(), problem)]);
                }
            };
            let upstream = planned.upstream.iter().cloned().collect();
            checked.push(CheckedStep { step: planned.step.clone(), upstream, shipped });
        }
        let is_asked = |step: &StepId| steps.iter().any(|planned| planned.step.id == *step);
        let answer = connection.call(None, CHECK_TIMEOUT, |call| ToAgent::Check { call, steps: checked, create }).await;
        match answer {
            Ok(AgentAnswer::Checked { problems }) if problems.iter().all(|(step, _)| is_asked(step)) => {
                Ok(problems.into_iter().map(|(step, problem)| (step, self.diagnostic(&problem))).collect())
            }
            Ok(_) => Err(self.lost("the host's answer does not match the request")),
            Err(error) => Err(self.session_error(&error)),
        }
    }

    /// Looks at the releases in directories of the host, or removes the old ones, which needs a session. Returns those that it looked
    /// at or removed.
    ///
    /// # Errors
    /// The host can't be reached, or P0223: a release can't be removed.
    pub async fn prune(
        &self,
        dirs: &BTreeSet<PathBuf>,
        retention: &ReleaseRetention,
        mode: PruneMode,
    ) -> Result<Vec<ReleaseFolder>, Diagnostic> {
        let connection = self.connect().await?;
        let (dirs, retention) = (dirs.clone(), retention.clone());
        match connection.call(None, PRUNE_TIMEOUT, |call| ToAgent::Prune { call, dirs, retention, mode }).await {
            Ok(AgentAnswer::Releases { folders }) => Ok(folders),
            Ok(AgentAnswer::Refused { problem }) => Err(self.diagnostic(&problem)),
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

    fn learn(&self, begun: BegunSession) {
        *self.known_attempts.borrow_mut() = begun.attempts;
        let known = begun.records.into_iter().map(|record| (record.step_target.clone(), record));
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

    /// Warns once of a clock that is far off: its times are in the records of the steps.
    fn tell_clock(&self, seconds: i64) {
        if seconds.unsigned_abs() >= WRONG_CLOCK.as_secs() && !self.is_clock_told.replace(true) {
            (self.notify)(Notice::warning(clock_warning(&self.host.name, seconds)));
        }
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

    /// Sends the files that a step reads from this machine, as far as the host does not have them. A lost connection is dialed again.
    async fn ship(&self, step: &PlanStep, config: &Value) -> Result<(Rc<AgentConnection>, ShippedDirs), ShipError> {
        let mut last = None;
        for _ in 0..MAX_DIALS {
            if last.is_some() {
                tokio::time::sleep(REDIAL_PAUSE).await;
            }
            let connection = match self.connect().await {
                Ok(connection) => connection,
                // It was there before.
                Err(unreachable) if last.is_some() => {
                    last = Some(ShipError::Unreachable(unreachable));
                    continue;
                }
                Err(unreachable) => return Err(ShipError::Unreachable(unreachable)),
            };
            match self.ship_over(&connection, step, config).await {
                Ok(shipped) => return Ok((connection, shipped)),
                Err(SendError::Lost(why)) => last = Some(ShipError::Failed(transient(why))),
                Err(SendError::Failed(failure)) => return Err(ShipError::Failed(failure)),
            }
        }
        Err(last.unwrap_or_else(|| ShipError::Failed(transient("the host was not dialed".to_owned()))))
    }

    async fn ship_over(
        &self,
        connection: &AgentConnection,
        step: &PlanStep,
        config: &Value,
    ) -> Result<ShippedDirs, SendError> {
        let tell = |text: String| (self.notify)(Notice::note(format!("{}: {text}", self.host.name)));
        let sender = ContentSender { connection, step, archives: &self.archives, tell: &tell };
        let name = module_display_name(&step.uses);
        if let Some(module) = self.third_party_modules.get(&name) {
            sender.send_module(&name, module).await?;
        }
        if !step.grants.dirs.values().any(|grant| grant.is_relative) {
            return Ok(ShippedDirs::new());
        }
        let shipments = self.collect(step, config).await.map_err(|(path, error)| {
            let message = format!("can't read {}: {error}", path.display());
            SendError::Failed(StepFailure::new(FailureKind::NotFound, message))
        })?;
        sender.send(&shipments).await
    }

    /// The files of this machine that a step reads, by their hashes.
    async fn collect(
        &self,
        step: &PlanStep,
        config: &Value,
    ) -> Result<BTreeMap<GrantName, Shipment>, (PathBuf, io::Error)> {
        if !step.grants.dirs.values().any(|grant| grant.is_relative) {
            return Ok(BTreeMap::new());
        }
        // Reading much must not keep the connections of all hosts silent.
        let (owned, description, config) = (step.clone(), self.description(step).clone(), config.clone());
        let hashes = Arc::clone(&self.hashes);
        let collecting = tokio::task::spawn_blocking(move || shipping::collect(&owned, &description, &config, &hashes));
        collecting.await.expect("collecting files does not panic")
    }

    /// How long an answer may take beyond the step's own timeout.
    fn answer_timeout(&self, step: &PlanStep) -> Duration {
        match self.third_party_modules.get(&module_display_name(&step.uses)) {
            Some(_) => COMPILED_ANSWER_TIMEOUT,
            None => ANSWER_TIMEOUT,
        }
    }

    /// Makes a call that changes nothing. A lost connection is dialed once more, unless the host had all the time and gave no answer.
    async fn ask(
        &self,
        step: &PlanStep,
        config: &Value,
        channel: &CallChannel,
        export: impl Fn() -> Export,
    ) -> Result<AgentAnswer, StepFailure> {
        let (mut tries, limit) = (0, step.timeout + self.answer_timeout(step));
        loop {
            let (connection, shipped) = self.ship(step, config).await.map_err(|error| match error {
                ShipError::Unreachable(diagnostic) => transient(diagnostic.message),
                ShipError::Failed(failure) => failure,
            })?;
            let request = |call| ToAgent::Call { call, step: Box::new(step.clone()), shipped, export: export() };
            let called = Instant::now();
            match connection.call(Some(channel.clone()), limit, request).await {
                Ok(answer) => return Ok(answer),
                Err(ConnectionError::Lost(_)) if tries == 0 && called.elapsed() < limit => tries += 1,
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
        let confirmed = ConfirmedCall::new(step, key, epoch);
        let mut last = String::new();
        for _ in 0..MAX_DIALS {
            let before = self.records.borrow().get(step_target).cloned();
            let (connection, shipped) = self.ship(step, config).await.map_err(|error| match error {
                ShipError::Unreachable(diagnostic) => StepFailure::new(FailureKind::NotBegun, diagnostic.message),
                ShipError::Failed(failure) => failure,
            })?;
            let request = |call| ToAgent::Call { call, step: Box::new(step.clone()), shipped, export: export() };
            let called = Instant::now();
            let calling = self.call_confirmed(&connection, step, channel, confirmed.as_ref(), request);
            let error = match calling.await {
                Ok(answer) => {
                    if let Some(key) = key {
                        self.remember(step_target, key, epoch, &answer);
                    }
                    return Ok(match (answer, &confirmed) {
                        (AgentAnswer::NotConfirmed { failure }, Some(call)) => {
                            AgentAnswer::Outcome { outcome: self.not_confirmed(call, failure) }
                        }
                        (answer, _) => answer,
                    });
                }
                Err(error) => error,
            };
            last = error.to_string();
            let had_all_time = called.elapsed() >= step.timeout + self.answer_timeout(step);
            match self.recall_after_loss(step_target, key, before.as_ref(), confirmed.as_ref(), &last).await {
                Recalled::Ended(outcome) => return Ok(AgentAnswer::Outcome { outcome }),
                Recalled::Undone => {
                    let Some(call) = confirmed else { return Ok(AgentAnswer::Reverted { failure: None }) };
                    return Ok(AgentAnswer::Outcome { outcome: self.not_confirmed(&call, None) });
                }
                Recalled::NeverArrived if had_all_time => {
                    let message = format!("{}: {last}, and has no record of the call", self.host.name);
                    return Err(StepFailure::new(FailureKind::NotBegun, message));
                }
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

    /// Remembers what the host has recorded of a call by its answer.
    fn remember(&self, step_target: &StepTarget, key: &str, epoch: Option<u64>, answer: &AgentAnswer) {
        let (outcome, undone) = match answer {
            AgentAnswer::Outcome { outcome: StepOutcome::Unknown { .. } } => (None, false),
            AgentAnswer::Outcome { outcome } => (Some(outcome.clone()), false),
            AgentAnswer::NotConfirmed { failure } => (None, failure.is_none()),
            _ => return,
        };
        let record = HostRecord { step_target: step_target.clone(), key: key.to_owned(), epoch, outcome, undone };
        self.records.borrow_mut().insert(step_target.clone(), record);
    }

    /// Dials a lost host again, and reads what it recorded. Its former agent ends the call first.
    async fn recall_after_loss(
        &self,
        step_target: &StepTarget,
        key: Option<&str>,
        before: Option<&HostRecord>,
        confirmed: Option<&ConfirmedCall>,
        why: &str,
    ) -> Recalled {
        let mut last = why.to_owned();
        let settled_at = confirmed.map(|call| Instant::now() + call.settling_time());
        let mut dials = 0;
        while dials < MAX_DIALS || settled_at.is_some_and(|at| Instant::now() < at) {
            dials += 1;
            tokio::time::sleep(REDIAL_PAUSE).await;
            if let Some(call) = confirmed
                && let Err(diagnostic) = self.confirm_once(call).await
            {
                last = diagnostic.message.clone();
                call.note_unreached(diagnostic);
                continue;
            }
            match self.connect().await {
                Ok(_) => {
                    let records = self.records.borrow();
                    let now = records.get(step_target);
                    return match (now, key) {
                        (Some(HostRecord { undone: true, .. }), None) => Recalled::Undone,
                        (now, _) if now == before && now.is_none_or(|now| now.outcome.is_some() || now.undone) => {
                            Recalled::NeverArrived
                        }
                        (Some(HostRecord { undone: true, key, .. }), Some(ours))
                            if key == ours && confirmed.is_some() =>
                        {
                            Recalled::Undone
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
        if confirmed.is_some() {
            last.push_str("; it undoes the step by itself, unless a confirmation has reached it");
        }
        Recalled::Unknown(last)
    }
}

/// A failure after which the same may succeed.
fn transient(message: String) -> StepFailure {
    StepFailure { retryable: true, ..StepFailure::new(FailureKind::Transient, message) }
}

fn other_answer() -> StepFailure {
    StepFailure::new(FailureKind::Permanent, "the host's answer does not match the request")
}
