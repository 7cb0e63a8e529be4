//! `runner plan`: previews a deployment.

use std::{fmt::Write as _, io::Write};

use serde_json::{Value, json};

use super::{
    grants_text::{default_environment_line, grant_lines},
    output::CommandOutput,
    selection,
    source::{PlanSourceArgs, ReleaseArgs},
    xdg_dirs,
};
use crate::{
    deploy::{
        DeployOverrides, PlannedStep, PreflightOptions, PreparedPlan, RequestedRelease, StepPreview, preview_deployment,
    },
    report::{self, OutputFormat, json, messages},
};
use contract::diagnostic::{Diagnostic, ErrorCode, ExitKind};
use contract::text;
use journal::{
    Redactor,
    event::{Decision, JournalHeader},
};
use plan::StepTrust;
use sandbox::CapabilityNeed;
use state::StateStore;

/// Arguments of `plan`.
#[derive(Debug, clap::Args)]
pub(super) struct PlanCommandArgs {
    #[command(flatten)]
    plan: PlanSourceArgs,
    #[command(flatten)]
    release: ReleaseArgs,
    #[command(flatten)]
    selection: selection::SelectionArgs,
    #[command(flatten)]
    hosts: selection::LimitArgs,
    /// Print the long form of the plan: short forms spelled out, values of this environment and release filled in
    #[arg(long)]
    expanded: bool,
}

/// Shows for each step its decision, its changes, and its grants.
///
/// # Errors
/// The errors that keep a deployment from beginning.
pub(super) async fn run(
    args: &PlanCommandArgs,
    screen: &CommandOutput,
    out: &mut dyn Write,
) -> Result<ExitKind, Vec<Diagnostic>> {
    let scope = args.selection.overrides().preflight_scope();
    let limit = args.hosts.limit.clone();
    let options =
        PreflightOptions { scope, limit: limit.clone(), ..xdg_dirs::preflight_options(screen.stderr_notifier()) };
    let (plan, label) = args.plan.checked_plan(&args.release, options.clone()).await?;
    screen.mask(plan.secrets.values().chain(options.job_secrets.values()));
    if args.expanded {
        if plan.runs_on_hosts() {
            let message = "`--expanded` can't write a plan whose steps run on hosts yet";
            let hint = "`runner plan` shows what each step may reach on each host";
            return Err(vec![Diagnostic::new(ErrorCode::NotSupported, message).with_hint(hint)]);
        }
        // A value may be a secret under another name.
        let redactor = Redactor::of_deployment(&plan.secrets, &options.job_secrets);
        let answer = match screen.format() {
            OutputFormat::Json => json::line(&redactor.redact_json_values(plan.expanded())) + "\n",
            OutputFormat::Text => redactor.redact(&plan.expanded_text()),
        };
        report::write_answer(out, &answer).map_err(|error| vec![error])?;
        return Ok(ExitKind::Success);
    }
    let store = StateStore::new(&plan.state, &plan.app, &plan.environment);
    let prepared = PreparedPlan::new(plan, RequestedRelease { label, digest: None }, options).await?;
    let machine = xdg_dirs::machine_id(&screen.stderr_notifier());
    let overrides = DeployOverrides { limit, ..args.selection.overrides() };
    let (header, foreseen) = preview_deployment(&prepared, &store, &overrides, machine).await?;
    // A probe may repeat what a program printed.
    let redactor = &prepared.redactor;
    let answer = match screen.format() {
        OutputFormat::Json => json::line(&as_json(&header, &foreseen, &prepared)) + "\n",
        OutputFormat::Text => redactor.redact(&as_text(&header, &foreseen, &prepared)),
    };
    report::write_answer(out, &answer).map_err(|error| vec![error])?;
    Ok(ExitKind::Success)
}

fn as_text(header: &JournalHeader, foreseen: &[StepPreview], prepared: &PreparedPlan) -> String {
    let mut lines =
        format!("{} {} → {} (preview: nothing is changed)\n", header.app, header.release.label, header.environment);
    let width = foreseen.iter().map(|one| text::column_count(&report::step_label(&one.step_target))).max().unwrap_or(0);
    for (one, ready) in foreseen.iter().zip(&prepared.steps) {
        let (word, why) = match &one.decision {
            Some(decision) => (messages::decision(decision), messages::decision_reason(decision)),
            None => ("?", String::new()),
        };
        let label = report::step_label(&one.step_target);
        let phase = messages::phase(one.phase);
        let line = format!("  {word:<6} {label:<width$}  {phase:<7}  {}", text::escape_line(&why));
        let _ = writeln!(lines, "{}", line.trim_end());
        for change in &one.changes {
            let detail = if change.detail.is_empty() { String::new() } else { format!("  ({})", change.detail) };
            let _ = writeln!(
                lines,
                "           {} {}{}",
                change.action,
                text::escape_line(&change.subject),
                text::escape_line(&detail)
            );
        }
        if let Some(unknown) = &one.unknown_reason {
            let _ = writeln!(lines, "           not known yet: {}", text::escape_line(unknown));
        }
        lines += &needs_and_grants_text(ready);
    }
    for (hook, steps) in hook_steps(prepared) {
        for ready in steps {
            let _ = writeln!(lines, "  hook   {}  {hook}", report::step_label(&ready.step_target));
            lines += &needs_and_grants_text(ready);
        }
    }
    let hooks = hook_steps(prepared).into_iter().flat_map(|(_, steps)| steps);
    let grants = prepared.steps.iter().chain(hooks).map(|ready| &ready.step.grants);
    if let Some(line) = default_environment_line(grants) {
        let _ = writeln!(lines, "  {line}");
    }
    lines
}

/// The needs and grants of a step, one per line.
fn needs_and_grants_text(ready: &PlannedStep) -> String {
    let mut lines = String::new();
    for need in need_lines(ready) {
        let _ = writeln!(lines, "           needs {}", text::escape_line(&need));
    }
    for grant in grant_lines(&ready.step.grants) {
        let _ = writeln!(lines, "           may reach {}", text::escape_line(&grant));
    }
    if ready.step.trust == StepTrust::Host {
        let whose = ready
            .step
            .remote_host()
            .map_or("this machine's user".to_owned(), |host| format!("its user on {}", host.name));
        let _ = writeln!(lines, "           TRUST: HOST — this step can do whatever {whose} can");
    }
    lines
}

fn hook_steps(prepared: &PreparedPlan) -> [(&'static str, &[PlannedStep]); 3] {
    let hooks = &prepared.hooks;
    [("before", &hooks.before), ("after", &hooks.after), ("on-failure", &hooks.on_failure)]
}

fn trust_word(ready: &PlannedStep) -> &'static str {
    if ready.step.trust == StepTrust::Host { "host" } else { "sandbox" }
}

/// The preview as JSON. Its texts are redacted; the names are not, so that a program can read them.
fn as_json(header: &JournalHeader, foreseen: &[StepPreview], prepared: &PreparedPlan) -> Value {
    let redactor = &prepared.redactor;
    let texts = |texts: Value| redactor.redact_json_values(texts);
    let steps: Vec<_> = foreseen
        .iter()
        .zip(&prepared.steps)
        .map(|(one, ready): (&StepPreview, &PlannedStep)| {
            json!({
                "step": one.step_target.step,
                "target": one.step_target.target,
                "phase": one.phase,
                "decision": one.decision.as_ref().map(messages::decision),
                "because": one.decision.as_ref().map(|decision: &Decision| messages::reason_name(messages::reason_of(decision))),
                "words": texts(json!(one.decision.as_ref().map(messages::decision_reason))),
                "changes": texts(json!(one.changes)),
                "unknown": texts(json!(one.unknown_reason)),
                "needs": texts(json!(need_lines(ready))),
                "reaches": texts(json!(grant_lines(&ready.step.grants))),
                "trust": trust_word(ready),
            })
        })
        .collect();
    let hook = |(hook, ready): (&str, &PlannedStep)| json!({ "hook": hook, "step": ready.step_target.step, "needs": texts(json!(need_lines(ready))), "reaches": texts(json!(grant_lines(&ready.step.grants))), "trust": trust_word(ready) });
    let hooks: Vec<_> = hook_steps(prepared)
        .into_iter()
        .flat_map(|(name, steps)| steps.iter().map(move |ready| (name, ready)))
        .map(hook)
        .collect();
    json!({
        "app": header.app, "environment": header.environment, "release": header.release,
        "run": header.run, "attempt": header.attempt, "steps": steps, "hooks": hooks,
    })
}

/// The needs of a step's module, one per line.
fn need_lines(ready: &PlannedStep) -> Vec<String> {
    let config = &ready.step.with;
    let needs: Vec<_> = ready.description.needs.iter().filter(|need| need.applies_to(config)).collect();
    // A need without a name is not repeated next to the same need with a name.
    let is_named = |need: &CapabilityNeed| {
        needs.iter().any(|other| other.capability == need.capability && other.grant_name(config).is_some())
    };
    let told = needs.iter().filter(|need| need.grant_name(config).is_some() || !is_named(need));
    told.map(|need| format!("{}: it {}", need.display_text(config), need.reason)).collect()
}
