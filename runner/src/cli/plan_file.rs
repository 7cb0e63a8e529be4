//! Which file is the plan: the named one, or else the only one in this folder.
//!
//! A command in a hint names the plan if the command would otherwise read another one, or none.

use std::path::{Path, PathBuf};

use contract::diagnostic::{Diagnostic, ErrorCode, Notice};

/// The names of plans in full.
const PLAN_NAMES: [&str; 2] = ["deploy.yml", "pawl.yml"];

/// How all other plans end that are found by their name.
const PLAN_SUFFIX: &str = ".pawl.yml";

/// The commands that read no plan.
const COMMANDS_WITHOUT_PLAN: [&str; 4] = ["journal", "new-step", "schema", "step"];

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

/// Adds the plan to the commands in hints and notices that do not name it.
#[derive(Clone, Debug, Default)]
pub(super) struct CommandCompletion {
    /// Such as `--plan shop.yml`; none if the commands need none.
    option: Option<String>,
}

impl CommandCompletion {
    /// For the plan that the process was told to read.
    pub(super) fn new(named: Option<&Path>) -> Self {
        Self { option: plan_option(named) }
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
        let Some(option) = self.option.as_ref().filter(|_| !parts.len().is_multiple_of(2)) else {
            return text.to_owned();
        };
        let complete = |(index, part): (usize, &&str)| match index % 2 == 1 && lacks_plan(part) {
            true => format!("{part} {option}"),
            false => (*part).to_owned(),
        };
        parts.iter().enumerate().map(complete).collect::<Vec<_>>().join("`")
    }
}

/// Whether some text is a whole command that reads a plan and does not say which.
fn lacks_plan(code: &str) -> bool {
    let mut words = code.split_whitespace();
    words.next() == Some("runner")
        && !code.contains("--plan")
        && !code.contains('…')
        && words.next().is_some_and(|command| !COMMANDS_WITHOUT_PLAN.contains(&command))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{CommandCompletion, ambiguous_plan, is_plan_name, plans_in, shell_word};

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
        let completion = CommandCompletion { option: Some("--plan shop.yml".to_owned()) };
        for (hint, completed) in [
            ("run `runner modules --accept`, then go", "run `runner modules --accept --plan shop.yml`, then go"),
            ("run `runner --local --plan shop.yml` again", "run `runner --local --plan shop.yml` again"),
            ("the program `runner`, and `runner step --help`", "the program `runner`, and `runner step --help`"),
            ("not a command: runner status", "not a command: runner status"),
            ("a stray ` and `runner status`", "a stray ` and `runner status`"),
            ("the file `runner-notes`", "the file `runner-notes`"),
        ] {
            assert_eq!(completion.text(hint), completed);
        }
        assert_eq!(CommandCompletion::default().text("`runner status`"), "`runner status`");
    }
}
