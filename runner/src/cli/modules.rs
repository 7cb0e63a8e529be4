//! `runner modules`: where the plan's modules come from, what they ask for, and how they stand to `deploy.lock`.

use std::{fmt::Write as _, io::Write};

use serde_json::{Value, json};

use super::{places, screen::Screen, source::PlanArgs};
use crate::{
    deploy::{self, Listed, Pins},
    report::{self, Form, json},
};
use contract::text;
use contract::{
    Label,
    diagnostic::{Diagnostic, Exit},
};
use plan::{
    ModuleRef, Plan,
    lockfile::{Ask, Standing},
};

/// Arguments of `modules`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Write deploy.lock as the modules are now
    #[arg(long)]
    accept: bool,
}

/// Lists them, and accepts them if asked to.
///
/// # Errors
/// A plan, a module or a lock file that can't be read.
pub(super) async fn run(
    args: &Args,
    plan: &PlanArgs,
    screen: &Screen,
    out: &mut dyn Write,
) -> Result<Exit, Vec<Diagnostic>> {
    // No module hangs on the release.
    let label: Label = "none".parse().expect("it is a label");
    let plan = plan.plan_for(&label)?;
    screen.mask(plan.secrets.values());
    let pins = deploy::pinned(&plan, places::setting(screen.tell_beside())).await?;
    if args.accept {
        pins.accept().map_err(|error| vec![error])?;
    }
    let answer = match screen.form() {
        Form::Json => json::line(&as_json(&pins, &plan, args.accept)) + "\n",
        Form::Text => as_text(&pins, &plan, args.accept),
    };
    report::emit(out, &answer).map_err(|error| vec![error])?;
    Ok(Exit::Success)
}

fn as_text(pins: &Pins, plan: &Plan, accepted: bool) -> String {
    let mut lines = String::new();
    for listed in pins.list() {
        let Listed { name, pin, standing } = &listed;
        let _ = writeln!(
            lines,
            "{:<8} {} {}, {}",
            word(standing),
            text::visible(name),
            text::visible(&pin.version),
            origin(plan, name)
        );
        let _ = writeln!(lines, "         {}", pin.digest);
        for ask in &pin.needs {
            let _ = writeln!(lines, "         asks for {}", text::visible(&ask.words()));
        }
        if let Standing::Changed(change) = standing {
            for line in deploy::differences(change, pin) {
                let _ = writeln!(lines, "         ! {}", text::visible(&line));
            }
        }
    }
    for name in pins.unused() {
        let _ = writeln!(lines, "unused   {}", text::visible(name));
    }
    let file = pins.file();
    let _ = match (accepted, is_settled(pins)) {
        (true, _) => writeln!(lines, "wrote {file}: commit it"),
        (false, true) => writeln!(lines, "{file} has them all, as they are"),
        (false, false) => writeln!(lines, "`runner modules --accept` writes {file} like this"),
    };
    lines
}

fn as_json(pins: &Pins, plan: &Plan, accepted: bool) -> Value {
    let asks = |asks: &[Ask]| -> Value { json!(asks) };
    let modules: Vec<_> = pins
        .list()
        .map(|Listed { name, pin, standing }| {
            let change = match &standing {
                Standing::Changed(change) => json!({
                    "digest": change.locked.digest, "version": change.locked.version,
                    "more": asks(&change.more), "less": asks(&change.less),
                }),
                Standing::Locked | Standing::New => Value::Null,
            };
            json!({
                "module": name, "from": origin(plan, name), "version": pin.version, "digest": pin.digest,
                "needs": asks(&pin.needs), "standing": word(&standing), "locked": change,
            })
        })
        .collect();
    json!({"file": pins.file(), "accepted": accepted, "modules": modules, "unused": pins.unused().collect::<Vec<_>>()})
}

fn word(standing: &Standing) -> &'static str {
    match standing {
        Standing::Locked => "locked",
        Standing::Changed(_) => "changed",
        Standing::New => "new",
    }
}

fn is_settled(pins: &Pins) -> bool {
    pins.unused().next().is_none() && pins.list().all(|listed| listed.standing == Standing::Locked)
}

/// Where a module comes from.
fn origin(plan: &Plan, name: &str) -> &'static str {
    let uses = plan.all_steps().map(|step| &step.uses).find(|uses| uses.lock_name(&plan.source.folder) == name);
    match uses {
        Some(ModuleRef::Official(_)) | None => "of this runner",
        Some(ModuleRef::File(_)) => "a file",
        Some(ModuleRef::Registry(_)) => "a registry",
    }
}
