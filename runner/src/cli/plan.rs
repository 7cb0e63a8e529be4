//! `runner plan`: previews a deployment.

use std::{fmt::Write as _, io::Write};

use serde_json::{Value, json};

use super::{
    grants_text::{default_environment_line, grant_lines},
    output::CommandOutput,
    plan_fold::{self, TargetText},
    selection,
    source::{PlanSourceArgs, ReleaseArgs},
    xdg_dirs,
};
use crate::{
    deploy::{
        DeployOverrides, PlannedStep, PreflightOptions, PreparedPlan, RequestedRelease, StepPreview, preview_deployment,
    },
    report::{self, MAX_TARGET_LINES, OutputFormat, json, messages},
};
use contract::diagnostic::{Diagnostic, ErrorCode, ExitKind};
use contract::text;
use journal::{
    Redactor,
    event::{Decision, JournalHeader},
};
use plan::StepTrust;
use sandbox::{CapabilityNeed, PreviewChange};
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
    let steps: Vec<_> = foreseen.iter().zip(&prepared.steps).collect();
    let steps: Vec<_> = steps.chunk_by(|(one, _), (other, _)| one.step_target.step == other.step_target.step).collect();
    let label = |step: &[(&StepPreview, &PlannedStep)]| match step.len() > MAX_TARGET_LINES {
        true => vec![step[0].0.step_target.step.to_string()],
        false => step.iter().map(|(one, _)| report::step_label(&one.step_target)).collect(),
    };
    let labels = steps.iter().flat_map(|step| label(step));
    let width = labels.map(|label| text::column_count(&label)).max().unwrap_or(0);
    for step in steps {
        let (first, _) = step[0];
        let phase = messages::phase(first.phase);
        if step.len() > MAX_TARGET_LINES {
            let targets: Vec<_> = step.iter().map(|(one, ready)| target_text(one, ready).for_many()).collect();
            lines += &plan_fold::fold(first.step_target.step.as_str(), phase, width, &targets);
            continue;
        }
        for (one, ready) in step {
            let TargetText { decision: (word, why), lines: more, .. } = target_text(one, ready);
            let label = report::step_label(&one.step_target);
            let _ = writeln!(lines, "{}", format!("  {word:<6} {label:<width$}  {phase:<7}  {why}").trim_end());
            lines.extend(more.iter().map(|line| format!("           {line}\n")));
        }
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

/// What the preview says of a step on one target.
fn target_text(one: &StepPreview, ready: &PlannedStep) -> TargetText {
    let decision = one.decision.as_ref().map_or(("?", String::new()), |decision| {
        (messages::decision(decision), text::escape_line(&messages::decision_reason(decision)))
    });
    let change = |change: &PreviewChange| {
        let detail = if change.detail.is_empty() { String::new() } else { format!("  ({})", change.detail) };
        text::escape_line(&format!("{} {}{detail}", change.action, change.subject))
    };
    let mut lines: Vec<String> = one.changes.iter().map(change).collect();
    lines.extend(one.unknown_reason.iter().map(|why| format!("not known yet: {}", text::escape_line(why))));
    lines.extend(needs_and_grants(ready));
    TargetText { target: one.step_target.target.to_string(), decision, lines }
}

/// The needs and grants of a step, one per line.
fn needs_and_grants(ready: &PlannedStep) -> Vec<String> {
    let needs = need_lines(ready).into_iter().map(|need| format!("needs {}", text::escape_line(&need)));
    let grants =
        grant_lines(&ready.step.grants).into_iter().map(|grant| format!("may reach {}", text::escape_line(&grant)));
    let trust = (ready.step.trust == StepTrust::Host).then(|| {
        let whose = ready
            .step
            .remote_host()
            .map_or("this machine's user".to_owned(), |host| format!("its user on {}", host.name));
        format!("TRUST: HOST — this step can do whatever {whose} can")
    });
    needs.chain(grants).chain(trust).collect()
}

fn needs_and_grants_text(ready: &PlannedStep) -> String {
    needs_and_grants(ready).iter().map(|line| format!("           {line}\n")).collect()
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
