//! What GitHub shows beside a line of a file: errors, warnings and notices.
//!
//! Invariant: no more of a kind are written than GitHub shows. Nobody knows how many will follow, so the last that would be
//! shown is held back until the end, and then says how many there are besides. Deliberately absent: reading files.

use std::path::{Component, Path, PathBuf};

use super::command::command;
use contract::diagnostic::{Diagnostic, Notice, Spot, Weight};
use contract::{render, text};

/// So many of a kind GitHub shows of one step of a job.
const MOST: usize = 10;
/// The longest message, in bytes.
const LONGEST: usize = 4096;
/// The longest title, in characters.
const TITLE: usize = 120;

/// What to show, and where.
#[derive(Clone, Debug)]
pub(super) struct Annotation {
    kind: Kind,
    place: Option<Where>,
    title: Option<String>,
    message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Error,
    Warning,
    Notice,
}

#[derive(Clone, Debug)]
struct Where {
    path: PathBuf,
    line: Option<u64>,
    column: Option<u64>,
    last: Option<(u64, u64)>,
}

impl Annotation {
    pub(super) fn of(error: &Diagnostic) -> Self {
        let place = match (&error.spot, &error.excerpt) {
            (Some(spot), _) => Some(Where::of(spot)),
            // What was given on the command line is no file.
            (None, Some(excerpt)) if !excerpt.path.starts_with('(') => {
                let extent = render::extent(excerpt);
                Some(Where {
                    path: PathBuf::from(&excerpt.path),
                    line: Some(extent.line as u64),
                    column: Some(extent.column as u64),
                    last: Some((extent.last_line as u64, extent.last_column as u64)),
                })
            }
            (None, _) => None,
        };
        let label = error.excerpt.iter().map(|excerpt| excerpt.label.clone()).filter(|label| !label.is_empty());
        let hint = error.hint.iter().map(|hint| format!("hint: {hint}"));
        let more: Vec<_> = label.chain(error.causes.iter().cloned()).chain(hint).collect();
        // The title says what is wrong already.
        let message = if more.is_empty() { error.message.clone() } else { more.join("\n") };
        Self { kind: Kind::Error, place, title: Some(format!("{} {}", error.code, error.message)), message }
    }

    /// None where a notice has no place: it is in the log.
    pub(super) fn of_notice(notice: &Notice) -> Option<Self> {
        let kind = match notice.weight {
            Weight::Warning => Kind::Warning,
            Weight::Note => Kind::Notice,
        };
        let place = Some(Where::of(notice.spot.as_ref()?));
        Some(Self { kind, place, title: notice.title.clone(), message: notice.message.clone() })
    }

    /// The command; paths are told as they are below `roots`, the first that has them.
    fn command(&self, roots: &[PathBuf]) -> String {
        let mut properties = Vec::new();
        if let Some(place) = &self.place {
            properties.push(("file", text::visible(&shortest(&place.path, roots).to_string_lossy())));
            let mut number = |name, number: Option<u64>| properties.extend(number.map(|n| (name, n.to_string())));
            number("line", place.line);
            number("col", place.column);
            number("endLine", place.last.map(|(line, _)| line));
            // GitHub takes columns of one line only.
            number("endColumn", place.last.filter(|(line, _)| Some(*line) == place.line).map(|(_, column)| column));
        }
        if let Some(title) = &self.title {
            properties.push(("title", text::cut(title, TITLE)));
        }
        let name = match self.kind {
            Kind::Error => "error",
            Kind::Warning => "warning",
            Kind::Notice => "notice",
        };
        command(name, &properties, &self.message())
    }

    fn message(&self) -> String {
        let lines: Vec<_> = self.message.lines().map(text::visible).collect();
        let message = lines.join("\n");
        if message.len() <= LONGEST {
            return message;
        }
        format!("{}…", &message[..message.floor_char_boundary(LONGEST - "…".len())])
    }
}

impl Where {
    fn of(spot: &Spot) -> Self {
        Self { path: spot.path.clone(), line: spot.line, column: spot.column, last: None }
    }
}

/// The path below the first root that has it, without `.` and `..`; else as it is.
fn shortest(path: &Path, roots: &[PathBuf]) -> PathBuf {
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

/// The annotations of this process.
#[derive(Debug, Default)]
pub(super) struct Annotations {
    roots: Vec<PathBuf>,
    here: PathBuf,
    counts: [Count; 3],
}

#[derive(Debug, Default)]
struct Count {
    met: usize,
    held: Option<Annotation>,
}

impl Annotations {
    /// `here` is what relative paths are below of; `roots` are the names of the repository's folder.
    pub(super) fn new(here: PathBuf, roots: Vec<PathBuf>) -> Self {
        Self { roots, here, counts: Default::default() }
    }

    /// What is to be written for it now, if anything.
    pub(super) fn add(&mut self, mut annotation: Annotation) -> Option<String> {
        if let Some(place) = &mut annotation.place {
            place.path = self.here.join(&place.path);
        }
        let count = &mut self.counts[annotation.kind as usize];
        count.met += 1;
        if count.met < MOST {
            return Some(annotation.command(&self.roots));
        }
        count.held.get_or_insert(annotation);
        None
    }

    /// What was held back.
    pub(super) fn rest(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        for count in &mut self.counts {
            let Some(mut held) = count.held.take() else { continue };
            let more = count.met.saturating_sub(MOST);
            if more > 0 {
                // In front, where no cut takes it away.
                held.message = format!("(and {more} more, see the log)\n{}", held.message);
            }
            lines.push(held.command(&self.roots));
        }
        lines
    }
}
