//! The command line: one small file a command.
//!
//! This is the only place that reads the environment, knows the terminal, and exits. Each command returns an exit code or what
//! is wrong; [`main`] has it rendered.

use std::{io::Write, process::ExitCode};

use clap::{Parser, Subcommand};

mod attempts;
mod ci;
mod deploy;
mod doctor;
mod github;
mod github_deployment;
mod guards;
mod history;
mod journal;
mod lock;
mod logs;
mod migrate;
mod modules;
mod new_step;
mod output;
mod plan;
mod post;
mod prune;
mod rollback;
mod schema;
mod selection;
mod source;
mod status;
mod step;
mod wait;
mod why;
mod xdg_dirs;

use self::{
    deploy::SetupMode,
    output::{CommandOutput, OutputPurpose},
    source::PlanSourceArgs,
};
use contract::diagnostic::{Diagnostic, ExitKind};
use sandbox;

/// Deploys step by step, and resumes from the step that failed.
#[derive(Debug, Parser)]
#[command(name = "runner", version, args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<CliCommand>,
    #[command(flatten)]
    deploy: deploy::DeployArgs,
    #[command(flatten)]
    output: output::OutputArgs,
}

#[derive(Debug, Subcommand)]
enum CliCommand {
    /// Deploy a release; `runner --local` is short for `runner deploy --local`
    Deploy(deploy::DeployArgs),
    /// Do what is done once for an environment, and deploy
    Setup(deploy::DeployArgs),
    /// Deploy again the verified release before the live one
    Rollback(rollback::RollbackArgs),
    /// Deploy to one environment what is live and verified in another
    Promote(rollback::PromoteArgs),
    /// In a CI, after a deployment: bring up what is left of its journal, and give up its lock
    Post(post::PostArgs),
    /// Remove releases that nobody will go back to
    Prune(prune::PruneArgs),
    /// Show what a deployment would do, without doing it
    Plan(plan::PlanCommandArgs),
    /// Show what is live, and where an unfinished run stands
    Status {
        #[command(flatten)]
        plan: PlanSourceArgs,
        #[command(flatten)]
        args: status::StatusArgs,
    },
    /// List the attempts, newest first
    History {
        #[command(flatten)]
        plan: PlanSourceArgs,
        #[command(flatten)]
        args: history::HistoryArgs,
    },
    /// Tell why a step ran, was skipped, or was stopped
    Why {
        #[command(flatten)]
        plan: PlanSourceArgs,
        #[command(flatten)]
        args: why::WhyArgs,
    },
    /// Show what steps said while they ran
    Logs {
        #[command(flatten)]
        plan: PlanSourceArgs,
        #[command(flatten)]
        args: logs::LogsArgs,
    },
    /// Run one module alone
    Step(step::StepArgs),
    /// List the modules that the plan uses, and how they stand to deploy.lock
    Modules {
        #[command(flatten)]
        plan: PlanSourceArgs,
        #[command(flatten)]
        args: modules::ModulesArgs,
    },
    /// See how migrations stand, what would run, and say what became of them
    Migrate(migrate::MigrateArgs),
    /// Make a step of your own, ready to be built
    NewStep(new_step::NewStepArgs),
    /// Check journals
    #[command(subcommand)]
    Journal(journal::JournalSubcommand),
    /// Show who holds the lock of an environment, or release it
    #[command(subcommand)]
    Lock(lock::LockSubcommand),
    /// Print the JSON Schema of deploy.yml
    Schema,
    /// See whether this machine and this plan are fit for a deployment
    Doctor(doctor::DoctorArgs),
}

/// Runs the command of this process, and says how it ends.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; for them clap writes to stdout and ends with 0.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { ExitKind::Refused.status() } else { 0 });
        }
    };
    let screen = CommandOutput::new(&cli.output, purpose(&cli));
    let exit = dispatch(cli, &screen).unwrap_or_else(|problems| screen.report_problems(&problems));
    screen.close();
    ExitCode::from(exit.status())
}

fn purpose(cli: &Cli) -> OutputPurpose {
    match cli.command {
        None
        | Some(
            CliCommand::Deploy(_)
            | CliCommand::Setup(_)
            | CliCommand::Rollback(_)
            | CliCommand::Promote(_)
            | CliCommand::Step(_),
        ) => OutputPurpose::Deployment,
        Some(
            CliCommand::Post(_)
            | CliCommand::Prune(_)
            | CliCommand::Plan(_)
            | CliCommand::Status { .. }
            | CliCommand::History { .. }
            | CliCommand::Why { .. }
            | CliCommand::Logs { .. }
            | CliCommand::Modules { .. }
            | CliCommand::Migrate(_)
            | CliCommand::NewStep(_)
            | CliCommand::Journal(_)
            | CliCommand::Lock(_)
            | CliCommand::Schema
            | CliCommand::Doctor(_),
        ) => OutputPurpose::Answer,
    }
}

/// Everything that a command needs of the outside. A current-thread runtime: work that blocks has threads of its own.
fn dispatch(cli: Cli, screen: &CommandOutput) -> Result<ExitKind, Vec<Diagnostic>> {
    let one = |diagnostic: Diagnostic| vec![diagnostic];
    let out: &mut dyn Write = &mut std::io::stdout();
    let form = screen.format();
    match cli.command.unwrap_or(CliCommand::Deploy(cli.deploy)) {
        CliCommand::Deploy(args) => block_on(deploy::run(&args, SetupMode::WithoutSetup, screen)),
        CliCommand::Setup(args) => block_on(deploy::run(&args, SetupMode::WithSetup, screen)),
        CliCommand::Rollback(args) => block_on(rollback::rollback(&args, screen)),
        CliCommand::Promote(args) => block_on(rollback::promote(&args, screen)),
        CliCommand::Post(args) => block_on(post::run(&args, screen)),
        CliCommand::Prune(args) => block_on(prune::run(&args, screen, out)),
        CliCommand::Plan(args) => block_on(plan::run(&args, screen, out)),
        CliCommand::Step(args) => block_on(step::run(&args, screen)),
        CliCommand::Doctor(args) => block_on(doctor::run(&args, screen, out)),
        CliCommand::Status { plan, args } => status::run(&args, &plan.stores()?, form, out).map_err(one),
        CliCommand::History { plan, args } => history::run(&args, &plan.store()?, form, out).map_err(one),
        CliCommand::Why { plan, args } => why::run(&args, &plan.store()?, form, out).map_err(one),
        CliCommand::Logs { plan, args } => logs::run(&args, &plan.store()?, form, out).map_err(one),
        CliCommand::Migrate(args) => block_on(migrate::run(&args, screen, out)),
        CliCommand::Modules { plan, args } => block_on(modules::run(&args, &plan, screen, out)),
        CliCommand::NewStep(args) => new_step::run(&args, form, out).map_err(one),
        CliCommand::Journal(command) => journal::run(&command, form, out).map_err(one),
        CliCommand::Lock(command) => lock::run(&command, form, out),
        CliCommand::Schema => schema::run(out).map_err(one),
    }
}

fn block_on<T>(work: impl Future<Output = Result<T, Vec<Diagnostic>>>) -> Result<T, Vec<Diagnostic>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| {
        let code = contract::error_code::ErrorCode::RunnerFault;
        vec![Diagnostic::new(code, "the runtime can't be set up").with_cause(error).with_hint("please report this")]
    })?;
    let result = runtime.block_on(async {
        let result = work.await;
        // Native work that was told to stop gets a moment to clean up.
        sandbox::wait_for_blocking_tasks().await;
        result
    });
    // What is left are idle threads, and reads that nothing ends.
    runtime.shutdown_background();
    result
}
