//! Generated plans, and what happens to their deployments.

use proptest::prelude::*;

use crate::world::Fault;

/// A step between the first and the last one of a plan.
#[derive(Clone, Debug)]
pub(crate) struct GeneratedStep {
    /// `work`, or `serve` after the link.
    pub(crate) is_service: bool,
    pub(crate) probed: bool,
    pub(crate) repeatable: bool,
    pub(crate) always: bool,
    pub(crate) elsewhere: bool,
    pub(crate) after_undo: Option<bool>,
}

/// What happens next.
#[derive(Clone, Debug)]
pub(crate) enum Happening {
    /// A deployment, with a fault for some of its steps.
    Deploy {
        release: usize,
        faults: Vec<(usize, Fault)>,
        config_is_good: bool,
        is_broken: bool,
        /// The step that `--rerun` names.
        rerun: Option<usize>,
    },
    /// The next deployment runs on this machine, with the state of the one before; without a key, nobody vouches for it.
    Move { machine: usize, has_key: bool },
}

#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    before_link: Vec<GeneratedStep>,
    after_link: Vec<GeneratedStep>,
    rolls_back: bool,
    pub(crate) happenings: Vec<Happening>,
}

pub(crate) const MACHINES: usize = 3;

pub(crate) fn arb_scenario() -> impl Strategy<Value = Scenario> {
    let happenings = prop::collection::vec(arb_happening(), 1..9);
    let parts = (prop::collection::vec(arb_step(), 0..3), prop::collection::vec(arb_step(), 0..3));
    (parts, prop::bool::weighted(0.7), happenings).prop_map(|((before_link, after_link), rolls_back, happenings)| {
        let before_link = before_link.into_iter().map(|step| GeneratedStep { is_service: false, ..step }).collect();
        Scenario { before_link, after_link, rolls_back, happenings }
    })
}

fn arb_step() -> impl Strategy<Value = GeneratedStep> {
    let often = || prop::bool::weighted(0.7);
    let seldom = || prop::bool::weighted(0.2);
    (often(), seldom(), often(), seldom(), seldom(), prop::option::weighted(0.2, any::<bool>())).prop_map(
        |(is_service, probed, repeatable, always, elsewhere, after_undo)| GeneratedStep {
            is_service,
            probed,
            repeatable,
            always,
            elsewhere: elsewhere && !is_service,
            after_undo,
        },
    )
}

fn arb_happening() -> impl Strategy<Value = Happening> {
    let fault = prop_oneof![
        Just(Fault::Fails),
        Just(Fault::LostBefore),
        Just(Fault::LostAfter),
        Just(Fault::KilledBefore),
        Just(Fault::KilledAfter),
    ];
    let faults = prop::collection::vec((0..8usize, fault), 0..2);
    let deploy = (
        0..2usize,
        faults,
        prop::bool::weighted(0.8),
        prop::bool::weighted(0.3),
        prop::option::weighted(0.1, 0..8usize),
    );
    prop_oneof![
        5 => deploy.prop_map(|(release, faults, config_is_good, is_broken, rerun)| Happening::Deploy {
            release, faults, config_is_good, is_broken, rerun
        }),
        2 => (0..MACHINES, any::<bool>()).prop_map(|(machine, has_key)| Happening::Move { machine, has_key }),
    ]
}

impl Scenario {
    /// The plan as text.
    pub(crate) fn plan(&self) -> String {
        let mut text = "version: 1\napp: shop\nsteps:\n  fetch: { uses: fetch }\n".to_owned();
        for (name, steps) in [("before", &self.before_link), ("after", &self.after_link)] {
            for (index, step) in steps.iter().enumerate() {
                text += &step_line(&format!("{name}-{index}"), step);
            }
            if name == "before" {
                text += "  link: { uses: link }\n";
            }
        }
        text += "  check: { uses: check }\n";
        text + if self.rolls_back { "on-failure: rollback\n" } else { "" }
    }

    /// The names of the steps that are services.
    pub(crate) fn services(&self) -> impl Iterator<Item = String> {
        let services = self.after_link.iter().enumerate().filter(|(_, step)| step.is_service);
        services.map(|(index, _)| format!("after-{index}"))
    }
}

fn step_line(name: &str, step: &GeneratedStep) -> String {
    let GeneratedStep { is_service, probed, repeatable, always, elsewhere, after_undo } = step;
    let uses = if *is_service { "serve" } else { "work" };
    let effects = if *elsewhere { "elsewhere" } else { "here" };
    let after_undo = after_undo.map_or_else(String::new, |after_undo| format!(", after-undo: {after_undo}"));
    format!(
        "  {name}: {{ uses: {uses}, with: {{ probed: {probed}, repeatable: {repeatable} }}, always: {always}, effects: {effects}{after_undo} }}\n"
    )
}
