//! Parsed plans, and the errors of invalid ones. Snapshots are what users see.

mod bad_grants;
mod bad_lookups;
mod bad_text;
mod bad_values;
mod good;
mod hosts;
mod lookups;
mod naive_grants;
mod pages;
mod property;
mod rollouts;
mod schema;
mod short_forms;

use std::{path::PathBuf, sync::Arc};

use expect_test::Expect;

use super::{InventorySource, InventoryText, Plan, PlanErrors, PlanRequest, PlanSource};
use contract::Label;
use contract::diagnostic::{Diagnostic, ErrorCode};
use contract::render::{ColorMode, render_diagnostic};

/// The shortest valid plan; tests change it.
const SMALL: &str = "version: 1\napp: shop\nsteps:\n  pull: { uses: pull }\n";

fn source(text: &str) -> PlanSource {
    PlanSource { path: PathBuf::from("deploy.yml"), folder: PathBuf::from("/plans/shop"), text: Arc::from(text) }
}

/// Environment variables that are set in tests.
fn env(name: &str) -> Option<String> {
    match name {
        "HOME" => Some("/home/ada".to_owned()),
        "DATABASE_URL" | "TEST_DATABASE_URL" => Some("sqlite:secret.db".to_owned()),
        "TOKEN" | "DEPLOY_TOKEN" => Some("s3cr3t".to_owned()),
        "EMPTY" => Some(String::new()),
        "TRICK" => Some("${{ secrets.TOKEN }}".to_owned()),
        _ => None,
    }
}

/// Inventories in tests: one file, and what a program is told to print.
fn inventory(source: &InventorySource) -> Result<InventoryText, Diagnostic> {
    let (name, text) = match source {
        InventorySource::File(path) if path.ends_with("hosts.yml") => {
            ("hosts.yml", "- { at: local, name: web-3, vars: { root: ./three } }\n- local\n".to_owned())
        }
        InventorySource::File(path) => {
            return Err(Diagnostic::new(ErrorCode::InventoryUnreadable, format!("can't read {}", path.display()))
                .with_cause("no such file")
                .with_hint("create it"));
        }
        InventorySource::Program { arguments, env, .. } => {
            let values: Vec<_> = env.iter().map(|(name, value)| format!("{name}={}", value.reveal())).collect();
            (arguments[0].as_str(), arguments[1..].join("\n").replace("ENV", &values.join(" ")))
        }
    };
    Ok(InventoryText { name: name.to_owned(), text: text.into() })
}

fn label() -> Label {
    "v1.10".parse().unwrap()
}

fn parse_for(text: &str, environment: Option<&str>) -> Result<Plan, PlanErrors> {
    Plan::parse(source(text), &PlanRequest { environment, release: &label(), env: &env, inventory: &inventory })
}

fn parse(text: &str) -> Result<Plan, PlanErrors> {
    parse_for(text, None)
}

fn good(text: &str) -> Plan {
    parse(text).unwrap_or_else(|errors| panic!("{}", rendered(&errors)))
}

fn rendered(errors: &PlanErrors) -> String {
    errors
        .diagnostics()
        .iter()
        .map(|diagnostic| render_diagnostic(diagnostic, ColorMode::Off))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Compares the errors of an invalid plan, as users see them.
fn check(text: &str, expect: Expect) {
    expect.assert_eq(&rendered(&parse(text).expect_err("the plan is invalid")));
}

/// The same as [`check`], for one step `a` with these entries, in flow or block style (indented by four).
fn check_step(entries: &str, expect: Expect) {
    check(&format!("version: 1\napp: shop\nsteps:\n  a:\n    uses: pull\n{entries}\n"), expect);
}
