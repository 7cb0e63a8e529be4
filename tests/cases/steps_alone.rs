//! Each module by `runner step`, as its page has the command: without a plan, once more with nothing to do.
//!
//! The commands of systemd.md, container.md, compose.md, pull.md and verify.md are run in the files of these modules.

use std::fs;

use crate::support::{
    NginxServer, RunnerOutput, SupervisordServer, TestEnvironment, doc_blocks::fenced_block, free_ports,
};

/// Runs the command of a page, with these texts replaced.
#[track_caller]
fn run_command(
    environment: &TestEnvironment,
    page: &str,
    start: &str,
    replacements: &[(&str, String)],
) -> RunnerOutput {
    let mut command = fenced_block(page, start);
    for (from, to) in replacements {
        assert!(command.contains(from), "{command} has no {from}");
        command = command.replace(from, to);
    }
    let output = environment.run_script(&command.replace("runner step", "\"$0\" step"));
    output.assert_exit(0);
    output
}

#[test]
fn configure_runs_alone() {
    let environment = TestEnvironment::with_plan("");
    environment.write("conf/site.j2", "listen {{ port }};\n");
    for _ in 0..2 {
        run_command(&environment, "docs/configure.md", "runner step configure", &[]);
        assert_eq!(environment.read("etc/site.conf"), "listen 8080;\n");
    }
}

#[test]
fn supervisord_runs_alone() {
    let (environment, supervisord) = (TestEnvironment::with_plan(""), SupervisordServer::new());
    let [a, b] = free_ports().map(|port| port.to_string());
    let root = environment.path("srv");
    fs::create_dir(&root).unwrap();
    let replacements = [
        ("8001", a),
        ("8002", b),
        ("/srv/shop", root.display().to_string()),
        ("/etc/supervisor/conf.d", supervisord.path("conf.d").display().to_string()),
        ("/run/supervisor.sock", supervisord.path("supervisor.sock").display().to_string()),
        ("{port}\"]}", "{port}\"], \"every\": \"50ms\", \"stay\": \"100ms\"}".to_owned()),
    ];
    for _ in 0..2 {
        run_command(&environment, "docs/supervisord.md", "runner step supervisord", &replacements);
        let programs = supervisord.programs();
        assert!(
            matches!(&programs[..], [program] if program.starts_with("step-supervisord-default-a")),
            "{programs:?}"
        );
    }
    assert!(environment.read("srv/slots/a/slot.json").contains("\"state\":\"ready\""));
}

#[test]
fn switch_runs_alone() {
    let environment = TestEnvironment::with_plan("");
    let root = environment.path("srv").display().to_string();
    environment.write("srv/slots/b/VERSION", "r1\n");
    let nginx =
        NginxServer::with_configuration(|port| format!("server {{ listen 127.0.0.1:{port}; root {root}/live; }}"));
    let replacements = [("/srv/shop", root.clone()), ("127.0.0.1:8080", nginx.address())];
    for _ in 0..2 {
        run_command(&environment, "docs/zero-downtime.md", "runner step switch", &replacements);
        assert_eq!(environment.read("srv/live/VERSION"), "r1\n");
    }
}

#[test]
fn migrate_runs_alone() {
    let environment = TestEnvironment::with_plan("");
    for _ in 0..2 {
        run_command(&environment, "docs/migrate.md", "runner step migrate", &[]);
        assert!(environment.exists("shop.db"));
    }
}

#[test]
fn run_runs_alone() {
    let environment = TestEnvironment::with_plan("");
    environment.write("srv/build.sh", "echo built >>built\n");
    let root = environment.path("srv").display().to_string();
    run_command(&environment, "docs/plan.md", "runner step run", &[("/srv/shop", root)]);
    assert_eq!(environment.read("srv/built"), "built\n");
}
