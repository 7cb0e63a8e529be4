//! State that several machines share: what one began, another goes on with.

use std::{path::Path, process::Command};

use crate::support::{
    GitHttpServer, HttpReply, HttpTestServer, MotoServer, TestEnvironment, aws_variables, delete_refs,
    init_bare_repository,
};

/// The example, whose state is elsewhere, and whose target is a folder that all machines reach.
fn machine(state: &str, target: &Path) -> TestEnvironment {
    let environment = TestEnvironment::new();
    environment.edit("deploy.yml", "app: shop\n", &format!("app: shop\nstate: {state}\n"));
    environment.edit("deploy.yml", "root: ./deploy/test", &format!("root: {}", target.display()));
    environment.pack("r1");
    environment
}

/// Two machines, one after the other; the second resumes, and sees what the first did.
fn check_second_machine_resumes(first: &TestEnvironment) {
    let good = first.read("migrations/0002_first_products.sql");
    first.write("migrations/0002_first_products.sql", "INSERT INTO nothing_of_this_name VALUES (1);\n");
    let second = first.another_machine();
    let failed = first.deploy("r1", &[]);
    failed.assert_exit(1).assert_decisions(&["pull run never-ran", "migrate run never-ran"]);

    second.write("migrations/0002_first_products.sql", good);
    let history = second.run(&["history", "--json"]).json();
    assert_eq!((history[0]["epoch"].as_u64(), history[0]["exit"].as_str()), (Some(1), Some("failed")));
    let why = second.run(&["why", "migrate"]);
    why.assert_exit(0);
    assert!(why.stdout.contains("nothing_of_this_name"), "{}", why.stdout);
    let resumed = second.deploy("r1", &[]);
    resumed.assert_exit(0);
    assert_eq!(resumed.decisions()[0], "pull skip held", "what the first machine pulled is there");

    for machine in [first, &second] {
        let history = machine.run(&["history", "--json"]).json();
        assert_eq!(history.as_array().unwrap().len(), 2, "{history}");
        assert_eq!(history[0]["run"], history[1]["run"], "it is one run");
        assert_eq!((history[0]["attempt"].as_u64(), history[0]["verified"].as_bool()), (Some(2), Some(true)));
        let lock = machine.run(&["lock", "status", "--json"]).json();
        assert_eq!((lock[0]["standing"].as_str(), lock[0]["epoch"].as_u64()), (Some("free"), Some(2)));
    }
    // And back: the first has less than what is there, and goes on all the same.
    first.write("migrations/0002_first_products.sql", second.read("migrations/0002_first_products.sql"));
    let again = first.deploy("r1", &[]);
    again.assert_exit(0);
    assert!(again.decisions().iter().all(|decision| decision.ends_with("skip held")), "{:?}", again.decisions());
}

#[test]
fn machines_share_a_git_repository_without_touching_branches_or_work_tree() {
    let remote = tempfile::tempdir().unwrap();
    init_bare_repository(remote.path());
    let target = tempfile::tempdir().unwrap();
    let first = machine("git:origin", target.path());
    first.write(".gitignore", "dist/\n");
    first.git(&["init", "--quiet", "--initial-branch", "main"]);
    first.git(&["remote", "add", "origin", &remote.path().to_string_lossy()]);
    // The lock file of modules is made by the first deployment, and belongs into the repository.
    first.run(&["modules", "--accept"]).assert_exit(0);
    first.git(&["add", "."]);
    first.git(&["commit", "--quiet", "--message", "all"]);
    first.git(&["push", "--quiet", "origin", "main"]);
    check_second_machine_resumes(&first);

    let git = |folder: &Path, words: &[&str]| {
        let output = Command::new("git").arg("-C").arg(folder).args(words).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(git(&first.path(""), &["status", "--porcelain", "--ignored"]), "!! dist/\n");
    assert_eq!(
        git(&first.path(""), &["for-each-ref", "--format=%(refname)"]),
        "refs/heads/main\nrefs/remotes/origin/main\n"
    );
    let refs = git(remote.path(), &["for-each-ref", "--format=%(refname)"]);
    let state = "refs/pawl-state/shop/test";
    assert_eq!(refs, format!("refs/heads/main\n{state}/data\n{state}/lock\nrefs/pawl/shop/test\n"));
    assert_eq!(git(remote.path(), &["rev-list", "--count", &format!("{state}/lock")]), "1\n", "no history of locks");
    let files = git(remote.path(), &["ls-tree", "--name-only", &format!("{state}/data")]);
    let journals = files.lines().filter(|name| name.starts_with("attempt-")).count();
    assert_eq!(journals, 3, "a file for each attempt that has ended: {files}");
}

#[test]
fn machines_share_a_git_repository_over_http() {
    let (server, target) = (GitHttpServer::start(), tempfile::tempdir().unwrap());
    check_second_machine_resumes(&machine(&format!("git:http://{}/state.git", server.address()), target.path()));
    assert!(server.repository().join("HEAD").exists());
}

#[test]
fn machines_share_a_bucket() {
    let (moto, target) = (MotoServer::start(), tempfile::tempdir().unwrap());
    let mut first = machine("s3://acme-state/deployments", target.path());
    aws_variables(&moto.address()).iter().for_each(|(name, value)| first.set_variable(name, value));
    check_second_machine_resumes(&first);
}

#[test]
fn store_without_conditional_writes_is_rejected() {
    // It says yes to every write, as some that look like S3 do.
    let server = HttpTestServer::new(|_, _| HttpReply {
        headers: vec![("ETag".to_owned(), "\"1\"".to_owned())],
        ..HttpReply::ok("")
    });
    let target = tempfile::tempdir().unwrap();
    let mut machine = machine("s3://acme-state", target.path());
    aws_variables(&server.address()).iter().for_each(|(name, value)| machine.set_variable(name, value));
    let refused = machine.run(&["--local", "--release", "r1"]);
    refused.assert_exit(2).assert_stderr_contains("P0608").assert_stderr_contains("If-None-Match");
    assert_eq!(std::fs::read_dir(target.path()).unwrap().count(), 0, "nothing was deployed");
}

#[test]
fn missing_repository_is_reported_with_the_reason() {
    let target = tempfile::tempdir().unwrap();
    let machine = machine("git:./no-such.git", target.path());
    machine
        .run(&["--local", "--release", "r1"])
        .assert_exit(2)
        .assert_stderr_contains("P0607")
        .assert_stderr_contains("no-such.git");
    machine.run(&["status"]).assert_exit(2).assert_stderr_contains("P0607");
}

#[test]
fn local_history_is_restored_and_diverged_histories_are_rejected() {
    let remote = tempfile::tempdir().unwrap();
    init_bare_repository(remote.path());
    let target = tempfile::tempdir().unwrap();
    let first = machine(&format!("git:{}", remote.path().display()), target.path());
    let second = first.another_machine();
    first.deploy("r1", &[]).assert_exit(0);
    // What is there is forgotten; this machine still knows, and brings it back.
    delete_refs(remote.path());
    first.deploy("r1", &[]).assert_exit(0);
    assert_eq!(second.run(&["history", "--json"]).json().as_array().unwrap().len(), 2, "both attempts are there again");
    // Another history in the same place is not mixed with it.
    delete_refs(remote.path());
    let third = machine(&format!("git:{}", remote.path().display()), target.path());
    third.deploy("r1", &[]).assert_exit(0);
    first
        .run(&["--local", "--release", "r1"])
        .assert_exit(65)
        .assert_stderr_contains("P0610")
        .assert_stderr_contains("attempt-000001.journal");
}
