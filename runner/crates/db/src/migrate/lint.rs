//! Finds unsafe statements in migrations before anything runs: with squawk's rules on PostgreSQL, with a few rules over
//! sqlparser elsewhere.
//!
//! Invariant: a finding never stops a deployment by itself; the plan decides. The linter skips what it can't parse: the
//! database will report it. Deliberately absent: style rules.

use std::path::PathBuf;

use sqlparser::{
    ast::{AlterTableOperation, ColumnOption, ObjectType, Statement as Ast, TableConstraint},
    dialect::{Dialect, MySqlDialect, SQLiteDialect},
    parser::Parser,
};
use squawk_linter::{Linter, Rule};
use squawk_syntax::SourceFile;

use super::{
    super::sql::{SqlEngine, SqlPosition},
    files::Migration,
    section::{MigrationSection, section_statements},
};

/// The effect of a finding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LintLevel {
    /// It is reported.
    #[default]
    Warn,
    /// It stops the deployment before the first step.
    Deny,
    /// The linter does not run.
    Off,
}

/// A finding.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LintFinding {
    /// The file as the plan names it, such as `migrations/0007_orders.sql`.
    pub file: String,
    /// Its path on the host that was asked.
    pub path: PathBuf,
    /// The line, from 1.
    pub line: u64,
    /// The name of the rule, such as `ban-drop-column`.
    pub rule: String,
    /// The risk.
    pub message: String,
    /// The safer way.
    pub help: Option<String>,
}

/// The rules of squawk that are about harm, not about style.
const SQUAWK_RULES: [Rule; 18] = [
    Rule::RequireConcurrentIndexCreation,
    Rule::RequireConcurrentIndexDeletion,
    Rule::ConstraintMissingNotValid,
    Rule::AddingFieldWithDefault,
    Rule::AddingForeignKeyConstraint,
    Rule::ChangingColumnType,
    Rule::AddingNotNullableField,
    Rule::AddingSerialPrimaryKeyField,
    Rule::RenamingColumn,
    Rule::RenamingTable,
    Rule::DisallowedUniqueConstraint,
    Rule::BanDropDatabase,
    Rule::BanDropColumn,
    Rule::BanDropTable,
    Rule::BanDropNotNull,
    Rule::AddingRequiredField,
    Rule::BanConcurrentIndexCreationInTransaction,
    Rule::BanTruncateCascade,
];

/// Checks a file.
pub(super) fn lint_migration(
    engine: SqlEngine,
    migration: &Migration,
    dir_prefix: &str,
    skips: &[String],
) -> Vec<LintFinding> {
    let found = match engine {
        SqlEngine::Postgres => lint_with_squawk(migration),
        SqlEngine::Mysql => lint_with_sqlparser(engine, &MySqlDialect {}, migration),
        SqlEngine::Sqlite => lint_with_sqlparser(engine, &SQLiteDialect {}, migration),
    };
    let suppressions = LintSuppressions::parse(&migration.text);
    let file = format!("{dir_prefix}{}", migration.file_name);
    let kept =
        found.into_iter().filter(|found| !skips.contains(&found.rule) && !suppressions.covers(found.line, &found.rule));
    kept.map(|found| LintFinding { file: file.clone(), ..found }).collect()
}

/// Exceptions in comments: `-- pawl: allow <rule>, …` for the next statement or its own line; `allow-file` for the
/// whole file.
struct LintSuppressions {
    /// The line, and the last line that it covers.
    ranges: Vec<(u64, u64, Vec<String>)>,
}

impl LintSuppressions {
    fn parse(text: &str) -> Self {
        let mut lines = Vec::new();
        let all: Vec<&str> = text.lines().collect();
        for (index, line) in all.iter().enumerate() {
            let Some((_, rest)) = line.split_once("-- pawl: allow") else { continue };
            let is_file = rest.starts_with("-file");
            let rules = rest.trim_start_matches("-file").split(|c: char| c == ',' || c.is_whitespace());
            let rules: Vec<String> = rules.filter(|rule| !rule.is_empty()).map(str::to_owned).collect();
            let number = index as u64 + 1;
            // The next statement may span lines, up to the first that ends one.
            let end = all.iter().enumerate().skip(index + 1).find(|(_, line)| line.trim_end().ends_with(';'));
            let (from, to) =
                if is_file { (0, u64::MAX) } else { (number, end.map_or(u64::MAX, |(end, _)| end as u64 + 1)) };
            lines.push((from, to, rules));
        }
        Self { ranges: lines }
    }

    fn covers(&self, line: u64, rule: &str) -> bool {
        self.ranges.iter().any(|(from, to, rules)| {
            (*from..=*to).contains(&line) && (rules.is_empty() || rules.iter().any(|one| one == rule))
        })
    }
}

fn lint_with_squawk(migration: &Migration) -> Vec<LintFinding> {
    // A parser is not a server: a file that it can't parse must not stop the deployment.
    let sql = migration.up_sql();
    let linted = std::panic::catch_unwind(|| {
        let mut linter = Linter::from(SQUAWK_RULES);
        linter.settings.assume_in_transaction = !migration.no_transaction;
        linter.lint(&SourceFile::parse(sql), sql)
    });
    let found = linted.unwrap_or_default();
    let one = |violation: squawk_linter::Violation| {
        let at = migration.up_range.start + usize::from(violation.text_range.start());
        LintFinding {
            file: String::new(),
            path: PathBuf::new(),
            line: SqlPosition::at(&migration.text, at).line,
            rule: violation.code.to_string(),
            message: violation.message,
            help: violation.help,
        }
    };
    found.into_iter().map(one).collect()
}

fn lint_with_sqlparser(engine: SqlEngine, dialect: &dyn Dialect, migration: &Migration) -> Vec<LintFinding> {
    let section = MigrationSection::up(migration);
    let Ok(statements) = section_statements(engine, &section) else { return Vec::new() };
    let mut found = Vec::new();
    let mut created_tables: Vec<String> = Vec::new();
    for statement in statements {
        let sql = &migration.text[statement.range.clone()];
        let Ok(asts) = Parser::parse_sql(dialect, sql) else { continue };
        let line = SqlPosition::at(&migration.text, statement.range.start).line;
        for ast in &asts {
            if let Ast::CreateTable(table) = ast {
                created_tables.push(table.name.to_string());
            }
            for (rule, message, help) in check_statement(ast, &created_tables) {
                found.push(LintFinding {
                    file: String::new(),
                    path: PathBuf::new(),
                    line,
                    rule: rule.to_owned(),
                    message: message.to_owned(),
                    help: Some(help.to_owned()),
                });
            }
        }
    }
    found
}

type LintRuleHit = (&'static str, &'static str, &'static str);

const DROP_TABLE: LintRuleHit =
    ("ban-drop-table", "Dropping a table may break the live release.", "Drop it when no release uses it anymore.");

/// The risks of a statement. Tables that the same file creates do not count.
#[expect(clippy::wildcard_enum_match_arm, reason = "the enum is that of sqlparser")]
fn check_statement(ast: &Ast, created_tables: &[String]) -> Vec<LintRuleHit> {
    match ast {
        Ast::Drop { object_type: ObjectType::Table, .. } => vec![DROP_TABLE],
        Ast::Drop { object_type: ObjectType::Database | ObjectType::Schema, .. } => {
            vec![(
                "ban-drop-database",
                "Dropping a database destroys everything in it.",
                "Drop it by hand, not in a migration.",
            )]
        }
        Ast::Truncate { .. } => {
            vec![("ban-truncate", "Truncating a table destroys its rows.", "Delete the rows you mean, with WHERE.")]
        }
        Ast::Delete(delete) if delete.selection.is_none() && delete.limit.is_none() => {
            vec![(
                "unbounded-delete",
                "A DELETE without WHERE deletes every row.",
                "Name the rows with WHERE, or write WHERE 1 = 1.",
            )]
        }
        Ast::Update(update) if update.selection.is_none() => {
            vec![(
                "unbounded-update",
                "An UPDATE without WHERE rewrites every row.",
                "Name the rows with WHERE, or write WHERE 1 = 1.",
            )]
        }
        Ast::AlterTable(alter) if !created_tables.contains(&alter.name.to_string()) => {
            alter.operations.iter().filter_map(check_alter_operation).collect()
        }
        _ => Vec::new(),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the enum is that of sqlparser")]
fn check_alter_operation(operation: &AlterTableOperation) -> Option<LintRuleHit> {
    match operation {
        AlterTableOperation::DropColumn { .. } => Some((
            "ban-drop-column",
            "Dropping a column may break the live release.",
            "Drop it when no release uses it anymore.",
        )),
        AlterTableOperation::RenameColumn { .. } => Some((
            "renaming-column",
            "Renaming a column breaks the live release.",
            "Add a new one, fill it, and drop the old one later.",
        )),
        AlterTableOperation::RenameTable { .. } => Some((
            "renaming-table",
            "Renaming a table breaks the live release.",
            "Create a view with the old name, or copy the table.",
        )),
        AlterTableOperation::ModifyColumn { .. } | AlterTableOperation::ChangeColumn { .. } => Some((
            "changing-column-type",
            "Changing a column rewrites the table and blocks writers while it runs.",
            "Add a new one, fill it in batches, and drop the old one later.",
        )),
        AlterTableOperation::AddColumn { column_def, .. } => {
            let has =
                |wanted: fn(&ColumnOption) -> bool| column_def.options.iter().any(|option| wanted(&option.option));
            let is_required = has(|option| matches!(option, ColumnOption::NotNull));
            (is_required && !has(|option| matches!(option, ColumnOption::Default(_)))).then_some((
                "adding-required-field",
                "A new NOT NULL column without a default breaks the live release's inserts.",
                "Give it a default, or make it nullable first.",
            ))
        }
        AlterTableOperation::AddConstraint { constraint: TableConstraint::ForeignKey(_), .. } => Some((
            "adding-foreign-key-constraint",
            "A new foreign key scans the whole table and blocks writers while it runs.",
            "Add it when there is little traffic.",
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The schema of `migrate` lists the rules, so that a misspelled one is found.
    #[test]
    fn schema_lists_each_rule_that_can_be_skipped() {
        let schema: serde_json::Value =
            serde_json::from_str(include_str!("../../../../../steps/migrate/config.schema.json")).unwrap();
        let listed = schema["properties"]["lint-skip"]["items"]["enum"].as_array().unwrap();
        let listed: Vec<&str> = listed.iter().map(|rule| rule.as_str().unwrap()).collect();
        for rule in SQUAWK_RULES {
            assert!(listed.contains(&rule.to_string().as_str()), "{rule}");
        }
        let unsafe_sql = "DROP TABLE a; DROP SCHEMA a; DELETE FROM a; UPDATE a SET b = 1; TRUNCATE TABLE a; \
            ALTER TABLE a DROP COLUMN b; ALTER TABLE a RENAME COLUMN b TO c; ALTER TABLE a RENAME TO b; \
            ALTER TABLE a ADD COLUMN b INT NOT NULL; ALTER TABLE a ADD CONSTRAINT c FOREIGN KEY (b) REFERENCES d (e)";
        let found: Vec<_> = Parser::parse_sql(&MySqlDialect {}, unsafe_sql)
            .unwrap()
            .iter()
            .flat_map(|ast| check_statement(ast, &[]))
            .collect();
        assert_eq!(found.len(), 10, "{found:?}");
        for (rule, _, _) in found {
            assert!(listed.contains(&rule), "{rule}");
        }
    }
}
