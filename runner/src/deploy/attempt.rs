//! One attempt: lock, journal, the steps, and how it ends.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde_json::{Map, Value};

use super::{
    Halt, Interrupt, MissingJournal, Orders, Prepared,
    ending::{self, WayOn},
    hooks::Surroundings,
    undo::Rollback,
};
use contract::{
    Attempt as Number, RunId, StepId,
    diagnostic::{Code, Diagnostic, Excerpt, Exit, Notice},
    hash::Hash,
};
use journal::{
    Journal, Loaded, Place, Redactor, State, Status,
    decision::Selection,
    event::{FORMAT, Header, MAGIC, Release, UNRECORDED},
    file::{Note, Observer},
    state::AttemptSummary,
};
use sandbox;
use state::{Claim, Lock, LockError, Store, Wait};

/// What is left to write to the state's place at the end may take so long.
const PATIENCE: Duration = Duration::from_secs(60);
/// The same from a signal on: everything must be over within 7 s of it.
const HASTE: Duration = Duration::from_secs(6);

/// What is to be deployed, where, and on whose order.
pub struct Deployment<'a> {
    pub prepared: &'a Prepared,
    pub store: &'a Store,
    pub orders: Orders,
    /// `user@host`.
    pub by: String,
    /// The commit, if it is known.
    pub commit: Option<String>,
    /// The page of the CI job, if it is one.
    pub url: Option<String>,
    /// How long to wait for another deployment.
    pub wait: Wait,
    /// The command that continues this deployment, for hints.
    pub again: String,
    /// The states of the plan's other environments, if old releases are to be removed.
    pub neighbours: Vec<Store>,
    /// The deployments that this one is a part of, the outermost first: `APP/ENVIRONMENT ADDRESS` each.
    pub within: Vec<String>,
}

/// How an attempt ended.
#[derive(Debug)]
pub struct Ending {
    pub exit: Exit,
    pub header: Header,
    pub took: Duration,
    /// What stopped it.
    pub error: Option<Diagnostic>,
    /// What failed without changing how it ended.
    pub warnings: Vec<Notice>,
}

/// An attempt that is under way.
pub(super) struct Attempt<'a> {
    pub(super) prepared: &'a Prepared,
    pub(super) orders: &'a Orders,
    pub(super) interrupt: Interrupt,
    pub(super) header: Header,
    pub(super) lock: &'a Lock,
    pub(super) journal: Journal,
    /// What the steps so far returned.
    pub(super) outputs: BTreeMap<StepId, Map<String, Value>>,
    /// What programs that steps start find in their environment.
    pub(super) surroundings: Surroundings,
}

impl Deployment<'_> {
    /// Deploys: takes the lock, begins an attempt, works through the plan.
    ///
    /// # Errors
    /// What keeps an attempt from beginning. Once it has begun, every end is an [`Ending`].
    pub async fn run(
        mut self,
        interrupt: Interrupt,
        observe: impl FnOnce(&State, &Header) -> Observer,
    ) -> Result<Ending, Vec<Diagnostic>> {
        let one = |diagnostic: Diagnostic| vec![diagnostic];
        let began = Instant::now();
        self.selected_steps_exist()?;
        let mut lock = tokio::select! {
            lock = self.store.claim(self.claim()) => lock.map_err(|error| one((&error).into()))?,
            _ = interrupt.asked() => {
                let message = "interrupted while it waited for the lock; nothing was begun";
                return Err(one(Diagnostic::new(Code("P0303"), Exit::Interrupted, message).hint(format!("run `{}` again", self.again))));
            }
        };
        let paths = self.store.journals().map_err(|error| one((&error).into()))?;
        let loaded = Loaded::read(&paths, |_| {}).map_err(|error| one((&error).into()))?;
        if self.orders.seen.is_some_and(|seen| seen != loaded.state.epoch()) {
            let message = "another deployment went on here since this one was decided on; nothing was begun";
            let hint = format!("see `runner history`, then run `{}` again", self.again);
            return Err(one(Diagnostic::new(Code("P0221"), Exit::Refused, message).hint(hint)));
        }
        self.orders.unrecorded = self.is_unrecorded(&loaded.state).map_err(one)?;
        self.prepared.resources()?;
        self.prepared.migrations(Some(&loaded.state)).await?;

        let epoch = lock.next_epoch(loaded.state.epoch()).map_err(|error| one((&error).into()))?;
        let (commit, url) = (self.commit.clone(), self.url.clone());
        let header = Header { commit, url, ..header(self.prepared, &loaded.state, epoch, &self.by) };
        let path = self.store.journal(epoch);
        let redactor = Redactor::new(self.prepared.plan.secrets.values());
        let torn = loaded.torn.iter().rfind(|(torn, _)| paths.last() == Some(torn)).cloned();
        let observer = observe(&loaded.state, &header);
        let journal = Journal::begin(&path, header.clone(), loaded, redactor, observer);
        let mut journal = journal.map_err(|error| one((&error).into()))?;
        self.open(&mut journal, &lock.resource(), &lock.holder(), torn).map_err(|error| one((&error).into()))?;

        let surroundings = Surroundings::new(self.store, &lock.token(), &header, &self.within);
        let mut attempt = Attempt {
            surroundings,
            prepared: self.prepared,
            orders: &self.orders,
            interrupt,
            header: header.clone(),
            lock: &lock,
            journal,
            outputs: BTreeMap::new(),
        };
        let result = match attempt.announce(&path).await {
            Ok(()) => attempt.procedure().await,
            Err(halt) => Err(halt),
        };
        let (exit, error, warnings) = self.end(&mut attempt, result).await;
        let patience = if attempt.interrupt.is_asked() {
            (attempt.interrupt.asked().await + HASTE).saturating_duration_since(tokio::time::Instant::now())
        } else {
            PATIENCE
        };
        drop(attempt);
        // Nothing of ours may still work when the lock goes.
        sandbox::settle_down().await;
        let (exit, error) = told(exit, error, lock.close(patience).await);
        Ok(Ending { exit, header, took: began.elapsed(), error, warnings })
    }

    /// Whether earlier attempts of this CI run may have begun what is not on record here.
    fn is_unrecorded(&self, state: &State) -> Result<bool, Diagnostic> {
        let is_missing = self.store.checkpoints().is_some_and(|checkpoints| checkpoints.shown().is_missing);
        let of_this_run = |attempt: &&AttemptSummary| attempt.header.url.is_some() && attempt.header.url == self.url;
        let is_here = state.attempts.iter().any(|attempt| of_this_run(&attempt));
        // It stays missing, though what was done since is on record.
        let was_missing = state.attempts.iter().filter(of_this_run).any(|attempt| attempt.unrecorded);
        match self.orders.missing_journal {
            MissingJournal::Probe => Ok(is_missing && !is_here || was_missing),
            MissingJournal::Fail if is_missing && !is_here => {
                let message = "the journal of the attempts before is not among the artifacts of this run";
                Err(Diagnostic::new(Code("P0521"), Exit::InDoubt, message)
                    .because("`missing_journal: fail` lets nothing be done without it")
                    .hint("\"Re-run failed jobs\" keeps it, \"re-run all jobs\" does not; or say `missing_journal: probe`"))
            }
            MissingJournal::Fail | MissingJournal::Restart => Ok(false),
        }
    }

    fn claim(&self) -> Claim {
        let release = &self.prepared.release;
        let digest = release.digest.as_ref().map_or_else(String::new, |digest| format!(" {digest}"));
        let purpose = Some(format!("{}{digest}", release.label));
        Claim { by: self.by.clone(), url: self.url.clone(), purpose, wait: self.wait }
    }

    /// A typing error must not run nothing and end well.
    fn selected_steps_exist(&self) -> Result<(), Vec<Diagnostic>> {
        let named = self.orders.selection.option();
        let accepted = self.orders.accept_drift.iter().map(|step| ("accept-drift", step));
        let unknown = |(option, step): (&str, &StepId)| {
            if self.prepared.index(step).is_some() {
                return None;
            }
            let known: Vec<_> = self.prepared.steps.iter().map(|ready| format!("`{}`", ready.step.id)).collect();
            let message = format!("`--{option} {step}` names no step of the plan");
            let hint = format!("its steps are {}", known.join(", "));
            Some(Diagnostic::new(Code("P0205"), Exit::Refused, message).hint(hint))
        };
        let problems: Vec<_> = named.into_iter().chain(accepted).filter_map(unknown).collect();
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// The records before the first step: plan, lock, and what the operator ordered.
    fn open(
        &self,
        journal: &mut Journal,
        resource: &str,
        holder: &str,
        torn: Option<(std::path::PathBuf, usize)>,
    ) -> Result<(), journal::JournalError> {
        let plan = &self.prepared.plan;
        let digest = Hash::of(plan.source.text.as_bytes());
        let path = plan.source.path.display().to_string();
        journal.note(Note::Plan { digest, path, steps: self.prepared.planned() })?;
        journal.note(Note::Lock { resource: resource.to_owned(), holder: holder.to_owned() })?;
        if let Some((path, bytes)) = torn {
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            journal.note(Note::Torn { file, bytes: bytes as u64 })?;
        }
        if self.orders.unrecorded {
            journal.note(Note::Override { option: UNRECORDED.to_owned(), step: None })?;
        }
        if self.orders.fresh {
            journal.note(Note::Override { option: "fresh".to_owned(), step: None })?;
        }
        if let Some(order) = self.orders.by {
            journal.note(Note::Override { option: order.to_owned(), step: None })?;
        }
        if let Some((option, step)) = self.orders.selection.option() {
            journal.note(Note::Override { option: option.to_owned(), step: Some(step.clone()) })?;
        }
        for step in &self.orders.accept_drift {
            journal.note(Note::Override { option: "accept-drift".to_owned(), step: Some(step.clone()) })?;
        }
        Ok(())
    }

    /// The last record, after a rollback if one is due.
    async fn end(
        &self,
        attempt: &mut Attempt<'_>,
        result: Result<(), Halt>,
    ) -> (Exit, Option<Diagnostic>, Vec<Notice>) {
        let (exit, error) = match result {
            Ok(()) => (Exit::Success, None),
            Err(halt) => {
                // A hook that fails before the first step is no reason to undo what an earlier attempt did.
                let is_of_step = match &halt {
                    Halt::Failed { place, .. } => self.prepared.index(&place.step).is_some(),
                    Halt::Plan(_) => true,
                    Halt::InDoubt { .. }
                    | Halt::NotUndone { .. }
                    | Halt::Irreversible { .. }
                    | Halt::Journal(_)
                    | Halt::Lock(_)
                    | Halt::Interrupted => false,
                };
                let undone =
                    if is_of_step && !attempt.interrupt.is_asked() { Some(attempt.roll_back().await) } else { None };
                // Said only now: a step that was undone will not be skipped.
                let mut diagnostic = self.words(attempt, &halt);
                match undone {
                    Some(Ok(Rollback::Done)) => {
                        diagnostic.exit = Exit::RolledBack;
                        let live = attempt.journal.state().head.live.as_ref();
                        let live =
                            live.map_or_else(String::new, |release| format!("{} is live again; ", release.label));
                        let hint = diagnostic.hint.take().unwrap_or_default();
                        diagnostic.hint = Some(format!("{live}{hint}"));
                    }
                    None | Some(Ok(Rollback::Held(None))) => {}
                    Some(Ok(Rollback::Held(Some(why)))) => {
                        diagnostic = diagnostic.because(format!("not rolled back: {why}"));
                    }
                    Some(Err(worse)) => {
                        let why = diagnostic.message;
                        diagnostic = self.words(attempt, &worse).because(format!("it was being undone since {why}"));
                    }
                }
                (diagnostic.exit, Some(diagnostic))
            }
        };
        let mut warnings = attempt.closing_hooks(exit).await;
        let verified = exit == Exit::Success && self.orders.selection == Selection::All;
        match attempt.journal.end(exit, verified) {
            Ok(()) => {
                if verified {
                    warnings.extend(attempt.prune(&self.neighbours).await);
                }
                (exit, error, warnings)
            }
            Err(journal) if error.is_none() => {
                let diagnostic = Diagnostic::from(&journal);
                (diagnostic.exit, Some(diagnostic), warnings)
            }
            Err(_) => (exit, error, warnings),
        }
    }

    fn words(&self, attempt: &Attempt<'_>, halt: &Halt) -> Diagnostic {
        let state = attempt.journal.state();
        let is_done = |place: &Place| matches!(state.status(place), Some(Status::Succeeded(_)));
        let done = self
            .prepared
            .steps
            .iter()
            .filter(|ready| attempt.outputs.contains_key(&ready.step.id) && is_done(&ready.place));
        let done: Vec<_> = done.map(|ready| ready.step.id.to_string()).collect();
        let halted = match halt {
            Halt::Failed { place, .. }
            | Halt::InDoubt { place, .. }
            | Halt::NotUndone { place, .. }
            | Halt::Irreversible { place, .. } => Some(place),
            Halt::Plan(_) | Halt::Journal(_) | Halt::Lock(_) | Halt::Interrupted => None,
        };
        let next =
            halted.and_then(|place| self.prepared.index(&place.step)).and_then(|at| self.prepared.steps.get(at + 1));
        let way = WayOn { again: &self.again, done: &done, next: next.map(|ready| &ready.step.id) };
        let mut diagnostic = halt.diagnostic(attempt.header.attempt, &way);
        if let Halt::Failed { place, failure, .. } | Halt::NotUndone { place, failure } = halt {
            let step = self.prepared.plan.all_steps().find(|step| step.id == place.step);
            diagnostic.spot = step.and_then(|step| ending::spot(failure, step)).map(Box::new);
        }
        redacted(diagnostic, attempt.journal.redactor())
    }
}

impl Attempt<'_> {
    /// Tells the state's place of this attempt. One that nobody else knows of would be a fork, if this machine were lost and
    /// another went on.
    async fn announce(&self, journal: &std::path::Path) -> Result<(), Halt> {
        tokio::select! {
            biased;
            told = self.lock.follow(journal) => Ok(told?),
            () = self.interrupt.grace_over() => Err(Halt::Interrupted),
        }
    }
}

/// How it ends, where the end could not be told to the state's place, or the lock was lost.
fn told(exit: Exit, error: Option<Diagnostic>, closed: Result<(), LockError>) -> (Exit, Option<Diagnostic>) {
    match (closed, error) {
        (Ok(()), error) => (exit, error),
        (Err(closed), None) => {
            let diagnostic = Diagnostic::from(&closed);
            (diagnostic.exit, Some(diagnostic))
        }
        // That the lock is lost was said already, or is said now, beside what is worse.
        (Err(LockError::Lost { .. }), Some(error)) if error.code == Code("P0503") => (exit, Some(error)),
        (Err(closed), Some(error)) => (exit, Some(error.because(format!("and {closed}")))),
    }
}

/// A module may repeat what a program printed: what the journal hides, the error hides too.
fn redacted(diagnostic: Diagnostic, redactor: &Redactor) -> Diagnostic {
    Diagnostic {
        message: redactor.text(&diagnostic.message),
        causes: diagnostic.causes.iter().map(|cause| redactor.text(cause)).collect(),
        excerpt: diagnostic.excerpt.map(|excerpt| Excerpt { label: redactor.text(&excerpt.label), ..excerpt }),
        hint: diagnostic.hint.map(|hint| redactor.text(&hint)),
        ..diagnostic
    }
}

/// The same release and the newest run unfinished: its next attempt. Otherwise a new run.
pub(super) fn header(prepared: &Prepared, state: &State, epoch: u64, by: &str) -> Header {
    let (run, attempt) = match state.attempts.last() {
        Some(last) if last.header.release.is_same(&prepared.release) && !is_finished(last.exit, last.verified) => {
            (last.header.run.clone(), last.header.attempt.next())
        }
        Some(_) | None => (new_run(epoch, &prepared.release), Number::FIRST),
    };
    Header {
        magic: MAGIC.to_owned(),
        format: FORMAT,
        app: prepared.plan.app.clone(),
        environment: prepared.plan.environment.clone(),
        run,
        attempt,
        epoch,
        release: prepared.release.clone(),
        runner: env!("CARGO_PKG_VERSION").to_owned(),
        by: by.to_owned(),
        commit: None,
        url: None,
    }
}

/// Whether nothing is left to do of a run whose last attempt ended so.
fn is_finished(exit: Option<Exit>, verified: bool) -> bool {
    verified || exit == Some(Exit::RolledBack)
}

/// Short, unique within (app, environment), and telling: the epoch at which the run began, and its release.
fn new_run(epoch: u64, release: &Release) -> RunId {
    let content = release.digest.as_ref().map_or_else(|| release.label.to_string(), ToString::to_string);
    let run = format!("{epoch}-{}", Hash::of(content.as_bytes()).short(6));
    run.parse().expect("digits, a dash and hex digits are a run id")
}
