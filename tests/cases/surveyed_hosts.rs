//! `runner hosts`: what hosts have, asked without changing anything there.

use std::{fs, process::Command};

use expect_test::expect;
use serde_json::Value;

use crate::support::{SshHost, TestEnvironment, write_ssh_config};

fn environment(hosts: &[(&SshHost, &str)]) -> TestEnvironment {
    let listed: Vec<_> = hosts
        .iter()
        .map(|(host, name)| {
            let (at, root) = (host.address(), host.path("srv"));
            format!("        - {{ at: \"{at}\", name: {name}, vars: {{ root: {} }} }}\n", root.display())
        })
        .collect();
    let plan = format!(
        r#"version: 1
app: shop
secrets: {{ TOKEN: env:TOKEN_OF_NOBODY }}
dirs: {{ app: "${{{{ host.vars.root }}}}", dist: "./dist:ro" }}
environments:
  test:
    ssh: {{ config: ./ssh_config, dials: 2 }}
    hosts:
      web:
{}      here: [local]
steps:
  pull:
    on: web
    with: {{ from: "file:dist/shop-${{{{ release }}}}.tar.zst", into: app }}
    grants: {{ dirs: [app, dist] }}
  switch: {{ on: web, with: {{ link: current }}, grants: {{ dirs: [app] }} }}
"#,
        listed.concat()
    );
    let environment = TestEnvironment::with_plan(&plan);
    let hosts: Vec<_> = hosts.iter().map(|(host, _)| *host).collect();
    write_ssh_config(&environment.path(""), &hosts);
    environment.pack("r1");
    environment
}

/// The host with this name.
fn host<'a>(survey: &'a Value, name: &str) -> &'a Value {
    survey["hosts"].as_array().unwrap().iter().find(|host| host["name"] == name).unwrap()
}

/// A table without what differs between machines.
fn masked(table: &str, hosts: &[&SshHost]) -> String {
    let mut text = hosts.iter().fold(table.to_owned(), |text, host| text.replace(&host.port().to_string(), "2222"));
    for unit in ["GiB", "MiB"] {
        text = text.lines().map(|line| mask_before(line, unit) + "\n").collect();
    }
    text
}

/// A line whose amount of this unit is `N`; spaces count as one.
fn mask_before(line: &str, unit: &str) -> String {
    let mut words: Vec<&str> = line.split_whitespace().collect();
    if let Some(at) = words.iter().position(|word| *word == unit) {
        words[at - 1] = "N";
        words[at] = "iB";
    }
    words.join(" ")
}

#[test]
fn hosts_that_are_down_or_changed_do_not_hide_the_others() {
    let (up, down, changed) = (SshHost::new(), SshHost::new(), SshHost::new());
    let environment = environment(&[(&up, "web-1"), (&down, "a-host-with-quite-a-long-name"), (&changed, "web-3")]);
    let port = down.port().to_string();
    drop(down);
    let known = environment.read("known_hosts");
    let key = |host: &SshHost| host.known_key().split_whitespace().nth(2).unwrap().to_owned();
    environment.write("known_hosts", known.replace(&key(&changed), &key(&up)));
    let before = fs::read_dir(up.path("")).unwrap().count();
    let survey = environment.run(&["hosts"]);
    survey.assert_exit(1);
    let table = masked(&survey.stdout, &[&up, &changed]).replace(&port, "2222");
    expect![[r#"
        HOST STATE LIVE FREE CLOCK ADDRESS
        a-host-with-quite-a-lon… P0260 nothing 127.0.0.1:2222
        local here nothing local
        web-1 no agent nothing N iB +0 s 127.0.0.1:2222
        web-3 P0261 nothing 127.0.0.1:2222
    "#]]
    .assert_eq(&table.replace("-1 s", "+0 s").replace("+1 s", "+0 s"));
    assert!(survey.stdout.lines().all(|line| line.chars().count() <= 80), "{}", survey.stdout);
    survey.assert_stderr_contains("error[P0260]: host `a-host-with-quite-a-long-name`");
    survey.assert_stderr_contains("error[P0261]: the key of host `web-3` (127.0.0.1:");
    // Nothing was left on the host, and nothing here.
    assert_eq!(fs::read_dir(up.path("")).unwrap().count(), before);
    assert!(!environment.exists(".pawl"));
}

#[test]
fn host_with_an_agent_says_what_it_shows() {
    let (one, other) = (SshHost::new(), SshHost::new());
    let mut environment = environment(&[(&one, "web-1"), (&other, "web-2")]);
    // The hosts are needed only, so a secret without a value is none of its business.
    let fresh = environment.run(&["hosts", "--json"]);
    fresh.assert_exit(0);
    let web = host(&fresh.json(), "web-1").clone();
    assert_eq!((&web["agent"], &web["groups"]), (&"absent".into(), &serde_json::json!(["web"])));
    assert_eq!(web["live"], serde_json::json!({ "recorded": null, "on-host": null }));
    let folder = |path: &str| Value::from(one.path(path).display().to_string());
    assert_eq!(web["agent-folder"]["path"], folder("cache/pawl"));
    assert_eq!(web["state-folder"]["path"], folder("state/pawl/hosts/web-1/shop/test"));
    assert!(web["agent-folder"]["free"].as_u64().unwrap() > 1 << 20, "{web}");
    assert_eq!(host(&fresh.json(), "local")["user"], Value::Null, "of this machine, nothing is asked");
    environment.set_variable("TOKEN_OF_NOBODY", "x");
    environment.deploy("r1", &[]).assert_exit(0);
    let survey = environment.run(&["hosts", "--json"]);
    survey.assert_exit(0);
    let web = host(&survey.json(), "web-2").clone();
    assert_eq!((&web["agent"], &web["reachable"]), (&"this-build".into(), &true.into()));
    assert_eq!((&web["live"]["recorded"]["label"], &web["live"]["on-host"]["label"]), (&"r1".into(), &"r1".into()));
    // Its own records are gone: both are said.
    fs::remove_dir_all(one.path("state")).unwrap();
    let table = environment.run(&["hosts"]);
    assert!(table.stdout.lines().any(|line| line.contains("web-1") && line.contains("r1/nothing")), "{}", table.stdout);
    // Another build of the agent is told from this one.
    let agents = other.path("cache/pawl");
    let agent = fs::read_dir(&agents)
        .unwrap()
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with("agent-"));
    fs::rename(agent.unwrap().path(), agents.join("agent-00000000000000000000000000000000")).unwrap();
    let survey = environment.run(&["hosts", "--verbose"]);
    survey.assert_exit(0);
    assert!(survey.stdout.contains("agent     old agent, "), "{}", survey.stdout);
    assert!(
        !fs::read_dir(&agents).unwrap().flatten().any(|entry| entry.path().ends_with("agent-0")),
        "nothing was sent"
    );
}

#[test]
fn environment_without_hosts_is_said_to_have_none() {
    let environment = TestEnvironment::new();
    let answer = environment.run(&["hosts", "--env", "test"]);
    answer.assert_exit(0);
    assert_eq!(answer.stdout, "test has no hosts: its steps run on this machine\n");
}

/// A clock that is off, by the library that `faketime` puts into programs.
#[test]
fn clock_that_is_off_is_warned_of() {
    let faked = Command::new("faketime").args(["-f", "+15m", "env"]).output();
    let faked = faked.unwrap_or_else(|error| panic!("faketime: {error}; run `cargo xtask setup`"));
    let variables = String::from_utf8(faked.stdout).unwrap();
    let variables: Vec<_> = variables
        .lines()
        .filter(|line| ["LD_PRELOAD=", "FAKETIME="].iter().any(|name| line.starts_with(name)))
        .collect();
    assert_eq!(variables.len(), 2, "{variables:?}");
    let ahead = SshHost::with_variables(&format!("{} FAKETIME_DONT_FAKE_MONOTONIC=1", variables.join(" ")));
    let right = SshHost::new();
    let mut environment = environment(&[(&ahead, "web-1"), (&right, "web-2")]);
    environment.set_variable("TOKEN_OF_NOBODY", "x");
    let survey = environment.run(&["hosts", "--json"]);
    survey.assert_exit(0);
    let seconds = host(&survey.json(), "web-1")["clock-seconds"].as_i64().unwrap();
    assert!((895..=905).contains(&seconds), "{seconds}");
    survey.assert_stderr_contains("the clock of web-1 is ");
    assert!(!survey.stderr.contains("web-2"), "{}", survey.stderr);
    // A deployment warns once, and goes on.
    let deployed = environment.run(&["--local", "--release", "r1"]);
    deployed.assert_exit(0);
    assert_eq!(deployed.stderr.matches("the clock of web-1 is ").count(), 1, "{}", deployed.stderr);
}
