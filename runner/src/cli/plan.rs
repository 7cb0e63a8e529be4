//! `runner plan`: what a deployment would do.

use std::{fmt::Write as _, io::Write};

use serde_json::{Value, json};

use super::{
    places,
    screen::Screen,
    selection,
    source::{PlanArgs, ReleaseArgs},
};
use crate::{
    deploy::{Foreseen, Prepared, Ready, Wanted, foresee},
    report::{self, Form, json, words},
};
use contract::diagnostic::{Diagnostic, Exit};
use contract::text;
use journal::{
    Redactor,
    event::{Decision, Header},
};
use plan::{Access, ArgumentPattern, EnvGrant, Grants, SecretAccess, Trust};
use sandbox::Need;
use state::Store;

/// Arguments of `plan`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    plan: PlanArgs,
    #[command(flatten)]
    release: ReleaseArgs,
    #[command(flatten)]
    selection: selection::Args,
}

/// Shows for each step what would be decided, what it would change, and what it may reach.
///
/// # Errors
/// What keeps a deployment from beginning.
pub(super) async fn run(args: &Args, screen: &Screen, out: &mut dyn Write) -> Result<Exit, Vec<Diagnostic>> {
    let (plan, label) = args.plan.plan(&args.release)?;
    screen.mask(plan.secrets.values());
    let store = Store::new(&plan.state, &plan.app, &plan.environment);
    let prepared = Prepared::new(plan, Wanted { label, digest: None }, places::setting(screen.tell_beside())).await?;
    let (header, foreseen) = foresee(&prepared, &store, &args.selection.orders()).await?;
    // A probe may repeat what a program printed.
    let redactor = Redactor::new(prepared.plan.secrets.values());
    let answer = match screen.form() {
        Form::Json => json::line(&redactor.json(as_json(&header, &foreseen, &prepared))) + "\n",
        Form::Text => redactor.text(&as_text(&header, &foreseen, &prepared)),
    };
    report::emit(out, &answer).map_err(|error| vec![error])?;
    Ok(Exit::Success)
}

fn as_text(header: &Header, foreseen: &[Foreseen], prepared: &Prepared) -> String {
    let mut lines = format!("{} {} → {} (nothing is done)\n", header.app, header.release.label, header.environment);
    let width = foreseen.iter().map(|one| text::columns(&report::label(&one.place))).max().unwrap_or(0);
    for (one, ready) in foreseen.iter().zip(&prepared.steps) {
        let (word, why) = match &one.decision {
            Some(decision) => (words::decision(decision), words::because(decision)),
            None => ("?", String::new()),
        };
        let label = report::label(&one.place);
        let phase = words::phase(one.phase);
        let line = format!("  {word:<6} {label:<width$}  {phase:<7}  {}", text::visible(&why));
        let _ = writeln!(lines, "{}", line.trim_end());
        for change in &one.changes {
            let detail = if change.detail.is_empty() { String::new() } else { format!("  ({})", change.detail) };
            let _ = writeln!(
                lines,
                "           {} {}{}",
                change.action,
                text::visible(&change.subject),
                text::visible(&detail)
            );
        }
        if let Some(unknown) = &one.unknown {
            let _ = writeln!(lines, "           not known yet: {}", text::visible(unknown));
        }
        lines += &reaches(ready);
    }
    for (hook, steps) in hooks(prepared) {
        for ready in steps {
            let _ = writeln!(lines, "  hook   {}  {hook}", report::label(&ready.place));
            lines += &reaches(ready);
        }
    }
    lines
}

/// What a step needs and may reach, a line each.
fn reaches(ready: &Ready) -> String {
    let mut lines = String::new();
    for need in needs(ready) {
        let _ = writeln!(lines, "           needs {}", text::visible(&need));
    }
    for grant in reach(&ready.step.grants) {
        let _ = writeln!(lines, "           may reach {}", text::visible(&grant));
    }
    if ready.step.trust == Trust::Host {
        let _ = writeln!(lines, "           TRUST: HOST — what it is granted is as strong as this machine's user");
    }
    lines
}

fn hooks(prepared: &Prepared) -> [(&'static str, &[Ready]); 3] {
    let hooks = &prepared.hooks;
    [("before", &hooks.before), ("after", &hooks.after), ("on-failure", &hooks.on_failure)]
}

fn trust(ready: &Ready) -> &'static str {
    if ready.step.trust == Trust::Host { "host" } else { "sandbox" }
}

fn as_json(header: &Header, foreseen: &[Foreseen], prepared: &Prepared) -> Value {
    let steps: Vec<_> = foreseen
        .iter()
        .zip(&prepared.steps)
        .map(|(one, ready): (&Foreseen, &Ready)| {
            json!({
                "step": one.place.step,
                "target": one.place.target,
                "phase": one.phase,
                "decision": one.decision.as_ref().map(words::decision),
                "because": one.decision.as_ref().map(|decision: &Decision| words::reason_name(words::reason_of(decision))),
                "words": one.decision.as_ref().map(words::because),
                "changes": one.changes,
                "unknown": one.unknown,
                "needs": needs(ready),
                "reaches": reach(&ready.step.grants),
                "trust": trust(ready),
            })
        })
        .collect();
    let hook = |(hook, ready): (&str, &Ready)| json!({ "hook": hook, "step": ready.place.step, "needs": needs(ready), "reaches": reach(&ready.step.grants), "trust": trust(ready) });
    let hooks: Vec<_> = hooks(prepared)
        .into_iter()
        .flat_map(|(name, steps)| steps.iter().map(move |ready| (name, ready)))
        .map(hook)
        .collect();
    json!({
        "app": header.app, "environment": header.environment, "release": header.release,
        "run": header.run, "attempt": header.attempt, "steps": steps, "hooks": hooks,
    })
}

/// What its module asks for, one line a need.
fn needs(ready: &Ready) -> Vec<String> {
    let config = &ready.step.with;
    let needs: Vec<_> = ready.description.needs.iter().filter(|need| need.applies(config)).collect();
    // What is needed by name is not said again as needed at all.
    let is_named =
        |need: &Need| needs.iter().any(|other| other.capability == need.capability && other.name(config).is_some());
    let told = needs.iter().filter(|need| need.name(config).is_some() || !is_named(need));
    told.map(|need| format!("{}: it {}", need.words(config), need.reason)).collect()
}

/// What a step may reach, one line a grant.
fn reach(grants: &Grants) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, grant) in &grants.dirs {
        let access = match grant.access {
            Access::ReadOnly => "read only",
            Access::ReadWrite => "read and write",
        };
        lines.push(format!("directory `{name}` = {} ({access})", grant.path.display()));
    }
    lines.extend(grants.databases.iter().map(|(name, grant)| format!("database `{name}` = {}", grant.url.written)));
    lines.extend(grants.http.iter().map(|grant| {
        let methods = grant.methods.as_ref().map_or(String::new(), |methods| format!(" ({})", methods.join(", ")));
        format!("{}://{}:{}{methods}", grant.scheme, grant.host, grant.port)
    }));
    lines.extend(grants.tcp.iter().map(|address| format!("tcp {address}")));
    for grant in &grants.programs {
        let word = |pattern: &ArgumentPattern| match pattern {
            ArgumentPattern::Exact(text) => text.clone(),
            ArgumentPattern::AnyOne => "*".to_owned(),
            ArgumentPattern::AnyRest => "**".to_owned(),
        };
        lines.push(format!("program {}", grant.arguments.iter().map(word).collect::<Vec<_>>().join(" ")));
    }
    lines.extend(grants.env.iter().map(|(name, grant)| match grant {
        EnvGrant::Set(value) => format!("environment `{name}` = {}", value.written),
        EnvGrant::Open => format!("environment `{name}`, which the step sets"),
    }));
    lines.extend(grants.sockets.iter().map(|(name, path)| format!("socket `{name}` = unix:{}", path.display())));
    lines.extend(grants.secrets.iter().map(|(name, grant)| match grant.access {
        SecretAccess::Use => format!("secret `{name}` (to use)"),
        SecretAccess::Reveal => format!("secret `{name}` (to use and to see)"),
    }));
    lines
}
