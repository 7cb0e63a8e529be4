//! Releases on their way to hosts: what is sent of a changed archive. The bytes are counted between ssh and sshd.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::support::{SshHost, TestEnvironment, wait_until, write_ssh_config};

/// Forwards connections to a host, counts what is sent there, and cuts each that goes beyond a limit once.
struct CountingRelay {
    address: SocketAddr,
    sent: Arc<AtomicU64>,
    limit: Arc<AtomicU64>,
}

impl CountingRelay {
    fn new(upstream: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sent, limit) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(u64::MAX)));
        let (counted, at) = (Arc::clone(&sent), Arc::clone(&limit));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(&upstream) else { continue };
                for (from, to, is_counted) in [(&client, &server, true), (&server, &client, false)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let (counted, at) = (Arc::clone(&counted), Arc::clone(&at));
                    std::thread::spawn(move || {
                        let mut buffer = [0; 16 * 1024];
                        while let Ok(some @ 1..) = from.read(&mut buffer) {
                            let some = &buffer[..some];
                            let all = match is_counted {
                                true => counted.fetch_add(some.len() as u64, Ordering::SeqCst) + some.len() as u64,
                                false => 0,
                            };
                            if all > at.load(Ordering::SeqCst) {
                                at.store(u64::MAX, Ordering::SeqCst);
                                break;
                            }
                            if to.write_all(some).is_err() {
                                break;
                            }
                        }
                        let _ = (to.shutdown(Shutdown::Both), from.shutdown(Shutdown::Both));
                    });
                }
            }
        });
        Self { address, sent, limit }
    }

    /// What was sent since it was asked last, in bytes.
    fn take_sent(&self) -> u64 {
        self.sent.swap(0, Ordering::SeqCst)
    }
}

/// A plan that pulls an archive of a kind to a host behind a relay.
fn fleet(host: &SshHost, extension: &str) -> (TestEnvironment, CountingRelay) {
    let port = host.address().rsplit_once(':').unwrap().1.to_owned();
    let relay = CountingRelay::new(format!("127.0.0.1:{port}"));
    let environment = TestEnvironment::with_plan(&format!(
        r#"version: 1
app: shop
dirs: {{ app: "{}", dist: "./dist:ro" }}
environments: {{ test: {{ ssh: {{ config: ./ssh_config }}, hosts: {{ web: [{{ at: relayed, name: web-1 }}] }} }} }}
steps:
  pull: {{ on: web, with: {{ from: "file:dist/shop-${{{{ release }}}}.{extension}", into: app }}, grants: {{ dirs: [app, dist] }} }}
  switch: {{ on: web, with: {{ link: current }}, grants: {{ dirs: [app] }} }}
"#,
        host.path("srv").display()
    ));
    fs::create_dir(host.path("srv")).unwrap();
    write_ssh_config(&environment.path(""), &[host]);
    let folder = environment.path("").display().to_string();
    let relayed = format!(
        "Host relayed\n  HostName 127.0.0.1\n  Port {}\n  HostKeyAlias [127.0.0.1]:{port}\n  IdentityFile {folder}/user-key-{port}\n",
        relay.address.port()
    );
    environment.write("ssh_config", format!("{}{relayed}", environment.read("ssh_config")));
    (environment, relay)
}

type Files = BTreeMap<String, Vec<u8>>;

/// Bytes that don't repeat, the same for the same seed.
fn noise(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

/// Text of a few thousand words, which compresses as sources do.
fn text(seed: u64, bytes: usize) -> Vec<u8> {
    let mut next = noise(seed + 1);
    let mut text = String::new();
    while text.len() < bytes {
        let word = next();
        // Few words are frequent.
        let rank = (word % 4096) * (word / 4096 % 4096) / 4096;
        text.push_str(&format!(
            "{:x}{}",
            rank * 2_654_435_761 % 1_048_573,
            if word.is_multiple_of(11) { "\n" } else { " " }
        ));
    }
    text.truncate(bytes);
    text.into_bytes()
}

/// Packs files, changed at this time, as the archive of a release.
fn pack(environment: &TestEnvironment, name: &str, files: &Files, modified: u64) -> u64 {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        header.set_mtime(modified);
        builder.append_data(&mut header, path, content.as_slice()).unwrap();
    }
    let tar = builder.into_inner().unwrap();
    let archive = match name.rsplit_once('.').unwrap().1 {
        "zst" => zstd::encode_all(tar.as_slice(), 3).unwrap(),
        "gz" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(&tar).unwrap();
            encoder.finish().unwrap()
        }
        _ => tar,
    };
    environment.write(&format!("dist/{name}"), &archive);
    archive.len() as u64
}

fn assert_deployed(host: &SshHost, files: &Files) {
    for (path, content) in files {
        assert!(fs::read(host.path("srv/current").join(path)).unwrap() == *content, "{path}");
    }
}

/// The digest that the release says it has is that of the archive, which never was on the host.
fn assert_digest(environment: &TestEnvironment, host: &SshHost, name: &str) {
    let archive = fs::read(environment.path("dist").join(name)).unwrap();
    let stated = host.read("srv/current/.pawl-digest");
    assert!(stated.starts_with(&format!("sha256:{}", crate::support::sha256(&archive))), "{stated}");
    let stored =
        |path: &Path| fs::read_dir(path).unwrap().any(|entry| fs::read(entry.unwrap().path()).unwrap() == archive);
    assert!(!stored(&host.path("cache/pawl/shipped/files")));
}

/// About 2 % of the files change, and all have new times: at most 5 % of the archive's bytes are sent, ssh's own included.
#[test]
fn a_changed_release_is_sent_as_its_changes() {
    for extension in ["tar.zst", "tar.gz"] {
        let host = SshHost::new();
        let (environment, relay) = fleet(&host, extension);
        let name = |label: &str| format!("shop-{label}.{extension}");
        let mut files: Files = (0..1_000).map(|n| (format!("src/{}/file-{n}.txt", n % 37), text(n, 17_000))).collect();
        files.insert("bundle.txt".to_owned(), text(5_000, 2_000_000));
        let size = pack(&environment, &name("r1"), &files, 1_700_000_000);
        environment.deploy("r1", &[]).assert_exit(0);
        assert!(relay.take_sent() > size, "the first time, all of it");
        for n in (0..1_000).step_by(50) {
            files.insert(format!("src/{}/file-{n}.txt", n % 37), text(n + 10_000, 17_000));
        }
        files.get_mut("bundle.txt").unwrap().splice(1_000_000..1_000_000, *b"a few words more");
        let size = pack(&environment, &name("r2"), &files, 1_700_005_000);
        let deployed = environment.run(&["--local", "--release", "r2"]);
        deployed.assert_exit(0);
        let sent = relay.take_sent();
        assert!(sent * 100 <= size * 5, "{extension}: {sent} of {size}");
        deployed.assert_stderr_contains(&format!(" MB for {} (", name("r2")));
        deployed.assert_stderr_contains("the host had the rest");
        assert_deployed(&host, &files);
        assert_digest(&environment, &host, &name("r2"));
        // What the host has was changed there since it was read: it is sent.
        for release in fs::read_dir(host.path("srv/releases")).unwrap() {
            let path = release.unwrap().path().join("src/1/file-1.txt");
            fs::write(path, text(1, 16_999)).unwrap();
        }
        pack(&environment, &name("r3"), &files, 1_700_009_000);
        let deployed = environment.run(&["--local", "--release", "r3"]);
        deployed.assert_exit(0);
        deployed.assert_stderr_contains("the host had the rest");
        assert_deployed(&host, &files);
    }
}

/// Half of the content is new when the connection is cut in the middle: the runner connects again and sends the rest.
#[test]
fn a_cut_connection_does_not_begin_anew() {
    const MEGABYTE: u64 = 1_000_000;
    let host = SshHost::new();
    let (environment, relay) = fleet(&host, "tar");
    let file = |seed: u64| {
        let mut next = noise(seed + 77);
        (0..MEGABYTE / 8).flat_map(|_| next().to_le_bytes()).collect::<Vec<u8>>()
    };
    let mut files: Files = (0..24).map(|n| (format!("file-{n}"), file(n))).collect();
    pack(&environment, "shop-r1.tar", &files, 1);
    environment.deploy("r1", &[]).assert_exit(0);
    files.extend((0..12).map(|n| (format!("file-{n}"), file(100 + n))));
    pack(&environment, "shop-r2.tar", &files, 2);
    relay.take_sent();
    relay.limit.store(6 * MEGABYTE, Ordering::SeqCst);
    environment.deploy("r2", &[]).assert_exit(0);
    assert_eq!(relay.limit.load(Ordering::SeqCst), u64::MAX, "it was cut");
    let sent = relay.take_sent();
    assert!((12 * MEGABYTE..15 * MEGABYTE).contains(&sent), "{sent}");
    assert_deployed(&host, &files);
}

/// Most of it is new, or it is a zip: it is sent as it is.
#[test]
fn what_is_new_is_sent_as_it_is() {
    let host = SshHost::new();
    let (environment, relay) = fleet(&host, "tar.zst");
    let release = |from: u64| (0..100).map(|n| (format!("file-{n}.txt"), text(from + n, 40_000))).collect::<Files>();
    pack(&environment, "shop-r1.tar.zst", &release(0), 1);
    environment.deploy("r1", &[]).assert_exit(0);
    let files = release(70);
    let size = pack(&environment, "shop-r2.tar.zst", &files, 2);
    relay.take_sent();
    let deployed = environment.run(&["--local", "--release", "r2"]);
    deployed.assert_exit(0);
    assert!(relay.take_sent() > size, "as it is");
    assert!(!deployed.stderr.contains("the host had the rest"), "{}", deployed.stderr);
    assert_deployed(&host, &files);
}

/// The list of a directory's files is longer than a message may be.
#[test]
fn a_directory_of_many_files_is_sent() {
    let host = SshHost::new();
    let (environment, _) = fleet(&host, "tar");
    environment.write(
        "deploy.yml",
        r#"version: 1
app: shop
environments: { test: { ssh: { config: ./ssh_config }, hosts: { web: [{ at: relayed, name: web-1 }] } } }
steps:
  count:
    on: web
    program: [/bin/sh, -c, "test $(find . -type f | wc -l) = 36000"]
    trust: host
    with: { dir: many, inputs: [many] }
    grants: { dirs: { many: "./many:ro" } }
"#,
    );
    fs::create_dir(environment.path("many")).unwrap();
    for n in 0..36_000 {
        fs::write(environment.path("many").join(format!("{n:0200}")), "").unwrap();
    }
    environment.deploy("r1", &[]).assert_exit(0);
}

/// What is in a folder of the host's cache.
fn stored(host: &SshHost, folder: &str) -> Vec<PathBuf> {
    let folder = host.path("cache/pawl/shipped").join(folder);
    fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
}

/// Makes all that is kept of releases 31 days older.
fn age_all(host: &SshHost) {
    wait_until("the agents have ended", || host.agents().is_empty());
    for path in ["files", "dirs", "seeds"].iter().flat_map(|folder| stored(host, folder)) {
        let used = path.metadata().unwrap().modified().unwrap() - Duration::from_secs(31 * 24 * 60 * 60);
        fs::File::open(path).unwrap().set_modified(used).unwrap();
    }
}

/// The tar that was made of a release's changes stays while the release is deployed, and goes a month later.
#[test]
fn tars_that_nobody_used_for_a_month_are_removed() {
    let host = SshHost::new();
    let (environment, _) = fleet(&host, "tar.zst");
    let mut files: Files = (0..200).map(|n| (format!("file-{n}.txt"), text(n, 40_000))).collect();
    for label in ["r1", "r2"] {
        pack(&environment, &format!("shop-{label}.tar.zst"), &files, 1);
        files.insert("file-1.txt".to_owned(), text(1_000, 40_000));
        environment.deploy(label, &[]).assert_exit(0);
    }
    // The archive of the first one, the tar of the second, and which archive that is.
    assert_eq!(stored(&host, "files").len(), 3, "{:?}", stored(&host, "files"));
    age_all(&host);
    environment.deploy("r2", &[]).assert_exit(0);
    wait_until("the agents have ended", || host.agents().is_empty());
    let second = [stored(&host, "dirs"), stored(&host, "files")];
    assert_eq!(second.each_ref().map(Vec::len), [1, 1], "{second:?}");
    assert!(stored(&host, "seeds").is_empty());
    age_all(&host);
    pack(&environment, "shop-r3.tar.zst", &files, 3);
    let deployed = environment.run(&["--local", "--release", "r3"]);
    deployed.assert_exit(0);
    deployed.assert_stderr_contains("the host had the rest");
    wait_until("the agents have ended", || host.agents().is_empty());
    assert!(!second.iter().flatten().any(|path| path.exists()), "{second:?}");
    assert_eq!((stored(&host, "files").len(), stored(&host, "seeds").len()), (2, 1));
    assert_deployed(&host, &files);
}
