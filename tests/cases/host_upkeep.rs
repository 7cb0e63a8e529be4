//! What hosts get, keep and lose: agents for their machine, modules, sent files, old releases. Real sshds on this machine.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::support::{
    DockerRegistry, RunnerOutput, SshHost, TestEnvironment, TestRegistryAuth, wait_until, write_ssh_config,
};

/// A plan for these hosts that pulls, switches, and does what `steps` say.
fn fleet(hosts: &[&SshHost], steps: &str) -> TestEnvironment {
    let host = |(index, host): (usize, &&SshHost)| {
        let (at, root) = (host.address(), host.path("srv").display().to_string());
        format!("        - {{ at: \"{at}\", name: web-{}, vars: {{ root: {root} }} }}\n", index + 1)
    };
    let listed: String = hosts.iter().enumerate().map(host).collect();
    let environment = TestEnvironment::with_plan(&format!(
        r#"version: 1
app: shop
dirs: {{ app: "${{{{ host.vars.root }}}}", dist: "./dist:ro", migrations: "./migrations:ro" }}
environments:
  test:
    vars: {{ link: current }}
    ssh: {{ config: ./ssh_config }}
    hosts:
      web:
{listed}steps:
  pull:
    on: web
    with: {{ from: "file:dist/shop-${{{{ release }}}}.tar.zst", into: app }}
    grants: {{ dirs: [app, dist] }}
  switch: {{ on: web, with: {{ link: "${{{{ vars.link }}}}" }}, grants: {{ dirs: [app] }} }}
{steps}"#
    ));
    write_ssh_config(&environment.path(""), hosts);
    for host in hosts {
        fs::create_dir(host.path("srv")).unwrap();
    }
    environment
}

fn deploy(environment: &TestEnvironment, label: &str) -> RunnerOutput {
    environment.pack(label);
    let deployed = environment.run(&["--local", "--release", label]);
    deployed.assert_exit(0);
    deployed
}

/// The names in a folder of a host.
fn names(host: &SshHost, folder: &str) -> Vec<String> {
    let entries = fs::read_dir(host.path(folder)).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The labels of the releases on a host.
fn releases(host: &SshHost) -> Vec<String> {
    let names = names(host, "srv/releases").into_iter();
    names.filter_map(|name| Some(name.rsplit_once('-')?.0.to_owned())).collect()
}

/// The compiled modules that a host keeps.
fn compiled_modules(host: &SshHost) -> Vec<PathBuf> {
    let names = names(host, "cache/pawl/modules").into_iter();
    names.filter(|name| name.ends_with(".cwasm")).map(|name| host.path("cache/pawl/modules").join(name)).collect()
}

/// A step that checks with this module what is live on each host.
fn check_step(uses: &str) -> String {
    format!(
        "  check:\n    uses: {uses}\n    on: web\n    \
         with: {{ files: [{{ path: current/VERSION, equals: \"${{{{ release }}}}\" }}], tries: 1 }}\n    grants: {{ dirs: [\"app:ro\"] }}\n"
    )
}

/// The host itself never asks the registry.
#[test]
fn module_of_a_registry_is_sent_to_the_host() {
    let registry = DockerRegistry::start(TestRegistryAuth::Anonymous);
    let uses = registry.push("steps/check", &[("application/wasm", &TestEnvironment::component("verify"))]);
    let host = SshHost::new();
    let environment = fleet(&[&host], &check_step(&uses));
    environment.run(&["modules"]).assert_exit(0);
    drop(registry);
    deploy(&environment, "r1");
    assert_eq!(compiled_modules(&host).len(), 1);
}

#[test]
fn own_modules_run_on_hosts_and_are_compiled_there_once() {
    let hosts = [SshHost::new(), SshHost::new()];
    let environment = fleet(&[&hosts[0], &hosts[1]], &check_step("./check.wasm"));
    environment.write("check.wasm", TestEnvironment::component("verify"));
    deploy(&environment, "r1");
    let compiled: Vec<_> = hosts.iter().flat_map(compiled_modules).collect();
    assert_eq!(compiled.len(), 2);
    let inodes = || compiled.iter().map(|path| path.metadata().unwrap().ino()).collect::<Vec<_>>();
    let before = inodes();
    deploy(&environment, "r2");
    assert_eq!(inodes(), before, "compiled once");
    // What lies on the host is run only if it is what was sent: the next run sends it again.
    wait_until("the agents have ended", || hosts[0].agents().is_empty());
    let size = TestEnvironment::component("verify").len() as u64;
    let files = fs::read_dir(hosts[0].path("cache/pawl/shipped/files")).unwrap().map(|entry| entry.unwrap().path());
    let sent = files.into_iter().find(|path| path.metadata().unwrap().len() == size).unwrap();
    fs::remove_file(&sent).unwrap();
    fs::write(&sent, "other").unwrap();
    let refused = environment.run(&["--local", "--release", "r2"]);
    refused.assert_exit(2);
    refused.assert_stderr_contains("its file on the host was changed");
    deploy(&environment, "r2");
    // Another module of the same name.
    fs::remove_file(environment.path("deploy.lock")).unwrap();
    let own_section = [0, 2, 1, b'x'];
    environment.write("check.wasm", [TestEnvironment::component("verify"), own_section.to_vec()].concat());
    deploy(&environment, "r2");
    assert_eq!(compiled_modules(&hosts[1]).len(), 2);
}

#[test]
fn old_releases_are_pruned_on_each_host_that_can_be_reached() {
    let hosts = [SshHost::new(), SshHost::new()];
    let environment = fleet(&[&hosts[0], &hosts[1]], "");
    for label in ["r1", "r2", "r3", "r4"] {
        deploy(&environment, label);
    }
    // What a host shows stays, on this host alone.
    let folder = |label: &str| {
        let names = names(&hosts[0], "srv/releases").into_iter();
        names.into_iter().find(|name| name.starts_with(&format!("{label}-"))).unwrap()
    };
    let (first, second) = (folder("r1"), folder("r2"));
    std::os::unix::fs::symlink(Path::new("releases").join(&first), hosts[0].path("srv/pinned")).unwrap();
    // So does what one of its slots holds.
    let digest = fs::read_to_string(hosts[1].path("srv/releases").join(&second).join(".pawl-digest")).unwrap();
    fs::create_dir_all(hosts[1].path("srv/slots/b")).unwrap();
    let record = format!("{{\"release\":\"{}\"}}", digest.split(' ').next().unwrap());
    fs::write(hosts[1].path("srv/slots/b/slot.json"), record).unwrap();
    let dry = environment.run(&["prune", "--dry-run", "--keep", "1"]);
    dry.assert_exit(0);
    let path = |host: usize, name: &str| hosts[host].path("srv/releases").join(name).display().to_string();
    for line in [
        format!("keep    {} on web-1: r1 is what a link points to\n", path(0, &first)),
        format!(
            "remove  {} on web-2: r1 was verified, and is not among the last 1 verified releases\n",
            path(1, &first)
        ),
        format!("keep    {} on web-2: r2 is in slot b\n", path(1, &second)),
        format!("keep    {} on web-2: r4 is live\n", path(1, &folder("r4"))),
    ] {
        assert!(dry.stdout.contains(&line), "{line}\n{}", dry.stdout);
    }
    let listed = environment.run(&["prune", "--dry-run", "--keep", "1", "--json"]).json();
    let on_second = listed["releases"].as_array().unwrap().iter().filter(|release| release["host"] == "web-2");
    assert_eq!(on_second.count(), 4, "{listed}");
    assert_eq!(releases(&hosts[0]).len(), 4, "nothing was removed");

    let pruned = environment.run(&["prune", "--local", "--keep", "1"]);
    pruned.assert_exit(0);
    assert_eq!(pruned.stdout, format!("removed {} on web-1\nremoved {} on web-2\n", path(0, &second), path(1, &first)));
    assert_eq!(
        (releases(&hosts[0]), releases(&hosts[1])),
        (vec!["r1".into(), "r3".into(), "r4".into()], vec!["r2".into(), "r3".into(), "r4".into()])
    );
    // The hosts go on after that.
    deploy(&environment, "r5");
    fs::remove_file(hosts[0].path("srv/pinned")).unwrap();
    hosts[1].stop();
    let pruned = environment.run(&["prune", "--local", "--keep", "1", "--json"]);
    pruned.assert_exit(0);
    pruned.assert_stderr_contains("warning: host `web-2` (127.0.0.1:");
    pruned.assert_stderr_contains(") can't be reached; its old releases stay\n");
    let json = pruned.json();
    assert_eq!(json["hosts"].as_array().unwrap().len(), 1, "{json}");
    assert_eq!(
        (&json["hosts"][0]["name"], json["hosts"][0]["removed"].as_array().unwrap().len()),
        (&"web-1".into(), 2)
    );
    assert_eq!((releases(&hosts[0]).len(), releases(&hosts[1]).len()), (2, 4));
}

#[test]
fn deployment_prunes_hosts_to_keep() {
    let host = SshHost::new();
    let environment = fleet(&[&host], "keep: 1\n");
    for label in ["r1", "r2", "r3"] {
        deploy(&environment, label);
    }
    assert_eq!(releases(&host), ["r2", "r3"]);
    // A release of another environment in the same folder stays.
    let plan = environment.read("deploy.yml");
    let environments = &plan[plan.find("  test:\n").unwrap()..plan.find("steps:\n").unwrap()];
    let other = environments.replacen("  test:\n", "  other:\n", 1).replacen("link: current", "link: other", 1);
    environment.edit("deploy.yml", "steps:\n", &format!("{other}steps:\n"));
    let deploy_to = |name: &str, label: &str| {
        environment.pack(label);
        environment.run(&["--local", "--env", name, "--release", label]).assert_exit(0);
    };
    deploy_to("other", "r4");
    fs::remove_file(host.path("srv/other")).unwrap();
    for label in ["r5", "r6", "r7"] {
        deploy_to("test", label);
    }
    assert_eq!(releases(&host), ["r4", "r6", "r7"]);
}

#[test]
fn migrations_on_a_host_are_linted_before_anything_changes() {
    let host = SshHost::new();
    let steps = "  migrate:\n    on: { hosts: web, once: true }\n    with: { dir: migrations, database: main, lint: deny }\n    \
                 grants: { dirs: [migrations], databases: { main: \"sqlite:${{ host.vars.root }}/shop.db\" } }\n";
    let environment = fleet(&[&host], "");
    let plan = environment.read("deploy.yml").replacen("  switch:", &format!("{steps}  switch:"), 1);
    environment.write("deploy.yml", plan);
    deploy(&environment, "r1");
    environment.write("migrations/0003_no_prices.sql", "ALTER TABLE product DROP COLUMN price_cents;\n");
    environment.pack("r2");
    let refused = environment.run(&["--local", "--release", "r2"]);
    refused.assert_exit(2);
    refused.assert_stderr_contains("P0323");
    refused.assert_stderr_contains("migrations/0003_no_prices.sql:1: ");
    assert_eq!(releases(&host), ["r1"], "nothing was pulled");
    environment.edit("deploy.yml", "lint: deny", "lint: warn");
    let warned = environment.run(&["--local", "--release", "r2"]);
    warned.assert_exit(0);
    warned.assert_stderr_contains("warning: migrations/0003_no_prices.sql:1: ");
    // What the database of the host has, is not linted again.
    environment.edit("deploy.yml", "lint: warn", "lint: deny");
    environment.write("migrations/0004_more.sql", "CREATE TABLE basket (id INTEGER PRIMARY KEY);\n");
    deploy(&environment, "r3");
}

/// Sets when something was last used.
fn age(path: &Path, days: u64) {
    let used = path.metadata().unwrap().modified().unwrap() - Duration::from_secs(days * 24 * 60 * 60);
    fs::File::open(path).unwrap().set_modified(used).unwrap();
}

#[test]
fn what_nobody_used_for_a_month_is_removed_from_a_host() {
    let host = SshHost::new();
    let environment = fleet(&[&host], "");
    deploy(&environment, "r1");
    let all =
        |folder: &str| names(&host, folder).into_iter().map(|name| host.path(folder).join(name)).collect::<Vec<_>>();
    let end = || wait_until("the agents have ended", || host.agents().is_empty());
    end();
    let (files, folders) = (all("cache/pawl/shipped/files"), all("cache/pawl/shipped/dirs"));
    let agent = all("cache/pawl")
        .into_iter()
        .find(|path| path.file_name().unwrap().to_string_lossy().starts_with("agent-"))
        .unwrap();
    let (old, newer) = (host.path("cache/pawl/agent-0000"), host.path("cache/pawl/agent-1111"));
    for path in [&old, &newer] {
        fs::write(path, "an agent of another build").unwrap();
    }
    for path in files.iter().chain(&folders).chain([&agent, &old]) {
        age(path, 31);
    }
    // What this deployment needs was used again. The lock of the store says that somebody else needs something.
    let lock = fs::File::open(host.path("cache/pawl/shipped/lock")).unwrap();
    lock.lock_shared().unwrap();
    deploy(&environment, "r2");
    end();
    assert!(!old.exists() && newer.exists() && agent.exists());
    let used = |path: &Path| path.metadata().unwrap().modified().unwrap();
    assert!(used(&agent) >= used(&newer), "it was used after the other one was put there");
    assert!(files.iter().chain(&folders).all(|path| path.exists()), "another agent may use them");
    drop(lock);
    deploy(&environment, "r2");
    end();
    assert!(!files.iter().chain(&folders).any(|path| path.exists()));
    assert!(!all("cache/pawl/shipped/files").is_empty(), "what is used stays");
}

/// The runner beside a folder `agents`, with a binary for this architecture that differs from it.
fn runner_with_agent(environment: &TestEnvironment, arch: &str) {
    let runner = fs::read(env!("CARGO_BIN_EXE_runner")).unwrap();
    for (name, padding) in [("bin/runner", 0), (&format!("bin/agents/runner-{arch}"), 1)] {
        let mut bytes = runner.clone();
        // Nobody reads the padding of the file's identification.
        bytes[15] = padding;
        environment.write(name, bytes);
    }
    let path = environment.path("bin/runner");
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
}

#[test]
fn host_of_another_architecture_gets_its_agent() {
    let host = SshHost::new();
    host.fake_program("uname", "aarch64");
    let environment = fleet(&[&host], "");
    environment.pack("r1");
    let run = || environment.run_in_mount_namespace(r#"shift; exec bin/runner "$@""#, &["--local", "--release", "r1"]);
    runner_with_agent(&environment, "riscv64");
    let refused = run();
    refused.assert_exit(2);
    refused.assert_stderr_contains("error[P0263]: host `web-1` is `aarch64`, and this runner is for `");
    refused.assert_stderr_contains("/bin/agents/runner-aarch64\n");
    runner_with_agent(&environment, "aarch64");
    let deployed = run();
    deployed.assert_exit(0);
    deployed.assert_stderr_contains("web-1: sending the runner (");
    assert!(host.path("srv/current/VERSION").exists());
    assert_eq!(names(&host, "cache/pawl").iter().filter(|name| name.starts_with("agent-")).count(), 1);
    let again = run();
    again.assert_exit(0);
    assert!(!again.stderr.contains("sending the runner"), "{}", again.stderr);
}

#[test]
fn too_old_c_library_is_found_before_the_runner_is_sent() {
    let host = SshHost::new();
    host.fake_program("getconf", "glibc 2.3");
    let environment = fleet(&[&host], "");
    environment.pack("r1");
    let refused = environment.run(&["--local", "--release", "r1"]);
    refused.assert_exit(2);
    refused.assert_stderr_contains("error[P0263]: host `web-1` can't run the agent");
    refused.assert_stderr_contains("or newer, and the host has 2.3");
    assert!(!refused.stderr.contains("sending the runner"), "{}", refused.stderr);
    assert_eq!(names(&host, "cache/pawl"), Vec::<String>::new());
}
