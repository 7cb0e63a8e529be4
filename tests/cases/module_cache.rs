//! The compiled code of third-party modules: made once, and taken from its folder only if nobody else can have put it there.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink},
    path::{Path, PathBuf},
};

use crate::support::{RunnerOutput, TestEnvironment};

pub(super) const PLAN: &str = "\
version: 1
app: shop
steps:
  check:
    uses: ./check.wasm
    with: { files: [{ path: VERSION }], tries: 1 }
    grants: { dirs: { app: \"./app:ro\" } }
";
const CACHE_DIR: &str = ".cache/pawl/modules";
const KEY_FILE: &str = ".local/state/pawl/module-key";

/// A plan with a third-party module.
pub(super) fn third_party_environment() -> TestEnvironment {
    let environment = TestEnvironment::with_plan(PLAN);
    environment.write("check.wasm", TestEnvironment::component("verify"));
    environment
}

fn deploy(environment: &TestEnvironment) -> RunnerOutput {
    let answer = environment.run(&["--local", "--release", "r1"]);
    answer.assert_exit(0);
    answer
}

/// The files of a kind that are kept; there are two kinds.
fn cached_files(environment: &TestEnvironment, folder: &str, kind: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(environment.home(folder)).unwrap().map(|entry| entry.unwrap().path());
    let (wanted, others): (Vec<_>, Vec<_>) = files.partition(|path| path.extension().unwrap() == kind);
    assert!(others.iter().all(|path| ["cwasm", "description"].contains(&path.extension().unwrap().to_str().unwrap())));
    wanted
}

/// The one file of compiled code.
fn compiled_file(environment: &TestEnvironment) -> PathBuf {
    let [file] = &cached_files(environment, CACHE_DIR, "cwasm")[..] else { panic!("not one file of compiled code") };
    file.clone()
}

fn inode(path: &Path) -> u64 {
    path.symlink_metadata().unwrap().ino()
}

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().mode() & 0o7777
}

fn module_warnings(answer: &RunnerOutput) -> Vec<String> {
    answer
        .stderr_snapshot()
        .lines()
        .filter(|line| line.starts_with("warning: ") && line.contains("module"))
        .map(str::to_owned)
        .collect()
}

/// Is there something wrong with the kept code, it is not used, that is said, all goes well, and the next run is as it
/// should be. `why` is how the warning ends.
#[track_caller]
fn check_cache_rejected(spoil: impl FnOnce(&TestEnvironment, &Path), why: &str) {
    let environment = third_party_environment();
    let first = deploy(&environment);
    assert_eq!(module_warnings(&first), [""; 0], "a first compilation is no fault");
    let file = compiled_file(&environment);
    spoil(&environment, &file);
    let spoiled = inode(&file);

    let mut again = module_warnings(&deploy(&environment));
    again.retain(|line| line.contains("recompiling module"));
    let start = "warning: recompiling module [ROOT]/shop/check.wasm: the runner can't use the cached code: ";
    assert!(again.len() == 1 && again[0].starts_with(start) && again[0].ends_with(why), "{again:?}");
    assert_ne!(inode(&compiled_file(&environment)), spoiled, "it was compiled again");
    assert_eq!(module_warnings(&deploy(&environment)), [""; 0], "and the new code is used");
}

#[test]
fn module_is_compiled_once() {
    let environment = third_party_environment();
    deploy(&environment);
    let file = compiled_file(&environment);
    let (made, bytes) = (inode(&file), fs::read(&file).unwrap());
    assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
    let key = environment.home(KEY_FILE);
    assert_eq!((mode(&key), fs::read(&key).unwrap().len()), (0o600, 32));

    let again = deploy(&environment);
    assert_eq!(module_warnings(&again), [""; 0]);
    assert_eq!((inode(&file), fs::read(&file).unwrap()), (made, bytes));

    // Another module is another file; the first one stays.
    fs::remove_file(environment.path("deploy.lock")).unwrap();
    environment.write("check.wasm", [&TestEnvironment::component("verify")[..], b"\x00\x02\x01x"].concat());
    assert_eq!(module_warnings(&deploy(&environment)), [""; 0]);
    assert_eq!(cached_files(&environment, CACHE_DIR, "cwasm").len(), 2);
}

#[test]
fn description_is_cached_and_a_forged_one_is_rejected() {
    let environment = third_party_environment();
    deploy(&environment);
    let [file] = &cached_files(&environment, CACHE_DIR, "description")[..] else { panic!("not one description") };
    let cached = fs::read(file).unwrap();
    let forged = String::from_utf8_lossy(&cached[32..]).replace("\"phase\":\"check\"", "\"phase\":\"commit\"");
    fs::write(file, [&cached[..32], forged.as_bytes()].concat()).unwrap();
    let again = module_warnings(&deploy(&environment));
    let start = "warning: asking module [ROOT]/shop/check.wasm for its description again: the runner can't use the cached one: ";
    assert!(again.len() == 1 && again[0].starts_with(start), "{again:?}");
    assert_eq!(fs::read(file).unwrap(), cached, "it said the same again");
    assert_eq!(module_warnings(&deploy(&environment)), [""; 0]);
}

#[test]
fn flipped_byte_is_rejected() {
    let flip = |_: &TestEnvironment, file: &Path| {
        let mut bytes = fs::read(file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(file, bytes).unwrap();
    };
    check_cache_rejected(flip, ".cwasm was modified, or written with another key");
}

#[test]
fn truncated_file_is_rejected() {
    check_cache_rejected(
        |_, file| fs::write(file, [0; 7]).unwrap(),
        ".cwasm was modified, or written with another key",
    );
}

#[test]
fn file_of_another_key_is_rejected() {
    let other = |environment: &TestEnvironment, _: &Path| fs::write(environment.home(KEY_FILE), [7; 32]).unwrap();
    check_cache_rejected(other, ".cwasm was modified, or written with another key");
}

#[test]
fn code_of_another_module_is_rejected() {
    let swap = |environment: &TestEnvironment, file: &Path| {
        environment.write("check.wasm", TestEnvironment::component("switch"));
        environment.run(&["plan", "--release", "r1"]);
        let other = cached_files(environment, CACHE_DIR, "cwasm");
        let other = other.into_iter().find(|path| path != file).unwrap();
        fs::rename(other, file).unwrap();
        environment.write("check.wasm", TestEnvironment::component("verify"));
    };
    check_cache_rejected(swap, ".cwasm was modified, or written with another key");
}

#[test]
fn world_writable_file_is_rejected() {
    let open = |_: &TestEnvironment, file: &Path| fs::set_permissions(file, fs::Permissions::from_mode(0o620)).unwrap();
    check_cache_rejected(open, ".cwasm (mode 0620)");
}

#[test]
fn symbolic_link_is_rejected() {
    let link = |environment: &TestEnvironment, file: &Path| {
        let elsewhere = environment.home("elsewhere");
        fs::rename(file, &elsewhere).unwrap();
        symlink(elsewhere, file).unwrap();
    };
    check_cache_rejected(link, ".cwasm is a symbolic link or has the wrong file type");
}

/// Only root can give a file away; another user takes the part of the other one by running all the above.
#[test]
fn file_of_another_user_is_rejected() {
    let give = |_: &TestEnvironment, file: &Path| chown(file, Some(4321), None).unwrap();
    if rustix::process::geteuid().is_root() {
        check_cache_rejected(give, ".cwasm belongs to another user (uid 4321)");
    }
}

/// The folder itself is not to be trusted: nothing is read from it, nothing is written to it.
#[track_caller]
fn check_cache_dir_rejected(spoil: impl FnOnce(&TestEnvironment), why: &str) {
    let environment = third_party_environment();
    deploy(&environment);
    let made = inode(&compiled_file(&environment));
    spoil(&environment);
    let stderr = deploy(&environment).stderr_snapshot();
    let warnings: Vec<_> = stderr.lines().filter(|line| line.contains("does not cache compiled modules")).collect();
    assert!(warnings.len() == 1 && warnings[0].ends_with(why), "{stderr}");
    assert_eq!(inode(&compiled_file(&environment)), made, "nothing was written");
}

#[test]
fn writable_cache_dir_is_rejected() {
    let open = |environment: &TestEnvironment| {
        fs::set_permissions(environment.home(CACHE_DIR), fs::Permissions::from_mode(0o770)).unwrap();
    };
    check_cache_dir_rejected(
        open,
        "the runner does not cache compiled modules: other users can access [ROOT]/home/.cache/pawl/modules (mode 0770)",
    );
}

#[test]
fn linked_cache_dir_is_rejected() {
    let link = |environment: &TestEnvironment| {
        fs::rename(environment.home(CACHE_DIR), environment.home("elsewhere")).unwrap();
        symlink(environment.home("elsewhere"), environment.home(CACHE_DIR)).unwrap();
    };
    check_cache_dir_rejected(link, "/pawl/modules is a symbolic link or has the wrong file type");
}

#[test]
fn readable_key_is_rejected() {
    let open = |environment: &TestEnvironment| {
        fs::set_permissions(environment.home(KEY_FILE), fs::Permissions::from_mode(0o644)).unwrap();
    };
    check_cache_dir_rejected(open, "/pawl/module-key (mode 0644)");
}

#[test]
fn cache_dir_and_key_of_another_user_are_rejected() {
    if rustix::process::geteuid().is_root() {
        let give = |path| move |environment: &TestEnvironment| chown(environment.home(path), Some(4321), None).unwrap();
        check_cache_dir_rejected(give(CACHE_DIR), "/pawl/modules belongs to another user (uid 4321)");
        check_cache_dir_rejected(give(KEY_FILE), "/pawl/module-key belongs to another user (uid 4321)");
    }
}

#[test]
fn missing_cache_dir_is_a_note() {
    let mut environment = third_party_environment();
    fs::write(environment.home(".cache"), "a file").unwrap();
    deploy(&environment)
        .assert_stderr_contains("note: the runner does not cache compiled modules: [ROOT]/home/.cache/pawl/modules: ");
    environment.set_variable("HOME", "");
    deploy(&environment)
        .assert_stderr_contains("note: the runner does not cache compiled modules: set HOME, or XDG_CACHE_HOME");
    environment.set_variable("XDG_CACHE_HOME", environment.home("c").to_str().unwrap());
    environment.set_variable("XDG_STATE_HOME", environment.home("s").to_str().unwrap());
    let kept = deploy(&environment).stderr_snapshot();
    assert!(!kept.contains("not kept"), "{kept}");
    assert_eq!(cached_files(&environment, "c/pawl/modules", "cwasm").len(), 1);
    assert!(environment.home("s/pawl/module-key").exists());
}

/// Processes that start at once all succeed, and agree on one key.
#[test]
fn concurrent_processes_share_one_key() {
    let environment = third_party_environment();
    let plans: Vec<_> = (0..8).map(|_| environment.start(&["plan", "--release", "r1"])).collect();
    for child in plans {
        assert_eq!(environment.wait(child), Some(0));
    }
    let made = inode(&compiled_file(&environment));
    assert_eq!(module_warnings(&deploy(&environment)), [""; 0]);
    assert_eq!(inode(&compiled_file(&environment)), made);
}
