//! Entry points for the fuzz targets (`fuzz/`): the properties of every text. Compiled only for them and for tests.

use std::{path::PathBuf, sync::Arc};

use super::{
    Plan, PlanRequest, PlanSource, environments,
    error::PlanErrors,
    expression::{self, TemplatePart},
    locate_history,
};
use contract::AttemptNumber;
use contract::diagnostic::Diagnostic;

/// Parses `bytes` as a plan, for the only environment and for one called `test`. Returns the errors as users see them.
///
/// # Panics
/// When an error points outside of the text, or a step's name is not at its span.
#[must_use]
pub fn plan(bytes: &[u8]) -> Vec<Diagnostic> {
    let Ok(text) = str::from_utf8(bytes) else { return Vec::new() };
    let source =
        PlanSource { path: PathBuf::from("deploy.yml"), folder: PathBuf::from("/plans/shop"), text: Arc::from(text) };
    let env = |name: &str| match name {
        "EMPTY" => Some(String::new()),
        "TRICK" => Some("${{ secrets.TOKEN }}".to_owned()),
        name => (name.len() % 3 != 0).then(|| format!("sqlite:{name}.db")),
    };
    let release = "v1.10".parse().expect("it is a label");
    let mut diagnostics = Vec::new();
    let mut failed = |errors: &PlanErrors| {
        assert!(!errors.errors.is_empty(), "refused without a reason");
        for span in errors.errors.iter().filter_map(|error| error.span.clone()) {
            assert!(text.get(span.clone()).is_some(), "{span:?} is not a range of the text");
        }
        diagnostics.extend(errors.diagnostics());
    };
    for environment in [None, Some("test")] {
        match Plan::parse(source.clone(), &PlanRequest { environment, release: &release, env: &env }) {
            Ok(plan) => {
                for step in &plan.steps {
                    assert_eq!(text[step.span.clone()].trim_matches(['"', '\'']), step.id.to_string());
                    let run = "r1-k3x9".parse().expect("it is a run");
                    // It may fail, but must not panic.
                    let _ = step.config(&[].into(), &run, AttemptNumber::FIRST);
                }
                assert!(
                    locate_history(&source, environment, &env).is_ok(),
                    "the state of a valid plan cannot be located"
                );
            }
            Err(errors) => failed(&errors),
        }
    }
    if let Err(errors) = environments(&source) {
        failed(&errors);
    }
    diagnostics
}

/// Parses `bytes` as a string with lookups; after a NUL follows its source in the plan.
///
/// # Panics
/// When a span is outside of the source, or when the parts, written and parsed again, differ.
pub fn expression(bytes: &[u8]) {
    const START: usize = 7;
    let Ok(text) = str::from_utf8(bytes) else { return };
    let (text, written) = text.split_once('\0').unwrap_or((text, text));
    let is_within = |span: &std::ops::Range<usize>| {
        span.start >= START && written.get(span.start - START..span.end - START).is_some()
    };
    match expression::parse(text, written, START) {
        Ok(parts) => {
            let mut again = String::new();
            for part in &parts {
                match part {
                    TemplatePart::Text(literal) => again.push_str(&literal.replace("${{", "$${{")),
                    TemplatePart::Lookup { lookup, span } => {
                        assert!(is_within(span), "{span:?} is not in the source");
                        again.push_str(&format!("${{{{ {lookup} }}}}"));
                    }
                }
            }
            let bare = |parts: Vec<TemplatePart>| -> Vec<_> {
                let bare = |part| match part {
                    TemplatePart::Text(literal) => (None, literal),
                    TemplatePart::Lookup { lookup, .. } => (Some(lookup), String::new()),
                };
                parts.into_iter().map(bare).collect()
            };
            let reparsed = expression::parse(&again, &again, 0).expect("parsed lookups can be parsed again");
            assert_eq!(bare(reparsed), bare(parts), "of {again:?}");
        }
        Err(error) => {
            let spans = error.span.iter();
            assert!(spans.clone().all(is_within), "{error:?} does not point into the source");
        }
    }
}

#[cfg(test)]
mod tests {
    use contract::render::{ColorMode, render_diagnostic};

    #[test]
    fn the_corpus_holds() {
        testing::corpus::replay("expression", super::expression);
        testing::corpus::replay("plan", |bytes| {
            for diagnostic in super::plan(bytes) {
                assert!(render_diagnostic(&diagnostic, ColorMode::Off).starts_with("error[P01"));
            }
        });
    }
}
