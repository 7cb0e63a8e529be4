//! `run` knows its inputs, and tells truthfully what ran: scripts that change, programs that are killed, markers, and an upgrade
//! of the runner between two attempts.

use contract::hash::Blake3Hash;
use journal::{
    JournalEvent,
    event::{Fingerprint, JournalEntry},
    line,
};

use crate::support::TestEnvironment;

const DEPLOY: &[&str] = &["--local", "--release", "r1"];
const JOURNAL: &str = ".pawl/shop/default/attempt-000001.journal";

/// A plan whose step runs `work/warm.sh`, followed by a check that fails until `work/ok` exists.
fn plan(with: &str) -> String {
    format!(
        r#"version: 1
app: shop
steps:
  warm:
    uses: run
    trust: host
    with: {{ program: /bin/sh, args: [warm.sh], dir: work{with} }}
    grants:
      dirs: {{ work: "./work:ro", app: ./app }}
      programs: [[/bin/sh, warm.sh]]
      env: {{ PATH: /usr/bin:/bin }}
  check:
    uses: verify
    with: {{ files: [{{ path: ok, in: work }}], tries: 1 }}
    grants: {{ dirs: {{ work: "./work:ro" }} }}
"#
    )
}

fn environment(with: &str, script: &str) -> TestEnvironment {
    let environment = TestEnvironment::with_plan(&plan(with));
    environment.write("work/warm.sh", script);
    std::fs::create_dir_all(environment.path("app")).unwrap();
    environment
}

/// How often the script came to its end.
fn runs(environment: &TestEnvironment) -> usize {
    if environment.exists("app/runs") { environment.read("app/runs").lines().count() } else { 0 }
}

#[test]
fn script_that_was_fixed_runs_again() {
    let environment = environment("", "echo broken >> ../app/runs\n");
    environment.deploy("r1", &[]).assert_exit(1);
    // As it is, it is done in this run.
    environment.deploy("r1", &[]).assert_exit(1).assert_decisions(&["warm skip trusted", "check run failed-before"]);
    environment.write("work/warm.sh", "echo fixed >> ../app/runs\n");
    environment.write("work/ok", "");
    environment.deploy("r1", &[]).assert_exit(0).assert_decisions(&["warm run changed", "check run failed-before"]);
    assert_eq!(environment.read("app/runs"), "broken\nfixed\n");
    let why = environment.run(&["why", "warm"]);
    assert!(why.stdout.contains("warm.sh changed"), "{}", why.stdout);
}

#[test]
fn listed_inputs_count_and_others_do_not() {
    let environment = environment(", inputs: [app/conf, work/list.txt]", "echo run >> ../app/runs\n");
    environment.write("work/list.txt", "a\n");
    environment.write("app/conf/deep/x.conf", "1\n");
    environment.deploy("r1", &[]).assert_exit(1);
    let next = |expected: &str| {
        environment.deploy("r1", &[]).assert_exit(1).assert_decisions(&[expected, "check run failed-before"]);
    };
    next("warm skip trusted");
    environment.write("app/conf/deep/x.conf", "2\n");
    next("warm run changed");
    environment.write("work/list.txt", "b\n");
    next("warm run changed");
    environment.write("work/other.txt", "not an input\n");
    environment.write("app/other", "not an input\n");
    next("warm skip trusted");
    std::fs::remove_dir_all(environment.path("app/conf")).unwrap();
    next("warm run changed");
    std::fs::remove_file(environment.path("work/list.txt")).unwrap();
    let missing = environment.run(DEPLOY);
    missing.assert_exit(2).assert_stderr_contains("error[P0204]").assert_stderr_contains("work/list.txt");
}

/// The script kills the runner after half of its work.
const KILLED_HALFWAY: &str = "mkdir -p ../app/out; test -e ../app/calm || { kill -9 $(cut -d ' ' -f 4 /proc/$PPID/stat); exit; }; echo end >> ../app/runs\n";

#[test]
fn created_path_of_a_killed_program_is_not_taken_for_its_success() {
    let environment = environment(", creates: app/out", KILLED_HALFWAY);
    assert_eq!(environment.run(DEPLOY).code, None, "it was killed");
    let stopped = environment.run(DEPLOY);
    stopped.assert_exit(3).assert_stderr_contains("error[P0402]");
    // The operator looks, cleans up, and lets it run.
    std::fs::remove_dir_all(environment.path("app/out")).unwrap();
    environment.write("app/calm", "");
    environment.write("work/ok", "");
    let before = runs(&environment);
    environment.deploy("r1", &["--accept-drift", "warm"]).assert_exit(0);
    assert_eq!(runs(&environment), before + 1);

    let environment = self::environment(", creates: app/out, repeatable: true", KILLED_HALFWAY);
    assert_eq!(environment.run(DEPLOY).code, None, "it was killed");
    environment.write("work/ok", "");
    environment.deploy("r1", &[]).assert_exit(0).assert_decisions(&["warm run interrupted", "check run never-ran"]);
}

#[test]
fn existing_path_of_another_release_is_reported_as_skipped() {
    let environment = environment(", creates: app/out", "mkdir ../app/out; echo end >> ../app/runs\n");
    environment.write("work/ok", "");
    environment.run(DEPLOY).assert_exit(0);
    let second = environment.run(&["--local", "--release", "r2"]);
    second.assert_exit(0);
    second.assert_stderr_contains("nothing to do: found app/out");
    assert!(second.stdout.contains("(1 ran, 1 skipped)"), "the check ran, the program did not: {}", second.stdout);
    assert_eq!(runs(&environment), 1);
}

#[test]
fn marker_holds_for_its_release_and_inputs() {
    let environment = environment(", marker: app/markers/warm", "echo end >> ../app/runs\n");
    environment.write("work/ok", "");
    environment.run(DEPLOY).assert_exit(0);
    let marker: serde_json::Value = serde_json::from_str(&environment.read("app/markers/warm")).unwrap();
    assert_eq!((&marker["release"]["label"], &marker["finished"]), (&"r1".into(), &true.into()));
    assert!(marker["inputs"].is_string() && marker["key"].is_string(), "{marker}");
    // A new run of the same release finds it. `creates` or nothing could not.
    environment.deploy("r1", &[]).assert_exit(0).assert_decisions(&["warm skip held", "check skip held"]);
    environment.write("work/warm.sh", "echo edited >> ../app/runs\n");
    environment.deploy("r1", &[]).assert_exit(0).assert_decisions(&["warm run changed", "check run upstream-ran"]);
    environment.deploy("r2", &[]).assert_exit(0).assert_decisions(&["warm run changed", "check run changed"]);
    assert_eq!(environment.read("app/runs"), "end\nedited\nedited\n");
    // Without it, the effect is taken to be gone.
    std::fs::remove_file(environment.path("app/markers/warm")).unwrap();
    environment.deploy("r2", &[]).assert_exit(0).assert_decisions(&["warm run absent", "check run upstream-ran"]);
}

#[test]
fn marker_of_a_killed_program_is_in_doubt() {
    let environment = environment(", marker: app/warm", KILLED_HALFWAY);
    assert_eq!(environment.run(DEPLOY).code, None, "it was killed");
    let stopped = environment.run(DEPLOY);
    stopped.assert_exit(3).assert_stderr_contains("says that the program was started, and not that it finished");
    environment.write("app/calm", "");
    environment.write("work/ok", "");
    environment.deploy("r1", &["--accept-drift", "warm"]).assert_exit(0);
    environment.deploy("r1", &[]).assert_exit(0).assert_decisions(&["warm skip held", "check skip held"]);
    // A program that fails leaves no marker: it runs again.
    let environment = self::environment(", marker: app/warm", "echo end >> ../app/runs; exit 7\n");
    environment.deploy("r1", &[]).assert_exit(1);
    assert!(!environment.exists("app/warm"));
    environment.deploy("r1", &[]).assert_exit(1).assert_decisions(&["warm run failed-before"]);
}

#[test]
fn evidence_that_contradicts_itself_is_rejected() {
    let cases = [
        ", marker: app/m, creates: app/x",
        ", marker: app/m, probe: [/bin/true]",
        ", creates: app/x, probe: [/bin/true]",
    ];
    for both in cases {
        environment(both, "").run(DEPLOY).assert_exit(2).assert_stderr_contains("error[P0121]");
    }
    let own_input = environment(", marker: app/out/m, inputs: [app/out]", "echo end >> ../app/runs\n");
    own_input.run(DEPLOY).assert_exit(2).assert_stderr_contains("lies in the input `app/out`");
    assert_eq!(runs(&own_input), 0);
    let read_only = environment(", marker: work/m", "");
    read_only.run(DEPLOY).assert_exit(2).assert_stderr_contains("error[P0122]");
}

/// Rewrites the journal as an older runner would have written it: with another module, and without the files among the inputs.
fn downgrade(environment: &TestEnvironment) {
    let (mut prev, mut written) = (None, Vec::new());
    for line in environment.read(JOURNAL).lines() {
        let (mut entry, _) = line::decode(line.as_bytes()).unwrap();
        if let JournalEvent::Intent { fingerprint: Fingerprint(components), .. } = &mut entry.event {
            components.retain(|name, _| !name.starts_with("input:"));
            components.insert("module".to_owned(), Blake3Hash::of(b"the module of an older runner"));
        }
        let line = line::encode(&JournalEntry { prev, ..entry });
        prev = Some(line.hash);
        written.extend_from_slice(&line.bytes);
    }
    environment.write(JOURNAL, written);
}

#[test]
fn upgrade_of_the_runner_probes_before_it_repeats_a_step() {
    let script = "echo end >> ../app/runs\n";
    // It has a probe.
    let environment = environment(", marker: app/warm", script);
    environment.deploy("r1", &[]).assert_exit(1);
    downgrade(&environment);
    environment.deploy("r1", &[]).assert_exit(1).assert_decisions(&["warm skip held", "check run failed-before"]);
    assert_eq!(runs(&environment), 1);

    // It has none, and must not run twice.
    let environment = self::environment("", script);
    environment.deploy("r1", &[]).assert_exit(1);
    downgrade(&environment);
    let stopped = environment.run(DEPLOY);
    stopped.assert_exit(3).assert_stderr_contains("error[P0402]").assert_stderr_contains("an older runner ran it");
    assert_eq!(runs(&environment), 1);
    environment.write("work/ok", "");
    environment.deploy("r1", &["--accept-drift", "warm"]).assert_exit(0);
    assert_eq!(runs(&environment), 2);

    // It may run twice.
    let environment = self::environment(", repeatable: true", script);
    environment.deploy("r1", &[]).assert_exit(1);
    downgrade(&environment);
    environment.deploy("r1", &[]).assert_exit(1).assert_decisions(&["warm run changed", "check run failed-before"]);

    // What the operator changes is no upgrade.
    let environment = self::environment("", script);
    environment.deploy("r1", &[]).assert_exit(1);
    downgrade(&environment);
    environment.edit("deploy.yml", "dir: work }", "dir: work, env: {} }");
    environment.deploy("r1", &[]).assert_exit(1).assert_decisions(&["warm run changed", "check run failed-before"]);
}
