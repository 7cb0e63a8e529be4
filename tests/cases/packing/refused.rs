//! What `pack` refuses: entries that `pull` would refuse, files to render that are none, and a disk without room. Nothing is left.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{PermissionsExt as _, symlink},
        net::UnixListener,
    },
    path::Path,
};

use super::pack;
use crate::support::TestEnvironment;

fn environment() -> TestEnvironment {
    let environment = TestEnvironment::new();
    fs::create_dir(environment.path("dist")).unwrap();
    environment
}

#[track_caller]
fn assert_refused(environment: &TestEnvironment, more: &[&str], text: &str) {
    let output = pack(environment, more);
    output.assert_exit(2).assert_stderr_contains("error[P0236]").assert_stderr_contains(text);
    assert_eq!(environment.list("dist"), [""; 0]);
}

#[test]
fn what_pull_would_refuse_is_refused() {
    type Change = fn(&Path);
    let cases: [(Change, &str); 12] = [
        (|app| symlink("../outside", app.join("link")).unwrap(), "it links to `../outside`, outside the folder"),
        (|app| symlink("/etc/passwd", app.join("link")).unwrap(), "it links to the absolute path `/etc/passwd`"),
        (
            |app| {
                fs::create_dir(app.join("a")).unwrap();
                symlink("..", app.join("a/up")).unwrap();
                symlink("a/up/../x", app.join("link")).unwrap();
            },
            "outside the folder",
        ),
        (|app| fs::write(app.join("version"), "x").unwrap(), "only in case"),
        (
            |app| ["e\u{301}", "\u{e9}"].iter().for_each(|name| fs::write(app.join(name), "x").unwrap()),
            "how its characters are encoded",
        ),
        (|app| fs::write(app.join("a\nb"), "x").unwrap(), "a control character"),
        (|app| fs::write(app.join(OsStr::from_bytes(b"\xff")), "x").unwrap(), "its name is not UTF-8"),
        (|app| fs::write(app.join(".Pawl-Files"), "x").unwrap(), "reserved for the runner's own files"),
        (|app| fs::create_dir_all(app.join("d/".repeat(140))).unwrap(), "128 levels of directories"),
        (
            |app| {
                fs::write(app.join("su"), "x").unwrap();
                fs::set_permissions(app.join("su"), fs::Permissions::from_mode(0o4755)).unwrap();
            },
            "`su` has the setuid or setgid bit",
        ),
        (|app| drop(UnixListener::bind(app.join("sock")).unwrap()), "`sock` is a socket"),
        (
            |app| {
                rustix_fifo(&app.join("pipe"));
            },
            "`pipe` is a pipe",
        ),
    ];
    for (change, text) in cases {
        let environment = environment();
        change(&environment.path("app"));
        assert_refused(&environment, &[], text);
    }
    // A setgid folder passes its group on, and says nothing of its content.
    let environment = environment();
    fs::set_permissions(environment.path("app"), fs::Permissions::from_mode(0o2755)).unwrap();
    pack(&environment, &[]).assert_exit(0);
}

fn rustix_fifo(path: &Path) {
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn limits_of_pull_hold() {
    let environment = environment();
    assert_refused(&environment, &["--limit", "max-files=2"], "more than 2 entries");
    assert_refused(&environment, &["--limit", "max-bytes=10"], "more than 10 bytes");
    environment.write("app/zeros", vec![0; 8 << 20]);
    assert_refused(&environment, &[], "more than 200 bytes of content per byte of its own");
    pack(&environment, &["--limit", "max-ratio=100000"]).assert_exit(0);
    pack(&environment, &["--limit", "max-lines=3"]).assert_exit(2).assert_stderr_contains("max-files, max-bytes");
}

#[test]
fn nothing_and_what_cannot_be_rendered_are_refused() {
    let environment = environment();
    assert_refused(&environment, &["--render", "gone"], "`gone` is not a file of the release");
    environment.write("app/plain", "no version");
    assert_refused(&environment, &["--render", "plain"], "`plain` has no @VERSION@");
    environment.write("app/.pawlignore", "*\n");
    assert_refused(&environment, &[], "the folder has no files");
    let missing = environment.run(&["pack", "gone", "--version", "r1", "--out", "dist/x.tar.zst"]);
    missing.assert_exit(2).assert_stderr_contains("error[P0236]").assert_stderr_contains("can't read gone");
    let format = environment.run(&["pack", "app", "--version", "r1", "--out", "dist/x.tgz"]);
    format
        .assert_exit(2)
        .assert_stderr_contains("the archive is a tar.zst, but the name `x.tgz` does not end in `.tar.zst`");
}

#[test]
fn full_disk_leaves_no_half_archive() {
    let environment = environment();
    let mut random = 1_u64;
    let noise = std::iter::repeat_with(|| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 56) as u8
    });
    environment.write("app/noise", noise.take(8 << 20).collect::<Vec<u8>>());
    let script = "mount -t tmpfs -o size=4m none dist && { \"$@\"; code=$?; ls -A dist; exit $code; }";
    let output =
        environment.run_in_mount_namespace(script, &["pack", "app", "--version", "r1", "--out", "dist/x.tar.zst"]);
    output.assert_exit(2).assert_stderr_contains("error[P0236]").assert_stderr_contains("No space left");
    assert_eq!(output.stdout, "", "something is left");
}
