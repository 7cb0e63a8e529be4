//! A blue/green deployment under load, of programs below supervisord behind nginx, and of containers of podman behind Caddy: the runner is
//! killed, and run again. No request is lost, one slot is live, and nothing is left: no process, no container, no socket, no half-written file.
//!
//! Points are calls of the runner, chosen by a seed, which is printed: `PAWL_SEED=…` repeats them, and `PAWL_POINTS=200` takes so many
//! (`cargo xtask bench faults`). Each point kills the deployment of another release. Deliberately absent: kills of the proxies, of supervisord
//! and of podman.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    host_faults::rng::{self, SplitMix64},
    supervisord::SupervisedSite,
};
use crate::support::{ConstantTraffic, TestEnvironment, TracedCall, TrafficRate, wait_until};

const PAGE: &str = "docs/supervisord.md";

/// Two requests in 10 ms: a server in Python has to answer.
const RATE: TrafficRate = TrafficRate { clients: 1, pause: Duration::from_millis(20) };

/// Before the start: a file that a program must be told of, so that a kill between the two is seen.
const CONFIGURE: &str = r#"  configure:
    trust: host
    with:
      templates: { dist/site.j2: etc/site.conf }
      check: [/bin/grep, -q, release, "{}"]
      notify: [/bin/cp, ROOT/etc/site.conf, ROOT/told]
    grants: { dirs: [dist], renders: { etc: ./etc }, programs: [[/bin/grep, "**"], [/bin/cp, "**"]] }
"#;

/// What serves, and how it is looked at after a deployment.
pub(super) trait ServingSite {
    fn environment(&self) -> &TestEnvironment;

    /// The address of the proxy in front.
    fn address(&self) -> String;

    /// Makes a release, which answers `<label> cor`.
    fn pack(&self, label: &str);

    /// Fails unless this slot alone is live, and nothing is left of an attempt.
    fn check_only_live(&self, slot: &str, label: &str);
}

/// The plan of the page with its hook.
struct SupervisedKills(SupervisedSite);

impl SupervisedKills {
    fn new() -> Self {
        let mut site = SupervisedSite::of_page(PAGE);
        let environment = &mut site.environment;
        environment.set_variable("DB_PASSWORD", "correct-horse-battery");
        use_own_temporary_folder(environment);
        environment.write("dist/site.j2", "release {{ release }}\n");
        let configure = CONFIGURE.replace("ROOT", environment.path("").to_str().unwrap().trim_end_matches('/'));
        environment.edit("deploy.yml", "  start:\n", &format!("{configure}  start:\n"));
        let plan = environment.read("deploy.yml") + &site.hook_of_page(PAGE).replace("drain: 10s", "drain: 300ms");
        site.environment.write("deploy.yml", plan);
        Self(site)
    }
}

impl ServingSite for SupervisedKills {
    fn environment(&self) -> &TestEnvironment {
        &self.0.environment
    }

    fn address(&self) -> String {
        self.0.nginx.address()
    }

    fn pack(&self, label: &str) {
        self.0.pack(label, "works");
    }

    fn check_only_live(&self, slot: &str, label: &str) {
        let environment = self.environment();
        assert_eq!(self.0.answer(), format!("{label} cor"));
        let name = |end: &str| vec![format!("shop-default-{slot}{end}")];
        assert_eq!(self.0.running(), (name(" RUNNING"), name(".conf")), "one slot is live");
        assert_eq!(environment.read("told"), format!("release {label}\n"), "the program was told of the new file");
        wait_until("no process is left but the live one", || processes_in(environment).len() == 1);
        assert_eq!(sockets_in(environment), [environment.path(format!("srv/slots/{slot}/sock"))]);
        assert_eq!(unfinished(files_below(&self.0.supervisord_path("conf.d"))), Vec::<PathBuf>::new());
    }
}

/// What is temporary is then seen.
pub(super) fn use_own_temporary_folder(environment: &mut TestEnvironment) {
    let temporary = environment.path("tmp");
    fs::create_dir(&temporary).unwrap();
    environment.set_variable("TMPDIR", temporary.to_str().unwrap());
}

/// The processes that work in the site's folder.
pub(super) fn processes_in(environment: &TestEnvironment) -> Vec<u32> {
    let root = environment.path("").canonicalize().unwrap();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let works_here = |pid: &u32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(&root));
    processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(works_here).collect()
}

/// The sockets in the site's folder.
pub(super) fn sockets_in(environment: &TestEnvironment) -> Vec<PathBuf> {
    let is_socket = |path: &Path| path.symlink_metadata().is_ok_and(|found| found.file_type().is_socket());
    files_below(&environment.path("")).into_iter().filter(|path| is_socket(path)).collect()
}

/// Those files that somebody began to write.
fn unfinished(mut files: Vec<PathBuf>) -> Vec<PathBuf> {
    let begun = [".tmp", ".new", ".pawl-new", ".pawl-next", ".part"];
    files.retain(|path| begun.iter().any(|end| path.to_str().is_some_and(|path| path.ends_with(end))));
    files
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            found.extend(files_below(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

/// Deploys a release, and kills the runner behind a call. Returns how many calls there were, and that one.
fn kill(site: &impl ServingSite, label: &str, point: Option<usize>) -> (usize, Option<TracedCall>) {
    let arguments = ["--local", "--release", label];
    match site.environment().run_traced(&arguments, |call| Some(call.index) == point) {
        Some(run) => {
            let said = site.environment().read("said.txt");
            assert!(run.killed_after.is_some() || run.status.success(), "{:?}\n{said}", run.status);
            (run.calls.len(), run.killed_after)
        }
        None => (0, None),
    }
}

/// Deploys a release to the end, and looks at what is there then.
fn finish(site: &impl ServingSite, label: &str) {
    let environment = site.environment();
    environment.deploy(label, &[]).assert_exit(0);
    let slot = fs::read_link(environment.path("srv/live")).unwrap().file_name().unwrap().to_owned();
    site.check_only_live(slot.to_str().unwrap(), label);
    assert_eq!(unfinished(files_below(&environment.path(""))), Vec::<PathBuf>::new());
    assert!(environment.list("tmp").is_empty(), "{:?}", environment.list("tmp"));
}

/// Main property of a deployment of what serves: wherever the runner is killed, users see nothing of it, and the next run finishes. `points`
/// are taken when not more are asked for.
pub(super) fn check_kills_under_load(site: &impl ServingSite, what: &str, points: usize) {
    let began = Instant::now();
    let seed = rng::seed_from_env().unwrap();
    let mut labels = (1..).map(|number| format!("r{number}")).inspect(|label| site.pack(label));
    let mut next = || labels.next().unwrap();
    finish(site, &next());
    let second = next();
    let (calls, _) = kill(site, &second, None);
    finish(site, &second);
    let points = SplitMix64::new(seed).choose_distinct(point_count().unwrap_or(points), calls);
    let mut traffic = ConstantTraffic::start(&site.address(), RATE, &format!("{second} cor"));
    let mut kinds = BTreeMap::new();
    for point in &points {
        let label = next();
        traffic.move_to(&format!("{label} cor"), || {
            let (_, killed) = kill(site, &label, Some(*point));
            let shown = killed.as_ref().map_or_else(|| "nothing".to_owned(), ToString::to_string);
            println!("PAWL_SEED={seed}, {label}: killed behind {shown}");
            finish(site, &label);
            *kinds.entry(killed.map_or_else(|| "no call".to_owned(), |call| call.name)).or_insert(0) += 1;
        });
    }
    let report = traffic.stop();
    report.assert_complete(points.len() * 10);
    let kinds: Vec<_> = kinds.into_iter().map(|(name, count)| format!("{count} {name}")).collect();
    let (requests, took, kinds) = (report.requests, began.elapsed().as_secs_f64(), kinds.join(", "));
    writeln!(
        std::io::stderr().lock(),
        "kills of a blue/green deployment of {what} under load: {} cases of {calls} calls, 0 failed, 0 of {requests} requests lost, \
         {took:.1} s, PAWL_SEED={seed}; killed behind {kinds}",
        points.len()
    )
    .unwrap();
}

/// PAWL_POINTS, if it is a number.
#[expect(clippy::disallowed_methods, reason = "nothing stands outside of a test to pass the environment on")]
fn point_count() -> Option<usize> {
    std::env::var("PAWL_POINTS").ok()?.parse().ok()
}

#[test]
fn killed_blue_green_deployment_under_load_is_finished_by_the_next() {
    check_kills_under_load(&SupervisedKills::new(), "programs", 8);
}
