//! What a deployment would do, found out without doing it: decisions by the same table, previews by the modules. Takes no
//! lock and writes nothing. What depends on the outputs of a step that would run is a guess, and said to be one.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use tokio::sync::mpsc::unbounded_channel;

use super::{Halt, Orders, Prepared, Ready, attempt, ending::WayOn, view::View};
use contract::{
    StepId,
    diagnostic::Diagnostic,
    step::{Failure, Finding, Phase},
};
use journal::{
    Loaded, Place, State,
    decision::{self, Selected, Verdict},
    event::{Decision, Header, Question, Reason},
};
use sandbox::Change;
use state::Store;

/// What is foreseen for one step.
#[derive(Debug)]
pub struct Foreseen {
    pub place: Place,
    pub phase: Phase,
    /// What would be decided; none when it is not known yet.
    pub decision: Option<Decision>,
    /// What the step would do if it ran.
    pub changes: Vec<Change>,
    /// Why something is not known.
    pub unknown: Option<String>,
}

/// Foresees every step.
///
/// # Errors
/// What keeps a deployment from beginning.
pub async fn foresee(
    prepared: &Prepared,
    store: &Store,
    orders: &Orders,
) -> Result<(Header, Vec<Foreseen>), Vec<Diagnostic>> {
    let paths = store.journals().map_err(|error| vec![(&error).into()])?;
    let state = Loaded::read(&paths, |_| {}).map_err(|error| vec![(&error).into()])?.state;
    let epoch = state.epoch() + 1;
    let header = attempt::header(prepared, &state, epoch, "preview");
    let named = orders.selection.option().and_then(|(_, step)| prepared.index(step));
    let mut outputs = BTreeMap::new();
    let mut foreseen = Vec::new();
    for (index, ready) in prepared.steps.iter().enumerate() {
        let view = View { prepared, orders, header: &header, state: &state, outputs: &outputs };
        let mut one = Foreseen {
            place: ready.place.clone(),
            phase: ready.description.phase,
            decision: None,
            changes: Vec::new(),
            unknown: None,
        };
        match orders.selection.of(index, named) {
            Selected::Leave => one.unknown = Some("not selected".to_owned()),
            Selected::Word => {
                one.decision = Some(Decision::Skip { reason: Reason::OperatorWord, receipt: Default::default() });
            }
            Selected::Act { named } => look(&view, ready, named, &mut one).await?,
        }
        if let Some(known) = known_outputs(&state, ready, one.decision.as_ref()) {
            outputs.insert(ready.step.id.clone(), known);
        }
        foreseen.push(one);
    }
    Ok((header, foreseen))
}

async fn look(view: &View<'_>, ready: &Ready, named: bool, one: &mut Foreseen) -> Result<(), Vec<Diagnostic>> {
    let is_missing = |step: &&StepId| ready.upstream.contains(*step) && !view.outputs.contains_key(*step);
    let missing: Vec<&StepId> = view.prepared.steps.iter().map(|ready| &ready.step.id).filter(is_missing).collect();
    let asked = match view.ask(ready, named) {
        Ok(asked) => asked,
        Err(_) if !missing.is_empty() => {
            one.unknown = Some(format!("it depends on the outcome of {}", listed(&missing)));
            return Ok(());
        }
        Err(Halt::Plan(diagnostic)) => return Err(vec![diagnostic]),
        Err(halt) => {
            let way = WayOn { again: "runner plan", done: &[], next: None };
            return Err(vec![halt.diagnostic(view.header.attempt, &way)]);
        }
    };
    let runtime = &view.prepared.runtime;
    let module = view.prepared.module(ready);
    let mut finding: Option<Finding> = None;
    let decision = loop {
        match decision::decide(&view.facts(&asked, finding.as_ref())) {
            Verdict::Probe(question) => {
                let recorded = view.state.records.get(&ready.place).filter(|_| question == Question::Recorded);
                let input = recorded.map_or(&asked.input, |record| &record.intent.input);
                finding = Some(runtime.probe(module, &ready.step, input, unbounded_channel().0).await);
            }
            Verdict::FinishUndo => break Decision::Run { reason: Reason::UndoUnfinished },
            Verdict::Decided(decision) => break decision,
        }
    };
    if matches!(decision, Decision::Run { .. }) {
        match runtime.preview(module, &ready.step, &asked.input, unbounded_channel().0).await {
            Ok(changes) => one.changes = changes,
            Err(Failure { message, .. }) if missing.is_empty() => {
                let to_be_made = ready.step.grants.dirs.iter().find(|(_, grant)| !grant.path.exists());
                one.unknown = Some(match to_be_made {
                    Some((name, grant)) => {
                        format!("directory `{name}` ({}) is not there yet; it will be made", grant.path.display())
                    }
                    None => message,
                });
            }
            Err(_) => one.unknown = Some(format!("it depends on the outcome of {}", listed(&missing))),
        }
    }
    one.decision = Some(decision);
    Ok(())
}

/// `pull` and `migrate`.
fn listed(steps: &[&StepId]) -> String {
    steps.iter().map(|step| format!("`{step}`")).collect::<Vec<_>>().join(" and ")
}

/// What later steps would see: what is on record, if the step would be skipped.
fn known_outputs(state: &State, ready: &Ready, decision: Option<&Decision>) -> Option<Map<String, Value>> {
    match decision {
        Some(Decision::Skip { reason: Reason::OperatorWord, .. }) => {
            Some(state.done(&ready.place).map(|receipt| receipt.outputs.clone()).unwrap_or_default())
        }
        Some(Decision::Skip { receipt, .. } | Decision::Adopt { receipt, .. }) => Some(receipt.outputs.clone()),
        Some(Decision::Run { .. } | Decision::Stop { .. }) | None => None,
    }
}
