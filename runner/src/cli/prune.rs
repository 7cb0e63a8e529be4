//! `runner prune`: removes the content of releases that nobody will go back to.

use std::{io::Write, time::Duration};

use serde_json::json;

use super::{
    attempts, permission,
    screen::Screen,
    source::{self, PlanArgs},
    wait::WaitArgs,
};
use crate::{
    deploy::{self, Interrupt},
    report::{self, Form, json as lines},
};
use contract::{
    Label,
    diagnostic::{Code, Diagnostic, Exit},
};
use state::{Claim, Store};

/// Arguments of `prune`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    plan: PlanArgs,
    /// Do it from here, outside a CI
    #[arg(long)]
    local: bool,
    /// How many verified releases stay, beside the live one; by default what the plan says, or 5
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep: Option<u32>,
    #[command(flatten)]
    wait: WaitArgs,
}

/// Removes releases, and says which; as JSON, `{removed: [path]}`.
///
/// # Errors
/// P0223 when one can't be removed; P05xx when the environment is being deployed.
pub(super) async fn run(args: &Args, screen: &Screen, out: &mut dyn Write) -> Result<Exit, Vec<Diagnostic>> {
    let one = |diagnostic: Diagnostic| vec![diagnostic];
    permission::local(args.local, "prune")?;
    // Where content goes does not depend on the release.
    let label: Label = "none".parse().expect("`none` is a label");
    let plan = args.plan.plan_for(&label)?;
    screen.mask(plan.secrets.values());
    let store = Store::new(&plan.state, &plan.app, &plan.environment);
    permission::person(&plan).map_err(one)?;
    permission::nesting(&store).map_err(one)?;
    let interrupt = Interrupt::listen().ok();
    let claim = Claim { wait: args.wait.wait(), url: source::job(), ..Claim::by(&source::who()) };
    let lock = match &interrupt {
        Some(interrupt) => tokio::select! {
            lock = store.claim(claim) => lock,
            _ = interrupt.asked() => return Ok(Exit::Interrupted),
        },
        None => store.claim(claim).await,
    };
    let mut lock = lock.map_err(|error| one((&error).into()))?;
    let state = attempts::state(&store).map_err(one)?;
    let keep = args.keep.map(|keep| keep as usize).or(plan.keep).unwrap_or(deploy::KEEP);
    lock.next_epoch(state.epoch()).map_err(|error| one((&error).into()))?;
    lock.confirm().await.map_err(|error| one((&error).into()))?;
    let removed = deploy::prune(&plan, &state, &args.plan.neighbours(&plan.environment), keep);
    lock.close(Duration::from_secs(5)).await.map_err(|error| one((&error).into()))?;
    let removed = removed.map_err(|error| {
        let diagnostic = Diagnostic::new(Code("P0223"), Exit::Failed, error.to_string());
        one(diagnostic
            .hint("the live release and the verified ones that stay were not touched; see why, and run it again"))
    })?;
    let answer = match screen.form() {
        Form::Json => lines::line(&json!({ "removed": removed })) + "\n",
        Form::Text if removed.is_empty() => "nothing to remove\n".to_owned(),
        Form::Text => removed.iter().map(|path| format!("removed {}\n", path.display())).collect(),
    };
    report::emit(out, &answer).map_err(one)?;
    Ok(Exit::Success)
}
