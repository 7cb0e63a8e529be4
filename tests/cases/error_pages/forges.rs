//! Errors about repositories on a forge.

use std::fs;

use crate::support::{
    FORGE_TOKEN, FakeForge, FakeForgeKind, TestEnvironment,
    doc_blocks::{check_error_page, command_line, exit_code},
};

/// Compares the page with what `init --create` says about `ann/shop`.
#[track_caller]
fn check_forge_page(code: &str, forge: &FakeForge, replaced: &[(String, &'static str)]) {
    let mut environment = TestEnvironment::new();
    fs::create_dir_all(environment.path("project")).unwrap();
    fs::write(environment.home(".gitconfig"), "[user]\nname = Ann\nemail = ann@example.com\n").unwrap();
    environment.set_variable(forge.token_variable(), FORGE_TOKEN);
    let arguments = |remote: &str| {
        ["init", "--template", "static", "--remote", remote, "--create", "--forge", "github"].map(str::to_owned)
    };
    let own = arguments(&forge.remote("ann/shop"));
    let output = environment.run_in("project", &own.each_ref().map(String::as_str));
    output.assert_exit(exit_code(code));
    let shown = arguments("https://git.example.com/ann/shop.git");
    let command = command_line(&shown.each_ref().map(String::as_str));
    let mut replacements = vec![(forge.address(), "git.example.com")];
    replacements.extend_from_slice(replaced);
    check_error_page(code, Some(&command), &output.stderr, &replacements);
}

#[test]
fn p0243_token_without_the_scope() {
    let forge = FakeForge::start(FakeForgeKind::Github);
    forge.set_scopes("gist");
    check_forge_page("P0243", &forge, &[]);
}

#[test]
fn p0244_repository_with_commits() {
    let forge = FakeForge::start(FakeForgeKind::Github);
    forge.add_repository("ann/shop", "private");
    let head = forge.add_commit("ann/shop");
    check_forge_page("P0244", &forge, &[(head, "9fceb02d0ae598e95dc970b74767f19372d61af8")]);
}
