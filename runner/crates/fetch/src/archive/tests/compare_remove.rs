//! Tests of `compare` and `remove`.

use std::os::unix::fs::symlink;

use super::*;

fn unpacked() -> ArchiveTestDir {
    let room = ArchiveTestDir::new();
    let archive = TestTarBuilder::new()
        .file("bin/app", "program")
        .file("config.toml", "twenty bytes of text")
        .dir("empty")
        .symlink("run", "bin/app")
        .finish();
    room.unpack("a.tar", &archive, &ArchiveLimits::default()).unwrap();
    room
}

/// The differences after `change` was applied to the folder.
#[track_caller]
fn check(change: impl FnOnce(&Path), wanted: &[&str]) {
    let room = unpacked();
    change(&room.path("new"));
    assert_eq!(compare(&room.dir, "new").unwrap(), wanted);
}

#[test]
fn every_kind_of_change_is_reported() {
    check(|_| {}, &[]);
    check(|root| fs::remove_file(root.join("bin/app")).unwrap(), &["missing: bin/app"]);
    check(|root| fs::remove_dir_all(root.join("bin")).unwrap(), &["missing: bin"]);
    check(|root| fs::remove_dir(root.join("empty")).unwrap(), &["missing: empty"]);
    check(
        |root| fs::write(root.join("config.toml"), "twelve bytes").unwrap(),
        &["changed: config.toml (size 12, was 20)"],
    );
    check(
        |root| fs::write(root.join("config.toml"), "TWENTY BYTES OF TEXT").unwrap(),
        &["changed: config.toml (other content of the same size)"],
    );
    check(
        |root| {
            fs::remove_file(root.join("run")).unwrap();
            symlink("config.toml", root.join("run")).unwrap();
        },
        &["changed: run (links to config.toml, was bin/app)"],
    );
    check(
        |root| {
            fs::remove_file(root.join("run")).unwrap();
            fs::create_dir(root.join("run")).unwrap();
        },
        &["changed: run (a directory, was a link)"],
    );
    // A directory was replaced by a link: its files are not looked for through the link.
    check(
        |root| {
            fs::rename(root.join("bin"), root.join("moved")).unwrap();
            symlink("moved", root.join("bin")).unwrap();
        },
        &["changed: bin (a link, was a directory)"],
    );
    check(
        |root| {
            fs::remove_file(root.join("run")).unwrap();
            fs::remove_file(root.join("bin/app")).unwrap();
        },
        &["missing: bin/app", "missing: run"],
    );
}

#[test]
fn unchanged_folder_has_no_differences() {
    check(|root| fs::write(root.join("added"), "").unwrap(), &[]);
    check(|root| fs::write(root.join("empty/added"), "").unwrap(), &[]);
    check(|root| fs::set_permissions(root.join("bin/app"), fs::Permissions::from_mode(0o600)).unwrap(), &[]);
    let room = unpacked();
    fs::rename(room.path("new"), room.path("renamed")).unwrap();
    assert_eq!(compare(&room.dir, "renamed").unwrap(), [""; 0]);
}

#[test]
fn content_decides_when_the_time_is_another_one() {
    check(|root| fs::write(root.join("config.toml"), "twenty bytes of text").unwrap(), &[]);
    check(
        |root| fs::File::open(root.join("bin/app")).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap(),
        &[],
    );
    let room = ArchiveTestDir::new();
    let archive = TestTarBuilder::new().file("a", "content").hard_link("b", "a").finish();
    room.unpack("a.tar", &archive, &ArchiveLimits::default()).unwrap();
    fs::remove_file(room.path("new/b")).unwrap();
    fs::write(room.path("new/b"), "content").unwrap();
    assert_eq!(compare(&room.dir, "new").unwrap(), [""; 0]);
}

/// Such a list was written by earlier versions.
#[test]
fn list_without_hashes_is_read() {
    let without_hashes = |root: &Path| {
        let list = root.join(file_list::FILE_LIST_NAME);
        let text = fs::read_to_string(&list).unwrap().replace("pawl-files 2", "pawl-files 1");
        let lines =
            text.lines().filter(|line| !line.starts_with("blake3 ")).map(|line| match line.strip_prefix("file ") {
                None => format!("{line}\n"),
                Some(file) => {
                    let fields: Vec<&str> = file.splitn(5, ' ').collect();
                    format!("file {} {} {} {}\n", fields[0], fields[1], fields[2], fields[4])
                }
            });
        let body: String = lines.collect();
        fs::write(&list, format!("{body}blake3 {}\n", blake3::hash(body.as_bytes()))).unwrap();
    };
    check(without_hashes, &[]);
    check(
        |root| {
            without_hashes(root);
            fs::write(root.join("config.toml"), "twenty bytes of text").unwrap();
        },
        &["changed: config.toml (modified since)"],
    );
}

#[test]
fn the_list_itself() {
    check(|root| fs::remove_file(root.join(file_list::FILE_LIST_NAME)).unwrap(), &["its list of files is missing"]);
    let text = fs::read_to_string(unpacked().path("new").join(file_list::FILE_LIST_NAME)).unwrap();
    assert!(text.starts_with(&format!(
        "pawl-files 2 5\ndir 0 0.000000000 755 bin\nfile 7 1700000000.000000000 644 {} bin/app\n",
        &blake3::hash(b"program").to_hex()[..32]
    )));
    let damaged = ["its list of files is damaged"];
    for end in 0..text.len() {
        check(|root| fs::write(root.join(file_list::FILE_LIST_NAME), &text[..end]).unwrap(), &damaged);
    }
    check(|root| fs::write(root.join(file_list::FILE_LIST_NAME), text.replace("file 7", "file 8")).unwrap(), &damaged);
    check(
        |root| fs::write(root.join(file_list::FILE_LIST_NAME), [&b"\xff"[..], text.as_bytes()].concat()).unwrap(),
        &damaged,
    );
    check(|root| fs::write(root.join(file_list::FILE_LIST_NAME), format!("{text}more\n")).unwrap(), &damaged);
    let newer = text.replace("pawl-files 2", "pawl-files 3");
    let unknown = ["its list of files has an unknown format"];
    check(|root| fs::write(root.join(file_list::FILE_LIST_NAME), newer).unwrap(), &unknown);
    // Even with a correct hash, the list must not lead outside.
    let body = "pawl-files 1 1\nfile 8 0.000000000 644 ../../outside\n";
    let forged = format!("{body}blake3 {}\n", blake3::hash(body.as_bytes()));
    check(|root| fs::write(root.join(file_list::FILE_LIST_NAME), forged).unwrap(), &damaged);
    check(
        |root| {
            fs::remove_file(root.join(file_list::FILE_LIST_NAME)).unwrap();
            symlink("../../outside", root.join(file_list::FILE_LIST_NAME)).unwrap();
        },
        &damaged,
    );
    check(
        |root| {
            fs::remove_file(root.join(file_list::FILE_LIST_NAME)).unwrap();
            fs::create_dir(root.join(file_list::FILE_LIST_NAME)).unwrap();
        },
        &damaged,
    );
}

#[test]
fn the_folder_itself() {
    let room = ArchiveTestDir::new();
    assert_eq!(compare(&room.dir, "new").unwrap(), ["missing: new"]);
    assert_eq!(compare(&room.dir, "no/parent").unwrap(), ["missing: no/parent"]);
    fs::write(room.path("new"), "").unwrap();
    assert_eq!(compare(&room.dir, "new").unwrap(), ["changed: new (no longer a directory)"]);
    fs::remove_file(room.path("new")).unwrap();
    symlink("..", room.path("new")).unwrap();
    assert_eq!(compare(&room.dir, "new").unwrap(), ["changed: new (no longer a directory)"]);
    assert!(compare(&room.dir, "..").is_err());
}

#[test]
fn at_most_twenty_lines() {
    let room = ArchiveTestDir::new();
    let tar = (0..30).fold(TestTarBuilder::new(), |tar, number| tar.file(&format!("f{number:02}"), ""));
    room.unpack("a.tar", &tar.finish(), &ArchiveLimits::default()).unwrap();
    for number in 0..30 {
        fs::remove_file(room.path(&format!("new/f{number:02}"))).unwrap();
    }
    let lines = compare(&room.dir, "new").unwrap();
    assert_eq!((lines.len(), lines[18].as_str(), lines[19].as_str()), (20, "missing: f18", "and 11 more"));
}

#[test]
fn removing() {
    let room = unpacked();
    fs::create_dir_all(room.path("new/a/b/c")).unwrap();
    symlink("../../..", room.path("new/a/out")).unwrap();
    symlink("../../../outside", room.path("new/a/file-out")).unwrap();
    remove(&room.dir, "new").unwrap();
    room.assert_untouched();
    remove(&room.dir, "new").unwrap();
    remove(&room.dir, "no/such/parent").unwrap();
    for path in ["", ".", "..", "a/..", "/"] {
        assert!(matches!(remove(&room.dir, path), Err(ArchiveError::InvalidFolderName(_))), "{path:?}");
    }
    assert!(remove(&room.dir, "../outside").is_err());
    fs::create_dir(room.temp.path().join("beside")).unwrap();
    fs::write(room.temp.path().join("beside/f"), "").unwrap();
    symlink("../beside", room.path("link")).unwrap();
    remove(&room.dir, "link").unwrap();
    assert!(room.temp.path().join("beside/f").exists() && !room.path("link").exists());
    fs::write(room.path("file"), "").unwrap();
    remove(&room.dir, "file").unwrap();
    assert!(!room.path("file").exists());
}

/// Root ignores permissions, so this runs as another user.
#[test]
fn directories_without_rights_are_removed() {
    let room = unpacked();
    fs::create_dir_all(room.path("new/a/b/c")).unwrap();
    fs::write(room.path("new/a/b/f"), "").unwrap();
    for (path, mode) in [("new/a/b", 0o000), ("new/a", 0o500), ("new/empty", 0o555), ("new", 0o100)] {
        fs::set_permissions(room.path(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    if rustix::process::geteuid().is_root() {
        let nobody = 65_534;
        for path in ["new/a/b/c", "new/a/b/f", "new/a/b", "new/a", "new/empty", "new/bin/app", "new/bin", "new", "."] {
            std::os::unix::fs::chown(room.path(path), Some(nobody), Some(nobody)).unwrap();
        }
        fs::set_permissions(room.temp.path(), fs::Permissions::from_mode(0o755)).unwrap();
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            if rustix::process::geteuid().is_root() {
                // Only in this thread.
                rustix::thread::set_thread_uid(rustix::fs::Uid::from_raw(65_534)).unwrap();
                assert!(fs::read_dir(room.path("new")).is_err(), "the test must not pass by root's rights");
            }
            remove(&room.dir, "new").unwrap();
        });
    });
    room.assert_untouched();
}
