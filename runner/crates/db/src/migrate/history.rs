//! What is applied, and how that stands to the files. The comparison is pure.

use std::collections::BTreeMap;

use super::{
    super::sql::TextRow,
    files::{Migration, number, order},
    format::{Format, Likeness, Row},
};
use crate::failure;
use contract::step::Failure;

/// What to do with what is not as it should be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Strictness {
    /// Stop.
    #[default]
    Refuse,
    /// Go on.
    Allow,
}

/// A row of the ledger.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) kind: String,
    pub(super) version: String,
    pub(super) number: usize,
    pub(super) state: String,
    pub(super) hash: String,
    pub(super) note: String,
    pub(super) epoch: u64,
}

/// Everything that is on record in the database.
#[derive(Clone, Debug, Default)]
pub(super) struct Record {
    pub(super) rows: Vec<Row>,
    pub(super) ledger: Vec<Entry>,
}

impl Record {
    pub(super) fn new(rows: Vec<TextRow>, ledger: Vec<TextRow>) -> Self {
        let text = |row: &TextRow, at: usize| row.get(at).cloned().flatten();
        let rows = rows.iter().map(|row| Row {
            version: text(row, 0).unwrap_or_default(),
            name: text(row, 1),
            checksum: text(row, 2),
            unfinished: matches!(text(row, 3).as_deref(), Some("0" | "f")),
        });
        let ledger = ledger.iter().map(|row| Entry {
            kind: text(row, 0).unwrap_or_default(),
            version: text(row, 1).unwrap_or_default(),
            number: text(row, 2).and_then(|number| number.parse().ok()).unwrap_or(0),
            state: text(row, 3).unwrap_or_default(),
            hash: text(row, 4).unwrap_or_default(),
            note: text(row, 5).unwrap_or_default(),
            epoch: text(row, 6).and_then(|epoch| epoch.parse().ok()).unwrap_or(0),
        });
        let mut rows: Vec<_> = rows.collect();
        rows.sort_by_cached_key(|row| order(&row.version));
        Self { rows, ledger: ledger.collect() }
    }

    pub(super) fn fence(&self, resource: &str) -> u64 {
        let own = self.ledger.iter().find(|entry| entry.kind == "fence" && entry.version == resource);
        own.map_or(0, |entry| entry.epoch)
    }

    /// How far a file without a transaction has come.
    pub(super) fn statements(&self, version: &str) -> BTreeMap<usize, &Entry> {
        let own = self.ledger.iter().filter(|entry| entry.kind == "statement" && entry.version == version);
        own.map(|entry| (entry.number, entry)).collect()
    }

    pub(super) fn is_applied(&self, version: &str) -> bool {
        self.rows.iter().any(|row| same(&row.version, version))
    }
}

/// Versions are numbers; one tool writes zeros before them.
pub(super) fn same(one: &str, other: &str) -> bool {
    number(one) == number(other) && (one == other || number(one) != u128::MAX)
}

/// How files and record stand to each other.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// The files that are not applied, by index, in order.
    pub(super) pending: Vec<usize>,
    /// Files of which only line ends changed.
    pub(super) line_ends: Vec<String>,
    /// Why nothing may be applied.
    pub(super) problems: Vec<Problem>,
}

/// Why files and history do not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// An applied file has other content now.
    Changed { file_name: String, version: String },
    /// An applied file is not there.
    Missing { name: String, version: String },
    /// Applied files newer than all that are there.
    Ahead { name: String },
    /// A file that is not applied, older than one that is.
    OutOfOrder { file_name: String, newest: String },
    /// The other tool says that it did not come to its end.
    Unfinished { name: String, version: String },
}

/// How strict a step is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rules {
    pub(super) ahead: Strictness,
    pub(super) out_of_order: Strictness,
}

/// Compares.
pub(super) fn stand(format: &dyn Format, files: &[Migration], record: &Record, rules: Rules) -> Standing {
    let mut standing = Standing::default();
    let by_number: BTreeMap<u128, &Migration> = files.iter().map(|file| (number(&file.version), file)).collect();
    let newest_file = files.last().map(|file| number(&file.version));
    let blessed: BTreeMap<&str, &Entry> = record
        .ledger
        .iter()
        .filter(|entry| entry.kind == "file")
        .map(|entry| (entry.version.as_str(), entry))
        .collect();
    for row in &record.rows {
        let number = number(&row.version);
        let name = || row.name.clone().unwrap_or_else(|| row.version.clone());
        if row.unfinished {
            standing.problems.push(Problem::Unfinished { name: name(), version: row.version.clone() });
        }
        match by_number.get(&number) {
            Some(file) => match liken(format, row, file, blessed.get(file.version.as_str()).copied()) {
                Likeness::Same | Likeness::Unknown => {}
                Likeness::LineEnds => standing.line_ends.push(file.file_name.clone()),
                Likeness::Changed if row.unfinished => {}
                Likeness::Changed => standing
                    .problems
                    .push(Problem::Changed { file_name: file.file_name.clone(), version: file.version.clone() }),
            },
            None if newest_file.is_some_and(|newest| newest > number) => {
                standing.problems.push(Problem::Missing { name: name(), version: row.version.clone() });
            }
            None if rules.ahead == Strictness::Refuse => standing.problems.push(Problem::Ahead { name: name() }),
            None => {}
        }
    }
    let applied: std::collections::BTreeSet<u128> = record.rows.iter().map(|row| number(&row.version)).collect();
    for (index, file) in files.iter().enumerate() {
        if !applied.contains(&number(&file.version)) {
            standing.pending.push(index);
        }
    }
    let newest = record.rows.last().map(|row| row.version.clone());
    if let (Some(first), Some(newest)) = (standing.pending.first().map(|index| &files[*index]), newest)
        && number(&first.version) < number(&newest)
        && rules.out_of_order == Strictness::Refuse
    {
        standing.problems.push(Problem::OutOfOrder { file_name: first.file_name.clone(), newest });
    }
    standing
}

/// By the tool's own checksum, and by what the runner noted beside it.
fn liken(format: &dyn Format, row: &Row, file: &Migration, noted: Option<&Entry>) -> Likeness {
    match (format.likeness(row, file), noted) {
        (Likeness::Same | Likeness::LineEnds | Likeness::Unknown, Some(noted)) if noted.note == file.raw() => {
            Likeness::Same
        }
        (Likeness::Same | Likeness::Unknown, Some(noted)) if noted.hash == file.normal() => Likeness::LineEnds,
        (Likeness::Unknown, Some(_)) => Likeness::Changed,
        (likeness, _) => likeness,
    }
}

impl Problem {
    /// Whether the effect is there all the same, so that a probe need not call it drift.
    pub(super) fn is_order(&self) -> bool {
        matches!(self, Self::OutOfOrder { .. })
    }

    pub(super) fn failure(&self, place: &str, database: &str) -> Failure {
        let dir = place.trim_end_matches('/');
        let (code, failure) = match self {
            Self::Changed { file_name, version } => (
                "P0311",
                failure("permanent", format!("{file_name} was changed after it was applied to the database `{database}`"))
                    .with_hint(format!(
                        "restore its old content, and put the change into a new migration; if the change does no harm, say so: \
                         `runner migrate bless {version}`"
                    ))
                    .with_detail("file", format!("{place}{file_name}")),
            ),
            Self::Missing { name, version } => (
                "P0312",
                failure(
                    "permanent",
                    format!("{name} is applied to the database `{database}`, but the file is not in `{dir}` any more"),
                )
                .with_hint("put the file back; an applied migration is never deleted")
                .with_detail("file", format!("{place}{name}"))
                .with_detail("version", version.clone()),
            ),
            Self::Ahead { name } => (
                "P0313",
                failure(
                    "permanent",
                    format!("the database `{database}` is ahead: {name} is applied, and newer than every file in `{dir}`"),
                )
                .with_hint("deploy a release that has it, or set `ahead: allow` to leave it applied")
                .with_detail("file", format!("{place}{name}")),
            ),
            Self::OutOfOrder { file_name, newest } => (
                "P0314",
                failure(
                    "permanent",
                    format!("{file_name} is not applied, but older than number {newest}, which is: it would run out of order"),
                )
                .with_hint("give it a number above all applied ones, or set `out-of-order: allow` if it does what it should all the same")
                .with_detail("file", format!("{place}{file_name}")),
            ),
            Self::Unfinished { name, version } => (
                "P0315",
                failure("permanent", format!("{name} ({version}) was begun by another tool and did not come to its end"))
                    .with_hint(format!(
                        "look at what it did, then say so: `runner migrate resolve {version} --applied` or `--rolled-back`"
                    ))
                    .with_detail("file", format!("{place}{name}")),
            ),
        };
        failure.with_detail("code", code).with_detail("line", 1)
    }
}
