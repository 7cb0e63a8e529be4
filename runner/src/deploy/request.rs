//! The request for a deployment, and the checks before its attempt begins.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    Interrupt, PlannedStep, PreflightScope, PreparedPlan, SiblingEnvironment, UnrecordedRelease,
    preflight::header_problem,
};
use contract::{
    MachineId, StepId,
    diagnostic::{Diagnostic, ErrorCode, Notice},
    hash::Blake3Hash,
};
use journal::{
    JournalState, LoadedJournals,
    decision::Selection,
    event::{IMPORT, ROLLBACK},
    state::AttemptSummary,
};
use plan::{closest_match, quoted_list};
use sandbox::{LeftoverProgram, NoticeHandler};
use state::{DeploymentLock, LockRecord, LockRequest, LockWait, LockWaitObserver, StateStore};

/// The file beside a journal that says which programs run for its attempt.
const PROGRAMS_FILE: &str = "programs";

/// The path of that file.
pub(crate) fn program_records_path(journal: &Path) -> PathBuf {
    journal.with_file_name(PROGRAMS_FILE)
}

/// What to deploy, to which environment, and for which operator.
pub struct DeploymentRequest<'a> {
    pub prepared: &'a PreparedPlan,
    pub store: &'a StateStore,
    pub overrides: DeployOverrides,
    /// `user@host`.
    pub operator: String,
    /// The commit, if it is known.
    pub commit: Option<String>,
    /// The page of the CI job, if it is one.
    pub url: Option<String>,
    /// The identity of this machine, if it has one.
    pub machine: Option<MachineId>,
    /// How long to wait for the lock.
    pub wait: LockWait,
    /// The command that continues this deployment, for hints.
    pub resume_command: String,
    /// `runner resolve` for this environment, for hints.
    pub resolve_command: Option<String>,
    /// The plan's other environments, whose releases must not be pruned.
    pub siblings: Vec<SiblingEnvironment>,
    /// The deployments that this one runs inside, the outermost first, each as `APP/ENVIRONMENT ADDRESS`.
    pub parent_deployments: Vec<String>,
    /// The handler of notices before the attempt begins.
    pub notify: NoticeHandler,
}

/// The operator's options.
#[derive(Clone, Debug, Default)]
pub struct DeployOverrides {
    /// The selected steps.
    pub selection: Selection,
    /// `--limit`, as written: the hosts that take part.
    pub limit: Option<String>,
    /// `--fresh`.
    pub fresh: bool,
    /// The steps of `--accept-drift`.
    pub accept_drift: BTreeSet<StepId>,
    /// The steps of `--rerun`.
    pub rerun: BTreeSet<StepId>,
    /// What to do if the journals of earlier attempts of the same CI run are missing.
    pub missing_journal: MissingJournalPolicy,
    /// Whether those journals are missing, so that every step may have begun. Set before the lock is taken, it says that they are
    /// missing unless this machine has them.
    pub journal_missing: bool,
    /// The command that the journal records, if it is not `deploy`.
    pub command: Option<&'static str>,
    /// The newest line of the journals when this deployment was planned. If there is a newer one under the lock, the
    /// deployment is refused.
    pub expected_last_line: Option<Blake3Hash>,
}

/// What to do if the journals of earlier attempts of the same CI run are missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MissingJournalPolicy {
    /// Probe every step, because it may have begun.
    #[default]
    Probe,
    /// Refuse to deploy.
    Fail,
    /// Assume that no step has begun.
    Restart,
}

/// Whether a state never leaves this machine.
pub(super) fn is_local_state(store: &StateStore) -> bool {
    store.is_folder() && store.checkpoints().is_none()
}

/// The journals of earlier attempts.
pub(super) struct EarlierJournals {
    pub(super) loaded: LoadedJournals,
    /// The newest file and how many bytes of it were dropped, if its last line was torn.
    pub(super) torn_tail: Option<(PathBuf, usize)>,
}

impl DeployOverrides {
    /// The option that leaves out a part of the plan, with its value.
    pub(super) fn partial_option(&self) -> Option<String> {
        let step = self.selection.option().map(|(option, step)| format!("--{option} {step}"));
        step.or_else(|| self.limit.as_ref().map(|limit| format!("--limit {limit}")))
    }

    /// Whether the attempt only adopts what is there.
    pub(super) fn is_import(&self) -> bool {
        self.command == Some(IMPORT)
    }

    /// Refuses options that name an unknown step. Otherwise a typo would run nothing and succeed.
    pub(super) fn check_named_steps(&self, prepared: &PreparedPlan) -> Result<(), Vec<Diagnostic>> {
        let named = self.selection.option();
        let accepted = self.accept_drift.iter().map(|step| ("accept-drift", step));
        let rerun = self.rerun.iter().map(|step| ("rerun", step));
        let unknown = |(option, step): (&str, &StepId)| {
            if prepared.index(step).is_some() {
                return None;
            }
            let known = || prepared.steps.iter().map(|planned| planned.step.id.as_str());
            let message = format!("`--{option} {step}` names an unknown step");
            let hint = match closest_match(step.as_str(), known()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("choose one of {}", quoted_list(known())),
            };
            Some(Diagnostic::new(ErrorCode::UnknownStep, message).with_hint(hint))
        };
        let problems: Vec<_> = named.into_iter().chain(accepted).chain(rerun).filter_map(unknown).collect();
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// How much the preflight checks. A part of the steps, a rollback and an import do not wait for what only other steps need.
    #[must_use]
    pub fn preflight_scope(&self) -> PreflightScope {
        match (&self.selection, self.command) {
            (Selection::All, Some(ROLLBACK | IMPORT)) => PreflightScope::Plan,
            (Selection::All, _) => PreflightScope::Machine,
            (Selection::StartFrom(_) | Selection::Until(_) | Selection::Only(_), _) => PreflightScope::Plan,
        }
    }

    /// Whether the attempt is a rollback, and the step no part of one: it migrates.
    pub(super) fn leaves_out_of_rollback(&self, planned: &PlannedStep) -> bool {
        self.command == Some(ROLLBACK) && planned.description.behaviors.migrates.is_some()
    }

    /// Whether `--rerun` names the step.
    pub(super) fn reruns(&self, planned: &PlannedStep) -> bool {
        self.rerun.contains(&planned.step.id)
    }

    /// Whether `--rerun` names a step that it depends on.
    pub(super) fn reruns_upstream_of(&self, planned: &PlannedStep) -> bool {
        !self.rerun.is_disjoint(&planned.upstream)
    }
}

impl DeploymentRequest<'_> {
    /// Whether the state never leaves this machine: it is in a folder, and not in the artifacts of a CI run.
    pub(super) fn is_local_state(&self) -> bool {
        is_local_state(self.store)
    }

    /// Refuses an import that could not look at all hosts.
    pub(super) fn refuse_import_without_hosts(&self) -> Result<(), Vec<Diagnostic>> {
        let left_behind: Vec<_> = self.prepared.left_behind().into_values().collect();
        if self.overrides.is_import() && !left_behind.is_empty() { Err(left_behind) } else { Ok(()) }
    }

    /// Refuses secrets in what lock and journal record of the CI job. The preflight checked the rest.
    pub(super) fn check_recorded_values(&self) -> Result<(), Vec<Diagnostic>> {
        let values = [("the commit", self.commit.as_deref()), ("the URL of the CI job", self.url.as_deref())];
        let problem = |(what, value)| header_problem(what, value, &self.prepared.redactor);
        let problems: Vec<_> = values.into_iter().filter_map(problem).collect();
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// Acquires the lock. Gives up if the process is interrupted.
    pub(super) async fn take_lock(&self, interrupt: &Interrupt) -> Result<DeploymentLock, Diagnostic> {
        let release = &self.prepared.release;
        let digest = release.digest.as_ref().map_or_else(String::new, |digest| format!(" {digest}"));
        let purpose = Some(format!("{}{digest}", release.label));
        let by = self.prepared.redactor.redact(&self.operator);
        let notify = NoticeHandler::clone(&self.notify);
        let observer =
            LockWaitObserver(std::sync::Arc::new(move |record, waited| notify(lock_wait_notice(record, waited))));
        let lock_request =
            LockRequest { by, url: self.url.clone(), purpose, wait: self.wait, observer: Some(observer) };
        tokio::select! {
            lock = self.store.acquire_lock(lock_request) => lock.map_err(|error| (&error).into()),
            _ = interrupt.requested() => {
                let message = "interrupted while waiting for the lock; nothing was started";
                Err(Diagnostic::new(ErrorCode::Interrupted, message)
                    .with_hint(format!("run `{}` again", self.resume_command)))
            }
        }
    }

    /// Ends the programs that an attempt left running when it was killed, so that no step runs beside an earlier run of it.
    pub(super) async fn end_leftover_programs(&self, interrupt: &Interrupt) -> Result<(), Diagnostic> {
        let records = program_records_path(&self.store.journal_path(0));
        let notify = |program: &LeftoverProgram| {
            let LeftoverProgram { step, pid } = program;
            let message = format!(
                "step `{step}` of an attempt that was killed or lost its lock left a program running (process {pid}): ending it"
            );
            (self.notify)(Notice::warning(message));
        };
        let ended = tokio::select! {
            ended = sandbox::end_leftover_programs(&records, notify) => ended,
            _ = interrupt.requested() => {
                let message = "interrupted while ending a program of a killed attempt; nothing was started";
                let hint = format!("run `{}` again", self.resume_command);
                return Err(Diagnostic::new(ErrorCode::Interrupted, message).with_hint(hint));
            }
        };
        match ended {
            Ok(None) => Ok(()),
            Ok(Some(LeftoverProgram { step, pid })) => {
                let message = format!("a program of step `{step}` from an earlier attempt is still running");
                Err(Diagnostic::new(ErrorCode::ProgramRunning, message)
                    .with_cause(format!("process {pid} did not end when it was asked to"))
                    .with_hint(format!(
                        "end it (`kill -9 {pid}`) or wait for its end, then run `{}` again",
                        self.resume_command
                    )))
            }
            Err(error) => Err(Diagnostic::new(
                ErrorCode::ProgramRunning,
                "can't find out whether an earlier attempt left a program running",
            )
            .with_cause(format!("{}: {error}", records.display()))
            .with_hint(format!(
                "make the file readable, or remove it once no program of a step runs, then run `{}` again",
                self.resume_command
            ))),
        }
    }

    /// Reads the journals of earlier attempts, and checks that none wrote to them since this one was planned.
    pub(super) fn read_journals(&self) -> Result<EarlierJournals, Diagnostic> {
        let loaded = self.store.load(|_| {}).map_err(|error| Diagnostic::from(&error))?;
        let expected = self.overrides.expected_last_line;
        if expected.is_some() && expected != loaded.state.last_line_hash {
            let message = "another deployment ran after this one was planned; nothing was started";
            let hint = "check `runner history`, then run the rollback again if you still need it";
            return Err(Diagnostic::new(ErrorCode::StaleDecision, message).with_hint(hint));
        }
        let torn_tail = loaded.torn_files.iter().rfind(|(torn, _)| loaded.newest_file.as_ref() == Some(torn)).cloned();
        Ok(EarlierJournals { loaded, torn_tail })
    }

    /// The release that is live and not on record. An import must have one, and be of that release; anything else is told of it.
    pub(super) fn unrecorded_release(
        &self,
        state: &JournalState,
    ) -> Result<Option<UnrecordedRelease>, Vec<Diagnostic>> {
        let found = UnrecordedRelease::find(&self.prepared.plan, state);
        let release = &self.prepared.release;
        let is_same = |found: &UnrecordedRelease| Some(&found.digest) == release.digest.as_ref();
        let refused = |code, message, cause: String, hint: &str| {
            Err(vec![Diagnostic::new(code, message).with_cause(cause).with_hint(hint)])
        };
        match found {
            found if !self.overrides.is_import() => {
                if let Some(other) = found.as_ref().filter(|found| !is_same(found)) {
                    (self.notify)(Notice::warning(format!(
                        "{}: a rollback can't go back to it; `runner import --local --release LABEL` adds it to the history",
                        other.description()
                    )));
                }
                Ok(found)
            }
            Some(found) if is_same(&found) => Ok(Some(found)),
            Some(found) => refused(
                ErrorCode::OtherReleaseLive,
                format!("{} is not the release that is live", release.label),
                found.description(),
                "import the release with that digest; `sha256sum ARCHIVE` prints it",
            ),
            None => {
                let live = state.head.live.as_ref().map_or_else(
                    || "no link next to a `releases` folder points to a release".to_owned(),
                    |live| format!("{} is on record as live", live.label),
                );
                let hint =
                    "`runner status` shows what is on record; deploy a release with `runner deploy --release LABEL`";
                refused(ErrorCode::NothingToImport, "there is nothing to import".to_owned(), live, hint)
            }
        }
    }

    /// Whether earlier attempts of this CI run may have begun steps that the journals here do not record.
    pub(super) fn is_journal_missing(&self, state: &JournalState) -> Result<bool, Diagnostic> {
        let checkpoints = self.store.checkpoints();
        let is_missing =
            self.overrides.journal_missing || checkpoints.is_some_and(|checkpoints| checkpoints.status().is_missing);
        let of_this_run = |attempt: &&AttemptSummary| attempt.header.url.is_some() && attempt.header.url == self.url;
        let is_here = state.attempts.iter().any(|attempt| of_this_run(&attempt));
        // Once an attempt found it missing, it counts as missing for all later attempts of the same CI run.
        let was_missing = state.attempts.iter().filter(of_this_run).any(|attempt| attempt.journal_missing);
        match self.overrides.missing_journal {
            MissingJournalPolicy::Probe => Ok(is_missing && !is_here || was_missing),
            MissingJournalPolicy::Fail if is_missing && !is_here => {
                let message = "the journal of earlier attempts is missing from the artifacts of this run";
                Err(Diagnostic::new(ErrorCode::PreviousJournalMissing, message)
                    .with_cause("`missing_journal: fail` refuses to deploy without it")
                    .with_hint("use \"Re-run failed jobs\", which keeps it, or set `missing_journal: probe`"))
            }
            MissingJournalPolicy::Fail | MissingJournalPolicy::Restart => Ok(false),
        }
    }
}

fn lock_wait_notice(record: &LockRecord, waited: Duration) -> Notice {
    let holder = record.holder.as_ref().map_or_else(|| "another deployment".to_owned(), ToString::to_string);
    Notice::note(format!(
        "waiting for the lock on {} ({} s so far): {holder} has held it since {}",
        record.resource,
        waited.as_secs(),
        record.since
    ))
}
