//! `runner init --remote`: a repository of its own, a commit of what it wrote, and a push only if it is asked for.

use std::{fs, path::Path, process::Command};

use crate::support::{RunnerOutput, TestEnvironment, init_bare_repository};

/// What is done to a project between two calls.
type ProjectChange = fn(&Path);

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

#[test]
fn relative_remote_is_read_from_the_current_folder() {
    let environment = world(ANN);
    let made = environment
        .run_in(".", &["init", "--template", "static", "--remote", "project/../remote.git", "--push", "project"]);
    made.assert_exit(0);
    let (project, remote) = (environment.path("project"), environment.path("remote.git"));
    let whole = remote.canonicalize().unwrap();
    assert_eq!(git(&project, &["remote", "get-url", "origin"]), format!("{}\n", whole.display()));
    assert_eq!(git(&remote, &["rev-parse", "main"]), git(&project, &["rev-parse", "HEAD"]));
    // An address of another machine is not a path.
    fs::remove_dir_all(&project).unwrap();
    environment
        .run_in(".", &["init", "--template", "static", "--remote", "git.example:shop.git", "project"])
        .assert_exit(0);
    assert_eq!(git(&project, &["remote", "get-url", "origin"]), "git.example:shop.git\n");
}

/// What a call that is killed leaves, from its first file to its last command.
#[test]
fn call_that_was_killed_can_be_repeated() {
    let environment = world(ANN);
    let (project, remote) = (environment.path("project"), environment.path("remote.git"));
    let begun: [(&str, ProjectChange); 5] = [
        ("a part of the files", |project| {
            fs::remove_dir_all(project.join(".git")).unwrap();
            fs::remove_dir_all(project.join("site")).unwrap();
            let plan = fs::read(project.join("deploy.yml")).unwrap();
            fs::write(project.join("deploy.yml"), &plan[..plan.len() / 2]).unwrap();
        }),
        ("a repository", |project| {
            fs::remove_dir_all(project.join(".git")).unwrap();
            git(project, &["init", "--quiet", "--initial-branch=main"]);
        }),
        ("staged files", |project| {
            fs::remove_dir_all(project.join(".git")).unwrap();
            git(project, &["init", "--quiet", "--initial-branch=main"]);
            git(project, &["add", "build.sh"]);
        }),
        ("no remote", |project| drop(git(project, &["remote", "remove", "origin"]))),
        ("no push", |_| ()),
    ];
    for (state, leave) in begun {
        for folder in [&project, &remote] {
            fs::remove_dir_all(folder).unwrap();
        }
        fs::create_dir(&project).unwrap();
        init_bare_repository(&remote);
        init(&environment, &[]).assert_exit(0);
        let whole = git(&project, &["ls-tree", "-r", "HEAD"]);
        leave(&project);
        init(&environment, &["--push"]).assert_exit(0);
        assert_eq!(git(&project, &["ls-tree", "-r", "HEAD"]), whole, "{state}");
        assert_eq!(git(&project, &["status", "--porcelain"]), "", "{state}");
        assert_eq!(git(&project, &["rev-list", "--count", "main"]), "1\n", "{state}");
        assert_eq!(git(&remote, &["rev-parse", "main"]), git(&project, &["rev-parse", "HEAD"]), "{state}");
    }
}

#[test]
fn repeated_call_changes_nothing_of_a_user() {
    let changes: [(ProjectChange, &str); 5] = [
        (|project| fs::write(project.join("build.sh"), "mine\n").unwrap(), "these files exist already: build.sh"),
        (|project| drop(git(project, &["remote", "set-url", "origin", "/elsewhere"])), "is a git repository already"),
        (|project| drop(git(project, &["branch", "mine"])), "is a git repository already"),
        (|project| drop(git(project, &["remote", "add", "mine", "/elsewhere"])), "is a git repository already"),
        (
            |project| {
                fs::write(project.join("notes.txt"), "mine\n").unwrap();
                git(project, &["add", "notes.txt"]);
            },
            "is a git repository already",
        ),
    ];
    for (change, refusal) in changes {
        let environment = world(ANN);
        init(&environment, &[]).assert_exit(0);
        let project = environment.path("project");
        change(&project);
        let state = || ["status", "for-each-ref", "remote"].map(|command| git(&project, &[command]));
        let before = state();
        init(&environment, &["--push"]).assert_exit(2).assert_stderr_contains(refusal);
        assert_eq!(state(), before);
        assert_eq!(git(&environment.path("remote.git"), &["for-each-ref"]), "", "nothing was pushed");
    }
}
