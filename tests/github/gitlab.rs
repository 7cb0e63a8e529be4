//! The GitLab jobs of docs/elsewhere.md under `gitlab-ci-local`, as they are on the page: a job that fails or is cancelled is
//! retried, with the state in git, with the artifact, and with nothing uploaded.
//!
//! Each job gets a new checkout; the machine is what a shell executor keeps. Deliberately absent: GitLab itself. Its API is a server
//! in this process, and a cancel is what GitLab's runner does to a job: SIGTERM to its group of processes.

use std::{
    fs,
    io::{Cursor, Write as _},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::{Arc, Mutex},
};

use rustix::process::{Pid, Signal, getpgid, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use zip::{ZipWriter, write::SimpleFileOptions};

use super::act::{REPOSITORY, hermetic_command, release_archive};
use crate::support::{HttpReply, HttpTestServer, init_bare_repository, wait_until};

/// `index` has no probe; `warm` waits while the machine has a file `slow`.
const STEPS: &str = "environments: { prod: {} }
steps:
  pull:
    uses: pull
    with: { from: \"file:dist/shop.tar.zst\", into: app }
    grants: { dirs: { app: MACHINE, dist: \"./dist:ro\" } }
  index:
    uses: run
    trust: host
    with: { program: /bin/sh, args: [index.sh], dir: here, repeatable: true }
    grants: { dirs: { here: \".:ro\" }, programs: [[/bin/sh, index.sh]] }
  migrate:
    uses: migrate
    with: { dir: migrations, database: main }
    grants:
      dirs: { migrations: \"./migrations:ro\" }
      databases: { main: \"sqlite:MACHINE/shop.db\" }
  warm:
    uses: run
    trust: host
    with: { program: /bin/sh, args: [warm.sh], dir: here, repeatable: true }
    grants: { dirs: { here: \".:ro\" }, programs: [[/bin/sh, warm.sh]] }
";
const INDEX: &str = "echo indexed >>MACHINE/indexed\n";
const WARM: &str = "echo warmed >>MACHINE/warmed\nif [ -e MACHINE/slow ]; then exec sleep 60; fi\n";
const JOURNAL_LOST: &str = "this is a retry, and the journal of the earlier attempts is not here";

/// A repository whose remote is at GitLab, and a machine with a shell executor.
struct GitlabFixture {
    root: TempDir,
    /// The job of the page.
    job: String,
    api: GitlabApi,
}

/// What GitLab's API answers about the earlier jobs of the pipeline.
struct GitlabApi {
    server: HttpTestServer,
    jobs: Arc<Mutex<EarlierJob>>,
}

/// The job that is retried.
#[derive(Clone)]
enum EarlierJob {
    None,
    WithoutArtifact,
    WithArtifact(Vec<u8>),
    /// GitLab does not answer.
    Unknown,
}

/// How a job ended.
struct GitlabJob {
    exit: Option<i32>,
    log: String,
}

/// The blocks of the page's section about GitLab.
fn documented_jobs() -> [String; 2] {
    let page = fs::read_to_string(Path::new(REPOSITORY).join("docs/elsewhere.md")).unwrap();
    let section = page.split("\n## ").find(|section| section.starts_with("GitLab\n")).unwrap();
    let blocks = section.split("```yaml\n").skip(1).map(|block| block.split_once("```").unwrap().0.to_owned());
    blocks.collect::<Vec<_>>().try_into().expect("the page has a job with a state, and one with an artifact")
}

#[test]
fn retry_after_a_failure_resumes_with_the_state_in_git() {
    let fixture = GitlabFixture::with_state_in_git();
    fixture.break_database();
    let first = fixture.run_job(&[]);
    first.assert_failed();
    fixture.repair_database();
    let retry = fixture.run_job(&[]);
    retry.assert_deployed();
    for line in ["resume after `migrate` failed", "skip   pull", "skip   index"] {
        assert!(retry.log.contains(line), "no {line:?} in\n{}", retry.log);
    }
    assert_eq!(fixture.line_counts(), (1, 1), "{}", retry.log);
}

#[test]
fn retry_after_a_cancel_resumes_with_the_state_in_git() {
    let fixture = GitlabFixture::with_state_in_git();
    let cancelled = fixture.run_and_cancel_job();
    assert!(cancelled.log.contains("runner lock status --env prod"), "{}", cancelled.log);
    let retry = fixture.run_job(&[]);
    retry.assert_deployed();
    for line in ["resume after `warm` was interrupted", "skip   pull", "skip   index", "skip   migrate"] {
        assert!(retry.log.contains(line), "no {line:?} in\n{}", retry.log);
    }
    assert_eq!(fixture.line_counts(), (1, 2), "{}", retry.log);
}

#[test]
fn retry_after_a_failure_resumes_with_the_artifact() {
    let fixture = GitlabFixture::with_artifacts();
    fixture.break_database();
    fixture.run_job(&[]).assert_failed();
    let artifact = fixture.artifact();
    fixture.repair_database();

    fixture.set_earlier_job(EarlierJob::Unknown);
    let without_answer = fixture.run_job(&[]);
    without_answer.assert_failed();
    assert!(!without_answer.log.contains("runner deploy --env prod"), "{}", without_answer.log);

    fixture.set_earlier_job(EarlierJob::WithArtifact(artifact));
    let retry = fixture.run_job(&[]);
    retry.assert_deployed();
    assert!(retry.log.contains("resume after `migrate` failed"), "{}", retry.log);
    assert!(!retry.log.contains(JOURNAL_LOST), "{}", retry.log);
    assert_eq!(fixture.line_counts(), (1, 1), "{}", retry.log);
}

/// GitLab stores no artifact of a cancelled job.
#[test]
fn retry_after_a_cancel_with_nothing_uploaded_follows_the_policy() {
    let fixture = GitlabFixture::with_artifacts();
    fixture.run_and_cancel_job();
    fixture.set_earlier_job(EarlierJob::WithoutArtifact);
    let refused = fixture.run_job(&["PAWL_MISSING_JOURNAL=fail"]);
    refused.assert_failed();
    assert!(refused.log.contains("P0521"), "{}", refused.log);
    assert_eq!(fixture.line_counts(), (1, 1), "{}", refused.log);
    let retry = fixture.run_job(&[]);
    retry.assert_deployed();
    assert!(retry.log.contains(JOURNAL_LOST), "{}", retry.log);
    // What can't be probed runs again, since it may be.
    assert_eq!(fixture.line_counts(), (2, 2), "{}", retry.log);
}

impl GitlabFixture {
    fn with_state_in_git() -> Self {
        let [job, _] = documented_jobs();
        Self::new("state: git:origin\n", job)
    }

    fn with_artifacts() -> Self {
        let [_, job] = documented_jobs();
        Self::new("", job)
    }

    fn new(state: &str, job: String) -> Self {
        let fixture = Self { root: tempfile::tempdir().unwrap(), job, api: GitlabApi::start() };
        for folder in ["home", "machine", "bin"] {
            fs::create_dir(fixture.path(folder)).unwrap();
        }
        let remote = fixture.path("remote");
        init_bare_repository(&remote);
        // The address with the token that the page's job sets leads to the remote.
        let at_gitlab = "https://ci:a-push-token@gitlab.example.com/acme/shop.git";
        let config = format!("[url \"{}\"]\n  insteadOf = {at_gitlab}\n", remote.display());
        let user = "[user]\n  name = ann\n  email = ann@example.com\n";
        fs::write(fixture.path("home/.gitconfig"), config + user).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_runner"), fixture.path("bin/runner")).unwrap();
        fixture.write(".gitlab-ci.yml", &fixture.job);
        fixture.write("deploy.yml", &format!("version: 1\napp: shop\n{state}{STEPS}"));
        fixture.write("index.sh", INDEX);
        fixture.write("warm.sh", WARM);
        fixture.write("migrations/0001_orders.sql", "CREATE TABLE orders (id INTEGER PRIMARY KEY);\n");
        fs::create_dir(fixture.path("repository/dist")).unwrap();
        fs::write(fixture.path("repository/dist/shop.tar.zst"), release_archive("r1")).unwrap();
        fixture.git(&["init", "--quiet", "--initial-branch=main"]);
        fixture.git(&["remote", "add", "origin", remote.to_str().unwrap()]);
        fixture.git(&["add", "--all"]);
        fixture.git(&["commit", "--quiet", "--message", "as it is"]);
        fixture
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path("repository").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text.replace("MACHINE", self.path("machine").to_str().unwrap())).unwrap();
    }

    fn git(&self, arguments: &[&str]) {
        let output = hermetic_command("git", &self.path("home"))
            .args(arguments)
            .current_dir(self.path("repository"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// The database can't be opened: the cause of a failure is outside of the repository, since a retry is of the same commit.
    fn break_database(&self) {
        fs::create_dir(self.path("machine/shop.db")).unwrap();
    }

    fn repair_database(&self) {
        fs::remove_dir(self.path("machine/shop.db")).unwrap();
    }

    fn set_earlier_job(&self, job: EarlierJob) {
        *self.api.jobs.lock().unwrap() = job;
    }

    /// Runs the job in a new checkout.
    fn run_job(&self, variables: &[&str]) -> GitlabJob {
        self.wait_for(self.start_job(variables))
    }

    /// Runs the job, and cancels it while `warm` runs. It would be done in the next one.
    fn run_and_cancel_job(&self) -> GitlabJob {
        fs::write(self.path("machine/slow"), "").unwrap();
        let child = self.start_job(&[]);
        wait_until("the step `warm` runs", || self.line_counts().1 > 0);
        let mut processes = descendants(Pid::from_child(&child));
        // A program that a step started has a group of its own: the runner ends it.
        let group = getpgid(Some(Pid::from_child(&child))).unwrap();
        processes.retain(|process| getpgid(Some(*process)).is_ok_and(|of| of == group));
        assert!(!processes.is_empty(), "the job has no processes");
        for process in &processes {
            // Who ended meanwhile needs no signal.
            let _ = kill_process(*process, Signal::TERM);
        }
        let cancelled = self.wait_for(child);
        // The shell ends at once, the runner when its state is saved.
        wait_until("the job's processes end", || processes.iter().all(|process| has_ended(*process)));
        fs::remove_file(self.path("machine/slow")).unwrap();
        cancelled
    }

    fn start_job(&self, variables: &[&str]) -> Child {
        let _ = fs::remove_dir_all(self.path("repository/.gitlab-ci-local"));
        let target = Path::new(env!("CARGO_BIN_EXE_runner")).parent().and_then(Path::parent).unwrap();
        let program = target.join("tools/gitlab/node_modules/.bin/gitlab-ci-local");
        assert!(program.exists(), "gitlab-ci-local is missing: run `cargo xtask setup`");
        let mut gitlab = hermetic_command("node", &self.path("home"));
        #[expect(clippy::disallowed_methods, reason = "tests pass on where programs are")]
        let path = std::env::var("PATH").unwrap();
        gitlab.env("PATH", format!("{}:{path}", self.path("bin").display()));
        gitlab.arg(program).args(["deploy", "--force-shell-executor", "--shell-isolation", "--no-color"]);
        let api = format!("CI_API_V4_URL={}/api/v4", self.api.server.origin());
        let project = ["CI_SERVER_HOST=gitlab.example.com", "CI_PROJECT_PATH=acme/shop", &api];
        let given = project.iter().chain(&["PUSH_TOKEN=a-push-token", "READ_TOKEN=a-read-token"]);
        for variable in given.chain(variables) {
            gitlab.args(["--variable", variable]);
        }
        // One stream, so that it is a log, as a job's.
        let log = fs::File::create(self.path("log")).unwrap();
        gitlab.stdout(log.try_clone().unwrap()).stderr(log).stdin(Stdio::null());
        gitlab.current_dir(self.path("repository")).spawn().unwrap_or_else(|error| panic!("node: {error}"))
    }

    fn wait_for(&self, mut child: Child) -> GitlabJob {
        let exit = child.wait().unwrap().code();
        GitlabJob { exit, log: fs::read_to_string(self.path("log")).unwrap() }
    }

    /// How often `index` and `warm` ran.
    fn line_counts(&self) -> (usize, usize) {
        let count =
            |name: &str| fs::read_to_string(self.path("machine").join(name)).map_or(0, |text| text.lines().count());
        (count("indexed"), count("warmed"))
    }

    /// What the newest job uploaded, as GitLab keeps it.
    fn artifact(&self) -> Vec<u8> {
        let folder = self.path("repository/.gitlab-ci-local/artifacts/deploy");
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        let mut folders = vec![folder.join(".pawl")];
        while let Some(next) = folders.pop() {
            for entry in fs::read_dir(next).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let name = path.strip_prefix(&folder).unwrap().to_str().unwrap().to_owned();
                zip.start_file(name, SimpleFileOptions::default()).unwrap();
                zip.write_all(&fs::read(path).unwrap()).unwrap();
            }
        }
        zip.finish().unwrap().into_inner()
    }
}

impl GitlabApi {
    fn start() -> Self {
        let jobs = Arc::new(Mutex::new(EarlierJob::None));
        let shared = Arc::clone(&jobs);
        let server = HttpTestServer::new(move |path, _| answer_api(path, &shared.lock().unwrap()));
        Self { server, jobs }
    }
}

fn answer_api(path: &str, earlier: &EarlierJob) -> HttpReply {
    let list = |jobs: Value| HttpReply::ok(jobs.to_string());
    let job = |artifact: Value| json!([{ "name": "deploy", "id": 1, "artifacts_file": artifact }, { "name": "build", "id": 2 }]);
    match (earlier, path.rsplit_once("&page=").map(|(_, page)| page)) {
        (EarlierJob::Unknown, _) => HttpReply::status(500),
        (EarlierJob::WithoutArtifact, Some("1")) => list(job(Value::Null)),
        (EarlierJob::WithArtifact(_), Some("1")) => list(job(json!({ "filename": "artifacts.zip" }))),
        (_, Some(_)) => list(json!([])),
        (EarlierJob::WithArtifact(zip), None) if path.ends_with("/jobs/1/artifacts") => HttpReply::ok(zip.clone()),
        (_, None) => HttpReply::status(404),
    }
}

impl GitlabJob {
    #[track_caller]
    fn assert_failed(&self) {
        assert_eq!(self.exit, Some(1), "{}", self.log);
    }

    #[track_caller]
    fn assert_deployed(&self) {
        assert_eq!(self.exit, Some(0), "{}", self.log);
        assert!(self.log.contains("deployed "), "{}", self.log);
    }
}

/// Whether a process is no more, or waits for its parent only.
fn has_ended(process: Pid) -> bool {
    fs::read(format!("/proc/{}/cmdline", process.as_raw_nonzero())).map_or(true, |command| command.is_empty())
}

/// The processes that a process started, and those that these started.
fn descendants(process: Pid) -> Vec<Pid> {
    let pid = process.as_raw_nonzero();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|child| Pid::from_raw(child.parse().ok()?));
    children.flat_map(|child| std::iter::once(child).chain(descendants(child))).collect()
}
