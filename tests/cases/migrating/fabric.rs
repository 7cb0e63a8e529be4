//! Fabric from PyPI with the file of docs/migrating/fabric.md. `sudo` is a stand-in.

use std::{fs, path::Path};

use super::machine::MovedMachine;

const PAGE: &str = "docs/migrating/fabric.md";

/// The application, which the fabfile has deployed twice.
fn machine() -> MovedMachine {
    let machine = MovedMachine::new(PAGE, "current");
    let environment = &machine.environment;
    // The page has both hosts in one line.
    let list = "HOSTS = [\"10.0.0.7\"]\n";
    environment.write("fabfile.py", environment.read("fabfile.py").replacen("ROOT =", &format!("{list}ROOT ="), 1));
    environment.write(".gitignore", "/dist/\n__pycache__/\n");
    environment.write("app/requirements.txt", "");
    environment.write("app/index.html", "one\n");
    environment.write("app/VERSION", "@VERSION@\n");
    machine.commit("one");
    fs::create_dir_all(machine.path("shared")).unwrap();
    fs::write(machine.path("shared/.env"), "PORT=8000\n").unwrap();
    for release in ["theirs-1", "theirs-2"] {
        environment.run_script(&format!("mkdir -p dist; tar -C app -czf dist/shop-{release}.tar.gz .")).assert_exit(0);
        fab(&machine, &format!("deploy --release {release}"));
    }
    machine
}

fn fab(machine: &MovedMachine, task: &str) {
    let target = Path::new(env!("CARGO_BIN_EXE_runner")).parent().and_then(Path::parent).unwrap();
    let program = target.join("tools/fleet-tools/bin/fab").display().to_string();
    let config = machine.environment.home("ssh_config").display().to_string();
    machine.other_tool(&format!("{program} --ssh-config {config} {task}"));
}

#[test]
fn machine_of_fabric_moves_without_a_lost_request_and_back() {
    let machine = machine();
    assert_eq!(machine.live(), machine.path("releases/theirs-2").display().to_string(), "it is absolute");
    fs::write(machine.path("shared/uploads/photo"), "from a user").unwrap();
    let mut traffic = machine.traffic("one");
    machine.pack();
    machine.environment.run(&["plan"]).assert_exit(0);
    machine.make_link_relative();
    machine.calls();
    machine.deploy(&[]).assert_exit(0);
    assert_eq!(machine.calls(), ["sudo /usr/bin/supervisorctl restart shop"]);
    let first = machine.live();
    machine.environment.write("app/index.html", "two\n");
    traffic.move_to("two", || machine.release("two").assert_exit(0).code);
    traffic.move_to("one", || machine.environment.run(&["rollback", "--local"]).assert_exit(0).code);
    assert_eq!(machine.live(), first);
    assert_eq!(machine.releases().iter().filter(|name| name.starts_with("theirs-")).count(), 2);
    for (path, text) in [("current/uploads/photo", "from a user"), ("current/.env", "PORT=8000\n")] {
        assert_eq!(fs::read_to_string(machine.path(path)).unwrap(), text);
    }
    // The fabfile once more, and then a release that is newer than the one on record.
    fab(&machine, "deploy --release theirs-2");
    assert!(machine.live().ends_with("/releases/theirs-2"), "{}", machine.live());
    machine.make_link_relative();
    traffic.move_to("two", || machine.deploy(&[]).assert_exit(0).code);
    traffic.move_to("one", || machine.go_back("NAME", "theirs-1"));
    assert_eq!(machine.live(), "releases/theirs-1");
    traffic.stop().assert_complete(100);
}
