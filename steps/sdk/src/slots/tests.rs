//! Slots: which one a release gets, what is recorded, and when it is ready.

use serde_json::json;

use super::*;
use crate::testing::{self, TestSandbox};
use crate::{Digest, DirectoryAccess};

/// A granted directory `app`, and inputs of its deployments.
struct World {
    _sandbox: TestSandbox,
    root: std::path::PathBuf,
}

fn world() -> World {
    let sandbox = TestSandbox::new();
    let root = sandbox.grant("app", DirectoryAccess::Write);
    World { _sandbox: sandbox, root }
}

fn input(release: &str, epoch: u64) -> Input<()> {
    let mut input = testing::input("start", ());
    let digest: String = release.bytes().map(|byte| format!("{byte:02x}")).collect();
    input.release.label = release.to_owned();
    input.release.digest = Some(Digest::try_from(format!("sha256:{digest:0<64}")).unwrap());
    input.epoch = epoch;
    input
}

fn slots() -> SlotSet {
    SlotSet::read(&input("r1", 1), &SlotSettings::default(), &[]).unwrap()
}

impl World {
    /// Starts a release in the slot that is chosen for it; returns the slot's name.
    fn start(&self, input: &Input<()>) -> String {
        let set = slots();
        let chosen = set.choose(input).unwrap();
        set.write(input, &chosen.slot, &SlotRecord::starting(input, None).with_state(SlotState::Ready)).unwrap();
        chosen.slot.name
    }

    fn link(&self, slot: &str) {
        let link = self.root.join("live");
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(format!("slots/{slot}"), link).unwrap();
    }
}

#[test]
fn releases_take_turns_in_the_slot_without_traffic() {
    let world = world();
    assert_eq!(world.start(&input("r1", 1)), "a");
    world.link("a");
    assert_eq!(world.start(&input("r2", 2)), "b");
    assert_eq!(world.start(&input("r2", 3)), "b", "it is there already");
    assert_eq!(world.start(&input("r3", 4)), "b", "r2 never had the traffic");
    world.link("b");
    assert_eq!(world.start(&input("r4", 5)), "a");
    assert_eq!(world.start(&input("r3", 6)), "b", "it is there, with the traffic");
    assert!(world.root.join("slots/a/is-a").exists() && world.root.join("slots/b/is-b").exists());
}

#[test]
fn another_configuration_of_the_live_release_starts_beside_it() {
    let world = world();
    let mut first = input("r1", 1);
    world.start(&first);
    world.link("a");
    assert!(slots().slots_of_input(&first)[0].is_linked);
    first.input_hash = "other".to_owned();
    assert_eq!(world.start(&first), "b");
}

#[test]
fn only_slot_is_replaced_in_place() {
    let world = world();
    let settings = json!({ "only": { "port": 8001 } });
    let settings = SlotSettings { slots: settings.as_object(), ..SlotSettings::default() };
    world.link("only");
    let set = SlotSet::read(&input("r1", 1), &settings, &[]).unwrap();
    let chosen = set.choose(&input("r1", 1)).unwrap();
    assert_eq!((chosen.slot.name.as_str(), chosen.slot.port, chosen.is_linked), ("only", Some(8001), true));
}

#[test]
fn late_deployment_changes_nothing() {
    let world = world();
    world.start(&input("r1", 1));
    let late = slots();
    world.link("a");
    world.start(&input("r3", 5));
    let two = input("r2", 4);
    let slot = Slot { name: "b".to_owned(), port: None };
    for refused in [
        late.choose(&two).map(|_| ()),
        late.write(&two, &slot, &SlotRecord::starting(&two, None)),
        late.clear(&two, &slot),
        late.to_stop(&two, StopSelection::Idle).map(|_| ()),
    ] {
        let message = refused.unwrap_err().message;
        assert_eq!(message, "a newer deployment (epoch 5) has used `app/slots/b`; this deployment (epoch 4) must not");
    }
    let mut other = input("r2", 4);
    other.lineage = "fedcba9876543210".to_owned();
    slots().choose(&other).unwrap();
}

#[test]
fn slot_that_is_not_ours_is_refused() {
    let world = world();
    let mut other = input("r1", 1);
    other.environment = "dev".to_owned();
    world.start(&other);
    world.link("b");
    assert!(slots().choose(&input("r1", 2)).unwrap_err().message.contains("holds shop of environment dev"));
    other.environment = "test".to_owned();
    other.step = "worker".to_owned();
    std::fs::remove_file(world.root.join("slots/a/slot.json")).unwrap();
    world.link("a");
    assert_eq!(world.start(&other), "b");
    assert!(slots().choose(&input("r1", 2)).unwrap_err().message.contains("step `worker` has started"));
    // Also while another slot is free.
    world.link("b");
    assert!(slots().choose(&input("r1", 2)).unwrap_err().message.contains("step `worker` has started"));
    std::fs::write(world.root.join("slots/b/slot.json"), "{}").unwrap();
    let read = SlotSet::read(&input("r1", 2), &SlotSettings::default(), &[]).unwrap_err();
    assert_eq!(read.kind, FailureKind::Conflict);
    assert!(read.message.contains("`app/slots/b/slot.json` is not the record of a slot"));
}

#[test]
fn link_that_can_not_be_followed_is_refused() {
    let world = world();
    std::os::unix::fs::symlink(world.root.join("slots/a"), world.root.join("live")).unwrap();
    let refused = SlotSet::read(&input("r1", 1), &SlotSettings::default(), &[]).unwrap_err();
    assert!(refused.message.contains("absolute path"), "{}", refused.message);
    let nested = SlotSettings { link: Some("web/live"), ..SlotSettings::default() };
    std::fs::create_dir(world.root.join("web")).unwrap();
    std::os::unix::fs::symlink("../slots/b", world.root.join("web/live")).unwrap();
    let set = SlotSet::read(&input("r1", 1), &nested, &[]).unwrap();
    assert_eq!(set.choose(&input("r1", 1)).unwrap().slot.name, "a");
}

#[test]
fn idle_and_previous_slots_are_found() {
    let world = world();
    world.start(&input("r1", 1));
    assert!(slots().to_stop(&input("r1", 1), StopSelection::Idle).is_err(), "nothing has the traffic");
    world.link("a");
    world.start(&input("r2", 2));
    world.link("b");
    let names = |selection| -> Vec<String> {
        slots().to_stop(&input("r2", 2), selection).unwrap().into_iter().map(|(slot, _)| slot.name).collect()
    };
    assert_eq!((names(StopSelection::Idle), names(StopSelection::Previous)), (vec!["a".to_owned()], vec![]));
    std::fs::write(world.root.join(".live.switch"), r#"{"key": "k", "from": "slots/a", "to": "slots/b"}"#).unwrap();
    assert_eq!(names(StopSelection::Previous), ["a"]);
    let set = slots();
    set.clear(&input("r2", 2), &set.slots().next().unwrap().0).unwrap();
    assert!(slots().to_stop(&input("r2", 2), StopSelection::Idle).unwrap().is_empty());
}

#[test]
fn record_survives_a_kill_at_any_write() {
    for writes in 0.. {
        let sandbox = TestSandbox::new();
        sandbox.grant("app", DirectoryAccess::Write);
        let input = input("r1", 1);
        let record = SlotRecord::starting(&input, Some("id".to_owned()));
        let write = || {
            let set = slots();
            set.write(&input, &set.choose(&input)?.slot, &record)
        };
        sandbox.kill_after(writes);
        let outcome = write();
        sandbox.revive();
        write().unwrap();
        assert_eq!(slots().slots_of_input(&input)[0].record, Some(record));
        if outcome.is_ok() {
            break;
        }
    }
}

#[test]
fn texts_are_filled_in() {
    let slot = Slot { name: "b".to_owned(), port: Some(8002) };
    let values = SlotValues { slot: Some(slot), slot_dir: Some("/srv/shop/slots/b".to_owned()), release_dir: None };
    let filled = values.fill("x -b unix:{slot-dir}/sock -p {port} --name={slot} {other}").unwrap();
    assert_eq!(filled, "x -b unix:/srv/shop/slots/b/sock -p 8002 --name=b {other}");
    assert!(values.fill("{release-dir}/app").unwrap_err().message.contains("`{release-dir}`, which is not known"));
    assert!(SlotValues::none().fill("{slot}").unwrap_err().message.contains("`{slot}`, which is not known"));
}

#[test]
fn settings_of_slots_are_checked() {
    for (setting, word) in [
        (json!({}), "is empty"),
        (json!({ "A": {} }), "not the name"),
        (json!({ "..": {} }), "not the name"),
        (json!({ "a": { "port": 0 } }), "not a port"),
        (json!({ "a": { "port": 1 }, "b": { "port": 1 } }), "port of another slot"),
    ] {
        let message = parse_slots(setting.as_object()).unwrap_err().message;
        assert!(message.contains(word), "{message}");
    }
}
