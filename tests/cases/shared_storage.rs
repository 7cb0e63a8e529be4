//! What state that several machines share costs, what is left when its storage fails, and the storage of older runners.

use std::{fs, path::Path, process::Command};

use crate::support::{
    GitHttpServer, MotoServer, RunnerOutput, TcpRelay, TestEnvironment, aws_variables, init_bare_repository,
};

/// Two steps that users see, so that each is confirmed before it acts.
const PLAN: &str = r#"version: 1
app: shop
state: STATE
lock: { ttl: TTL }
steps:
  wait:
    uses: run
    trust: host
    with: { program: /bin/sh, args: [wait.sh], dir: work, repeatable: true }
    grants: { dirs: { work: ./work }, programs: [[/bin/sh, wait.sh]] }
  act:
    uses: run
    trust: host
    with: { program: /bin/sh, args: [act.sh], dir: work, repeatable: true }
    grants: { dirs: { work: ./work }, programs: [[/bin/sh, act.sh]] }
"#;

/// A lease that a slow machine keeps although a write is tried again.
const LEASE: &str = "4s";

fn machine(state: &str) -> TestEnvironment {
    let machine = TestEnvironment::with_plan(&PLAN.replace("STATE", state).replace("TTL", LEASE));
    machine.write("work/wait.sh", "true\n");
    machine.write("work/act.sh", "echo acted >> acted\n");
    machine.run(&["modules", "--accept"]).assert_exit(0);
    machine
}

/// A deployment, which may wait for the lock of one that could not release it.
fn deploy(machine: &TestEnvironment, release: &str) -> RunnerOutput {
    machine.run(&["--local", "--release", release, "--lock-wait", "15s"])
}

fn epochs(machine: &TestEnvironment) -> Vec<u64> {
    let history = machine.run(&["history", "--json", "--limit", "100"]);
    history.assert_exit(0);
    history.json().as_array().unwrap().iter().map(|attempt| attempt["epoch"].as_u64().unwrap()).collect()
}

#[test]
fn bytes_of_a_deployment_do_not_grow_with_history() {
    let server = GitHttpServer::start();
    let state = format!("git:http://{}/state.git", server.address());
    let first = machine(&state);
    let mut measured = Vec::new();
    for round in 1..=24 {
        let (pushes, bytes, fetched) = server.traffic();
        deploy(&first, if round % 2 == 0 { "r1" } else { "r2" }).assert_exit(0);
        let now = server.traffic();
        measured.push((now.0 - pushes, now.1 - bytes, now.2 - fetched));
    }
    // Taking the lock, one confirmation for each step, one before the last entry, and the end.
    let (early, late) = (measured[5], measured[23]);
    assert_eq!((early.0, late.0), (5, 5), "pushes");
    assert!(early.1 < 64 * 1024 && late.1 < early.1 * 5 / 4, "bytes pushed: {measured:?}");
    assert!(late.2 < early.2 * 5 / 4, "bytes fetched: {measured:?}");

    // Another machine fetches the newest state once, and then what is new.
    let second = first.another_machine();
    second.run(&["status"]).assert_exit(0);
    deploy(&first, "r3").assert_exit(0);
    let before = server.traffic();
    second.run(&["status"]).assert_exit(0);
    let fetched = server.traffic().2 - before.2;
    assert!(fetched < 64 * 1024, "bytes fetched for one deployment: {fetched}");
}

/// What the machines do after the storage answers again. Nothing needs hands, and nothing is forgotten.
fn check_both_machines_go_on(first: &TestEnvironment, second: &TestEnvironment) {
    second.run(&["status"]).assert_exit(0);
    deploy(second, "r3").assert_exit(0);
    first.run(&["status"]).assert_exit(0);
    deploy(first, "r4").assert_exit(0);
    let (here, there) = (epochs(first), epochs(second));
    assert_eq!(here, there);
    assert!(here.windows(2).all(|two| two[0] > two[1]), "{here:?}");
}

#[test]
fn each_push_of_a_deployment_may_fail() {
    for failing in 0..5 {
        let server = GitHttpServer::start();
        let first = machine(&format!("git:http://{}/state.git", server.address()));
        deploy(&first, "r1").assert_exit(0);
        let second = first.another_machine();
        // Only that one: it is tried again.
        server.reject_pushes(failing..=failing);
        deploy(&first, "r2").assert_exit(0);
        // That one, and all after it.
        server.reject_pushes(failing..=u64::MAX);
        let failed = deploy(&first, "r3");
        assert_ne!(failed.code, Some(0), "push {failing}: {}", failed.stderr);
        assert_ne!(failed.code, Some(65), "push {failing}: {}", failed.stderr);
        server.reject_pushes(u64::MAX..=u64::MAX);
        check_both_machines_go_on(&first, &second);
    }
}

#[test]
fn each_write_to_a_bucket_may_fail() {
    let moto = MotoServer::start();
    // The four of the check for conditional writes have no effect.
    let (mut writes, mut failing) = (usize::MAX, 3);
    while failing <= writes {
        let relay = TcpRelay::new(moto.address());
        let mut first = machine(&format!("s3://acme-state/{failing}"));
        aws_variables(&relay.address()).iter().for_each(|(name, value)| first.set_variable(name, value));
        deploy(&first, "r1").assert_exit(0);
        let mut second = first.another_machine();
        aws_variables(&moto.address()).iter().for_each(|(name, value)| second.set_variable(name, value));
        relay.limit_writes(usize::MAX);
        deploy(&first, "r2").assert_exit(0);
        writes = relay.writes();
        relay.limit_writes(failing);
        let failed = deploy(&first, "r3");
        assert_ne!(failed.code, Some(65), "write {failing}: {}", failed.stderr);
        relay.limit_writes(usize::MAX);
        check_both_machines_go_on(&first, &second);
        failing += 1;
    }
    assert!(writes >= 10, "the four of the check, and those of the deployment: {writes}");
}

/// The state that a runner with manifest version 1 left: one attempt has ended, the second was killed in `wait`.
const VERSION_1: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/state-1");

fn version_1_files() -> Vec<(String, Vec<u8>)> {
    let files = fs::read_dir(VERSION_1).unwrap().map(|entry| entry.unwrap().path());
    let named = |path: std::path::PathBuf| {
        let content = fs::read(&path).unwrap();
        (path.file_name().unwrap().to_string_lossy().into_owned(), content)
    };
    files.map(named).collect()
}

/// The killed attempt goes on, on whichever machine, and both see all.
fn check_migration(first: &TestEnvironment) {
    let second = first.another_machine();
    let history = first.run(&["history", "--json"]).json();
    assert_eq!(
        (history[0]["release"]["label"].as_str(), history[1]["exit"].as_str()),
        (Some("r2"), Some("success")),
        "{history}"
    );
    let lock = first.run(&["lock", "status", "--watch", "--json"]).json();
    assert_eq!((lock[0]["standing"].as_str(), lock[0]["epoch"].as_u64()), (Some("stale"), Some(2)));
    let resumed = deploy(first, "r2");
    resumed.assert_exit(0);
    assert!(resumed.stderr.contains("attempt 2"), "{}", resumed.stderr);
    deploy(&second, "r3").assert_exit(0);
    assert_eq!((epochs(first), epochs(&second)), (vec![4, 3, 2, 1], vec![4, 3, 2, 1]));
    second.run(&["why", "wait"]).assert_exit(0);
}

/// Puts a state of manifest version 1 into a bare repository.
fn commit_version_1(repository: &Path) {
    let git = |arguments: &[&str]| {
        let author = ["-c", "user.name=Ann", "-c", "user.email=ann@example.com"];
        let output = Command::new("git")
            .current_dir(VERSION_1)
            .arg("--git-dir")
            .arg(repository)
            .args(author)
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    git(&["--work-tree", VERSION_1, "add", "--all", "."]);
    let tree = git(&["write-tree"]);
    let commit = git(&["commit-tree", "-m", "shop/default: epoch 2, 2", &tree]);
    git(&["update-ref", "refs/pawl/shop/default", &commit]);
}

fn put_version_1(moto: &MotoServer, prefix: &str) {
    for (name, content) in version_1_files() {
        moto.put(&Path::new(prefix).join("shop/default").join(name).display().to_string(), &content);
    }
}

#[test]
fn git_state_of_an_older_runner_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let repository = folder.path().join("state.git");
    init_bare_repository(&repository);
    commit_version_1(&repository);
    let machine = machine(&format!("git:{}", repository.display()));
    check_migration(&machine);
    let git = Command::new("git")
        .arg("--git-dir")
        .arg(repository)
        .args(["show", "refs/pawl/shop/default:state.json"])
        .output();
    let record = String::from_utf8(git.unwrap().stdout).unwrap();
    assert!(record.starts_with("{\"version\":2,"), "an older runner refuses it: {record}");
}

#[test]
fn bucket_of_an_older_runner_goes_on() {
    let moto = MotoServer::start();
    put_version_1(&moto, "shop");
    let mut machine = machine("s3://acme-state/shop");
    aws_variables(&moto.address()).iter().for_each(|(name, value)| machine.set_variable(name, value));
    check_migration(&machine);
}

/// The migration of an older state was cut short: the attempts of before are there, and this machine and another one go on.
fn check_cut_migration(first: &TestEnvironment) {
    let second = first.another_machine();
    assert_eq!(epochs(&second).last(), Some(&1));
    check_both_machines_go_on(first, &second);
    let all = epochs(first);
    assert!(all.ends_with(&[2, 1]), "{all:?}");
}

#[test]
fn migration_of_a_repository_may_be_cut_at_each_push() {
    for failing in 0..3 {
        let server = GitHttpServer::start();
        commit_version_1(&server.repository());
        let machine = machine(&format!("git:http://{}/state.git", server.address()));
        server.reject_pushes(failing..=u64::MAX);
        let failed = deploy(&machine, "r2");
        assert!(!matches!(failed.code, Some(0 | 65)), "push {failing}: {}", failed.stderr);
        server.reject_pushes(u64::MAX..=u64::MAX);
        check_cut_migration(&machine);
    }
}

#[test]
fn migration_of_a_bucket_may_be_cut_at_each_write() {
    let moto = MotoServer::start();
    // The four writes of the check for conditional writes have no effect; after some of the others, the manifest is version 2.
    for failing in 3..9 {
        let prefix = format!("cut-{failing}");
        put_version_1(&moto, &prefix);
        let relay = TcpRelay::new(moto.address());
        let mut machine = machine(&format!("s3://acme-state/{prefix}"));
        aws_variables(&relay.address()).iter().for_each(|(name, value)| machine.set_variable(name, value));
        relay.limit_writes(failing);
        let failed = deploy(&machine, "r2");
        assert!(!matches!(failed.code, Some(0 | 65)), "write {failing}: {}", failed.stderr);
        relay.limit_writes(usize::MAX);
        check_cut_migration(&machine);
    }
}

#[test]
fn status_on_a_new_machine_needs_few_requests() {
    let moto = MotoServer::start();
    let relay = TcpRelay::new(moto.address());
    let mut first = machine("s3://acme-state/few");
    aws_variables(&moto.address()).iter().for_each(|(name, value)| first.set_variable(name, value));
    for release in ["r1", "r2", "r3", "r4"] {
        deploy(&first, release).assert_exit(0);
    }
    let mut second = first.another_machine();
    aws_variables(&relay.address()).iter().for_each(|(name, value)| second.set_variable(name, value));
    second.run(&["status"]).assert_exit(0);
    let requests = relay.requests();
    assert!((3..=6).contains(&requests), "{requests} requests");
    assert_eq!(epochs(&second), [4, 3, 2, 1]);
}
