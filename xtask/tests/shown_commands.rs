//! What README and the example tell a newcomer to type: `cargo xtask demo`, and the first plan by hand, word for word.
//!
//! The runner is built, or was built before, in this target directory. The example is a copy.

#![expect(clippy::unwrap_used, reason = "what a test is made of is well formed, or it fails")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tempfile::TempDir;

const XTASK: &str = env!("CARGO_BIN_EXE_xtask");
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

#[test]
fn demo_deploys_breaks_fixes_and_resumes() {
    // Where xtask finds the workspace, as `cargo run` says it.
    let mut demo = shell("\"$XTASK\" demo");
    let (code, said) = shown(&demo.env("CARGO_MANIFEST_DIR", env!("CARGO_MANIFEST_DIR")).output().unwrap());
    assert_eq!(code, Some(0), "{said}");
    let stages = [
        "deployed r1 to test in ",
        "FAIL   migrate  ",
        "resume after `migrate` failed",
        "skip   pull  ",
        "deployed r2 to test in ",
    ];
    let mut rest = said.as_str();
    for stage in stages {
        rest = rest.split_once(stage).unwrap_or_else(|| panic!("no {stage:?} in its place:\n{said}")).1;
    }
    let end = "demo: r1 was deployed, r2 failed in migrate, resumed without a second pull, and is live";
    assert_eq!(said.trim_end().lines().last(), Some(end), "{said}");
}

#[test]
fn first_plan_of_the_readme_is_deployed_by_hand() {
    let checkout = ExampleCheckout::new();
    let (code, said) = checkout.type_in("", &shell_block("README.md"));
    assert!(code == Some(0) && said.contains("deployed r1 to test in "), "{code:?}: {said}");
    assert_eq!(checkout.live_version(), "r1");
}

#[test]
fn commands_of_the_example_deploy_it_and_skip_it() {
    let checkout = ExampleCheckout::new();
    let (code, said) = checkout.type_in("examples/shop", &shell_block("examples/shop/README.md"));
    assert_eq!(code, Some(0), "{said}");
    for text in
        ["deployed r1 to test in ", "r1 is already deployed to test (", "decision  skip: its effect still holds"]
    {
        assert!(said.contains(text), "no {text:?} in\n{said}");
    }
    assert_eq!(checkout.live_version(), "r1");
}

/// The only block of commands on a page.
fn shell_block(page: &str) -> String {
    let text = fs::read_to_string(Path::new(ROOT).join(page)).unwrap();
    let blocks: Vec<_> = text.split("\n```sh\n").skip(1).map(|rest| rest.split_once("\n```").unwrap().0).collect();
    assert_eq!(blocks.len(), 1, "{page}: {blocks:?}");
    blocks[0].to_owned()
}

/// The example in a folder that stands for the checkout.
struct ExampleCheckout {
    folder: TempDir,
}

impl ExampleCheckout {
    fn new() -> Self {
        let checkout = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir_all(checkout.path("examples/shop")).unwrap();
        for part in ["app", "migrations", "deploy.yml"] {
            let mut copy = Command::new("cp");
            copy.arg("-r").arg(Path::new(ROOT).join("examples/shop").join(part)).arg(checkout.path("examples/shop"));
            assert!(copy.status().unwrap().success(), "{part}");
        }
        checkout
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// Types commands in a folder of the checkout. Cargo itself works in the real one, `cargo xtask` where it is called.
    #[expect(clippy::disallowed_methods, reason = "nothing stands outside of a test to pass the PATH on")]
    fn type_in(&self, folder: &str, commands: &str) -> (Option<i32>, String) {
        let cargo = "cargo() {\n  case $1 in\n  xtask) shift && \"$XTASK\" \"$@\" ;;\n  *) (cd \"$ROOT\" && command cargo \"$@\") ;;\n  esac\n}";
        let mut shell = shell(&format!("{cargo}\n{commands}"));
        shell.current_dir(self.path(folder));
        // Which one the user puts on the PATH.
        let found = env::var_os("PATH").unwrap();
        let path = [target_dir().join("release")].into_iter().chain(env::split_paths(&found));
        shown(&shell.env("PATH", env::join_paths(path).unwrap()).output().unwrap())
    }

    fn live_version(&self) -> String {
        fs::read_to_string(self.path("examples/shop/deploy/test/current/VERSION")).unwrap()
    }
}

fn target_dir() -> &'static Path {
    Path::new(XTASK).parent().and_then(Path::parent).unwrap()
}

/// A user's shell, in which all is said on one stream: without what cargo set for this test, whose change would have build scripts
/// run again, and outside of CI.
fn shell(script: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("exec 2>&1\nset -e\n{script}")]);
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        let is_of_cargo = name == "CARGO"
            || ["CARGO_PKG_", "CARGO_BIN_", "CARGO_MANIFEST_"].iter().any(|start| name.starts_with(start));
        if is_of_cargo || ["CI", "GITHUB_ACTIONS"].contains(&&*name) {
            shell.env_remove(name);
        }
    }
    shell.env("XTASK", XTASK).env("ROOT", ROOT).env("CARGO_TARGET_DIR", target_dir());
    shell
}

/// The exit code, and all that was said.
fn shown(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}
