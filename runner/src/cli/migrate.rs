//! `runner migrate …`: how a step's migrations stand, what would run, and what an operator says about them.
//!
//! What changes something takes the deployment's lock first, then that of the migrations. Deliberately absent: applying; that is
//! a deployment's.

use std::{fmt::Write as _, io::Write};

use serde_json::{Value, json};

use super::{attempts, permission, screen::Screen, source, source::PlanArgs};
use crate::{
    deploy::{lineage, of_migrations},
    report::{self, Form, json},
};
use contract::{
    diagnostic::{Code, Diagnostic, Exit},
    step::Level,
};
use db::migrate::{Fence, Resolution};
use journal::Redactor;
use plan::{Plan, Step};
use sandbox::{Purpose, open_migrations};
use state::{Claim, Store};

/// Arguments of `migrate`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    plan: PlanArgs,
    /// The step; may be left out when only one migrates
    #[arg(long, value_name = "STEP", global = true)]
    step: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the files, and how each stands in the database
    Status,
    /// Show what would run, with its SQL
    Preview {
        /// Run it too, in one transaction that is rolled back (PostgreSQL, SQLite)
        #[arg(long)]
        execute: bool,
        /// Run it from here, outside a CI
        #[arg(long)]
        local: bool,
    },
    /// List what is unsafe in the files that are not applied
    Lint,
    /// Take all files up to a version as applied, in a database that has no history yet
    Baseline {
        version: String,
        /// Do it from here, outside a CI
        #[arg(long)]
        local: bool,
    },
    /// Say what became of a file that was begun and not ended
    Resolve {
        /// The file's version
        #[arg(required_unless_present = "fence")]
        version: Option<String>,
        /// All of it is done
        #[arg(long, group = "what")]
        applied: bool,
        /// None of it is there
        #[arg(long, group = "what")]
        rolled_back: bool,
        /// Its statements before this one are done, the others not
        #[arg(long, group = "what", value_name = "N")]
        retry_from: Option<usize>,
        /// Forget which attempt has migrated last: the state was lost, or begun anew
        #[arg(long, group = "what")]
        fence: bool,
        /// Do it from here, outside a CI
        #[arg(long)]
        local: bool,
    },
    /// Take a file that was changed after it was applied as what was applied
    Bless {
        version: String,
        /// Do it from here, outside a CI
        #[arg(long)]
        local: bool,
    },
    /// Undo the newest file, by its `.down.sql` or its `-- migrate:down`
    Down {
        /// Undo all that are newer than this version; 0 for all
        #[arg(long, value_name = "VERSION")]
        to: Option<String>,
        /// Do it from here, outside a CI
        #[arg(long)]
        local: bool,
    },
}

/// Runs the subcommand.
///
/// # Errors
/// What is wrong with plan, files or database.
pub(super) async fn run(args: &Args, screen: &Screen, out: &mut dyn Write) -> Result<Exit, Vec<Diagnostic>> {
    let label = "none".parse().expect("`none` is a label");
    let plan = args.plan.plan_for(&label)?;
    screen.mask(plan.secrets.values());
    let redactor = Redactor::new(plan.secrets.values());
    let hidden = |mut diagnostic: Diagnostic| {
        diagnostic.message = redactor.text(&diagnostic.message);
        diagnostic.hint = diagnostic.hint.map(|hint| redactor.text(&hint));
        vec![diagnostic]
    };
    let step = step(&plan, args.step.as_deref()).map_err(|error| vec![error])?;
    let outcome = match &args.command {
        Command::Status | Command::Lint | Command::Preview { execute: false, .. } => look(step, &args.command).await,
        Command::Preview { local, .. }
        | Command::Baseline { local, .. }
        | Command::Resolve { local, .. }
        | Command::Bless { local, .. }
        | Command::Down { local, .. } => {
            permission::local(*local, "migrate")?;
            let store = Store::new(&plan.state, &plan.app, &plan.environment);
            permission::person(&plan).map_err(|error| vec![error])?;
            permission::nesting(&store).map_err(|error| vec![error])?;
            let claim = Claim { url: source::job(), ..Claim::by(&source::who()) };
            let lock = store.claim(claim).await.map_err(|error| vec![(&error).into()])?;
            let fence = fence(&plan, &store)?;
            let changed = change(step, &args.command, &fence, screen).await;
            drop(lock);
            changed
        }
    };
    let answer = outcome.map_err(|failure| hidden(of_migrations(&failure)))?;
    let text = match screen.form() {
        Form::Json => json::line(&redactor.json(answer.json)) + "\n",
        Form::Text => redactor.text(&answer.text),
    };
    report::emit(out, &text).map_err(|error| vec![error])?;
    Ok(answer.exit)
}

struct Answer {
    text: String,
    json: Value,
    exit: Exit,
}

impl Answer {
    fn new(text: String, json: Value) -> Self {
        Self { text, json, exit: Exit::Success }
    }
}

type Outcome = Result<Answer, contract::step::Failure>;

fn step<'p>(plan: &'p Plan, named: Option<&str>) -> Result<&'p Step, Diagnostic> {
    let migrates = |step: &&Step| step.uses.is_official("migrate");
    let steps: Vec<&Step> = plan.steps.iter().filter(migrates).collect();
    let names = || steps.iter().map(|step| format!("`{}`", step.id)).collect::<Vec<_>>().join(", ");
    let refused =
        |message: String, hint: String| Err(Diagnostic::new(Code("P0205"), Exit::Refused, message).hint(hint));
    match (named, steps.as_slice()) {
        (_, []) => refused("no step of the plan migrates".to_owned(), "such a step has `uses: migrate`".to_owned()),
        (None, [only]) => Ok(*only),
        (None, _) => {
            refused("several steps of the plan migrate".to_owned(), format!("name one with `--step`: {}", names()))
        }
        (Some(named), _) => match steps.iter().find(|step| step.id.as_str() == named) {
            Some(step) => Ok(*step),
            None => refused(format!("no step `{named}` of the plan migrates"), format!("these do: {}", names())),
        },
    }
}

/// The newest attempt: an operator's word is not newer than it, nor older.
fn fence(plan: &Plan, store: &Store) -> Result<Fence, Vec<Diagnostic>> {
    let state = attempts::state(store).map_err(|error| vec![error])?;
    Ok(Fence {
        resource: Fence::resource(
            plan.app.as_str(),
            plan.environment.as_str(),
            &lineage(&plan.app, &plan.environment, &state),
        ),
        epoch: state.epoch(),
        run: format!("operator {}", source::who()),
    })
}

async fn look(step: &Step, command: &Command) -> Outcome {
    let desk = open_migrations(step, &step.with, Purpose::Probe).await?;
    match command {
        Command::Lint => {
            let (found, _) = desk.lint().await?;
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
            Ok(Answer::new(text, json!({ "found": found })))
        }
        Command::Preview { .. } => {
            let pending = desk.pending().await?;
            let mut text = String::new();
            for (file, sql) in &pending {
                let _ = writeln!(text, "-- {file}\n{sql}\n");
            }
            if pending.is_empty() {
                text = "nothing would run\n".to_owned();
            }
            let files: Vec<_> = pending.iter().map(|(file, sql)| json!({ "file": file, "sql": sql })).collect();
            Ok(Answer::new(text, json!({ "pending": files })))
        }
        Command::Status
        | Command::Baseline { .. }
        | Command::Resolve { .. }
        | Command::Bless { .. }
        | Command::Down { .. } => {
            let stand = desk.stand().await?;
            let mut text = format!("{} migrations on {}\n", stand.format, stand.engine);
            for file in &stand.files {
                let more =
                    file.statements.map_or_else(String::new, |count| format!("  ({count} statements on record)"));
                let _ = writeln!(text, "  {:<9}  {}{more}", file.state, file.file);
            }
            for problem in &stand.problems {
                let diagnostic = of_migrations(problem);
                let _ = writeln!(text, "{}: {}", diagnostic.code, diagnostic.message);
            }
            let exit = if stand.problems.is_empty() { Exit::Success } else { Exit::Failed };
            Ok(Answer { exit, ..Answer::new(text, json!(stand)) })
        }
    }
}

async fn change(step: &Step, command: &Command, fence: &Fence, screen: &Screen) -> Outcome {
    let mut desk = open_migrations(step, &step.with, Purpose::Act).await?;
    let notices = screen.tell_beside();
    let tell = move |level: Level, message: String| match level {
        Level::Error | Level::Warn => notices(contract::diagnostic::Notice::warning(message)),
        Level::Info | Level::Debug | Level::Trace => {}
    };
    let files = |verb: &str, files: Vec<String>| {
        let text = match files.as_slice() {
            [] => format!("nothing was {verb}\n"),
            files => files.iter().fold(String::new(), |text, file| format!("{text}{verb} {file}\n")),
        };
        Answer::new(text, json!({ "did": verb, "files": files }))
    };
    match command {
        Command::Preview { .. } => Ok(files("ran and rolled back", desk.rehearse(&tell).await?)),
        Command::Baseline { version, .. } => Ok(files("took as applied", desk.baseline(version, fence, &tell).await?)),
        Command::Resolve { fence: true, .. } => {
            desk.lower_fence(&tell).await?;
            Ok(Answer::new(
                "the database has forgotten which attempt migrated last\n".to_owned(),
                json!({ "did": "fence" }),
            ))
        }
        Command::Resolve { version, applied, retry_from, .. } => {
            let resolution = match (applied, retry_from) {
                (true, _) => Resolution::Applied,
                (false, Some(number)) => Resolution::RetryFrom(*number),
                (false, None) => Resolution::RolledBack,
            };
            let version = version.as_deref().unwrap_or_default();
            Ok(files("resolved", vec![desk.resolve(version, resolution, fence, &tell).await?]))
        }
        Command::Bless { version, .. } => Ok(files("blessed", vec![desk.bless(version, fence, &tell).await?])),
        Command::Down { to, .. } => Ok(files("undone", desk.down(to.as_deref(), fence, &tell).await?)),
        Command::Status | Command::Lint => look(step, command).await,
    }
}
