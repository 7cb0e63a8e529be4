//! A blue/green deployment under load: the runner is killed, and run again. No request is lost, one slot is live, and nothing is left: no
//! process, no socket, no half-written file. Below supervisord behind nginx, and, in [`containers`], with podman behind Caddy.
//!
//! Points are calls of the runner, chosen by a seed, which is printed: `PAWL_SEED=…` repeats them, and `PAWL_POINTS=200` takes so many
//! (`cargo xtask bench faults`). Each point kills the deployment of another release. Deliberately absent: kills of what serves.

mod containers;

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

/// What serves, whose deployments are killed.
trait KilledDeployment {
    /// What is killed, for the summary.
    const WHAT: &str;
    /// How many points are taken when not more are asked for.
    const POINTS: usize;

    fn environment(&self) -> &TestEnvironment;

    /// Where users ask. The answer is the release and `cor`.
    fn address(&self) -> String;

    /// Packs a release that works.
    fn pack(&self, label: &str);

    /// Looks at what is there after a whole deployment.
    fn check_finished(&self, label: &str);
}

/// The plan of the page of supervisord with its hook, and what it answers with.
struct SupervisedDeployment {
    site: SupervisedSite,
}

impl SupervisedDeployment {
    fn new() -> Self {
        let mut site = SupervisedSite::of_page(PAGE);
        let environment = &mut site.environment;
        environment.set_variable("DB_PASSWORD", "correct-horse-battery");
        keep_temporary_files(environment);
        environment.write("dist/site.j2", "release {{ release }}\n");
        let configure = CONFIGURE.replace("ROOT", environment.path("").to_str().unwrap().trim_end_matches('/'));
        environment.edit("deploy.yml", "  start:\n", &format!("{configure}  start:\n"));
        let plan = environment.read("deploy.yml") + &site.hook_of_page(PAGE).replace("drain: 10s", "drain: 300ms");
        site.environment.write("deploy.yml", plan);
        Self { site }
    }
}

impl KilledDeployment for SupervisedDeployment {
    const WHAT: &str = "a blue/green deployment";
    const POINTS: usize = 8;

    fn environment(&self) -> &TestEnvironment {
        &self.site.environment
    }

    fn address(&self) -> String {
        self.site.nginx.address()
    }

    fn pack(&self, label: &str) {
        self.site.pack(label, "works");
    }

    fn check_finished(&self, label: &str) {
        let environment = &self.site.environment;
        assert_eq!(self.site.answer(), format!("{label} cor"));
        let slot = live_slot(environment);
        let name = |end: &str| vec![format!("shop-default-{slot}{end}")];
        assert_eq!(self.site.running(), (name(" RUNNING"), name(".conf")), "one slot is live");
        assert_eq!(environment.read("told"), format!("release {label}\n"), "the program was told of the new file");
        wait_until("no process is left but the live one", || processes(environment).len() == 1);
        assert_eq!(sockets(environment), [environment.path(format!("srv/slots/{slot}/sock"))]);
        let mut files = files_below(&environment.path(""));
        files.extend(files_below(&self.site.supervisord_path("conf.d")));
        assert_nothing_begun(environment, files);
    }
}

/// The name of the slot that has the traffic.
fn live_slot(environment: &TestEnvironment) -> String {
    let target = fs::read_link(environment.path("srv/live")).unwrap();
    target.file_name().unwrap().to_str().unwrap().to_owned()
}

/// The runner's temporary files are in a folder of the site from now on.
fn keep_temporary_files(environment: &mut TestEnvironment) {
    let temporary = environment.path("tmp");
    fs::create_dir(&temporary).unwrap();
    environment.set_variable("TMPDIR", temporary.to_str().unwrap());
}

/// The processes that work in the site's folder.
fn processes(environment: &TestEnvironment) -> Vec<u32> {
    let root = environment.path("").canonicalize().unwrap();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let works_here = |pid: &u32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(&root));
    processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(works_here).collect()
}

fn sockets(environment: &TestEnvironment) -> Vec<PathBuf> {
    let is_socket = |path: &Path| path.symlink_metadata().is_ok_and(|found| found.file_type().is_socket());
    files_below(&environment.path("")).into_iter().filter(|path| is_socket(path)).collect()
}

/// Fails if one of the files is one that somebody began to write, or if there are temporary files.
fn assert_nothing_begun(environment: &TestEnvironment, mut files: Vec<PathBuf>) {
    let begun = [".tmp", ".new", ".pawl-new", ".pawl-next", ".part"];
    files.retain(|path| begun.iter().any(|end| path.to_str().is_some_and(|path| path.ends_with(end))));
    assert_eq!(files, Vec::<PathBuf>::new());
    assert!(environment.list("tmp").is_empty(), "{:?}", environment.list("tmp"));
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

/// Deploys a release, and kills the runner behind a call. Returns the calls, and that one.
fn kill(environment: &TestEnvironment, label: &str, point: Option<usize>) -> (usize, Option<TracedCall>) {
    let arguments = ["--local", "--release", label];
    match environment.run_traced(&arguments, |call| Some(call.index) == point) {
        Some(run) => {
            let said = environment.read("said.txt");
            assert!(run.killed_after.is_some() || run.status.success(), "{:?}\n{said}", run.status);
            (run.calls.len(), run.killed_after)
        }
        None => (0, None),
    }
}

/// Deploys a release to the end, and looks at what is there then.
fn finish(site: &impl KilledDeployment, label: &str) {
    site.environment().deploy(label, &[]).assert_exit(0);
    site.check_finished(label);
}

/// Main property of a deployment of what serves: wherever the runner is killed, users see nothing of it, and the next run finishes.
fn check_kills<D: KilledDeployment>(site: D) {
    let began = Instant::now();
    let seed = rng::seed_from_env().unwrap();
    let mut numbers = 1..;
    let mut pack_next = || {
        let label = format!("r{}", numbers.next().unwrap());
        site.pack(&label);
        label
    };
    let first = pack_next();
    finish(&site, &first);
    let second = pack_next();
    let (calls, _) = kill(site.environment(), &second, None);
    finish(&site, &second);
    let points = SplitMix64::new(seed).choose_distinct(point_count().unwrap_or(D::POINTS), calls);
    let mut traffic = ConstantTraffic::start(&site.address(), RATE, &format!("{second} cor"));
    let mut kinds = BTreeMap::new();
    for point in &points {
        let label = pack_next();
        traffic.move_to(&format!("{label} cor"), || {
            let (_, killed) = kill(site.environment(), &label, Some(*point));
            let shown = killed.as_ref().map_or_else(|| "nothing".to_owned(), ToString::to_string);
            println!("PAWL_SEED={seed}, {label}: killed behind {shown}");
            finish(&site, &label);
            *kinds.entry(killed.map_or_else(|| "no call".to_owned(), |call| call.name)).or_insert(0) += 1;
        });
    }
    let report = traffic.stop();
    report.assert_complete(points.len() * 10);
    let kinds: Vec<_> = kinds.into_iter().map(|(name, count)| format!("{count} {name}")).collect();
    let (requests, took, kinds) = (report.requests, began.elapsed().as_secs_f64(), kinds.join(", "));
    writeln!(
        std::io::stderr().lock(),
        "kills of {} under load: {} cases of {calls} calls, 0 failed, 0 of {requests} requests lost, {took:.1} s, \
         PAWL_SEED={seed}; killed behind {kinds}",
        D::WHAT,
        points.len()
    )
    .unwrap();
}

#[test]
fn killed_blue_green_deployment_under_load_is_finished_by_the_next() {
    check_kills(SupervisedDeployment::new());
}

/// PAWL_POINTS, if it is a number.
#[expect(clippy::disallowed_methods, reason = "nothing stands outside of a test to pass the environment on")]
fn point_count() -> Option<usize> {
    std::env::var("PAWL_POINTS").ok().and_then(|points| points.parse().ok())
}
