//! The command line: one small file per command.
//!
//! Only this module reads the environment, knows the terminal, and exits. Each command returns an exit code or errors, which
//! [`main`] renders.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

mod attempt_notices;
mod attempts;
mod ci;
mod completions;
mod deferred;
mod deploy;
mod doctor;
mod github;
mod github_api;
mod github_deployment;
mod github_high_water_mark;
mod github_team;
mod grants_text;
mod guards;
mod hidden_environment;
mod history;
mod host_status;
mod hosts;
mod import;
mod init;
mod inventory;
mod journal;
mod lock;
mod logs;
mod masked_reporter;
mod migrate;
mod modules;
mod new_step;
mod output;
mod pack;
mod plan;
mod plan_file;
mod plan_fold;
mod post;
mod prune;
mod publish;
mod resolve;
mod rollback;
mod schema;
mod selection;
mod source;
mod state;
mod status;
mod step;
mod verified_deployment;
mod wait;
mod why;
mod xdg_dirs;

use self::{
    deferred::Deferred,
    deploy::SetupMode,
    output::{CommandOutput, OutputPurpose},
    plan_file::CommandCompletion,
    source::PlanSourceArgs,
};
use crate::agent;
use contract::diagnostic::{Diagnostic, ExitKind, Notice};
use sandbox;

/// Deploy step by step, and resume from the step that failed
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
    Deploy(Deferred<deploy::DeployArgs>),
    /// Run the setup steps of the plan, then deploy
    Setup(Deferred<deploy::DeployArgs>),
    /// Go back to the verified release before the live one
    Rollback(Deferred<rollback::RollbackArgs>),
    /// Deploy the live, verified release of one environment to another
    Promote(Deferred<rollback::PromoteArgs>),
    /// Add a live release to a history that does not have it
    Import(Deferred<import::ImportArgs>),
    /// Record the outcome of a step that the runner can't finish
    Resolve(Deferred<resolve::ResolveArgs>),
    /// In CI, after a deployment: upload the rest of the journal and release the lock
    Post(Deferred<post::PostArgs>),
    /// Remove old releases that no rollback needs
    Prune(Deferred<prune::PruneArgs>),
    /// Make a release of a folder: the same files give the same bytes
    Pack(Deferred<pack::PackArgs>),
    /// Publish a release where `pull` finds it
    Publish(Deferred<publish::PublishArgs>),
    /// Show what a deployment would do, without doing it
    Plan(Deferred<plan::PlanCommandArgs>),
    /// Show the live release, and any unfinished run
    Status(Deferred<PlanArgs<status::StatusArgs>>),
    /// List the attempts, newest first
    History(Deferred<PlanArgs<history::HistoryArgs>>),
    /// Explain why a step ran, was skipped, or was stopped
    Why(Deferred<PlanArgs<why::WhyArgs>>),
    /// Show the log messages of steps
    Logs(Deferred<PlanArgs<logs::LogsArgs>>),
    /// Run a single module
    Step(Deferred<step::StepArgs>),
    /// List the modules of the plan, and compare them with the lock file
    Modules(Deferred<PlanArgs<modules::ModulesArgs>>),
    /// Show and preview migrations, and record their outcome
    Migrate(Deferred<migrate::MigrateArgs>),
    /// Write a plan and the files around it, from a template
    Init(Deferred<init::InitArgs>),
    /// Create a project for your own step
    NewStep(Deferred<new_step::NewStepArgs>),
    /// Check journals for corruption
    #[command(subcommand)]
    Journal(Deferred<journal::JournalSubcommand>),
    /// Show who holds the lock on an environment, or release it
    #[command(subcommand)]
    Lock(Deferred<lock::LockSubcommand>),
    /// Check the state of an environment, or repair it
    #[command(subcommand)]
    State(Deferred<state::StateSubcommand>),
    /// Print the JSON Schema of a plan
    Schema,
    /// Print the completion script of a shell
    Completions(Deferred<completions::CompletionsArgs>),
    /// Write the manual pages
    #[command(hide = true)]
    Man(Deferred<completions::ManArgs>),
    /// Make the calls of steps for a runner on another machine, which starts it over ssh
    #[command(hide = true)]
    Agent,
    /// Show which hosts can be reached, and what they have
    Hosts(Deferred<hosts::HostsArgs>),
    /// Check whether this machine and this plan are ready for a deployment
    Doctor(Deferred<doctor::DoctorArgs>),
}

/// The plan that a command reads, and the command's own arguments.
#[derive(Debug, clap::Args)]
struct PlanArgs<T: clap::Args> {
    #[command(flatten)]
    plan: PlanSourceArgs,
    #[command(flatten)]
    args: T,
}

/// Runs the command of this process, and returns its exit code.
#[must_use]
pub fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == sandbox::GUARD_ARGUMENT) {
        return sandbox::run_program_guard();
    }
    let hidden = hidden_environment::hide();
    let (cli, commands) = match parse() {
        Ok(parsed) => parsed,
        Err(error) => {
            // Help and version are not errors; clap writes them to stdout, and the exit code is 0.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { ExitKind::Refused.status() } else { 0 });
        }
    };
    let screen = CommandOutput::new(&cli.output, purpose(&cli), commands);
    if let Err(error) = hidden {
        let message = format!("programs that steps start can read the runner's environment: {error}");
        screen.stderr_notifier()(Notice::warning(message));
    }
    let exit = dispatch(cli, &screen).unwrap_or_else(|problems| screen.report_problems(&problems));
    screen.close();
    ExitCode::from(exit.status())
}

/// Parses the command line. The commands in hints name the plan and the environment as it does.
fn parse() -> Result<(Cli, CommandCompletion), clap::Error> {
    let mut matches = Cli::command().try_get_matches()?;
    let commands = CommandCompletion::new(named_plan(&matches), named_environment(&matches));
    let cli = Cli::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut Cli::command()))?;
    Ok((cli, commands))
}

/// The plan that the command was told to read.
fn named_plan(matches: &ArgMatches) -> Option<&Path> {
    let of_subcommand = matches.subcommand().and_then(|(_, below)| named_plan(below));
    of_subcommand.or_else(|| matches.try_get_one::<PathBuf>("plan").ok()?.map(PathBuf::as_path))
}

/// The environment that the command was told to work on.
fn named_environment(matches: &ArgMatches) -> Option<&str> {
    let of_subcommand = match matches.subcommand() {
        Some(("promote", promote)) => text_argument(promote, "to"),
        Some((_, below)) => named_environment(below),
        None => None,
    };
    of_subcommand.or_else(|| text_argument(matches, "environment"))
}

fn text_argument<'m>(matches: &'m ArgMatches, id: &str) -> Option<&'m str> {
    matches.try_get_one::<String>(id).ok()?.map(String::as_str)
}

fn purpose(cli: &Cli) -> OutputPurpose {
    match cli.command {
        None
        | Some(
            CliCommand::Deploy(_)
            | CliCommand::Setup(_)
            | CliCommand::Rollback(_)
            | CliCommand::Promote(_)
            | CliCommand::Import(_)
            | CliCommand::Step(_),
        ) => OutputPurpose::Deployment,
        Some(
            CliCommand::Resolve(_)
            | CliCommand::Post(_)
            | CliCommand::Prune(_)
            | CliCommand::Pack(_)
            | CliCommand::Publish(_)
            | CliCommand::Plan(_)
            | CliCommand::Status(_)
            | CliCommand::History(_)
            | CliCommand::Why(_)
            | CliCommand::Logs(_)
            | CliCommand::Modules(_)
            | CliCommand::Migrate(_)
            | CliCommand::Init(_)
            | CliCommand::NewStep(_)
            | CliCommand::Journal(_)
            | CliCommand::Lock(_)
            | CliCommand::State(_)
            | CliCommand::Schema
            | CliCommand::Completions(_)
            | CliCommand::Man(_)
            | CliCommand::Agent
            | CliCommand::Hosts(_)
            | CliCommand::Doctor(_),
        ) => OutputPurpose::Answer,
    }
}

/// Runs a command. The runtime is single-threaded, since blocking work has its own threads.
fn dispatch(cli: Cli, screen: &CommandOutput) -> Result<ExitKind, Vec<Diagnostic>> {
    let one = |diagnostic: Diagnostic| vec![diagnostic];
    let out: &mut dyn Write = &mut std::io::stdout();
    let (form, line_width) = (screen.format(), output::answer_width());
    match cli.command.unwrap_or(CliCommand::Deploy(Deferred(cli.deploy))) {
        CliCommand::Deploy(Deferred(args)) => block_on(deploy::run(&args, SetupMode::WithoutSetup, screen)),
        CliCommand::Setup(Deferred(args)) => block_on(deploy::run(&args, SetupMode::WithSetup, screen)),
        CliCommand::Rollback(Deferred(args)) => block_on(rollback::rollback(&args, screen)),
        CliCommand::Promote(Deferred(args)) => block_on(rollback::promote(&args, screen)),
        CliCommand::Import(Deferred(args)) => block_on(import::run(&args, screen)),
        CliCommand::Resolve(Deferred(args)) => block_on(resolve::run(&args, screen, out)),
        CliCommand::Post(Deferred(args)) => block_on(post::run(&args, screen)),
        CliCommand::Prune(Deferred(args)) => block_on(prune::run(&args, screen, out)),
        CliCommand::Pack(Deferred(args)) => pack::run(&args, screen, out).map_err(one),
        CliCommand::Publish(Deferred(args)) => block_on(publish::run(&args, screen, out)),
        CliCommand::Plan(Deferred(args)) => block_on(plan::run(&args, screen, out)),
        CliCommand::Step(Deferred(args)) => block_on(step::run(&args, screen)),
        CliCommand::Doctor(Deferred(args)) => block_on(doctor::run(&args, screen, out)),
        CliCommand::Hosts(Deferred(args)) => block_on(hosts::run(&args, screen, line_width, out)),
        CliCommand::Status(Deferred(PlanArgs { plan, args })) => {
            status::run(&args, &plan, &plan.stores()?, form, line_width, out).map_err(one)
        }
        CliCommand::History(Deferred(PlanArgs { plan, args })) => {
            history::run(&args, &plan.store()?, form, line_width, out).map_err(one)
        }
        CliCommand::Why(Deferred(PlanArgs { plan, args })) => {
            why::run(&args, &plan, &plan.store()?, form, line_width, out).map_err(one)
        }
        CliCommand::Logs(Deferred(PlanArgs { plan, args })) => logs::run(&args, &plan.store()?, form, out).map_err(one),
        CliCommand::Migrate(Deferred(args)) => block_on(migrate::run(&args, screen, out)),
        CliCommand::Modules(Deferred(PlanArgs { plan, args })) => block_on(modules::run(&args, &plan, screen, out)),
        CliCommand::Init(Deferred(args)) => block_on(async { init::run(&args, form, out).await.map_err(one) }),
        CliCommand::NewStep(Deferred(args)) => new_step::run(&args, form, out).map_err(one),
        CliCommand::Journal(Deferred(command)) => journal::run(&command, form, out).map_err(one),
        CliCommand::Lock(Deferred(command)) => block_on(lock::run(&command, form, line_width, out)),
        CliCommand::State(Deferred(command)) => block_on(state::run(&command, form, out)),
        CliCommand::Schema => schema::run(out).map_err(one),
        CliCommand::Completions(Deferred(args)) => completions::completions(&args, out).map_err(one),
        CliCommand::Man(Deferred(args)) => completions::man(&args).map_err(one),
        CliCommand::Agent => block_on(async {
            let folders = xdg_dirs::agent_folders().map_err(one)?;
            Ok(agent::serve(folders).await)
        }),
    }
}

fn block_on<T>(work: impl Future<Output = Result<T, Vec<Diagnostic>>>) -> Result<T, Vec<Diagnostic>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| {
        let code = contract::error_code::ErrorCode::RunnerFault;
        vec![
            Diagnostic::new(code, "can't set up the runtime")
                .with_cause(error)
                .with_hint("if a limit is the cause (`ulimit -n`, `ulimit -u`), raise it; otherwise report this"),
        ]
    })?;
    let result = runtime.block_on(async {
        let result = work.await;
        // Blocking work that was told to stop gets a moment to clean up.
        sandbox::wait_for_blocking_tasks().await;
        result
    });
    // Only idle threads and endless reads remain.
    runtime.shutdown_background();
    result
}
