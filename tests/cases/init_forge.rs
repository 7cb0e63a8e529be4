//! `runner init --remote URL --create`, with a double of both forges to which git really pushes.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use crate::support::{
    CreateFault, FORGE_TOKEN, FakeForge, FakeForgeKind, RunnerOutput, TestEnvironment, doc_blocks::fenced_block,
};

pub(super) const BOTH: [FakeForgeKind; 2] = [FakeForgeKind::Github, FakeForgeKind::Gitlab];

/// A forge, a folder for the application, a git that knows who commits, and a token.
pub(super) struct ForgeWorld {
    pub(super) environment: TestEnvironment,
    pub(super) forge: FakeForge,
}

impl ForgeWorld {
    pub(super) fn new(kind: FakeForgeKind) -> Self {
        let forge = FakeForge::start(kind);
        let mut environment = TestEnvironment::new();
        fs::create_dir_all(environment.path("project")).unwrap();
        fs::write(environment.home(".gitconfig"), "[user]\nname = Ann\nemail = ann@example.com\n").unwrap();
        environment.set_variable(forge.token_variable(), FORGE_TOKEN);
        Self { environment, forge }
    }

    /// Calls `init --create` for a repository of the forge. No output and no file has the token afterwards.
    #[track_caller]
    pub(super) fn init(&self, path: &str, more: &[&str]) -> RunnerOutput {
        let (remote, kind) = (self.forge.remote(path), self.forge.kind_name());
        let fixed = ["init", "--template", "static", "--remote", &remote, "--create", "--forge", kind];
        let output = self.environment.run_in("project", &[&fixed[..], more].concat());
        self.assert_no_token(&output);
        output
    }

    #[track_caller]
    pub(super) fn assert_no_token(&self, output: &RunnerOutput) {
        let has_token = |bytes: &[u8]| bytes.windows(FORGE_TOKEN.len()).any(|window| window == FORGE_TOKEN.as_bytes());
        assert!(!has_token(output.stdout.as_bytes()) && !has_token(output.stderr.as_bytes()), "{}", output.stderr);
        for (path, content) in self.environment.tree() {
            assert!(!has_token(&content), "{}", path.display());
        }
        assert_eq!(fs::read_dir(self.environment.home("")).unwrap().count(), 1, "nothing is kept in the home");
    }

    /// The calls that changed something.
    pub(super) fn posts(&self) -> Vec<String> {
        self.forge.calls().into_iter().filter(|call| call.starts_with("POST ")).collect()
    }

    pub(super) fn git(&self, arguments: &[&str]) -> String {
        git(&self.environment.path("project"), arguments)
    }

    /// That a call has gone its whole way, and pushed the one commit.
    #[track_caller]
    pub(super) fn assert_pushed(&self, path: &str) {
        assert_eq!(self.git(&["remote", "get-url", "origin"]), format!("{}\n", self.forge.remote(path)));
        assert_eq!(self.git(&["rev-list", "--count", "main"]), "1\n");
        let at_forge = git(&self.forge.repository(path), &["rev-parse", "main"]);
        assert_eq!(at_forge, self.git(&["rev-parse", "HEAD"]));
    }
}

/// What git says in a folder.
fn git(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git").arg("-C").arg(folder).args(arguments).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn private_repository_is_created_and_pushed_to() {
    for kind in BOTH {
        let world = ForgeWorld::new(kind);
        let made = world.init("ann/shop", &["--push"]);
        made.assert_exit(0);
        let said = format!("\ncreated ann/shop at {}, private: http://", world.forge.address());
        assert!(made.stdout.contains(&said), "{}", made.stdout);
        assert_eq!(world.forge.visibility("ann/shop").as_deref(), Some("private"));
        world.assert_pushed("ann/shop");
        assert_eq!(world.posts().len(), 1);
    }
}

#[test]
fn public_repository_is_created_for_an_organization_or_a_group() {
    for (kind, path, post) in [
        (FakeForgeKind::Github, "acme/shop", "POST /api/v3/orgs/acme/repos"),
        (FakeForgeKind::Gitlab, "acme/web/shop", "POST /api/v4/projects"),
    ] {
        let world = ForgeWorld::new(kind);
        let made = world.init(path, &["--public", "--json"]);
        made.assert_exit(0);
        let expected = format!(
            r#""pushed":false,"forge":{{"kind":"{}","name":"{path}","created":true,"visibility":"public","page":"http://{}/{path}"}}"#,
            world.forge.kind_name(),
            world.forge.address()
        );
        assert!(made.stdout.contains(&expected), "{}", made.stdout);
        assert_eq!(world.posts(), [post]);
        assert_eq!(world.forge.visibility(path).as_deref(), Some("public"));
        assert_eq!(git(&world.forge.repository(path), &["for-each-ref"]), "", "nothing was pushed");
    }
}

#[test]
fn commands_of_the_page_create_a_repository_and_push() {
    let mut world = ForgeWorld::new(FakeForgeKind::Github);
    let variable = world.forge.token_variable();
    world.environment.set_variable(variable, "");
    let commands = fenced_block("docs/init.md", "export GITHUB_TOKEN=").replace('…', FORGE_TOKEN);
    let commands = commands.replace("GITHUB_TOKEN", variable);
    let remote = format!("{} --forge github", world.forge.remote("acme/shop"));
    let commands = commands.replace("git@github.com:acme/shop.git", &remote);
    let script = format!("PATH=$(dirname \"$0\"):$PATH\ncd project\n{commands}");
    world.assert_no_token(world.environment.run_script(&script).assert_exit(0));
    world.assert_pushed("acme/shop");
}

#[test]
fn empty_repository_that_is_there_is_used() {
    for kind in BOTH {
        let world = ForgeWorld::new(kind);
        world.forge.add_repository("ann/shop", "private");
        let made = world.init("ann/shop", &["--push"]);
        made.assert_exit(0);
        let said = format!("\nann/shop at {} was there and empty, private: ", world.forge.address());
        assert!(made.stdout.contains(&said), "{}", made.stdout);
        assert!(world.posts().is_empty());
        world.assert_pushed("ann/shop");
    }
}

/// What everybody sees gets no files without a word of the user.
#[test]
fn public_repository_that_is_there_is_used_only_if_that_is_asked_for() {
    for (kind, visibility) in
        [(FakeForgeKind::Github, "public"), (FakeForgeKind::Gitlab, "public"), (FakeForgeKind::Gitlab, "internal")]
    {
        let world = ForgeWorld::new(kind);
        world.forge.add_repository("ann/shop", visibility);
        let refused = world.init("ann/shop", &["--push"]);
        refused
            .assert_exit(2)
            .assert_stderr_contains("error[P0244]")
            .assert_stderr_contains("is not private")
            .assert_stderr_contains(&format!("it is {visibility}, and `--public` was not given"));
        assert_eq!(world.environment.list("project"), [] as [&str; 0]);
        world.init("ann/shop", &["--push", "--public"]).assert_exit(0);
        world.assert_pushed("ann/shop");
    }
}

#[test]
fn repository_with_commits_is_refused() {
    for kind in BOTH {
        let world = ForgeWorld::new(kind);
        world.forge.add_repository("ann/shop", "private");
        let head = world.forge.add_commit("ann/shop");
        for _ in 0..2 {
            let refused = world.init("ann/shop", &["--push"]);
            refused.assert_exit(2).assert_stderr_contains("error[P0244]").assert_stderr_contains("is not empty");
            assert!(refused.stderr.contains(&format!("its newest commit is {head}")), "{}", refused.stderr);
            assert_eq!(world.environment.list("project"), [] as [&str; 0]);
        }
        assert_eq!(git(&world.forge.repository("ann/shop"), &["rev-parse", "main"]).trim_end(), head);
    }
}

/// A git that kills the runner when it is called for `stop`.
fn write_killing_git(world: &mut ForgeWorld, stop: &str) {
    let output = Command::new("sh").args(["-c", "command -v git; echo \"$PATH\""]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (git, path) = text.trim_end().split_once('\n').unwrap();
    let script = format!("#!/bin/sh\ncase \"$*\" in *' {stop} '*) kill -9 $PPID; exit 1;; esac\nexec {git} \"$@\"\n");
    let wrapper = world.environment.home("bin/git");
    fs::create_dir_all(wrapper.parent().unwrap()).unwrap();
    fs::write(&wrapper, script).unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{path}", wrapper.parent().unwrap().display());
    world.environment.set_variable("PATH", &path);
}

#[test]
fn call_that_was_killed_between_creation_and_remote_goes_on() {
    for kind in BOTH {
        for stop in ["remote add", "push"] {
            let mut world = ForgeWorld::new(kind);
            let (remote, kind) = (world.forge.remote("ann/shop"), world.forge.kind_name());
            write_killing_git(&mut world, stop);
            let fixed = ["init", "--template", "static", "--remote", &remote, "--create", "--forge", kind, "--push"];
            let killed = world.environment.run_in("project", &fixed);
            assert_eq!(killed.code, None, "{}", killed.stderr);
            fs::remove_dir_all(world.environment.home("bin")).unwrap();
            assert_eq!(world.posts().len(), 1);
            assert_eq!(world.git(&["remote"]), if stop == "push" { "origin\n" } else { "" });
            world.init("ann/shop", &["--push"]).assert_exit(0);
            assert_eq!(world.posts().len(), 1, "it is created once");
            world.assert_pushed("ann/shop");
        }
    }
}

#[test]
fn finished_call_can_be_repeated() {
    for kind in BOTH {
        let world = ForgeWorld::new(kind);
        world.init("ann/shop", &["--push"]).assert_exit(0);
        let again = world.init("ann/shop", &["--push"]);
        again.assert_exit(0);
        assert!(again.stdout.contains(" was there with this commit, private: "), "{}", again.stdout);
        assert_eq!(world.posts().len(), 1);
        world.assert_pushed("ann/shop");
    }
}

#[test]
fn repository_whose_creation_was_not_answered_is_used_by_the_next_call() {
    for kind in BOTH {
        let world = ForgeWorld::new(kind);
        world.forge.set_create_fault(CreateFault::LostAnswer);
        let broken = world.init("ann/shop", &["--push"]);
        broken
            .assert_exit(2)
            .assert_stderr_contains("error[P0243]: the files are written, but ann/shop at ")
            .assert_stderr_contains("ended the connection");
        assert_eq!(world.git(&["rev-list", "--count", "main"]), "1\n");
        assert_eq!(world.git(&["remote"]), "");
        let repeated = world.init("ann/shop", &["--push"]);
        repeated.assert_exit(0);
        assert!(repeated.stdout.contains(" was there and empty, private: "), "{}", repeated.stdout);
        world.assert_pushed("ann/shop");
    }
}
