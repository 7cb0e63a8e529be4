//! `runner init --remote`: a repository of its own, a commit of what it wrote, and a push only if it is asked for.

use std::{fs, path::Path, process::Command};

use crate::support::{RunnerOutput, TestEnvironment, init_bare_repository};

/// A folder for the application, an empty repository for its remote, and a git that knows who commits.
fn world(configuration: &str) -> TestEnvironment {
    let environment = TestEnvironment::new();
    fs::create_dir_all(environment.path("project")).unwrap();
    init_bare_repository(&environment.path("remote.git"));
    fs::write(environment.home(".gitconfig"), configuration).unwrap();
    environment
}

const ANN: &str = "[user]\nname = Ann\nemail = ann@example.com\n";

fn init(environment: &TestEnvironment, more: &[&str]) -> RunnerOutput {
    let remote = environment.path("remote.git").display().to_string();
    environment.run_in("project", &[&["init", "--template", "static", "--remote", &remote], more].concat())
}

/// What git says in a folder.
fn git(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git").arg("-C").arg(folder).args(arguments).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn first_commit_has_the_files_and_is_pushed_only_if_that_is_asked_for() {
    let environment = world(ANN);
    environment.write("project/notes.txt", "mine\n");
    let made = init(&environment, &[]);
    made.assert_exit(0);
    assert!(made.stdout.contains("\ncommitted to main, in a new repository: not pushed yet; the remote is origin\n"));
    let (project, remote) = (environment.path("project"), environment.path("remote.git"));
    assert_eq!(git(&project, &["log", "--format=%an: %s"]), "Ann: Deploy project, from the template static\n");
    assert_eq!(git(&project, &["status", "--porcelain"]), "?? notes.txt\n", "only what init wrote is committed");
    assert_eq!(git(&project, &["remote", "get-url", "origin"]), format!("{}\n", remote.display()));
    assert_eq!(git(&remote, &["for-each-ref"]), "");

    fs::remove_dir_all(&project).unwrap();
    fs::create_dir(&project).unwrap();
    let pushed = init(&environment, &["--push", "--json"]);
    pushed.assert_exit(0);
    assert!(
        pushed.stdout.contains(r#""repository":{"branch":"main","remote":"origin","pushed":true}"#),
        "{}",
        pushed.stdout
    );
    assert_eq!(git(&remote, &["rev-parse", "main"]), git(&project, &["rev-parse", "HEAD"]));
}

#[test]
fn existing_repository_is_left_alone() {
    let environment = world(ANN);
    let project = environment.path("project");
    git(&project, &["init", "--quiet", "--initial-branch=trunk"]);
    for folder in [project.clone(), project.join("below")] {
        fs::create_dir_all(&folder).unwrap();
        let dir = folder.display().to_string();
        let refused = init(&environment, &[&dir]);
        refused.assert_exit(2).assert_stderr_contains("is a git repository already");
        assert_eq!(git(&folder, &["status", "--porcelain"]), "", "nothing was written");
    }
    assert_eq!(git(&project, &["remote"]), "");
}

#[test]
fn git_that_does_not_know_who_commits_is_found_before_anything_is_written() {
    let environment = world("[user]\nuseConfigOnly = true\n");
    init(&environment, &[]).assert_exit(2).assert_stderr_contains("git can't make the first commit");
    assert_eq!(environment.list("project"), [] as [&str; 0]);
}

#[test]
fn push_that_fails_leaves_the_commit() {
    let environment = world(ANN);
    fs::remove_dir_all(environment.path("remote.git")).unwrap();
    init(&environment, &["--push"])
        .assert_exit(2)
        .assert_stderr_contains("the files are written, but `git push` failed")
        .assert_stderr_contains("caused by: fatal: ");
    assert_eq!(git(&environment.path("project"), &["rev-list", "--count", "main"]), "1\n");
}

#[test]
fn what_git_ignores_is_committed_all_the_same() {
    let environment = world(ANN);
    environment.write("project/.gitignore", "*.conf\n");
    init(&environment, &[]).assert_exit(0);
    let files = git(&environment.path("project"), &["ls-files"]);
    assert!(files.lines().any(|file| file == "deploy/nginx.conf"), "{files}");
}

#[test]
fn nothing_is_written_through_a_link_or_into_a_folder_that_is_refused() {
    let environment = world(ANN);
    fs::create_dir(environment.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink("../elsewhere", environment.path("project/deploy")).unwrap();
    init(&environment, &[]).assert_exit(2).assert_stderr_contains("deploy is a symbolic link");
    assert_eq!(environment.list("elsewhere"), [] as [&str; 0]);
    assert_eq!(environment.list("project"), ["deploy"]);

    fs::write(environment.home(".gitconfig"), "[user]\nuseConfigOnly = true\n").unwrap();
    let new = environment.path("new").display().to_string();
    init(&environment, &[&new]).assert_exit(2);
    assert!(!environment.exists("new"));
}
