//! `runner status`: shows the live release of each environment, its last attempt, and an unfinished run.
//!
//! It needs no lock. An attempt without an end was killed or is still running; the lock status shows which, and who runs it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
};

use serde_json::{Value, json};

use jiff::Timestamp;

use super::{
    attempts::{summary_json, took_ms},
    host_status::{self, HostStatus},
    plan_file::CommandCompletion,
    source::{self, PlanSourceArgs},
    why,
};
use crate::{
    deploy::UnrecordedRelease,
    report::{
        self, MAX_TARGET_LINES, OutputFormat, json, messages,
        table::{FieldLayout, table},
    },
};
use contract::text::{format_duration, format_time, millis_between, truncate};
use contract::{
    EnvironmentName, TargetName,
    diagnostic::{Diagnostic, ExitKind},
};
use journal::{
    JournalEvent, JournalState, JournalTrust, RecordStatus, StepRecord, StepTarget, clock,
    event::{JournalHeader, ROLLBACK, Release},
    state::{AttemptSummary, LiveDoubt},
};
use plan::Plan;
use state::{LockRecord, LockStatus, StateStore};

/// The most removed hosts that are named.
const MAX_REMOVED_HOSTS: usize = 8;
/// The column of the values.
const INDENT: usize = 14;

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
pub(super) struct StatusArgs {
    /// Also show the last record of each step
    #[arg(long)]
    pub(super) steps: bool,
}

/// Shows the state of environments, each with the store of its journals, in lines of at most `line_width` columns.
///
/// As JSON, an array of `{environment, live: {release, verified, since}, unrecorded: {link, digest}, lock: {holder, epoch, since, standing}, last,
/// hosts: [{name, groups, state, live, steps: [{step, status, release}]}], removed_hosts: [{name, live}], running: {at, since},
/// unfinished: {run, release, stuck},
/// steps: [{step, target, status, release, run, attempt, epoch}]}`, `last` as in `history`. A missing value is null.
///
/// # Errors
/// P06xx when a journal cannot be read.
pub(super) fn run(
    args: &StatusArgs,
    plan: &PlanSourceArgs,
    environments: &[(EnvironmentName, StateStore)],
    form: OutputFormat,
    line_width: usize,
    out: &mut dyn Write,
) -> Result<ExitKind, Diagnostic> {
    let views = environments
        .iter()
        .map(|(name, store)| EnvironmentView::read(plan, name, store, environments.len() > 1))
        .collect::<Result<Vec<_>, _>>()?;
    let answer = match form {
        OutputFormat::Json => json::line(&views.iter().map(EnvironmentView::json).collect::<Value>()) + "\n",
        OutputFormat::Text => views.iter().map(|view| view.text(args, line_width)).collect::<Vec<_>>().join("\n"),
    };
    report::write_answer(out, &answer)?;
    Ok(ExitKind::Success)
}

/// The data about one environment.
struct EnvironmentView<'a> {
    environment: &'a EnvironmentName,
    state: JournalState,
    /// The steps in the order of the last plan, then others with a record.
    step_targets: Vec<StepTarget>,
    /// How many of them are of the last plan.
    planned_count: usize,
    lock: Option<LockRecord>,
    lock_status: LockStatus,
    /// The step that the newest attempt has begun and not ended, and since when.
    open_step: Option<(StepTarget, Timestamp)>,
    /// The plan, as far as it can be read without its release.
    plan: Option<Plan>,
    /// What is live without a record.
    unrecorded: Option<UnrecordedRelease>,
    /// The hosts that steps ran on and that are no longer in the plan, with the release that each showed last.
    removed_hosts: BTreeMap<TargetName, Option<Release>>,
    commands: CommandCompletion,
}

impl<'a> EnvironmentView<'a> {
    /// `is_one_of_several`: a command must name the environment.
    fn read(
        plan: &PlanSourceArgs,
        environment: &'a EnvironmentName,
        store: &StateStore,
        is_one_of_several: bool,
    ) -> Result<Self, Diagnostic> {
        let (mut planned, mut open_step) = (Vec::new(), None);
        let loaded = store.load(|entry| {
            if let JournalEvent::Plan { steps, .. } = &entry.event {
                planned = steps.iter().map(|step| step.step_target.clone()).collect();
            }
            if let JournalEvent::Started(_) | JournalEvent::Outcome { .. } | JournalEvent::UndoOutcome { .. } =
                &entry.event
            {
                open_step = None;
            }
            if let JournalEvent::Intent { step_target, .. } | JournalEvent::UndoIntent { step_target } = &entry.event {
                open_step = Some((step_target.clone(), entry.at));
            }
        });
        let state = loaded.map_err(|error| Diagnostic::from(&error))?.state;
        let others: Vec<_> = state.records.keys().filter(|place| !planned.contains(place)).cloned().collect();
        let (lock, lock_status) = store.lock_status(false).map_err(|error| Diagnostic::from(&error))?;
        let args = PlanSourceArgs { environment: Some(environment.to_string()), ..plan.clone() };
        let read_plan = args.plan_without_inventories(&source::placeholder_label());
        let planned_count = planned.len();
        let step_targets = [planned, others].concat();
        let removed_hosts = removed_hosts(read_plan.as_ref(), &state, &step_targets[..planned_count]);
        let is_named = is_one_of_several || plan.environment.is_some();
        let commands = CommandCompletion::new(plan.plan.as_deref(), is_named.then_some(environment.as_str()));
        let shows_none = state.head.shown_releases().next().is_none();
        let unrecorded =
            read_plan.as_ref().filter(|_| shows_none).and_then(|plan| UnrecordedRelease::find(plan, &state));
        Ok(Self {
            environment,
            state,
            step_targets,
            planned_count,
            lock,
            lock_status,
            open_step,
            plan: read_plan,
            unrecorded,
            removed_hosts,
            commands,
        })
    }

    /// The attempt that is running, by the evidence of the lock.
    fn running(&self) -> Option<&AttemptSummary> {
        self.state.attempts.last().filter(|last| last.exit.is_none() && self.lock_status == LockStatus::Held)
    }

    /// The attempt that the next one would continue.
    fn unfinished(&self) -> Option<&AttemptSummary> {
        let last = self.state.attempts.last().filter(|_| self.running().is_none())?;
        match last.exit {
            Some(ExitKind::RolledBack) => None,
            _ if last.verified => None,
            Some(
                ExitKind::Success
                | ExitKind::Failed
                | ExitKind::Refused
                | ExitKind::InDoubt
                | ExitKind::Locked
                | ExitKind::Journal
                | ExitKind::Bug
                | ExitKind::Interrupted,
            )
            | None => Some(last),
        }
    }

    fn text(&self, args: &StatusArgs, line_width: usize) -> String {
        let mut answer = format!("{}\n", self.environment);
        let layout = FieldLayout { value_column: INDENT, line_width };
        let mut row = |name: &str, value: &str| layout.push(&mut answer, name, value);
        row("live", &self.live_text());
        match (self.running(), self.state.attempts.last()) {
            (Some(running), _) => row("running", &self.running_text(running)),
            (None, Some(last)) => row("last", &self.last_attempt_text(last)),
            (None, None) => row("last", "no attempts yet"),
        }
        if let Some(unfinished) = self.unfinished() {
            let JournalHeader { run, release, .. } = &unfinished.header;
            let stands = unfinished.failed_step.as_ref().map(|place| format!(" is at {place}")).unwrap_or_default();
            let way = match unfinished.command.as_deref() {
                // The history does not say where the release was promoted from.
                Some("promote") => format!("promote {} again", release.label),
                Some(ROLLBACK) => self.commands.text(&format!("run `runner {ROLLBACK} --to {}` again", release.label)),
                Some(order) => self.commands.text(&format!("run `runner {order} --release {}` again", release.label)),
                None => format!("deploy {} again", release.label),
            };
            row("unfinished", &format!("run {run}{stands}; to continue, {way}"));
        }
        if !self.removed_hosts.is_empty() {
            row("removed", &self.removed_hosts_text());
        }
        if let Some(hosts) = host_status::summary(&self.hosts()) {
            row("hosts", &hosts);
        }
        if let Some(LockRecord { holder: Some(holder), since, .. }) = &self.lock {
            let how = match self.lock_status {
                LockStatus::Held => Some("held by"),
                LockStatus::Free | LockStatus::Unknown => Some("taken by"),
                // It matters only while the last attempt has no end.
                LockStatus::Stale => self.unfinished().and_then(|last| last.exit.is_none().then_some("left behind by")),
            };
            how.iter().for_each(|how| row("lock", &format!("{how} {holder} at {}", format_time(*since))));
        }
        if args.steps && !self.step_targets.is_empty() {
            let rows = self.step_rows();
            answer.push('\n');
            answer.push_str(&table(2, line_width, ["STEP", "STATE", "RELEASE", "EPOCH", "RUN"], &rows));
        }
        answer
    }

    fn removed_hosts_text(&self) -> String {
        let named = self.removed_hosts.iter().take(MAX_REMOVED_HOSTS).map(|(host, release)| match release {
            Some(release) => format!("{host} (showed {})", release.label),
            None => host.to_string(),
        });
        let more = match self.removed_hosts.len().checked_sub(MAX_REMOVED_HOSTS) {
            None | Some(0) => String::new(),
            Some(more) => format!(" and {more} more"),
        };
        format!("no longer in the plan: {}{more}", named.collect::<Vec<_>>().join(", "))
    }

    /// The step that was about to expose a release, or to undo that, and has no outcome.
    fn open_exposure(&self) -> Option<(&StepTarget, &StepRecord)> {
        let is_open = |record: &StepRecord| match record.status {
            RecordStatus::Intended | RecordStatus::Undoing(_) => true,
            RecordStatus::Succeeded(_) | RecordStatus::Failed(_) | RecordStatus::Reverted => false,
        };
        let is_known = |record: &StepRecord| record.intent.exposes && record.trust == JournalTrust::Authenticated;
        self.state.records.iter().find(|(_, record)| is_known(record) && is_open(record))
    }

    fn hosts(&self) -> Vec<HostStatus<'_>> {
        HostStatus::of_all(self.plan.as_ref(), &self.state, &self.step_targets, self.planned_count)
    }

    fn running_text(&self, attempt: &AttemptSummary) -> String {
        let JournalHeader { epoch, run, attempt: number, release, by, .. } = &attempt.header;
        let (place, since) = match &self.open_step {
            Some((step_target, since)) => (format!(" at {step_target}"), *since),
            None => (String::new(), attempt.started_at),
        };
        format!(
            "{}: running{place} for {}, by {by}; epoch {epoch}, run {run}, attempt {number}, started {}",
            release.label,
            format_duration(millis_between(since, clock::now())),
            format_time(attempt.started_at)
        )
    }

    /// The last attempt, which is not running by the evidence of the lock.
    fn last_attempt_text(&self, attempt: &AttemptSummary) -> String {
        let JournalHeader { epoch, run, attempt: number, release, by, .. } = &attempt.header;
        let ending = match &attempt.resolved_step {
            Some(step_target) => format!("an operator resolved {step_target}"),
            None => messages::result_at_step(attempt.exit, attempt.verified, attempt.failed_step.as_ref()),
        };
        let doubt = match (attempt.exit, self.lock_status) {
            (Some(_), _) => "",
            (None, LockStatus::Stale) => " (killed)",
            (None, LockStatus::Free | LockStatus::Held | LockStatus::Unknown) => " (killed, or still running)",
        };
        let took = took_ms(attempt).map_or_else(String::new, |ms| format!(", took {}", format_duration(ms)));
        format!(
            "{}: {ending}{doubt}; epoch {epoch}, run {run}, attempt {number}, started {} by {by}{took}",
            release.label,
            format_time(attempt.started_at)
        )
    }

    fn live_text(&self) -> String {
        let head = &self.state.head;
        if let Some((place, record)) = self.open_exposure() {
            let before = record.live_before.as_ref().map_or("nothing", |release| release.label.as_str());
            let label = &record.intent.release.label;
            let releases = if before == label.as_str() { before.to_owned() } else { format!("{before} or {label}") };
            return format!("{releases}: the outcome of {place} is unknown");
        }
        if let Some(unrecorded) = &self.unrecorded {
            let advice = "`runner import --local --release LABEL` adds it to the history";
            return format!("unknown: {}; {}", unrecorded.description(), self.commands.text(advice));
        }
        if head.is_mixed() {
            return format!("not the same on all hosts: {}", host_status::releases_text(&head.live_on));
        }
        let Some(release) = &head.live else { return "nothing yet".to_owned() };
        let verified = match &head.live_doubt {
            None if head.is_verified(release) => "verified".to_owned(),
            Some(LiveDoubt::SwitchedBack { why }) => {
                let why = why.as_deref().unwrap_or("it was not checked after that");
                format!("not verified (a rollback switched back to it; {why})")
            }
            None | Some(LiveDoubt::NotChecked) => {
                match self.unfinished().filter(|last| last.header.release == *release) {
                    Some(AttemptSummary { failed_step: Some(place), .. }) => {
                        format!("not verified ({place} has not succeeded for it)")
                    }
                    Some(AttemptSummary { exit: Some(ExitKind::Success), .. }) => {
                        "not verified (its deployment left out steps)".to_owned()
                    }
                    Some(_) => "not verified (its deployment did not end)".to_owned(),
                    None => "not verified".to_owned(),
                }
            }
        };
        let since = head.live_since.as_ref();
        let since =
            since.map_or_else(String::new, |since| format!(", since {} by {}", format_time(since.at), since.by));
        let commit = self.state.commit_of(release).map(|commit| format!(", commit {}", truncate(commit, 12)));
        format!("{}, {verified}{since}{}", release.label, commit.unwrap_or_default())
    }

    /// A row for each step; of one with many targets, one for those with the same record.
    fn step_rows(&self) -> Vec<[String; 5]> {
        let mut rows: Vec<[String; 5]> = Vec::new();
        for of_step in self.step_targets.chunk_by(|one, other| one.step == other.step) {
            if of_step.len() <= MAX_TARGET_LINES {
                rows.extend(of_step.iter().map(|place| self.step_row(place, &report::step_label(place))));
                continue;
            }
            let mut alike: Vec<([String; 5], Vec<&StepTarget>)> = Vec::new();
            for place in of_step {
                let row = self.step_row(place, "");
                match alike.iter_mut().find(|(known, _)| *known == row) {
                    Some((_, places)) => places.push(place),
                    None => alike.push((row, vec![place])),
                }
            }
            rows.extend(alike.into_iter().flat_map(|(_, places)| match places.as_slice() {
                [first, _, _, ..] => vec![self.step_row(first, &format!("{} on {} hosts", first.step, places.len()))],
                few => few.iter().map(|place| self.step_row(place, &report::step_label(place))).collect(),
            }));
        }
        rows
    }

    fn step_row(&self, place: &StepTarget, name: &str) -> [String; 5] {
        let name = truncate(name, 24);
        match self.state.records.get(place) {
            None => [name, "never ran".to_owned(), String::new(), String::new(), String::new()],
            Some(StepRecord { status, intent, .. }) => [
                name,
                why::status_word(status).to_owned(),
                truncate(intent.release.label.as_str(), 20),
                intent.epoch.to_string(),
                format!("{}/{}", intent.run, intent.attempt),
            ],
        }
    }

    fn json(&self) -> Value {
        let head = &self.state.head;
        let steps: Vec<_> = self
            .step_targets
            .iter()
            .map(|place| {
                let record = self.state.records.get(place);
                json!({
                    "step": place.step,
                    "target": place.target,
                    "status": record.map(|record| why::status_word(&record.status)),
                    "release": record.map(|record| &record.intent.release),
                    "run": record.map(|record| &record.intent.run),
                    "attempt": record.map(|record| record.intent.attempt),
                    "epoch": record.map(|record| record.intent.epoch),
                })
            })
            .collect();
        json!({
            "environment": self.environment,
            "live": head.live.as_ref().map(|release| json!({
                "release": release,
                "verified": head.is_live_verified(),
                "since": head.live_since.as_ref().map(|since| since.at),
                "by": head.live_since.as_ref().map(|since| &since.by),
                "commit": self.state.commit_of(release),
            })),
            "hosts": self.hosts().iter().map(|host| host.json(&self.state)).collect::<Vec<_>>(),
            "removed_hosts": self.removed_hosts.iter().map(|(host, release)| json!({ "name": host, "live": release })).collect::<Vec<_>>(),
            "unrecorded": self.unrecorded.as_ref().map(|found| json!({ "link": found.link, "digest": found.digest })),
            "lock": self.lock.as_ref().filter(|lock| lock.holder.is_some()).map(|lock| json!({
                "holder": lock.holder,
                "epoch": lock.epoch,
                "since": lock.since,
                "standing": self.lock_status,
            })),
            "last": self.state.attempts.last().map(summary_json),
            "running": self.running().map(|_| json!({
                "at": self.open_step.as_ref().map(|(step_target, _)| step_target),
                "since": self.open_step.as_ref().map(|(_, since)| since),
            })),
            "unfinished": self.unfinished().map(|attempt| json!({
                "run": attempt.header.run,
                "release": attempt.header.release,
                "stuck": attempt.failed_step,
            })),
            "steps": steps,
        })
    }
}

/// The hosts on record that the plan does not have any more; without a readable plan, those that the last attempt did not have.
fn removed_hosts(
    plan: Option<&Plan>,
    state: &JournalState,
    planned: &[StepTarget],
) -> BTreeMap<TargetName, Option<Release>> {
    // A step that ran once for a group has the group's name as its target, and its host in the input.
    let is_of_host = |step_target: &StepTarget, record: &StepRecord| {
        record.intent.input["host"]["name"].as_str() == Some(step_target.target.as_str())
    };
    let on_record = state.records.iter().filter(|(step_target, record)| is_of_host(step_target, record));
    let on_record: BTreeSet<&TargetName> = on_record.map(|(step_target, _)| &step_target.target).collect();
    if on_record.is_empty() {
        return BTreeMap::new();
    }
    let known: BTreeSet<TargetName> = match plan {
        Some(plan) => plan.host_groups.values().flatten().map(|host| host.name.clone()).collect(),
        None => planned.iter().map(|step_target| step_target.target.clone()).collect(),
    };
    let removed = on_record.into_iter().filter(|host| !known.contains(*host));
    let shown = |host: &TargetName| {
        let exposing = state.records.iter().filter(|(step_target, record)| {
            step_target.target == *host && record.intent.exposes && matches!(record.status, RecordStatus::Succeeded(_))
        });
        exposing.map(|(_, record)| record.intent.release.clone()).next_back()
    };
    removed.map(|host| (host.clone(), shown(host))).collect()
}

#[cfg(test)]
mod tests;
