//! `switch` in front of real proxies that look where the link leads at each request: nginx, Caddy, HAProxy. Each answer names its release.

pub(super) mod measured;
mod reloads;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use self::measured::{SwitchLoad, SwitchWay};

use crate::support::{
    TestEnvironment,
    doc_blocks::{fenced_blocks, page_path},
    free_ports, wait_until,
};

/// A proxy, until it is dropped.
pub(super) struct Proxy {
    folder: TempDir,
    pub(super) port: u16,
    pub(super) admin: u16,
    child: Option<Child>,
}

impl Proxy {
    pub(super) fn new() -> Self {
        let [port, admin] = free_ports();
        Self { folder: tempfile::tempdir().unwrap(), port, admin, child: None }
    }

    /// `127.0.0.1:<port>`.
    pub(super) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start(&mut self, program: &str, arguments: &[&str]) {
        let mut command = Command::new(program_path(program));
        command.args(arguments).env("HOME", self.folder.path()).env("XDG_DATA_HOME", self.folder.path());
        let log = fs::File::create(self.path("proxy.log")).unwrap();
        let child = command.stdout(Stdio::null()).stderr(log).stdin(Stdio::null()).spawn();
        self.child = Some(child.unwrap_or_else(|error| panic!("{program}: {error}; run `cargo xtask setup`")));
        let port = self.port;
        wait_until("the proxy listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    }

    /// A block of the page, for this port and the application at `app`.
    fn documented(&self, language: &str, app: &Path) -> String {
        let page = fs::read_to_string(page_path("docs/zero-downtime.md")).unwrap();
        let block = fenced_blocks(&page).into_iter().find(|block| block.language == language).unwrap().text;
        block.replace("8080", &self.port.to_string()).replace("/srv/shop", &app.display().to_string())
    }

    /// nginx, with the page's configuration, and what answers in each slot.
    fn nginx(app: &Path) -> Self {
        let mut proxy = Self::new();
        let slots: String = ["a", "b"]
            .iter()
            .map(|slot| {
                let socket = format!("{}/slots/{slot}/sock", app.display());
                format!("server {{ listen unix:{socket}; location / {{ return 200 \"release {slot}\\n\"; }} }}\n")
            })
            .collect();
        let lines = slots + &proxy.documented("nginx", app);
        proxy.start_nginx(&lines);
        proxy
    }

    /// nginx, with these lines in its `http`.
    pub(super) fn start_nginx(&mut self, lines: &str) {
        let root = self.folder.path().display().to_string();
        // Its workers are of the user of this test, whose folders they read.
        let configuration = format!(
            "daemon off; user root; pid {root}/pid; error_log {root}/error.log;
             events {{ worker_connections 256; }}
             http {{
                 access_log off; client_body_temp_path {root}/t1; proxy_temp_path {root}/t2;
                 fastcgi_temp_path {root}/t3; uwsgi_temp_path {root}/t4; scgi_temp_path {root}/t5;
                 {lines}
             }}"
        );
        fs::write(self.path("nginx.conf"), configuration).unwrap();
        let conf = self.path("nginx.conf").display().to_string();
        self.start("nginx", &["-c", &conf, "-p", &root, "-e", &format!("{root}/error.log")]);
    }

    /// Lets nginx read its configuration again, which may have changed in files that it includes.
    pub(super) fn reload_nginx(&self) {
        let mut command = Command::new(program_path("nginx"));
        command.args(["-s", "reload", "-c"]).arg(self.path("nginx.conf")).arg("-p").arg(self.folder.path());
        run(command.arg("-e").arg(self.path("error.log")));
    }

    pub(super) fn caddy(app: &Path) -> Self {
        let mut proxy = Self::new();
        let options = format!("{{\n admin 127.0.0.1:{}\n auto_https off\n}}\n", proxy.admin);
        fs::write(proxy.path("Caddyfile"), options + &proxy.documented("caddyfile", app)).unwrap();
        proxy.start_caddy();
        proxy
    }

    fn start_caddy(&mut self) {
        let conf = self.path("Caddyfile").display().to_string();
        self.start("caddy", &["run", "--config", &conf, "--adapter", "caddyfile"]);
    }

    pub(super) fn haproxy(app: &Path) -> Self {
        let mut proxy = Self::new();
        let configuration = format!(
            "global\n  stats socket {} mode 600 level admin\ndefaults\n  mode http\n  timeout client 10s\n  timeout server 10s\n  \
             timeout connect 1s\n{}",
            proxy.path("admin.sock").display(),
            proxy.documented("haproxy", app)
        );
        fs::write(proxy.path("haproxy.cfg"), configuration).unwrap();
        let conf = proxy.path("haproxy.cfg").display().to_string();
        proxy.start("haproxy", &["-db", "-f", &conf]);
        proxy
    }

    /// What answers in the slots, for proxies that serve no files themselves: an nginx on their sockets.
    pub(super) fn slot_servers(app: &Path) -> Self {
        let mut servers = Self::nginx(app);
        servers.port = 0;
        servers
    }

    /// An answer over a connection of its own.
    pub(super) fn get(&self) -> Option<String> {
        get(self.port)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // So that nginx ends its workers.
            let _ = kill_process(Pid::from_child(child), Signal::TERM);
            let _ = child.wait();
        }
    }
}

/// Runs a program that must succeed.
fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

pub(super) fn program_path(program: &str) -> PathBuf {
    let places = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"];
    let found = places.iter().map(|place| Path::new(place).join(program)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{program} is missing: `cargo xtask setup` installs it"))
}

/// Releases `a`, `b` and `c`, each in a slot of its name, and a plan that switches between them.
pub(super) fn environment(with: &str, grants: &str) -> TestEnvironment {
    let plan = format!(
        "version: 1\napp: shop\nsteps:\n  switch:\n    trust: host\n    with: {{ link: live, to: \"slots/${{{{ release }}}}\", {with} }}\n    \
         grants: {{ dirs: {{ app: ./app }}, {grants} }}\n"
    );
    let environment = TestEnvironment::with_plan(&plan);
    for slot in ["a", "b", "c"] {
        environment.write(&format!("app/slots/{slot}/is-{slot}"), "");
    }
    environment
}

/// An answer over a connection of its own.
fn get(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.write_all(b"GET /VERSION HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.starts_with("HTTP/1.1 200").then_some(answer)
}

/// Switches back and forth under load: each request is answered, and by the release that has the traffic.
#[track_caller]
fn switch_under_load(environment: &TestEnvironment, name: &str, proxy: &Proxy) -> SwitchLoad {
    environment.deploy("a", &[]).assert_exit(0);
    let (load, address) = (SwitchLoad::from_env(), proxy.address());
    let way = SwitchWay { name, address: &address, answers: ["release a", "release b"] };
    load.check(&way, |answer| {
        environment.deploy(answer.trim_start_matches("release "), &[]).assert_exit(0);
    });
    load
}

#[test]
fn nginx_follows_the_link_and_loses_no_request() {
    let nginx = program_path("nginx").display().to_string();
    let environment = environment("check: CHECK, wired: { nginx: [NGINX] }", "programs: [[NGINX]]");
    let proxy = Proxy::nginx(&environment.path("app"));
    let conf = proxy.path("nginx.conf").display().to_string();
    let check = format!(
        "{{ url: \"http://127.0.0.1:{}/VERSION\", contains: \"release ${{{{ release }}}}\", within: 2s }}",
        proxy.port
    );
    environment.edit("deploy.yml", "CHECK", &check);
    for _ in 0..2 {
        environment.edit("deploy.yml", "NGINX", &format!("{nginx}, -T, -c, {conf}"));
    }
    environment.edit("deploy.yml", "link: live", "link: other");
    environment.deploy("a", &[]).assert_exit(1).assert_stderr_contains("the configuration of nginx does not name");
    environment.edit("deploy.yml", "link: other", "link: live");
    let load = switch_under_load(&environment, "nginx, the link", &proxy);
    if load.is_measured() {
        reloads::measure_nginx(load, &environment.path("app"));
    }
    // The proxy knows no slot c, so traffic does not arrive there.
    environment
        .deploy("c", &[])
        .assert_exit(1)
        .assert_stderr_contains("did not answer as the release within")
        .assert_stderr_contains("switched back to `slots/a`");
    assert!(get(proxy.port).unwrap().contains("release a"));
}

#[test]
fn caddy_follows_the_link_and_loses_no_request() {
    let environment = environment("check: CHECK, wired: { caddy: WIRED }", "http: [ADMIN]");
    let _servers = Proxy::slot_servers(&environment.path("app"));
    let proxy = Proxy::caddy(&environment.path("app"));
    let admin = format!("http://127.0.0.1:{}", proxy.admin);
    let check =
        format!("{{ url: \"http://127.0.0.1:{}/VERSION\", contains: \"release ${{{{ release }}}}\" }}", proxy.port);
    environment.edit("deploy.yml", "CHECK", &check);
    environment.edit("deploy.yml", "WIRED", &format!("\"{admin}/config/\""));
    environment.edit("deploy.yml", "ADMIN", &format!("\"{admin}\", \"http://127.0.0.1:{}\"", proxy.port));
    let load = switch_under_load(&environment, "Caddy, the link", &proxy);
    if load.is_measured() {
        reloads::measure_caddy(load, &environment.path("app"));
    }
}

#[test]
fn haproxy_is_told_and_loses_no_request() {
    let environment = environment(
        "check: CHECK, haproxy: { socket: admin, map: app/slots.map, key: shop }",
        "sockets: { admin: SOCKET }",
    );
    environment.write("app/slots.map", "# slots\nshop a\nblog a\n");
    let _servers = Proxy::slot_servers(&environment.path("app"));
    let proxy = Proxy::haproxy(&environment.path("app"));
    let check = format!(
        "{{ url: \"http://127.0.0.1:{}/VERSION\", contains: \"release ${{{{ release }}}}\", within: 2s }}",
        proxy.port
    );
    environment.edit("deploy.yml", "CHECK", &check);
    environment.edit("deploy.yml", "SOCKET", &format!("\"unix:{}\"", proxy.path("admin.sock").display()));
    switch_under_load(&environment, "HAProxy, the link and its map", &proxy);
    assert_eq!(environment.read("app/slots.map"), "# slots\nshop a\nblog a\n");
    environment.deploy("c", &[]).assert_exit(1).assert_stderr_contains("switched back to `slots/a`");
    assert!(get(proxy.port).unwrap().contains("release a"));
    assert_eq!(environment.read("app/slots.map"), "# slots\nshop a\nblog a\n");
    // Somebody told HAProxy otherwise: the step is not held, and runs again.
    let again = environment.deploy("a", &[]);
    again.assert_exit(0);
}
