//! `hosts:` and `on:`.

use expect_test::expect;
use serde_json::json;

use super::{check, good, parse, parse_for, rendered};
use crate::{EffectPlace, HostAddress, Plan};

const FLEET: &str = r#"version: 1
app: shop
dirs: { app: "${{ host.vars.root }}" }
environments:
  prod:
    hosts:
      web:
        - { at: local, name: web-1, vars: { root: ./one } }
        - { at: local, name: web-2, vars: { root: ./two } }
      worker: [local]
"#;

pub(super) fn fleet(steps: &str) -> Plan {
    good(&format!("{FLEET}steps:\n{steps}"))
}

/// Step, target and the path of its directory `app`.
fn places(plan: &Plan) -> Vec<(&str, &str, String)> {
    let place = |step: &'_ crate::PlanStep| {
        step.grants.dirs.values().map(|dir| dir.path.display().to_string()).collect::<Vec<_>>().join(" ")
    };
    plan.steps.iter().map(|step| (step.id.as_str(), step.target.as_str(), place(step))).collect()
}

#[test]
fn a_step_runs_on_each_host_with_what_the_host_has() {
    let plan = fleet(
        "  pull: { on: web, grants: { dirs: [app] } }\n  \
         migrate: { on: { hosts: web, once: true }, grants: { dirs: [\"app:ro\"] } }\n  \
         switch: { on: [web, worker], with: { link: \"${{ host.name }}\" } }\n  \
         verify: {}\n",
    );
    let expected = [
        ("pull", "web-1", "/plans/shop/one"),
        ("pull", "web-2", "/plans/shop/two"),
        ("migrate", "web", "/plans/shop/one"),
        ("switch", "web-1", ""),
        ("switch", "web-2", ""),
        ("switch", "local", ""),
        ("verify", "local", ""),
    ];
    assert_eq!(places(&plan), expected.map(|(step, target, dir)| (step, target, dir.to_owned())));
    let links: Vec<_> = plan.steps[3..6].iter().map(|step| step.with["link"].clone()).collect();
    assert_eq!(links, [json!("web-1"), json!("web-2"), json!("local")]);
    assert_eq!(plan.steps[2].effects, EffectPlace::Elsewhere, "the group has one effect, whichever host made it");
    assert_eq!(plan.steps[1].needs, [], "the first step, on each host");
    assert_eq!(plan.steps[4].needs, ["migrate".parse().unwrap()]);
}

#[test]
fn only_the_chosen_environment_has_hosts() {
    let text = format!("{FLEET}  test: {{ hosts: {{ web: [local] }} }}\nsteps: {{ switch: {{ on: web }} }}\n");
    let targets = |environment| {
        let plan = parse_for(&text, Some(environment)).unwrap();
        plan.steps.iter().map(|step| step.target.to_string()).collect::<Vec<_>>()
    };
    assert_eq!((targets("prod"), targets("test")), (vec!["web-1".into(), "web-2".into()], vec!["local".to_string()]));
}

#[test]
fn a_plan_runs_on_hosts_if_one_of_its_steps_or_of_its_setup_does() {
    assert!(fleet("  pull: { on: web }\n  verify: {}\n").runs_on_hosts());
    assert!(fleet("  verify: {}\nsetup: { pull: { on: worker } }\n").runs_on_hosts());
    assert!(!fleet("  pull: { on: local }\n  verify: {}\n").runs_on_hosts());
}

#[test]
fn addresses_are_those_of_ssh() {
    let ssh = |user: Option<&str>, host: &str, port| {
        Some(HostAddress::Ssh { user: user.map(str::to_owned), host: host.to_owned(), port })
    };
    let good = [
        ("local", Some(HostAddress::Local), "local"),
        ("web-1", ssh(None, "web-1", None), "web-1"),
        ("deploy@10.0.0.7", ssh(Some("deploy"), "10.0.0.7", None), "deploy@10.0.0.7"),
        ("ssh://deploy@10.0.0.8:2222", ssh(Some("deploy"), "10.0.0.8", Some(2222)), "deploy@10.0.0.8:2222"),
        ("[fd00::1]:22", ssh(None, "fd00::1", Some(22)), "[fd00::1]:22"),
    ];
    for (text, address, written) in good {
        assert_eq!(HostAddress::parse(text), address, "{text}");
        assert_eq!(address.map(|address| address.to_string()).as_deref(), Some(written));
    }
    // Nothing that ssh or a shell would take for something else.
    for bad in [
        "",
        "-oProxyCommand=x",
        "a@-l",
        "a b",
        "a@",
        "@a",
        "a:0",
        "a:99999",
        "a:",
        "http://a",
        "a/b",
        "$(x)",
        "fd00::1",
        "[a]",
    ] {
        assert_eq!(HostAddress::parse(bad), None, "{bad}");
    }
}

#[test]
fn bad_hosts() {
    check(
        r#"version: 1
app: shop
environments:
  prod:
    vars: { slot: "${{ host.name }}" }
    hosts:
      web: [a@b, { at: c, name: a@b }, "-x", { at: "[fd00::1]" }, { name: x }]
      local: [d]
      none: []
      db: [{ at: z, name: a@b }]
steps:
  a: { on: wep }
  b: { on: { hosts: web, once: yes } }
  c: { with: { x: "${{ host.name }}" } }
  d: { on: web, with: { x: "${{ host.vars.x }} ${{ host.slot }}" } }
  e: { on: [] }
"#,
        expect![[r#"
            error[P0110]: `host.name` cannot be looked up here: only a step runs on a host
             --> deploy.yml:5:20
              |
            5 |     vars: { slot: "${{ host.name }}" }
              |                    ^^^^^^^^^^^^^^^^ not here
              hint: use `host` in `with` and `grants` of a step with `on`, and in `dirs` and `http` at the top of the plan

            error[P0117]: host `a@b` is listed twice
             --> deploy.yml:7:18
              |
            7 |       web: [a@b, { at: c, name: a@b }, "-x", { at: "[fd00::1]" }, { name: x }]
              |                  ^^^^^^^^^^^^^^^^^^^^ the second time
              hint: remove one, or give them different names

            error[P0118]: `-x` is not the address of a host
             --> deploy.yml:7:40
              |
            7 |       web: [a@b, { at: c, name: a@b }, "-x", { at: "[fd00::1]" }, { name: x }]
              |                                        ^^^^ not an address
              hint: write `local`, `HOST`, `USER@HOST` or `ssh://USER@HOST:PORT`

            error[P0107]: `[fd00::1]` can't be the name of a host
             --> deploy.yml:7:52
              |
            7 |       web: [a@b, { at: c, name: a@b }, "-x", { at: "[fd00::1]" }, { name: x }]
              |                                                    ^^^^^^^^^^^ needs a name
              hint: write `{ at: "[fd00::1]", name: web-1 }`

            error[P0106]: a host has no `at`
             --> deploy.yml:7:67
              |
            7 |       web: [a@b, { at: c, name: a@b }, "-x", { at: "[fd00::1]" }, { name: x }]
              |                                                                   ^^^^^^^^^^^ `at` is missing
              hint: add `at: deploy@10.0.0.7`

            error[P0107]: `local` can't be the name of a host group
             --> deploy.yml:8:7
              |
            8 |       local: [d]
              |       ^^^^^ the runner's machine
              hint: choose another name, such as `web`

            error[P0118]: group `none` has no host
             --> deploy.yml:9:13
              |
            9 |       none: []
              |             ^^ empty
              hint: add a host: `none: [deploy@10.0.0.7]`

            error[P0117]: host `a@b` is written in two ways
              --> deploy.yml:10:12
               |
            10 |       db: [{ at: z, name: a@b }]
               |            ^^^^^^^^^^^^^^^^^^^^ differs from the first
              hint: write the same host in each group, or give it another `name`

            error[P0132]: the environment has no host group `wep`
              --> deploy.yml:12:12
               |
            12 |   a: { on: wep }
               |            ^^^ no such group
              hint: did you mean `web`?

            error[P0105]: `once` must be `true` or `false`, not a string
              --> deploy.yml:13:32
               |
            13 |   b: { on: { hosts: web, once: yes } }
               |                                ^^^ this is a string
              hint: write `true` or `false`

            error[P0108]: `host.name` has no value: the step runs on no host
              --> deploy.yml:14:20
               |
            14 |   c: { with: { x: "${{ host.name }}" } }
               |                    ^^^^^^^^^^^^^^^^ undefined
              hint: add `on: GROUP` to the step, with a group of the environment's `hosts`

            error[P0108]: host `a@b` has no variable `x`
              --> deploy.yml:15:29
               |
            15 |   d: { on: web, with: { x: "${{ host.vars.x }} ${{ host.slot }}" } }
               |                             ^^^^^^^^^^^^^^^^^^ undefined
              hint: add `vars: { x: … }` to host `a@b`

            error[P0109]: `host.slot` is not a lookup
              --> deploy.yml:15:48
               |
            15 |   d: { on: web, with: { x: "${{ host.vars.x }} ${{ host.slot }}" } }
               |                                                ^^^^^^^^^^^^^^^^ `host` has `name`, `address` and `vars`
              hint: write `host.name`, `host.address` or `host.vars.NAME`

            error[P0118]: `on` names no group
              --> deploy.yml:16:12
               |
            16 |   e: { on: [] }
               |            ^^^ empty
              hint: name a group, as in `on: web`, or remove `on`
        "#]],
    );
}

#[test]
fn a_shared_grant_that_looks_up_the_host_is_for_steps_on_hosts() {
    check(
        &format!("{FLEET}steps: {{ a: {{ uses: pull, grants: {{ dirs: [app] }} }} }}\n"),
        expect![[r#"
            error[P0115]: `app` in `dirs` of the plan looks up `host`, and this step runs on no host
              --> deploy.yml:11:44
               |
            11 | steps: { a: { uses: pull, grants: { dirs: [app] } } }
               |                                            ^^^ used here
              hint: add `on: GROUP` to the step, with a group of the environment's `hosts`
        "#]],
    );
    check(
        &format!("{FLEET}hooks: {{ before: [{{ a: {{ uses: run, on: web }} }}] }}\nsteps: {{ b: {{ on: web }} }}\n"),
        expect![[r#"
            error[P0118]: a step of a hook cannot run on hosts
              --> deploy.yml:11:21
               |
            11 | hooks: { before: [{ a: { uses: run, on: web } }] }
               |                     ^ has `on`
              hint: remove `on`; hooks run on the runner's machine
        "#]],
    );
    check(
        &format!("{FLEET}steps: {{ b: {{ on: {{ hosts: web, once: true }} }} }}\n").replace("web-2", "web"),
        expect![[r#"
            error[P0117]: a group and a host are called `web`
              --> deploy.yml:11:28
               |
            11 | steps: { b: { on: { hosts: web, once: true } } }
               |                            ^^^ the group
              hint: rename one; the journal identifies both by their names
        "#]],
    );
}

#[test]
fn what_is_relative_to_the_plan_is_not_on_another_host() {
    let plan = |grants: &str| {
        format!(
            "version: 1\napp: shop\nenvironments: {{ prod: {{ hosts: {{ web: [deploy@10.0.0.7] }} }} }}\nsteps:\n  \
             a: {{ on: web, uses: run, trust: host, with: {{ program: make }}, grants: {{ {grants} }} }}\n"
        )
    };
    let good = super::good(&plan("dirs: { dist: \"./dist:ro\", app: /srv/app }"));
    let relative: Vec<_> = good.steps[0].grants.dirs.values().map(|dir| dir.is_relative).collect();
    assert_eq!(relative, [false, true]);
    check(
        &plan("dirs: { app: ./app }, databases: { main: \"sqlite:shop.db\" }, programs: [[./build.sh]]"),
        expect![[r#"
            error[P0118]: step `a` runs a program of the plan's folder, and the step runs on `deploy@10.0.0.7`
             --> deploy.yml:5:3
              |
            5 |   a: { on: web, uses: run, trust: host, with: { program: make }, grants: { dirs: {…
              |   ^ not on `deploy@10.0.0.7`
              hint: name a program of the host: `/usr/bin/make`, or one on its `PATH`

            error[P0115]: directory `app` of step `a` is relative to the plan, and the step runs on `deploy@10.0.0.7`
             --> deploy.yml:5:89
              |
            5 | …rust: host, with: { program: make }, grants: { dirs: { app: ./app }, databases: { main: "sqlite:shop.db" }, programs: [[./build.sh]] } }
              |                                                              ^^^^^ not on `deploy@10.0.0.7`
              hint: write an absolute path on the host, such as `/srv/shop`; or add `:ro`: the files that the step names are then sent to the host

            error[P0115]: database `main` is relative to the plan, and the step runs on `deploy@10.0.0.7`
             --> deploy.yml:5:117
              |
            5 | … make }, grants: { dirs: { app: ./app }, databases: { main: "sqlite:shop.db" }, programs: [[./build.sh]] } }
              |                                                              ^^^^^^^^^^^^^^^^ not on `deploy@10.0.0.7`
              hint: write an absolute path: `sqlite:/srv/shop/shop.db`
        "#]],
    );
}

#[test]
fn ssh_has_its_files_beside_the_plan() {
    let plan = good(
        "version: 1\napp: shop\nenvironments: { prod: { ssh: { config: ./ssh_config, known-hosts: /etc/known } } }\n\
         steps: { pull: {} }\n",
    );
    assert_eq!(plan.ssh.config.as_deref(), Some(std::path::Path::new("/plans/shop/ssh_config")));
    assert_eq!(plan.ssh.known_hosts.as_deref(), Some(std::path::Path::new("/etc/known")));
    check(
        "version: 1\napp: shop\nenvironments: { prod: { ssh: { config: \"\", key: x } } }\nsteps: { pull: {} }\n",
        expect![[r#"
            error[P0118]: `config` of `ssh` is not a path: it is empty
             --> deploy.yml:3:40
              |
            3 | environments: { prod: { ssh: { config: "", key: x } } }
              |                                        ^^ invalid path
              hint: write a path, relative to the plan's folder

            error[P0104]: `ssh` has no key `key`
             --> deploy.yml:3:44
              |
            3 | environments: { prod: { ssh: { config: "", key: x } } }
              |                                            ^^^ unknown key
              hint: use one of `config`, `known-hosts`, `sudo`, `dials`
        "#]],
    );
}

/// Groups that are listed elsewhere; `inventory` in the tests' `mod.rs` reads them.
fn with_group(group: &str) -> String {
    format!(
        "version: 1\napp: shop\nsecrets: {{ TOKEN: env:TOKEN }}\nenvironments:\n  prod:\n    hosts:\n      web: {group}\n\
         steps: {{ switch: {{ on: web, with: {{ link: \"${{{{ host.vars.root }}}}\" }} }} }}\n"
    )
}

#[test]
fn inventory_is_the_list_of_a_group() {
    let plan = good(&with_group("{ from: \"file:${{ env.HOME }}/hosts.yml\" }").replace("host.vars.root", "host.name"));
    let targets: Vec<_> = plan.steps.iter().map(|step| step.target.to_string()).collect();
    assert_eq!(targets, ["web-3", "local"]);
    // A program gets its own variables and the name of the environment, and what it prints may look up what a plan may.
    let program = r#"{ from: { program: [./list, "- { at: a@b, name: c, vars: { root: '${{ env.HOME }} ENV' } }"], trust: host, env: { T: "${{ secrets.TOKEN }}" } } }"#;
    let plan = parse(&with_group(program).replace("${{ env.HOME }} ENV", "x")).unwrap();
    assert_eq!((plan.steps[0].target.as_str(), &plan.steps[0].with["link"]), ("c", &json!("x")));
}

#[test]
fn bad_inventories() {
    let bad = |group: &str| rendered(&parse(&with_group(group).replace("host.vars.root", "host.name")).unwrap_err());
    expect![[r#"
        error[P0266]: can't read /plans/shop/none.yml
         --> deploy.yml:7:20
          |
        7 |       web: { from: file:none.yml }
          |                    ^^^^^^^^^^^^^ the inventory
          caused by: no such file
          hint: create it
    "#]]
    .assert_eq(&bad("{ from: file:none.yml }"));
    expect![[r#"
        error[P0104]: a host has no key `nam`
         --> ./list:2:12
          |
        2 | - { at: b, nam: c }
          |            ^^^ unknown key
          hint: did you mean `name`?
    "#]]
    .assert_eq(&bad("{ from: { program: [./list, \"- local\", \"- { at: b, nam: c }\"], trust: host } }"));
    for (group, part) in [
        ("{ from: hosts.yml }", "error[P0118]: `from` is no inventory: it does not begin with `file:`"),
        ("{ from: \"file:\" }", "error[P0118]: `from` is no inventory: it is empty"),
        ("{ form: file:hosts.yml }", "error[P0104]: group `web` has no key `form`"),
        ("{ from: { program: [./list, \"- a\"] } }", "error[P0124]: an inventory is printed by a program"),
        ("{ from: { program: [], trust: host } }", "error[P0118]: `program` of `from` names no program"),
        ("{ from: { program: [\"${{ secrets.TOKEN }}\"], trust: host } }", "error[P0110]: "),
        (
            "{ from: { program: [./list, \"a: b\"], trust: host } }",
            "error[P0105]: group `web` of `hosts` must be a list",
        ),
        ("{ from: { program: [./list, \"\"], trust: host } }", "error[P0102]: the inventory is empty"),
        ("{ from: { program: [./list, \"- [\"], trust: host } }", "error[P0101]: the inventory is not valid YAML"),
    ] {
        let text = bad(group);
        assert!(text.contains(part), "{group}: {text}");
    }
}

#[test]
fn inventory_of_another_environment_is_not_read() {
    let text = with_group("[local]").replace("host.vars.root", "host.name");
    let with_other = |group: &str| text.replace("steps:", &format!("  test: {{ hosts: {{ web: {group} }} }}\nsteps:"));
    let parsed = |group: &str| parse_for(&with_other(group), Some("prod"));
    parsed("{ from: file:none.yml }").unwrap();
    assert!(rendered(&parsed("{ from: { porgram: [x] } }").unwrap_err()).contains("did you mean `program`?"));
}

#[test]
fn ssh_options_have_a_user_and_a_number_of_dials() {
    let options = |ssh: &str| {
        parse(&format!(
            "version: 1\napp: shop\nenvironments: {{ prod: {{ ssh: {ssh} }} }}\nsteps: {{ verify: {{}} }}\n"
        ))
        .map(|plan| (plan.ssh.sudo, plan.ssh.dials))
        .map_err(|errors| rendered(&errors))
    };
    assert_eq!(options("{ sudo: app, dials: 32 }"), Ok((Some("app".to_owned()), 32)));
    assert_eq!(options("{ sudo: true }"), Ok((Some("root".to_owned()), 8)));
    assert_eq!(options("{ sudo: false, dials: 1 }"), Ok((None, 1)));
    for bad in ["-u root", "a b", "$(id)", "\"\"", "[a]", "a'b"] {
        assert!(options(&format!("{{ sudo: {bad} }}")).unwrap_err().contains("sudo: "), "{bad}");
    }
    for bad in ["0", "65", "1.5", "-1", "many"] {
        assert!(
            options(&format!("{{ dials: {bad} }}"))
                .unwrap_err()
                .contains("`dials` of `ssh` must be a number from 1 to 64"),
            "{bad}"
        );
    }
}
