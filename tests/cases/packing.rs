//! `runner pack`: the same bytes wherever and whenever it runs, what stays out, what `pull` would refuse, versions, and the list of what
//! is in an archive.

mod refused;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::Command,
};

use serde_json::Value;

use crate::support::{
    RunnerOutput, TestEnvironment, TracedCall, doc_blocks::fenced_blocks, doc_blocks::page_path, sha256,
};

const ARCHIVE: &str = "dist/shop-r1.tar.zst";

/// Packs `app` as r1.
fn pack(environment: &TestEnvironment, more: &[&str]) -> RunnerOutput {
    let out = ["pack", "app", "--out", "dist/shop-{version}.tar.zst", "--version", "r1"];
    environment.run(&[&out[..], more].concat())
}

/// The example with what a release may have: an executable, links, an empty folder, long and foreign names.
fn environment() -> TestEnvironment {
    let environment = TestEnvironment::new();
    environment.write_program("app/bin/start", "#!/bin/sh\nexit 0\n");
    symlink("start", environment.path("app/bin/run")).unwrap();
    fs::create_dir(environment.path("app/empty")).unwrap();
    environment.write(&format!("app/{}/{}.txt", "long-".repeat(30), "name-".repeat(20)), "long");
    environment.write("app/größe/日本", "names");
    environment.write("app/large", (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>());
    environment
}

fn files_of(archive: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let reader = zstd::Decoder::new(fs::File::open(archive).unwrap()).unwrap();
    for entry in tar::Archive::new(reader).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
        found.insert(entry.path().unwrap().display().to_string(), content);
    }
    found
}

#[test]
fn same_files_make_the_same_bytes_anywhere() {
    let first = environment();
    pack(&first, &["--render", "VERSION"]).assert_exit(0);
    let expected = fs::read(first.path(ARCHIVE)).unwrap();

    // Another folder, another time, another umask and order, another language, one processor.
    let second = TestEnvironment::new();
    fs::remove_dir_all(second.path("app")).unwrap();
    let script = format!(
        "umask 077; mkdir -p elsewhere/deep dist; cd {}; ls -r | while read name; do cp -r \"$name\" {}/; done",
        first.path("app").display(),
        second.path("elsewhere/deep").display()
    );
    second.run_script(&script).assert_exit(0);
    let pack = "umask 007; LC_ALL=tr_TR.UTF-8 TZ=Asia/Tokyo exec taskset -c 0 faketime '2031-01-02 03:04:05' \
                \"$0\" pack elsewhere/deep --version r1 --render VERSION --out dist/other.tar.zst";
    second.run_script(pack).assert_exit(0);
    let made = fs::read(second.path("dist/other.tar.zst")).unwrap();
    assert!(made == expected, "{} and {} bytes", made.len(), expected.len());
    let mode = |path: &str| second.path(path).symlink_metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("elsewhere/deep/VERSION"), mode("elsewhere/deep/bin/start")), (0o600, 0o700), "the umask counted");

    // Through a pipe, the answer goes to where people read.
    let piped = second
        .run_script("\"$0\" pack elsewhere/deep --version r1 --render VERSION --out - --json >dist/piped.tar.zst");
    let answer: Value = serde_json::from_str(piped.assert_exit(0).stderr.trim()).unwrap();
    assert_eq!(answer["digest"], format!("sha256:{}", sha256(&expected)));
    assert!(fs::read(second.path("dist/piped.tar.zst")).unwrap() == expected);
}

#[test]
fn pull_unpacks_what_was_packed() {
    let environment = environment();
    let answer = pack(&environment, &["--render", "VERSION", "--render", "index.html", "--json"]);
    let answer = answer.assert_exit(0).json();
    let digest = sha256(&fs::read(environment.path(ARCHIVE)).unwrap());
    assert_eq!(answer["digest"], format!("sha256:{digest}"));
    assert_eq!((answer["links"].as_u64(), answer["version"].as_str()), (Some(1), Some("r1")));
    assert_eq!(environment.read(&format!("{ARCHIVE}.sha256")), format!("{digest}  shop-r1.tar.zst\n"));
    environment.deploy("r1", &[]).assert_exit(0);
    let live = environment.path("deploy/test/current/");
    assert_eq!(fs::read_to_string(live.join("VERSION")).unwrap(), "r1");
    assert!(fs::read_to_string(live.join("index.html")).unwrap().contains("Release r1"));
    assert_eq!(fs::read_link(live.join("bin/run")).unwrap(), Path::new("start"));
    assert_eq!(live.join("bin/start").metadata().unwrap().permissions().mode() & 0o777, 0o755);
    assert!(live.join("empty").is_dir() && live.join("größe/日本").is_file());
    assert!(fs::read(live.join("large")).unwrap() == fs::read(environment.path("app/large")).unwrap());

    // The list beside it is of these files.
    let listing: Value = serde_json::from_str(&environment.read(&format!("{ARCHIVE}.cdx.json"))).unwrap();
    assert_eq!(listing["metadata"]["component"]["hashes"][0]["content"], digest);
    assert_eq!(listing["metadata"]["component"]["version"], "r1");
    let listed: BTreeMap<_, _> = listing["components"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| {
            (file["name"].as_str().unwrap().to_owned(), file["hashes"][0]["content"].as_str().map(str::to_owned))
        })
        .collect();
    let is_content = |path: &String| !live.join(path).is_dir();
    let packed = files_of(&environment.path(ARCHIVE)).into_iter().filter(|(path, _)| is_content(path));
    let packed: BTreeMap<_, _> = packed
        .map(|(path, content)| {
            let sum = (!live.join(&path).is_symlink()).then(|| sha256(&content));
            (path, sum)
        })
        .collect();
    assert_eq!(listed, packed);
}

/// git's own answer for the same patterns.
#[test]
fn ignore_file_means_what_git_means() {
    let environment = TestEnvironment::new();
    for path in [
        "build/out.js",
        "src/build/keep.js",
        "a.log",
        "keep.log",
        "deep/b.log",
        "deep/er/c.log",
        "deep/er/only.txt",
        "docs/x.md",
        "docs/y.md",
        "docs/sub/z.md",
        "we ird/ü.tmp",
        "tail ",
        "#hash",
        "!bang",
        "cache/x",
        "cache/.gitkeep",
    ] {
        environment.write(&format!("app/{path}"), path);
    }
    let patterns = "# comment\n/build/\n*.log\n!keep.log\ndocs/**\n!docs/sub/\n!docs/sub/z.md\n*.tmp\n\\#hash\n\\!bang\ncache/*\n!cache/.gitkeep\ntail\\ \n";
    environment.write("app/.pawlignore", patterns);
    environment.write("app/deep/er/.pawlignore", "!c.log\nonly.txt\n");
    environment.git(&["init", "--quiet", "app"]);
    pack(&environment, &[]).assert_exit(0);
    let archive = environment.path(ARCHIVE);
    let packed: BTreeSet<String> =
        files_of(&archive).into_iter().filter(|(_, content)| !content.is_empty()).map(|(path, _)| path).collect();

    let mut git = Command::new("git");
    git.args(["-c", "core.quotePath=false", "ls-files", "-z", "--others", "--exclude-per-directory=.pawlignore"]);
    let output = git.current_dir(environment.path("app")).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let expected: BTreeSet<String> =
        text.split_terminator('\0').filter(|path| !path.ends_with(".pawlignore")).map(str::to_owned).collect();
    assert_eq!(packed, expected);
    assert!(packed.contains("keep.log") && !packed.contains("deep/b.log"), "{packed:?}");
}

#[test]
fn archive_and_state_inside_the_folder_stay_out() {
    let environment = TestEnvironment::new();
    environment.write(".pawl/shop/test/attempt-1.journal", "state");
    let pack =
        || environment.run(&["pack", ".", "--version", "r1", "--out", "shop.tar.zst"]).assert_exit(0).stdout.clone();
    let first = pack();
    assert_eq!(pack(), first, "its own files of the first time count");
    let files = files_of(&environment.path("shop.tar.zst"));
    assert!(
        files.contains_key("app/VERSION")
            && !files.keys().any(|path| path.starts_with("shop.tar") || path.starts_with(".pawl")),
        "{:?}",
        files.keys()
    );
}

/// What a killed call has begun goes away with the next one; what another one is writing stays.
#[test]
fn killed_call_leaves_nothing_behind_the_next_one() {
    let environment = TestEnvironment::new();
    let is_synced = |call: &TracedCall| call.name == "fsync" && call.text.contains(".tmp");
    for arguments in [&["pack", "app", "--out", ARCHIVE, "--version", "r1"][..], &["publish", ARCHIVE, "public/"]] {
        let folder = if arguments[0] == "pack" { "dist" } else { "public" };
        let left = || environment.list(folder).into_iter().filter(|name| name.ends_with(".tmp")).collect::<Vec<_>>();
        let run = environment.run_traced(arguments, is_synced).expect("strace works");
        assert!(run.killed_after.is_some());
        assert_eq!(left().len(), 1, "{:?}", environment.list(folder));
        let writing = environment.path(folder).join("shop-r1.tar.zst.0123456789abcdef.tmp");
        let file = fs::File::create(&writing).unwrap();
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
        environment.run(arguments).assert_exit(0);
        assert_eq!(left(), ["shop-r1.tar.zst.0123456789abcdef.tmp"]);
        drop(file);
        environment.run(arguments).assert_exit(0);
        assert!(left().is_empty());
    }
}

#[test]
fn versions_come_from_git_the_calendar_or_the_command() {
    let mut environment = TestEnvironment::new();
    fs::create_dir(environment.path("dist")).unwrap();
    let version = |environment: &TestEnvironment, more: &[&str]| {
        let arguments = ["pack", "app", "--out", "dist/{version}.tar.zst", "--render", "VERSION", "--json"];
        let answer = environment.run(&[&arguments[..], more].concat());
        let version = answer.assert_exit(0).json()["version"].as_str().unwrap().to_owned();
        let files = files_of(&environment.path(format!("dist/{version}.tar.zst")));
        assert_eq!(files["VERSION"], version.as_bytes());
        version
    };
    let unknown = environment.run(&["pack", "app", "--out", "dist/x.tar.zst"]);
    unknown.assert_exit(2).assert_stderr_contains("error[P0207]").assert_stderr_contains("--version calendar");
    assert_eq!(version(&environment, &["--version", "1.4.2"]), "1.4.2");
    let today = version(&environment, &["--version", "calendar"]);
    let parts: Vec<u32> = today.split('.').map(|part| part.parse().unwrap()).collect();
    assert!(matches!(parts[..], [2026..=9999, 1..=12, 1..=31, 0..=2359]), "{today}");

    environment.git(&["init", "--quiet"]);
    environment.git(&["add", "app"]);
    environment.git(&["commit", "--quiet", "-m", "first", "--date", "@1700000000"]);
    environment.git(&["tag", "v1.5"]);
    assert_eq!(version(&environment, &[]), "v1.5");
    environment.set_variable("SOURCE_DATE_EPOCH", "1796049120");
    assert_eq!(version(&environment, &["--version", "calendar"]), "2026.11.30.1432");
    let invalid = environment.run(&["pack", "app", "--out", "dist/x.tar.zst", "--version", "../x"]);
    invalid.assert_exit(2).assert_stderr_contains("error[P0206]");
}

#[test]
fn time_of_the_files_is_that_of_the_commit() {
    let environment = TestEnvironment::new();
    fs::create_dir(environment.path("dist")).unwrap();
    let times = |more: &[&str]| {
        pack(&environment, more).assert_exit(0);
        let reader = zstd::Decoder::new(fs::File::open(environment.path(ARCHIVE)).unwrap()).unwrap();
        let mut archive = tar::Archive::new(reader);
        let times: BTreeSet<u64> =
            archive.entries().unwrap().map(|entry| entry.unwrap().header().mtime().unwrap()).collect();
        times.into_iter().collect::<Vec<_>>()
    };
    assert_eq!(times(&[]), [946_684_800]);
    environment.git(&["init", "--quiet"]);
    environment.git(&["add", "app"]);
    environment.git(&["commit", "--quiet", "-m", "first"]);
    let mut git = Command::new("git");
    let output = git.args(["log", "-1", "--format=%ct"]).current_dir(environment.path("")).output().unwrap();
    let committed: u64 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    assert_eq!(times(&[]), [committed]);
    assert_eq!(times(&["--time", "1700000000"]), [1_700_000_000]);
}

#[test]
fn commands_of_the_page_make_a_release() {
    let environment = TestEnvironment::new();
    let page = fs::read_to_string(page_path("docs/pack.md")).unwrap();
    let blocks = fenced_blocks(&page);
    let [alone, pipe, build] = &blocks[..] else { panic!("{blocks:?}") };
    let script = |block: &str| block.replace("runner p", "\"$0\" p");
    environment.run_script(&script(&alone.text)).assert_exit(0);
    for path in ["dist/shop-1.4.2.tar.zst", "dist/shop-1.4.2.tar.zst.sha256", "dist/shop-1.4.2.tar.zst.cdx.json"] {
        assert!(environment.exists(path) && page.contains(path), "{path}");
    }
    environment.run_script("cd dist && sha256sum --check *.sha256").assert_exit(0);
    environment.run_script(&script(&pipe.text)).assert_exit(0);
    assert_eq!(environment.list("releases"), ["shop-1.4.2.tar.zst", "shop-1.4.2.tar.zst.sha256"]);

    environment.write("pyproject.toml", "[project]\nname = \"shop\"\nversion = \"@VERSION@\"\n");
    environment.write(".pawlignore", "/build/\n");
    fs::create_dir(environment.path("build")).unwrap();
    environment.run_script(&script(&build.text)).assert_exit(0);
    let project = environment.read("build/pyproject.toml");
    assert!(project.contains("version = \"20") && !project.contains("@VERSION@"), "{project}");
}
