//! The launcher's own tests, in action/tests. They are Node's: the launcher is too.

use std::{fs, path::Path, process::Command};

/// At least so many tests run, or the files were not found.
const MIN_TESTS: usize = 20;

#[test]
fn launcher_passes_its_tests() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../action/tests");
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.to_string_lossy().ends_with(".test.js"));
    files.sort();
    let mut node = Command::new("node");
    node.args(["--test", "--test-reporter=tap"]).args(&files).env_remove("NODE_TEST_CONTEXT");
    let output = node.output().expect("node can't be started; `cargo xtask setup` installs it");
    let report = String::from_utf8_lossy(&output.stdout);
    let passed = report.lines().find_map(|line| line.strip_prefix("# pass ")?.parse::<usize>().ok());
    assert!(output.status.success() && passed >= Some(MIN_TESTS), "{report}");
}
