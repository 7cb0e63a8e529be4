//! One attempt: lock, journal, the steps, and how it ends.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde_json::{Map, Value};

use super::{Halt, Interrupt, Orders, Prepared, ending::WayOn, undo::Rollback};
use crate::{
    diagnose::{Code, Diagnostic, Excerpt, Exit},
    journal::{
        Journal, Loaded, Place, Redactor, State, Status,
        event::{FORMAT, Hash, Header, MAGIC, Release},
        file::{Note, Observer},
    },
    plan::{Attempt as Number, RunId, StepId},
    sandbox,
    schedule::Selection,
    state::Store,
};

/// What is to be deployed, where, and on whose order.
pub struct Deployment<'a> {
    pub prepared: &'a Prepared,
    pub store: &'a Store,
    pub orders: Orders,
    /// `user@host`.
    pub by: String,
    /// The command that continues this deployment, for hints.
    pub again: String,
}

/// How an attempt ended.
#[derive(Debug)]
pub struct Ending {
    pub exit: Exit,
    pub header: Header,
    pub took: Duration,
    /// What stopped it.
    pub error: Option<Diagnostic>,
}

/// An attempt that is under way.
pub(super) struct Attempt<'a> {
    pub(super) prepared: &'a Prepared,
    pub(super) orders: &'a Orders,
    pub(super) interrupt: Interrupt,
    pub(super) header: Header,
    pub(super) journal: Journal,
    /// What the steps so far returned.
    pub(super) outputs: BTreeMap<StepId, Map<String, Value>>,
}

impl Deployment<'_> {
    /// Deploys: takes the lock, begins an attempt, works through the plan.
    ///
    /// # Errors
    /// What keeps an attempt from beginning. Once it has begun, every end is an [`Ending`].
    pub async fn run(
        self,
        interrupt: Interrupt,
        observe: impl FnOnce(&State, &Header) -> Observer,
    ) -> Result<Ending, Vec<Diagnostic>> {
        let one = |diagnostic: Diagnostic| vec![diagnostic];
        let began = Instant::now();
        self.selected_steps_exist()?;
        let mut lock = self.store.lock(&self.by).map_err(|error| one((&error).into()))?;
        let paths = self.store.journals().map_err(|error| one((&error).into()))?;
        let loaded = Loaded::read(&paths, |_| {}).map_err(|error| one((&error).into()))?;
        self.prepared.resources()?;
        self.prepared.migrations(Some(&loaded.state)).await?;

        let newest = loaded.state.attempts.last().map_or(0, |attempt| attempt.header.epoch);
        let epoch = lock.next_epoch(newest).map_err(|error| one((&error).into()))?;
        let header = header(self.prepared, &loaded.state, epoch, &self.by);
        let path = self.store.journal(epoch);
        let redactor = Redactor::new(self.prepared.plan.secrets.values());
        let torn = loaded.torn.iter().rfind(|(torn, _)| paths.last() == Some(torn)).cloned();
        let observer = observe(&loaded.state, &header);
        let journal = Journal::begin(&path, header.clone(), loaded, redactor, observer);
        let mut journal = journal.map_err(|error| one((&error).into()))?;
        self.open(&mut journal, lock.resource(), lock.holder(), torn).map_err(|error| one((&error).into()))?;

        let mut attempt = Attempt {
            prepared: self.prepared,
            orders: &self.orders,
            interrupt,
            header: header.clone(),
            journal,
            outputs: BTreeMap::new(),
        };
        let result = attempt.steps().await;
        let (exit, error) = self.end(&mut attempt, result).await;
        // Nothing of ours may still work when the lock goes.
        sandbox::settle_down().await;
        drop(lock);
        Ok(Ending { exit, header, took: began.elapsed(), error })
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
    ) -> Result<(), crate::journal::JournalError> {
        let plan = &self.prepared.plan;
        let digest = Hash::of(plan.source.text.as_bytes());
        let path = plan.source.path.display().to_string();
        journal.note(Note::Plan { digest, path, steps: self.prepared.planned() })?;
        journal.note(Note::Lock { resource: resource.to_owned(), holder: holder.to_owned() })?;
        if let Some((path, bytes)) = torn {
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            journal.note(Note::Torn { file, bytes: bytes as u64 })?;
        }
        if self.orders.fresh {
            journal.note(Note::Override { option: "fresh".to_owned(), step: None })?;
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
    async fn end(&self, attempt: &mut Attempt<'_>, result: Result<(), Halt>) -> (Exit, Option<Diagnostic>) {
        let (exit, error) = match result {
            Ok(()) => (Exit::Success, None),
            Err(halt) => {
                let undone = if matches!(halt, Halt::Failed { .. } | Halt::Plan(_)) && !attempt.interrupt.is_asked() {
                    Some(attempt.roll_back().await)
                } else {
                    None
                };
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
        let verified = exit == Exit::Success && self.orders.selection == Selection::All;
        match attempt.journal.end(exit, verified) {
            Ok(()) => (exit, error),
            Err(journal) if error.is_none() => {
                let diagnostic = Diagnostic::from(&journal);
                (diagnostic.exit, Some(diagnostic))
            }
            Err(_) => (exit, error),
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
            Halt::Failed { place, .. } | Halt::InDoubt { place, .. } | Halt::NotUndone { place, .. } => Some(place),
            Halt::Plan(_) | Halt::Journal(_) | Halt::Interrupted => None,
        };
        let next =
            halted.and_then(|place| self.prepared.index(&place.step)).and_then(|at| self.prepared.steps.get(at + 1));
        let way = WayOn { again: &self.again, done: &done, next: next.map(|ready| &ready.step.id) };
        redacted(halt.diagnostic(attempt.header.attempt, &way), attempt.journal.redactor())
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
