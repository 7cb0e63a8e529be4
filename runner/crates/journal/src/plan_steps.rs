//! The steps of a `plan` event as they are written: a step that runs on many targets stands once.
//!
//! Invariant: a plan for a thousand hosts fits into a line; one for a single machine is written as it always was, and a reader that does not
//! know of further targets sees the first one.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::event::PlanStepRecord;
use contract::{StepId, TargetName};

/// A step on more targets than this stands once.
const MAX_LISTED_TARGETS: usize = 8;
/// The most steps on targets of a plan. The journal has room for fewer.
const MAX_STEPS: usize = 100_000;

/// A step, on its first target and on further ones.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct WrittenStep {
    #[serde(flatten)]
    first: PlanStepRecord,
    /// Its other targets, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    further: Vec<TargetName>,
    /// An earlier step whose targets it has, instead of their list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    targets_of: Option<StepId>,
}

pub(crate) fn serialize<S: Serializer>(steps: &[PlanStepRecord], serializer: S) -> Result<S::Ok, S::Error> {
    let is_same_step = |one: &PlanStepRecord, next: &PlanStepRecord| {
        PlanStepRecord { step_target: one.step_target.clone(), ..next.clone() } == *one
            && one.step_target.step == next.step_target.step
    };
    let mut listed: Vec<&[PlanStepRecord]> = Vec::new();
    let mut written = Vec::new();
    for step in steps.chunk_by(is_same_step) {
        if step.len() <= MAX_LISTED_TARGETS {
            let alone =
                |first: &PlanStepRecord| WrittenStep { first: first.clone(), further: Vec::new(), targets_of: None };
            written.extend(step.iter().map(alone));
            continue;
        }
        let known = listed.iter().find(|known| targets(known).eq(targets(step)));
        let targets_of = known.map(|known| known[0].step_target.step.clone());
        let further = match targets_of {
            Some(_) => Vec::new(),
            None => targets(&step[1..]).cloned().collect(),
        };
        if targets_of.is_none() {
            listed.push(step);
        }
        written.push(WrittenStep { first: step[0].clone(), further, targets_of });
    }
    written.serialize(serializer)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PlanStepRecord>, D::Error> {
    let written = Vec::<WrittenStep>::deserialize(deserializer)?;
    let mut steps = Vec::with_capacity(written.len());
    for (index, WrittenStep { first, further, targets_of }) in written.iter().enumerate() {
        let further = match targets_of {
            None => further,
            Some(step) => {
                let earlier = written[..index].iter().find(|earlier| earlier.first.step_target.step == *step);
                &earlier.ok_or_else(|| D::Error::custom(format!("no step `{step}` is before")))?.further
            }
        };
        if steps.len() + further.len() >= MAX_STEPS {
            return Err(D::Error::custom("more steps than a journal has room for"));
        }
        steps.push(first.clone());
        steps.extend(further.iter().map(|target| {
            let mut step = first.clone();
            step.step_target.target = target.clone();
            step
        }));
    }
    Ok(steps)
}

fn targets(steps: &[PlanStepRecord]) -> impl Iterator<Item = &TargetName> {
    steps.iter().map(|step| &step.step_target.target)
}

#[cfg(test)]
mod tests {
    use contract::{hash::Blake3Hash, step::StepPhase};
    use serde_json::json;

    use crate::{
        StepTarget,
        event::{JournalEvent, PlanStepRecord},
        line::MAX_LINE_BYTES,
    };

    fn step(name: &str, target: &str) -> PlanStepRecord {
        let step_target = StepTarget { step: name.parse().unwrap(), target: target.parse().unwrap() };
        PlanStepRecord { step_target, uses: "run".to_owned(), phase: StepPhase::Commit, exposes: name == "switch" }
    }

    fn plan(steps: Vec<PlanStepRecord>) -> JournalEvent {
        JournalEvent::Plan { digest: Blake3Hash::of(b""), path: "deploy.yml".to_owned(), steps }
    }

    fn read_back(event: &JournalEvent) -> JournalEvent {
        serde_json::from_str(&serde_json::to_string(event).unwrap()).unwrap()
    }

    #[test]
    fn a_step_on_many_targets_stands_once() {
        let on = |name: &str, targets: &[String]| targets.iter().map(|target| step(name, target)).collect::<Vec<_>>();
        let hosts = |count: usize| (1..=count).map(|host| format!("web-{host}")).collect::<Vec<_>>();
        let (many, few, local) = (hosts(9), hosts(2), ["local".to_owned()]);
        let steps = [on("build", &local), on("pull", &many), on("switch", &many), on("warm", &few), on("tell", &local)];
        let event = plan(steps.concat());
        let written = serde_json::to_value(&event).unwrap();
        let one =
            |step: &str, target: &str| json!({ "step": step, "target": target, "uses": "run", "phase": "commit" });
        let with = |mut value: serde_json::Value, key: &str, more: serde_json::Value| {
            value[key] = more;
            value
        };
        let switch = with(one("switch", "web-1"), "exposes", true.into());
        assert_eq!(
            written["steps"],
            json!([
                one("build", "local"),
                with(one("pull", "web-1"), "further", json!(many[1..])),
                with(switch, "targets-of", "pull".into()),
                one("warm", "web-1"),
                one("warm", "web-2"),
                one("tell", "local"),
            ])
        );
        assert_eq!(read_back(&event), event);
    }

    #[test]
    fn a_thousand_hosts_fit_into_a_line() {
        let hosts: Vec<_> = (0..1000).map(|host| format!("web-{host}.example.com")).collect();
        let steps = ["pull", "migrate", "configure", "start", "switch", "verify", "drain", "tell"];
        let event = plan(steps.iter().flat_map(|name| hosts.iter().map(|host| step(name, host))).collect());
        assert!(serde_json::to_string(&event).unwrap().len() < MAX_LINE_BYTES / 2);
        assert_eq!(read_back(&event), event);
    }

    #[test]
    fn targets_of_no_earlier_step_or_of_too_many_are_refused() {
        let with_steps = |steps: serde_json::Value| {
            let mut event = serde_json::to_value(plan(Vec::new())).unwrap();
            event["steps"] = steps;
            serde_json::from_value::<JournalEvent>(event)
        };
        let one = json!({ "step": "a", "target": "web-1", "uses": "run", "phase": "commit", "targets-of": "a" });
        assert!(with_steps(json!([one])).is_err());
        let mut many =
            vec![json!({ "step": "a", "target": "x", "uses": "run", "phase": "commit", "further": vec!["y"; 999] })];
        many.extend(vec![one; 100]);
        assert!(with_steps(many.clone().into()).is_err(), "more than 100,000");
        many.pop();
        assert!(with_steps(many.into()).is_ok());
    }
}
