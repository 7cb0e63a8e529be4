//! What a web server, a registry, a network or a disk can do to a pull: a failure that says so and leaves nothing, or a download that goes on.

use std::{
    fs,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::oci_pulls::{ARTIFACT, assert_fails, digest_of, environment, http_grant, plan};
use crate::support::{
    DockerRegistry, FaultyProxy, NginxServer, ProxyFault, TestArchiveFormat, TestEnvironment, TestRegistryAuth,
    crafted, release_folder, sha256, wait_until,
};

/// Archives over https, or artifacts in a registry, behind an nginx that refuses with the status whose name is in a folder.
struct PullSource {
    nginx: NginxServer,
    registry: Option<DockerRegistry>,
    refusals: TempDir,
}

impl PullSource {
    /// Both, with these lines in nginx's `server`.
    fn both(lines: &str) -> [Self; 2] {
        [false, true].map(|is_registry| {
            let refusals = tempfile::tempdir().unwrap();
            let registry = is_registry.then(|| DockerRegistry::start(TestRegistryAuth::Anonymous));
            let pass = registry.as_ref().map_or_else(String::new, |registry| {
                format!("proxy_pass http://{}; proxy_set_header Host $http_host;", registry.authority())
            });
            let refuse = [401, 404, 429]
                .map(|status| format!("if (-f {}/{status}) {{ return {status}; }}", refusals.path().display()));
            let lines = format!(
                "{lines} error_page 429 @busy; location / {{ {} {pass} }}
                 location @busy {{ add_header Retry-After 3600 always; return 429; }}",
                refuse.concat()
            );
            let nginx = if is_registry {
                NginxServer::with_configuration(|port| format!("server {{ listen 127.0.0.1:{port}; {lines} }}"))
            } else {
                NginxServer::with_tls(&lines)
            };
            Self { nginx, registry, refusals }
        })
    }

    /// Takes an archive; returns its digest there.
    fn publish(&self, archive: &[u8]) -> String {
        match &self.registry {
            Some(registry) => digest_of(&registry.push("shop", &[(ARTIFACT, archive)])).to_owned(),
            None => {
                fs::write(self.content_path(archive), archive).unwrap();
                sha256(archive)
            }
        }
    }

    /// Where it keeps an archive.
    fn content_path(&self, archive: &[u8]) -> PathBuf {
        match &self.registry {
            Some(registry) => registry.blob_path(archive),
            None => self.nginx.path(&format!("www/{}", sha256(archive))),
        }
    }

    /// A plan that pulls an archive that was published, at an address that leads here, with these settings more.
    fn plan(&self, archive: &[u8], digest: &str, at: &str, more: &str) -> String {
        let (from, origin) = match &self.registry {
            Some(_) => (format!("oci://{at}/shop@sha256:{digest}"), format!("http://{at}")),
            None => (format!("https://{at}/{}", sha256(archive)), format!("https://{at}")),
        };
        plan(&format!("from: \"{from}\", digest: \"sha256:{digest}\"{more}"), &format!("http: [\"{origin}\"]"), "1m")
    }

    fn environment(&self, plan: &str) -> TestEnvironment {
        let mut environment = TestEnvironment::with_plan(plan);
        if self.registry.is_none() {
            environment.set_variable("SSL_CERT_FILE", &self.nginx.path("certificate.pem").display().to_string());
        }
        environment
    }
}

/// The folder that is pulled into, with all below.
fn pulled(environment: &TestEnvironment) -> Vec<(PathBuf, Vec<u8>)> {
    environment.tree().into_iter().filter(|(path, _)| path.starts_with("deploy")).collect()
}

/// A release that does not pack well, so that its way takes some time.
fn noisy_release(label: &str) -> Vec<u8> {
    let environment = TestEnvironment::new();
    let noise: String = (0..20_000_u32).map(|number| sha256(&number.to_le_bytes())).collect();
    environment.write("app/noise", noise);
    environment.archive(label, TestArchiveFormat::TarZst)
}

#[test]
fn failed_pull_touches_nothing_and_the_next_one_succeeds() {
    for mut source in PullSource::both("") {
        let [first, second] = ["r1", "r2"].map(noisy_release);
        let digests = [&first, &second].map(|archive| source.publish(archive));
        let address = source.nginx.address();
        let plan = |archive: &[u8], digest: &str| {
            let switch =
                "  switch:\n    uses: switch\n    with: { link: current }\n    grants: { dirs: { app: ./deploy } }\n";
            source.plan(archive, digest, &address, ", version-file: VERSION") + switch
        };
        let environment = source.environment(&plan(&first, &digests[0]));
        environment.deploy("r1", &[]).assert_exit(0);
        let live = pulled(&environment);
        environment.write("deploy.yml", plan(&second, &digests[1]));
        let assert_fails = |release: &str, told: &str| {
            let failed = environment.run(&["--local", "--release", release]);
            failed.assert_exit(1).assert_stderr_contains("error[P0301]").assert_stderr_contains(told);
            assert!(pulled(&environment) == live, "{told}: {:?}", environment.list("deploy/releases"));
        };

        let is_registry = source.registry.is_some();
        let missing = if is_registry { "has no `sha256:[HASH]` in shop" } else { "answered with status 404" };
        let anonymous = if is_registry { "requires authentication" } else { "answered with status 401" };
        for (status, told) in [("401", anonymous), ("404", missing), ("429", "429 Too Many Requests and asks to wait")]
        {
            fs::write(source.refusals.path().join(status), "").unwrap();
            assert_fails("r2", told);
            fs::remove_file(source.refusals.path().join(status)).unwrap();
        }
        let tampered = second.iter().enumerate().map(|(index, byte)| byte ^ u8::from(index == 1000));
        fs::write(source.content_path(&second), tampered.collect::<Vec<_>>()).unwrap();
        assert_fails("r2", "the archive has the digest sha256:[HASH], not sha256:[HASH]");
        fs::write(source.content_path(&second), &second).unwrap();
        assert_fails("r3", "the file `VERSION` of the release says `r2`, not `r3`");
        source.nginx.stop();
        assert_fails("r2", "refused the connection");
        source.nginx.start_again();

        environment.deploy("r2", &[]).assert_exit(0);
        assert_eq!(environment.read("deploy/current/VERSION").trim(), "r2");
    }
}

#[test]
fn download_goes_on_when_its_server_is_restarted() {
    for mut source in PullSource::both("limit_rate 300k;") {
        let archive = noisy_release("r1");
        let digest = source.publish(&archive);
        let environment = source.environment(&source.plan(&archive, &digest, &source.nginx.address(), ""));
        let mut command = environment.command(&["--local", "--release", "r1", "--json"]);
        let running = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        wait_until("a part of the release is there", || {
            let partial = environment.list("deploy/releases").into_iter().find(|name| name.starts_with(".tmp-"));
            let file = partial.map(|folder| environment.path(format!("deploy/releases/{folder}/noise")));
            file.and_then(|path| fs::metadata(path).ok()).is_some_and(|status| status.len() > 0)
        });
        source.nginx.stop();
        source.nginx.start_again();
        let output = running.wait_with_output().unwrap();
        let log = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && log.contains("was interrupted and resumes"), "{log}");
        assert_eq!(environment.list("deploy/releases"), [release_folder("r1", &digest)]);
        let is_rest = |line: &String| format!(" {line}").contains(" 206 ");
        wait_until("only the rest is sent", || source.nginx.access_log().iter().any(is_rest));
    }
}

#[test]
fn missing_registries_artifacts_and_credentials_are_told_apart() {
    let archive = TestEnvironment::new().archive("r1", TestArchiveFormat::TarZst);
    let registry = DockerRegistry::start(TestRegistryAuth::Basic);
    registry.push("shop", &[(ARTIFACT, &archive)]);
    let authority = registry.authority();
    let with = |tag: &str| format!("from: \"oci://{authority}/shop:{tag}\"");
    let granted = |pair: &str| {
        format!("http: [{{ origin: \"http://{authority}\", headers: {{ authorization: \"Basic {pair}\" }} }}]")
    };
    let anonymous = environment(&with("v1"), &http_grant(&authority));
    assert_fails(&anonymous, 2, &["requires authentication", "authorization: \"Basic USER:${{ secrets.NAME }}\""]);
    assert_fails(&environment(&with("none"), &granted("ann:secret")), 2, &["has no `none` in shop"]);
    let stated = format!("{}, digest: \"sha256:{}\"", with("v1"), "0a".repeat(32));
    assert_fails(&environment(&stated, &granted("ann:secret")), 1, &["has no `sha256:[HASH]` in shop"]);
    let refused = environment(&with("v1"), "http: []");
    assert_fails(&refused, 2, &["needs the HTTP origin http://", "but the plan does not grant it"]);
    let invalid = environment("from: \"oci://shop\"", &http_grant(&authority));
    assert_fails(&invalid, 2, &["`oci://shop` is not an artifact: it has no repository"]);

    let environment = environment(&with("v1"), &granted("ann:secret"));
    drop(registry);
    assert_fails(&environment, 2, &["can't determine the digest of release r1", "refused the connection"]);
}

#[test]
fn registry_that_asks_to_wait_is_asked_again() {
    let archive = noisy_release("r1");
    let registry = DockerRegistry::start(TestRegistryAuth::Anonymous);
    let reference = registry.push("shop", &[(ARTIFACT, &archive)]);
    let upstream = registry.authority();
    let nginx = NginxServer::with_configuration(|port| {
        format!(
            "limit_req_zone $binary_remote_addr zone=one:1m rate=1r/s; limit_req_status 429;
             server {{
                 listen 127.0.0.1:{port}; error_page 429 @later;
                 location / {{ limit_req zone=one; proxy_pass http://{upstream}; proxy_set_header Host $http_host; }}
                 location @later {{ add_header Retry-After 1 always; return 429; }}
             }}"
        )
    });
    let from = format!("from: \"oci://{}/shop:v1\"", nginx.address());
    let environment = environment(&from, &http_grant(&nginx.address()));
    let began = Instant::now();
    let answer = environment.deploy("r1", &[]);
    answer.assert_exit(0);
    assert!(began.elapsed() > Duration::from_secs(1), "{:?}", began.elapsed());
    assert!(answer.stdout.contains("429"), "the log says why it took so long: {}", answer.stdout);
    assert_eq!(environment.list("deploy/releases"), [release_folder("r1", digest_of(&reference))]);
}

#[test]
fn pull_that_is_cut_anywhere_goes_on_where_it_stopped() {
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    for source in PullSource::both("") {
        let archive = noisy_release("r1");
        let digest = source.publish(&archive);
        for _ in 0..10 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            // Beyond the manifest, or the certificate.
            let offset = 5_000 + usize::try_from(random % (archive.len() as u64 - 10_000)).unwrap();
            let proxy = FaultyProxy::new(source.nginx.address(), ProxyFault::CutOnce(offset));
            let authority = authority_of(&proxy);
            let environment = source.environment(&source.plan(&archive, &digest, &authority, ""));
            let answer = environment.deploy("r1", &[]);
            answer.assert_exit(0);
            assert!(answer.stdout.contains("was interrupted and resumes"), "cut at {offset}: {}", answer.stdout);
            assert_eq!(environment.list("deploy/releases"), [release_folder("r1", &digest)]);
            // What was on its way when the connection broke is sent twice.
            let [sent, all] = [proxy.answered(), archive.len() as u64];
            assert!(sent < all + 50_000, "cut at {offset}: {sent} bytes for {all}");
        }
    }
}

/// A proxy that only counts what it passes on.
fn counting_proxy(upstream: String) -> FaultyProxy {
    FaultyProxy::new(upstream, ProxyFault::CutOnce(usize::MAX))
}

fn authority_of(proxy: &FaultyProxy) -> String {
    proxy.origin().split_off("http://".len())
}

#[test]
fn stalled_registry_is_given_up_and_the_next_attempt_downloads_the_rest() {
    let archive = noisy_release("r1");
    let registry = DockerRegistry::start(TestRegistryAuth::Anonymous);
    registry.push("shop", &[(ARTIFACT, &archive)]);
    let plan_at = |proxy: &FaultyProxy, timeout: &str| {
        let authority = authority_of(proxy);
        plan(&format!("from: \"oci://{authority}/shop:v1\""), &http_grant(&authority), timeout)
    };
    let stalled = FaultyProxy::new(registry.authority(), ProxyFault::Stall(300_000));
    let environment = TestEnvironment::with_plan(&plan_at(&stalled, "1s"));
    assert_fails(&environment, 1, &["the runner stopped it after its timeout of 1s"]);
    let proxy = counting_proxy(registry.authority());
    environment.write("deploy.yml", plan_at(&proxy, "1m"));
    let answer = environment.deploy("r1", &[]);
    answer.assert_exit(0);
    assert!(answer.stdout.contains("an earlier attempt has received"), "{}", answer.stdout);
    assert_sends_rest(&proxy, &archive, 250_000);
    assert!(kept_downloads(&environment).is_empty(), "the release is there");
}

/// The names of the downloads that can go on.
fn kept_downloads(environment: &TestEnvironment) -> Vec<String> {
    environment.list("../home/.cache/pawl/downloads")
}

/// At least so many bytes of the archive were not sent again.
#[track_caller]
fn assert_sends_rest(proxy: &FaultyProxy, archive: &[u8], kept: u64) {
    let (sent, most) = (proxy.answered(), archive.len() as u64 - kept);
    // The manifest or the certificate, and what was on its way.
    assert!(sent < most + 20_000, "{sent} bytes are sent, and {most} were missing");
}

#[test]
fn pull_of_a_killed_runner_goes_on_where_it_stopped() {
    for source in PullSource::both("") {
        let archive = noisy_release("r1");
        let digest = source.publish(&archive);
        let stalled = FaultyProxy::new(source.nginx.address(), ProxyFault::Stall(300_000));
        let environment = source.environment(&source.plan(&archive, &digest, &authority_of(&stalled), ""));
        let mut command = environment.command(&["--local", "--release", "r1"]);
        let mut running = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_until("most of what comes is kept", || {
            let path = environment.path(format!("../home/.cache/pawl/downloads/{}", sha256(&archive)));
            fs::metadata(path).is_ok_and(|file| file.len() > 250_000)
        });
        running.kill().unwrap();
        running.wait().unwrap();
        let proxy = counting_proxy(source.nginx.address());
        environment.write("deploy.yml", source.plan(&archive, &digest, &authority_of(&proxy), ""));
        environment.deploy("r1", &[]).assert_exit(0);
        assert_sends_rest(&proxy, &archive, 250_000);
        assert_eq!(environment.list("deploy/releases"), [release_folder("r1", &digest)]);
        assert!(kept_downloads(&environment).is_empty(), "the release is there");
    }
}

#[test]
fn damaged_part_of_a_download_is_told_and_removed() {
    for source in PullSource::both("") {
        let archive = noisy_release("r1");
        let digest = source.publish(&archive);
        let environment = source.environment(&source.plan(&archive, &digest, &source.nginx.address(), ""));
        let damaged: Vec<u8> = archive[..300_000].iter().map(|byte| byte ^ u8::from(*byte == 0x55)).collect();
        environment.write(&format!("../home/.cache/pawl/downloads/{}", sha256(&archive)), damaged);
        let failed = environment.run(&["--local", "--release", "r1"]);
        failed.assert_exit(1).assert_stderr_contains("an earlier attempt had received 300000 bytes of it");
        assert_eq!(environment.list("deploy/releases"), [""; 0]);
        assert!(kept_downloads(&environment).is_empty(), "it can't be right");
        environment.deploy("r1", &[]).assert_exit(0);
    }
}

#[test]
fn tampered_manifest_is_rejected() {
    let archive = TestEnvironment::new().archive("r1", TestArchiveFormat::TarZst);
    let registry = DockerRegistry::start(TestRegistryAuth::Anonymous);
    let reference = registry.push("shop", &[(ARTIFACT, &archive)]);
    let path = registry.content_path(digest_of(&reference));
    let manifest = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{manifest} ")).unwrap();
    let environment = environment(&format!("from: \"{reference}\""), &http_grant(&registry.authority()));
    assert_fails(&environment, 1, &["sent a manifest with the digest sha256:[HASH], not sha256:[HASH]"]);
    fs::write(&path, manifest).unwrap();
    environment.deploy("r1", &[]).assert_exit(0);
}

/// What does not fit is refused before anything is written; what turns out not to fit leaves nothing either.
#[test]
fn full_disk_leaves_nothing() {
    // The runner wants 32 MiB of room before it begins.
    let zeros = crafted::tar(&[crafted::file("zeros", &vec![0; 60_000_000])]);
    for source in PullSource::both("") {
        for (archive, why) in [(&crafted::zstd(&zeros), "can't be written"), (&zeros, "even before it is unpacked")] {
            let digest = source.publish(archive);
            let limits = ", limits: { max-ratio: 100000 }";
            let environment = source.environment(&source.plan(archive, &digest, &source.nginx.address(), limits));
            fs::create_dir(environment.path("deploy")).unwrap();
            let script =
                "mount -t tmpfs -o size=36m pawl deploy || exit 9; \"$@\"; code=$?; ls -A deploy/releases; exit $code";
            let answer = environment.run_in_mount_namespace(script, &["--local", "--release", "r1", "--quiet"]);
            answer.assert_exit(1).assert_stderr_contains(why);
            assert!(!answer.stdout.contains("r1-") && !answer.stdout.contains(".tmp-"), "{}", answer.stdout);
            environment.deploy("r1", &[]).assert_exit(0);
        }
    }
}
