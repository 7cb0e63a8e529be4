//! The action under `act`, on this machine and without containers: a workflow fails at a migration because the database can't be
//! opened, is re-run for the same commit with nothing but its artifacts, and resumes there.
//!
//! `act` hands over a copy of the repository in a new folder each time, as a new machine would. What a kept machine would
//! still have lies outside of it. What is believed is the journal that went up, and the deployed files; not the log's wording.

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::free_port;

pub(super) const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const MIGRATION: &str = "migrations/0003_orders.sql";
/// How `resumed-from` begins at the first attempt, and at the second.
const NO_ARTIFACT: &str = ">";
const FIRST_ARTIFACT_PREFIX: &str = "pawl-shop-test-deploy-a01-s";
/// What must be nowhere to be read.
const KEY: &str = "a-key-of-the-journal";

#[test]
fn rerun_on_a_new_machine_resumes_where_it_failed() {
    let fixture = ActFixture::new();
    let first = fixture.run_attempt(1);
    first.assert_ended(1, "failure", NO_ARTIFACT);
    assert_eq!(first.decisions(), [("pull", "run never-ran"), ("migrate", "run never-ran")]);

    // "Re-run failed jobs" on another machine, with the same commit: the cause was outside the repository.
    fixture.delete_machine();
    let second = fixture.run_attempt(2);
    second.assert_ended(0, "success", FIRST_ARTIFACT_PREFIX);
    let expected = [
        // Asked, and not there: that, and no other reason, has it run again.
        ("pull", "probed absent"),
        ("pull", "run absent"),
        ("migrate", "run failed-before"),
        ("switch", "run never-ran"),
        ("verify", "run never-ran"),
    ];
    assert_eq!(second.decisions(), expected);
    assert_eq!(fixture.live_version(), "r1");
}

#[test]
fn surviving_effects_are_skipped() {
    let fixture = ActFixture::new();
    fixture.run_attempt(1).assert_ended(1, "failure", NO_ARTIFACT);
    let pulled = fixture.pulled_release();
    fs::remove_dir(fixture.path("machine/shop.db")).unwrap();
    let second = fixture.run_attempt(2);
    second.assert_ended(0, "success", FIRST_ARTIFACT_PREFIX);
    let pull: Vec<_> = second.decisions().into_iter().filter(|(step, _)| *step == "pull").collect();
    assert_eq!(pull, [("pull", "probed held"), ("pull", "skip held")]);
    // The very same files, not made again.
    assert_eq!(fixture.pulled_release(), pulled);
    assert_eq!(fixture.live_version(), "r1");
}

/// A repository with the action and the example in it, the store of artifacts, and a machine.
struct ActFixture {
    root: TempDir,
}

/// What one attempt left.
struct ActAttempt {
    number: u32,
    exit: Option<i32>,
    log: String,
    /// The journals in the newest artifact.
    journals: BTreeMap<String, String>,
}

impl ActFixture {
    fn new() -> Self {
        let fixture = Self { root: tempfile::tempdir().unwrap() };
        let from = Path::new(REPOSITORY);
        let to = fixture.path("repository");
        copy_dir(&from.join("examples/shop/migrations"), &to.join("shop/migrations"));
        copy_dir(&from.join("action"), &to.join("action"));
        fs::copy(from.join("action.yml"), to.join("action.yml")).unwrap();
        let plan = fs::read_to_string(from.join("examples/shop/deploy.yml")).unwrap();
        let machine = fixture.path("machine");
        let plan = plan.replace("./deploy/test", machine.to_str().unwrap());
        assert!(plan.contains(machine.to_str().unwrap()), "{plan}");
        fixture.write("deploy.yml", &plan);
        fixture.write(MIGRATION, "CREATE TABLE orders (id INTEGER PRIMARY KEY);\n");
        // The database can't be opened.
        fs::create_dir_all(fixture.path("machine/shop.db")).unwrap();
        fixture.write("dist/shop-r1.tar.zst", release_archive("r1"));
        fixture.write("../.github/workflows/deploy.yml", WORKFLOW.replace("RUNNER", env!("CARGO_BIN_EXE_runner")));
        fixture.git(&["init", "--quiet", "--initial-branch=main"]);
        fixture
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    /// Writes a file of the app.
    fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.path("repository/shop").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn git(&self, arguments: &[&str]) {
        let mut git = hermetic_command("git", self.root.path());
        git.args(["-c", "user.name=ann", "-c", "user.email=ann@example.com"]).args(arguments);
        let output = git.current_dir(self.path("repository")).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// Runs the workflow for the one commit, with nothing of earlier attempts but the artifacts.
    fn run_attempt(&self, number: u32) -> ActAttempt {
        if number == 1 {
            self.git(&["add", "--all"]);
            self.git(&["commit", "--quiet", "--message", "as it is now"]);
        }
        let home = self.path(&format!("home-{number}"));
        fs::create_dir(&home).unwrap();
        let act = Path::new(env!("CARGO_BIN_EXE_runner")).parent().and_then(Path::parent).unwrap();
        let mut act = hermetic_command(act.join("tools/act/bin/act"), &home);
        act.args([
            "push",
            "-P",
            "ubuntu-latest=-self-hosted",
            "--no-cache-server",
            "--artifact-server-addr",
            "127.0.0.1",
        ])
        .args(["--artifact-server-port", &free_port().to_string(), "--artifact-server-path"])
        .arg(self.path("artifacts"))
        .args(["--env", &format!("GITHUB_RUN_ATTEMPT={number}"), "--secret", &format!("PAWL_KEY={KEY}")]);
        let output = act.current_dir(self.path("repository")).output();
        let output = output.expect("act can't be started; `cargo xtask setup` installs it");
        let log = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        ActAttempt { number, exit: output.status.code(), log, journals: self.newest_artifact() }
    }

    /// What a new machine has not.
    fn delete_machine(&self) {
        fs::remove_dir_all(self.path("machine")).unwrap();
    }

    /// The release's folder and its inode.
    fn pulled_release(&self) -> (PathBuf, u64) {
        use std::os::unix::fs::MetadataExt as _;
        let mut entries = fs::read_dir(self.path("machine/releases")).unwrap();
        let path = entries.next().unwrap().unwrap().path();
        let inode = path.metadata().unwrap().ino();
        (path, inode)
    }

    fn live_version(&self) -> String {
        fs::read_to_string(self.path("machine/current/VERSION")).unwrap()
    }

    /// The files in the artifact with the highest attempt and sequence.
    fn newest_artifact(&self) -> BTreeMap<String, String> {
        let Ok(entries) = fs::read_dir(self.path("artifacts/1")) else { return BTreeMap::new() };
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name.starts_with("pawl-shop-test-"));
        names.sort_by_key(|name| attempt_and_sequence(name));
        let Some(name) = names.pop() else { return BTreeMap::new() };
        let file = fs::File::open(self.path("artifacts/1").join(&name).join(format!("{name}.zip"))).unwrap();
        let mut archive = zip::ZipArchive::new(file).unwrap();
        let mut found = BTreeMap::new();
        for index in 0..archive.len() {
            let mut entry = archive.by_index(index).unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            found.insert(entry.name().unwrap().into_owned(), text);
        }
        found
    }
}

impl ActAttempt {
    /// How the workflow ended, the action's step in it, and what the action says it went on from.
    #[track_caller]
    fn assert_ended(&self, exit: i32, outcome: &str, resumed_from: &str) {
        let log = &self.log;
        assert_eq!(self.exit, Some(exit), "{log}");
        assert!(log.contains(&format!("outcome=<{outcome}> resumed-from=<{resumed_from}")), "{log}");
        assert!(log.contains("Success - Post Deploy"), "post did not run, or failed:\n{log}");
        assert!(!log.contains("main found no runner"), "post had no runner:\n{log}");
        assert!(!log.contains(KEY), "the key is in the log:\n{log}");
        for (name, text) in &self.journals {
            assert!(!text.contains(KEY), "the key is in {name}");
        }
    }

    /// What this attempt asked and decided, in order.
    #[track_caller]
    fn decisions(&self) -> Vec<(&'static str, &'static str)> {
        let name = format!("attempt-{:06}.journal", self.number);
        let (log, names) = (&self.log, self.journals.keys());
        let journal = self.journals.get(&name).unwrap_or_else(|| panic!("no {name} among {names:?}\n{log}"));
        // After the checksum.
        let events =
            journal.lines().map(|line| serde_json::from_str::<Value>(line.split_once(' ').unwrap().1).unwrap());
        let decisions = events.filter_map(|line| {
            let event = &line["event"];
            let text = match event["type"].as_str().unwrap() {
                "probe" => format!("probed {}", event["finding"]["finding"].as_str().unwrap()),
                "decision" => {
                    let decision = &event["decision"];
                    format!(
                        "{} {}",
                        decision["action"].as_str().unwrap(),
                        decision["reason"]["because"].as_str().unwrap()
                    )
                }
                _ => return None,
            };
            let step = event["step"].as_str().unwrap().to_owned();
            Some((&*step.leak(), &*text.leak()))
        });
        decisions.collect()
    }
}

/// `pawl-…-a02-s0007-<nonce>` as (2, 7).
fn attempt_and_sequence(name: &str) -> (u32, u32) {
    let mut parts = name.rsplit('-').skip(1);
    let mut number = |letter: char| parts.next()?.strip_prefix(letter)?.parse().ok();
    let sequence = number('s').unwrap_or_else(|| panic!("{name} has no sequence"));
    let attempt = number('a').unwrap_or_else(|| panic!("{name} has no attempt"));
    (attempt, sequence)
}

/// An archive of an app.
pub(super) fn release_archive(label: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, text) in [("VERSION", label.to_owned()), ("index.html", format!("<p>Release {label}</p>\n"))] {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(text.len() as u64);
        builder.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    zstd::encode_all(&builder.into_inner().unwrap()[..], 0).unwrap()
}

/// A program with nothing from this machine but `PATH`.
pub(super) fn hermetic_command(program: impl AsRef<std::ffi::OsStr>, home: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("HOME", home).env("XDG_CACHE_HOME", home.join("cache"));
    #[expect(clippy::disallowed_methods, reason = "tests pass on where programs are")]
    command.env("PATH", std::env::var_os("PATH").unwrap());
    command
}

pub(super) fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The last step prints what later steps would get.
const WORKFLOW: &str = "name: deploy
on: push
permissions: { contents: read }
jobs:
  deploy:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@08c6903cd8c0fde910a37f88322edcfb5dd907a8 # v5.0.0
        with: { persist-credentials: false }
      - name: Deploy
        id: deploy
        uses: ./
        with:
          plan: shop/deploy.yml
          release: r1
          runner: RUNNER
          key: ${{ secrets.PAWL_KEY }}
      - if: always()
        env:
          OUTCOME: ${{ steps.deploy.outcome }}
          RESUMED_FROM: ${{ steps.deploy.outputs.resumed-from }}
        run: echo \"outcome=<$OUTCOME> resumed-from=<$RESUMED_FROM>\"
";
