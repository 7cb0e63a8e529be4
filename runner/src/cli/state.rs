//! `runner state check|repair`: tells what is wrong with the state of an environment, and repairs it.

use std::{io::Write, time::Duration};

use serde_json::{Value, json};

use super::{guards, source, source::PlanSourceArgs, wait::LockWaitArgs};
use crate::report::{self, OutputFormat, json};
use contract::{
    EnvironmentName,
    diagnostic::{Diagnostic, ExitKind},
    text::error_chain_text,
};
use state::{BaseRepair, LockRequest, RemoteDamage, StateFinding, StateStore};

/// How long the end may take to reach a remote state.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(60);

/// The subcommands of `state`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum StateSubcommand {
    /// Check all journals, and say what `repair` would do
    Check {
        #[command(flatten)]
        plan: PlanSourceArgs,
    },
    /// Repair the state of an environment; nothing is deleted
    Repair(StateRepairArgs),
}

/// Arguments of `state repair`.
#[derive(Debug, clap::Args)]
pub(super) struct StateRepairArgs {
    #[command(flatten)]
    plan: PlanSourceArgs,
    /// Run it from this machine, outside of CI
    #[arg(long)]
    local: bool,
    #[command(flatten)]
    wait: LockWaitArgs,
}

/// Checks or repairs. As JSON an array of `{environment, findings: [{what, path, repair}]}`.
///
/// # Errors
/// P06xx when the state can't be read, P05xx when it can't be locked.
pub(super) async fn run(
    command: &StateSubcommand,
    format: OutputFormat,
    out: &mut dyn Write,
) -> Result<ExitKind, Vec<Diagnostic>> {
    let one = |diagnostic: Diagnostic| vec![diagnostic];
    let (answer, exit) = match command {
        StateSubcommand::Check { plan } => {
            let mut reports = Vec::new();
            for (environment, store) in plan.stores()? {
                reports.push((environment, store.check().map_err(|error| one((&error).into()))?));
            }
            let is_damaged = reports.iter().flat_map(|(_, findings)| findings).any(StateFinding::is_damage);
            let exit = if is_damaged { ExitKind::Journal } else { ExitKind::Success };
            (answer(&reports, format, Tense::Would), exit)
        }
        StateSubcommand::Repair(args) => {
            let report = repair(args).await?;
            let exit = match report.1.iter().any(|finding| finding.is_damage() && !finding.is_repairable()) {
                true => ExitKind::Journal,
                false => ExitKind::Success,
            };
            (answer(&[report], format, Tense::Did), exit)
        }
    };
    report::write_answer(out, &answer).map_err(one)?;
    Ok(exit)
}

/// Repairs the state under its lock. Returns what was found before.
async fn repair(args: &StateRepairArgs) -> Result<(EnvironmentName, Vec<StateFinding>), Vec<Diagnostic>> {
    let one = |diagnostic: Diagnostic| vec![diagnostic];
    guards::require_local_flag(args.local, "state repair")?;
    // Whose operators may repair it does not depend on the release.
    let plan = args.plan.plan_for(&source::placeholder_label())?;
    guards::check_allowed_user(&plan).await.map_err(one)?;
    let store = StateStore::new(&plan.state, &plan.app, &plan.environment);
    guards::check_nesting(&store).map_err(one)?;
    let findings = store.check().map_err(|error| one((&error).into()))?;
    store.repair_copy().map_err(|error| one((&error).into()))?;
    let request =
        LockRequest { wait: args.wait.wait(), url: source::job_url(), ..LockRequest::new(&source::user_at_host()) };
    let lock = store.acquire_lock(request).await.map_err(|error| one((&error).into()))?;
    let repaired = store.repair();
    lock.close(CLOSE_TIMEOUT).await.map_err(|error| one((&error).into()))?;
    repaired.map_err(|error| one((&error).into()))?;
    Ok((plan.environment, findings))
}

/// Whether an answer tells what a repair would do, or did.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tense {
    Would,
    Did,
}

fn answer(reports: &[(EnvironmentName, Vec<StateFinding>)], format: OutputFormat, tense: Tense) -> String {
    match format {
        OutputFormat::Json => {
            let finding = |finding: &StateFinding| {
                let (what, path) = what(finding);
                json!({ "what": what, "path": path, "repair": repair_text(finding, tense) })
            };
            let report = |(environment, findings): &(EnvironmentName, Vec<StateFinding>)| json!({ "environment": environment, "findings": findings.iter().map(finding).collect::<Value>() });
            json::line(&reports.iter().map(report).collect::<Value>()) + "\n"
        }
        OutputFormat::Text => {
            let mut answer = String::new();
            for (environment, findings) in reports {
                answer.push_str(&format!("{environment}\n"));
                if findings.is_empty() {
                    answer.push_str("  sound\n");
                }
                for finding in findings {
                    let (what, path) = what(finding);
                    // An error of a file begins with its path.
                    let path = path.filter(|path| !what.starts_with(path.as_str()));
                    let path = path.map_or_else(String::new, |path| format!("{path}: "));
                    answer.push_str(&format!("  {path}{what}\n"));
                    answer.push_str(&format!("    {}\n", repair_text(finding, tense)));
                }
            }
            answer
        }
    }
}

/// What was found, and where.
fn what(finding: &StateFinding) -> (String, Option<String>) {
    match finding {
        StateFinding::DamagedJournal { path, error, sound_lines, .. } => {
            (format!("{error}; lines before it: {sound_lines}"), Some(path.display().to_string()))
        }
        StateFinding::DamagedOldJournal { path, why } | StateFinding::LostJournal { path, why, .. } => {
            (why.clone(), Some(path.display().to_string()))
        }
        StateFinding::DamagedArchive { path, error } => (error_chain_text(error), Some(path.display().to_string())),
        StateFinding::DamagedBase { path, why, .. } => (why.clone(), Some(path.display().to_string())),
        StateFinding::OutdatedSnapshot => ("the snapshot or the index does not match the journals".to_owned(), None),
        StateFinding::DamagedBegunFile(path) => {
            ("the list of steps that may have begun can't be read".to_owned(), Some(path.display().to_string()))
        }
        StateFinding::DamagedRemoteFile(RemoteDamage { name, why, .. }) => (why.clone(), Some(name.clone())),
        StateFinding::Diverged(path) => ("differs from the remote's".to_owned(), Some(path.display().to_string())),
        StateFinding::NotUploaded(path) => {
            ("has lines that are not uploaded yet".to_owned(), Some(path.display().to_string()))
        }
        StateFinding::LostLines(path) => {
            ("lines that an attempt wrote after it had lost the lock".to_owned(), Some(path.display().to_string()))
        }
    }
}

fn repair_text(finding: &StateFinding, tense: Tense) -> String {
    let verb = |would: &str, did: &str| if tense == Tense::Would { format!("repair {would}") } else { did.to_owned() };
    match finding {
        StateFinding::DamagedJournal { later, .. } => {
            let later = match later.len() {
                0 => String::new(),
                1 => ", and the journal after it".to_owned(),
                count => format!(", and the {count} journals after it"),
            };
            let next = "the next attempt probes the steps that they name";
            format!("{} the lines from there on{later} to `lost`; {next}", verb("moves", "moved"))
        }
        StateFinding::DamagedArchive { .. } => {
            "restore it from a copy; only `why`, `logs` and `history` of old attempts need it".to_owned()
        }
        StateFinding::DamagedOldJournal { .. } => {
            "restore it from a copy; the snapshot stands for it, so deployments go on, but `why` and `logs` of old attempts need it, and so does `promote` until the environment is deployed again".to_owned()
        }
        StateFinding::LostJournal { repair, .. } => match repair {
            BaseRepair::BeginAfter(epoch) => format!(
                "{} the history begin after epoch {epoch}, whose snapshot is sound, and {} the journals up to it to `lost`; or restore \
                 the file from a copy",
                verb("lets", "let"),
                if tense == Tense::Would { "moves" } else { "moved" }
            ),
            BaseRepair::Remake | BaseRepair::Drop | BaseRepair::None => {
                "the snapshot knows more than the journals; restore the file from a copy".to_owned()
            }
        },
        StateFinding::DamagedBase { repair, .. } => match repair {
            BaseRepair::Remake => {
                format!("{} it again from an archive or another snapshot", verb("makes", "made"))
            }
            BaseRepair::Drop => {
                format!("{} it to `lost`: the journals go back to the first attempt", verb("moves", "moved"))
            }
            BaseRepair::BeginAfter(epoch) => format!(
                "{} the history begin after epoch {epoch}, whose snapshot is sound, and {} the journals up to it to `lost`; or restore \
                 the file from a copy",
                verb("lets", "let"),
                if tense == Tense::Would { "moves" } else { "moved" }
            ),
            BaseRepair::None => {
                "restore it from a copy, such as the newest artifact of the CI run that it came from".to_owned()
            }
        },
        StateFinding::DamagedRemoteFile(RemoteDamage { copy: Some(copy), .. }) => {
            format!("restore it there; this machine has a copy: {}", copy.display())
        }
        StateFinding::DamagedRemoteFile(RemoteDamage { copy: None, .. }) => {
            "restore it there from a copy; a machine that deployed may have one".to_owned()
        }
        StateFinding::DamagedBegunFile(_) => {
            "the next attempt counts every step as begun, and probes it before it acts".to_owned()
        }
        StateFinding::OutdatedSnapshot => format!("{} them again from the journals", verb("makes", "made")),
        StateFinding::Diverged(_) => format!(
            "{} the remote's, and {} this one to `lost`",
            verb("takes", "took"),
            if tense == Tense::Would { "moves" } else { "moved" }
        ),
        StateFinding::NotUploaded(_) => "the next deployment uploads them".to_owned(),
        StateFinding::LostLines(_) => "kept for you to read; you may delete it".to_owned(),
    }
}
