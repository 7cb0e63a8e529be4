//! Debian's ansible-core with the files of docs/migrating/ansible.md, by ssh. `become` is left out, and `systemctl` is a stand-in.

use std::fs;

use super::machine::MovedMachine;
use crate::support::doc_blocks::fenced_block;

const PAGE: &str = "docs/migrating/ansible.md";
const SETTINGS: &str = "PORT=8000\nWORKERS=4\nDB_PASSWORD=hunter2-hunter2\n";

/// The application, which the role has deployed as `theirs`.
fn machine() -> MovedMachine {
    let mut machine = MovedMachine::new(PAGE, "current");
    machine.environment.set_variable("DB_PASSWORD", "hunter2-hunter2");
    // What the module asks before it restarts a service.
    machine.stand_in("systemctl", "echo LoadState=loaded; echo ActiveState=active; echo Id=shop.service");
    let MovedMachine { environment, host, .. } = &machine;
    environment.edit("inventory.ini", " ansible_user=deploy", "");
    environment.edit("roles/shop/handlers/main.yml", "become: true", "become: false");
    let cfg = format!(
        "[defaults]\nremote_tmp = {}\n[ssh_connection]\npipelining = True\nssh_args = -F {}\n",
        host.path("mount").display(),
        environment.home("ssh_config").display()
    );
    environment.write("ansible.cfg", cfg);
    environment.write(".gitignore", "/dist/\n");
    environment.write("app/requirements.txt", "");
    environment.write("app/migrate.py", "print('no migration is left')\n");
    environment.write("app/VERSION", "@VERSION@\n");
    environment.write("app/index.html", "one\n");
    machine.commit("one");
    // An archive as the role expects it.
    let pack =
        "mkdir dist; echo theirs >app/VERSION; tar -C app -czf dist/shop-theirs.tar.gz .; git checkout --quiet app";
    environment.run_script(pack).assert_exit(0);
    playbook(&machine, "");
    machine
}

/// The command of the page.
fn playbook(machine: &MovedMachine, more: &str) {
    let command = fenced_block(PAGE, "-i inventory.ini").replace("release=r1", "release=theirs");
    machine.other_tool(&format!("{} -e db_password=hunter2-hunter2 {more}", command.trim_end()));
}

#[test]
fn machine_of_ansible_moves_without_a_lost_request() {
    let machine = machine();
    assert_eq!(machine.live(), machine.path("releases/theirs").display().to_string(), "it is absolute");
    assert_eq!(fs::read_to_string(machine.path("shared/.env")).unwrap(), SETTINGS);
    fs::write(machine.path("shared/uploads/photo"), "from a user").unwrap();
    let mut traffic = machine.traffic("one");
    machine.pack();
    machine.environment.run(&["plan"]).assert_exit(0);
    machine.make_link_relative();
    machine.calls();
    let first = machine.deploy(&[]);
    first.assert_exit(0);
    assert!(first.decisions().iter().any(|decision| decision.starts_with("configure run")), "{:?}", first.decisions());
    assert_eq!(fs::read_to_string(machine.path("current/.env")).unwrap(), SETTINGS, "the template says the same");
    assert!(machine.path("current/.venv/bin/python").exists());
    assert_eq!(machine.calls(), ["sudo /usr/bin/systemctl restart shop"]);
    machine.environment.write("app/index.html", "two\n");
    machine.commit("two");
    machine.pack();
    // A play that ends with Pawl.
    let play = "PATH=$(dirname \"$0\"):$PATH ansible-playbook then.yml -e release=$(git describe --always)";
    traffic.move_to("two", || machine.other_tool(play));
    traffic.move_to("one", || machine.environment.run(&["rollback", "--local"]).assert_exit(0).code);
    traffic.stop().assert_complete(100);
    assert_eq!(machine.releases().len(), 3, "{:?}", machine.releases());
    assert_eq!(fs::read_to_string(machine.path("current/uploads/photo")).unwrap(), "from a user");
}

#[test]
fn ansible_and_pawl_take_turns_and_the_playbook_goes_back() {
    let machine = machine();
    machine.make_link_relative();
    machine.pack();
    machine.deploy(&[]).assert_exit(0);
    let ours = machine.live();
    // Settings that differ are not overwritten.
    playbook(&machine, "-e workers=8");
    machine.make_link_relative();
    machine.environment.write("app/index.html", "two\n");
    let refused = machine.release("two");
    refused.assert_refused_beforehand().assert_stderr_contains("was edited since the last deployment wrote it");
    assert_eq!(machine.live(), "releases/theirs");
    fs::rename(machine.path("shared/.env"), machine.path("shared/.env.theirs")).unwrap();
    machine.deploy(&[]).assert_exit(0);
    assert_eq!(fs::read_to_string(machine.path("current/.env")).unwrap(), SETTINGS);
    // The way back is the playbook. Its cleanup counts every folder: here it removes one that Pawl would go back to.
    assert_eq!((machine.releases().len(), machine.path(&ours).is_dir()), (3, true));
    machine.on_machine(&format!("touch --date=2020-01-01 {ours}"));
    playbook(&machine, r#"-e '{"keep": 2}'"#);
    assert_eq!(machine.live(), machine.path("releases/theirs").display().to_string());
    assert_eq!((machine.releases().len(), machine.path(&ours).is_dir()), (2, false));
}
