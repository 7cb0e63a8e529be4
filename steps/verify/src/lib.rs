//! Verifies that the release works: in rounds of checks over HTTP, TCP, files and SQL; then by requests out of an access log ([`sample`]), and
//! at a fixed pace for some time ([`bake`]).
//!
//! Invariant: it changes nothing, and reports success only for checks that succeeded in the same call.
//!
//! Deliberately absent: load, and metrics of other programs.

mod access_log;
mod answer;
mod bake;
mod check;
mod mismatch;
mod rounds;
mod sample;

use core::time::Duration;

use pawl_step::{
    Capability, CapabilityNeed, Change, ChangeAction, DirectoryAccess, Failure, FailureKind, Finding, Input,
    ModuleDescription, Phase, ProbeSupport, Receipt, RerunSafety, Step, log, time,
};
use serde::Deserialize;

use bake::BakeConfig;
use check::{FileCheck, HttpCheck, SqlCheck, VerifyCheck};
use mismatch::CheckMismatch;
use rounds::RoundPolicy;
use sample::SampleConfig;

/// The `verify` module.
#[derive(Debug)]
pub struct VerifyStep;

/// The step's configuration, from `with:`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifyConfig {
    /// The HTTP checks.
    #[serde(default)]
    pub http: Vec<HttpCheck>,
    /// The TCP addresses to connect to.
    #[serde(default)]
    pub tcp: Vec<String>,
    /// The file checks.
    #[serde(default)]
    pub files: Vec<FileCheck>,
    /// The SQL checks.
    #[serde(default)]
    pub sql: Vec<SqlCheck>,
    /// Requests out of an access log.
    pub sample: Option<SampleConfig>,
    /// Requests for some time.
    pub bake: Option<BakeConfig>,
    /// The largest number of rounds.
    #[serde(default = "five")]
    pub tries: u32,
    /// The wait between two rounds.
    #[serde(default = "one_second", deserialize_with = "pawl_step::time::duration")]
    pub interval: Duration,
    /// The number of successful rounds required in a row.
    #[serde(default = "one")]
    pub consecutive: u32,
}

fn five() -> u32 {
    5
}

fn one() -> u32 {
    1
}

fn one_second() -> Duration {
    Duration::from_secs(1)
}

impl Step for VerifyStep {
    type Config = VerifyConfig;

    fn describe() -> ModuleDescription {
        ModuleDescription {
            needs: vec![
                CapabilityNeed { capability: Capability::Http, config: Some("/http"), reason: "is checked over HTTP" },
                CapabilityNeed { capability: Capability::Tcp, config: Some("/tcp"), reason: "is checked over TCP" },
                CapabilityNeed {
                    capability: Capability::Dirs(DirectoryAccess::Read),
                    config: Some("/files"),
                    reason: "contains the files to check",
                },
                CapabilityNeed {
                    capability: Capability::Databases,
                    config: Some("/sql/0/database"),
                    reason: "is queried",
                },
                CapabilityNeed {
                    capability: Capability::Dirs(DirectoryAccess::Read),
                    config: Some("/sample/file"),
                    reason: "holds the access log",
                },
            ],
            phase: Phase::Check,
            repeatable: RerunSafety::Always,
            // What takes long is not done again to find out whether it holds.
            probes: ProbeSupport::Config(&["/http", "/tcp", "/files", "/sql"]),
            outputs: Some(&["checks"]),
            ..ModuleDescription::new(
                "verify",
                env!("CARGO_PKG_VERSION"),
                "checks that the release works, over HTTP, TCP, files and SQL, and with requests out of a log",
                include_str!("../config.schema.json"),
            )
        }
    }

    fn preview(input: &Input<VerifyConfig>) -> Result<Vec<Change>, Failure> {
        let checks = checks(input)?;
        let mut changes: Vec<_> =
            checks.iter().map(|check| Change::new(ChangeAction::Check, check.label(), check.expectation())).collect();
        let VerifyConfig { sample, bake, .. } = &input.config;
        let check = |subject: String, expected| Change::new(ChangeAction::Check, subject, expected);
        changes.extend(sample.iter().map(|sample| check(format!("requests of {}", sample.file), sample.expectation())));
        changes.extend(bake.iter().map(|bake| check(format!("GET {} for a while", bake.url), bake.expectation())));
        Ok(changes)
    }

    fn apply(input: &Input<VerifyConfig>) -> Result<Receipt, Failure> {
        let started = time::monotonic();
        let checks = checks(input)?;
        let VerifyConfig { tries, interval, consecutive, sample, bake, .. } = &input.config;
        let policy = RoundPolicy::new(*tries, *interval, *consecutive)?;
        let count = checks.len() + usize::from(sample.is_some()) + usize::from(bake.is_some());
        let mut receipt = Receipt::new().output("checks", count);
        if !checks.is_empty() {
            let rounds = policy.run(checks.len(), || run_round(&checks), log::info, time::sleep)?;
            receipt = receipt.note("rounds", rounds);
        }
        if let Some(sample) = sample {
            receipt = sample.run(input.live().is_some(), receipt)?;
        }
        if let Some(bake) = bake {
            receipt = bake.run(input.live().is_some(), receipt)?;
        }
        Ok(receipt.note("took_ms", time::elapsed_ms(started)))
    }

    fn probe(input: &Input<VerifyConfig>) -> Result<Finding, Failure> {
        let checks = checks(input)?;
        let failing = run_round(&checks)?;
        Ok(if failing.is_empty() {
            let VerifyConfig { sample, bake, .. } = &input.config;
            let count = checks.len() + usize::from(sample.is_some()) + usize::from(bake.is_some());
            Finding::Held(Receipt::new().output("checks", count))
        } else {
            Finding::Drifted(rounds::summarize_mismatches(&failing, checks.len(), ""))
        })
    }

    fn revert(_input: &Input<VerifyConfig>, _receipt: &Receipt) -> Result<(), Failure> {
        Ok(())
    }
}

fn checks(input: &Input<VerifyConfig>) -> Result<Vec<VerifyCheck>, Failure> {
    let VerifyConfig { http, tcp, files, sql, sample, bake, tries: _, interval: _, consecutive: _ } = &input.config;
    let mut checks: Vec<VerifyCheck> = http.iter().cloned().map(VerifyCheck::Http).collect();
    checks.extend(tcp.iter().cloned().map(VerifyCheck::Tcp));
    for file in files {
        let dir = input.dir("in", file.dir.as_deref(), &[])?;
        checks.push(VerifyCheck::File { dir, check: file.clone() });
    }
    checks.extend(sql.iter().cloned().map(VerifyCheck::Sql));
    if checks.is_empty() && sample.is_none() && bake.is_none() {
        return Err(Failure::invalid_config(format!("step `{}` has no checks", input.step))
            .hint("add a check under `with:`, such as `http: [{ url: \"http://127.0.0.1:8080/health\" }]`"));
    }
    Ok(checks)
}

/// Runs every check once and returns the mismatches. An error that no further round can change fails at once.
fn run_round(checks: &[VerifyCheck]) -> Result<Vec<CheckMismatch>, Failure> {
    let mut failing = Vec::new();
    for check in checks {
        match check.run() {
            Ok(None) => {}
            Ok(Some(found)) => {
                failing.push(CheckMismatch { check: check.label(), expected: check.expectation(), found })
            }
            Err(failure) if matches!(failure.kind, FailureKind::Denied | FailureKind::InvalidConfig) => {
                return Err(failure.context(check.label()));
            }
            Err(failure) => failing.push(CheckMismatch {
                check: check.label(),
                expected: check.expectation(),
                found: failure.message,
            }),
        }
    }
    Ok(failing)
}

pawl_step::export!(VerifyStep);

#[cfg(test)]
mod tests {
    use super::*;
    use pawl_step::testing::{self, TestSandbox, assert_described};
    use serde_json::{Value, json};

    fn input(config: Value) -> Input<VerifyConfig> {
        testing::input("verify", VerifyConfig::deserialize(config).unwrap())
    }

    #[test]
    fn verify_description_is_valid() {
        assert_described::<VerifyStep>();
    }

    #[test]
    fn the_schema_states_the_defaults() {
        let config = VerifyConfig::deserialize(json!({})).unwrap();
        let properties = &VerifyStep::describe().to_json()["config"]["properties"];
        assert_eq!(properties["tries"]["default"], config.tries);
        assert_eq!(properties["consecutive"]["default"], config.consecutive);
        assert_eq!((properties["interval"]["default"].as_str(), config.interval), (Some("1s"), Duration::from_secs(1)));
        let http = HttpCheck::deserialize(json!({ "url": "u" })).unwrap();
        let properties = &properties["http"]["items"]["properties"];
        assert_eq!(
            (properties["status"]["default"].clone(), properties["method"]["default"].as_str()),
            (json!(http.status), Some(http.method.as_str()))
        );
        assert_eq!((properties["timeout"]["default"].as_str(), http.timeout), (Some("5s"), Duration::from_secs(5)));
    }

    #[test]
    fn file_checks_follow_links() {
        let sandbox = TestSandbox::new();
        let app = sandbox.grant("app", DirectoryAccess::Read);
        std::fs::create_dir(app.join("r1")).unwrap();
        std::fs::write(app.join("r1/VERSION"), "v1\n").unwrap();
        std::os::unix::fs::symlink("r1", app.join("current")).unwrap();
        let config = json!({ "files": [
            { "path": "current/VERSION", "equals": "v1" }, { "path": "current/VERSION", "contains": "v" },
            { "path": "maintenance", "exists": false }, { "in": "app", "path": "current" },
        ] });
        let receipt = VerifyStep::apply(&input(config.clone())).unwrap();
        assert_eq!(Value::Object(receipt.outputs), json!({ "checks": 4 }));
        assert_eq!(
            VerifyStep::preview(&input(config.clone())).unwrap()[0],
            Change::new(ChangeAction::Check, "file app/current/VERSION", "the content `v1`")
        );
        std::fs::write(app.join("r1/VERSION"), "v2\n").unwrap();
        std::fs::write(app.join("maintenance"), "").unwrap();
        let expected = "2 of 4 checks failed: file app/current/VERSION: expected the content `v1`, found `v2`; \
            file app/maintenance: expected no such file, found one";
        assert_eq!(VerifyStep::probe(&input(config.clone())).unwrap(), Finding::Drifted(expected.to_owned()));
        let mut quick = input(config);
        quick.config.interval = Duration::ZERO;
        quick.config.tries = 2;
        let failure = VerifyStep::apply(&quick).unwrap_err();
        assert_eq!(failure.message, expected.replace("failed:", "failed after 2 rounds:"));
        assert_eq!(failure.details["failing"][1]["check"], "file app/maintenance");
    }

    #[test]
    fn configuration_errors_fail_without_retry() {
        let sandbox = TestSandbox::new();
        sandbox.grant("app", DirectoryAccess::Read);
        assert_eq!(VerifyStep::apply(&input(json!({}))).unwrap_err().kind, FailureKind::InvalidConfig);
        assert_eq!(
            VerifyStep::apply(&input(json!({ "files": [{ "in": "etc", "path": "x" }] }))).unwrap_err().kind,
            FailureKind::Denied
        );
        assert_eq!(
            VerifyStep::apply(&input(json!({ "files": [{ "path": "../x" }] }))).unwrap_err().kind,
            FailureKind::InvalidConfig
        );
        assert_eq!(
            VerifyStep::apply(&input(json!({ "tcp": ["h:1"], "tries": 2, "consecutive": 3 }))).unwrap_err().kind,
            FailureKind::InvalidConfig
        );
    }
}
