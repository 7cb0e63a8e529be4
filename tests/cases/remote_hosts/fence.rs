//! A newer attempt takes a host from the living agent of an older one.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

use super::fleet;
use crate::support::{SshHost, wait_until};

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

/// The coordinator and its agent are stopped while a program runs, and an operator releases the lock by force.
#[test]
fn stopped_agent_is_killed_and_its_coordinator_harms_nothing() {
    let host = SshHost::new();
    let environment = fleet(&[&host]);
    environment.edit("deploy.yml", "    with: { dir: app }", "    with: { dir: app, repeatable: true }");
    fs::remove_file(host.path("srv/go")).unwrap();
    let first = environment.start_with_stderr(&["--local", "--release", "r1"]);
    wait_until("the step runs", || host.path("srv/begun").exists());
    let agent = host.agents()[0];
    for pid in [first.id(), agent] {
        signal(pid, Signal::STOP);
    }
    environment.run(&["lock", "release", "--local", "--force", "--message", "it hangs"]).assert_exit(0);
    // A program that saw the file go would go on.
    let begun = || fs::metadata(host.path("srv/begun")).unwrap().modified().unwrap();
    let first_begun = begun();
    let second = environment.start_with_stderr(&["--local", "--release", "r1"]);
    wait_until("the step runs again", || begun() > first_begun);
    assert!(!host.agents().contains(&agent), "the former agent is gone before anything begins");
    fs::write(host.path("srv/go"), "").unwrap();
    let deployed = environment.output_of(second);
    deployed.assert_exit(0);
    deployed.assert_stderr_contains(
        "web-1: process [PID] still worked for an earlier attempt (epoch 1); it did not end, and was killed",
    );
    signal(first.id(), Signal::CONT);
    let lost = environment.output_of(first);
    lost.assert_exit(5).assert_stderr_contains("error[P0503]");
    assert_eq!(host.read("srv/restarts"), "2\n", "the program of the former attempt ended with its agent");
    wait_until("no agent is left", || host.agents().is_empty());
}

/// A living agent ends what it is at, and its coordinator is refused when it comes back.
#[test]
fn living_agent_finishes_and_its_coordinator_is_refused() {
    let host = SshHost::new();
    let environment = fleet(&[&host]);
    fs::remove_file(host.path("srv/go")).unwrap();
    let first = environment.start_with_stderr(&["--local", "--release", "r1"]);
    wait_until("the step runs", || host.path("srv/begun").exists());
    // It can't say that its agent is still needed, and the agent does not know yet.
    signal(first.id(), Signal::STOP);
    environment.run(&["lock", "release", "--local", "--force", "--message", "it hangs"]).assert_exit(0);
    let second = environment.start_with_stderr(&["--local", "--release", "r1"]);
    wait_until("the newer attempt is at the host", || {
        fs::read_dir(host.path("state/pawl/hosts/web-1/shop/test")).is_ok()
            && host.read("state/pawl/hosts/web-1/shop/test/coordinator.json").contains("\"epoch\":2")
    });
    fs::write(host.path("srv/go"), "").unwrap();
    let deployed = environment.output_of(second);
    deployed.assert_exit(0).assert_stderr_contains("still worked for an earlier attempt (epoch 1); it was made to end");
    assert_eq!(host.read("srv/restarts"), "2\n", "it ran once, and the newer attempt adopted what it did");
    signal(first.id(), Signal::CONT);
    let lost = environment.output_of(first);
    lost.assert_exit(5).assert_stderr_contains("error[P0503]");
    assert_eq!(host.read("srv/restarts"), "2\n");
}
