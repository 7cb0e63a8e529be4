//! Hand-made attempts with fixed times, for the tests of reports and of commands that read journals.

use std::{collections::BTreeMap, fs, num::NonZeroU32, path::Path};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use contract::{
    AttemptNumber, TargetName,
    diagnostic::ExitKind,
    hash::Blake3Hash,
    step::{FailureKind, MessageLevel, ProbeFinding, Receipt, StepFailure, StepOutcome, StepPhase, StepProgress},
};
use journal::{
    FindingSummary, JournalEvent, StepTarget,
    event::{
        Decision, DecisionReason, FORMAT, Fingerprint, JournalEntry, JournalHeader, MAGIC, PlanStepRecord, ProbeInput,
        Release,
    },
    line,
};

/// Journals under construction: entries with their chain.
pub(crate) struct JournalFixture {
    pub(crate) attempts: Vec<Vec<JournalEntry>>,
    release: String,
    tail: Option<Blake3Hash>,
    now: Timestamp,
}

/// `switch` on this machine, or `switch@web-3`.
pub(crate) fn step_target(step: &str) -> StepTarget {
    match step.split_once('@') {
        Some((step, target)) => StepTarget { step: step.parse().unwrap(), target: target.parse().unwrap() },
        None => StepTarget { step: step.parse().unwrap(), target: TargetName::local() },
    }
}

pub(crate) fn receipt(outputs: Value, notes: Value) -> Receipt {
    Receipt { outputs: map(outputs), notes: map(notes) }
}

pub(crate) fn failure(message: &str, details: Value) -> StepFailure {
    StepFailure {
        kind: FailureKind::Permanent,
        message: message.to_owned(),
        hint: Some("fix the file and run again".to_owned()),
        retryable: false,
        details: map(details),
    }
}

fn map(value: Value) -> Map<String, Value> {
    let Value::Object(map) = value else { panic!("{value} is not an object") };
    map
}

impl JournalFixture {
    pub(crate) fn new() -> Self {
        Self { attempts: Vec::new(), release: String::new(), tail: None, now: "2025-11-23T03:00:00Z".parse().unwrap() }
    }

    /// Starts an attempt ten minutes after the last entry, of a plan with four steps.
    pub(crate) fn attempt(self, epoch: u64, run: &str, attempt: u32, release: &str) -> Self {
        let steps = ["pull", "migrate", "switch", "verify"].map(str::to_owned);
        self.attempt_of(&steps, epoch, run, attempt, release)
    }

    /// The same, of a plan whose steps run on this many hosts, but for the migration.
    pub(crate) fn attempt_on(self, hosts: usize, epoch: u64, run: &str, attempt: u32, release: &str) -> Self {
        let on_hosts = |step: &str| (1..=hosts).map(|host| format!("{step}@web-{host}")).collect::<Vec<_>>();
        let steps = [on_hosts("pull"), vec!["migrate@web".to_owned()], on_hosts("switch"), on_hosts("verify")];
        self.attempt_of(&steps.concat(), epoch, run, attempt, release)
    }

    fn attempt_of(mut self, steps: &[String], epoch: u64, run: &str, attempt: u32, release: &str) -> Self {
        self.attempts.push(Vec::new());
        self.release = release.to_owned();
        let header = JournalHeader {
            magic: MAGIC.to_owned(),
            format: FORMAT,
            app: "shop".parse().unwrap(),
            environment: "test".parse().unwrap(),
            run: run.parse().unwrap(),
            attempt: AttemptNumber(NonZeroU32::new(attempt).unwrap()),
            epoch,
            release: self::release(release),
            runner: "0.1.0".to_owned(),
            by: "ann@host".to_owned(),
            commit: None,
            url: None,
            machine: None,
        };
        let steps = steps.iter().map(|step| {
            let step_target = step_target(step);
            let uses = step_target.step.to_string();
            let phase = match uses.as_str() {
                "pull" => StepPhase::Prepare,
                "verify" => StepPhase::Check,
                _ => StepPhase::Commit,
            };
            PlanStepRecord { step_target, uses, phase, exposes: false }
        });
        let plan = JournalEvent::Plan {
            digest: Blake3Hash::of(b"plan"),
            path: "deploy.yml".to_owned(),
            steps: steps.collect(),
        };
        self.push(600_000, JournalEvent::Started(header)).push(1, plan)
    }

    /// Adds an event, `ms` milliseconds after the last one.
    pub(crate) fn push(mut self, ms: i64, event: JournalEvent) -> Self {
        self.now = Timestamp::from_millisecond(self.now.as_millisecond() + ms).unwrap();
        let entries = self.attempts.last_mut().expect("an attempt was started");
        let entry = JournalEntry { seq: entries.len() as u64, prev: self.tail, at: self.now, event };
        self.tail = Some(line::encode(&entry).hash);
        entries.push(entry);
        self
    }

    pub(crate) fn decide(self, step: &str, decision: Decision) -> Self {
        self.push(0, JournalEvent::Decision { step_target: step_target(step), decision })
    }

    pub(crate) fn probe(self, step: &str, took_ms: u64, finding: ProbeFinding) -> Self {
        let probed_input = ProbeInput::Current;
        let ms = i64::try_from(took_ms).unwrap();
        self.push(ms, JournalEvent::Probe { step_target: step_target(step), probed_input, took_ms, finding })
    }

    /// The probe finds the step's effect, and the step is skipped.
    pub(crate) fn skip(self, step: &str) -> Self {
        let receipt = receipt(json!({}), json!({}));
        let held = ProbeFinding::Held { receipt: receipt.clone() };
        self.probe(step, 3, held).decide(step, Decision::Skip { reason: DecisionReason::Held, receipt })
    }

    /// The step is about to run; `components` are its fingerprint, without the release.
    pub(crate) fn begin(self, step: &str, reason: DecisionReason, components: &[(&str, &str)]) -> Self {
        self.decide(step, Decision::Run { reason }).intent(step, components, None)
    }

    /// A rollback is about to run the step for the release that it switched back to.
    fn repeat(self, step: &str, release: &str) -> Self {
        self.intent(step, &[("config", "1"), ("module", "m")], Some(self::release(release)))
    }

    /// Adds an intent; `components` are its fingerprint, without the release.
    fn intent(self, step: &str, components: &[(&str, &str)], for_release: Option<Release>) -> Self {
        let components = components.iter().copied().chain([("release", self.release.as_str())]);
        let hashes = components.map(|(name, content)| (name.to_owned(), Blake3Hash::of(content.as_bytes())));
        let fingerprint = Fingerprint(hashes.collect::<BTreeMap<_, _>>());
        let step_target = step_target(step);
        let exposes = step_target.step.as_str() == "switch";
        let input = match step_target.target == TargetName::local() {
            true => json!({}),
            false if step_target.target.as_str() == "web" => json!({ "host": { "name": "web-1" } }),
            false => json!({ "host": { "name": step_target.target } }),
        };
        let intent = JournalEvent::Intent {
            step_target,
            key: "00c0ffee".to_owned(),
            fingerprint,
            input,
            exposes,
            release: for_release,
        };
        self.push(1, intent)
    }

    pub(crate) fn end(self, step: &str, took_ms: u64, result: StepOutcome) -> Self {
        let ms = i64::try_from(took_ms).unwrap();
        self.push(ms, JournalEvent::Outcome { step_target: step_target(step), took_ms, outcome: result })
    }

    /// The step runs and succeeds.
    pub(crate) fn run(self, step: &str, reason: DecisionReason, took_ms: u64, notes: Value) -> Self {
        let done = StepOutcome::Succeeded { receipt: receipt(json!({}), notes) };
        self.begin(step, reason, &[("config", "1"), ("module", "m")]).end(step, took_ms, done)
    }

    pub(crate) fn log(self, step: &str, level: MessageLevel, message: &str) -> Self {
        let progress = StepProgress::Log {
            level,
            message: message.to_owned(),
            fields: map(json!({"rows": 7, "table": "orders"})),
        };
        self.push(1, JournalEvent::Progress { step_target: step_target(step), progress })
    }

    pub(crate) fn meter(self, step: &str, done: u64, total: Option<u64>) -> Self {
        let progress = StepProgress::Meter { task: "fetch".to_owned(), done, total, unit: "bytes".to_owned() };
        self.push(1, JournalEvent::Progress { step_target: step_target(step), progress })
    }

    pub(crate) fn ended(self, exit: ExitKind) -> Self {
        self.push(1, JournalEvent::Ended { exit, verified: exit == ExitKind::Success })
    }

    /// The entries of the last attempt.
    pub(crate) fn last_attempt(&self) -> &[JournalEntry] {
        self.attempts.last().expect("an attempt was started")
    }

    /// Writes all journals into a folder.
    pub(crate) fn write(&self, folder: &Path) {
        fs::create_dir_all(folder).unwrap();
        for entries in &self.attempts {
            let JournalEvent::Started(header) = &entries[0].event else { panic!("an attempt starts with its header") };
            let bytes: Vec<u8> = entries.iter().flat_map(|entry| line::encode(entry).bytes).collect();
            fs::write(folder.join(format!("attempt-{:06}.journal", header.epoch)), bytes).unwrap();
        }
    }
}

fn new_release() -> DecisionReason {
    DecisionReason::Changed { components: vec!["release".to_owned()] }
}

/// Every step runs for the first time.
pub(crate) fn clean() -> JournalFixture {
    JournalFixture::new()
        .attempt(1, "1-aaaaaa", 1, "r1")
        .begin("pull", DecisionReason::NeverRan, &[("config", "1"), ("module", "m")])
        .meter("pull", 512, Some(2048))
        .log("pull", MessageLevel::Info, "fetched")
        .end("pull", 1_250, StepOutcome::Succeeded { receipt: receipt(json!({}), json!({"bytes": 2048})) })
        .run("migrate", DecisionReason::NeverRan, 41, json!({"files": 2}))
        .run("switch", DecisionReason::NeverRan, 2, json!({}))
        .run("verify", DecisionReason::NeverRan, 5, json!({}))
        .ended(ExitKind::Success)
}

/// The same deployment once more.
pub(crate) fn all_skipped() -> JournalFixture {
    clean()
        .attempt(2, "2-bbbbbb", 1, "r1")
        .skip("pull")
        .skip("migrate")
        .skip("switch")
        .skip("verify")
        .ended(ExitKind::Success)
}

/// A step on all hosts at once: it begins on each, then ends on each, on host `n` with `outcome(n)`.
fn on_hosts(
    mut journal: JournalFixture,
    step: &str,
    hosts: usize,
    reason: &DecisionReason,
    outcome: impl Fn(usize) -> StepOutcome,
) -> JournalFixture {
    for host in 1..=hosts {
        journal = journal.begin(&format!("{step}@web-{host}"), reason.clone(), &[("config", "1"), ("module", "m")]);
    }
    for host in 1..=hosts {
        journal = journal.end(&format!("{step}@web-{host}"), 12, outcome(host));
    }
    journal
}

fn succeeded(_: usize) -> StepOutcome {
    StepOutcome::Succeeded { receipt: receipt(json!({}), json!({})) }
}

/// A release on this many hosts, and another one that two of them have no room for.
pub(crate) fn failed_on_two_hosts(hosts: usize) -> JournalFixture {
    let first =
        |journal: JournalFixture, step: &str| on_hosts(journal, step, hosts, &DecisionReason::NeverRan, succeeded);
    let journal = first(JournalFixture::new().attempt_on(hosts, 1, "1-aaaaaa", 1, "r1"), "pull");
    let journal = first(journal.run("migrate@web", DecisionReason::NeverRan, 41, json!({"files": 2})), "switch");
    let mut journal = first(journal, "verify").ended(ExitKind::Success).attempt_on(hosts, 2, "2-bbbbbb", 1, "r2");
    journal = on_hosts(journal, "pull", hosts, &new_release(), succeeded);
    journal = journal.skip("migrate@web");
    let no_room = |host: usize| match host {
        3 | 7 => StepOutcome::Failed { failure: failure("no space left on device", json!({})) },
        _ => succeeded(host),
    };
    on_hosts(journal, "switch", hosts, &new_release(), no_room).ended(ExitKind::Failed)
}

/// There is room, and the run continues on the two.
pub(crate) fn resumed_on_two_hosts(hosts: usize) -> JournalFixture {
    let mut journal = failed_on_two_hosts(hosts).attempt_on(hosts, 3, "2-bbbbbb", 2, "r2");
    for host in 1..=hosts {
        journal = journal.skip(&format!("pull@web-{host}"));
    }
    journal = journal.skip("migrate@web");
    for host in 1..=hosts {
        let step = format!("switch@web-{host}");
        journal = match host {
            3 | 7 => journal.run(&step, DecisionReason::FailedBefore, 9, json!({})),
            _ => journal.skip(&step),
        };
    }
    on_hosts(journal, "verify", hosts, &DecisionReason::UpstreamRan, succeeded).ended(ExitKind::Success)
}

/// A new release whose migration has an error.
pub(crate) fn failed() -> JournalFixture {
    let why = failure("relation \"order\" does not exist", json!({"file": "migrations/0007_orders.sql", "line": 3}));
    let changed = ["config", "input:migrations", "release"].map(str::to_owned).into();
    clean()
        .attempt(2, "2-bbbbbb", 1, "r2")
        .run("pull", new_release(), 8, json!({"bytes": 1536}))
        .begin(
            "migrate",
            DecisionReason::Changed { components: changed },
            &[("config", "2"), ("input:migrations", "broken"), ("module", "m")],
        )
        .log("migrate", MessageLevel::Debug, "reading")
        .log("migrate", MessageLevel::Warn, "slow lock")
        .end("migrate", 41, StepOutcome::Failed { failure: why })
        .ended(ExitKind::Failed)
}

/// The error is fixed, and the run continues.
pub(crate) fn resumed() -> JournalFixture {
    let done = StepOutcome::Succeeded { receipt: receipt(json!({}), json!({"files": 1})) };
    failed()
        .attempt(3, "2-bbbbbb", 2, "r2")
        .skip("pull")
        .begin(
            "migrate",
            DecisionReason::FailedBefore,
            &[("config", "2"), ("input:migrations", "good"), ("module", "m")],
        )
        .end("migrate", 12, done)
        .run("switch", new_release(), 2, json!({}))
        .run("verify", DecisionReason::UpstreamRan, 5, json!({}))
        .ended(ExitKind::Success)
}

/// Someone changed a pulled file.
pub(crate) fn drifted() -> JournalFixture {
    let why = "releases/r1/app.js differs from the archive".to_owned();
    clean()
        .attempt(2, "2-bbbbbb", 1, "r1")
        .probe("pull", 3, ProbeFinding::Drifted { why: why.clone() })
        .decide("pull", Decision::Stop { reason: DecisionReason::Drifted { why } })
        .ended(ExitKind::InDoubt)
}

/// The process died during the migration.
pub(crate) fn killed() -> JournalFixture {
    clean().attempt(2, "2-bbbbbb", 1, "r2").run("pull", new_release(), 8, json!({})).begin(
        "migrate",
        new_release(),
        &[("config", "1"), ("module", "m")],
    )
}

/// The next attempt finds the effect of the migration.
pub(crate) fn adopted() -> JournalFixture {
    let held = receipt(json!({}), json!({}));
    let interrupted = DecisionReason::Interrupted { finding: Some(FindingSummary::Held) };
    let finding = ProbeFinding::Held { receipt: held.clone() };
    let probe = JournalEvent::Probe {
        step_target: step_target("migrate"),
        probed_input: ProbeInput::Recorded,
        took_ms: 4,
        finding,
    };
    killed()
        .attempt(3, "2-bbbbbb", 2, "r2")
        .skip("pull")
        .push(4, probe)
        .decide("migrate", Decision::Adopt { reason: interrupted, receipt: held })
        .skip("migrate")
        .run("switch", new_release(), 2, json!({}))
        .run("verify", DecisionReason::UpstreamRan, 5, json!({}))
        .ended(ExitKind::Success)
}

/// The journal of the killed attempt is missing; the next one finds the effect of the migration.
pub(crate) fn adopted_without_record() -> JournalFixture {
    let held = receipt(json!({}), json!({}));
    let reason = DecisionReason::Unconfirmed { finding: Some(FindingSummary::Held) };
    clean()
        .attempt(3, "2-bbbbbb", 2, "r2")
        .skip("pull")
        .probe("migrate", 4, ProbeFinding::Held { receipt: held.clone() })
        .intent("migrate", &[("config", "1"), ("module", "m")], None)
        .decide("migrate", Decision::Adopt { reason, receipt: held })
        .skip("migrate")
        .run("switch", new_release(), 2, json!({}))
        .run("verify", DecisionReason::UpstreamRan, 5, json!({}))
        .ended(ExitKind::Success)
}

/// The release does not answer, and the previous one is live again.
pub(crate) fn rolled_back() -> JournalFixture {
    let why = failure("GET /health gave 500, not 200", json!({}));
    clean()
        .attempt(2, "2-bbbbbb", 1, "r2")
        .run("pull", new_release(), 8, json!({}))
        .run("migrate", new_release(), 9, json!({}))
        .run("switch", new_release(), 2, json!({}))
        .begin("verify", DecisionReason::UpstreamRan, &[("config", "1")])
        .end("verify", 5_020, StepOutcome::Failed { failure: why })
        .push(1, JournalEvent::UndoIntent { step_target: step_target("switch") })
        .push(2, JournalEvent::UndoOutcome { step_target: step_target("switch"), failure: None })
        .push(1, JournalEvent::SwitchedBack { release: release("r1"), doubt: None })
        .ended(ExitKind::RolledBack)
}

/// The same, and the check runs again for the release that is live again.
pub(crate) fn repeated(ended: StepOutcome) -> JournalFixture {
    let why = failure("GET /health gave 500, not 200", json!({}));
    clean()
        .attempt(2, "2-bbbbbb", 1, "r2")
        .run("switch", new_release(), 2, json!({}))
        .begin("verify", DecisionReason::UpstreamRan, &[("config", "1"), ("module", "m")])
        .end("verify", 5_020, StepOutcome::Failed { failure: why })
        .push(1, JournalEvent::UndoIntent { step_target: step_target("switch") })
        .push(2, JournalEvent::UndoOutcome { step_target: step_target("switch"), failure: None })
        .repeat("verify", "r1")
        .end("verify", 20, ended)
        .push(1, JournalEvent::SwitchedBack { release: release("r1"), doubt: None })
        .ended(ExitKind::RolledBack)
}

fn release(label: &str) -> Release {
    Release { label: label.parse().unwrap(), digest: None }
}
