//! A blue/green deployment below supervisord, behind nginx and under load: the runner is killed, and run again. No request is lost, one slot
//! is live, and nothing is left: no process, no socket, no half-written file.
//!
//! Points are calls of the runner, chosen by a seed, which is printed: `PAWL_SEED=…` repeats them, and `PAWL_POINTS=200` takes so many
//! (`cargo xtask bench faults`). Each point kills the deployment of another release. Deliberately absent: kills of nginx or supervisord.

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
use crate::support::{ConstantTraffic, TracedCall, TrafficRate, wait_until};

const PAGE: &str = "docs/supervisord.md";

/// How many points are taken when not more are asked for.
const POINTS: usize = 8;

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

/// The plan of the page with its hook, and what it answers with.
struct KilledSite {
    site: SupervisedSite,
    releases: usize,
}

impl KilledSite {
    fn new() -> Self {
        let mut site = SupervisedSite::of_page(PAGE);
        let environment = &mut site.environment;
        environment.set_variable("DB_PASSWORD", "correct-horse-battery");
        let temporary = environment.path("tmp");
        fs::create_dir(&temporary).unwrap();
        environment.set_variable("TMPDIR", temporary.to_str().unwrap());
        environment.write("dist/site.j2", "release {{ release }}\n");
        let configure = CONFIGURE.replace("ROOT", environment.path("").to_str().unwrap().trim_end_matches('/'));
        environment.edit("deploy.yml", "  start:\n", &format!("{configure}  start:\n"));
        let plan = environment.read("deploy.yml") + &site.hook_of_page(PAGE).replace("drain: 10s", "drain: 300ms");
        site.environment.write("deploy.yml", plan);
        Self { site, releases: 0 }
    }

    /// Packs the next release; returns its label.
    fn pack_next(&mut self) -> String {
        self.releases += 1;
        let label = format!("r{}", self.releases);
        self.site.pack(&label, "works");
        label
    }

    /// Deploys a release, and kills the runner behind a call. Returns the calls, and that one.
    fn kill(&self, label: &str, point: Option<usize>) -> (usize, Option<TracedCall>) {
        let arguments = ["--local", "--release", label];
        match self.site.environment.run_traced(&arguments, |call| Some(call.index) == point) {
            Some(run) => {
                let said = self.site.environment.read("said.txt");
                assert!(run.killed_after.is_some() || run.status.success(), "{:?}\n{said}", run.status);
                (run.calls.len(), run.killed_after)
            }
            None => (0, None),
        }
    }

    /// Deploys a release to the end, and looks at what is there then.
    fn finish(&self, label: &str) {
        self.site.deploy(label).assert_exit(0);
        let environment = &self.site.environment;
        assert_eq!(self.site.answer(), format!("{label} cor"));
        let slot = fs::read_link(environment.path("srv/live")).unwrap().file_name().unwrap().to_owned();
        let slot = slot.to_str().unwrap();
        let name = |end: &str| vec![format!("shop-default-{slot}{end}")];
        assert_eq!(self.site.running(), (name(" RUNNING"), name(".conf")), "one slot is live");
        assert_eq!(environment.read("told"), format!("release {label}\n"), "the program was told of the new file");
        wait_until("no process is left but the live one", || self.processes().len() == 1);
        assert_eq!(self.sockets(), [environment.path(format!("srv/slots/{slot}/sock"))]);
        assert_eq!(self.leftovers(), Vec::<PathBuf>::new());
        assert!(environment.list("tmp").is_empty(), "{:?}", environment.list("tmp"));
    }

    /// The processes that work in the site's folder.
    fn processes(&self) -> Vec<u32> {
        let root = self.site.environment.path("").canonicalize().unwrap();
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let works_here = |pid: &u32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(&root));
        processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(works_here).collect()
    }

    fn sockets(&self) -> Vec<PathBuf> {
        let is_socket = |path: &Path| path.symlink_metadata().is_ok_and(|found| found.file_type().is_socket());
        files_below(&self.site.environment.path("")).into_iter().filter(|path| is_socket(path)).collect()
    }

    /// Files that somebody began to write.
    fn leftovers(&self) -> Vec<PathBuf> {
        let begun = [".tmp", ".new", ".pawl-new", ".pawl-next", ".part"];
        let mut files = files_below(&self.site.environment.path(""));
        files.extend(files_below(&self.site.supervisord_path("conf.d")));
        files.retain(|path| begun.iter().any(|end| path.to_str().is_some_and(|path| path.ends_with(end))));
        files
    }
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

/// Main property of a deployment of what serves: wherever the runner is killed, users see nothing of it, and the next run finishes.
#[test]
fn killed_blue_green_deployment_under_load_is_finished_by_the_next() {
    let began = Instant::now();
    let seed = rng::seed_from_env().unwrap();
    let mut site = KilledSite::new();
    let first = site.pack_next();
    site.finish(&first);
    let second = site.pack_next();
    let (calls, _) = site.kill(&second, None);
    site.finish(&second);
    let points = SplitMix64::new(seed).choose_distinct(point_count(), calls);
    let mut traffic = ConstantTraffic::start(&site.site.nginx.address(), RATE, &format!("{second} cor"));
    let mut kinds = BTreeMap::new();
    for point in &points {
        let label = site.pack_next();
        traffic.move_to(&format!("{label} cor"), || {
            let (_, killed) = site.kill(&label, Some(*point));
            let shown = killed.as_ref().map_or_else(|| "nothing".to_owned(), ToString::to_string);
            println!("PAWL_SEED={seed}, {label}: killed behind {shown}");
            site.finish(&label);
            *kinds.entry(killed.map_or_else(|| "no call".to_owned(), |call| call.name)).or_insert(0) += 1;
        });
    }
    let report = traffic.stop();
    report.assert_complete(points.len() * 10);
    let kinds: Vec<_> = kinds.into_iter().map(|(name, count)| format!("{count} {name}")).collect();
    let (requests, took, kinds) = (report.requests, began.elapsed().as_secs_f64(), kinds.join(", "));
    writeln!(
        std::io::stderr().lock(),
        "kills of a blue/green deployment under load: {} cases of {calls} calls, 0 failed, 0 of {requests} requests lost, {took:.1} s, \
         PAWL_SEED={seed}; killed behind {kinds}",
        points.len()
    )
    .unwrap();
}

/// PAWL_POINTS, if it is a number.
#[expect(clippy::disallowed_methods, reason = "nothing stands outside of a test to pass the environment on")]
fn point_count() -> usize {
    std::env::var("PAWL_POINTS").ok().and_then(|points| points.parse().ok()).unwrap_or(POINTS)
}
