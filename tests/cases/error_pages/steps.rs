//! Errors of steps: failed, lost, interrupted, in doubt, not undone.

use std::{fs, os::unix::fs::symlink};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::{check_error, check_page};
use crate::support::{TestEnvironment, wait_until};

const DEPLOY: &[&str] = &["--local", "--release", "r1"];

/// A step that says that it began and does not end, and one after it.
const INDEX_PLAN: &str = r#"version: 1
app: shop
steps:
  index:
    uses: run
    trust: host
    with: { program: /bin/sh, args: [index.sh], dir: work }
    grants: { dirs: { work: ".:ro" }, programs: [[/bin/sh, index.sh]] }
  warm:
    uses: run
    trust: host
    with: { program: /bin/true }
    grants: { programs: [[/bin/true]] }
"#;
const INDEX_SCRIPT: &str = "echo $$ > began.tmp && mv began.tmp began\nexec sleep 60\n";

fn slow_index() -> TestEnvironment {
    let environment = TestEnvironment::with_plan(INDEX_PLAN);
    environment.write("index.sh", INDEX_SCRIPT);
    environment
}

/// The example with a check that fails for r2 and a rollback, deployed as r1.
fn failing_r2(steps: &str) -> TestEnvironment {
    let environment = TestEnvironment::new();
    environment.edit("deploy.yml", "      files:\n", "      files:\n        - { path: broken, exists: false }\n");
    environment.edit("deploy.yml", "  verify:\n", &format!("{steps}  verify:\n"));
    environment.write("deploy.yml", environment.read("deploy.yml") + "on-failure: rollback\n");
    environment.pack("r1");
    environment.deploy("r1", &[]).assert_exit(0);
    environment.pack("r2");
    environment.write("deploy/test/broken", "");
    environment
}

#[test]
fn p0301_failed_step() {
    let environment = TestEnvironment::deployed();
    environment.pack("r2");
    environment.write("migrations/0003_orders.sql", "CREATE TABLE order (id INTEGER PRIMARY KEY);\n");
    check_page("P0301", &environment, &["--local", "--release", "r2"]);
}

#[test]
fn p0302_step_without_a_result() {
    let environment = slow_index();
    environment.edit("deploy.yml", "    trust: host\n", "    trust: host\n    timeout: 1s\n");
    check_page("P0302", &environment, DEPLOY);
}

#[test]
fn p0303_interrupted_step() {
    let environment = slow_index();
    let child = environment.start_with_stderr(DEPLOY);
    wait_until("the step began", || environment.exists("began"));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    check_error("P0303", &environment, &environment.output_of(child));
}

/// The link led to a folder whose name is a secret, and the receipt would say so.
#[test]
fn p0304_returned_secret() {
    let mut environment = TestEnvironment::new();
    environment.edit("deploy.yml", "app: shop\n", "app: shop\nsecrets: { TOKEN: env:TOKEN }\n");
    environment.set_variable("TOKEN", "hunter2-correct-horse");
    environment.pack("r1");
    environment.write("deploy/test/hunter2-correct-horse/index.html", "");
    symlink("hunter2-correct-horse", environment.path("deploy/test/current")).unwrap();
    check_page("P0304", &environment, DEPLOY);
}

#[test]
fn p0401_drift() {
    let environment = TestEnvironment::deployed();
    let link = environment.path("deploy/test/current");
    fs::create_dir(environment.path("deploy/test/releases/other")).unwrap();
    fs::remove_file(&link).unwrap();
    symlink("releases/other", link).unwrap();
    check_page("P0401", &environment, DEPLOY);
}

#[test]
fn p0402_unknown_outcome() {
    let environment = slow_index();
    let mut child = environment.start(DEPLOY);
    wait_until("the step began", || environment.exists("began"));
    child.kill().unwrap();
    child.wait().unwrap();
    check_page("P0402", &environment, DEPLOY);
}

#[test]
fn p0403_failed_probe() {
    let environment = TestEnvironment::with_plan(INDEX_PLAN);
    environment.write("index.sh", "exit 0\n");
    environment.write("probe.sh", "test -e hangs && exec sleep 60\nexit 0\n");
    environment.edit("deploy.yml", "dir: work }", "dir: work, probe: [/bin/sh, probe.sh] }");
    environment.edit(
        "deploy.yml",
        "programs: [[/bin/sh, index.sh]]",
        "programs: [[/bin/sh, index.sh], [/bin/sh, probe.sh]]",
    );
    environment.edit("deploy.yml", "    trust: host\n", "    trust: host\n    timeout: 1s\n");
    environment.run(DEPLOY).assert_exit(0);
    environment.write("hangs", "");
    check_page("P0403", &environment, DEPLOY);
}

/// Somebody moves the link after the switch and before the check.
#[test]
fn p0404_step_that_cannot_be_undone() {
    let script = "test ! -e broken || ln -sfn releases/hotfix current";
    let step = json!({
        "uses": "run", "trust": "host", "with": { "program": "/bin/sh", "args": ["-c", script], "dir": "app", "repeatable": true },
        "grants": { "dirs": { "app": "${{ vars.root }}" }, "programs": [["/bin/sh", "-c", script]] },
    });
    check_page("P0404", &failing_r2(&format!("  hotfix: {step}\n")), &["--local", "--release", "r2"]);
}

#[test]
fn p0405_irreversible_step() {
    let step = json!({
        "uses": "run", "trust": "host", "irreversible": true, "with": { "program": "/bin/true", "repeatable": true },
        "grants": { "programs": [["/bin/true"]] },
    });
    check_page("P0405", &failing_r2(&format!("  mail: {step}\n")), &["--local", "--release", "r2"]);
}

/// The folder of the state was copied to a machine that has another home.
#[test]
fn p0407_step_of_another_machine() {
    let environment = TestEnvironment::with_plan(INDEX_PLAN);
    environment.write("index.sh", "exit 0\n");
    environment.edit("deploy.yml", "program: /bin/true }", "program: /bin/false }");
    environment.edit("deploy.yml", "[[/bin/true]]", "[[/bin/false]]");
    environment.run(DEPLOY).assert_exit(1);
    check_page("P0407", &environment.another_machine(), DEPLOY);
}

#[test]
fn p0408_step_before_a_failed_check() {
    let environment = TestEnvironment::new();
    environment.edit("deploy.yml", "      files:\n", "      files:\n        - { path: broken, exists: false }\n");
    let step = json!({
        "uses": "run", "trust": "host", "with": { "program": "/bin/true" }, "grants": { "programs": [["/bin/true"]] },
    });
    environment.edit("deploy.yml", "  verify:\n", &format!("  mail: {step}\n  verify:\n"));
    environment.pack("r1");
    environment.write("deploy/test/broken", "");
    environment.run(DEPLOY).assert_exit(1);
    check_page("P0408", &environment, DEPLOY);
}

#[test]
fn p0227_other_live_release() {
    let environment = TestEnvironment::deployed();
    environment.pack("r2");
    fs::remove_dir_all(environment.path(".pawl")).unwrap();
    check_page("P0227", &environment, &["import", "--local", "--release", "r2"]);
}

#[test]
fn p0228_nothing_to_import() {
    check_page("P0228", &TestEnvironment::deployed(), &["import", "--local", "--release", "r1"]);
}

#[test]
fn p0305_program_of_an_earlier_attempt() {
    let environment = TestEnvironment::deployed();
    // Whatever can't be read may name a program that runs.
    std::fs::create_dir(environment.path(".pawl/shop/test/programs")).unwrap();
    check_page("P0305", &environment, DEPLOY);
}

#[test]
fn p0230_step_that_cannot_be_resolved_so() {
    let arguments = ["resolve", "--local", "migrate", "--as", "not-begun", "--message", "checked by hand"];
    check_page("P0230", &TestEnvironment::deployed(), &arguments);
}

/// The step after it needs what the killed one did not return.
#[test]
fn p0231_outputs_that_nobody_knows() {
    let environment = TestEnvironment::with_plan(INDEX_PLAN);
    environment.write("index.sh", "kill -9 $(cut -d ' ' -f 4 /proc/$PPID/stat)\n");
    let args = "program: /bin/true, args: [\"${{ steps.index.status }}\"] }";
    environment.edit("deploy.yml", "program: /bin/true }", args);
    environment.edit("deploy.yml", "[[/bin/true]]", "[[/bin/true, \"*\"]]");
    environment.run(DEPLOY);
    let arguments = ["resolve", "--local", "index", "--as", "done", "--message", "checked by hand"];
    check_page("P0231", &environment, &arguments);
}

#[test]
fn p0324_refused_rehearsal() {
    let environment = TestEnvironment::with_plan(
        r#"version: 1
app: shop
steps:
  configure:
    with:
      templates: { conf/site.j2: etc/site.conf }
      values: { prot: 8080 }
    grants:
      dirs: { conf: "./conf:ro" }
      renders: { etc: ./etc }
"#,
    );
    environment.write("conf/site.j2", "server {\n  listen {{ port }};\n}\n");
    check_error("P0324", &environment, &environment.run(DEPLOY));
    assert!(!environment.exists("etc/site.conf"));
}
