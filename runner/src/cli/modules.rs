//! `runner modules`: lists the plan's modules, their origins and needs, and compares them with its lock file.

use std::{fmt::Write as _, io::Write};

use serde_json::{Value, json};

use super::{output::CommandOutput, plan_file::CommandCompletion, source::PlanSourceArgs, xdg_dirs};
use crate::{
    deploy::{self, ModulePins, PinnedModule},
    report::{self, OutputFormat, json},
};
use contract::text;
use contract::{
    Label,
    diagnostic::{Diagnostic, ExitKind},
};
use plan::{
    ModuleRef, Plan,
    lockfile::{PinStatus, PinnedNeed},
};

/// Arguments of `modules`.
#[derive(Debug, clap::Args)]
pub(super) struct ModulesArgs {
    /// Write the current modules to the lock file
    #[arg(long)]
    accept: bool,
}

/// Lists the modules, and accepts them with `--accept`.
///
/// # Errors
/// A plan, a module or a lock file that cannot be read.
pub(super) async fn run(
    args: &ModulesArgs,
    plan: &PlanSourceArgs,
    screen: &CommandOutput,
    out: &mut dyn Write,
) -> Result<ExitKind, Vec<Diagnostic>> {
    // The modules do not depend on the release.
    let label: Label = "none".parse().expect("it is a label");
    let commands = CommandCompletion::new(plan.plan.as_deref(), plan.environment.as_deref());
    let plan = plan.plan_for(&label)?;
    screen.mask(plan.secrets.values());
    let pins = deploy::pinned(&plan, xdg_dirs::preflight_options(screen.stderr_notifier())).await?;
    if args.accept {
        pins.accept().map_err(|error| vec![error])?;
    }
    let answer = match screen.format() {
        OutputFormat::Json => json::line(&as_json(&pins, &plan, args.accept)) + "\n",
        OutputFormat::Text => as_text(&pins, &plan, args.accept, &commands),
    };
    report::write_answer(out, &answer).map_err(|error| vec![error])?;
    Ok(ExitKind::Success)
}

fn as_text(pins: &ModulePins, plan: &Plan, accepted: bool, commands: &CommandCompletion) -> String {
    let mut lines = String::new();
    for listed in pins.list() {
        let PinnedModule { name, pin, status: standing } = &listed;
        let _ = writeln!(
            lines,
            "{:<8} {} {}, {}",
            status_word(standing),
            text::escape_line(name),
            text::escape_line(&pin.version),
            origin(plan, name)
        );
        let _ = writeln!(lines, "         {}", pin.digest);
        for ask in &pin.needs {
            let _ = writeln!(lines, "         asks for {}", text::escape_line(&ask.describe()));
        }
        if let PinStatus::Changed(change) = standing {
            for line in deploy::describe_change(change, pin) {
                let _ = writeln!(lines, "         ! {}", text::escape_line(&line));
            }
        }
    }
    for name in pins.unused() {
        let _ = writeln!(lines, "unused   {}", text::escape_line(name));
    }
    let file = pins.display_path();
    let _ = match (accepted, is_lockfile_current(pins)) {
        (true, _) => writeln!(lines, "wrote {file}: commit it"),
        (false, true) => writeln!(lines, "{file} matches all modules"),
        (false, false) => {
            let advice = format!("run `runner modules --accept` to write {file} like this");
            writeln!(lines, "{}", commands.text(&advice))
        }
    };
    lines
}

fn as_json(pins: &ModulePins, plan: &Plan, accepted: bool) -> Value {
    let asks = |asks: &[PinnedNeed]| -> Value { json!(asks) };
    let modules: Vec<_> = pins
        .list()
        .map(|PinnedModule { name, pin, status: standing }| {
            let change = match &standing {
                PinStatus::Changed(change) => json!({
                    "digest": change.locked.digest, "version": change.locked.version,
                    "more": asks(&change.added), "less": asks(&change.removed),
                }),
                PinStatus::Unchanged | PinStatus::New => Value::Null,
            };
            json!({
                "module": name, "from": origin(plan, name), "version": pin.version, "digest": pin.digest,
                "needs": asks(&pin.needs), "standing": status_word(&standing), "locked": change,
            })
        })
        .collect();
    json!({"file": pins.display_path(), "accepted": accepted, "modules": modules, "unused": pins.unused().collect::<Vec<_>>()})
}

fn status_word(standing: &PinStatus) -> &'static str {
    match standing {
        PinStatus::Unchanged => "locked",
        PinStatus::Changed(_) => "changed",
        PinStatus::New => "new",
    }
}

fn is_lockfile_current(pins: &ModulePins) -> bool {
    pins.unused().next().is_none() && pins.list().all(|listed| listed.status == PinStatus::Unchanged)
}

/// The origin of a module.
fn origin(plan: &Plan, name: &str) -> &'static str {
    let uses = plan.all_steps().map(|step| &step.uses).find(|uses| uses.lock_name(&plan.source.folder) == name);
    match uses {
        Some(ModuleRef::Official(_)) | None => "built in",
        Some(ModuleRef::File(_)) => "a file",
        Some(ModuleRef::Registry(_)) => "a registry",
    }
}
