//! `runner migrate …`: shows a step's migrations, previews them, and records an operator's decisions about them.
//!
//! A subcommand that changes something acquires the deployment lock first, then the migration lock. Deliberately absent:
//! applying migrations; only a deployment does that.

use std::{collections::BTreeMap, fmt::Write as _, io::Write, path::PathBuf};

use serde_json::{Value, json};

use super::{attempts, guards, output::CommandOutput, source, source::PlanSourceArgs, xdg_dirs};
use crate::{
    deploy::{DescribedSteps, describe_steps, lineage, migration_diagnostic},
    report::{self, OutputFormat, json},
};
use contract::{
    diagnostic::{Diagnostic, ErrorCode, ExitKind},
    step::{MessageLevel, StepFailure},
};
use db::migrate::{MigrationAdmin, MigrationFence, MigrationResolution};
use journal::Redactor;
use plan::{DeferredLookup, PendingValue, Plan, PlanStep, closest_match};
use sandbox::{CallPurpose, MigratesBehavior, ModuleDescription, open_migrations};
use state::{LockRequest, StateStore};

/// Arguments of `migrate`.
#[derive(Debug, clap::Args)]
pub(super) struct MigrateArgs {
    /// The plan file; optional if the folder has only one: deploy.yml, pawl.yml or *.pawl.yml
    #[arg(long, value_name = "FILE", env = "PAWL_PLAN", hide_env = true, global = true)]
    plan: Option<PathBuf>,
    /// The environment; optional if the plan has only one
    #[arg(long = "env", value_name = "NAME", env = "PAWL_ENVIRONMENT", hide_env = true, global = true)]
    environment: Option<String>,
    /// The migrate step; optional if the plan has only one
    #[arg(long, value_name = "STEP", global = true)]
    step: Option<String>,
    #[command(subcommand)]
    command: MigrateSubcommand,
}

#[derive(Debug, clap::Subcommand)]
enum MigrateSubcommand {
    /// List the files and their status in the database
    Status,
    /// Show the SQL of the pending files
    Preview {
        /// Also run it, in one transaction that is rolled back (PostgreSQL, SQLite)
        #[arg(long)]
        execute: bool,
        /// Run it from this machine, outside of CI
        #[arg(long)]
        local: bool,
    },
    /// List unsafe statements in the pending files
    Lint,
    /// Record all files up to a version as applied, in a database without a history
    Baseline {
        /// The version of the file
        version: String,
        /// Run it from this machine, outside of CI
        #[arg(long)]
        local: bool,
    },
    /// Record the outcome of a file that was started but not finished
    Resolve {
        /// The file's version
        #[arg(required_unless_present = "fence")]
        version: Option<String>,
        /// The whole file is applied
        #[arg(long, group = "what")]
        applied: bool,
        /// Nothing of the file is applied
        #[arg(long, group = "what")]
        rolled_back: bool,
        /// The statements before statement N are applied, the others are not
        #[arg(long, group = "what", value_name = "N")]
        retry_from: Option<usize>,
        /// Forget which attempt migrated last, after the state was lost or recreated
        #[arg(long, group = "what")]
        fence: bool,
        /// Run it from this machine, outside of CI
        #[arg(long)]
        local: bool,
    },
    /// Accept a file that was changed after it was applied
    #[command(alias = "bless")]
    Accept {
        /// The version of the file
        version: String,
        /// Run it from this machine, outside of CI
        #[arg(long)]
        local: bool,
    },
    /// Undo the newest file with its `.down.sql` or `-- migrate:down`
    Down {
        /// Undo all files newer than this version; 0 for all files
        #[arg(long, value_name = "VERSION")]
        to: Option<String>,
        /// Run it from this machine, outside of CI
        #[arg(long)]
        local: bool,
    },
}

/// Runs the subcommand.
///
/// # Errors
/// An error of the plan, the files or the database.
pub(super) async fn run(
    args: &MigrateArgs,
    screen: &CommandOutput,
    out: &mut dyn Write,
) -> Result<ExitKind, Vec<Diagnostic>> {
    let label = "none".parse().expect("`none` is a label");
    let source =
        PlanSourceArgs { plan: args.plan.clone(), environment: args.environment.clone(), ..PlanSourceArgs::default() };
    let mut plan = source.plan_for(&label)?;
    let options = xdg_dirs::preflight_options(screen.stderr_notifier());
    screen.mask(plan.secrets.values().chain(options.job_secrets.values()));
    resolve_recorded_outputs(&mut plan).map_err(|error| vec![error])?;
    let redactor = Redactor::of_deployment(&plan.secrets, &options.job_secrets);
    let hidden = |mut diagnostic: Diagnostic| {
        diagnostic.message = redactor.redact(&diagnostic.message);
        diagnostic.hint = diagnostic.hint.map(|hint| redactor.redact(&hint));
        vec![diagnostic]
    };
    let described = describe_steps(&plan, options).await.map_err(|error| vec![error])?;
    let step = migration_step(&described, args.step.as_deref())?;
    if let Some(unknown) = step.step.pending.values().flat_map(PendingValue::lookups).next() {
        return Err(vec![outputs_not_recorded(step.step, unknown)]);
    }
    let outcome = match &args.command {
        MigrateSubcommand::Status | MigrateSubcommand::Lint | MigrateSubcommand::Preview { execute: false, .. } => {
            run_read_only(step, &args.command).await
        }
        MigrateSubcommand::Preview { local, .. }
        | MigrateSubcommand::Baseline { local, .. }
        | MigrateSubcommand::Resolve { local, .. }
        | MigrateSubcommand::Accept { local, .. }
        | MigrateSubcommand::Down { local, .. } => {
            guards::require_local_flag(*local, "migrate")?;
            let store = StateStore::new(&plan.state, &plan.app, &plan.environment);
            guards::check_allowed_user(&plan).await.map_err(|error| vec![error])?;
            guards::check_nesting(&store).map_err(|error| vec![error])?;
            let claim = LockRequest { url: source::job_url(), ..LockRequest::new(&source::user_at_host()) };
            let lock = store.acquire_lock(claim).await.map_err(|error| vec![(&error).into()])?;
            let fence = operator_fence(&plan, &store)?;
            let changed = run_mutating(step, &args.command, &fence, screen).await;
            drop(lock);
            changed
        }
    };
    let answer = outcome.map_err(|failure| hidden(migration_diagnostic(&failure)))?;
    let text = match screen.format() {
        OutputFormat::Json => json::line(&redactor.redact_json_values(answer.json)) + "\n",
        OutputFormat::Text => redactor.redact(&answer.text),
    };
    report::write_answer(out, &text).map_err(|error| vec![error])?;
    Ok(answer.exit)
}

/// Fills in what the configuration of steps takes from outputs of other steps, as these were recorded last.
fn resolve_recorded_outputs(plan: &mut Plan) -> Result<(), Diagnostic> {
    if plan.steps.iter().all(|step| step.pending.is_empty()) {
        return Ok(());
    }
    let state = attempts::load_state(&StateStore::new(&plan.state, &plan.app, &plan.environment))?;
    let Some(last) = state.attempts.last() else { return Ok(()) };
    let recorded = state.records.keys().filter_map(|step_target| {
        Some((step_target.step.clone(), state.authenticated_receipt(step_target)?.outputs.clone()))
    });
    let outputs = recorded.collect();
    for step in &mut plan.steps {
        // What is not recorded stays pending.
        if let Ok(config) = step.config(&outputs, &last.header.run, last.header.attempt) {
            (step.with, step.pending) = (config, BTreeMap::new());
        }
    }
    Ok(())
}

fn outputs_not_recorded(step: &PlanStep, unknown: &DeferredLookup) -> Diagnostic {
    let message = format!("the configuration of step `{}` needs `{unknown}`, which is not recorded yet", step.id);
    let hint = "deploy first: `runner migrate` works on the files of the release that was deployed last";
    Diagnostic::new(ErrorCode::OutputsNotRecorded, message).with_hint(hint)
}

struct MigrateAnswer {
    text: String,
    json: Value,
    exit: ExitKind,
}

impl MigrateAnswer {
    fn new(text: String, json: Value) -> Self {
        Self { text, json, exit: ExitKind::Success }
    }
}

type MigrateResult = Result<MigrateAnswer, StepFailure>;

/// A step that migrates, and where its migrations are.
#[derive(Clone, Copy)]
struct MigrationStep<'p> {
    step: &'p PlanStep,
    migrates: &'p MigratesBehavior,
}

impl MigrationStep<'_> {
    async fn open(&self, purpose: CallPurpose) -> Result<MigrationAdmin, StepFailure> {
        open_migrations(self.step, self.migrates, purpose).await
    }
}

fn migration_step<'p>(
    described: &'p DescribedSteps<'p>,
    named: Option<&str>,
) -> Result<MigrationStep<'p>, Vec<Diagnostic>> {
    let migration_step = |(step, description): &'p (&'p PlanStep, ModuleDescription)| {
        Some(MigrationStep { step, migrates: description.behaviors.migrates.as_ref()? })
    };
    let steps: Vec<MigrationStep<'p>> = described.steps.iter().filter_map(migration_step).collect();
    let names = || steps.iter().map(|it| format!("`{}`", it.step.id)).collect::<Vec<_>>().join(", ");
    let refused = |message: String, hint: String| {
        // A module that can't be loaded may be the one that migrates.
        match described.problems.as_slice() {
            [] => Err(vec![Diagnostic::new(ErrorCode::UnknownStep, message).with_hint(hint)]),
            problems => Err(problems.to_vec()),
        }
    };
    match (named, steps.as_slice()) {
        (_, []) => refused("the plan has no migrate step".to_owned(), "add a step with `uses: migrate`".to_owned()),
        (None, [only]) => Ok(*only),
        (None, _) => {
            refused("the plan has several migrate steps".to_owned(), format!("choose one with `--step`: {}", names()))
        }
        (Some(named), _) => match steps.iter().find(|it| it.step.id.as_str() == named) {
            Some(step) => Ok(*step),
            None => {
                let hint = match closest_match(named, steps.iter().map(|it| it.step.id.as_str())) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("use one of {}", names()),
                };
                refused(format!("the plan has no migrate step `{named}`"), hint)
            }
        },
    }
}

/// The fence of an operator's command: it has the epoch of the newest attempt.
fn operator_fence(plan: &Plan, store: &StateStore) -> Result<MigrationFence, Vec<Diagnostic>> {
    let state = attempts::load_state(store).map_err(|error| vec![error])?;
    Ok(MigrationFence {
        resource: MigrationFence::resource_key(
            plan.app.as_str(),
            plan.environment.as_str(),
            &lineage(&plan.app, &plan.environment, &state),
        ),
        epoch: state.epoch(),
        run: format!("operator {}", source::user_at_host()),
    })
}

async fn run_read_only(step: MigrationStep<'_>, command: &MigrateSubcommand) -> MigrateResult {
    let admin = step.open(CallPurpose::Probe).await?;
    match command {
        MigrateSubcommand::Lint => {
            let (found, _) = admin.lint().await?;
            let mut text = String::new();
            for lint in &found {
                let _ = writeln!(text, "{}:{}: {} ({})", lint.file, lint.line, lint.message, lint.rule);
                if let Some(help) = &lint.help {
                    let _ = writeln!(text, "    {help}");
                }
            }
            let found: Vec<_> = found
                .iter()
                .map(|lint| json!({ "file": lint.file, "line": lint.line, "rule": lint.rule, "message": lint.message, "help": lint.help }))
                .collect();
            Ok(MigrateAnswer::new(text, json!({ "found": found })))
        }
        MigrateSubcommand::Preview { .. } => {
            let pending = admin.pending().await?;
            let mut text = String::new();
            for (file, sql) in &pending {
                let _ = writeln!(text, "-- {file}\n{sql}\n");
            }
            if pending.is_empty() {
                text = "no pending migrations\n".to_owned();
            }
            let files: Vec<_> = pending.iter().map(|(file, sql)| json!({ "file": file, "sql": sql })).collect();
            Ok(MigrateAnswer::new(text, json!({ "pending": files })))
        }
        MigrateSubcommand::Status
        | MigrateSubcommand::Baseline { .. }
        | MigrateSubcommand::Resolve { .. }
        | MigrateSubcommand::Accept { .. }
        | MigrateSubcommand::Down { .. } => {
            let status = admin.status().await?;
            let mut text = format!("{} migrations on {}\n", status.format, status.engine);
            for file in &status.files {
                let more =
                    file.statements.map_or_else(String::new, |count| format!("  ({count} statements on record)"));
                let _ = writeln!(text, "  {:<9}  {}{more}", file.state, file.file);
            }
            for problem in &status.problems {
                let diagnostic = migration_diagnostic(problem);
                let _ = writeln!(text, "{}: {}", diagnostic.code, diagnostic.message);
            }
            let exit = if status.problems.is_empty() { ExitKind::Success } else { ExitKind::Failed };
            Ok(MigrateAnswer { exit, ..MigrateAnswer::new(text, json!(status)) })
        }
    }
}

async fn run_mutating(
    step: MigrationStep<'_>,
    command: &MigrateSubcommand,
    fence: &MigrationFence,
    screen: &CommandOutput,
) -> MigrateResult {
    let mut admin = step.open(CallPurpose::Mutate).await?;
    let notices = screen.stderr_notifier();
    let log = move |level: MessageLevel, message: String| match level {
        MessageLevel::Error | MessageLevel::Warn => notices(contract::diagnostic::Notice::warning(message)),
        MessageLevel::Info | MessageLevel::Debug | MessageLevel::Trace => {}
    };
    let files = |verb: &str, files: Vec<String>| {
        let text = match files.as_slice() {
            [] => format!("no files {verb}\n"),
            files => files.iter().fold(String::new(), |text, file| format!("{text}{verb} {file}\n")),
        };
        MigrateAnswer::new(text, json!({ "did": verb, "files": files }))
    };
    match command {
        MigrateSubcommand::Preview { .. } => Ok(files("run and rolled back", admin.dry_run(&log).await?)),
        MigrateSubcommand::Baseline { version, .. } => {
            Ok(files("recorded as applied", admin.baseline(version, fence, &log).await?))
        }
        MigrateSubcommand::Resolve { fence: true, .. } => {
            admin.reset_fence(&log).await?;
            Ok(MigrateAnswer::new(
                "cleared the record of the last attempt that migrated this database\n".to_owned(),
                json!({ "did": "fence" }),
            ))
        }
        MigrateSubcommand::Resolve { version, applied, retry_from, .. } => {
            let resolution = match (applied, retry_from) {
                (true, _) => MigrationResolution::Applied,
                (false, Some(number)) => MigrationResolution::RetryFrom(*number),
                (false, None) => MigrationResolution::RolledBack,
            };
            let version = version.as_deref().unwrap_or_default();
            Ok(files("resolved", vec![admin.resolve(version, resolution, fence, &log).await?]))
        }
        MigrateSubcommand::Accept { version, .. } => {
            Ok(files("accepted", vec![admin.accept(version, fence, &log).await?]))
        }
        MigrateSubcommand::Down { to, .. } => Ok(files("undone", admin.down(to.as_deref(), fence, &log).await?)),
        MigrateSubcommand::Status | MigrateSubcommand::Lint => run_read_only(step, command).await,
    }
}
