//! The hosts that an attempt goes on without, as far as `max-failures` of the plan's rollout allows.
//!
//! Invariant: a host counts once in an attempt, whatever happened there, and no step begins on it any more. Deliberately absent: what a
//! preflight finds on hosts ([`super::preflight`]), and how one is rolled back ([`super::rollback`]).

use std::collections::{BTreeMap, BTreeSet};

use super::{AttemptError, PlannedStep, attempt::RunningAttempt, error::listed, preflight::LocalProblems, rollback};
use contract::{
    HostGroup, TargetName,
    diagnostic::{Diagnostic, ErrorCode},
    step::FailureKind,
};
use journal::{StepTarget, event::DecisionReason, file::JournalNote};

/// A host that an attempt goes on without.
#[derive(Clone, Debug)]
pub(super) struct HostLeftBehind {
    /// What happened there.
    pub(super) why: String,
    /// The step that failed there, if one did.
    pub(super) failed_step: Option<StepTarget>,
    /// What became of its rollback, if one was due.
    pub(super) rollback: Option<String>,
}

/// The hosts that an attempt ended without.
#[derive(Clone, Debug)]
pub struct HostsLeftBehind {
    pub(super) group: HostGroup,
    /// How many hosts the group has.
    pub(super) group_size: usize,
    pub(super) hosts: BTreeMap<TargetName, HostLeftBehind>,
}

impl HostsLeftBehind {
    /// How many hosts: "2 of 8 hosts of `web` were left behind".
    pub(super) fn summary(&self) -> String {
        let Self { group, group_size, hosts } = self;
        let verb = if hosts.len() == 1 { "was" } else { "were" };
        format!("{} of {group_size} hosts of `{group}` {verb} left behind", hosts.len())
    }

    /// What happened on them, with the hosts of each kind in a line.
    pub(super) fn lines(&self) -> Vec<String> {
        lines(&self.hosts)
    }
}

/// What happened on hosts that were left behind, with the hosts of each kind in a line.
pub(super) fn lines(hosts: &BTreeMap<TargetName, HostLeftBehind>) -> Vec<String> {
    let mut kinds: Vec<(String, Vec<String>)> = Vec::new();
    for (host, HostLeftBehind { why, rollback, .. }) in hosts {
        let rollback = rollback.as_ref().map_or_else(String::new, |rollback| format!("; {rollback}"));
        let words = format!("{why}{rollback}");
        match kinds.iter_mut().find(|(known, _)| *known == words) {
            Some((_, named)) => named.push(host.to_string()),
            None => kinds.push((words, vec![host.to_string()])),
        }
    }
    kinds.into_iter().map(|(words, named)| format!("{}: {words}", listed(&named))).collect()
}

impl RunningAttempt<'_> {
    /// Whether nothing runs on a host any more.
    pub(super) fn is_left_behind(&self, host: &TargetName) -> bool {
        self.left_behind.borrow().contains_key(host)
    }

    /// The step, as it runs now: on its own host, or, if it runs once for a group, on the first of the hosts that are left.
    /// None if its host is left behind.
    pub(super) fn placed<'p>(&self, planned: &'p PlannedStep) -> Option<&'p PlannedStep> {
        let prepared = self.prepared();
        let is_possible = |step: &&PlannedStep| {
            !self.is_left_behind(&step.host_name()) && prepared.takes_part(step) && prepared.can_call(step)
        };
        std::iter::once(planned).chain(&planned.stand_ins).find(is_possible)
    }

    /// Leaves the hosts behind that the preflight could not use.
    pub(super) fn leave_unusable_hosts_behind(&self) -> Result<(), AttemptError> {
        let found = self.prepared().left_behind();
        found.into_iter().try_for_each(|(host, problem)| self.leave_behind(host, in_one_line(&problem), None))
    }

    /// Leaves the hosts behind where no session could begin, if the plan allows that.
    pub(super) fn leave_behind_without_session(
        &self,
        problems: BTreeMap<TargetName, Diagnostic>,
    ) -> Result<(), AttemptError> {
        // Whoever holds the lock now works on that host: this attempt is the stale one.
        let is_fenced = problems.values().any(|problem| problem.code == ErrorCode::LockLost);
        if problems.is_empty() {
            return Ok(());
        }
        if is_fenced || !self.may_go_on_without(problems.keys(), None) {
            let mut problems = problems.into_values();
            let first = problems.next().expect("there is an error for each host that failed");
            return Err(AttemptError::Host(problems.fold(first, |first, other| first.with_cause(other.message))));
        }
        problems.into_iter().try_for_each(|(host, problem)| self.leave_behind(host, in_one_line(&problem), None))
    }

    /// Leaves the hosts behind that lack something once the setup steps have run, if the plan allows that.
    pub(super) fn leave_behind_after_setup(&self, problems: LocalProblems) -> Result<(), AttemptError> {
        let LocalProblems { here, on_hosts } = problems;
        if here.is_empty() && self.may_go_on_without(on_hosts.keys(), None) {
            let mut on_hosts = on_hosts.into_iter();
            return on_hosts.try_for_each(|(host, problems)| match problems.first() {
                Some(first) => self.leave_behind(host, in_one_line(first), None),
                None => Ok(()),
            });
        }
        let mut problems = here.into_iter().chain(on_hosts.into_values().flatten());
        let Some(first) = problems.next() else { return Ok(()) };
        Err(AttemptError::Plan(problems.fold(first, |first, other| first.with_cause(other.message))))
    }

    /// Leaves a host behind that was lost before a step began there that runs once for its group, if the plan allows that: another host
    /// of the group can take the step. Returns whether it did.
    pub(super) fn leave_lost_host_behind(
        &self,
        planned: &PlannedStep,
        error: &AttemptError,
    ) -> Result<bool, AttemptError> {
        let (host, remote) = (planned.host_name(), self.prepared().remote_executor(planned));
        let is_lost = remote.is_some_and(|remote| !remote.is_connected());
        let is_once = host != planned.step_target.target;
        let is_due = is_lost && is_once && has_not_begun(error) && self.may_go_on_without([&host], None);
        if is_due {
            let why = format!("the connection was lost before step `{}` began", planned.step_target.step);
            self.leave_behind(host, why, None)?;
        }
        Ok(is_due)
    }

    /// Whether the plan lets the attempt go on without these hosts too. A batch of which no host is left stops it: nothing shows then
    /// that the release is any good.
    pub(super) fn may_go_on_without<'h>(
        &self,
        hosts: impl IntoIterator<Item = &'h TargetName>,
        batch: Option<&BTreeSet<&TargetName>>,
    ) -> bool {
        let mut all: BTreeSet<TargetName> = self.left_behind.borrow().keys().cloned().collect();
        all.extend(hosts.into_iter().cloned());
        let is_lost = |batch: &BTreeSet<&TargetName>| !batch.is_empty() && batch.iter().all(|host| all.contains(*host));
        self.prepared().may_go_on_without(&all) && !batch.is_some_and(is_lost)
    }

    /// Whether an error is a failure of the one host that the step ran on.
    pub(super) fn is_of_one_host(&self, planned: &PlannedStep, error: &AttemptError) -> bool {
        let is_failure = match error {
            AttemptError::Failed { .. }
            | AttemptError::InDoubt { .. }
            | AttemptError::UndoFailed { .. }
            | AttemptError::Plan(_)
            | AttemptError::Host(_) => true,
            AttemptError::NotImported { .. }
            | AttemptError::RehearsalFailed { .. }
            | AttemptError::SecretInReceipt { .. }
            | AttemptError::Irreversible { .. }
            | AttemptError::HostsLeftBehind(_)
            | AttemptError::Journal(_)
            | AttemptError::Lock(_)
            | AttemptError::Interrupted
            | AttemptError::OnSeveralTargets { .. } => false,
        };
        is_failure && planned.host_name() == planned.step_target.target
    }

    fn leave_behind(&self, host: TargetName, why: String, failed_step: Option<StepTarget>) -> Result<(), AttemptError> {
        let note = JournalNote::HostLeftBehind { target: host.clone(), why: why.clone() };
        self.journal.borrow_mut().record_note(note)?;
        self.left_behind.borrow_mut().insert(host, HostLeftBehind { why, failed_step, rollback: None });
        Ok(())
    }

    /// What an error that stopped the attempt has to do with `max-failures`, and the hosts that were left behind before.
    pub(super) fn why_stopped(&self, error: &AttemptError) -> Vec<String> {
        let Some(rollout) = self.prepared().plan.rollout.as_ref().filter(|rollout| rollout.max_failures > 0) else {
            return Vec::new();
        };
        let left_behind = self.left_behind.borrow();
        let failed = error.step_targets().into_iter().map(|step_target| &step_target.target);
        let failed: BTreeSet<_> = failed.filter(|host| rollout.hosts.contains(host)).collect();
        let count = failed.iter().copied().chain(left_behind.keys()).collect::<BTreeSet<_>>().len();
        let why = match (failed.is_empty(), count > rollout.max_failures) {
            (true, _) => None,
            (false, true) => Some(format!(
                "{count} of {} hosts of `{}` failed, more than `max-failures: {}` allows",
                rollout.hosts.len(),
                rollout.group,
                rollout.max_failures
            )),
            (false, false) => Some("no host is left of the batch, so nothing shows that the release works".to_owned()),
        };
        why.into_iter()
            .chain(lines(&left_behind).into_iter().map(|line| format!("left behind before: {line}")))
            .collect()
    }

    /// The error of an attempt that has done everything except on the hosts that it left behind; none if there are none.
    pub(super) fn error_of_hosts_left_behind(&self) -> Option<AttemptError> {
        let (rollout, hosts) = (self.prepared().plan.rollout.as_ref()?, self.left_behind.borrow().clone());
        let (group, group_size) = (rollout.group.clone(), rollout.hosts.len());
        (!hosts.is_empty()).then_some(AttemptError::HostsLeftBehind(HostsLeftBehind { group, group_size, hosts }))
    }
}

/// Leaves the hosts behind where a step failed, and rolls them back if the plan says so.
///
/// # Errors
/// The errors of the step as one, if they are not failures of hosts, or of more than the plan allows; an error that ends the attempt.
pub(super) async fn leave_failed_hosts_behind(
    attempt: &mut RunningAttempt<'_>,
    errors: Vec<(&PlannedStep, AttemptError)>,
    batch: Option<&BTreeSet<&TargetName>>,
) -> Result<(), AttemptError> {
    let is_of_hosts = errors.iter().all(|(planned, error)| attempt.is_of_one_host(planned, error));
    let hosts: BTreeSet<TargetName> = errors.iter().map(|(planned, _)| planned.host_name()).collect();
    if !is_of_hosts || !attempt.may_go_on_without(&hosts, batch) {
        return AttemptError::of_several(errors.into_iter().map(|(_, error)| error).collect()).map_or(Ok(()), Err);
    }
    for (planned, error) in &errors {
        attempt.leave_behind(planned.host_name(), error.why_on_target(), Some(planned.step_target.clone()))?;
    }
    for host in hosts {
        let rollback = rollback::roll_back_host(attempt, &host).await?;
        if let Some(left) = attempt.left_behind.borrow_mut().get_mut(&host) {
            left.rollback = rollback;
        }
    }
    Ok(())
}

/// Whether it is certain that a step did nothing.
fn has_not_begun(error: &AttemptError) -> bool {
    match error {
        AttemptError::Failed { failure, outcome_known: true, .. } => failure.kind == FailureKind::NotBegun,
        AttemptError::InDoubt { reason: DecisionReason::ProbeFailed { .. }, .. } | AttemptError::Plan(_) => true,
        AttemptError::Failed { .. }
        | AttemptError::InDoubt { .. }
        | AttemptError::NotImported { .. }
        | AttemptError::RehearsalFailed { .. }
        | AttemptError::Host(_)
        | AttemptError::SecretInReceipt { .. }
        | AttemptError::UndoFailed { .. }
        | AttemptError::Irreversible { .. }
        | AttemptError::HostsLeftBehind(_)
        | AttemptError::Journal(_)
        | AttemptError::Lock(_)
        | AttemptError::Interrupted
        | AttemptError::OnSeveralTargets { .. } => false,
    }
}

/// What is wrong with a host, with the first cause.
fn in_one_line(problem: &Diagnostic) -> String {
    match problem.causes.first() {
        Some(cause) => format!("{}: {cause}", problem.message),
        None => problem.message.clone(),
    }
}
