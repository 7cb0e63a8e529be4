//! Modules by the agent of a host that a real sshd lets the runner in to: `configure`, `switch` and `verify` as their pages have them.
//!
//! `supervisord`, `systemd`, `container` with `images`, and `compose` are tried on a host in their own files; `pull`, `migrate` and `run` in
//! remote_hosts.rs.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::PermissionsExt as _,
};

use super::switch_traffic::Proxy;
use crate::support::{NginxServer, SshHost, TestEnvironment, doc_blocks::fenced_block, plan_on_host, write_ssh_config};

/// A plan of one machine on a host, whose folders lie below `srv` there.
fn on_host(plan: &str) -> (TestEnvironment, SshHost) {
    let host = SshHost::new();
    fs::create_dir(host.path("srv")).unwrap();
    let plan = plan.replace("SRV", &host.path("srv").display().to_string());
    let environment = TestEnvironment::with_plan(&plan_on_host(&plan, &host.address()));
    write_ssh_config(&environment.path(""), &[&host]);
    (environment, host)
}

#[test]
fn files_are_configured_on_a_host() {
    // The page's check refuses an empty file only.
    let plan = fenced_block("docs/configure.md", "version: 1").replace("./etc", "SRV/etc");
    let plan = plan.replace("/usr/bin/test, -s", "/bin/grep, listen");
    let (mut environment, host) = on_host(&plan);
    environment.set_variable("DB_PASSWORD", "correct-horse-battery");
    environment.write("conf/env.j2", "# listen\nDB_PASSWORD={{ secrets.DB_PASSWORD }}\n");
    environment.write("conf/site.j2", "listen {{ port }}; # {{ target }} {{ release }}\n");
    environment.deploy("r1", &[]).assert_exit(0);
    assert_eq!(host.read("srv/etc/shop.env"), "# listen\nDB_PASSWORD=correct-horse-battery\n");
    assert_eq!(host.read("srv/etc/site.conf"), "listen 8080; # web-1 r1\n");
    let mode = |path: &str| fs::metadata(host.path(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("srv/etc/shop.env"), mode("srv/etc/site.conf")), (0o640, 0o600));
    // The check refuses it there, beforehand.
    environment.edit("conf/site.j2", "listen", "lisen");
    let refused = environment.deploy("r2", &[]);
    refused.assert_refused_beforehand().assert_stderr_contains("the check refuses etc/site.conf");
    environment.edit("conf/site.j2", "lisen", "listen");
    fs::write(host.path("srv/etc/site.conf"), "listen by hand\n").unwrap();
    environment.deploy("r2", &[]).assert_refused_beforehand().assert_stderr_contains("site.conf was edited since");
    assert_eq!(host.read("srv/etc/site.conf"), "listen by hand\n");
}

const SWITCH: &str = r#"version: 1
app: shop
on-failure: rollback
dirs: { app: SRV }
steps:
  switch:
    trust: host
    with:
      link: live
      to: "slots/${{ release }}"
      check: { url: "http://127.0.0.1:PORT/VERSION", contains: "release ${{ release }}", within: 2s }
      haproxy: { socket: admin, map: app/slots.map, key: shop }
    grants: { dirs: [app], sockets: { admin: "unix:ADMIN" }, http: ["http://127.0.0.1:PORT"] }
"#;

#[test]
fn traffic_is_switched_on_a_host() {
    let (environment, host) = on_host(SWITCH);
    for slot in ["a", "b", "c"] {
        fs::create_dir_all(host.path(&format!("srv/slots/{slot}"))).unwrap();
        fs::write(host.path(&format!("srv/slots/{slot}/VERSION")), format!("release {slot}")).unwrap();
    }
    fs::write(host.path("srv/slots.map"), "shop a\n").unwrap();
    let _servers = Proxy::slot_servers(&host.path("srv"));
    let haproxy = Proxy::haproxy(&host.path("srv"));
    for (from, to) in [
        ("PORT", haproxy.port.to_string()),
        ("PORT", haproxy.port.to_string()),
        ("ADMIN", haproxy.path("admin.sock").display().to_string()),
    ] {
        environment.edit("deploy.yml", from, &to);
    }
    for release in ["a", "b"] {
        environment.deploy(release, &[]).assert_exit(0);
        assert!(haproxy.get().unwrap().contains(&format!("release {release}")));
    }
    // HAProxy knows no slot c.
    environment.deploy("c", &[]).assert_exit(1).assert_stderr_contains("switched back to `slots/b`");
    assert!(haproxy.get().unwrap().contains("release b"));
    drop(haproxy);
    let refused = environment.deploy("a", &[]);
    refused.assert_refused_beforehand().assert_stderr_contains("HAProxy does not answer");
}

const VERIFY: &str = r#"version: 1
app: shop
steps:
  verify:
    timeout: 1m
    with:
      tries: 1
      http: [{ url: "LIVE/VERSION", contains: "${{ release }}" }]
      sample: { file: log/access.log, against: "LIVE" }
      bake: { for: 300ms, every: 50ms, url: "LIVE/VERSION" }
    grants: { dirs: { log: "LOG:ro" }, http: ["LIVE"] }
"#;

#[test]
fn release_is_verified_on_a_host() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("VERSION"), "r1\n").unwrap();
    let root = folder.path().display().to_string();
    let nginx = NginxServer::with_configuration(|port| {
        format!("server {{ listen 127.0.0.1:{port}; root {root}; access_log {root}/access.log; }}")
    });
    let mut connection = TcpStream::connect(nginx.address()).unwrap();
    connection.write_all(b"GET /VERSION HTTP/1.0\r\n\r\n").unwrap();
    connection.read_to_end(&mut Vec::new()).unwrap();
    let plan = VERIFY.replace("LIVE", &format!("http://{}", nginx.address())).replace("LOG", &root);
    let (environment, _host) = on_host(&plan);
    let verified = environment.deploy("r1", &[]);
    verified.assert_exit(0);
    let mut outcomes = verified.json_lines().into_iter().map(|line| line["event"].clone());
    let notes = outcomes.rfind(|event| event["type"] == "outcome").unwrap()["receipt"]["notes"].clone();
    assert_eq!((&notes["sampled"], &notes["errors"]), (&1.into(), &0.into()), "{notes}");
    let failed = environment.deploy("r2", &[]);
    failed.assert_exit(1).assert_stderr_contains("1 of 1 checks failed").assert_stderr_contains("web-1");
}
