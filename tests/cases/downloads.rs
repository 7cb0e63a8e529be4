//! Downloads over a bad network, from a real nginx: what breaks off goes on; what hangs or is killed leaves nothing. And
//! releases that are not the version that was asked for.

use std::time::Duration;

use crate::support::{
    FaultyProxy, NginxServer, ProxyFault, TestArchiveFormat, TestEnvironment, release_folder, sha256, wait_until,
};

/// A release that does not pack well, so that its way takes some time.
fn incompressible_release() -> (Vec<u8>, String) {
    let environment = TestEnvironment::new();
    let noise: String = (0..20_000_u32).map(|number| sha256(&number.to_le_bytes())).collect();
    environment.write("app/noise", noise);
    let archive = environment.archive("r1", TestArchiveFormat::TarZst);
    let digest = sha256(&archive);
    assert!(archive.len() > 500_000, "{} bytes", archive.len());
    (archive, digest)
}

fn plan(origin: &str, digest: &str, timeout: &str) -> String {
    format!(
        r#"version: 1
app: shop
steps:
  pull:
    uses: pull
    with: {{ from: "{origin}/r1.tar.zst", into: app, digest: "sha256:{digest}" }}
    grants: {{ dirs: {{ app: ./deploy }}, http: ["{origin}"] }}
    timeout: {timeout}
"#
    )
}

/// All that lies in the folder that was pulled into, but the empty folder of the releases.
fn leftovers(environment: &TestEnvironment) -> Vec<String> {
    let mut names = environment.list("deploy");
    names.retain(|name| name != "releases");
    names.extend(environment.list("deploy/releases"));
    names
}

#[test]
fn interrupted_download_resumes_where_it_stopped() {
    let (archive, digest) = incompressible_release();
    let nginx = NginxServer::new(&[("r1.tar.zst", &archive)]);
    let proxy = FaultyProxy::new(nginx.address(), ProxyFault::Cut(200_000));
    let environment = TestEnvironment::with_plan(&plan(&proxy.origin(), &digest, "1m"));
    let answer = environment.deploy("r1", &[]);
    answer.assert_exit(0);
    assert_eq!(answer.event_types().iter().filter(|kind| *kind == "intent").count(), 1, "no retry of the step");
    assert_eq!(environment.list("deploy/releases"), [release_folder("r1", &digest)]);
    assert!(answer.stdout.contains("was interrupted and resumes"), "{}", answer.stdout);

    let connections = proxy.connections();
    assert_eq!(connections, archive.len().div_ceil(199_000), "{:?}", nginx.access_log());
    wait_until("nginx has logged all", || nginx.access_log().len() >= connections);
    let answered: Vec<_> = nginx.access_log().into_iter().filter(|line| line.starts_with('2')).collect();
    assert_eq!(answered[0], "200 -");
    assert!(answered[1..].iter().all(|line| line.starts_with("206 bytes=")), "{answered:?}");
}

#[test]
fn step_timeout_bounds_a_slow_or_hanging_server() {
    let (archive, digest) = incompressible_release();
    let nginx = NginxServer::new(&[("r1.tar.zst", &archive)]);
    for fault in [ProxyFault::Trickle(300_000, Duration::from_millis(20)), ProxyFault::Stall(300_000)] {
        let proxy = FaultyProxy::new(nginx.address(), fault);
        let environment = TestEnvironment::with_plan(&plan(&proxy.origin(), &digest, "1s"));
        let answer = environment.run(&["--local", "--release", "r1"]);
        answer.assert_exit(1).assert_stderr_contains("the runner stopped it after its timeout of 1s");
        assert_eq!(leftovers(&environment), [""; 0]);
    }
}

#[test]
fn next_pull_removes_leftovers_of_a_killed_pull() {
    let (archive, digest) = incompressible_release();
    let nginx = NginxServer::new(&[("r1.tar.zst", &archive)]);
    let proxy = FaultyProxy::new(nginx.address(), ProxyFault::Stall(300_000));
    let environment = TestEnvironment::with_plan(&plan(&proxy.origin(), &digest, "1m"));
    let mut killed = environment.start(&["--local", "--release", "r1"]);
    wait_until("it unpacks", || environment.list("deploy/releases").iter().any(|name| name.starts_with(".tmp-")));
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(
        !environment.exists(&format!("deploy/releases/{}", release_folder("r1", &digest))),
        "half a release has no name of its own"
    );

    environment.write("deploy.yml", plan(&format!("http://{}", nginx.address()), &digest, "1m"));
    environment.run(&["--local", "--release", "r1"]).assert_exit(0);
    assert_eq!(environment.list("deploy/releases"), [release_folder("r1", &digest)]);
}

#[test]
fn wrong_version_is_rejected_before_the_switch() {
    for (version, message) in [
        ("version-file: VERSION", "the file `VERSION` of the release says `r1`, not `r2`"),
        ("version: \"2.0\"", "the file `VERSION` of the release says `r1`, not `2.0`"),
        ("version-file: build/VERSION", "the release has no file `build/VERSION`; expected one that says `r2`"),
    ] {
        let environment = TestEnvironment::new();
        environment.write("dist/app.zip", environment.archive("r1", TestArchiveFormat::Zip));
        environment.write(
            "deploy.yml",
            format!(
                r#"version: 1
app: shop
steps:
  pull:
    uses: pull
    with: {{ from: "file:dist/app.zip", into: app, {version} }}
    grants: {{ dirs: {{ app: ./deploy, dist: "./dist:ro" }} }}
  switch:
    uses: switch
    with: {{ link: current }}
    grants: {{ dirs: {{ app: ./deploy }} }}
"#
            ),
        );
        let answer = environment.run(&["--local", "--release", "r2"]);
        answer.assert_exit(1).assert_stderr_contains(&format!("caused by: {message}"));
        assert_eq!(leftovers(&environment), [""; 0], "{version}");
        assert!(!environment.exists("deploy/current"));
        // The same archive under its own name is fine.
        if version == "version-file: VERSION" {
            environment.run(&["--local", "--release", "r1"]).assert_exit(0);
            assert!(environment.exists("deploy/current/VERSION"));
        }
    }
}
