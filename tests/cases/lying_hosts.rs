//! A host that lies: between its sshd and its agent is a program that falsifies what the agent answers. It harms its own records only.

use std::{fs, process::Child, time::Duration};

use serde_json::{Value, json};

use crate::support::{RunnerOutput, SshHost, TestEnvironment, write_ssh_config};

const SECRET: &str = "correct-horse-battery";
const OTHER_SECRET: &str = "of-the-honest-host-alone";
/// What a call that changes something has in its frame.
const APPLY: &[u8] = br#""export":"apply""#;
/// The most memory of a coordinator of two hosts, in KiB, whatever a host sends.
const MAX_MEMORY_KIB: u64 = 320 << 10;

/// `web-1` is honest, `web-2` lies. Each gets a secret of its own.
struct Fleet {
    environment: TestEnvironment,
    honest: SshHost,
    liar: SshHost,
    folder: tempfile::TempDir,
}

impl Fleet {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/support/lying_agent.py");
        let command = format!("ForceCommand python3 {program} {}", folder.path().display());
        let (honest, liar) = (SshHost::new(), SshHost::with_options(&command));
        let host = |name: &str, host: &SshHost| {
            let (at, root) = (host.address(), host.path("srv"));
            fs::create_dir(&root).unwrap();
            format!("{{ at: \"{at}\", name: {name}, vars: {{ root: {} }} }}", root.display())
        };
        let mut environment = TestEnvironment::with_plan(&format!(
            r#"version: 1
app: shop
dirs: {{ app: "${{{{ host.vars.root }}}}" }}
environments:
  test:
    ssh: {{ config: ./ssh_config }}
    secrets: {{ TOKEN: env:TOKEN, OTHER: env:OTHER }}
    hosts:
      all: [{0}, {1}]
      honest: [{0}]
      liars: [{1}]
steps:
  other:
    on: honest
    program: [/bin/sh, -c, "test -n $OTHER && echo $PAWL_RELEASE > other"]
    trust: host
    with: {{ dir: app, repeatable: true }}
    grants: {{ dirs: [app], env: {{ OTHER: "${{{{ secrets.OTHER }}}}" }} }}
  restart:
    on: all
    program: [/bin/sh, -c, "echo $PAWL_RELEASE > restarted"]
    trust: host
    with: {{ dir: app, repeatable: true }}
    grants: {{ dirs: [app] }}
  token:
    on: liars
    program: [/bin/sh, -c, "test -n $TOKEN"]
    trust: host
    with: {{ dir: app, repeatable: true }}
    grants: {{ dirs: [app], env: {{ TOKEN: "${{{{ secrets.TOKEN }}}}" }} }}
"#,
            host("web-1", &honest),
            host("web-2", &liar)
        ));
        environment.set_variable("TOKEN", SECRET);
        environment.set_variable("OTHER", OTHER_SECRET);
        write_ssh_config(&environment.path(""), &[&honest, &liar]);
        fs::write(folder.path().join("secret"), SECRET).unwrap();
        Self { environment, honest, liar, folder }
    }

    /// Deploys a release while the host tells a lie.
    fn deploy(&self, release: &str, lie: &str) -> RunnerOutput {
        fs::write(self.folder.path().join("lie"), lie).unwrap();
        let run = self.environment.start_with_stderr(&["--local", "--release", release]);
        let peak = peak_memory_kib(&run);
        let output = self.environment.output_of(run);
        assert!(peak.join().unwrap() < MAX_MEMORY_KIB, "{lie}: the memory of the coordinator");
        for text in [&output.stdout, &output.stderr] {
            assert!(text.len() < 32 << 10, "{lie}: {} bytes", text.len());
            assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{lie}: {text:?}");
            assert!(!text.contains(SECRET), "{lie}: {text}");
        }
        output
    }

    /// The status of each step on a host, as the coordinator recorded it.
    fn steps_of(&self, host: &str) -> Vec<Value> {
        let status = self.environment.run(&["status", "--json"]);
        status.assert_exit(0);
        let status: Value = serde_json::from_str(&status.stdout).unwrap();
        let hosts = status[0]["hosts"].as_array().unwrap();
        let host = hosts.iter().find(|known| known["name"] == host).unwrap();
        let text = |step: &Value| json!([step["step"], step["status"], step["release"]["label"]]);
        host["steps"].as_array().unwrap().iter().map(text).collect()
    }
}

/// The most memory that a process ever had, until its end.
fn peak_memory_kib(process: &Child) -> std::thread::JoinHandle<u64> {
    let path = format!("/proc/{}/status", process.id());
    std::thread::spawn(move || {
        let mut peak = 0;
        loop {
            let status = fs::read_to_string(&path).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let now = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
            let Some(now) = now else { return peak };
            peak = now.max(peak);
            std::thread::sleep(Duration::from_millis(5));
        }
    })
}

/// Each lie costs the host its own step, or the connection to it, with a code and its name. What the honest host did stays.
#[test]
fn a_lie_harms_the_liar_alone() {
    let fleet = Fleet::new();
    fleet.deploy("r0", "").assert_exit(0);
    let of_liar = fleet.steps_of("web-2");
    // Before anything runs.
    for (lie, code, words) in [
        ("other-build", "P0263", "has another build of the runner"),
        ("two-greetings", "P0260", "sent a second greeting"),
        ("long-frame", "P0260", "a frame of 9437184 bytes"),
        ("unknown-kind", "P0260", "a frame of unknown kind 7"),
        ("other-call", "P0260", "sent an answer to no call"),
        ("other-step", "P0260", "the host's answer does not match the request"),
        ("long-problem", "P0233", "no room"),
        ("secret-problem", "P0233", "no room"),
    ] {
        let refused = fleet.deploy("r1", lie);
        refused.assert_exit(2).assert_stderr_contains(code);
        refused.assert_stderr_contains(words).assert_stderr_contains("web-2");
        assert_eq!(fleet.steps_of("web-2"), of_liar, "{lie}: nothing has begun");
        assert_eq!(fs::read_to_string(fleet.honest.path("srv/other")).unwrap(), "r0\n", "{lie}");
    }
    // When a step ends.
    let mut untold = Vec::new();
    for (number, (lie, code, words)) in (2..).zip([
        ("secret-receipt", "P0304", "restart"),
        ("encoded-secret", "P0304", "restart"),
        ("long-receipt", "P0302", "the host's receipt is"),
        ("long-failure", "P0301", "the host's failure is"),
        ("finding", "P0302", "the host's answer does not match the request"),
        ("two-sessions", "P0204", "web-2: the connection ended: the host sent a session that nobody began"),
        ("many-inputs", "P0204", "web-2: the host's list of input files is"),
        ("endless-messages", "P0302", "more messages than a step may send"),
        ("long-output", "P0302", "too much output at once"),
        ("no-base64", "P0302", "output that is not base64"),
    ]) {
        let release = format!("r{number}");
        let failed = fleet.deploy(&release, lie);
        let stderr = failed.stderr_snapshot();
        let is_told = [code, words, "web-2"].into_iter().all(|text| stderr.contains(text)) && failed.code != Some(0);
        if !is_told {
            untold.push(format!("{lie}: {code} {words}\n{stderr}"));
        }
        let honest = fleet.steps_of("web-1");
        assert!(honest.contains(&json!(["other", "succeeded", release])), "{lie}: {honest:?}");
        let mut journals = fleet.environment.list(".pawl/shop/test");
        journals.retain(|name| name.ends_with(".journal"));
        let journals: Vec<_> = journals.iter().map(|name| format!(".pawl/shop/test/{name}")).collect();
        let check: Vec<_> = ["journal", "check"].into_iter().chain(journals.iter().map(String::as_str)).collect();
        fleet.environment.run(&check).assert_exit(0);
    }
    assert!(untold.is_empty(), "{}", untold.join("\n"));
}

/// A host says all the time that it is there, and never how the step ended: that costs the step's timeout and 12 s, once.
#[test]
fn an_answer_that_never_comes_is_not_waited_for_again() {
    let fleet = Fleet::new();
    fleet.environment.edit("deploy.yml", "  restart:\n", "  restart:\n    timeout: 2s\n");
    let failed = fleet.deploy("r1", "no-answer");
    failed.assert_exit(1).assert_stderr_contains("FAIL   restart@web-2");
    failed.assert_stderr_contains(
        "web-2: the connection ended: the host gave no answer for [TIME], and has no record of the call",
    );
    let heard = fs::read(fleet.folder.path().join("heard")).unwrap();
    let calls = heard.windows(APPLY.len()).filter(|window| *window == APPLY).count();
    assert_eq!(calls, 1, "the call is not sent again");
    assert_eq!(fs::read_to_string(fleet.honest.path("srv/restarted")).unwrap(), "r1\n");
}

/// A lie that nobody asked about is not heard.
#[test]
fn records_of_others_and_bytes_after_the_end_change_nothing() {
    let fleet = Fleet::new();
    let done = json!({ "result": "succeeded", "receipt": { "outputs": { "lie": true }, "notes": {} } });
    let record = |step: &str, target: &str| json!({ "step_target": { "step": step, "target": target }, "key": "0", "epoch": 1, "outcome": done, "undone": false });
    let records = json!([record("other", "web-1"), record("restart", "web-1"), record("restart", "web-2")]);
    fs::write(fleet.folder.path().join("records"), records.to_string()).unwrap();
    for (release, lie) in [("r1", "foreign-records"), ("r2", "bytes-after-the-end")] {
        fleet.deploy(release, lie).assert_exit(0);
        for (host, file) in [(&fleet.honest, "other"), (&fleet.honest, "restarted"), (&fleet.liar, "restarted")] {
            assert_eq!(host.read(&format!("srv/{file}")), format!("{release}\n"), "{lie}: {file}");
        }
    }
    // The host hears its own secret, and none of another host.
    let heard = fs::read(fleet.folder.path().join("heard")).unwrap();
    let has = |text: &str| heard.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(has(SECRET) && !has(OTHER_SECRET));
}
