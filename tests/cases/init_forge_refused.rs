//! What `runner init --create` says when the repository can't be created: the cause, the next command, and nothing that is half done.

use std::{
    io::{BufRead as _, BufReader},
    net::TcpListener,
};

use serde_json::json;

use super::init_forge::{BOTH, ForgeWorld};
use crate::support::{CreateFault, FakeForgeKind, TestEnvironment, free_port};

/// The texts are in what was said to people.
#[track_caller]
fn assert_refused(world: &ForgeWorld, path: &str, more: &[&str], texts: &[&str]) {
    let refused = world.init(path, more);
    refused.assert_exit(2);
    for text in texts {
        assert!(refused.stderr.contains(text), "{text:?} is not in\n{}", refused.stderr);
    }
}

#[track_caller]
fn assert_nothing_written(world: &ForgeWorld) {
    assert_eq!(world.environment.list("project"), [] as [&str; 0]);
}

#[test]
fn token_that_is_missing_or_wrong_is_found_before_anything_is_written() {
    for kind in BOTH {
        let mut world = ForgeWorld::new(kind);
        let variable = world.forge.token_variable();
        world.environment.set_variable(variable, "glpat-expired");
        let refused = world.init("ann/shop", &[]);
        refused.assert_exit(2).assert_stderr_contains("error[P0243]").assert_stderr_contains("status 401");
        assert!(
            refused.stderr.contains("Bad credentials ***") && !refused.stderr.contains("glpat"),
            "{}",
            refused.stderr
        );
        assert!(refused.stderr.contains(&format!("into {variable}")), "{}", refused.stderr);
        world.environment.set_variable(variable, "");
        assert_refused(&world, "ann/shop", &[], &["error[P0114]", &format!("{variable} is not set")]);
        world.environment.set_variable(variable, "two\nlines");
        assert_refused(&world, "ann/shop", &[], &["error[P0243]", "the token contains invalid characters"]);
        assert_nothing_written(&world);
        assert_eq!(world.forge.calls().len(), 1);
    }
}

/// A forge shows what a token may not do only when it is tried.
#[test]
fn token_without_the_scope_leaves_the_commit_and_one_with_it_goes_on() {
    let cases = [
        (FakeForgeKind::Github, "gist", "repo", "the token lacks the scope `repo`; its scopes: `gist`"),
        (FakeForgeKind::Github, "public_repo", "repo", "the token lacks the scope `repo`; its scopes: `public_repo`"),
        (FakeForgeKind::Github, "", "repo", "the token lacks the scope `repo`; its scopes: none"),
        (FakeForgeKind::Gitlab, "read_api", "api", "the token lacks the scope `api`"),
    ];
    for (kind, scopes, enough, said) in cases {
        let world = ForgeWorld::new(kind);
        world.forge.set_scopes(scopes);
        assert_refused(&world, "ann/shop", &["--push"], &["error[P0243]: the files are written, but ", said]);
        assert_eq!(world.git(&["remote"]), "");
        world.forge.set_scopes(enough);
        world.init("ann/shop", &["--push"]).assert_exit(0);
        world.assert_pushed("ann/shop");
    }
    let world = ForgeWorld::new(FakeForgeKind::Github);
    world.forge.set_scopes("public_repo");
    world.init("ann/shop", &["--public"]).assert_exit(0);
}

#[test]
fn user_who_may_not_create_repositories_is_told_what_the_forge_says() {
    for kind in BOTH {
        let world = ForgeWorld::new(kind);
        let path = if kind == FakeForgeKind::Github { "acme/shop" } else { "acme/web/shop" };
        let body = json!({ "message": "You need admin access to the organization before adding a repository to it." });
        world.forge.force_answer(Some(("POST", 422, body)));
        let texts =
            ["error[P0243]", "answered with status 422: You need admin access", "create the repository by hand"];
        assert_refused(&world, path, &[], &texts);
        world.forge.force_answer(Some(("POST", 429, json!({ "message": "slow down" }))));
        assert_refused(
            &world,
            path,
            &[],
            &["error[P0243]", "limits the number of calls, and asks to wait 7 s", "hint: wait, and repeat"],
        );
    }
}

#[test]
fn owner_that_does_not_exist_is_found_before_anything_is_written() {
    for (kind, said) in [
        (FakeForgeKind::Github, "the forge has no organization called bob, or does not show it to ann"),
        (FakeForgeKind::Gitlab, "the forge has no user or group called bob, or does not show it to this token"),
    ] {
        let world = ForgeWorld::new(kind);
        assert_refused(&world, "bob/shop", &[], &["error[P0243]", said, "or use the token of one of its members"]);
        assert_nothing_written(&world);
    }
}

#[test]
fn name_that_is_taken_by_a_repository_that_cannot_be_seen() {
    for kind in BOTH {
        let world = ForgeWorld::new(kind);
        world.forge.set_create_fault(CreateFault::HiddenRepository);
        let texts =
            ["error[P0243]: the files are written", "the name is taken by a repository that the token can't see"];
        assert_refused(&world, "ann/shop", &[], &texts);
        assert_eq!(world.git(&["remote"]), "");
    }
}

#[test]
fn forge_that_fails_is_asked_again_by_the_next_call() {
    for kind in BOTH {
        let world = ForgeWorld::new(kind);
        let error = |method| Some((method, 502, json!({ "message": "Server Error" })));
        world.forge.force_answer(error("GET"));
        let texts = ["error[P0243]: ann/shop at ", "status 502: Server Error", "and repeat the same command"];
        assert_refused(&world, "ann/shop", &["--push"], &texts);
        assert_nothing_written(&world);
        world.forge.force_answer(error("POST"));
        assert_refused(&world, "ann/shop", &["--push"], &["error[P0243]: the files are written, but ", "status 502"]);
        world.forge.force_answer(None);
        world.init("ann/shop", &["--push"]).assert_exit(0);
        world.assert_pushed("ann/shop");
    }
}

#[test]
fn answer_that_is_not_that_of_a_forge_is_said() {
    let world = ForgeWorld::new(FakeForgeKind::Github);
    world.forge.force_answer(Some(("GET", 200, json!("<html>"))));
    assert_refused(&world, "ann/shop", &[], &["error[P0243]", "the answer is not one of this forge's API"]);
    assert_nothing_written(&world);
}

#[test]
fn forge_that_cannot_be_reached_is_found_before_anything_is_written() {
    let world = ForgeWorld::new(FakeForgeKind::Gitlab);
    let remote = format!("http://127.0.0.1:{}/ann/shop.git", free_port());
    let arguments = ["init", "--template", "static", "--remote", &remote, "--create", "--forge", "gitlab"];
    let refused = world.environment.run_in("project", &arguments);
    refused.assert_exit(2).assert_stderr_contains("error[P0243]").assert_stderr_contains("the forge can't be reached");
    assert_nothing_written(&world);
}

#[test]
fn address_that_is_none_of_a_forge_is_refused_before_anything_is_asked() {
    let world = ForgeWorld::new(FakeForgeKind::Github);
    let cases = [
        ("https://git.example/ann/shop.git", &[][..], "it is not known whether git.example is GitHub or GitLab"),
        ("http://git.example/ann/shop.git", &["--forge", "github"], "over http, others could read the token"),
        ("https://ann:pass@github.com/ann/shop.git", &[], "a name or a password before the host"),
        ("../shop.git", &[], "it is a path of this machine"),
        ("https://github.com/shop", &[], "its path is not OWNER/NAME"),
    ];
    for (remote, more, said) in cases {
        let fixed = ["init", "--template", "static", "--remote", remote, "--create"];
        let refused = world.environment.run_in("project", &[&fixed[..], more].concat());
        refused.assert_exit(2).assert_stderr_contains("error[P0239]").assert_stderr_contains(said);
        assert_nothing_written(&world);
    }
    let alone = world.environment.run_in("project", &["init", "--template", "static", "--create"]);
    alone.assert_exit(2).assert_stderr_contains("--remote <URL>");
    assert!(world.forge.calls().is_empty());
}

/// In a repository of somebody else, no forge is asked for anything.
#[test]
fn existing_remote_with_another_address_is_refused_before_anything_is_asked() {
    let world = ForgeWorld::new(FakeForgeKind::Github);
    world.git(&["init", "--quiet", "--initial-branch=main"]);
    world.git(&["remote", "add", "origin", "https://github.com/ann/other.git"]);
    assert_refused(&world, "ann/shop", &[], &["error[P0239]", "is a git repository already"]);
    assert!(world.forge.calls().is_empty());
}

/// The first line that a proxy gets from the runner, which has no way to the forge itself.
fn asked_of_proxy(remote: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut environment = TestEnvironment::new();
    for (name, value) in [
        ("HTTPS_PROXY", format!("http://{}", listener.local_addr().unwrap())),
        ("GITHUB_TOKEN", "unused".to_owned()),
        ("GITLAB_TOKEN", "unused".to_owned()),
    ] {
        environment.set_variable(name, &value);
    }
    std::fs::write(environment.home(".gitconfig"), "[user]\nname = Ann\nemail = ann@example.com\n").unwrap();
    let asked = std::thread::spawn(move || {
        let mut line = String::new();
        BufReader::new(listener.accept().unwrap().0).read_line(&mut line).unwrap();
        line
    });
    let arguments = ["init", "--template", "static", "--remote", remote, "--create", "project"];
    environment.run_in(".", &arguments).assert_exit(2).assert_stderr_contains("error[P0243]");
    assert!(!environment.exists("project"));
    asked.join().unwrap()
}

#[test]
fn known_forges_are_asked_at_their_own_api() {
    for remote in ["https://github.com/ann/shop.git", "git@github.com:ann/shop.git"] {
        assert_eq!(asked_of_proxy(remote), "CONNECT api.github.com:443 HTTP/1.1\r\n", "{remote}");
    }
    for remote in ["https://gitlab.com/acme/web/shop.git", "ssh://git@gitlab.com/acme/web/shop.git"] {
        assert_eq!(asked_of_proxy(remote), "CONNECT gitlab.com:443 HTTP/1.1\r\n", "{remote}");
    }
}
