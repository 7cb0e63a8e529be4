//! A machine as Deployer leaves it, by docs/migrating/deployer.md. Deployer itself is in no package source that the tests have: the cases
//! make the folders and links by the commands that version 8.0.0-rc.1 runs (`deploy:release`, `deploy:shared`, `deploy:symlink`).

use std::{fs, process::Command};

use super::machine::MovedMachine;

const PAGE: &str = "docs/migrating/deployer.md";
const CHECK_TIME: &str = "within: 10s";

/// The application, which Deployer has deployed twice.
fn machine() -> MovedMachine {
    let machine = MovedMachine::new(PAGE, "current/public");
    let environment = &machine.environment;
    fs::create_dir(machine.path("")).unwrap();
    machine.on_machine(
        "mkdir -p .dep releases shared/storage/logs shared/public/uploads\n\
         echo APP_KEY=key >shared/.env; echo 'from Deployer' >shared/storage/logs/laravel.log",
    );
    for number in ["1", "2"] {
        deploy_theirs(&machine, number);
    }
    environment.write(".gitignore", "/dist/\n");
    environment.write("VERSION", "@VERSION@\n");
    environment.write("bootstrap/cache/.gitignore", "*\n!.gitignore\n");
    environment.write("public/up", "up\n");
    environment.write("public/index.html", "one\n");
    environment.edit("pawl.yml", CHECK_TIME, "within: 1s");
    machine
}

fn deploy_theirs(machine: &MovedMachine, number: &str) {
    machine.on_machine(&format!(
        "echo '{{\"release_name\":\"{number}\",\"user\":\"ann\"}}' >>.dep/releases_log; echo {number} >.dep/latest_release\n\
         mkdir -p releases/{number}/public; ln -nfs --relative releases/{number} release\n\
         ln -nfs --relative shared/.env releases/{number}/.env; ln -nfs --relative shared/storage releases/{number}/storage\n\
         echo up >releases/{number}/public/up; echo theirs >releases/{number}/public/index.html\n\
         mv -T release current"
    ));
}

#[test]
fn deploy_php_is_well_formed() {
    let machine = MovedMachine::new(PAGE, "current");
    assert!(machine.environment.read("deploy.php").starts_with("<?php // deploy.php\n"));
    let mut php = Command::new("php");
    let output = php.args(["-l", "deploy.php"]).current_dir(machine.environment.path("")).output();
    let output = output.unwrap_or_else(|error| panic!("php: {error}; run `cargo xtask setup`"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn machine_of_deployer_moves_without_a_lost_request_and_back() {
    let machine = machine();
    let environment = &machine.environment;
    assert_eq!(machine.live(), "releases/2");
    let mut traffic = machine.traffic("theirs");
    // What does not answer is taken back, although Pawl has verified no release yet.
    fs::rename(environment.path("public/up"), environment.path("up")).unwrap();
    environment.write("public/index.html", "theirs\n");
    let failed = traffic.move_to("theirs", || machine.release("without /up"));
    failed.assert_exit(1).assert_stderr_contains("switched back to `releases/2`");
    assert_eq!(machine.live(), "releases/2");
    fs::rename(environment.path("up"), environment.path("public/up")).unwrap();
    environment.write("public/index.html", "one\n");
    machine.commit("one");
    machine.pack();
    environment.run(&["plan"]).assert_exit(0);
    // What users don't see first.
    machine.deploy(&["--until", "migrate"]).assert_exit(0);
    assert_eq!(machine.live(), "releases/2");
    machine.calls();
    traffic.move_to("one", || machine.deploy(&[]).assert_exit(0).code);
    assert_eq!(machine.calls(), ["sudo /usr/bin/systemctl reload php8.2-fpm", "php artisan queue:restart"]);
    let first = machine.live();
    environment.write("public/index.html", "two\n");
    traffic.move_to("two", || machine.release("two").assert_exit(0).code);
    traffic.move_to("one", || environment.run(&["rollback", "--local"]).assert_exit(0).code);
    assert_eq!(machine.live(), first);
    traffic.move_to("theirs", || machine.go_back("NUMBER", "2"));
    assert_eq!(machine.live(), "releases/2");
    assert!(machine.calls().contains(&"sudo /usr/bin/systemctl reload php8.2-fpm".to_owned()));
    traffic.stop().assert_complete(100);
    let releases = machine.releases();
    assert!(["1", "2"].iter().all(|theirs| releases.iter().any(|name| name == theirs)), "{releases:?}");
    let log = machine.path("shared/storage/logs/laravel.log");
    assert_eq!(fs::read_to_string(log).unwrap(), "from Deployer\n");
}

#[test]
fn deployer_and_pawl_take_turns() {
    let machine = machine();
    machine.release("one").assert_exit(0);
    let ours = machine.live();
    deploy_theirs(&machine, "3");
    machine.deploy(&[]).assert_exit(3).assert_stderr_contains("error[P0401]");
    assert_eq!(machine.live(), "releases/3");
    machine.deploy(&["--accept-drift", "switch"]).assert_exit(0);
    assert_eq!(machine.live(), ours);
    deploy_theirs(&machine, "4");
    machine.environment.write("public/index.html", "two\n");
    machine.release("two").assert_exit(0);
    assert!(!machine.live().ends_with("/4"), "{}", machine.live());
    machine.environment.run(&["rollback", "--local"]).assert_exit(0);
    assert_eq!(machine.live(), ours, "not to theirs");
    machine.environment.run(&["prune", "--local", "--keep", "1"]).assert_exit(0);
    assert_eq!(machine.releases().iter().filter(|name| name.len() == 1).count(), 4);
}

#[test]
fn folder_of_another_tool_is_not_imported() {
    let machine = machine();
    machine.commit("one");
    machine.pack();
    machine.environment.run(&["import", "--local"]).assert_exit(2).assert_stderr_contains("error[P0228]");
    assert_eq!((machine.live().as_str(), machine.releases().len()), ("releases/2", 2));
}
