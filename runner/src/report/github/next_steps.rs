//! What the reader of a failed job can do, in words of GitHub: the button, a push, an input of the action.
//!
//! "Re-run failed jobs" runs the same commit again, so it helps only if the cause is outside of the repository. A fix in the
//! repository comes with a push, which starts another workflow run. Invariant: no command is named that the job's reader cannot run
//! from GitHub, if there is a way with the action's inputs. Deliberately absent: Markdown.

use contract::{
    diagnostic::{Diagnostic, ErrorCode, ExitKind},
    step::{FailureKind, StepFailure},
};

/// The characters of a commit that are shown.
const COMMIT_CHARS: usize = 7;

/// The options of the runner that the action has as inputs of the same name.
const INPUT_OPTIONS: &[&str] = &["--accept-drift", "--rerun", "--start-from", "--lock-wait"];

/// Which later workflow runs find the record of this one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RecordReach {
    /// All: the state is in git or in a bucket, as written in the plan.
    Outlives(String),
    /// Those of the same workflow and branch: they read this run's artifacts.
    EarlierRuns,
    /// Only re-runs of this run.
    #[default]
    ThisRun,
}

/// The job that failed.
#[derive(Clone, Debug, Default)]
pub struct FailedJob<'a> {
    /// The id of the workflow run.
    pub run: Option<&'a str>,
    /// The commit that was deployed.
    pub commit: Option<&'a str>,
    /// Who finds its record.
    pub reach: RecordReach,
    /// The command that resumes from a terminal, as hints name it.
    pub resume_command: &'a str,
    /// The step that it ended at.
    pub step: Option<String>,
    /// Whether the plan has migrations.
    pub has_migrations: bool,
    /// Whether the release has an archive; otherwise its label tells it from others.
    pub has_archive: bool,
    /// Whether the job has a key.
    pub has_key: bool,
}

/// How the hint about a record begins that nobody can trust, where the job has no key.
const GIVE_KEY: &str = "give the job a `key` to authenticate its journal; or ";

/// Where the cause of a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CausePlace {
    /// In a file of the repository: the same commit fails again.
    Repository,
    /// In the network, a database or a host.
    Outside,
    /// Nobody knows.
    Unknown,
}

/// The steps that fit this failure, each a clause without a capital or a full stop.
#[must_use]
pub fn next_steps(error: &Diagnostic, failure: Option<&StepFailure>, job: &FailedJob<'_>) -> Vec<String> {
    // Where it is certain that the next attempt stops, the hint names an answer to it.
    let is_stop_certain = error.hint.as_ref().is_some_and(|hint| hint.contains("--accept-drift"));
    // It is about hosts, not about the step that failed first.
    let failure = failure.filter(|_| error.code != ErrorCode::HostsLeftBehind);
    match (error.exit, failure) {
        (ExitKind::Failed, Some(_)) if is_stop_certain => {
            error.hint.iter().map(|hint| after_an_answer(&translate_hint(hint, job), job)).collect()
        }
        (ExitKind::Failed, Some(failure)) if error.code == ErrorCode::StepLost => after_lost_step(failure, job),
        (ExitKind::Failed, Some(failure)) => after_failure(cause_place(error, failure), failure, job),
        (ExitKind::RolledBack, failure) => {
            let mut steps: Vec<_> = failure.and_then(module_hint).into_iter().collect();
            steps.push("push the fix: the new workflow run deploys it".to_owned());
            steps.push(format!("if the release itself is right, {}: it deploys the release once more", rerun(job)));
            steps
        }
        (ExitKind::Interrupted, _) => {
            let mut steps: Vec<_> = error
                .hint
                .iter()
                .filter(|hint| hint.contains("resolve"))
                .map(|hint| after_an_answer(&translate_hint(hint, job), job))
                .collect();
            if steps.is_empty() {
                steps.push(format!("{}: it goes on where this attempt stopped", rerun(job)));
            }
            steps
        }
        _ => error.hint.iter().map(|hint| translate_hint(hint, job)).collect(),
    }
}

/// A re-run reads the journal of its own workflow run first, so it sees an answer from another one only in a state that outlives both.
fn after_an_answer(hint: &str, job: &FailedJob<'_>) -> String {
    match job.reach {
        RecordReach::Outlives(_) => hint.to_owned(),
        RecordReach::EarlierRuns | RecordReach::ThisRun => {
            hint.replace(&rerun(job), "run the workflow again with `command: deploy`")
        }
    }
}

fn cause_place(error: &Diagnostic, failure: &StepFailure) -> CausePlace {
    match &failure.kind {
        _ if error.location.is_some() => CausePlace::Repository,
        FailureKind::InvalidConfig | FailureKind::Denied => CausePlace::Repository,
        FailureKind::Transient | FailureKind::TimeOut | FailureKind::NotBegun => CausePlace::Outside,
        _ if failure.retryable => CausePlace::Outside,
        FailureKind::NotFound
        | FailureKind::Conflict
        | FailureKind::Permanent
        | FailureKind::Limit
        | FailureKind::BadContent
        | FailureKind::Trap
        | FailureKind::Other(_) => CausePlace::Unknown,
    }
}

fn after_failure(cause: CausePlace, failure: &StepFailure, job: &FailedJob<'_>) -> Vec<String> {
    let mut steps: Vec<_> = module_hint(failure).into_iter().collect();
    let at = job.step.as_ref().map_or_else(String::new, |step| format!(" at `{step}`"));
    match cause {
        CausePlace::Repository => {
            steps.push(format!(
                "push the fix: \"Re-run failed jobs\" uses this same commit{}, and would fail here again",
                commit_in_parentheses(job)
            ));
            steps.push(after_a_push(job, &at));
        }
        CausePlace::Outside => {
            let remove = if steps.is_empty() { "once the cause is gone, " } else { "then " };
            steps.push(format!("{remove}{}: it goes on{at}", rerun(job)));
        }
        CausePlace::Unknown => {
            let rerun = rerun(job);
            steps.push(format!(
                "if the cause is outside the repository (network, database, host), remove it, and {rerun}: it goes on{at}"
            ));
            steps.push(format!(
                "if the fix is in the repository, push it: a re-run uses this same commit{}; {}",
                commit_in_parentheses(job),
                after_a_push(job, &at)
            ));
        }
    }
    steps
}

/// The hint of the module, unless it only names a command for what the page and the log show.
fn module_hint(failure: &StepFailure) -> Option<String> {
    failure.hint.clone().filter(|hint| !hint.contains("`runner logs`"))
}

/// After a step without a known outcome: the next attempt may have to stop there.
fn after_lost_step(failure: &StepFailure, job: &FailedJob<'_>) -> Vec<String> {
    let step = job.step.as_ref().map_or_else(|| "the step".to_owned(), |step| format!("`{step}`"));
    let mut steps: Vec<_> = module_hint(failure).into_iter().collect();
    steps.push(format!("check what {step} did: its outcome is unknown"));
    steps.push(format!("{}: it probes {step} before it runs it, and stops there if no probe can tell", rerun(job)));
    steps
}

/// What the workflow run of a push does.
fn after_a_push(job: &FailedJob<'_>, at: &str) -> String {
    let migrations = if job.has_migrations { "; applied migrations are not repeated" } else { "" };
    let place = match &job.reach {
        RecordReach::Outlives(state) => format!("finds this record in `{state}`"),
        RecordReach::EarlierRuns => {
            "finds this journal in the artifacts of this run, if the job has `actions: read`".to_owned()
        }
        RecordReach::ThisRun => {
            return format!(
                "the push starts a new workflow run, which does not find this journal: all steps run or are probed \
                 again{migrations}. With `state: git:origin` it would go on{at} (docs/github.md)"
            );
        }
    };
    let what = if job.has_archive { "archive" } else { "release label" };
    format!(
        "the push starts a new workflow run, which {place}: with the same {what} it goes on{at}; with a new {what} all steps \
         run{migrations}"
    )
}

fn rerun(job: &FailedJob<'_>) -> String {
    match job.run {
        Some(run) => format!("press \"Re-run failed jobs\" (`gh run rerun {run} --failed`)"),
        None => "press \"Re-run failed jobs\"".to_owned(),
    }
}

fn commit_in_parentheses(job: &FailedJob<'_>) -> String {
    job.commit.map_or_else(String::new, |commit| format!(" (`{}`)", short_commit(commit)))
}

/// A commit, or a label that is one, in a few characters; anything else as it is.
pub(super) fn short_commit(text: &str) -> &str {
    let is_commit = text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_commit { &text[..COMMIT_CHARS] } else { text }
}

/// A hint for a terminal, in words of GitHub.
#[must_use]
pub fn translate_hint(hint: &str, job: &FailedJob<'_>) -> String {
    let hint = if job.has_key { hint.strip_prefix(GIVE_KEY).unwrap_or(hint) } else { hint };
    let (mut text, mut needs_new_run) = (String::new(), false);
    let parts: Vec<&str> = hint.split('`').collect();
    // Between two backticks is code.
    if parts.len().is_multiple_of(2) {
        return hint.to_owned();
    }
    let mut skip = "";
    for (index, part) in parts.iter().enumerate() {
        if index % 2 == 0 {
            text.push_str(part.strip_prefix(skip).unwrap_or(part));
            skip = "";
            continue;
        }
        match translate_command(part, job) {
            Some(TranslatedCommand::Rerun) => {
                if text.ends_with("run ") {
                    text.truncate(text.len() - "run ".len());
                }
                text.push_str(&rerun(job));
                skip = " again";
            }
            Some(TranslatedCommand::Inputs(inputs)) => {
                needs_new_run |= inputs.iter().any(|input| !input.starts_with("lock-wait:"));
                let inputs: Vec<_> = inputs.iter().map(|input| format!("`{input}`")).collect();
                let what = if text.ends_with("run ") { "a workflow with " } else { "" };
                text.push_str(&format!("{what}{}", inputs.join(" and ")));
            }
            None => text.push_str(&format!("`{part}`")),
        }
    }
    if needs_new_run && job.reach == RecordReach::ThisRun {
        text.push_str(
            "; that is a new workflow run, which does not find this journal: it needs `state: git:origin`, or a `key` and \
             `actions: read` (docs/github.md)",
        );
    }
    text
}

enum TranslatedCommand {
    Rerun,
    Inputs(Vec<String>),
}

fn translate_command(code: &str, job: &FailedJob<'_>) -> Option<TranslatedCommand> {
    let words: Vec<&str> = code.split_whitespace().collect();
    let option_inputs = |words: &[&str]| -> Vec<String> {
        let pairs = words.windows(2).filter(|pair| INPUT_OPTIONS.contains(&pair[0]));
        pairs.map(|pair| format!("{}: {}", pair[0].trim_start_matches('-'), pair[1])).collect()
    };
    let value_of = |option: &str| words.windows(2).find(|pair| pair[0] == option).map(|pair| pair[1]);
    match words.as_slice() {
        ["runner", "resolve", ..] => {
            let step = resolved_step(&words)?;
            let outcome = value_of("--as")?;
            let inputs = ["command: resolve".to_owned(), format!("resolve: {step}={outcome}"), "message: …".to_owned()];
            Some(TranslatedCommand::Inputs(inputs.into()))
        }
        ["runner", command @ ("rollback" | "setup"), ..] if code != job.resume_command => {
            let inputs = [vec![format!("command: {command}")], option_inputs(&words)].concat();
            Some(TranslatedCommand::Inputs(inputs))
        }
        ["runner", ..] if code == job.resume_command => Some(TranslatedCommand::Rerun),
        ["runner", ..] if code.starts_with(job.resume_command) && !job.resume_command.is_empty() => {
            let inputs = option_inputs(&words);
            (!inputs.is_empty()).then_some(TranslatedCommand::Inputs(inputs))
        }
        [option, _] if INPUT_OPTIONS.contains(option) => Some(TranslatedCommand::Inputs(option_inputs(&words))),
        _ => None,
    }
}

/// The step of a `runner resolve` command: its only word that is no option and no value.
fn resolved_step<'a>(words: &[&'a str]) -> Option<&'a str> {
    let mut words = words.iter().skip(2);
    while let Some(word) = words.next() {
        match *word {
            "--local" => {}
            option if option.starts_with("--") => drop(words.next()),
            step => return Some(step),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::diagnostic::SourceLocation;

    fn job(reach: RecordReach) -> FailedJob<'static> {
        FailedJob {
            run: Some("4711"),
            commit: Some("ff7cdcc0123456789abcdef0123456789abcdef0"),
            reach,
            resume_command: "runner --env prod",
            step: Some("migrate".to_owned()),
            has_migrations: true,
            has_archive: true,
            has_key: false,
        }
    }

    fn failure(kind: FailureKind) -> StepFailure {
        StepFailure::new(kind, "no")
    }

    #[test]
    fn rerun_is_advised_only_if_it_can_help() {
        let mut error = Diagnostic::new(ErrorCode::StepFailed, "no");
        let outside = next_steps(&error, Some(&failure(FailureKind::Transient)), &job(RecordReach::ThisRun));
        assert_eq!(
            outside,
            [
                "once the cause is gone, press \"Re-run failed jobs\" (`gh run rerun 4711 --failed`): it goes on at `migrate`"
            ]
        );
        error.location = Some(Box::new(SourceLocation { path: "/r/0003.sql".into(), line: Some(2), column: None }));
        let inside = next_steps(
            &error,
            Some(&failure(FailureKind::Permanent)),
            &job(RecordReach::Outlives("git:origin".into())),
        );
        assert_eq!(
            inside,
            [
                "push the fix: \"Re-run failed jobs\" uses this same commit (`ff7cdcc`), and would fail here again",
                "the push starts a new workflow run, which finds this record in `git:origin`: with the same archive it goes on \
                 at `migrate`; with a new archive all steps run; applied migrations are not repeated",
            ]
        );
        let this_run = next_steps(&error, Some(&failure(FailureKind::Permanent)), &job(RecordReach::ThisRun));
        assert!(this_run[1].contains("does not find this journal") && this_run[1].contains("`state: git:origin`"));
    }

    #[test]
    fn lost_step_is_not_promised_to_go_on() {
        let error = Diagnostic::new(ErrorCode::StepLost, "no");
        let steps = next_steps(&error, Some(&failure(FailureKind::TimeOut)), &job(RecordReach::ThisRun));
        assert!(steps[1].contains("stops there if no probe can tell"), "{steps:?}");
    }

    #[test]
    fn certain_stop_is_answered_before_the_next_run() {
        let hint = "fix the cause; check what it did; to run it again, run `runner --env prod --accept-drift index`";
        let error = Diagnostic::new(ErrorCode::StepFailed, "no").with_hint(hint);
        let steps = next_steps(&error, Some(&failure(FailureKind::Permanent)), &job(RecordReach::EarlierRuns));
        assert_eq!(
            steps,
            ["fix the cause; check what it did; to run it again, run a workflow with `accept-drift: index`"]
        );
    }

    #[test]
    fn hints_name_inputs_of_the_action() {
        let outlives = job(RecordReach::EarlierRuns);
        for (hint, translated) in [
            (
                "fix the cause, then run `runner --env prod` again; `runner logs index` shows details",
                "fix the cause, then press \"Re-run failed jobs\" (`gh run rerun 4711 --failed`); `runner logs index` shows details",
            ),
            (
                "check what it did; if it finished, run `runner resolve --env prod index --as done --message \"checked by hand\"`; \
                 if it did not finish, run `runner --env prod --accept-drift index`",
                "check what it did; if it finished, run a workflow with `command: resolve` and `resolve: index=done` and \
                 `message: …`; if it did not finish, run a workflow with `accept-drift: index`",
            ),
            (
                "if it finished, run `runner resolve --env prod index --as done --message \"checked by hand\"`, then run \
                 `runner --env prod` again; if it did not finish, run `runner --env prod --accept-drift index`",
                "if it finished, run a workflow with `command: resolve` and `resolve: index=done` and `message: …`, then press \
                 \"Re-run failed jobs\" (`gh run rerun 4711 --failed`); if it did not finish, run a workflow with \
                 `accept-drift: index`",
            ),
            (
                "run `runner --env prod --rerun index`, or `runner --env prod`",
                "run a workflow with `rerun: index`, or press \"Re-run failed jobs\" (`gh run rerun 4711 --failed`)",
            ),
            (
                "run again when it ends, or wait for it with `--lock-wait 10m`",
                "run again when it ends, or wait for it with `lock-wait: 10m`",
            ),
            ("a lone ` is text", "a lone ` is text"),
        ] {
            assert_eq!(translate_hint(hint, &outlives), translated);
        }
        let lost = translate_hint("run `runner --env prod --accept-drift index`", &job(RecordReach::ThisRun));
        assert!(lost.contains("does not find this journal"), "{lost}");
    }

    #[test]
    fn only_commits_are_shortened() {
        assert_eq!(short_commit("ff7cdcc0123456789abcdef0123456789abcdef0"), "ff7cdcc");
        assert_eq!(short_commit("r2"), "r2");
    }
}
