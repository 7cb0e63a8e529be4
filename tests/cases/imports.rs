//! A live release without a history: it is said, and can be added to the history.

use std::fs;

use crate::support::TestEnvironment;

/// The example with r1 live, whose history was deleted.
fn without_history() -> TestEnvironment {
    let environment = TestEnvironment::deployed();
    fs::remove_dir_all(environment.path(".pawl")).unwrap();
    environment
}

#[test]
fn live_release_without_a_history_is_said_everywhere() {
    let environment = without_history();
    let status = environment.run(&["status"]);
    assert!(status.stdout.contains("unknown:"), "{}", status.stdout);
    let status = environment.run(&["status", "--json"]).json();
    assert!(status[0]["unrecorded"]["digest"].as_str().unwrap().starts_with("sha256:"), "{status}");
    environment
        .run(&["rollback", "--local"])
        .assert_exit(2)
        .assert_stderr_contains("which is not on record here")
        .assert_stderr_contains("runner import --local --release LABEL");

    environment.edit("deploy.yml", "      files:\n", "      files:\n        - { path: broken, exists: false }\n");
    environment.write("deploy.yml", environment.read("deploy.yml") + "on-failure: rollback\n");
    environment.write("deploy/test/broken", "");
    environment.pack("r2");
    let held = environment.run(&["--local", "--release", "r2"]);
    held.assert_exit(1).assert_stderr_contains("warning: ").assert_stderr_contains("a rollback can't go back to it");
    held.assert_stderr_contains("not rolled back: before this one, ");
    assert!(!held.stderr.contains("no release was live before"), "{}", held.stderr);
}

#[test]
fn imported_release_is_live_and_verified_and_can_be_rolled_back_to() {
    let environment = without_history();
    environment.edit("deploy.yml", "  verify:\n", RESTART_AND_VERIFY);
    let deployed = || {
        let mut tree = environment.tree();
        tree.retain(|path, _| path.starts_with(environment.path("deploy")));
        tree
    };
    let before = deployed();
    let imported = environment.deploy_with("import", "r1");
    imported.assert_exit(0).assert_decisions(&[
        "pull adopt unconfirmed",
        "pull skip held",
        "migrate adopt unconfirmed",
        "migrate skip held",
        "switch adopt unconfirmed",
        "switch skip held",
        "restart skip not-selected",
        "verify run never-ran",
    ]);
    assert_eq!(deployed(), before, "nothing was changed");
    let status = environment.run(&["status", "--json"]).json();
    assert_eq!((&status[0]["live"]["release"]["label"], &status[0]["live"]["verified"]), (&"r1".into(), &true.into()));
    let history = environment.run(&["history"]);
    assert!(history.stdout.contains("(import)"), "{}", history.stdout);

    environment.pack("r2");
    environment.deploy("r2", &[]).assert_exit(0);
    environment.run(&["rollback", "--local"]).assert_exit(0);
    assert_eq!(environment.read("deploy/test/current/VERSION").trim(), "r1");
    environment.deploy_with("import", "r1").assert_exit(2).assert_stderr_contains("error[P0228]");
}

#[test]
fn import_runs_no_hooks_and_prunes_nothing() {
    let environment = TestEnvironment::new();
    for label in ["r1", "r2"] {
        environment.pack(label);
        environment.deploy(label, &[]).assert_exit(0);
    }
    fs::remove_dir_all(environment.path(".pawl")).unwrap();
    let hook = |name: &str| format!("  {name}:\n    - program: [/bin/sh, -c, \"echo {name} >> hooks-ran\"]\n");
    let hooks = ["before", "after", "on-failure"].map(hook).concat();
    let hooks = hooks.replace("hooks-ran", environment.path("hooks-ran").to_str().unwrap());
    environment.write("deploy.yml", format!("{}keep: 1\nhooks:\n{hooks}", environment.read("deploy.yml")));
    let before = environment.list("deploy/test/releases");
    assert_eq!(before.len(), 2);
    environment.deploy_with("import", "r2").assert_exit(0);
    assert_eq!(environment.list("deploy/test/releases"), before, "r1 was never verified here, and stays");
    assert!(!environment.exists("hooks-ran"), "{}", environment.read("hooks-ran"));

    // Neither do they when it fails.
    fs::remove_dir_all(environment.path(".pawl")).unwrap();
    environment.write("deploy/test/current/index.html", "edited by hand\n");
    assert_ne!(environment.deploy_with("import", "r2").code, Some(0));
    assert!(!environment.exists("hooks-ran"), "{}", environment.read("hooks-ran"));

    // A deployment does both.
    environment.pack("r3");
    environment.deploy("r3", &["--accept-drift", "pull"]).assert_exit(0);
    assert_eq!(environment.read("hooks-ran"), "before\nafter\n");
    assert!(environment.list("deploy/test/releases").len() < 3);
}

/// A step that an import can't look at, before the check.
const RESTART_AND_VERIFY: &str = r#"  restart:
    uses: run
    trust: host
    with: { program: /bin/sh, args: [-c, "echo restarted >> restarts"], repeatable: true }
    grants: { programs: [[/bin/sh, -c, "**"]] }
  verify:
"#;

#[test]
fn release_with_another_digest_or_changed_files_is_not_imported() {
    let environment = without_history();
    environment.pack("r2");
    environment.deploy_with("import", "r2").assert_exit(2).assert_stderr_contains("error[P0227]");
    environment.write(&format!("deploy/test/{}/VERSION", environment.live_target()), "edited by hand\n");
    let refused = environment.deploy_with("import", "r1");
    refused.assert_exit(2).assert_stderr_contains("error[P0227]").assert_stderr_contains("VERSION");
    let status = environment.run(&["status", "--json"]).json();
    assert_eq!(status[0]["live"], serde_json::Value::Null);
}
