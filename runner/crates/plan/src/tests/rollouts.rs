//! `rollout:`, `confirm:`, and the choice of hosts.

use expect_test::expect;

use super::{check, good, hosts::fleet, parse, rendered};

/// A plan with a group of so many hosts, and a rollout.
fn with_rollout(hosts: usize, rollout: &str) -> String {
    let hosts: Vec<_> = (1..=hosts).map(|number| format!("{{ at: local, name: web-{number} }}")).collect();
    format!(
        "version: 1\napp: shop\nenvironments:\n  prod:\n    hosts: {{ web: [{}] }}\n    rollout: {rollout}\nsteps: {{ switch: {{ on: web }} }}\n",
        hosts.join(", ")
    )
}

#[test]
fn a_rollout_has_the_hosts_of_each_batch() {
    for (hosts, batches, expected) in [
        (8, "[1, 25%, 100%]", vec![1, 2, 8]),
        // Rounded up; the rest follows.
        (7, "[10%, 50%]", vec![1, 4, 7]),
        // A batch that adds nothing is none.
        (3, "[1, 25%, 3, 100%]", vec![1, 3]),
        (2, "[5]", vec![2]),
    ] {
        let text = with_rollout(hosts, &format!("{{ on: web, batches: {batches}, pause: 2m }}"));
        let rollout = good(&text).rollout.unwrap();
        assert_eq!(rollout.batches, expected, "{batches} of {hosts}");
        assert_eq!(rollout.pause.as_secs(), 120);
        let added: Vec<_> = rollout.added(|_| true).into_iter().flatten().collect();
        assert_eq!(added, rollout.hosts.iter().collect::<Vec<_>>(), "each host once, in order");
    }
}

/// Without the first host, the second one is the canary.
#[test]
fn hosts_that_take_no_part_are_in_no_batch() {
    let rollout = good(&with_rollout(4, "{ on: web, batches: [1, 50%, 100%] }")).rollout.unwrap();
    let added = rollout.added(|host| host.as_str() != "web-1");
    let added: Vec<Vec<&str>> = added.iter().map(|batch| batch.iter().map(|host| host.as_str()).collect()).collect();
    assert_eq!(added, [vec!["web-2"], vec!["web-3"], vec!["web-4"]]);
}

#[test]
fn a_rollout_says_how_many_hosts_may_fail() {
    for (hosts, max_failures, expected) in [
        (8, "10%", 0),
        (8, "25%", 2),
        (7, "30%", 2),
        (8, "3", 3),
        (2, "5", 2),
        (8, "0", 0),
        (8, "0%", 0),
        (8, "100%", 8),
    ] {
        let text = with_rollout(hosts, &format!("{{ on: web, max-failures: {max_failures} }}"));
        let rollout = good(&text).rollout.unwrap();
        assert_eq!(rollout.max_failures, expected, "{max_failures} of {hosts}");
        assert_eq!(rollout.batches, [hosts], "without batches, all at once");
    }
    check(
        &with_rollout(2, "{ on: web, max-failures: 120% }"),
        expect![[r#"
            error[P0118]: `max-failures` can't be `120%`
             --> deploy.yml:6:39
              |
            6 |     rollout: { on: web, max-failures: 120% }
              |                                       ^^^^ not a number of hosts
              hint: write a number of hosts or a percentage of them, as in `max-failures: 10%`
        "#]],
    );
}

/// What another host of the group would do in place of the first one.
#[test]
fn a_step_that_runs_once_has_stand_ins() {
    let plan = fleet("  migrate: { on: { hosts: web, once: true }, grants: { dirs: [\"app:ro\"] } }\n");
    let [step] = plan.steps.as_slice() else { panic!("one step: {:?}", plan.steps) };
    let [stand_in] = step.stand_ins.as_slice() else { panic!("one stand-in: {:?}", step.stand_ins) };
    assert_eq!(stand_in.host.as_ref().unwrap().name.as_str(), "web-2");
    assert_eq!((stand_in.target.as_str(), &stand_in.needs), ("web", &step.needs));
    assert_eq!(stand_in.grants.dirs.values().next().unwrap().path, std::path::Path::new("/plans/shop/two"));
}

#[test]
fn hosts_are_chosen_by_name_group_and_label() {
    let text = r#"version: 1
app: shop
environments:
  prod:
    hosts:
      web: [{ at: local, name: web-1 }, { at: local, name: web-2, labels: [canary] }]
      db: [{ at: local, name: db-1, labels: [canary, slow] }]
steps: { pull: { on: [web, db] } }
"#;
    let plan = good(text);
    let chosen = |limit: &str| {
        let hosts = plan.limited_hosts(limit).map_err(|problem| (problem.message, problem.hint.unwrap_or_default()))?;
        Ok::<_, (String, String)>(hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
    };
    for (limit, expected) in [
        ("web-2", "web-2"),
        ("web", "web-1 web-2"),
        ("canary", "db-1 web-2"),
        ("web-1, canary,!db", "web-1 web-2"),
        ("!db", "local web-1 web-2"),
        ("!web,local", "local"),
    ] {
        assert_eq!(chosen(limit).unwrap(), expected, "{limit}");
    }
    for (limit, message, hint) in [
        ("webb", "`--limit webb` names `webb`, which is no host, group or label of prod", "did you mean `web`?"),
        (
            "web,!canry",
            "`--limit web,!canry` names `canry`, which is no host, group or label of prod",
            "did you mean `canary`?",
        ),
        ("web,,db", "`--limit web,,db` has an empty name", "use one of `db`, `web`"),
        ("web,!web", "`--limit web,!web` leaves no host", "name a host"),
    ] {
        let (said, help) = chosen(limit).unwrap_err();
        assert_eq!(said, message);
        assert!(help.contains(hint), "{limit}: {help}");
    }
}

#[test]
fn a_rollout_that_can_not_be_is_refused() {
    for (rollout, expected) in [
        ("{ on: db, batches: [1] }", "no host group `db`"),
        ("{ on: web, batches: [1, 0] }", "`0` is not the size of a batch"),
        ("{ on: web, batches: [120%] }", "`120%` is not the size of a batch"),
        ("{ on: web, batches: [some] }", "`some` is not the size of a batch"),
        ("{ on: web, batches: [100%, 1] }", "`batches` must grow"),
        ("{ on: web, batches: [1], pause: 0s }", "`pause` cannot be 0"),
        ("{ on: web }", "`batches`"),
    ] {
        let problems = rendered(&parse(&with_rollout(4, rollout)).expect_err("it is refused"));
        assert!(problems.contains(expected), "{rollout}: {problems}");
    }
}

#[test]
fn only_another_host_waits_for_a_confirmation() {
    let text = |at: &str| {
        format!(
            "version: 1\napp: shop\nenvironments: {{ test: {{ hosts: {{ web: [{at}] }} }} }}\n\
             steps: {{ switch: {{ on: web, with: {{ link: current }}, confirm: 30s }} }}\n"
        )
    };
    let within = |at: &str| good(&text(at)).steps[0].confirm.as_ref().map(|confirm| confirm.within.as_secs());
    assert_eq!((within("a@b"), within("local")), (Some(30), None), "the same plan is for both");
}

#[test]
fn bad_confirmations() {
    check(
        "version: 1
app: shop
environments: { test: { hosts: { web: [a@b] } } }
steps:
  a: { on: web, confirm: 30 }
  b: { on: web, confirm: 4s }
  c: { on: web, confirm: 11m }
  d: { on: web, confirm: 30s, irreversible: true }
  e: { confirm: 30s }
  f: { on: local, confirm: 30s }
",
        expect![[r#"
            error[P0118]: `30` is not a duration
             --> deploy.yml:5:26
              |
            5 |   a: { on: web, confirm: 30 }
              |                          ^^ not a duration
              hint: add a unit: `30s` or `30m`

            error[P0118]: `confirm` must be from 5s to 10m
             --> deploy.yml:6:26
              |
            6 |   b: { on: web, confirm: 4s }
              |                          ^^ out of range
              hint: a new connection takes some seconds, and nobody else can deploy to the host meanwhile: write `30s`

            error[P0118]: `confirm` must be from 5s to 10m
             --> deploy.yml:7:26
              |
            7 |   c: { on: web, confirm: 11m }
              |                          ^^^ out of range
              hint: a new connection takes some seconds, and nobody else can deploy to the host meanwhile: write `30s`

            error[P0118]: step `d` is `irreversible`, so no host can undo it when it is not confirmed
             --> deploy.yml:8:26
              |
            8 |   d: { on: web, confirm: 30s, irreversible: true }
              |                          ^^^ can't be undone
              hint: remove `confirm` or `irreversible`

            error[P0118]: step `e` runs on the runner's machine, where no connection can be lost
             --> deploy.yml:9:17
              |
            9 |   e: { confirm: 30s }
              |                 ^^^ only for a step on other hosts
              hint: remove `confirm`, or name a group of hosts in `on`

            error[P0118]: step `f` runs on the runner's machine, where no connection can be lost
              --> deploy.yml:10:28
               |
            10 |   f: { on: local, confirm: 30s }
               |                            ^^^ only for a step on other hosts
              hint: remove `confirm`, or name a group of hosts in `on`
        "#]],
    );
}
