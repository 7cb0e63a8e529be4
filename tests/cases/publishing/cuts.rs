//! Publications that are killed at random offsets: nothing is visible until the last call, and what can be continued is.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
};

use super::{ARCHIVE, dav_server, packed_with_noise, publish};
use crate::support::{
    DockerRegistry, MeteredRelay, MotoServer, NginxServer, TestEnvironment, TestRegistryAuth, aws_variables, sha256,
    wait_until,
};

const CUTS: u64 = 10;

/// Offsets up to `most`, the same each time.
fn offsets(most: u64) -> impl Iterator<Item = u64> {
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    std::iter::repeat_with(move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % most + 1
    })
}

/// Kills a publication after so many bytes. Returns how many were sent.
pub(super) fn publish_cut(environment: &TestEnvironment, relay: &MeteredRelay, arguments: &[&str], offset: u64) -> u64 {
    relay.limit(offset);
    let mut child = environment.start(arguments);
    wait_until("the line is dead", || relay.is_dead() || child.try_wait().unwrap().is_some());
    let _ = child.kill();
    child.wait().unwrap();
    let sent = relay.forwarded();
    relay.unlimit();
    sent
}

/// The status of an answer to GET.
fn status(address: &str, path: &str) -> u16 {
    let mut stream = TcpStream::connect(address).unwrap();
    let head =
        format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: AWS ann:any\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer[9..12]).parse().unwrap()
}

#[test]
fn web_server_shows_nothing_of_a_cut_publication() {
    let (environment, server) = (packed_with_noise(4 << 20), dav_server());
    let relay = MeteredRelay::new(server.address());
    let target = format!("http://{}/open/", relay.address());
    for offset in offsets(4 << 20).take(CUTS as usize) {
        publish_cut(&environment, &relay, &["publish", ARCHIVE, &target], offset);
        assert_eq!(status(&server.address(), "/open/shop-r1.tar.zst.sha256"), 404, "after {offset} bytes");
        assert_eq!(status(&server.address(), "/open/shop-r1.tar.zst"), 404, "after {offset} bytes");
    }
    publish(&environment, &target, &[]).assert_exit(0);
    assert_eq!(status(&server.address(), "/open/shop-r1.tar.zst.sha256"), 200);
}

#[test]
fn bucket_continues_a_cut_publication() {
    let moto = MotoServer::start();
    let mut environment = packed_with_noise(24 << 20);
    let relay = MeteredRelay::new(moto.address());
    aws_variables(&relay.address()).iter().for_each(|(name, value)| environment.set_variable(name, value));
    let part: u64 = 5 << 20;
    let (target, chunk) = ("s3://acme-state/cut/", part.to_string());
    let mut sent = 0;
    for offset in offsets(part * 3 / 2).take(CUTS as usize) {
        if status(&moto.address(), "/acme-state/cut/shop-r1.tar.zst.sha256") != 200 {
            sent += publish_cut(&environment, &relay, &["publish", ARCHIVE, target, "--chunk", &chunk], offset);
        }
    }
    let last = publish(&environment, target, &["--chunk", &chunk]).assert_exit(0).json();
    sent += relay.forwarded();
    let content = fs::read(environment.path(ARCHIVE)).unwrap();
    assert!(last["resumed-bytes"].as_u64().unwrap() > 0 || last["was-published"] == true, "{last}");
    assert!(sent < content.len() as u64 + CUTS * part, "{sent} bytes for {}", content.len());
    let digest = sha256(&content);
    assert_eq!(moto.get("cut/shop-r1.tar.zst.sha256"), format!("{digest}  shop-r1.tar.zst\n"));
    assert_eq!(moto.digest("cut/shop-r1.tar.zst"), digest);
}

/// Cuts publications to a registry, which is reached by `address`. Returns the bytes that were sent, those of the archive, and those that
/// the last call did not send again.
fn cut_to_registry(address: String, registry: &DockerRegistry, cuts: u64) -> (u64, u64, u64) {
    let environment = packed_with_noise(8 << 20);
    let relay = MeteredRelay::new(address);
    let target = format!("oci://{}/shop:r1", relay.address());
    let mut sent = 0;
    for offset in offsets(1_300_000).take(cuts as usize) {
        sent += publish_cut(&environment, &relay, &["publish", ARCHIVE, &target, "--chunk", "1000000"], offset);
        assert_eq!(status(&registry.authority(), "/v2/shop/manifests/r1"), 404, "after {offset} bytes");
        assert!(!registry.blob_path(&fs::read(environment.path(ARCHIVE)).unwrap()).exists());
    }
    let last = publish(&environment, &target, &["--chunk", "1000000"]).assert_exit(0).json();
    sent += relay.forwarded();
    let content = fs::read(environment.path(ARCHIVE)).unwrap();
    assert!(fs::read(registry.blob_path(&content)).unwrap() == content);
    (sent, content.len() as u64, last["resumed-bytes"].as_u64().unwrap())
}

/// A proxy that passes on whole requests, as nginx does unless it is told otherwise: the registry never sees half a chunk.
fn proxy_of(registry: &DockerRegistry) -> NginxServer {
    NginxServer::with_configuration(|port| {
        format!(
            "server {{
                 listen 127.0.0.1:{port}; client_max_body_size 0;
                 location / {{
                     proxy_pass http://{}; proxy_set_header Host $http_host; proxy_ignore_client_abort on;
                 }}
             }}",
            registry.authority()
        )
    })
}

#[test]
fn registry_behind_nginx_continues_a_cut_publication() {
    let registry = DockerRegistry::start(TestRegistryAuth::Anonymous);
    let nginx = proxy_of(&registry);
    let (sent, size, resumed) = cut_to_registry(nginx.address(), &registry, CUTS);
    assert!(resumed > 0, "of {size} bytes, {sent} were sent");
    assert!(sent < size + CUTS * 1_000_000, "{sent} bytes for {size}");
}

/// Debian's registry gives an upload up that was cut inside a chunk: it begins again, and ends all the same.
#[test]
fn registry_that_gives_up_an_upload_gets_it_again() {
    let registry = DockerRegistry::start(TestRegistryAuth::Anonymous);
    cut_to_registry(registry.authority(), &registry, 3);
}

/// The line dies in the middle and comes back: the same call ends well, and sends little again.
#[test]
fn line_that_comes_back_is_used() {
    let (registry, moto) = (DockerRegistry::start(TestRegistryAuth::Anonymous), MotoServer::start());
    let nginx = proxy_of(&registry);
    let mut environment = packed_with_noise(8 << 20);
    for (upstream, chunk) in [(nginx.address(), 1_000_000), (moto.address(), 5 << 20)] {
        let relay = MeteredRelay::new(upstream.clone());
        aws_variables(&relay.address()).iter().for_each(|(name, value)| environment.set_variable(name, value));
        let target = match upstream == moto.address() {
            true => "s3://acme-state/back/".to_owned(),
            false => format!("oci://{}/shop:r1", relay.address()),
        };
        relay.limit(6_500_000);
        let child = environment.start(&["publish", ARCHIVE, &target, "--chunk", &chunk.to_string()]);
        wait_until("the line is dead", || relay.is_dead());
        relay.unlimit();
        assert_eq!(environment.wait(child), Some(0), "{target}");
        let size = fs::metadata(environment.path(ARCHIVE)).unwrap().len();
        assert!(relay.forwarded() < size - 6_500_000 + 2 * chunk, "{} bytes to {target}", relay.forwarded());
    }
}
