//! Reads the inventories of an environment: files, and what programs print.
//!
//! Invariant: each is read once in a process, so that all that is decided from it is decided from the same list. A program runs for a
//! limited time, in the plan's folder, with the environment variables that the plan gives it; it ends with this process, by Ctrl-C too.
//! Deliberately absent: what a list means.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use contract::{
    Secret,
    diagnostic::{Diagnostic, ErrorCode},
    text::{escape_line, truncate},
};
use journal::Redactor;
use plan::{InventorySource, InventoryText, PlanSource};
use sandbox::{BoundedProgram, with_default_variables};

/// How long a program may take to print an inventory.
const PROGRAM_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest inventory, in bytes.
const MAX_BYTES: u64 = 1 << 20;
/// How many of a failed program's last lines are shown, and how much of each.
const SHOWN_LINES: usize = 5;
const SHOWN_COLUMNS: usize = 300;

/// Reads inventories, each once.
#[derive(Clone, Debug, Default)]
pub(super) struct Inventories {
    read: RefCell<BTreeMap<String, InventoryText>>,
}

impl Inventories {
    /// The text of an inventory of a plan.
    ///
    /// # Errors
    /// P0266 when a file can't be read, or a program fails.
    pub(super) fn read(&self, plan: &PlanSource, source: &InventorySource) -> Result<InventoryText, Diagnostic> {
        let key = match source {
            InventorySource::File(path) => path.display().to_string(),
            InventorySource::Program { arguments, env, .. } => {
                let env = env.iter().map(|(name, value)| format!("{name}={}", value.reveal()));
                arguments.iter().cloned().chain(env).collect::<Vec<_>>().join("\0")
            }
        };
        if let Some(known) = self.read.borrow().get(&key) {
            return Ok(known.clone());
        }
        let inventory = match source {
            InventorySource::File(path) => read_file(plan, path)?,
            InventorySource::Program { arguments, env, secrets } => run_program(plan, arguments, env, secrets)?,
        };
        self.read.borrow_mut().insert(key, inventory.clone());
        Ok(inventory)
    }
}

fn unreadable(what: impl Into<String>) -> Diagnostic {
    Diagnostic::new(ErrorCode::InventoryUnreadable, what)
}

fn read_file(plan: &PlanSource, path: &Path) -> Result<InventoryText, Diagnostic> {
    let name = shown_path(plan, path).display().to_string();
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes));
    let failed = |error: &io::Error| {
        unreadable(format!("can't read the inventory {name}"))
            .with_cause(error)
            .with_hint("create it, or correct the path, which is relative to the plan's folder")
    };
    read.map_err(|error| failed(&error))?;
    text(name, bytes)
}

/// The path of a file, written as the plan's is.
fn shown_path(plan: &PlanSource, path: &Path) -> PathBuf {
    let folder = plan.path.parent().unwrap_or(Path::new(""));
    path.strip_prefix(&plan.folder).map_or_else(|_| path.to_owned(), |below| folder.join(below))
}

fn text(name: String, bytes: Vec<u8>) -> Result<InventoryText, Diagnostic> {
    if bytes.len() as u64 > MAX_BYTES {
        let message = format!("the inventory {name} is longer than {MAX_BYTES} bytes (1 MiB)");
        return Err(unreadable(message).with_hint("check that it lists hosts only; split it into several groups"));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(InventoryText { name, text: text.into() }),
        Err(error) => {
            let diagnostic = unreadable(format!("the inventory {name} is not text")).with_cause(error);
            Err(diagnostic.with_hint("write it as UTF-8"))
        }
    }
}

fn run_program(
    plan: &PlanSource,
    arguments: &[String],
    env: &BTreeMap<String, Secret>,
    secrets: &BTreeMap<String, Secret>,
) -> Result<InventoryText, Diagnostic> {
    let shown = escape_line(&truncate(&arguments.join(" "), SHOWN_COLUMNS));
    let failed = |why: String, lines: Vec<String>| {
        let diagnostic = unreadable(format!("the inventory program `{shown}` failed")).with_cause(why);
        let diagnostic = lines.into_iter().fold(diagnostic, Diagnostic::with_cause);
        diagnostic
            .with_hint("run it in the plan's folder; it must print the list of hosts as YAML, and exit with status 0")
    };
    let output = run(plan, arguments, env).map_err(|why| failed(why, Vec::new()))?;
    // It may have failed because nobody read the rest.
    let is_too_long = output.stdout.len() as u64 > MAX_BYTES;
    if !output.status.success() && !is_too_long {
        let redactor = Redactor::of_plan(secrets);
        return Err(failed(
            output.status.to_string(),
            last_lines(&redactor.redact(&String::from_utf8_lossy(&output.stderr))),
        ));
    }
    text(format!("output of {shown}"), output.stdout)
}

fn last_lines(stderr: &str) -> Vec<String> {
    let lines: Vec<_> = stderr.lines().filter(|line| !line.trim().is_empty()).collect();
    let shown = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
    shown.iter().map(|line| format!("it wrote: {}", truncate(line.trim_end(), SHOWN_COLUMNS))).collect()
}

/// Runs a program on a thread of its own: this one may be part of a runtime, which must not wait.
fn run(plan: &PlanSource, arguments: &[String], env: &BTreeMap<String, Secret>) -> Result<Output, String> {
    let (program, rest) = arguments.split_first().ok_or("it has no name")?;
    // Relative to the plan's folder, as the programs of steps are; a plain name is looked up on the `PATH`.
    let program = if program.contains('/') { plan.folder.join(program) } else { PathBuf::from(program) };
    let variables = env.iter().map(|(name, value)| (name.clone(), value.reveal().to_owned())).collect();
    let program = BoundedProgram {
        program: program.into_os_string().into_string().map_err(|_| "its path is not UTF-8")?,
        arguments: rest.to_vec(),
        environment: with_default_variables(variables),
        working_dir: plan.folder.clone(),
    };
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        runtime.block_on(program.run(PROGRAM_TIMEOUT, MAX_BYTES + 1))
    };
    std::thread::spawn(run).join().unwrap_or_else(|_| Err("its thread ended".to_owned()))
}
