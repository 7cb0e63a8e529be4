//! Annotations that GitHub shows next to a line of a file: errors, warnings and notices.
//!
//! Invariant: no more annotations of a level are written than GitHub shows. How many will follow is unknown, so the last one that
//! GitHub would show is held back until the end, and then counts the omitted ones. Deliberately absent: reading files.

use std::path::{Component, Path, PathBuf};

use super::command::workflow_command;
use contract::diagnostic::{Diagnostic, Notice, NoticeSeverity, SourceLocation};
use contract::{render, text};

/// The most annotations of a level that GitHub shows of one step of a job.
const MAX_PER_LEVEL: usize = 10;
/// The longest message, in bytes.
const MAX_MESSAGE_BYTES: usize = 4096;
/// The longest title, in characters.
const MAX_TITLE_CHARS: usize = 120;

/// An annotation, with its location if it has one.
#[derive(Clone, Debug)]
pub(super) struct WorkflowAnnotation {
    level: AnnotationLevel,
    location: Option<AnnotationLocation>,
    title: Option<String>,
    message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AnnotationLevel {
    Error,
    Warning,
    Notice,
}

#[derive(Clone, Debug)]
struct AnnotationLocation {
    path: PathBuf,
    line: Option<u64>,
    column: Option<u64>,
    end: Option<(u64, u64)>,
}

impl WorkflowAnnotation {
    pub(super) fn of_error(error: &Diagnostic) -> Self {
        let step_target = match (&error.location, &error.excerpt) {
            (Some(spot), _) => Some(AnnotationLocation::of(spot)),
            // An excerpt of the command line is not in a file.
            (None, Some(excerpt)) if !excerpt.path.starts_with('(') => {
                let extent = render::mark_extent(excerpt);
                Some(AnnotationLocation {
                    path: PathBuf::from(&excerpt.path),
                    line: Some(extent.line as u64),
                    column: Some(extent.column as u64),
                    end: Some((extent.end_line as u64, extent.end_column as u64)),
                })
            }
            (None, _) => None,
        };
        let label = error.excerpt.iter().map(|excerpt| excerpt.label.clone()).filter(|label| !label.is_empty());
        let hint = error.hint.iter().map(|hint| format!("hint: {hint}"));
        // GitHub's log shows the message without the title.
        let message =
            std::iter::once(error.message.clone()).chain(label).chain(error.causes.iter().cloned()).chain(hint);
        let message = message.collect::<Vec<_>>().join("\n");
        Self {
            level: AnnotationLevel::Error,
            location: step_target,
            title: Some(format!("Pawl {}", error.code)),
            message,
        }
    }

    /// Whether GitHub shows the whole message.
    pub(super) fn is_complete(&self) -> bool {
        self.message().len() < MAX_MESSAGE_BYTES
    }

    /// None for a notice without a location: it is in the log.
    pub(super) fn of_notice(notice: &Notice) -> Option<Self> {
        let kind = match notice.severity {
            NoticeSeverity::Warning => AnnotationLevel::Warning,
            NoticeSeverity::Note => AnnotationLevel::Notice,
        };
        let step_target = Some(AnnotationLocation::of(notice.location.as_ref()?));
        Some(Self { level: kind, location: step_target, title: notice.title.clone(), message: notice.message.clone() })
    }

    /// The command, with the path relative to the first of `roots` that contains it.
    fn command(&self, roots: &[PathBuf]) -> String {
        let mut properties = Vec::new();
        if let Some(step_target) = &self.location {
            properties.push(("file", text::escape_line(&path_below_root(&step_target.path, roots).to_string_lossy())));
            let mut number = |name, number: Option<u64>| properties.extend(number.map(|n| (name, n.to_string())));
            number("line", step_target.line);
            number("col", step_target.column);
            number("endLine", step_target.end.map(|(line, _)| line));
            // GitHub accepts columns within one line only.
            number(
                "endColumn",
                step_target.end.filter(|(line, _)| Some(*line) == step_target.line).map(|(_, column)| column),
            );
        }
        if let Some(title) = &self.title {
            properties.push(("title", text::truncate(title, MAX_TITLE_CHARS)));
        }
        let name = match self.level {
            AnnotationLevel::Error => "error",
            AnnotationLevel::Warning => "warning",
            AnnotationLevel::Notice => "notice",
        };
        workflow_command(name, &properties, &self.message())
    }

    fn message(&self) -> String {
        let lines: Vec<_> = self.message.lines().map(text::escape_line).collect();
        let message = lines.join("\n");
        if message.len() <= MAX_MESSAGE_BYTES {
            return message;
        }
        format!("{}…", &message[..message.floor_char_boundary(MAX_MESSAGE_BYTES - "…".len())])
    }
}

impl AnnotationLocation {
    fn of(spot: &SourceLocation) -> Self {
        Self { path: spot.path.clone(), line: spot.line, column: spot.column, end: None }
    }
}

/// The path without `.` and `..`, relative to the first root that contains it.
pub(super) fn path_below_root(path: &Path, roots: &[PathBuf]) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                plain.pop();
            }
            Component::Normal(_) | Component::RootDir | Component::Prefix(_) => plain.push(part),
        }
    }
    let below = roots.iter().find_map(|root| plain.strip_prefix(root).ok());
    below.map_or_else(|| plain.clone(), Path::to_path_buf)
}

/// Limits the annotations of this process.
#[derive(Debug, Default)]
pub(super) struct AnnotationLimiter {
    roots: Vec<PathBuf>,
    working_dir: PathBuf,
    counts: [AnnotationCount; 3],
}

#[derive(Debug, Default)]
struct AnnotationCount {
    seen_count: usize,
    held_back: Option<WorkflowAnnotation>,
}

impl AnnotationLimiter {
    /// `working_dir` resolves relative paths; `roots` are all paths of the repository's folder.
    pub(super) fn new(working_dir: PathBuf, roots: Vec<PathBuf>) -> Self {
        Self { roots, working_dir, counts: Default::default() }
    }

    /// Counts an annotation, and returns its command unless it is held back.
    pub(super) fn add(&mut self, mut annotation: WorkflowAnnotation) -> Option<String> {
        if let Some(step_target) = &mut annotation.location {
            step_target.path = self.working_dir.join(&step_target.path);
        }
        let count = &mut self.counts[annotation.level as usize];
        count.seen_count += 1;
        if count.seen_count < MAX_PER_LEVEL {
            return Some(annotation.command(&self.roots));
        }
        count.held_back.get_or_insert(annotation);
        None
    }

    /// The commands of the annotations that were held back.
    pub(super) fn take_held_back(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        for count in &mut self.counts {
            let Some(mut held) = count.held_back.take() else { continue };
            let more = count.seen_count.saturating_sub(MAX_PER_LEVEL);
            if more > 0 {
                // In front, where truncation keeps it.
                held.message = format!("(and {more} more, see the log)\n{}", held.message);
            }
            lines.push(held.command(&self.roots));
        }
        lines
    }
}
