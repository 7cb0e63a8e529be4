//! The compiled code of third-party modules: made once, and taken from its folder only if nobody else can have put it there.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink},
    path::{Path, PathBuf},
};

use crate::support::{Answer, Environment};

pub(super) const PLAN: &str = "\
version: 1
app: shop
steps:
  check:
    uses: ./check.wasm
    with: { files: [{ path: VERSION }], tries: 1 }
    grants: { dirs: { app: \"./app:ro\" } }
";
const FOLDER: &str = ".cache/pawl/modules";
const KEY: &str = ".local/state/pawl/module-key";

/// A plan with a third-party module.
pub(super) fn environment() -> Environment {
    let environment = Environment::with_plan(PLAN);
    environment.write("check.wasm", Environment::component("verify"));
    environment
}

fn deploy(environment: &Environment) -> Answer {
    let answer = environment.run(&["--local", "--release", "r1"]);
    answer.assert_exit(0);
    answer
}

/// The files of a kind that are kept; there are two kinds.
fn files(environment: &Environment, folder: &str, kind: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(environment.home(folder)).unwrap().map(|entry| entry.unwrap().path());
    let (wanted, others): (Vec<_>, Vec<_>) = files.partition(|path| path.extension().unwrap() == kind);
    assert!(others.iter().all(|path| ["cwasm", "description"].contains(&path.extension().unwrap().to_str().unwrap())));
    wanted
}

/// The one file of compiled code.
fn kept(environment: &Environment) -> PathBuf {
    let [file] = &files(environment, FOLDER, "cwasm")[..] else { panic!("not one file of compiled code") };
    file.clone()
}

fn inode(path: &Path) -> u64 {
    path.symlink_metadata().unwrap().ino()
}

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().mode() & 0o7777
}

fn warnings(answer: &Answer) -> Vec<String> {
    answer.said().lines().filter(|line| line.starts_with("warning: module")).map(str::to_owned).collect()
}

/// Is there something wrong with the kept code, it is not used, that is said, all goes well, and the next run is as it
/// should be. `why` is how the warning ends.
#[track_caller]
fn check_refused(spoil: impl FnOnce(&Environment, &Path), why: &str) {
    let environment = environment();
    let first = deploy(&environment);
    assert_eq!(warnings(&first), [""; 0], "a first compilation is no fault");
    let file = kept(&environment);
    spoil(&environment, &file);
    let spoiled = inode(&file);

    let mut again = warnings(&deploy(&environment));
    again.retain(|line| line.contains("is compiled again"));
    let start = "warning: module [ROOT]/shop/check.wasm is compiled again, its kept code is not used: ";
    assert!(again.len() == 1 && again[0].starts_with(start) && again[0].ends_with(why), "{again:?}");
    assert_ne!(inode(&kept(&environment)), spoiled, "it was compiled again");
    assert_eq!(warnings(&deploy(&environment)), [""; 0], "and the new code is used");
}

#[test]
fn code_is_compiled_once() {
    let environment = environment();
    deploy(&environment);
    let file = kept(&environment);
    let (made, bytes) = (inode(&file), fs::read(&file).unwrap());
    assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
    let key = environment.home(KEY);
    assert_eq!((mode(&key), fs::read(&key).unwrap().len()), (0o600, 32));

    let again = deploy(&environment);
    assert_eq!(warnings(&again), [""; 0]);
    assert_eq!((inode(&file), fs::read(&file).unwrap()), (made, bytes));

    // Another module is another file; the first one stays.
    fs::remove_file(environment.path("deploy.lock")).unwrap();
    environment.write("check.wasm", [&Environment::component("verify")[..], b"\x00\x02\x01x"].concat());
    assert_eq!(warnings(&deploy(&environment)), [""; 0]);
    assert_eq!(files(&environment, FOLDER, "cwasm").len(), 2);
}

#[test]
fn what_a_module_says_of_itself_is_kept_and_a_forged_word_is_not_believed() {
    let environment = environment();
    deploy(&environment);
    let [file] = &files(&environment, FOLDER, "description")[..] else { panic!("not one description") };
    let said = fs::read(file).unwrap();
    let forged = String::from_utf8_lossy(&said[32..]).replace("\"phase\":\"check\"", "\"phase\":\"commit\"");
    fs::write(file, [&said[..32], forged.as_bytes()].concat()).unwrap();
    let again = warnings(&deploy(&environment));
    let start = "warning: module [ROOT]/shop/check.wasm is asked again what it is, its kept answer is not used: ";
    assert!(again.len() == 1 && again[0].starts_with(start), "{again:?}");
    assert_eq!(fs::read(file).unwrap(), said, "it said the same again");
    assert_eq!(warnings(&deploy(&environment)), [""; 0]);
}

#[test]
fn a_flipped_byte() {
    let flip = |_: &Environment, file: &Path| {
        let mut bytes = fs::read(file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(file, bytes).unwrap();
    };
    check_refused(flip, ".cwasm was changed, or made with another key");
}

#[test]
fn a_torn_file() {
    check_refused(|_, file| fs::write(file, [0; 7]).unwrap(), ".cwasm was changed, or made with another key");
}

#[test]
fn another_key() {
    let other = |environment: &Environment, _: &Path| fs::write(environment.home(KEY), [7; 32]).unwrap();
    check_refused(other, ".cwasm was changed, or made with another key");
}

#[test]
fn the_code_of_another_module() {
    let swap = |environment: &Environment, file: &Path| {
        environment.write("check.wasm", Environment::component("switch"));
        environment.run(&["plan", "--release", "r1"]);
        let other = files(environment, FOLDER, "cwasm");
        let other = other.into_iter().find(|path| path != file).unwrap();
        fs::rename(other, file).unwrap();
        environment.write("check.wasm", Environment::component("verify"));
    };
    check_refused(swap, ".cwasm was changed, or made with another key");
}

#[test]
fn a_file_that_others_can_write() {
    let open = |_: &Environment, file: &Path| fs::set_permissions(file, fs::Permissions::from_mode(0o620)).unwrap();
    check_refused(open, ".cwasm is open to others (mode 0620)");
}

#[test]
fn a_symbolic_link() {
    let link = |environment: &Environment, file: &Path| {
        let elsewhere = environment.home("elsewhere");
        fs::rename(file, &elsewhere).unwrap();
        symlink(elsewhere, file).unwrap();
    };
    check_refused(link, ".cwasm is a symbolic link, or not what it should be");
}

/// Only root can give a file away; another user takes the part of the other one by running all the above.
#[test]
fn a_file_of_another_user() {
    let give = |_: &Environment, file: &Path| chown(file, Some(4321), None).unwrap();
    if rustix::process::geteuid().is_root() {
        check_refused(give, ".cwasm belongs to another user (uid 4321)");
    }
}

/// The folder itself is not to be trusted: nothing is read from it, nothing is written to it.
#[track_caller]
fn check_folder_refused(spoil: impl FnOnce(&Environment), why: &str) {
    let environment = environment();
    deploy(&environment);
    let made = inode(&kept(&environment));
    spoil(&environment);
    let said = deploy(&environment).said();
    let warnings: Vec<_> = said.lines().filter(|line| line.starts_with("warning: compiled modules")).collect();
    assert!(warnings.len() == 1 && warnings[0].ends_with(why), "{said}");
    assert_eq!(inode(&kept(&environment)), made, "nothing was written");
}

#[test]
fn a_folder_that_others_can_write() {
    let open = |environment: &Environment| {
        fs::set_permissions(environment.home(FOLDER), fs::Permissions::from_mode(0o770)).unwrap();
    };
    check_folder_refused(
        open,
        "compiled modules are not kept: [ROOT]/home/.cache/pawl/modules is open to others (mode 0770)",
    );
}

#[test]
fn a_folder_that_is_a_link() {
    let link = |environment: &Environment| {
        fs::rename(environment.home(FOLDER), environment.home("elsewhere")).unwrap();
        symlink(environment.home("elsewhere"), environment.home(FOLDER)).unwrap();
    };
    check_folder_refused(link, "/pawl/modules is a symbolic link, or not what it should be");
}

#[test]
fn a_key_that_others_can_read() {
    let open = |environment: &Environment| {
        fs::set_permissions(environment.home(KEY), fs::Permissions::from_mode(0o644)).unwrap();
    };
    check_folder_refused(open, "/pawl/module-key is open to others (mode 0644)");
}

#[test]
fn a_folder_and_a_key_of_another_user() {
    if rustix::process::geteuid().is_root() {
        let give = |path| move |environment: &Environment| chown(environment.home(path), Some(4321), None).unwrap();
        check_folder_refused(give(FOLDER), "/pawl/modules belongs to another user (uid 4321)");
        check_folder_refused(give(KEY), "/pawl/module-key belongs to another user (uid 4321)");
    }
}

#[test]
fn without_a_place_to_keep_it() {
    let mut environment = environment();
    fs::write(environment.home(".cache"), "a file").unwrap();
    deploy(&environment).assert_says("note: compiled modules are not kept: [ROOT]/home/.cache/pawl/modules: ");
    environment.set("HOME", "");
    deploy(&environment).assert_says("note: compiled modules are not kept: neither HOME nor XDG_CACHE_HOME");
    environment.set("XDG_CACHE_HOME", environment.home("c").to_str().unwrap());
    environment.set("XDG_STATE_HOME", environment.home("s").to_str().unwrap());
    let kept = deploy(&environment).said();
    assert!(!kept.contains("not kept"), "{kept}");
    assert_eq!(files(&environment, "c/pawl/modules", "cwasm").len(), 1);
    assert!(environment.home("s/pawl/module-key").exists());
}

/// Processes that start at once all succeed, and agree on one key.
#[test]
fn many_at_once() {
    let environment = environment();
    let plans: Vec<_> = (0..8).map(|_| environment.start(&["plan", "--release", "r1"])).collect();
    for child in plans {
        assert_eq!(environment.wait(child), Some(0));
    }
    let made = inode(&kept(&environment));
    assert_eq!(warnings(&deploy(&environment)), [""; 0]);
    assert_eq!(inode(&kept(&environment)), made);
}
