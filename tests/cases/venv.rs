//! Python environments that a real pip makes from a real pypiserver: one a release, complete or not there.

use std::{fs, os::unix::fs::MetadataExt as _, path::PathBuf, process::Command};

use crate::support::{PypiAuth, PypiServer, RunnerOutput, TestEnvironment, doc_blocks::fenced_block, wait_until};

const PAGE: &str = "docs/venv.md";

/// The plan of the page, with the folders of a test and an index.
struct VenvSite {
    environment: TestEnvironment,
    index: PypiServer,
}

fn world(auth: PypiAuth) -> VenvSite {
    let environment = TestEnvironment::with_plan(&fenced_block(PAGE, "version: 1"));
    let root = environment.path("srv").display().to_string();
    environment.edit("deploy.yml", "app: /srv/shop", &format!("app: {root}"));
    // A server that is down is asked once more, not five times.
    environment.edit("deploy.yml", "env: { PIP_INDEX_URL: }", "env: { PIP_INDEX_URL: , PIP_RETRIES: \"1\" }");
    let mut world = VenvSite { environment, index: PypiServer::start(auth) };
    world.environment.set_variable("SHOP_INDEX", &world.index.url());
    world
}

impl VenvSite {
    /// Packs a release with this list of packages.
    fn pack(&self, release: &str, requirements: &str) {
        self.environment.write("app/requirements.txt", requirements);
        self.environment.write("app/VERSION", "@VERSION@\n");
        self.environment.pack(release);
    }

    /// Packs a release whose application is in the index.
    fn pack_application(&self, release: &str, version: &str) {
        self.pack(release, &self.index.add_application("shop", version));
    }

    fn deploy(&self, release: &str) -> RunnerOutput {
        self.environment.deploy(release, &[])
    }

    /// The folder of a release.
    fn folder(&self, release: &str) -> PathBuf {
        let name =
            self.environment.list("srv/releases").into_iter().find(|name| name.starts_with(&format!("{release}-")));
        self.environment.path("srv/releases").join(name.unwrap())
    }

    /// What of a release belongs to this step.
    fn environments(&self, release: &str) -> Vec<String> {
        let entries = fs::read_dir(self.folder(release)).unwrap().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.retain(|name| name.starts_with(".venv"));
        names.sort_unstable();
        names
    }

    /// What the live release's program says.
    fn says(&self) -> String {
        let output = Command::new(self.environment.path("srv/current/.venv/bin/shop")).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// When the environment of a release was made: nothing of it is written later.
    fn made_at(&self, release: &str) -> (i64, i64) {
        let marker = self.folder(release).join(".venv/pawl-venv.json").metadata().unwrap();
        (marker.mtime(), marker.mtime_nsec())
    }
}

#[test]
fn plan_of_the_page_gives_each_release_its_environment() {
    let world = world(PypiAuth::Anonymous);
    // The hashes on the page are those of the index.
    let lines = fenced_block(PAGE, "gunicorn==");
    assert_eq!(lines, world.index.gunicorn());
    world.pack("r1", &(lines + &world.index.add_application("shop", "1.0")));
    world.deploy("r1").assert_exit(0);
    assert_eq!(world.says(), "shop 1.0");
    assert!(world.folder("r1").join(".venv/bin/gunicorn").is_file());
    let first = world.made_at("r1");
    world.deploy("r1").assert_decisions(&["pull skip held", "venv skip held", "switch skip held"]);
    world.pack_application("r2", "2.0");
    world.deploy("r2").assert_exit(0);
    assert_eq!((world.says().as_str(), world.made_at("r1")), ("shop 2.0", first));
    // The way back asks no index.
    let VenvSite { environment, index } = world;
    drop(index);
    environment.run(&["rollback", "--local", "--json"]).assert_exit(0);
    let output = Command::new(environment.path("srv/current/.venv/bin/shop")).output().unwrap();
    assert_eq!(output.stdout, b"shop 1.0\n");
}

#[test]
fn failed_installation_says_why_and_leaves_nothing() {
    let world = world(PypiAuth::Anonymous);
    world.pack_application("r1", "1.0");
    world.deploy("r1").assert_exit(0);
    let good = world.index.add_application("shop", "2.0");
    let (hash, other) = (good.split_once("sha256:").unwrap().1.trim(), "0".repeat(64));
    for (release, requirements, told) in [
        ("r2", good.replace(hash, &other), ["does not match its hash", &format!("Expected sha256 {other}")]),
        ("r3", "shop==2.0\n".to_owned(), ["does not name version and hash of each package", "pip-compile"]),
        ("r4", good.replace("shop==2.0", "shop==9.0"), ["does not have a package in this version", "shop==9.0"]),
        ("r5", good.replace("shop", "nowhere"), ["does not have a package in this version", "publish it"]),
    ] {
        world.pack(release, &requirements);
        let failed = world.deploy(release);
        failed.assert_exit(1).assert_stderr_contains("error[P0301]");
        for words in told {
            failed.assert_stderr_contains(words);
        }
        assert_eq!(world.environments(release), Vec::<String>::new(), "{release}");
    }
    fs::remove_file(world.environment.path("app/requirements.txt")).unwrap();
    world.environment.pack("r6");
    world.deploy("r6").assert_exit(1).assert_stderr_contains("the release has no `requirements.txt`");
    world.environment.write("app/.venv/pyvenv.cfg", "");
    world.pack("r7", &good);
    world.deploy("r7").assert_exit(1).assert_stderr_contains(".venv` was not made by this step");
    fs::remove_dir_all(world.environment.path("app/.venv")).unwrap();
    world.pack("r8", &good);
    let VenvSite { environment, index } = world;
    drop(index);
    environment.deploy("r8", &[]).assert_exit(1).assert_stderr_contains("the index does not answer");
    let live = Command::new(environment.path("srv/current/.venv/bin/shop")).output().unwrap();
    assert_eq!(live.stdout, b"shop 1.0\n");
}

#[test]
fn package_without_a_wheel_needs_a_compiler() {
    let world = world(PypiAuth::Anonymous);
    let archive = TestEnvironment::new();
    archive.write("fast-1.0/fast.c", "int answer(void) { return 42; }\n");
    archive.write("fast-1.0/pyproject.toml", "[build-system]\nrequires = [\"setuptools\"]\n");
    archive.write(
        "fast-1.0/setup.py",
        "from setuptools import setup, Extension\n\
         setup(name='fast', version='1.0', ext_modules=[Extension('fast', ['fast.c'])])\n",
    );
    archive.write("fast-1.0/PKG-INFO", "Metadata-Version: 2.1\nName: fast\nVersion: 1.0\n");
    let made = Command::new("tar").args(["-czf", "fast-1.0.tar.gz", "fast-1.0"]).current_dir(archive.path("")).status();
    assert!(made.unwrap().success());
    let bytes = fs::read(archive.path("fast-1.0.tar.gz")).unwrap();
    world.pack("r1", &world.index.add("fast", "1.0", "fast-1.0.tar.gz", &bytes));
    world.environment.edit("deploy.yml", "PIP_RETRIES: \"1\"", "PATH: /nonexistent");
    let failed = world.deploy("r1");
    failed.assert_exit(1).assert_stderr_contains("can't be built here").assert_stderr_contains("install a compiler");
    assert_eq!(world.environments("r1"), Vec::<String>::new());
    world.environment.edit("deploy.yml", "with: { index: INDEX }", "with: { index: INDEX, only-binary: true }");
    world.deploy("r1").assert_exit(1).assert_stderr_contains("does not have a package in this version");
    world.environment.edit("deploy.yml", ", only-binary: true", "");
    world.environment.edit("deploy.yml", "PATH: /nonexistent", "PIP_RETRIES: \"1\"");
    world.deploy("r1").assert_exit(0);
    assert_eq!(world.environments("r1"), [".venv", ".venv-1"]);
}

#[test]
fn killed_installation_is_finished_by_the_next_attempt() {
    let world = world(PypiAuth::Anonymous);
    for (release, version, sign) in [
        ("r1", "1.0", ".venv-1"),
        ("r2", "2.0", ".venv-1/bin/python3"),
        ("r3", "3.0", ".venv-1/lib/python3.*/site-packages/shop.py"),
    ] {
        world.pack_application(release, version);
        let mut runner = world.environment.start(&["--local", "--release", release]);
        let releases = world.environment.path("srv/releases").display().to_string();
        wait_until("the step is in its midst", || {
            let command = format!("ls -d {releases}/{release}-*/{sign}");
            Command::new("sh").args(["-c", &command]).output().unwrap().status.success()
        });
        runner.kill().unwrap();
        runner.wait().unwrap();
        world.deploy(release).assert_exit(0);
        assert_eq!(
            (world.says(), world.environments(release)),
            (format!("shop {version}"), vec![".venv".into(), ".venv-1".into()])
        );
    }
}

#[test]
fn index_gets_its_credentials_from_a_secret() {
    let mut world = world(PypiAuth::Basic);
    world.pack_application("r1", "1.0");
    let address = |password: &str| format!("http://ann:{password}@{}/simple/", world.index.authority());
    let (wrong, right) = (address("wrong-battery"), address("secret"));
    world.environment.set_variable("SHOP_INDEX", &wrong);
    world.deploy("r1").assert_exit(1).assert_stderr_contains("the index refuses the credentials");
    world.environment.set_variable("SHOP_INDEX", &right);
    world.deploy("r1").assert_exit(0);
    assert_eq!(world.says(), "shop 1.0");
    let found =
        Command::new("grep").args(["-rlE", "wrong-battery|ann:secret"]).arg(world.environment.path("")).output();
    assert_eq!(String::from_utf8_lossy(&found.unwrap().stdout), "");
}

#[test]
fn changed_environment_is_drift_and_the_next_one_is_beside_it() {
    let world = world(PypiAuth::Anonymous);
    world.environment.write("app/wheels/README", "");
    world.pack_application("r1", "1.0");
    world.deploy("r1").assert_exit(0);
    // Somebody has installed something by hand.
    fs::create_dir(world.folder("r1").join(".venv/lib64/python3.11/site-packages/left_pad-1.dist-info")).unwrap();
    let drifted = world.deploy("r1");
    drifted.assert_stderr_contains("error[P0401]").assert_stderr_contains("left_pad-1 was added");
    let accepted = world.environment.deploy("r1", &["--accept-drift", "venv"]);
    accepted.assert_exit(0);
    assert_eq!(world.environments("r1"), [".venv", ".venv-1", ".venv-2"]);
    assert_eq!(world.says(), "shop 1.0");
}

#[test]
fn command_of_the_page_runs_the_step_alone() {
    let world = world(PypiAuth::Anonymous);
    let wheel = world.index.add_application("shop", "1.0");
    world.environment.write("srv/releases/r1/requirements.txt", &wheel);
    let script = fenced_block(PAGE, "runner step venv").replace("runner step", "\"$0\" step");
    let script = script.replace("/srv/shop", &world.environment.path("srv").display().to_string());
    let online = script.replace("https://pypi.example.com/simple/", &world.index.url());
    world.environment.run_script(&online).assert_exit(0);
    let made = fs::read_link(world.environment.path("srv/releases/r1/.venv")).unwrap();
    world.environment.run_script(&online).assert_exit(0);
    assert_eq!(fs::read_link(world.environment.path("srv/releases/r1/.venv")).unwrap(), made, "it held");
    // A release with its packages in it needs no index.
    let VenvSite { environment, index } = world;
    environment.write("srv/releases/r2/requirements.txt", &wheel);
    let name = "shop-1.0-py3-none-any.whl";
    environment.write(&format!("srv/releases/r2/wheels/{name}"), fs::read(index.packages().join(name)).unwrap());
    drop(index);
    let offline = script
        .replace("index=https://pypi.example.com/simple/", "find-links=wheels")
        .replace("releases/r1", "releases/r2");
    environment.run_script(&offline).assert_exit(0);
    let said = Command::new(environment.path("srv/releases/r2/.venv/bin/shop")).output().unwrap();
    assert_eq!(said.stdout, b"shop 1.0\n");
}
