//! After an undo of the exposing step: what depends on it runs again for the release that is live now, then its checks run.
//!
//! Invariant: a release is called live again only if everything that this run began after the exposing step was undone or repeated for
//! it, and every check held after that. A step is repeated with the input on record of the release's verified run, under the grants of
//! the current plan. Deliberately absent: undoing ([`super::undo`]).

use serde_json::Value;

use super::{AttemptError, PlannedStep, attempt::RunningAttempt, resolve::ResolvedStep, step::StepRunner, steps};
use contract::{
    TargetName,
    step::{FailureKind, StepPhase},
};
use journal::{RecordStatus, Redactor, StepRecord, StepTarget, event::Release, state::IntentRecord};
use plan::{ArgumentPattern, ProgramGrant};

/// How switching back to the release before ended.
pub(super) struct SwitchBack {
    /// The release that the link points to again; none if nothing was live.
    release: Option<Release>,
    /// The steps that were not repeated for it, and the checks that failed, each with the reason.
    omissions: Vec<(StepTarget, String)>,
    /// What this run did and a rollback can't undo.
    pub(super) remaining: Vec<String>,
}

/// Whether a step runs again after the undo.
enum Repetition {
    /// It runs again.
    Repeated,
    /// The release before does not need it.
    NotNeeded,
    /// It would have to, and does not.
    Omitted(&'static str),
}

impl SwitchBack {
    /// The sentence for the hint.
    pub(super) fn summary(&self, redactor: &Redactor) -> String {
        let label = match (&self.release, self.omissions.is_empty()) {
            (Some(release), _) => release.label.as_str(),
            (None, true) => "nothing",
            (None, false) => "what each host showed",
        };
        match self.doubt() {
            None => format!("{label} is live again"),
            Some(doubt) => format!("switched back to {label}; not verified: {}", redactor.redact(&doubt)),
        }
    }

    /// Why the release is not verified.
    fn doubt(&self) -> Option<String> {
        // A program's last lines may be a part of it.
        let in_one_line = |why: &str| why.lines().map(str::trim).collect::<Vec<_>>().join(" ");
        let whys = self.omissions.iter().map(|(step_target, why)| format!("{step_target} {}", in_one_line(why)));
        let whys: Vec<_> = whys.collect();
        (!whys.is_empty()).then(|| whys.join(", "))
    }
}

/// Repeats and checks what must follow the undo of `undone`, whose last one is the exposing step, and records the result. With a host, it
/// does so there only: the other hosts may show another release. `not_undone` are staged steps whose undo failed.
pub(super) async fn switch_back(
    attempt: &mut RunningAttempt<'_>,
    undone: &[StepTarget],
    host: Option<&TargetName>,
    not_undone: &[StepTarget],
) -> Result<SwitchBack, AttemptError> {
    let (release, is_mixed) = {
        let state = attempt.state();
        match host {
            None => (state.head.live.clone(), state.head.is_mixed()),
            Some(host) => (state.head.live_on(host).cloned(), false),
        }
    };
    let omissions = not_undone.iter().map(|step_target| (step_target.clone(), "could not be undone".to_owned()));
    let mut switch_back = SwitchBack { release, omissions: omissions.collect(), remaining: Vec::new() };
    if let (Some(exposing), true) = (undone.last(), is_mixed) {
        let why = "points to different releases on the hosts, and nothing was repeated for them";
        switch_back.omissions.push((exposing.clone(), why.to_owned()));
    }
    let (Some(exposing), Some(release)) = (undone.last(), switch_back.release.clone()) else { return Ok(switch_back) };
    let prepared = attempt.prepared();
    attempt.step_environment.set("PAWL_RELEASE", release.label.to_string());
    // By the order in which steps run: a step may depend on what is live without naming the switch.
    let exposing_at = prepared.index(&exposing.step);
    for (index, of_step) in prepared.steps_on_targets() {
        let is_after = exposing_at.is_some_and(|exposing_at| index > exposing_at);
        let mut repeated = Vec::new();
        let is_meant = |planned: &&PlannedStep| match host {
            None => attempt.prepared().takes_part(planned) && !attempt.is_left_behind(&planned.host_name()),
            Some(host) => planned.step_target.target == *host,
        };
        for planned in of_step.iter().filter(is_meant) {
            match planned.description.phase {
                StepPhase::Commit if is_after && has_begun(attempt, &planned.step_target) => {
                    match repetition(planned) {
                        Repetition::Repeated => repeated.push(planned),
                        Repetition::NotNeeded => switch_back.remaining.extend(remaining(attempt, planned)),
                        Repetition::Omitted(why) => {
                            switch_back.omissions.push((planned.step_target.clone(), why.to_owned()));
                            switch_back.remaining.extend(remaining(attempt, planned));
                        }
                    }
                }
                // A check of what is not complete tells nothing.
                StepPhase::Check if is_after && switch_back.omissions.is_empty() => repeated.push(planned),
                StepPhase::Commit if has_begun(attempt, &planned.step_target) => {
                    switch_back.remaining.extend(remaining(attempt, planned));
                }
                StepPhase::Prepare | StepPhase::Commit | StepPhase::Check => {}
            }
        }
        let shared = &*attempt;
        let repeat = async |planned| repeat(shared, planned, &release).await;
        let (ended, errors) = steps::on_each_target(repeated, repeat, |_, _| true).await;
        AttemptError::of_several(errors.into_iter().map(|(_, error)| error).collect()).map_or(Ok(()), Err)?;
        let omitted = ended.into_iter().filter_map(|(planned, why)| Some((planned.step_target.clone(), why?)));
        switch_back.omissions.extend(omitted);
    }
    let failed = attempt.header.release.label.to_string();
    attempt.step_environment.set("PAWL_RELEASE", failed);
    // While hosts differ, nothing is live again.
    if attempt.state().head.live.is_some() {
        attempt.journal.borrow_mut().record_switched_back(release, switch_back.doubt())?;
    }
    Ok(switch_back)
}

/// Whether a step may have had an effect in this run that is not undone.
fn has_begun(attempt: &RunningAttempt<'_>, step_target: &StepTarget) -> bool {
    let has_effect = |record: &StepRecord| match &record.status {
        RecordStatus::Failed(failure) => failure.kind != FailureKind::NotBegun,
        RecordStatus::Reverted => false,
        RecordStatus::Intended | RecordStatus::Succeeded(_) | RecordStatus::Undoing(_) => true,
    };
    attempt
        .state()
        .records
        .get(step_target)
        .is_some_and(|record| record.intent.run == attempt.header.run && has_effect(record))
}

fn repetition(planned: &PlannedStep) -> Repetition {
    let PlannedStep { step, description, .. } = planned;
    let is_repeatable = description.is_repeatable(&step.with) || step.always;
    match step.after_undo {
        Some(true) => Repetition::Repeated,
        Some(false) => Repetition::NotNeeded,
        None if description.behaviors.migrates.is_some() => Repetition::NotNeeded,
        None if description.behaviors.repeats_after_undo && is_repeatable => Repetition::Repeated,
        None => Repetition::Omitted("was not repeated"),
    }
}

/// Runs a step once more for the release that is live again, with the input of its verified run. Returns why it was not, or how it failed.
async fn repeat(
    attempt: &RunningAttempt<'_>,
    planned: &PlannedStep,
    release: &Release,
) -> Result<Option<String>, AttemptError> {
    if attempt.interrupt.is_requested() {
        return Ok(Some("was interrupted".to_owned()));
    }
    let recorded = attempt.state().verified_intents.get(&planned.step_target).cloned();
    let Some(recorded) = recorded.filter(|recorded| recorded.release.is_same(release)) else {
        return Ok(Some(format!("was not repeated, since nothing is recorded of it for {}", release.label)));
    };
    let IntentRecord { key, fingerprint, mut input, .. } = recorded;
    // The recorded epoch would make a fence reject this call as one of an older attempt.
    input["epoch"] = Value::from(attempt.header.epoch);
    let for_release = Some(release.clone());
    let (selected_by_name, host_outcome) = (false, None);
    let planned = &granted_for(planned, &attempt.header.release, release);
    let resolved = ResolvedStep { planned, input, key, fingerprint, selected_by_name, for_release, host_outcome };
    match (StepRunner { attempt }.apply_with_retries(&resolved).await) {
        Ok(_) => Ok(None),
        Err(AttemptError::Failed { failure, .. }) => Ok(Some(format!("failed: {}", failure.message))),
        Err(AttemptError::Interrupted) => Ok(Some("was interrupted".to_owned())),
        Err(error) => Err(error),
    }
}

/// A step that may also start its programs with the label of another release as an argument, where it may with its own.
fn granted_for(planned: &PlannedStep, own: &Release, other: &Release) -> PlannedStep {
    let renamed = planned.step.grants.programs.iter().map(|grant| {
        let arguments = grant.arguments.iter().map(|argument| match argument {
            ArgumentPattern::Exact(text) => {
                ArgumentPattern::Exact(text.replace(own.label.as_str(), other.label.as_str()))
            }
            ArgumentPattern::AnyOne | ArgumentPattern::AnyRest => argument.clone(),
        });
        ProgramGrant { arguments: arguments.collect(), source: grant.source.clone() }
    });
    let mut granted = planned.clone();
    granted.step.grants.programs.extend(renamed);
    granted
}

/// What a step of this run did that stays, in words: the migrations that it applied, or the step itself.
fn remaining(attempt: &RunningAttempt<'_>, planned: &PlannedStep) -> Option<String> {
    let id = &planned.step.id;
    let Some(RecordStatus::Succeeded(receipt)) = attempt.state().status(&planned.step_target).cloned() else {
        return Some(format!("{id}, as far as it got"));
    };
    let migrations = receipt.notes.get("applied_now").and_then(Value::as_array);
    match migrations {
        Some(files) if files.is_empty() => None,
        Some(files) => {
            let names: Vec<_> = files.iter().filter_map(Value::as_str).collect();
            Some(format!("{id} {}", names.join(", ")))
        }
        None => receipt.acted().then(|| id.to_string()),
    }
}
