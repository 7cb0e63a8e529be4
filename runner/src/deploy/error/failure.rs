//! What a module's failure says to a user: its code, its place in the user's files, and one line.

use std::path::{Component, Path};

use contract::{
    diagnostic::{Diagnostic, ErrorCode, SourceLocation},
    step::StepFailure,
};
use plan::PlanStep;

/// The error code that a migration failure states. Other codes that a module states are ignored.
pub(in crate::deploy) fn migration_code(failure: &StepFailure) -> Option<ErrorCode> {
    const STATED: [ErrorCode; 12] = [
        ErrorCode::MigrationChanged,
        ErrorCode::MigrationMissing,
        ErrorCode::DatabaseAhead,
        ErrorCode::MigrationOutOfOrder,
        ErrorCode::MigrationUnfinished,
        ErrorCode::NewerAttemptMigrated,
        ErrorCode::MigrationLockLost,
        ErrorCode::StatementChanged,
        ErrorCode::StatementInDoubt,
        ErrorCode::MigrationLockHeld,
        ErrorCode::DatabaseUnreachable,
        ErrorCode::TransactionPooler,
    ];
    failure.stated_code().filter(|code| STATED.contains(code))
}

/// The diagnostic of a migration failure, for the `runner migrate` commands.
#[must_use]
pub fn migration_diagnostic(failure: &StepFailure) -> Diagnostic {
    let code = migration_code(failure).unwrap_or(ErrorCode::StepFailed);
    let diagnostic = Diagnostic::new(code, failure_summary(failure));
    match &failure.hint {
        Some(hint) => diagnostic.with_hint(hint.clone()),
        None => diagnostic,
    }
}

/// The location of a failure in the user's files. The module states it as `<granted directory>/<path>`, line and
/// column.
pub(in crate::deploy) fn failure_location(failure: &StepFailure, step: &PlanStep) -> Option<SourceLocation> {
    let (grant, inside) = step.grants.dir_of(failure.details.get("file")?.as_str()?)?;
    let is_inside = |part: Component<'_>| matches!(part, Component::Normal(_));
    if inside.is_empty() || !Path::new(inside).components().all(is_inside) {
        return None;
    }
    let number =
        |name: &str| failure.details.get(name).and_then(serde_json::Value::as_u64).filter(|number| *number > 0);
    Some(SourceLocation { path: grant.path.join(inside), line: number("line"), column: number("column") })
}

/// A failure in one line: location and message.
pub(in crate::deploy) fn failure_summary(failure: &StepFailure) -> String {
    let text = |name: &str| failure.details.get(name).and_then(serde_json::Value::as_str).map(str::to_owned);
    let line = failure.details.get("line").and_then(serde_json::Value::as_u64);
    match (text("file"), line) {
        (Some(file), Some(line)) => format!("{file}:{line}: {}", failure.message),
        // A message that already names the file needs no path.
        (Some(file), None) if !failure.message.contains(file.rsplit('/').next().unwrap_or(&file)) => {
            format!("{file}: {}", failure.message)
        }
        (Some(_), None) => failure.message.clone(),
        (None, _) => failure.message.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use contract::step::FailureKind;
    use plan::{Plan, PlanRequest, PlanSource};

    #[test]
    fn a_failure_is_in_a_file_of_a_granted_directory_or_nowhere() {
        let text = "version: 1\napp: shop\nsteps:\n  a: { uses: pull, grants: { dirs: { db: ./migrations } } }\n";
        let source = PlanSource { path: "deploy.yml".into(), folder: "/plans/shop".into(), text: text.into() };
        let request = PlanRequest {
            environment: None,
            release: &"r1".parse().unwrap(),
            env: &|_| None,
            inventory: &plan::no_inventory,
        };
        let plan = Plan::parse(source, &request).unwrap();
        let spot = |file: &str| {
            let failure =
                StepFailure::new(FailureKind::Permanent, "no").with_detail("file", file).with_detail("line", json!(3));
            super::failure_location(&failure.with_detail("column", json!(0)), &plan.steps[0])
        };
        let path = "/plans/shop/migrations/new/7.sql".into();
        assert_eq!(spot("db/new/7.sql"), Some(SourceLocation { path, line: Some(3), column: None }));
        // A second slash leads nowhere else.
        let inside = spot("db//etc/passwd").unwrap().path;
        assert_eq!(inside, std::path::Path::new("/plans/shop/migrations/etc/passwd"));
        for file in ["7.sql", "other/7.sql", "db/../../etc/passwd", "/etc/passwd", "db/", ""] {
            assert_eq!(spot(file), None, "{file}");
        }
    }
}
