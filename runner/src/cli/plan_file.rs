//! Which file is the plan: the named one, or else the only one in this folder.
//!
//! A command in a hint names the plan if the command would otherwise read another one, or none. It names the environment, and has
//! `--local`, where it would be refused without.

use std::path::{Path, PathBuf};

use super::source;
use contract::diagnostic::{Diagnostic, ErrorCode, Notice};

/// The names of plans in full.
const PLAN_NAMES: [&str; 2] = ["deploy.yml", "pawl.yml"];

/// How all other plans end that are found by their name.
const PLAN_SUFFIX: &str = ".pawl.yml";

/// The commands that read no plan.
const COMMANDS_WITHOUT_PLAN: [&str; 10] =
    ["agent", "completions", "init", "journal", "man", "new-step", "pack", "publish", "schema", "step"];

/// The commands that only have subcommands.
const COMMAND_GROUPS: [&str; 3] = ["lock", "migrate", "state"];

/// The commands that read a plan and name no environment: they are about all, or have other options for it.
const COMMANDS_WITHOUT_ENV: [&str; 4] = ["lock status", "promote", "state check", "status"];

/// The commands that always need `--local` outside of CI.
const COMMANDS_WITH_LOCAL: [&str; 13] = [
    "deploy",
    "import",
    "lock release",
    "migrate accept",
    "migrate baseline",
    "migrate down",
    "migrate resolve",
    "promote",
    "prune",
    "resolve",
    "rollback",
    "setup",
    "state repair",
];

/// The plan in the current folder.
///
/// # Errors
/// P0201 when there is none, P0235 when there are several.
pub(super) fn find_plan() -> Result<PathBuf, Diagnostic> {
    match plans_in(Path::new(".")).as_deref() {
        Some([]) => Err(Diagnostic::new(ErrorCode::PlanUnreadable, "there is no plan in this folder")
            .with_cause("it has no deploy.yml, pawl.yml or *.pawl.yml")
            .with_hint("name the plan with `--plan FILE`, or go to its folder")),
        Some([only]) => Ok(only.into()),
        Some(several) => Err(ambiguous_plan(several, &command_of_process())),
        // A folder that can't be listed can have a file that can be read.
        None => Ok(PLAN_NAMES[0].into()),
    }
}

/// The names of the plans in a folder, sorted; none if it can't be listed.
fn plans_in(folder: &Path) -> Option<Vec<String>> {
    let names = folder.read_dir().ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut plans: Vec<_> = names.filter(|name| is_plan_name(name) && !folder.join(name).is_dir()).collect();
    plans.sort_unstable();
    Some(plans)
}

/// The file that was most likely meant by the name of a plan that does not exist.
pub(super) fn near_plan(path: &Path) -> Option<PathBuf> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let names = folder.unwrap_or(Path::new(".")).read_dir().ok()?;
    let names = names.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let plans: Vec<_> = names.filter(|name| name.ends_with(".yml") || name.ends_with(".yaml")).collect();
    let near = plan::closest_match(path.file_name()?.to_str()?, plans.iter().map(String::as_str))?;
    Some(folder.map_or_else(|| near.into(), |folder| folder.join(near)))
}

fn is_plan_name(name: &str) -> bool {
    PLAN_NAMES.contains(&name) || name.strip_suffix(PLAN_SUFFIX).is_some_and(|stem| !stem.is_empty())
}

fn ambiguous_plan(plans: &[String], command: &str) -> Diagnostic {
    let (last, others) = plans.split_last().expect("there are several");
    Diagnostic::new(ErrorCode::SeveralPlans, format!("this folder has {} plans, and none is named", plans.len()))
        .with_cause(format!("{} and {last}", others.join(", ")))
        .with_hint(format!("name one: `{command} --plan {}`", shell_word(&plans[0])))
}

/// The command line of this process, as one would type it.
pub(super) fn command_of_process() -> String {
    let arguments = std::env::args_os().skip(1);
    let words = arguments.map(|argument| shell_word(&argument.to_string_lossy()));
    std::iter::once("runner".to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

/// One word of a command line.
fn shell_word(text: &str) -> String {
    let is_plain = |char: char| char.is_alphanumeric() || "-_./=:,@+".contains(char);
    if !text.is_empty() && text.chars().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// The option that a command needs to read the named plan in this folder; none if it finds that plan without it.
pub(super) fn plan_option(named: Option<&Path>) -> Option<String> {
    let named = named?;
    let is_found = find_plan().is_ok_and(|found| found == named.strip_prefix(".").unwrap_or(named));
    (!is_found).then(|| format!("--plan {}", shell_word(&named.to_string_lossy())))
}

/// Adds to the commands in hints and notices what they lack to work when they are pasted: the plan, the environment, and `--local`.
#[derive(Clone, Debug, Default)]
pub(super) struct CommandCompletion {
    /// Such as `--plan shop.yml`; none if the commands need none.
    plan_option: Option<String>,
    /// Such as `--env prod`; none if no environment was named.
    environment_option: Option<String>,
    /// Whether a command that changes something needs `--local`: this process is not part of a CI job.
    is_local: bool,
}

impl CommandCompletion {
    /// For the plan and the environment that the process was told to use.
    pub(super) fn new(named_plan: Option<&Path>, named_environment: Option<&str>) -> Self {
        Self {
            plan_option: plan_option(named_plan),
            environment_option: named_environment.map(|name| format!("--env {}", shell_word(name))),
            is_local: !source::is_ci(),
        }
    }

    pub(super) fn diagnostic(&self, diagnostic: &Diagnostic) -> Diagnostic {
        let hint = diagnostic.hint.as_deref().map(|hint| self.text(hint));
        Diagnostic { hint, ..diagnostic.clone() }
    }

    pub(super) fn notice(&self, notice: Notice) -> Notice {
        Notice { message: self.text(&notice.message), ..notice }
    }

    /// Completes the commands between backticks.
    pub(super) fn text(&self, text: &str) -> String {
        let parts: Vec<&str> = text.split('`').collect();
        if parts.len().is_multiple_of(2) {
            return text.to_owned();
        }
        let complete =
            |(index, part): (usize, &&str)| if index % 2 == 1 { self.code(part) } else { (*part).to_owned() };
        parts.iter().enumerate().map(complete).collect::<Vec<_>>().join("`")
    }

    /// Completes a text in backticks, if it is a whole command.
    fn code(&self, code: &str) -> String {
        let Some(command) = command_name(code) else { return code.to_owned() };
        let has = |option: &str| code.split_whitespace().any(|word| word.split('=').next() == Some(option));
        let local = (self.is_local && COMMANDS_WITH_LOCAL.contains(&&*command)).then(|| "--local".to_owned());
        let environment = || self.environment_option.clone().filter(|_| !COMMANDS_WITHOUT_ENV.contains(&&*command));
        let lacking = [
            local.filter(|_| !has("--local")),
            self.plan_option.clone().filter(|_| !has("--plan")),
            environment().filter(|_| !has("--env")),
        ];
        std::iter::once(code.to_owned()).chain(lacking.into_iter().flatten()).collect::<Vec<_>>().join(" ")
    }
}

/// The command that some text runs, such as `migrate accept`; none if the text is no whole command, or one that reads no plan.
fn command_name(code: &str) -> Option<String> {
    let mut words = code.split_whitespace();
    if words.next() != Some("runner") || code.contains('…') || code.contains("--help") {
        return None;
    }
    let first = words.next()?;
    if first.starts_with('-') {
        // `runner --local` is short for `runner deploy --local`.
        return Some("deploy".to_owned());
    }
    if COMMAND_GROUPS.contains(&first) {
        return words.next().filter(|second| !second.starts_with('-')).map(|second| format!("{first} {second}"));
    }
    (!COMMANDS_WITHOUT_PLAN.contains(&first)).then(|| first.to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::CommandFactory as _;

    use super::{
        COMMAND_GROUPS, COMMANDS_WITH_LOCAL, COMMANDS_WITHOUT_ENV, COMMANDS_WITHOUT_PLAN, CommandCompletion,
        ambiguous_plan, is_plan_name, plans_in, shell_word,
    };

    #[test]
    fn plans_are_found_by_their_names() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["pawl.yml", "deploy.yml", "b.pawl.yml", ".pawl.yml", "deploy.yaml", "compose.yml", "b.pawl.lock"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        fs::create_dir(folder.path().join("folder.pawl.yml")).unwrap();
        assert_eq!(plans_in(folder.path()).unwrap(), ["b.pawl.yml", "deploy.yml", "pawl.yml"]);
        assert_eq!(plans_in(&folder.path().join("missing")), None);
        assert!(!is_plan_name("my-deploy.yml"));
    }

    #[test]
    fn several_plans_are_listed_with_the_command_that_names_one() {
        let plans = ["a b.pawl.yml", "deploy.yml", "pawl.yml"].map(str::to_owned);
        let error = ambiguous_plan(&plans, "runner status");
        assert_eq!(error.causes, ["a b.pawl.yml, deploy.yml and pawl.yml"]);
        assert_eq!(error.hint.as_deref(), Some("name one: `runner status --plan 'a b.pawl.yml'`"));
        assert_eq!(shell_word("it's"), r"'it'\''s'");
    }

    #[test]
    fn commands_in_hints_name_the_plan() {
        let completion =
            CommandCompletion { plan_option: Some("--plan shop.yml".to_owned()), ..CommandCompletion::default() };
        for (hint, completed) in [
            ("run `runner modules --accept`, then go", "run `runner modules --accept --plan shop.yml`, then go"),
            ("run `runner --local --plan shop.yml` again", "run `runner --local --plan shop.yml` again"),
            ("the program `runner`, and `runner step --help`", "the program `runner`, and `runner step --help`"),
            ("not a command: runner status", "not a command: runner status"),
            ("a stray ` and `runner status`", "a stray ` and `runner status`"),
            ("the file `runner-notes`", "the file `runner-notes`"),
            ("`runner migrate` works on files", "`runner migrate` works on files"),
        ] {
            assert_eq!(completion.text(hint), completed);
        }
        assert_eq!(CommandCompletion::default().text("`runner status`"), "`runner status`");
    }

    #[test]
    fn commands_in_hints_name_the_environment_and_are_confirmed() {
        let terminal = CommandCompletion {
            environment_option: Some("--env prod".to_owned()),
            is_local: true,
            ..CommandCompletion::default()
        };
        let job = CommandCompletion { is_local: false, ..terminal.clone() };
        for (command, at_terminal, in_job) in [
            ("runner logs", "runner logs --env prod", "runner logs --env prod"),
            ("runner modules --accept", "runner modules --accept --env prod", "runner modules --accept --env prod"),
            ("runner rollback", "runner rollback --local --env prod", "runner rollback --env prod"),
            (
                "runner deploy --release LABEL",
                "runner deploy --release LABEL --local --env prod",
                "runner deploy --release LABEL --env prod",
            ),
            (
                "runner migrate accept 7",
                "runner migrate accept 7 --local --env prod",
                "runner migrate accept 7 --env prod",
            ),
            ("runner migrate status", "runner migrate status --env prod", "runner migrate status --env prod"),
            (
                "runner state repair --local",
                "runner state repair --local --env prod",
                "runner state repair --local --env prod",
            ),
            (
                "runner promote --from a --to b",
                "runner promote --from a --to b --local",
                "runner promote --from a --to b",
            ),
            ("runner --local --env test", "runner --local --env test", "runner --local --env test"),
            ("runner status", "runner status", "runner status"),
            ("runner lock status --watch", "runner lock status --watch", "runner lock status --watch"),
        ] {
            assert_eq!(terminal.code(command), at_terminal);
            assert_eq!(job.code(command), in_job);
        }
    }

    /// Each command has the options that completion adds to it.
    #[test]
    fn commands_have_the_options_that_are_added() {
        let mut root = crate::cli::Cli::command();
        root.build();
        let mut commands: Vec<(String, &clap::Command)> = Vec::new();
        for command in root.get_subcommands() {
            let name = command.get_name().to_owned();
            if COMMAND_GROUPS.contains(&&*name) {
                let below = command.get_subcommands();
                commands.extend(below.map(|below| (format!("{name} {}", below.get_name()), below)));
            } else {
                commands.push((name, command));
            }
        }
        for (name, command) in commands {
            let has = |option: &str| command.get_arguments().any(|argument| argument.get_long() == Some(option));
            let (reads_plan, names_environment) =
                (!COMMANDS_WITHOUT_PLAN.contains(&&*name), !COMMANDS_WITHOUT_ENV.contains(&&*name));
            assert!(!reads_plan || has("plan"), "{name}");
            assert!(!reads_plan || !names_environment || has("env"), "{name}");
            assert!(!COMMANDS_WITH_LOCAL.contains(&&*name) || has("local"), "{name}");
        }
    }
}
