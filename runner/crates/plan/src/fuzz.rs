//! Entry points for the fuzz targets (`fuzz/`): the properties of every text. Compiled only for them and for tests.

use std::{path::PathBuf, sync::Arc};

use serde_json::{Value, json};

use super::{
    ArgumentPattern, EnvGrant, Plan, PlanRequest, PlanSource, PlanStep, StepGrants, environments,
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
    let source = source(text);
    let mut diagnostics = Vec::new();
    let mut failed = |errors: &PlanErrors| {
        assert!(!errors.errors.is_empty(), "refused without a reason");
        for span in errors.errors.iter().filter_map(|error| error.span.clone()) {
            assert!(text.get(span.clone()).is_some(), "{span:?} is not a range of the text");
        }
        diagnostics.extend(errors.diagnostics());
    };
    for environment in [None, Some("test")] {
        match parse(text, environment) {
            Ok(plan) => {
                for step in &plan.steps {
                    assert_eq!(text[step.span.clone()].trim_matches(['"', '\'']), step.id.to_string());
                    let run = "r1-k3x9".parse().expect("it is a run");
                    // It may fail, but must not panic.
                    let _ = step.config(&[].into(), &run, AttemptNumber::FIRST);
                }
                assert!(
                    locate_history(&source, environment, &variable).is_ok(),
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

/// Parses `bytes` as a plan without hosts, writes its long form, and parses that.
///
/// # Panics
/// When the long form is no plan, has another long form, or grants a step something else.
pub fn expanded(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    for environment in [None, Some("test")] {
        let Ok(plan) = parse(text, environment) else { continue };
        if plan.runs_on_hosts() {
            continue;
        }
        let long = plan.expanded_text();
        let again = parse(&long, Some(plan.environment.as_str()))
            .unwrap_or_else(|errors| panic!("the long form is no plan: {errors}\n{long}"));
        assert_eq!(again.expanded_text(), long);
        assert_eq!(steps(&plan).count(), steps(&again).count());
        for (step, repeated) in steps(&plan).zip(steps(&again)) {
            assert_eq!((&step.id, &step.uses), (&repeated.id, &repeated.uses));
            assert_eq!(granted(&step.grants), granted(&repeated.grants), "step {} of {long}", step.id);
        }
    }
}

fn parse(text: &str, environment: Option<&str>) -> Result<Plan, PlanErrors> {
    let release = "v1.10".parse().expect("it is a label");
    Plan::parse(
        source(text),
        &PlanRequest { environment, release: &release, env: &variable, inventory: &crate::no_inventory },
    )
}

fn source(text: &str) -> PlanSource {
    PlanSource { path: PathBuf::from("deploy.yml"), folder: PathBuf::from("/plans/shop"), text: Arc::from(text) }
}

/// The environment in which plans are parsed.
fn variable(name: &str) -> Option<String> {
    match name {
        "EMPTY" => Some(String::new()),
        "TRICK" => Some("${{ secrets.TOKEN }}".to_owned()),
        name => (name.len() % 3 != 0).then(|| format!("sqlite:{name}.db")),
    }
}

fn steps(plan: &Plan) -> impl Iterator<Item = &PlanStep> {
    plan.setup.iter().chain(plan.all_steps())
}

/// What is granted, whatever the plan calls it. Lists have the order of the long form. The password in the URL of a database is
/// not compared: the long form does not have it.
pub(crate) fn granted(grants: &StepGrants) -> Value {
    let sorted = |mut items: Vec<Value>| {
        items.sort_by_key(Value::to_string);
        items
    };
    let dirs = grants.dirs.iter().map(|(name, dir)| json!([name, dir.path, format!("{:?}", dir.access)]));
    let http = grants.http.iter().map(|grant| {
        let headers: Vec<_> = grant.headers.iter().map(|(name, text)| json!([name, text.value.reveal()])).collect();
        json!([grant.origin(), grant.methods, format!("{:?}", grant.network), headers])
    });
    let programs = grants.programs.iter().map(|grant| {
        let pattern = |pattern: &ArgumentPattern| match pattern {
            ArgumentPattern::Exact(text) => json!({ "exact": text }),
            ArgumentPattern::AnyOne | ArgumentPattern::AnyRest => pattern.written().into(),
        };
        grant.arguments.iter().map(pattern).collect::<Value>()
    });
    let env = grants.env.iter().map(|(name, grant)| match grant {
        EnvGrant::Set(text) => json!([name, text.value.reveal()]),
        EnvGrant::SetByStep => json!([name]),
    });
    let databases = grants.databases.iter().map(|(name, grant)| json!([name, grant.url.written]));
    let secrets = grants.secrets.iter();
    json!({
        "dirs": dirs.collect::<Value>(),
        "http": sorted(http.collect()),
        "tcp": sorted(grants.tcp.iter().map(|address| address.as_str().into()).collect()),
        "databases": databases.collect::<Value>(),
        "programs": sorted(programs.collect()),
        "env": env.collect::<Value>(),
        "sockets": grants.sockets.iter().map(|(name, path)| json!([name, path])).collect::<Value>(),
        "renders": grants.renders.iter().map(|(name, dir)| json!([name, dir.path])).collect::<Value>(),
        "secrets": secrets.map(|(name, grant)| json!([name, grant.value.reveal(), format!("{:?}", grant.access)])).collect::<Value>(),
    })
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
        testing::corpus::replay("expanded", super::expanded);
        testing::corpus::replay("plan", |bytes| {
            super::expanded(bytes);
            for diagnostic in super::plan(bytes) {
                assert!(render_diagnostic(&diagnostic, ColorMode::Off).starts_with("error[P01"));
            }
        });
    }
}
