//! The applied migrations, and their comparison with the files. The comparison is pure.

use std::collections::BTreeMap;

use super::{
    super::sql::TextRow,
    files::{Migration, version_number, version_order},
    format::{ChecksumMatch, HistoryRow, MigrationFormat},
};
use crate::failure;
use contract::{
    error_code::ErrorCode,
    step::{FailureKind, StepFailure},
};

/// The policy for a difference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HistoryMismatchPolicy {
    /// Stop.
    #[default]
    Refuse,
    /// Continue.
    Allow,
}

/// A row of the ledger.
#[derive(Clone, Debug)]
pub(super) struct LedgerRow {
    pub(super) kind: String,
    pub(super) version: String,
    pub(super) number: usize,
    pub(super) state: String,
    pub(super) hash: String,
    pub(super) note: String,
    pub(super) epoch: u64,
}

/// All records in the database.
#[derive(Clone, Debug, Default)]
pub(super) struct MigrationHistory {
    pub(super) rows: Vec<HistoryRow>,
    pub(super) ledger: Vec<LedgerRow>,
}

impl MigrationHistory {
    pub(super) fn new(rows: Vec<TextRow>, ledger: Vec<TextRow>) -> Self {
        let text = |row: &TextRow, at: usize| row.get(at).cloned().flatten();
        let rows = rows.iter().map(|row| HistoryRow {
            version: text(row, 0).unwrap_or_default(),
            name: text(row, 1),
            checksum: text(row, 2),
            is_unfinished: matches!(text(row, 3).as_deref(), Some("0" | "f")),
        });
        let ledger = ledger.iter().map(|row| LedgerRow {
            kind: text(row, 0).unwrap_or_default(),
            version: text(row, 1).unwrap_or_default(),
            number: text(row, 2).and_then(|number| number.parse().ok()).unwrap_or(0),
            state: text(row, 3).unwrap_or_default(),
            hash: text(row, 4).unwrap_or_default(),
            note: text(row, 5).unwrap_or_default(),
            epoch: text(row, 6).and_then(|epoch| epoch.parse().ok()).unwrap_or(0),
        });
        let mut rows: Vec<_> = rows.collect();
        rows.sort_by_cached_key(|row| version_order(&row.version));
        Self { rows, ledger: ledger.collect() }
    }

    pub(super) fn fence_epoch(&self, resource: &str) -> u64 {
        let own = self.ledger.iter().find(|entry| entry.kind == "fence" && entry.version == resource);
        own.map_or(0, |entry| entry.epoch)
    }

    /// The progress of a file without a transaction.
    pub(super) fn recorded_statements(&self, version: &str) -> BTreeMap<usize, &LedgerRow> {
        let own = self.ledger.iter().filter(|entry| entry.kind == "statement" && entry.version == version);
        own.map(|entry| (entry.number, entry)).collect()
    }

    pub(super) fn is_applied(&self, version: &str) -> bool {
        self.rows.iter().any(|row| same_version(&row.version, version))
    }
}

/// Versions are numbers; one tool pads them with zeros.
pub(super) fn same_version(one: &str, other: &str) -> bool {
    version_number(one) == version_number(other) && (one == other || version_number(one) != u128::MAX)
}

/// The difference between files and history.
#[derive(Debug, Default)]
pub(super) struct HistoryDiff {
    /// The indexes of the files to apply, in order.
    pub(super) pending: Vec<usize>,
    /// Files of which only line endings changed.
    pub(super) line_endings_changed: Vec<String>,
    /// Problems that prevent any migration.
    pub(super) problems: Vec<HistoryProblem>,
}

/// A contradiction between files and history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HistoryProblem {
    /// The content of an applied file has changed.
    Changed { file_name: String, version: String },
    /// An applied file is missing.
    Missing { name: String, version: String },
    /// The history has applied files that are newer than all local ones.
    Ahead { name: String },
    /// A file is older than an applied one but not applied.
    OutOfOrder { file_name: String, newest: String },
    /// The other tool did not finish it.
    Unfinished { name: String, version: String },
}

/// How strict the comparison is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HistoryRules {
    pub(super) ahead: HistoryMismatchPolicy,
    pub(super) out_of_order: HistoryMismatchPolicy,
}

/// Compares files and history.
pub(super) fn diff_history(
    format: &dyn MigrationFormat,
    files: &[Migration],
    history: &MigrationHistory,
    rules: HistoryRules,
) -> HistoryDiff {
    let mut diff = HistoryDiff::default();
    let by_number: BTreeMap<u128, &Migration> =
        files.iter().map(|file| (version_number(&file.version), file)).collect();
    let newest_file = files.last().map(|file| version_number(&file.version));
    let file_notes: BTreeMap<&str, &LedgerRow> = history
        .ledger
        .iter()
        .filter(|entry| entry.kind == "file")
        .map(|entry| (entry.version.as_str(), entry))
        .collect();
    for row in &history.rows {
        let number = version_number(&row.version);
        let name = || row.name.clone().unwrap_or_else(|| row.version.clone());
        if row.is_unfinished {
            diff.problems.push(HistoryProblem::Unfinished { name: name(), version: row.version.clone() });
        }
        match by_number.get(&number) {
            Some(file) => {
                match match_checksum_with_note(format, row, file, file_notes.get(file.version.as_str()).copied()) {
                    ChecksumMatch::Same | ChecksumMatch::NoChecksum => {}
                    ChecksumMatch::LineEndingsDiffer => diff.line_endings_changed.push(file.file_name.clone()),
                    ChecksumMatch::Different if row.is_unfinished => {}
                    ChecksumMatch::Different => diff.problems.push(HistoryProblem::Changed {
                        file_name: file.file_name.clone(),
                        version: file.version.clone(),
                    }),
                }
            }
            None if newest_file.is_some_and(|newest| newest > number) => {
                diff.problems.push(HistoryProblem::Missing { name: name(), version: row.version.clone() });
            }
            None if rules.ahead == HistoryMismatchPolicy::Refuse => {
                diff.problems.push(HistoryProblem::Ahead { name: name() })
            }
            None => {}
        }
    }
    let applied: std::collections::BTreeSet<u128> =
        history.rows.iter().map(|row| version_number(&row.version)).collect();
    for (index, file) in files.iter().enumerate() {
        if !applied.contains(&version_number(&file.version)) {
            diff.pending.push(index);
        }
    }
    let newest = history.rows.last().map(|row| row.version.clone());
    if let (Some(first), Some(newest)) = (diff.pending.first().map(|index| &files[*index]), newest)
        && version_number(&first.version) < version_number(&newest)
        && rules.out_of_order == HistoryMismatchPolicy::Refuse
    {
        diff.problems.push(HistoryProblem::OutOfOrder { file_name: first.file_name.clone(), newest });
    }
    diff
}

/// Compares the tool's own checksum, and the runner's note of it.
fn match_checksum_with_note(
    format: &dyn MigrationFormat,
    row: &HistoryRow,
    file: &Migration,
    note: Option<&LedgerRow>,
) -> ChecksumMatch {
    match (format.match_checksum(row, file), note) {
        (ChecksumMatch::Same | ChecksumMatch::LineEndingsDiffer | ChecksumMatch::NoChecksum, Some(noted))
            if noted.note == file.raw_sha256() =>
        {
            ChecksumMatch::Same
        }
        (ChecksumMatch::Same | ChecksumMatch::NoChecksum, Some(noted)) if noted.hash == file.normalized_sha256() => {
            ChecksumMatch::LineEndingsDiffer
        }
        (ChecksumMatch::NoChecksum, Some(_)) => ChecksumMatch::Different,
        (checksum_match, _) => checksum_match,
    }
}

impl HistoryProblem {
    /// Whether the effect is there anyway, so that a probe need not report drift.
    pub(super) fn is_out_of_order(&self) -> bool {
        matches!(self, Self::OutOfOrder { .. })
    }

    pub(super) fn to_failure(&self, dir_prefix: &str, database: &str) -> StepFailure {
        let dir = dir_prefix.trim_end_matches('/');
        let (code, failure) = match self {
            Self::Changed { file_name, version } => (
                ErrorCode::MigrationChanged,
                failure(FailureKind::Permanent, format!("{file_name} changed after it was applied to the database `{database}`"))
                    .with_hint(format!(
                        "restore the file and move the change to a new migration; if the change is harmless, run \
                         `runner migrate accept {version}`"
                    ))
                    .with_detail("file", format!("{dir_prefix}{file_name}")),
            ),
            Self::Missing { name, version } => (
                ErrorCode::MigrationMissing,
                failure(
                    FailureKind::Permanent,
                    format!("{name} was applied to the database `{database}`, but the file is missing from `{dir}`"),
                )
                .with_hint("restore the file; never delete an applied migration")
                .with_detail("file", format!("{dir_prefix}{name}"))
                .with_detail("version", version.clone()),
            ),
            Self::Ahead { name } => (
                ErrorCode::DatabaseAhead,
                failure(
                    FailureKind::Permanent,
                    format!("the database `{database}` is ahead: {name} was applied to it, and is newer than every file in `{dir}`"),
                )
                .with_hint("deploy a release that contains it, or set `ahead: allow` to leave it applied")
                .with_detail("file", format!("{dir_prefix}{name}")),
            ),
            Self::OutOfOrder { file_name, newest } => (
                ErrorCode::MigrationOutOfOrder,
                failure(
                    FailureKind::Permanent,
                    format!("{file_name} would run out of order: number {newest} is newer and already applied"),
                )
                .with_hint("give it a number above all applied ones, or set `out-of-order: allow` if the order does not matter")
                .with_detail("file", format!("{dir_prefix}{file_name}")),
            ),
            Self::Unfinished { name, version } => (
                ErrorCode::MigrationUnfinished,
                failure(FailureKind::Permanent, format!("another tool began {name} ({version}) and did not finish it"))
                    .with_hint(format!(
                        "check what it did, then run `runner migrate resolve {version} --applied` or `--rolled-back`"
                    ))
                    .with_detail("file", format!("{dir_prefix}{name}")),
            ),
        };
        failure.with_code(code).with_detail("line", 1)
    }
}
