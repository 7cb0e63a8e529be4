//! The command line: one small file a command.
//!
//! This is the only place that reads the environment, knows the terminal, and exits. Each command returns an exit code or what
//! is wrong; [`main`] has it rendered.

use std::{io::Write, process::ExitCode};

use clap::{Parser, Subcommand};

mod attempts;
mod ci;
mod deploy;
mod deployments;
mod doctor;
mod github;
mod history;
mod journal;
mod lock;
mod logs;
mod migrate;
mod modules;
mod new_step;
mod permission;
mod places;
mod plan;
mod post;
mod prune;
mod rollback;
mod schema;
mod screen;
mod selection;
mod source;
mod status;
mod step;
mod wait;
mod why;

use self::{
    deploy::Setup,
    screen::{Purpose, Screen},
    source::PlanArgs,
};
use contract::diagnostic::{Diagnostic, Exit};
use sandbox;

/// Deploys step by step, and resumes from the step that failed.
#[derive(Debug, Parser)]
#[command(name = "runner", version, args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    deploy: deploy::Args,
    #[command(flatten)]
    screen: screen::Args,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Deploy a release; `runner --local` is short for `runner deploy --local`
    Deploy(deploy::Args),
    /// Do what is done once for an environment, and deploy
    Setup(deploy::Args),
    /// Deploy again the verified release before the live one
    Rollback(rollback::Rollback),
    /// Deploy to one environment what is live and verified in another
    Promote(rollback::Promote),
    /// In a CI, after a deployment: bring up what is left of its journal, and give up its lock
    Post(post::Args),
    /// Remove releases that nobody will go back to
    Prune(prune::Args),
    /// Show what a deployment would do, without doing it
    Plan(plan::Args),
    /// Show what is live, and where an unfinished run stands
    Status {
        #[command(flatten)]
        plan: PlanArgs,
        #[command(flatten)]
        args: status::Args,
    },
    /// List the attempts, newest first
    History {
        #[command(flatten)]
        plan: PlanArgs,
        #[command(flatten)]
        args: history::Args,
    },
    /// Tell why a step ran, was skipped, or was stopped
    Why {
        #[command(flatten)]
        plan: PlanArgs,
        #[command(flatten)]
        args: why::Args,
    },
    /// Show what steps said while they ran
    Logs {
        #[command(flatten)]
        plan: PlanArgs,
        #[command(flatten)]
        args: logs::Args,
    },
    /// Run one module alone
    Step(step::Args),
    /// List the modules that the plan uses, and how they stand to deploy.lock
    Modules {
        #[command(flatten)]
        plan: PlanArgs,
        #[command(flatten)]
        args: modules::Args,
    },
    /// See how migrations stand, what would run, and say what became of them
    Migrate(migrate::Args),
    /// Make a step of your own, ready to be built
    NewStep(new_step::Args),
    /// Check journals
    #[command(subcommand)]
    Journal(journal::Command),
    /// Show who holds the lock of an environment, or release it
    #[command(subcommand)]
    Lock(lock::Command),
    /// Print the JSON Schema of deploy.yml
    Schema,
    /// See whether this machine and this plan are fit for a deployment
    Doctor(doctor::Args),
}

/// Runs the command of this process, and says how it ends.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; for them clap writes to stdout and ends with 0.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { Exit::Refused.status() } else { 0 });
        }
    };
    let screen = Screen::new(&cli.screen, purpose(&cli));
    let exit = dispatch(cli, &screen).unwrap_or_else(|problems| screen.refuse(&problems));
    screen.close();
    ExitCode::from(exit.status())
}

fn purpose(cli: &Cli) -> Purpose {
    match cli.command {
        None
        | Some(
            Command::Deploy(_) | Command::Setup(_) | Command::Rollback(_) | Command::Promote(_) | Command::Step(_),
        ) => Purpose::Deployment,
        Some(
            Command::Post(_)
            | Command::Prune(_)
            | Command::Plan(_)
            | Command::Status { .. }
            | Command::History { .. }
            | Command::Why { .. }
            | Command::Logs { .. }
            | Command::Modules { .. }
            | Command::Migrate(_)
            | Command::NewStep(_)
            | Command::Journal(_)
            | Command::Lock(_)
            | Command::Schema
            | Command::Doctor(_),
        ) => Purpose::Answer,
    }
}

/// Everything that a command needs of the outside. A current-thread runtime: work that blocks has threads of its own.
fn dispatch(cli: Cli, screen: &Screen) -> Result<Exit, Vec<Diagnostic>> {
    let one = |diagnostic: Diagnostic| vec![diagnostic];
    let out: &mut dyn Write = &mut std::io::stdout();
    let form = screen.form();
    match cli.command.unwrap_or(Command::Deploy(cli.deploy)) {
        Command::Deploy(args) => block_on(deploy::run(&args, Setup::Done, screen)),
        Command::Setup(args) => block_on(deploy::run(&args, Setup::First, screen)),
        Command::Rollback(args) => block_on(rollback::rollback(&args, screen)),
        Command::Promote(args) => block_on(rollback::promote(&args, screen)),
        Command::Post(args) => block_on(post::run(&args, screen)),
        Command::Prune(args) => block_on(prune::run(&args, screen, out)),
        Command::Plan(args) => block_on(plan::run(&args, screen, out)),
        Command::Step(args) => block_on(step::run(&args, screen)),
        Command::Doctor(args) => block_on(doctor::run(&args, screen, out)),
        Command::Status { plan, args } => status::run(&args, &plan.stores()?, form, out).map_err(one),
        Command::History { plan, args } => history::run(&args, &plan.store()?, form, out).map_err(one),
        Command::Why { plan, args } => why::run(&args, &plan.store()?, form, out).map_err(one),
        Command::Logs { plan, args } => logs::run(&args, &plan.store()?, form, out).map_err(one),
        Command::Migrate(args) => block_on(migrate::run(&args, screen, out)),
        Command::Modules { plan, args } => block_on(modules::run(&args, &plan, screen, out)),
        Command::NewStep(args) => new_step::run(&args, form, out).map_err(one),
        Command::Journal(command) => journal::run(&command, form, out).map_err(one),
        Command::Lock(command) => lock::run(&command, form, out),
        Command::Schema => schema::run(out).map_err(one),
    }
}

fn block_on<T>(work: impl Future<Output = Result<T, Vec<Diagnostic>>>) -> Result<T, Vec<Diagnostic>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| {
        let code = contract::diagnostic::Code("P0701");
        vec![Diagnostic::new(code, Exit::Bug, "the runtime can't be set up").because(error).hint("please report this")]
    })?;
    let result = runtime.block_on(async {
        let result = work.await;
        // Native work that was told to stop gets a moment to clean up.
        sandbox::settle_down().await;
        result
    });
    // What is left are idle threads, and reads that nothing ends.
    runtime.shutdown_background();
    result
}
