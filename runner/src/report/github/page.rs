//! The content of the job's page: what users see now, why the attempt ended, what to do next, and what became of each step.
//!
//! Invariant: foreign text is never formatted, and an icon always has a word next to it. Each failure and each reason stands once.
//! Deliberately absent: the fold of the entries ([`super::attempt_table`]).

use std::path::Path;

use super::{
    super::{ColorMode, CommandConclusion, messages, step_label},
    attempt_table::{AttemptTable, ReleaseVisibility, StepRow},
    bounded_page::BoundedPage,
    markdown::{code_block, escape_inline},
    next_steps::{next_steps, short_commit},
    summary::{JobContext, PreviousAttempt},
};
use contract::{
    diagnostic::{Diagnostic, ErrorCode, ExitKind, SourceLocation},
    render,
    step::{StepFailure, StepPhase},
    text::{format_duration, millis_between},
};
use journal::{
    StepStatus,
    event::{Release, StepTarget},
};

/// The longest text in a cell, in characters.
const MAX_CELL_CHARS: usize = 400;
/// The most bytes before the table of steps.
const MAX_HEAD_BYTES: usize = 256 * 1024;

const TRUNCATED_NOTE: &str = "\n_The page is full; the log has the rest._\n";

/// All that the page shows.
pub(super) struct AttemptPage<'a> {
    pub(super) context: &'a JobContext,
    pub(super) table: &'a AttemptTable,
    pub(super) previous: &'a [PreviousAttempt],
    pub(super) journal_url: Option<&'a str>,
    pub(super) conclusion: &'a CommandConclusion<'a>,
}

impl AttemptPage<'_> {
    /// The page, in at most `max_bytes` bytes.
    pub(super) fn render(&self, max_bytes: usize) -> String {
        let mut page = BoundedPage::new(max_bytes);
        if self.table.header.is_none() {
            push_problems(&mut page, self.conclusion.exit, self.conclusion.error.as_slice());
            return page.text;
        }
        page.max_bytes = (max_bytes / 2).min(MAX_HEAD_BYTES);
        page.push_if_fits(&self.title());
        page.push_if_fits(&self.facts());
        if let Some(error) = self.conclusion.error {
            let _ = page.push_if_fits(&self.failure(error)) && page.push_if_fits(&self.next(error));
        }
        page.max_bytes = max_bytes.saturating_sub(TRUNCATED_NOTE.len());
        let rows = [self.rows(), self.host_table()].concat();
        let is_complete = page.push_if_fits(&self.table_head()) && {
            let fit = rows.iter().take_while(|row| page.push_if_fits(row)).count();
            page.max_bytes = max_bytes;
            fit == rows.len() || page.push_if_fits(&format!("\n_{} more rows are in the log._\n", rows.len() - fit))
        };
        if !is_complete {
            page.max_bytes = max_bytes;
            page.push_if_fits(TRUNCATED_NOTE);
        }
        page.text
    }

    fn title(&self) -> String {
        let header = self.table.header.as_ref().expect("an attempt has a header");
        let (exit, verified) = (self.conclusion.exit, self.table.verified);
        let release = code_span(header.release.label.as_str());
        let result = match exit {
            ExitKind::Success if !verified => "partially deployed, and not verified".to_owned(),
            ExitKind::Success => match &self.context.site {
                Some(site) => format!("live at {}", link(host_of(site), site)),
                None => "live".to_owned(),
            },
            ExitKind::RolledBack => {
                let failed = self.table.failed_step();
                let what = match self.table.failed_row().and_then(|row| row.phase) {
                    Some(StepPhase::Check) => "failed its check".to_owned(),
                    Some(StepPhase::Prepare | StepPhase::Commit) | None => {
                        format!("failed{}", failed.map_or_else(String::new, |step| format!(" at {}", bold_step(step))))
                    }
                };
                match (&self.table.switched_back, self.restored()) {
                    (Some((release, None)), _) => format!("{what}; **{} is live again**", release_span(release)),
                    // The reason stands below.
                    (Some((release, Some(_))), _) => {
                        format!("{what}; switched back to {}; **not verified**", release_span(release))
                    }
                    (None, Some(restored)) => {
                        format!("{what}; switched back to {}; **not verified**", release_span(restored))
                    }
                    (None, None) => format!("{what}; rolled back"),
                }
            }
            ExitKind::Failed if self.left_hosts_behind() => "deployed, but not to all hosts".to_owned(),
            ExitKind::Failed => format!("stopped{}", self.at_step()),
            ExitKind::InDoubt => format!("waits for a decision{}", self.at_step()),
            ExitKind::Interrupted => format!("interrupted{}", self.at_step()),
            ExitKind::Refused | ExitKind::Locked | ExitKind::Journal | ExitKind::Bug => {
                format!("{}{}", messages::result(Some(exit), verified), self.at_step())
            }
        };
        format!(
            "## {} {} {release} → **{}**: {result}\n\n",
            result_icon(exit, verified),
            escape_inline(header.app.as_str(), MAX_CELL_CHARS),
            escape_inline(header.environment.as_str(), MAX_CELL_CHARS)
        )
    }

    /// ` at **migrate** (step 2 of 5)`.
    fn at_step(&self) -> String {
        let Some(step) = self.table.failed_step() else { return String::new() };
        let position = self.table.position(step);
        let position = position.map_or_else(String::new, |(at, count)| format!(" (step {at} of {count})"));
        format!(" at {}{position}", bold_step(step))
    }

    /// What users see, then the attempt, its time, who started it, and the links.
    fn facts(&self) -> String {
        let header = self.table.header.as_ref().expect("an attempt has a header");
        let mut facts: Vec<String> = Vec::new();
        facts.extend(self.what_users_see());
        facts.extend(self.resumed());
        let number = header.attempt.0.get();
        let attempt = match self.context.attempt {
            Some(ci) if ci != number => format!("attempt {number} (attempt {ci} on GitHub)"),
            Some(_) | None => format!("attempt {number}"),
        };
        facts.push(attempt);
        if let (Some(began), Some(last)) = (self.table.started_at, self.table.last_entry_at) {
            facts.push(format_duration(millis_between(began, last)));
        }
        facts.extend(self.context.actor.iter().map(|actor| format!("@{}", escape_inline(actor, MAX_CELL_CHARS))));
        if !matches!(self.conclusion.exit, ExitKind::Success | ExitKind::Failed) {
            facts.push(format!("exit {}", self.conclusion.exit.status()));
        }
        facts.extend(self.journal_url.map(|url| link("journal", url)));
        facts.extend(self.attempt_url(self.context.attempt).map(|url| link("log", &url)));
        format!("{}\n\n", facts.join(" · "))
    }

    fn what_users_see(&self) -> Option<String> {
        let header = self.table.header.as_ref()?;
        let release = code_span(header.release.label.as_str());
        let live = self.table.live_before.release.as_ref();
        match &self.table.visibility {
            ReleaseVisibility::Hidden { shown_ms: Some(ms), .. } => {
                Some(format!("Users saw {release} for **{}**", format_duration(*ms)))
            }
            ReleaseVisibility::Hidden { .. } => Some(format!("Users do not see {release} any more")),
            _ if self.conclusion.exit == ExitKind::Success => None,
            ReleaseVisibility::Unknown => Some(format!("**It is not known whether users see {release}**")),
            ReleaseVisibility::ShownOn { hosts, of } => {
                Some(format!("**Users see {release} on {hosts} of {of} hosts**, and it is not verified"))
            }
            ReleaseVisibility::Shown => Some(format!("**Users see {release}**, and it is not verified")),
            ReleaseVisibility::Untouched if live.is_some_and(|live| live.is_same(&header.release)) => {
                Some(format!("**Users see {release}**"))
            }
            ReleaseVisibility::Untouched if self.context.shows_releases || !self.has_begun_commit() => {
                let live = live.map_or_else(String::new, |live| format!(" {} is live.", release_span(live)));
                Some(format!("**Nothing users see was touched.**{live}"))
            }
            ReleaseVisibility::Untouched => None,
        }
    }

    fn has_begun_commit(&self) -> bool {
        let is_begun = |row: &StepRow| self.table.status(&row.step_target) != StepStatus::NotReached;
        self.table.rows.iter().any(|row| row.phase != Some(StepPhase::Prepare) && is_begun(row))
    }

    fn restored(&self) -> Option<&Release> {
        match &self.table.visibility {
            ReleaseVisibility::Hidden { restored, .. } => restored.as_ref(),
            ReleaseVisibility::Untouched
            | ReleaseVisibility::Shown
            | ReleaseVisibility::ShownOn { .. }
            | ReleaseVisibility::Unknown => None,
        }
    }

    /// Where the attempt goes on from an earlier one, and the time that it saved.
    fn resumed(&self) -> Option<String> {
        let last = self.previous.last()?;
        let at = last.table.failed_step().or_else(|| self.table.first_step_that_acted());
        let at = at.map_or_else(String::new, |step| format!(" at {}", bold_step(step)));
        let from = format!("attempt {}", last.number);
        let from = self.previous_url(last).map_or_else(|| from.clone(), |url| link(&from, &url));
        let is_kept = |row: &StepRow| {
            let status = self.table.status(&row.step_target);
            matches!(status, StepStatus::Skipped | StepStatus::Adopted) && self.earlier_ms(&row.step_target).is_some()
        };
        let planned: Vec<&StepRow> = self.table.rows.iter().filter(|row| row.phase.is_some()).collect();
        let steps: Vec<_> = planned.chunk_by(|one, other| one.step_target.step == other.step_target.step).collect();
        let kept: Vec<_> = steps.iter().filter(|of_step| of_step.iter().all(|row| is_kept(row))).collect();
        // Hosts work at the same time.
        let longest = |of_step: &&&[&StepRow]| of_step.iter().filter_map(|row| self.earlier_ms(&row.step_target)).max();
        let saved: u64 = kept.iter().filter_map(longest).sum();
        let saved = if kept.is_empty() {
            String::new()
        } else {
            format!(" · **{} of {} steps not repeated, {} saved**", kept.len(), steps.len(), format_duration(saved))
        };
        Some(format!("**Resumed**{at} from {from}{saved}"))
    }

    /// How long a step ran when an earlier attempt of this run did it.
    fn earlier_ms(&self, step_target: &StepTarget) -> Option<u64> {
        self.previous.iter().rev().find_map(|attempt| {
            let ran = attempt.table.status(step_target) == StepStatus::Ran;
            ran.then(|| attempt.table.row(step_target)?.took_ms).flatten()
        })
    }

    fn left_hosts_behind(&self) -> bool {
        self.conclusion.error.is_some_and(|error| error.code == ErrorCode::HostsLeftBehind)
    }

    fn failure(&self, error: &Diagnostic) -> String {
        let row = self.table.failed_row();
        let failure = row.and_then(|row| row.failure.as_ref());
        let place = error.location.as_ref().map(|location| self.location(location));
        let is_of_step = error.code != ErrorCode::HostsLeftBehind
            && matches!(self.conclusion.exit, ExitKind::Failed | ExitKind::RolledBack);
        let step_failed = failure.filter(|_| is_of_step);
        let mut lines = Vec::new();
        match (place, step_failed) {
            (Some(place), Some(failure)) => lines.push(format!("{place}: {}", without_place(failure))),
            (Some(place), None) => lines.push(format!("{place}: {}", inline(&error.message))),
            (None, Some(failure)) => lines.push(format!("**{}** {}", error.code, inline(&messages::failure(failure)))),
            (None, None) => lines.push(format!("**{}** {}", error.code, inline(&error.message))),
        }
        // The first cause of a failed step is the failure itself.
        let causes = error.causes.iter().skip(usize::from(step_failed.is_some()));
        lines.extend(causes.map(|cause| inline(cause)));
        if let Some((release, Some(doubt))) = &self.table.switched_back {
            lines.push(format!("**{} is not verified**: {}", release_span(release), sentence_part(doubt)));
        }
        let mut text = format!("> {}\n\n", lines.join("<br>\n> "));
        if let Some(row) = row.filter(|row| !row.output.is_empty()) {
            text.push_str(&format!("{}\n", code_block("text", &row.output.join("\n"))));
        }
        if let (Some(excerpt), None) = (&error.excerpt, failure) {
            let bare = Diagnostic { hint: None, excerpt: Some(excerpt.clone()), ..error.clone() };
            text = format!("{}\n", code_block("text", &render::render_diagnostic(&bare, ColorMode::Off)));
        }
        text
    }

    /// A file and a line, as a link to the commit.
    fn location(&self, location: &SourceLocation) -> String {
        let path = path_below(&location.path, &self.context.roots);
        let line = location.line.map_or_else(String::new, |line| format!(":{line}"));
        let shown = format!("**{}**", escape_inline(&format!("{path}{line}"), MAX_CELL_CHARS));
        let (Some(repository), Some(commit)) = (&self.context.repository_url, &self.context.commit) else {
            return shown;
        };
        if path.starts_with('/') {
            return shown;
        }
        let anchor = location.line.map_or_else(String::new, |line| format!("#L{line}"));
        format!("**{}**", link(&format!("{path}{line}"), &format!("{repository}/blob/{commit}/{path}{anchor}")))
    }

    fn next(&self, error: &Diagnostic) -> String {
        let row = self.table.failed_row();
        let job = self.context.failed_job(self.table.failed_step());
        let steps = next_steps(error, row.and_then(|row| row.failure.as_ref()), &job);
        if steps.is_empty() {
            return String::new();
        }
        let numbered = steps.iter().enumerate().map(|(at, step)| format!("{}. {}\n", at + 1, sentence(step)));
        format!("**Next**\n\n{}\n", numbered.collect::<String>())
    }

    fn attempt_url(&self, attempt: Option<u32>) -> Option<String> {
        let (repository, run) = (self.context.repository_url.as_ref()?, self.context.run.as_ref()?);
        let attempt = attempt.map_or_else(String::new, |attempt| format!("/attempts/{attempt}"));
        Some(format!("{repository}/actions/runs/{run}{attempt}"))
    }

    /// The page of an earlier attempt. GitHub counts attempts as we do only if none ended before its first record.
    fn previous_url(&self, attempt: &PreviousAttempt) -> Option<String> {
        let url = attempt.url.clone()?;
        let header = self.table.header.as_ref()?;
        let counts_alike = self.context.attempt == Some(header.attempt.0.get());
        let is_this_run = self.attempt_url(None).is_some_and(|ours| ours == url);
        Some(if counts_alike && is_this_run { format!("{url}/attempts/{}", attempt.number) } else { url })
    }
}

/// The page of a job that did not start an attempt.
pub(super) fn render_problems(exit: ExitKind, problems: &[Diagnostic], max_bytes: usize) -> String {
    let mut page = BoundedPage::new(max_bytes);
    push_problems(&mut page, exit, &problems.iter().collect::<Vec<_>>());
    page.text
}

fn push_problems(page: &mut BoundedPage, exit: ExitKind, problems: &[&Diagnostic]) {
    let max_bytes = page.max_bytes;
    page.max_bytes = max_bytes.saturating_sub(TRUNCATED_NOTE.len());
    page.push_if_fits(&format!(
        "## {} Not started: {}\n\n**Nothing was touched.**\n\n",
        result_icon(exit, false),
        messages::result(Some(exit), false)
    ));
    let block = |problem: &Diagnostic| code_block("text", &render::render_diagnostic(problem, ColorMode::Off));
    let fits = problems.iter().all(|problem| page.push_if_fits(&format!("{}\n", block(problem))));
    page.max_bytes = max_bytes;
    if !fits {
        page.push_if_fits(TRUNCATED_NOTE);
    }
}

/// The icon of a result, for the headline; the result follows as words.
fn result_icon(exit: ExitKind, verified: bool) -> &'static str {
    match exit {
        ExitKind::Success if verified => "✅",
        ExitKind::RolledBack => "↩️",
        ExitKind::Success | ExitKind::InDoubt | ExitKind::Locked | ExitKind::Interrupted => "⚠️",
        ExitKind::Failed | ExitKind::Refused | ExitKind::Journal | ExitKind::Bug => "❌",
    }
}

pub(super) fn cell(text: &str) -> String {
    escape_inline(text, MAX_CELL_CHARS)
}

/// A foreign text that may have lines, in one line of a quote.
fn inline(text: &str) -> String {
    text.lines().map(cell).collect::<Vec<_>>().join("<br>\n> ")
}

/// The message of a failure, without the file and the line that it may begin with.
fn without_place(failure: &StepFailure) -> String {
    inline(&failure.message)
}

/// A clause as a sentence. Code in backticks stays, all else is shown as it is.
fn sentence(clause: &str) -> String {
    let text = sentence_part(clause);
    let mut chars = text.chars();
    let first = chars.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    let end = if text.ends_with(['.', '…']) { "" } else { "." };
    format!("{first}{}{end}", chars.as_str())
}

/// The same, inside of a sentence.
fn sentence_part(clause: &str) -> String {
    let parts: Vec<&str> = clause.split('`').collect();
    let is_balanced = parts.len() % 2 == 1;
    let mut text = String::new();
    for (index, part) in parts.iter().enumerate() {
        let is_code = is_balanced && index % 2 == 1 && !part.contains('\n') && !part.is_empty();
        text.push_str(&if is_code { code_span(part) } else { escape_inline(part, 2_000) });
    }
    text
}

/// A text as code, if nothing in it could end the code or the cell.
fn code_span(text: &str) -> String {
    let short = short_commit(text);
    let fits = |char: char| char.is_ascii_alphanumeric() || " ._+-/@:=\"…".contains(char);
    if !short.is_empty() && short.chars().all(fits) {
        format!("`{short}`")
    } else {
        escape_inline(short, MAX_CELL_CHARS)
    }
}

pub(super) fn release_span(release: &Release) -> String {
    code_span(release.label.as_str())
}

fn bold_step(step_target: &StepTarget) -> String {
    format!("**{}**", cell(&step_label(step_target)))
}

/// A link, if the address has nothing that could end it.
fn link(text: &str, url: &str) -> String {
    let text = escape_inline(text, MAX_CELL_CHARS);
    let is_plain = |char: char| char.is_ascii_graphic() && !"()<>[]\\`|\"".contains(char);
    let is_web = url.starts_with("https://") || url.starts_with("http://");
    if is_web && url.chars().all(is_plain) { format!("[{text}]({url})") } else { text }
}

fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or(rest)
}

/// The path relative to the first root that contains it.
fn path_below(path: &Path, roots: &[std::path::PathBuf]) -> String {
    super::annotation::path_below_root(path, roots).display().to_string()
}
