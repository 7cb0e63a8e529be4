//! docker-rollout's way, for the comparison in `cargo xtask bench switches`: a second container beside the first, and when it is healthy, the
//! first one is removed. The server in front learns of both changes by a reload, as nginx-proxy does.

use std::fs;

use super::world::{ContainerSite, answer_at};
use crate::{
    cases::switch_traffic::{
        Proxy,
        measured::{SwitchLoad, SwitchWay},
    },
    support::{free_ports, wait_until},
};

/// Measures it with the application of this world's containers.
pub(super) fn measure(load: SwitchLoad, world: &ContainerSite) {
    let podman = &world.podman;
    let ports: [u16; 2] = free_ports();
    for release in ["r1", "r2"] {
        podman.build(&format!("rollout-{release}"), &format!("ENV RELEASE={release} BEHAVIOR=slow"));
    }
    let address = |release: &str| format!("127.0.0.1:{}", ports[usize::from(release == "r2")]);
    let start = |release: &str| {
        let published = format!("{}:8080", address(release));
        let (name, image) = (format!("rollout-{release}"), format!("rollout-{release}"));
        podman.run(&["run", "--detach", "--name", &name, "--publish", &published, &image]);
        wait_until("the container is healthy", || answer_at_if_any(&address(release)).is_some());
    };
    let mut proxy = Proxy::new();
    let upstream = proxy.path("upstream.conf");
    let name_releases = |releases: &[&str]| {
        let servers: String = releases.iter().map(|release| format!("server {};\n", address(release))).collect();
        fs::write(&upstream, servers + "keepalive 16;\n").unwrap();
    };
    start("r1");
    name_releases(&["r1"]);
    let lines = format!(
        "upstream shop {{ include {}; }}
         server {{
             listen {};
             location / {{ proxy_pass http://shop; proxy_http_version 1.1; proxy_set_header Connection \"\"; }}
         }}",
        upstream.display(),
        proxy.address()
    );
    proxy.start_nginx(&lines);
    let (front, name) = (proxy.address(), "container behind nginx, docker-rollout's way");
    let way = SwitchWay { name, address: &front, answers: ["r1", "r2"] };
    load.run(&way, |release| {
        let old = if release == "r1" { "r2" } else { "r1" };
        start(release);
        name_releases(&[old, release]);
        proxy.reload_nginx();
        podman.run(&["rm", "--force", "--time", "10", &format!("rollout-{old}")]);
        name_releases(&[release]);
        proxy.reload_nginx();
        wait_until("only the new container answers", || answer_at(&front).trim() == release);
    });
}

/// What a container answers that may not listen yet.
fn answer_at_if_any(address: &str) -> Option<String> {
    use std::io::{Read as _, Write as _};
    let mut connection = std::net::TcpStream::connect(address).ok()?;
    connection.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).ok()?;
    answer.starts_with("HTTP/1.1 200").then_some(answer)
}
