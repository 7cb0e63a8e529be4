//! Runs the steps of an attempt in the plan's order, each on all its targets: on other hosts at the same time, on this machine one after
//! the other.
//!
//! Invariant: a step begins when the one before has ended on all targets, and nothing begins after a failure on any of them, except on
//! hosts that are [left behind](super::left_behind). With a rollout, the steps that users see, on hosts of its group, do so batch by batch.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
};

use serde_json::{Map, Value};

use super::{
    AttemptError, PlannedStep,
    assumed_steps::{assumed_outputs, assumed_receipt, receipt_in_rollback},
    attempt::RunningAttempt,
    left_behind::leave_failed_hosts_behind,
    rehearsal,
    step::{StepRunner, check_recorded_receipt},
};
use contract::{
    TargetName,
    diagnostic::{Diagnostic, ErrorCode, Notice},
    step::StepPhase,
    text::format_duration,
};
use journal::{
    RecordStatus, StepRecord, StepTarget,
    decision::StepDisposition,
    event::{Decision, DecisionReason, ROLLBACK},
};
use plan::Rollout;

/// What is checked once, when it is known.
#[derive(Default)]
struct LateChecks {
    migrations: BTreeSet<StepTarget>,
    is_machine_checked: bool,
    is_rehearsed: bool,
}

/// A step on all its targets.
struct SelectedStep<'p> {
    /// Its position in the plan.
    index: usize,
    on: &'p [PlannedStep],
    disposition: StepDisposition,
}

/// Runs all selected steps.
pub(super) async fn run_all_steps(attempt: &mut RunningAttempt<'_>) -> Result<(), AttemptError> {
    let (prepared, selection) = (attempt.prepared(), &attempt.overrides().selection);
    let named_index = selection.option().and_then(|(_, step)| prepared.index(step));
    // Back to a release that was live, or to nothing new, it goes at once.
    let rollout = prepared.plan.rollout.as_ref().filter(|_| is_forward(attempt));
    let after_setup = prepared.first_step_after_setup().unwrap_or(0);
    // Users see nothing of what prepares a host.
    let is_rolled_out = |rollout: &Rollout, step: &SelectedStep<'_>| {
        step.index >= after_setup
            && step.on.iter().any(|planned| {
                planned.description.phase != StepPhase::Prepare && rollout.hosts.contains(&planned.step_target.target)
            })
    };
    let selected = |(index, on)| SelectedStep { index, on, disposition: selection.disposition_of(index, named_index) };
    let mut steps = prepared.steps_on_targets().map(selected).peekable();
    let mut checks = LateChecks::default();
    while let Some(step) = steps.next() {
        match rollout.filter(|rollout| is_rolled_out(rollout, &step)) {
            None => run_step(attempt, &step, &mut checks, &|_| true, None).await?,
            Some(rollout) => {
                let mut in_batches = vec![step];
                while let Some(next) = steps.next_if(|next| is_rolled_out(rollout, next)) {
                    in_batches.push(next);
                }
                roll_out(attempt, rollout, &in_batches, &mut checks).await?;
            }
        }
    }
    attempt.error_of_hosts_left_behind().map_or(Ok(()), Err)
}

/// Whether the attempt deploys a release, instead of going back to one or adopting what is there.
fn is_forward(attempt: &RunningAttempt<'_>) -> bool {
    attempt.overrides().command != Some(ROLLBACK) && !attempt.overrides().is_import()
}

/// Runs steps that follow each other on the hosts of one batch after the other. Targets outside of the group follow with the last one.
async fn roll_out(
    attempt: &mut RunningAttempt<'_>,
    rollout: &Rollout,
    steps: &[SelectedStep<'_>],
    checks: &mut LateChecks,
) -> Result<(), AttemptError> {
    let count = rollout.batches.len();
    let chosen = |host: &TargetName| {
        let runs =
            |planned: &PlannedStep| planned.step_target.target == *host && attempt.prepared().takes_part(planned);
        !attempt.is_left_behind(host) && steps.iter().flat_map(|step| step.on).any(runs)
    };
    let batches = rollout.added(chosen);
    for (number, added) in (1..).zip(&batches) {
        let is_last = number == count;
        let is_in_batch = |target: &TargetName| added.contains(target) || is_last && !rollout.hosts.contains(target);
        for step in steps {
            run_step(attempt, step, checks, &is_in_batch, Some(added)).await?;
        }
        let is_pause_due = match batches.get(number) {
            Some(next) => !rollout.pause.is_zero() && is_pause_due(attempt, steps, added, next),
            None => false,
        };
        if is_pause_due {
            let pause = format_duration(u64::try_from(rollout.pause.as_millis()).unwrap_or(u64::MAX));
            let until = batches[..number].iter().flatten().filter(|host| !attempt.is_left_behind(host)).count();
            let done = format!("batch {number} of {count} is done ({until} of {} hosts)", rollout.hosts.len());
            attempt.prepared().show(Notice::note(format!("{done}; the next one begins in {pause}")));
            attempt.interrupt.pause(rollout.pause).await?;
        }
    }
    Ok(())
}

/// Whether this run, be it in an earlier attempt, did anything on the hosts of a batch, and something is left to do on the next ones.
fn is_pause_due(
    attempt: &RunningAttempt<'_>,
    steps: &[SelectedStep<'_>],
    batch: &BTreeSet<&TargetName>,
    next: &BTreeSet<&TargetName>,
) -> bool {
    let state = attempt.state();
    let on = |hosts: &BTreeSet<&TargetName>| {
        let steps = steps.iter().flat_map(|step| step.on);
        let targets = steps.map(|planned| &planned.step_target);
        let targets = targets.filter(|it| hosts.contains(&it.target) && !attempt.is_left_behind(&it.target));
        targets.map(|step_target| state.records.get(step_target)).collect::<Vec<_>>()
    };
    let is_of_run = |record: &StepRecord| record.intent.run == attempt.header.run;
    let is_done = |record: &StepRecord| is_of_run(record) && matches!(record.status, RecordStatus::Succeeded(_));
    on(batch).into_iter().flatten().any(is_of_run) && !on(next).into_iter().all(|record| record.is_some_and(is_done))
}

/// Runs a step on those of its targets that `is_included`; of a rollout, those of a batch.
async fn run_step(
    attempt: &mut RunningAttempt<'_>,
    step: &SelectedStep<'_>,
    checks: &mut LateChecks,
    is_included: &dyn Fn(&TargetName) -> bool,
    batch: Option<&BTreeSet<&TargetName>>,
) -> Result<(), AttemptError> {
    let prepared = attempt.prepared();
    if prepared.first_step_after_setup() == Some(step.index) && !std::mem::replace(&mut checks.is_machine_checked, true)
    {
        let problems = prepared.problems_after_setup().await;
        attempt.leave_behind_after_setup(problems)?;
    }
    let is_rollback = attempt.overrides().command == Some(ROLLBACK);
    if step.on.iter().any(|planned| planned.description.phase != StepPhase::Prepare) && !is_rollback {
        check_late_migrations(attempt, &mut checks.migrations).await?;
    }
    let is_first_commit = || step.on.iter().any(|planned| planned.description.phase == StepPhase::Commit);
    if is_forward(attempt) && is_first_commit() && !std::mem::replace(&mut checks.is_rehearsed, true) {
        rehearsal::rehearse_commit_steps(attempt).await?;
    }
    let included = step.on.iter().filter(|planned| is_included(&planned.step_target.target));
    let (included, left_out): (Vec<_>, Vec<_>) = included.partition(|planned| prepared.takes_part(planned));
    for planned in left_out {
        let outputs = match attempt.overrides().leaves_out_of_rollback(planned) {
            true => receipt_in_rollback(&attempt.state(), planned).outputs,
            false => assumed_outputs(&attempt.state(), planned, &attempt.header.release),
        };
        if !outputs.is_empty() {
            attempt.outputs.insert(&planned.step_target, outputs);
        }
    }
    loop {
        let placed = included.iter().filter_map(|planned| attempt.placed(planned).map(|placed| (*planned, placed)));
        let placed: Vec<_> = placed.collect();
        let without_host = included.iter().find(|planned| {
            let is_once = planned.host_name() != planned.step_target.target;
            is_once && !placed.iter().any(|(known, _)| std::ptr::eq(*known, **planned))
        });
        if let Some(planned) = without_host {
            return Err(AttemptError::Host(no_host_for(attempt, planned)));
        }
        let errors = run_on_targets(attempt, step, placed.into_iter().map(|(_, placed)| placed), batch).await;
        if let [(planned, error)] = errors.as_slice()
            && attempt.leave_lost_host_behind(planned, error)?
        {
            continue;
        }
        return leave_failed_hosts_behind(attempt, errors, batch).await;
    }
}

/// The error of a step that runs once for a group of which no host can run it.
fn no_host_for(attempt: &RunningAttempt<'_>, planned: &PlannedStep) -> Diagnostic {
    let StepTarget { step, target } = &planned.step_target;
    let message = format!("step `{step}` runs once for `{target}`, and no host that is left there can run it");
    let left_behind = attempt.left_behind.borrow();
    let diagnostic = Diagnostic::new(ErrorCode::HostUnreachable, message)
        .with_hint(format!("repair a host of `{target}`, then run `{}` again", attempt.request.resume_command));
    left_behind
        .iter()
        .fold(diagnostic, |diagnostic, (host, left)| diagnostic.with_cause(format!("{host}: {}", left.why)))
}

/// Runs a step on targets, keeps what it returns, and returns the errors.
async fn run_on_targets<'p>(
    attempt: &mut RunningAttempt<'_>,
    step: &SelectedStep<'_>,
    targets: impl Iterator<Item = &'p PlannedStep>,
    batch: Option<&BTreeSet<&TargetName>>,
) -> Vec<(&'p PlannedStep, AttemptError)> {
    let shared = &*attempt;
    let failed_hosts = RefCell::new(BTreeSet::new());
    let stops = |planned: &PlannedStep, error: &AttemptError| {
        failed_hosts.borrow_mut().insert(planned.host_name());
        !shared.is_of_one_host(planned, error) || !shared.may_go_on_without(&*failed_hosts.borrow(), batch)
    };
    let run = async |planned| run_on_target(shared, planned, step.disposition).await;
    let (ended, errors) = on_each_target(targets, run, stops).await;
    for (planned, outputs) in ended {
        if let Some(outputs) = outputs {
            attempt.outputs.insert(&planned.step_target, outputs);
        }
    }
    errors
}

/// Runs something for a step on each of its targets; after an error that `stops`, what has not begun on this machine does not begin.
/// Returns what it gave where it succeeded, and the errors.
pub(super) async fn on_each_target<'p, T>(
    of_step: impl IntoIterator<Item = &'p PlannedStep>,
    run: impl AsyncFn(&'p PlannedStep) -> Result<T, AttemptError>,
    stops: impl Fn(&'p PlannedStep, &AttemptError) -> bool,
) -> (Vec<(&'p PlannedStep, T)>, Vec<(&'p PlannedStep, AttemptError)>) {
    let (here, elsewhere): (Vec<_>, Vec<_>) =
        of_step.into_iter().partition(|planned| planned.step.remote_host().is_none());
    let is_stopped = Cell::new(false);
    let run = async |planned| {
        let result = run(planned).await;
        let stops = result.as_ref().err().is_some_and(|error| stops(planned, error));
        is_stopped.set(is_stopped.get() || stops);
        (planned, result)
    };
    let here = async {
        let mut ended = Vec::new();
        for planned in here {
            if is_stopped.get() {
                break;
            }
            ended.push(run(planned).await);
        }
        ended
    };
    let elsewhere = futures_util::future::join_all(elsewhere.into_iter().map(&run));
    let (here, elsewhere) = futures_util::future::join(here, elsewhere).await;
    let (mut succeeded, mut errors) = (Vec::new(), Vec::new());
    for (planned, result) in here.into_iter().chain(elsewhere) {
        match result {
            Ok(value) => succeeded.push((planned, value)),
            Err(error) => errors.push((planned, error)),
        }
    }
    (succeeded, errors)
}

/// Runs a step on a target, if it is selected, and returns its outputs.
async fn run_on_target(
    attempt: &RunningAttempt<'_>,
    planned: &PlannedStep,
    disposition: StepDisposition,
) -> Result<Option<Map<String, Value>>, AttemptError> {
    Ok(Some(match disposition {
        StepDisposition::Exclude => return Ok(None),
        StepDisposition::AssumeDone => assume_done(attempt, planned, DecisionReason::RequestedByOperator)?,
        // The release was verified here with this database or an older one, and its files may be gone.
        StepDisposition::Evaluate { .. } if attempt.overrides().leaves_out_of_rollback(planned) => {
            assume_done(attempt, planned, DecisionReason::NotInRollback)?
        }
        StepDisposition::Evaluate { selected_by_name } => {
            StepRunner { attempt }.run(planned, selected_by_name).await?.outputs
        }
    }))
}

/// Checks the migrations whose directory is known since the last step, before a step commits anything.
async fn check_late_migrations(
    attempt: &mut RunningAttempt<'_>,
    checked: &mut BTreeSet<StepTarget>,
) -> Result<(), AttemptError> {
    let prepared = attempt.prepared();
    for planned in &prepared.steps {
        let is_late = planned.description.behaviors.migrates.is_some() && !planned.step.pending.is_empty();
        if !is_late || checked.contains(&planned.step_target) || attempt.placed(planned).is_none() {
            continue;
        }
        // Until all its lookups are known, there is nothing to check.
        let Ok(config) = attempt.with_view(|view| view.resolve_config(planned)) else { continue };
        checked.insert(planned.step_target.clone());
        let found = prepared.check_migrations_of(planned, config, attempt.journal.get_mut().state()).await;
        if let Some(first) = found.err().and_then(|problems| problems.into_iter().next()) {
            return Err(AttemptError::Plan(first));
        }
    }
    Ok(())
}

/// Assumes that a step is done: it comes before the named one, or is not part of a rollback. Returns its recorded outputs.
fn assume_done(
    attempt: &RunningAttempt<'_>,
    planned: &PlannedStep,
    reason: DecisionReason,
) -> Result<Map<String, Value>, AttemptError> {
    let mut journal = attempt.journal.borrow_mut();
    let receipt = if reason == DecisionReason::NotInRollback {
        receipt_in_rollback(journal.state(), planned)
    } else {
        assumed_receipt(journal.state(), planned, &attempt.header.release)
    };
    check_recorded_receipt(planned, &journal, &receipt)?;
    let outputs = receipt.outputs.clone();
    journal.record_decision(&planned.step_target, Decision::Skip { reason, receipt })?;
    Ok(outputs)
}
