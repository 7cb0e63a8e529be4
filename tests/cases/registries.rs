//! Modules from a registry, against Debian's docker-registry: pinned by digest, verified, kept, and refused when they are not
//! what they should be.

use std::fs;

use expect_test::expect;
use serde_json::json;

use crate::support::{ANN_CREDENTIALS, DockerRegistry, RunnerOutput, TestEnvironment, TestRegistryAuth};

const WASM: &str = "application/wasm";

/// A plan that uses one module.
fn environment_with_module(uses: &str) -> TestEnvironment {
    TestEnvironment::with_plan(&format!(
        "version: 1\napp: shop\nsteps:\n  check:\n    uses: {uses}\n    with: {{ files: [{{ path: VERSION }}], tries: 1 }}\n    \
         grants: {{ dirs: {{ app: \"./app:ro\" }} }}\n"
    ))
}

fn deploy(environment: &TestEnvironment) -> RunnerOutput {
    environment.run(&["--local", "--release", "r1"])
}

/// A deployment that is refused, and why.
#[track_caller]
fn assert_rejected(environment: &TestEnvironment) -> RunnerOutput {
    let answer = deploy(environment);
    answer.assert_exit(2).assert_stderr_contains("error[P0129]: can't fetch the module oci://");
    assert!(!environment.exists(".pawl") && !environment.exists("deploy.lock"), "nothing was begun");
    answer
}

#[test]
fn module_is_downloaded_once_and_then_runs_offline() {
    let registry = DockerRegistry::start(TestRegistryAuth::Anonymous);
    let component = TestEnvironment::component("verify");
    let uses = registry.push("steps/check", &[(WASM, &component)]);
    let environment = environment_with_module(&uses);
    deploy(&environment).assert_exit(0);
    let lock: serde_json::Value = serde_json::from_str(&environment.read("deploy.lock")).unwrap();
    let digest = format!("sha256:{}", crate::support::sha256(&component));
    assert_eq!(lock["modules"][&uses]["digest"], json!(digest));
    let listed = environment.run(&["modules", "--json"]);
    assert_eq!(listed.assert_exit(0).json()["modules"][0]["from"], json!("a registry"));

    drop(registry);
    let offline = deploy(&environment);
    offline.assert_exit(0);
    assert_eq!(offline.stderr_snapshot().lines().filter(|line| line.starts_with("warning")).count(), 0);

    // What was kept is believed for its digest alone. It is read only when there is no compiled code.
    let compiled = |path: &std::path::PathBuf| path.extension().is_some_and(|extension| extension == "cwasm");
    let folder = fs::read_dir(environment.home(".cache/pawl/modules")).unwrap();
    fs::remove_file(folder.map(|entry| entry.unwrap().path()).find(compiled).unwrap()).unwrap();
    let kept = environment.home(".cache/pawl/modules").join(format!("{}.wasm", &digest[7..]));
    let mut bytes = fs::read(&kept).unwrap();
    bytes[100] ^= 1;
    fs::write(&kept, bytes).unwrap();
    let again = deploy(&environment);
    again
        .assert_exit(2)
        .assert_stderr_contains("warning: downloading a module again: the runner can't use the cached copy: ");
    again.assert_stderr_contains("error[P0129]");
}

#[test]
fn other_wasm_media_type_is_accepted() {
    let registry = DockerRegistry::start(TestRegistryAuth::Anonymous);
    let kind = "application/vnd.wasm.content.layer.v1+wasm";
    deploy(&environment_with_module(&registry.push("check", &[(kind, &TestEnvironment::component("verify"))])))
        .assert_exit(0);
}

#[test]
fn tampered_or_malformed_registry_content_is_rejected() {
    let registry = DockerRegistry::start(TestRegistryAuth::Anonymous);
    let component = TestEnvironment::component("verify");
    let uses = registry.push("steps/check", &[(WASM, &component)]);
    let mut other = component.clone();
    other[100] ^= 1;
    fs::write(registry.blob_path(&component), &other).unwrap();
    let digest = crate::support::sha256(&component);
    let answer = assert_rejected(&environment_with_module(&uses));
    answer.assert_stderr_contains("caused by: the registry sent a module with the digest sha256:");
    assert!(answer.stderr.contains(&digest), "{}", answer.stderr);

    let longer = [&component[..], &component].concat();
    fs::write(registry.blob_path(&component), longer).unwrap();
    assert_rejected(&environment_with_module(&uses));

    let wrong = uses.replacen("@sha256:", "@sha256:0", 1);
    assert_rejected(&environment_with_module(&wrong[..wrong.len() - 1]))
        .assert_stderr_contains("caused by: the registry has no manifest of oci://");
    let two = registry.push("two", &[(WASM, b"one"), (WASM, b"two")]);
    assert_rejected(&environment_with_module(&two))
        .assert_stderr_contains("caused by: it is not a module manifest: it has 2 layers, not one");
    let tar = registry.push("tar", &[("application/vnd.oci.image.layer.v1.tar+gzip", b"x")]);
    assert_rejected(&environment_with_module(&tar))
        .assert_stderr_contains("its layer is application/vnd.oci.image.layer.v1.tar+gzip");

    let nowhere = environment_with_module(&uses);
    drop(registry);
    assert_rejected(&nowhere).assert_stderr_contains("hint: check that this machine can reach the registry");
}

#[test]
fn registry_credentials_come_from_docker_config() {
    let registry = DockerRegistry::start(TestRegistryAuth::Basic);
    let uses = registry.push("steps/check", &[(WASM, &TestEnvironment::component("verify"))]);
    let mut environment = environment_with_module(&uses);
    assert_rejected(&environment)
        .assert_stderr_contains("caused by: the registry requires authentication")
        .assert_stderr_contains("docker login 127.0.0.1:");
    let folder = environment.home("docker");
    let with = |auth: &str| json!({"auths": {registry.authority(): {"auth": auth}}});
    fs::create_dir(&folder).unwrap();
    environment.set_variable("DOCKER_CONFIG", folder.to_str().unwrap());
    let config = |content: serde_json::Value| fs::write(folder.join("config.json"), content.to_string()).unwrap();
    config(json!({"credHelpers": {registry.authority(): "pass"}}));
    assert_rejected(&environment).assert_stderr_contains("the credential helper `pass`");
    config(with("YW5uOndyb25n"));
    assert_rejected(&environment).assert_stderr_contains("caused by: the registry denied access to `ann`");
    config(with(ANN_CREDENTIALS));
    let done = deploy(&environment);
    done.assert_exit(0);
    assert!(!done.stderr.contains(ANN_CREDENTIALS) && !done.stderr.contains("secret"));
}

#[test]
fn tag_reference_is_rejected() {
    let environment = environment_with_module("oci://registry.example.com/steps/check:1.2");
    expect![[r#"
        error[P0118]: `oci://registry.example.com/steps/check:1.2` is not a valid module: it has no digest
         --> deploy.yml:5:11
          |
        5 |     uses: oci://registry.example.com/steps/check:1.2
          |           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ not a pinned module
          hint: pin it: `oci://registry.example.com/steps/check@sha256:…`; `crane digest registry.example.com/steps/check:1.2` prints the digest
    "#]].assert_eq(&deploy(&environment).assert_exit(2).stderr_snapshot());
}
