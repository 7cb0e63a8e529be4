//! `runner publish`, to real targets: a folder, nginx with WebDAV, moto's S3, and Debian's docker-registry. Each is asked twice, with the same
//! content and with another, and `pull` gets it from there.

mod cuts;
mod faults;
mod python;

use std::fs;

use serde_json::Value;

use crate::support::{
    ANN_CREDENTIALS, DockerRegistry, MotoServer, NginxServer, RunnerOutput, TestEnvironment, TestRegistryAuth,
    aws_variables, doc_blocks::fenced_block, sha256,
};

const ARCHIVE: &str = "dist/shop-r1.tar.zst";
const PACK: [&str; 8] =
    ["pack", "app", "--render", "VERSION", "--out", "dist/shop-{version}.tar.zst", "--version", "r1"];

/// The example, packed as r1 by `runner pack`.
pub(super) fn packed() -> TestEnvironment {
    let environment = TestEnvironment::new();
    environment.run(&PACK).assert_exit(0);
    environment
}

/// The example with noise of so many bytes, which no compressor makes shorter.
pub(super) fn packed_with_noise(bytes: usize) -> TestEnvironment {
    let environment = TestEnvironment::new();
    environment.write("app/noise", noise(bytes));
    environment.run(&PACK).assert_exit(0);
    environment
}

pub(super) fn noise(bytes: usize) -> Vec<u8> {
    let mut random = 1_u64;
    let next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 56) as u8
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

pub(super) fn publish(environment: &TestEnvironment, target: &str, more: &[&str]) -> RunnerOutput {
    environment.run(&[&["publish", ARCHIVE, target, "--json"], more].concat())
}

/// A web server whose folder `/open` anyone may write to, and `/private` who is ann.
pub(super) fn dav_server() -> NginxServer {
    let folder = tempfile::tempdir().unwrap().keep();
    let root = folder.display().to_string();
    for name in ["open", "private", "temporary"] {
        fs::create_dir(folder.join(name)).unwrap();
    }
    NginxServer::with_configuration(|port| {
        format!(
            "server {{
                 listen 127.0.0.1:{port}; root {root}; client_max_body_size 0; client_body_temp_path {root}/temporary;
                 dav_methods PUT; create_full_put_path on;
                 location /private/ {{
                     if ($http_authorization != \"Basic {ANN_CREDENTIALS}\") {{ return 401; }}
                 }}
             }}"
        )
    })
}

/// Publishes twice, and then another content under the same name.
#[track_caller]
fn assert_published_once(environment: &TestEnvironment, target: &str, more: &[&str]) -> Value {
    let first = publish(environment, target, more);
    let first = first.assert_exit(0).json();
    assert_eq!(first["was-published"], false, "{first}");
    let again = publish(environment, target, more);
    let again = again.assert_exit(0).json();
    assert_eq!((&again["was-published"], &again["digest"]), (&Value::Bool(true), &first["digest"]));

    let kept = [ARCHIVE, &format!("{ARCHIVE}.sha256")].map(|path| fs::read(environment.path(path)).unwrap());
    environment.write("app/more", "another content");
    environment.run(&PACK).assert_exit(0);
    let other = publish(environment, target, more);
    other.assert_exit(2).assert_stderr_contains("error[P0238]").assert_stderr_contains("another content has this name");
    other.assert_stderr_contains("a version of its own");
    for (path, content) in [ARCHIVE, &format!("{ARCHIVE}.sha256")].into_iter().zip(kept) {
        fs::write(environment.path(path), content).unwrap();
    }
    first
}

/// A plan with what `publish` says to write there.
fn deploy_from(published: &Value, change: impl FnOnce(String) -> String) -> TestEnvironment {
    let snippet = published["plan"].as_str().unwrap().replace("/srv/APP", "./deploy");
    let step: String = snippet.lines().map(|line| format!("  {line}\n")).collect();
    let machine = TestEnvironment::with_plan(&change(format!("version: 1\napp: shop\nsteps:\n{step}")));
    machine.deploy("r1", &[]).assert_exit(0);
    let [release] = &machine.list("deploy/releases")[..] else { panic!("one release") };
    assert_eq!(machine.read(&format!("deploy/releases/{release}/VERSION")), "r1");
    machine
}

#[test]
fn folder_gets_it_once() {
    let environment = packed();
    let published = assert_published_once(&environment, "public/releases/", &[]);
    assert_eq!(environment.list("public/releases"), ["shop-r1.tar.zst", "shop-r1.tar.zst.sha256"]);
    let from = environment.path("public/releases").display().to_string();
    deploy_from(&published, |plan| {
        assert!(plan.contains("file:dist/shop-${{ release }}.tar.zst"), "{plan}");
        plan.replace("./public/releases", &from)
    });
}

#[test]
fn pipeline_packs_and_publishes() {
    let environment = packed();
    let pipe = "\"$0\" pack app --render VERSION --version r1 --out - | \"$0\" publish - public/shop-r1.tar.zst --json";
    let answer = environment.run_script(pipe);
    let digest = sha256(&fs::read(environment.path(ARCHIVE)).unwrap());
    assert_eq!(answer.assert_exit(0).json()["digest"], format!("sha256:{digest}"));
    assert_eq!(environment.read("public/shop-r1.tar.zst.sha256"), format!("{digest}  shop-r1.tar.zst\n"));
    // What packs failed; nothing arrives.
    let broken =
        environment.run_script("\"$0\" pack gone --version r1 --out - 2>/dev/null | \"$0\" publish - public/x.tar.zst");
    broken.assert_exit(2).assert_stderr_contains("standard input is empty");
    let cut = environment.run_script(&format!("head -c 100 {ARCHIVE} | \"$0\" publish - public/x.tar.zst"));
    cut.assert_exit(2).assert_stderr_contains("standard input ends in the middle of an archive");
    assert_eq!(environment.list("public").len(), 2);
    let unnamed = environment.run_script("\"$0\" pack app --version r1 --out - 2>/dev/null | \"$0\" publish - public/");
    unnamed.assert_exit(2).assert_stderr_contains("what comes from standard input has no name");
}

#[test]
fn web_server_gets_it_once() {
    let (environment, server) = (packed(), dav_server());
    let published = assert_published_once(&environment, &format!("http://{}/open/deep/", server.address()), &[]);
    deploy_from(&published, |plan| {
        assert!(plan.contains("/open/deep/shop-${{ release }}.tar.zst"), "{plan}");
        plan
    });
}

/// As a publication that was overtaken leaves it. `pull` would refuse the archive beside it.
#[test]
fn checksum_of_other_content_is_no_success() {
    let (environment, server) = (packed(), dav_server());
    let checksum = format!("http://{}/open/shop-r1.tar.zst.sha256", server.address());
    let stale = format!("{:064}  shop-r1.tar.zst", 7);
    environment.run_script(&format!("curl -fsS -X PUT --data-binary '{stale}' {checksum}")).assert_exit(0);
    let refused = publish(&environment, &format!("http://{}/open/", server.address()), &[]);
    refused.assert_exit(2).assert_stderr_contains("error[P0238]").assert_stderr_contains("a checksum of other content");
}

#[test]
fn web_server_wants_credentials() {
    let (mut environment, server) = (packed(), dav_server());
    let target = format!("http://{}/private/", server.address());
    let refused = publish(&environment, &target, &[]);
    refused
        .assert_exit(1)
        .assert_stderr_contains("error[P0237]")
        .assert_stderr_contains("refuses the credentials (status 401)");
    refused.assert_stderr_contains("give credentials: `--authorization NAME`");
    publish(&environment, &target, &["--authorization", "LOGIN"])
        .assert_exit(2)
        .assert_stderr_contains("the variable LOGIN is not set");
    environment.set_variable("LOGIN", "Basic ann:wrong-secret");
    let wrong = publish(&environment, &target, &["--authorization", "LOGIN"]);
    wrong.assert_exit(1).assert_stderr_contains("check the credentials");
    assert!(!wrong.stderr.contains("wrong-secret") && !wrong.stderr.contains("YW5u"), "{}", wrong.stderr);
    environment.set_variable("LOGIN", "Basic ann:secret");
    publish(&environment, &target, &["--authorization", "LOGIN"]).assert_exit(0);
}

#[test]
fn bucket_gets_it_once_in_one_piece_and_in_parts() {
    let moto = MotoServer::start();
    for (bytes, key) in [(0, "small/"), (12 << 20, "large/")] {
        let mut environment = packed_with_noise(bytes);
        aws_variables(&moto.address()).iter().for_each(|(name, value)| environment.set_variable(name, value));
        let published = assert_published_once(&environment, &format!("s3://acme-state/{key}"), &["--chunk", "5242880"]);
        let digest = sha256(&fs::read(environment.path(ARCHIVE)).unwrap());
        assert_eq!(moto.get(&format!("{key}shop-r1.tar.zst.sha256")), format!("{digest}  shop-r1.tar.zst\n"));
        let location = published["location"].as_str().unwrap();
        assert_eq!(location, format!("http://{}/acme-state/{key}shop-r1.tar.zst", moto.address()));
    }
}

#[test]
fn bucket_wants_credentials() {
    let moto = MotoServer::start();
    let mut environment = packed();
    environment.set_variable("AWS_ENDPOINT_URL", &format!("http://{}", moto.address()));
    environment.set_variable("AWS_ALLOW_HTTP", "true");
    environment.set_variable("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9");
    publish(&environment, "s3://acme-state/x/", &[]).assert_exit(1).assert_stderr_contains("error[P0237]");
}

#[test]
fn registry_gets_it_once() {
    let (mut environment, registry) = (packed_with_noise(3 << 20), DockerRegistry::start(TestRegistryAuth::Basic));
    let target = format!("oci://{}/acme/shop:r1", registry.authority());
    let refused = publish(&environment, &target, &[]);
    refused
        .assert_exit(1)
        .assert_stderr_contains("error[P0237]")
        .assert_stderr_contains("give credentials: `docker login`");
    let config = format!(r#"{{"auths": {{"{}": {{"auth": "{ANN_CREDENTIALS}"}}}}}}"#, registry.authority());
    fs::create_dir(environment.home(".docker")).unwrap();
    fs::write(environment.home(".docker/config.json"), config).unwrap();
    let published = assert_published_once(&environment, &target, &["--chunk", "1000000"]);
    deploy_from(&published, |plan| {
        assert!(plan.contains("/acme/shop:${{ release }}\""), "{plan}");
        let origin = format!("http: [\"http://{}\"]", registry.authority());
        assert!(plan.contains(&origin), "{plan}");
        let with_login = format!(
            "http: [{{ origin: \"http://{}\", headers: {{ authorization: \"Basic {ANN_CREDENTIALS}\" }} }}]",
            registry.authority()
        );
        plan.replace(&origin, &with_login)
    });

    // Another tag of the same archive sends nothing again; the credentials may be named.
    fs::remove_dir_all(environment.home(".docker")).unwrap();
    environment.set_variable("LOGIN", "Basic ann:secret");
    let tagged = publish(
        &environment,
        &format!("oci://{}/acme/shop:stable", registry.authority()),
        &["--authorization", "LOGIN"],
    );
    assert_eq!(tagged.assert_exit(0).json()["digest"], published["digest"]);
}

#[test]
fn several_targets_are_all_tried() {
    let environment = packed();
    environment.write("taken/shop-r1.tar.zst", "another");
    let output = environment.run(&["publish", ARCHIVE, "taken/", "public/"]);
    output.assert_exit(2).assert_stderr_contains("error[P0238]");
    assert!(output.stdout.contains("published file:public/shop-r1.tar.zst"), "{}", output.stdout);
    assert_eq!(environment.read("taken/shop-r1.tar.zst"), "another");
}

#[test]
fn command_of_the_page_publishes_to_a_web_server() {
    let (environment, server) = (TestEnvironment::new(), dav_server());
    let pack = ["pack", "app", "--version", "1.4.2", "--out", "dist/shop-{version}.tar.zst"];
    environment.run(&pack).assert_exit(0);
    let line = fenced_block("docs/publish.md", "runner publish dist/shop-1.4.2.tar.zst");
    let line = line.replace("https://releases.example.com/shop/", &format!("http://{}/open/", server.address()));
    let words: Vec<_> = line.split_whitespace().skip(1).collect();
    let output = environment.run(&words);
    assert!(output.assert_exit(0).stdout.contains("in the plan:\n  pull:\n"), "{}", output.stdout);
}
