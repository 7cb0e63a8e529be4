//! What a step depends on, as far as it is known now: its configuration, its fingerprint, its input, and the facts that its
//! decision hangs on. Shared by the loop and by the preview of it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::{
    Halt, Orders, Prepared, Ready,
    fingerprint::{Parts, fingerprint},
};
use contract::{AppName, EnvironmentName, StepId, diagnostic::Code, hash::Hash, step::Finding};
use journal::{
    Place, State,
    decision::{self, Facts, Probing, Repeat},
    event::{Fingerprint, Header},
};
use plan::Problem;

/// Where epochs are counted: those of another history are no older and no newer. A history is known by its first attempt, from
/// whichever machine, and ends where the state is begun anew.
#[must_use]
pub fn lineage(app: &AppName, environment: &EnvironmentName, state: &State) -> String {
    let first = state.attempts.first().map(|first| (&first.header.run, first.began));
    Hash::of(format!("{app}/{environment} {first:?}").as_bytes()).short(8)
}

/// The state of an attempt, as one step sees it.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) prepared: &'a Prepared,
    pub(super) orders: &'a Orders,
    pub(super) header: &'a Header,
    pub(super) state: &'a State,
    pub(super) outputs: &'a BTreeMap<StepId, Map<String, Value>>,
}

/// What one step is asked.
pub(super) struct Asked<'a> {
    pub(super) ready: &'a Ready,
    pub(super) input: Value,
    pub(super) key: String,
    pub(super) fingerprint: Fingerprint,
    /// The operator named it: it is not skipped.
    pub(super) named: bool,
}

impl<'a> View<'a> {
    /// What a step depends on now, and the input that follows from it.
    pub(super) fn ask<'r>(&self, ready: &'r Ready, named: bool) -> Result<Asked<'r>, Halt> {
        let step = &ready.step;
        let config = self.config(ready)?;
        let upstream: BTreeMap<StepId, Map<String, Value>> = self
            .outputs
            .iter()
            .filter(|(id, _)| ready.upstream.contains(*id))
            .map(|(id, outputs)| (id.clone(), outputs.clone()))
            .collect();
        let plan = &self.prepared.plan;
        let inputs = self.prepared.runtime.watched(step, &ready.description, &config).map_err(|error| {
            let message = format!("what step `{}` depends on can't be read", step.id);
            let hint = Some(error.hint());
            let label = "this step depends on it";
            Halt::Plan(plan.error_at(Code("P0204"), step.span.clone(), message, label, hint).because(error))
        })?;
        let header = self.header;
        let fingerprint = fingerprint(Parts {
            module: &self.prepared.module(ready).digest,
            config: &config,
            inputs,
            grants: &step.grants,
            folder: &plan.source.folder,
            target: &ready.place.target,
            upstream: &upstream,
            release: &header.release,
        });
        let key = format!("{} {} {} {}", header.run, ready.place.step, ready.place.target, fingerprint.digest());
        let key = Hash::of(key.as_bytes()).short(16);
        let input = serde_json::json!({
            "app": header.app,
            "environment": header.environment,
            "run": header.run,
            "attempt": header.attempt,
            "step": ready.place.step,
            "target": ready.place.target,
            "key": key,
            "config": config,
            "release": header.release,
            "outputs": upstream,
            "epoch": header.epoch,
            "lineage": lineage(&header.app, &header.environment, self.state),
            "head": { "live": self.state.live_before(&header.run, &header.release) },
        });
        Ok(Asked { ready, input, key, fingerprint, named })
    }

    /// The configuration with earlier outputs filled in. Values that waited for them are checked only now.
    fn config(&self, ready: &Ready) -> Result<Value, Halt> {
        let (plan, step) = (&self.prepared.plan, &ready.step);
        let config = step.config(self.outputs, &self.header.run, self.header.attempt);
        let config = config.map_err(|error| Halt::Plan(error.diagnostic(&plan.source)))?;
        if step.pending.is_empty() {
            return Ok(config);
        }
        match ready.description.mismatches(&config, |_| false).into_iter().next() {
            None => Ok(config),
            Some(mismatch) => {
                let span = step.with_spans.get(&mismatch.pointer).unwrap_or(&step.span).clone();
                let message = format!("`with` of step `{}` does not fit module `{}`", step.id, ready.description.name);
                Err(Halt::Plan(plan.error_at(Problem::BadConfig.code(), span, message, mismatch.message, None)))
            }
        }
    }

    /// What the decision about a step hangs on.
    pub(super) fn facts<'f>(&self, asked: &'f Asked<'_>, finding: Option<&'f Finding>) -> Facts<'f>
    where
        'a: 'f,
    {
        let ready = asked.ready;
        let earlier = self.prepared.steps.iter().filter(|earlier| ready.upstream.contains(&earlier.step.id));
        let upstream: BTreeSet<&Place> = earlier.map(|earlier| &earlier.place).collect();
        let config = &asked.input["config"];
        let (has_probe, may_repeat) = (ready.description.has_probe(config), ready.description.may_repeat(config));
        Facts {
            phase: ready.description.phase,
            probing: if has_probe { Probing::Available } else { Probing::Missing },
            repeat: if may_repeat { Repeat::Safe } else { Repeat::Unsafe },
            record: self.state.records.get(&ready.place),
            fingerprint: &asked.fingerprint,
            run: &self.header.run,
            upstream_ran: decision::upstream_ran(self.state, &ready.place, upstream),
            orders: decision::Orders {
                accept_drift: self.orders.accept_drift.contains(&ready.step.id),
                fresh: self.orders.fresh,
                named: asked.named,
                unrecorded: self.orders.unrecorded,
            },
            finding,
        }
    }
}
