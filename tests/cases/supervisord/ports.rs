//! Programs that listen at ports which something else has.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command},
};

use super::{PAGE, SupervisedSite, names, world};
use crate::support::{NginxServer, doc_blocks::fenced_block, free_ports, wait_until};

/// Has a port. It closes each connection without a word until a file is there; then it answers as a healthy release would.
pub(in crate::cases) const SQUATTER: &str = r#"import os, socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    connection, _ = server.accept()
    if os.path.exists(sys.argv[2]):
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
    connection.close()
"#;

/// A program that has a port, until it is dropped.
struct PortSquatter(Child);

impl PortSquatter {
    fn start(port: u16, folder: &Path, file: &str) -> Self {
        let mut command = Command::new("/usr/bin/python3");
        command.current_dir(folder).args(["-c", SQUATTER, &port.to_string(), file]);
        let squatter = Self(command.spawn().unwrap());
        wait_until("it has the port", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        squatter
    }
}

impl Drop for PortSquatter {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl SupervisedSite {
    /// The plan of the page with programs that listen at ports, which nginx asks.
    fn with_ports(ports: [u16; 2]) -> Self {
        let mut world = Self::of_page(PAGE);
        world.environment.set_variable("DB_PASSWORD", "correct-horse-battery");
        let [a, b] = ports;
        let (root, socket_address) = (world.environment.path("srv").display().to_string(), world.nginx.address());
        world.nginx = NginxServer::with_configuration(|port| {
            let mut lines = fenced_block(PAGE, "upstream shop_a").replace("/srv/shop", &root);
            lines = lines.replace("127.0.0.1:8080", &format!("127.0.0.1:{port}"));
            for (slot, port) in [("a", a), ("b", b)] {
                lines = lines.replace(&format!("unix:{root}/slots/{slot}/sock"), &format!("127.0.0.1:{port}"));
            }
            lines
        });
        for (from, to) in [
            (socket_address.as_str(), world.nginx.address()),
            (socket_address.as_str(), world.nginx.address()),
            ("{slot-dir}/sock", "{port}".to_owned()),
            (
                "      socket: sup",
                format!("      slots: {{ a: {{ port: {a} }}, b: {{ port: {b} }} }}\n      socket: sup"),
            ),
            ("unix://{slot}/health", "http://127.0.0.1:{port}/health".to_owned()),
            (
                "      sockets:\n",
                format!("      http: [\"http://127.0.0.1:{a}\", \"http://127.0.0.1:{b}\"]\n      sockets:\n"),
            ),
        ] {
            world.environment.edit("deploy.yml", from, &to);
        }
        world.pack("r1", "works");
        world
    }
}

#[test]
fn taken_port_is_told() {
    let world = world();
    let [a, b] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [port_a, port_b] = [&a, &b].map(|listener| listener.local_addr().unwrap().port());
    drop(a);
    for (from, to) in [
        ("{slot-dir}/sock", "{port}".to_owned()),
        (
            "      socket: sup",
            format!("      slots: {{ a: {{ port: {port_a} }}, b: {{ port: {port_b} }} }}\n      socket: sup"),
        ),
        ("http: [{ url: \"unix://{slot}/health\" }]", "tcp: [\"127.0.0.1:{port}\"]".to_owned()),
        (
            "      secrets: [DB_PASSWORD]\n      sockets",
            format!(
                "      secrets: [DB_PASSWORD]\n      tcp: [\"127.0.0.1:{port_a}\", \"127.0.0.1:{port_b}\"]\n      sockets"
            ),
        ),
    ] {
        world.environment.edit("deploy.yml", from, &to);
    }
    // nginx of the page asks sockets; here only the start matters.
    let start = |release: &str| world.environment.deploy(release, &["--until", "start"]);
    start("r1").assert_exit(0);
    fs::remove_file(world.environment.path("srv/live")).unwrap_or_default();
    std::os::unix::fs::symlink("slots/a", world.environment.path("srv/live")).unwrap();
    world.pack("r2", "works");
    start("r2")
        .assert_exit(1)
        .assert_stderr_contains("error[P0324]")
        .assert_stderr_contains(&format!("something already listens at 127.0.0.1:{port_b}"));
    assert_eq!(world.running(), names(&["a"]));
    drop(b);
    start("r2").assert_exit(0);
    assert_eq!(world.running(), names(&["a", "b"]));
}

/// Nobody answers beforehand, so the program is started, and finds its port taken: by something that then answers in its place, or by the
/// release that serves.
#[test]
fn port_that_is_taken_silently_leaves_nothing() {
    let ports = free_ports();
    let world = SupervisedSite::with_ports(ports);
    world.deploy("r1").assert_exit(0);
    world.pack("r2", "works");
    let failed = |world: &SupervisedSite| {
        let failed = world.deploy("r2");
        failed.assert_exit(1).assert_stderr_contains("error[P0301]").assert_stderr_contains("it ended: exit status 1");
        failed.assert_stderr_contains("Address already in use");
        assert_eq!((world.answer().as_str(), world.running()), ("r1 cor", names(&["a"])));
        assert!(!world.environment.exists("srv/slots/b/slot.json"));
        world.assert_no_orphans();
    };
    let squatter = PortSquatter::start(ports[1], &world.environment.path("srv"), "slots/b/slot.json");
    failed(&world);
    drop(squatter);
    world.environment.edit("deploy.yml", "serve.py {port}", &format!("serve.py {}", ports[0]));
    failed(&world);
    world.environment.edit("deploy.yml", &format!("serve.py {}", ports[0]), "serve.py {port}");
    world.deploy("r2").assert_exit(0);
    assert_eq!(world.answer(), "r2 cor");
}
