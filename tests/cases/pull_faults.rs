//! What a registry, a network or a disk can do to a pull: a failure that says so and leaves nothing, or a download that goes on.

use std::{
    fs,
    time::{Duration, Instant},
};

use super::oci_pulls::{ARTIFACT, assert_fails, digest_of, environment, http_grant, plan};
use crate::support::{
    DockerRegistry, FaultyProxy, NginxServer, ProxyFault, TestArchiveFormat, TestEnvironment, TestRegistryAuth,
    crafted, release_folder, sha256,
};

/// A release that does not pack well, so that its way takes some time.
fn noisy_release() -> Vec<u8> {
    let environment = TestEnvironment::new();
    let noise: String = (0..20_000_u32).map(|number| sha256(&number.to_le_bytes())).collect();
    environment.write("app/noise", noise);
    environment.archive("r1", TestArchiveFormat::TarZst)
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
    assert_fails(&refused, 2, &["does not grant the HTTP origin"]);
    let invalid = environment("from: \"oci://shop\"", &http_grant(&authority));
    assert_fails(&invalid, 2, &["`oci://shop` is not an artifact: it has no repository"]);

    let environment = environment(&with("v1"), &granted("ann:secret"));
    drop(registry);
    assert_fails(&environment, 2, &["can't determine the digest of release r1", "refused the connection"]);
}

#[test]
fn registry_that_asks_to_wait_is_asked_again() {
    let archive = noisy_release();
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
    let archive = noisy_release();
    let registry = DockerRegistry::start(TestRegistryAuth::Anonymous);
    let reference = registry.push("shop", &[(ARTIFACT, &archive)]);
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    for _ in 0..10 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        // Beyond the manifest, which is asked for twice.
        let offset = 5_000 + usize::try_from(random % (archive.len() as u64 - 10_000)).unwrap();
        let proxy = FaultyProxy::new(registry.authority(), ProxyFault::CutOnce(offset));
        let authority = proxy.origin().split_off("http://".len());
        let environment = environment(&format!("from: \"oci://{authority}/shop:v1\""), &http_grant(&authority));
        let answer = environment.deploy("r1", &[]);
        answer.assert_exit(0);
        assert!(answer.stdout.contains("was interrupted and resumes"), "cut at {offset}: {}", answer.stdout);
        assert_eq!(environment.list("deploy/releases"), [release_folder("r1", digest_of(&reference))]);
        assert_eq!(proxy.connections(), 4, "two for the manifest, and two for the layer");
    }
}

#[test]
fn stalled_registry_is_given_up() {
    let archive = noisy_release();
    let registry = DockerRegistry::start(TestRegistryAuth::Anonymous);
    registry.push("shop", &[(ARTIFACT, &archive)]);
    let proxy = FaultyProxy::new(registry.authority(), ProxyFault::Stall(300_000));
    let authority = proxy.origin().split_off("http://".len());
    let with = format!("from: \"oci://{authority}/shop:v1\"");
    let environment = TestEnvironment::with_plan(&plan(&with, &http_grant(&authority), "1s"));
    assert_fails(&environment, 1, &["the runner stopped it after its timeout of 1s"]);
    let with = format!("from: \"oci://{}/shop:v1\"", registry.authority());
    environment.write("deploy.yml", plan(&with, &http_grant(&registry.authority()), "1m"));
    environment.deploy("r1", &[]).assert_exit(0);
}

#[test]
fn tampered_layers_and_manifests_are_rejected() {
    let archive = TestEnvironment::new().archive("r1", TestArchiveFormat::TarZst);
    let registry = DockerRegistry::start(TestRegistryAuth::Anonymous);
    let reference = registry.push("shop", &[(ARTIFACT, &archive)]);
    let mut other = archive.clone();
    *other.last_mut().unwrap() ^= 1;
    fs::write(registry.blob_path(&archive), &other).unwrap();
    let environment = environment(&format!("from: \"{reference}\""), &http_grant(&registry.authority()));
    assert_fails(&environment, 1, &["caused by: the archive has the digest sha256:[HASH], not sha256:[HASH]"]);
    fs::write(registry.blob_path(&archive), &archive).unwrap();
    environment.deploy("r1", &[]).assert_exit(0);
}

/// What does not fit is refused before anything is written; what turns out not to fit leaves nothing either.
#[test]
fn full_disk_leaves_nothing() {
    let registry = DockerRegistry::start(TestRegistryAuth::Anonymous);
    // The runner wants 32 MiB of room before it begins.
    let zeros = crafted::tar(&[crafted::file("zeros", &vec![0; 60_000_000])]);
    for (archive, why) in [(crafted::zstd(&zeros), "can't be written"), (zeros, "even before it is unpacked")] {
        let reference = registry.push("shop", &[(ARTIFACT, &archive)]);
        let with = format!("from: \"{reference}\", limits: {{ max-ratio: 100000 }}");
        let environment = environment(&with, &http_grant(&registry.authority()));
        fs::create_dir(environment.path("deploy")).unwrap();
        let script =
            "mount -t tmpfs -o size=36m pawl deploy || exit 9; \"$@\"; code=$?; ls -A deploy/releases; exit $code";
        let answer = environment.run_in_mount_namespace(script, &["--local", "--release", "r1", "--quiet"]);
        answer.assert_exit(1).assert_stderr_contains(why);
        assert!(!answer.stdout.contains("r1-") && !answer.stdout.contains(".tmp-"), "{}", answer.stdout);
        environment.deploy("r1", &[]).assert_exit(0);
    }
}
