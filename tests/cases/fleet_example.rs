//! The example with hosts, on eight real sshds, each with a root of its own on which there is nothing else.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use crate::support::{
    SshHost, TestEnvironment,
    doc_blocks::{fenced_block, page_path},
    write_named_ssh_config,
};

/// The second run skips everything in under 1 s on a machine with nothing else to do (`cargo xtask bench hosts`).
const MAX_SKIP_TIME: Duration = Duration::from_secs(3);

/// How often that is tried.
const SKIP_RUNS: usize = 5;

const HOSTS: [&str; 8] = ["web-1", "web-2", "web-3", "web-4", "web-5", "web-6", "worker-1", "worker-2"];

/// The example as it is in the repository; ssh's configuration leads to these hosts.
fn example(hosts: &[SshHost]) -> TestEnvironment {
    let read = |path: &str| fs::read_to_string(page_path("examples/fleet").join(path)).unwrap();
    let environment = TestEnvironment::with_plan(&read("deploy.yml"));
    for folder in ["app", "migrations"] {
        fs::remove_dir_all(environment.path(folder)).unwrap();
        for entry in fs::read_dir(page_path("examples/fleet").join(folder)).unwrap() {
            let path = Path::new(folder).join(entry.unwrap().file_name()).display().to_string();
            environment.write(&path, read(&path));
        }
    }
    // The example has these hosts too, at addresses of its own.
    let config = read("ssh_config");
    assert!(HOSTS.iter().all(|name| config.contains(&format!("Host {name}\n  HostName "))), "{config}");
    let named: Vec<_> = HOSTS.into_iter().zip(hosts).collect();
    write_named_ssh_config(&environment.path(""), &named);
    environment
}

fn shown(hosts: &[SshHost]) -> Vec<String> {
    let version = |host: &SshHost| match fs::read_to_string(host.path("srv/shop/current/VERSION")) {
        Ok(version) => version,
        Err(_) => "nothing".to_owned(),
    };
    hosts.iter().map(version).collect()
}

/// Whatever else this machine does, the fastest of a few runs is fast.
fn check_skip_time(environment: &TestEnvironment) {
    let time = |_| {
        let began = Instant::now();
        let output = environment.deploy("r1", &[]);
        assert!(output.decisions_on_targets().iter().all(|decision| decision.ends_with(" skip")), "{}", output.stdout);
        began.elapsed()
    };
    let fastest = (0..SKIP_RUNS).map(time).min().unwrap();
    assert!(fastest < MAX_SKIP_TIME, "it took {fastest:?} to skip everything");
}

/// The commands of `examples/fleet/README.md`, in order; then a release that is no good on the first host.
#[test]
fn example_is_deployed_to_eight_hosts_that_have_sshd_only() {
    let hosts: Vec<SshHost> = HOSTS.iter().map(|_| SshHost::with_root()).collect();
    assert!(!hosts[0].path("usr/bin/tar").exists() && !hosts[0].path("usr/bin/gzip").exists());
    let environment = example(&hosts);
    let block = fenced_block("examples/fleet/README.md", "cargo xtask pack");
    let mut said = Vec::new();
    for line in block.lines() {
        let words: Vec<&str> = line.split('#').next().unwrap().split_whitespace().collect();
        match words.as_slice() {
            ["cargo", "xtask", "pack", label, "--dir", "."] => drop(environment.pack(label)),
            ["runner", arguments @ ..] => {
                let output = environment.run(arguments);
                output.assert_exit(0);
                said.push(output.stdout);
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(said[2].contains("r1 is already deployed to prod (") && said[2].contains(", 33 skipped)"), "{}", said[2]);
    check_skip_time(&environment);
    assert_eq!(shown(&hosts), ["r1"; 8]);
    let databases = hosts.iter().filter(|host| host.path("srv/shop/shop.db").exists()).count();
    assert_eq!(databases, 1, "it migrated once");

    environment.edit("app/start.sh", "echo", "exit 1; echo");
    environment.pack("r2");
    let failed = environment.deploy("r2", &[]);
    failed.assert_exit(4);
    assert_eq!(shown(&hosts), ["r1"; 8]);
    let switched: Vec<String> =
        failed.decisions_on_targets().into_iter().filter(|decision| decision.starts_with("switch")).collect();
    assert_eq!(switched, ["switch web-1 run"], "it stayed on the canary");

    environment.edit("app/start.sh", "exit 1; echo", "echo");
    environment.pack("r3");
    // A host that is down is named, and nothing begins anywhere.
    hosts[7].stop();
    let refused = environment.run(&["--local", "--release", "r3"]);
    refused.assert_exit(2).assert_stderr_contains("P0260").assert_stderr_contains("worker-2");
    assert_eq!(shown(&hosts), ["r1"; 8]);
    hosts[7].start();
    environment.deploy("r3", &[]).assert_exit(0);
    assert_eq!(shown(&hosts), ["r3"; 8]);
}
