//! `switch` in front of real proxies that look where the link leads at each request: nginx, Caddy, HAProxy.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use tempfile::TempDir;

use crate::support::{TestEnvironment, wait_until};

/// A proxy, until it is dropped.
struct Proxy {
    folder: TempDir,
    port: u16,
    admin: u16,
    child: Option<Child>,
}

impl Proxy {
    fn new() -> Self {
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [port, admin] = listeners.map(|listener| listener.local_addr().unwrap().port());
        Self { folder: tempfile::tempdir().unwrap(), port, admin, child: None }
    }

    fn path(&self, name: &str) -> PathBuf {
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

    /// nginx, which asks for each request whether the link leads to b.
    fn nginx(app: &Path) -> Self {
        let mut proxy = Self::new();
        let (root, port, app) = (proxy.folder.path().display().to_string(), proxy.port, app.display());
        let configuration = format!(
            "daemon off; master_process off; pid {root}/pid; error_log {root}/error.log;
             events {{ worker_connections 64; }}
             http {{
                 access_log off; client_body_temp_path {root}/t1; proxy_temp_path {root}/t2;
                 fastcgi_temp_path {root}/t3; uwsgi_temp_path {root}/t4; scgi_temp_path {root}/t5;
                 server {{
                     listen 127.0.0.1:{port};
                     location / {{
                         set $slot a;
                         if (-f {app}/live/is-b) {{ set $slot b; }}
                         root {app}/slots/$slot;
                     }}
                 }}
             }}"
        );
        fs::write(proxy.path("nginx.conf"), configuration).unwrap();
        let conf = proxy.path("nginx.conf").display().to_string();
        proxy.start("nginx", &["-c", &conf, "-p", &root, "-e", &format!("{root}/error.log")]);
        proxy
    }

    fn caddy(app: &Path) -> Self {
        let mut proxy = Self::new();
        let (port, admin, app) = (proxy.port, proxy.admin, app.display());
        let configuration = format!(
            "{{\n admin 127.0.0.1:{admin}\n auto_https off\n}}\nhttp://:{port} {{\n bind 127.0.0.1\n @b file {{\n  root {app}/live\n  \
             try_files /is-b\n }}\n handle @b {{\n  respond \"release b\"\n }}\n handle {{\n  respond \"release a\"\n }}\n}}\n"
        );
        fs::write(proxy.path("Caddyfile"), configuration).unwrap();
        let conf = proxy.path("Caddyfile").display().to_string();
        proxy.start("caddy", &["run", "--config", &conf, "--adapter", "caddyfile"]);
        proxy
    }

    fn haproxy(map: &Path) -> Self {
        let mut proxy = Self::new();
        let (port, socket, map) = (proxy.port, proxy.path("admin.sock"), map.display());
        let backend = |slot: &str| {
            format!(
                "backend shop_{slot}\n  http-request return status 200 content-type text/plain string \"release {slot}\"\n"
            )
        };
        let configuration = format!(
            "global\n  stats socket {} mode 600 level admin\ndefaults\n  mode http\n  timeout client 10s\n  timeout server 10s\n  \
             timeout connect 1s\nfrontend shop\n  bind 127.0.0.1:{port}\n  use_backend shop_%[str(shop),map({map},a)]\n{}{}",
            socket.display(),
            backend("a"),
            backend("b")
        );
        fs::write(proxy.path("haproxy.cfg"), configuration).unwrap();
        let conf = proxy.path("haproxy.cfg").display().to_string();
        proxy.start("haproxy", &["-db", "-f", &conf]);
        proxy
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn program_path(program: &str) -> PathBuf {
    let places = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"];
    let found = places.iter().map(|place| Path::new(place).join(program)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{program} is missing: `cargo xtask setup` installs it"))
}

/// Releases `a`, `b` and `c`, each in a slot of its name, and a plan that switches between them.
fn environment(with: &str, grants: &str) -> TestEnvironment {
    let plan = format!(
        "version: 1\napp: shop\nsteps:\n  switch:\n    trust: host\n    with: {{ link: live, to: \"slots/${{{{ release }}}}\", {with} }}\n    \
         grants: {{ dirs: {{ app: ./app }}, {grants} }}\n"
    );
    let environment = TestEnvironment::with_plan(&plan);
    for slot in ["a", "b", "c"] {
        environment.write(&format!("app/slots/{slot}/VERSION"), format!("release {slot}"));
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

/// Asks again and again while something is done; returns how many requests were answered, and how many were not.
fn under_load(port: u16, work: impl FnOnce()) -> (usize, usize) {
    let is_done = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let is_done = Arc::clone(&is_done);
            thread::spawn(move || {
                let mut counts = (0, 0);
                while !is_done.load(Ordering::Relaxed) {
                    match get(port) {
                        Some(answer) if answer.contains("release ") => counts.0 += 1,
                        Some(_) | None => counts.1 += 1,
                    }
                }
                counts
            })
        })
        .collect();
    work();
    is_done.store(true, Ordering::Relaxed);
    let counts: Vec<(usize, usize)> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    (counts.iter().map(|(good, _)| good).sum(), counts.iter().map(|(_, bad)| bad).sum())
}

/// Switches back and forth under load: each switch is answered by its release, and no request is lost.
#[track_caller]
fn switch_under_load(environment: &TestEnvironment, port: u16) {
    environment.deploy("a", &[]).assert_exit(0);
    let (good, bad) = under_load(port, || {
        for release in ["b", "a", "b", "a", "b", "a"] {
            environment.deploy(release, &[]).assert_exit(0);
            assert!(get(port).unwrap().contains(&format!("release {release}")), "{release}");
        }
    });
    assert!(good > 0 && bad == 0, "{good} answered, {bad} lost");
}

#[test]
fn nginx_follows_the_link_and_loses_no_request() {
    let app = TempDir::new().unwrap();
    let proxy = Proxy::nginx(app.path());
    let conf = proxy.path("nginx.conf").display().to_string();
    let nginx = program_path("nginx").display().to_string();
    let with = format!(
        "check: {{ url: \"http://127.0.0.1:{}/VERSION\", contains: \"release ${{{{ release }}}}\", within: 2s }}, wired: {{ nginx: [{nginx}, -T, -c, {conf}] }}",
        proxy.port
    );
    let environment = environment(&with, &format!("programs: [[{nginx}, -T, -c, {conf}]]"));
    fs::remove_dir(app.path()).unwrap();
    std::os::unix::fs::symlink(environment.path("app"), app.path()).unwrap();
    // The configuration names the link by another path than the plan, so it is not wired.
    environment.deploy("a", &[]).assert_exit(1).assert_stderr_contains("the configuration of nginx does not name");
    environment.edit("deploy.yml", "./app", &app.path().display().to_string());
    switch_under_load(&environment, proxy.port);
    // The proxy knows no slot c, so traffic does not arrive there.
    environment
        .deploy("c", &[])
        .assert_exit(1)
        .assert_stderr_contains("did not answer as the release within")
        .assert_stderr_contains("switched back to `slots/a`");
    assert!(get(proxy.port).unwrap().contains("release a"));
    fs::remove_file(app.path()).unwrap();
    fs::create_dir(app.path()).unwrap();
}

#[test]
fn caddy_follows_the_link_and_loses_no_request() {
    let environment = environment("check: CHECK, wired: { caddy: WIRED }", "http: [ADMIN]");
    let proxy = Proxy::caddy(&environment.path("app"));
    let admin = format!("http://127.0.0.1:{}", proxy.admin);
    let check = format!("{{ url: \"http://127.0.0.1:{}/\", contains: \"release ${{{{ release }}}}\" }}", proxy.port);
    environment.edit("deploy.yml", "CHECK", &check);
    environment.edit("deploy.yml", "WIRED", &format!("\"{admin}/config/\""));
    environment.edit("deploy.yml", "ADMIN", &format!("\"{admin}\", \"http://127.0.0.1:{}\"", proxy.port));
    switch_under_load(&environment, proxy.port);
}

#[test]
fn haproxy_is_told_and_loses_no_request() {
    let environment = environment(
        "check: CHECK, haproxy: { socket: admin, map: app/slots.map, key: shop }",
        "sockets: { admin: SOCKET }",
    );
    environment.write("app/slots.map", "# slots\nshop a\nblog a\n");
    let proxy = Proxy::haproxy(&environment.path("app/slots.map"));
    let check = format!(
        "{{ url: \"http://127.0.0.1:{}/\", contains: \"release ${{{{ release }}}}\", within: 2s }}",
        proxy.port
    );
    environment.edit("deploy.yml", "CHECK", &check);
    environment.edit("deploy.yml", "SOCKET", &format!("\"unix:{}\"", proxy.path("admin.sock").display()));
    switch_under_load(&environment, proxy.port);
    assert_eq!(environment.read("app/slots.map"), "# slots\nshop a\nblog a\n");
    environment.deploy("c", &[]).assert_exit(1).assert_stderr_contains("switched back to `slots/a`");
    assert!(get(proxy.port).unwrap().contains("release a"));
    assert_eq!(environment.read("app/slots.map"), "# slots\nshop a\nblog a\n");
    // Somebody told HAProxy otherwise: the step is not held, and runs again.
    let again = environment.deploy("a", &[]);
    again.assert_exit(0);
}
