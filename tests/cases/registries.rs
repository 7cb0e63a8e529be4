//! Modules from a registry, against Debian's docker-registry: pinned by digest, verified, kept, and refused when they are not
//! what they should be.

use std::fs;

use expect_test::expect;
use serde_json::json;

use crate::support::{ANN, Answer, Door, Environment, Registry};

const WASM: &str = "application/wasm";

/// A plan that uses one module.
fn environment(uses: &str) -> Environment {
    Environment::with_plan(&format!(
        "version: 1\napp: shop\nsteps:\n  check:\n    uses: {uses}\n    with: {{ files: [{{ path: VERSION }}], tries: 1 }}\n    \
         grants: {{ dirs: {{ app: \"./app:ro\" }} }}\n"
    ))
}

fn deploy(environment: &Environment) -> Answer {
    environment.run(&["--local", "--release", "r1"])
}

/// A deployment that is refused, and why.
#[track_caller]
fn refused(environment: &Environment) -> Answer {
    let answer = deploy(environment);
    answer.assert_exit(2).assert_says("error[P0129]: can't get the module oci://");
    assert!(!environment.exists(".pawl") && !environment.exists("deploy.lock"), "nothing was begun");
    answer
}

#[test]
fn a_module_is_pulled_once_and_then_runs_without_the_registry() {
    let registry = Registry::start(Door::Open);
    let component = Environment::component("verify");
    let uses = registry.push("steps/check", &[(WASM, &component)]);
    let environment = environment(&uses);
    deploy(&environment).assert_exit(0);
    let lock: serde_json::Value = serde_json::from_str(&environment.read("deploy.lock")).unwrap();
    let digest = format!("sha256:{}", crate::support::sha256(&component));
    assert_eq!(lock["modules"][&uses]["digest"], json!(digest));
    let listed = environment.run(&["modules", "--json"]);
    assert_eq!(listed.assert_exit(0).json()["modules"][0]["from"], json!("a registry"));

    drop(registry);
    let offline = deploy(&environment);
    offline.assert_exit(0);
    assert_eq!(offline.said().lines().filter(|line| line.starts_with("warning")).count(), 0);

    // What was kept is believed for its digest alone. It is read only when there is no compiled code.
    let compiled = |path: &std::path::PathBuf| path.extension().is_some_and(|extension| extension == "cwasm");
    let folder = fs::read_dir(environment.home(".cache/pawl/modules")).unwrap();
    fs::remove_file(folder.map(|entry| entry.unwrap().path()).find(compiled).unwrap()).unwrap();
    let kept = environment.home(".cache/pawl/modules").join(format!("{}.wasm", &digest[7..]));
    let mut bytes = fs::read(&kept).unwrap();
    bytes[100] ^= 1;
    fs::write(&kept, bytes).unwrap();
    let again = deploy(&environment);
    again.assert_exit(2).assert_says("warning: a module is downloaded again, the kept one is not used: ");
    again.assert_says("error[P0129]");
}

#[test]
fn the_other_media_type_is_taken_too() {
    let registry = Registry::start(Door::Open);
    let kind = "application/vnd.wasm.content.layer.v1+wasm";
    deploy(&environment(&registry.push("check", &[(kind, &Environment::component("verify"))]))).assert_exit(0);
}

#[test]
fn what_is_not_what_it_should_be_is_refused() {
    let registry = Registry::start(Door::Open);
    let component = Environment::component("verify");
    let uses = registry.push("steps/check", &[(WASM, &component)]);
    let mut other = component.clone();
    other[100] ^= 1;
    fs::write(registry.blob(&component), &other).unwrap();
    let digest = crate::support::sha256(&component);
    let answer = refused(&environment(&uses));
    answer.assert_says("caused by: the registry sent a module with the digest sha256:");
    assert!(answer.stderr.contains(&digest), "{}", answer.stderr);

    let longer = [&component[..], &component].concat();
    fs::write(registry.blob(&component), longer).unwrap();
    refused(&environment(&uses));

    let wrong = uses.replacen("@sha256:", "@sha256:0", 1);
    refused(&environment(&wrong[..wrong.len() - 1])).assert_says("caused by: the registry has no manifest of oci://");
    let two = registry.push("two", &[(WASM, b"one"), (WASM, b"two")]);
    refused(&environment(&two)).assert_says("caused by: it is not the manifest of a module: it has 2 layers, not one");
    let tar = registry.push("tar", &[("application/vnd.oci.image.layer.v1.tar+gzip", b"x")]);
    refused(&environment(&tar)).assert_says("its layer is application/vnd.oci.image.layer.v1.tar+gzip");

    let nowhere = environment(&uses);
    drop(registry);
    refused(&nowhere).assert_says("hint: see that the registry can be reached");
}

#[test]
fn who_asks_is_told_by_dockers_config() {
    let registry = Registry::start(Door::Locked);
    let uses = registry.push("steps/check", &[(WASM, &Environment::component("verify"))]);
    let mut environment = environment(&uses);
    refused(&environment)
        .assert_says("caused by: the registry wants to know who asks")
        .assert_says("docker login 127.0.0.1:");
    let folder = environment.home("docker");
    let with = |auth: &str| json!({"auths": {registry.authority(): {"auth": auth}}});
    fs::create_dir(&folder).unwrap();
    environment.set("DOCKER_CONFIG", folder.to_str().unwrap());
    let config = |content: serde_json::Value| fs::write(folder.join("config.json"), content.to_string()).unwrap();
    config(json!({"credHelpers": {registry.authority(): "pass"}}));
    refused(&environment).assert_says("the credential helper `pass`");
    config(with("YW5uOndyb25n"));
    refused(&environment).assert_says("caused by: the registry does not let `ann` in");
    config(with(ANN));
    let done = deploy(&environment);
    done.assert_exit(0);
    assert!(!done.stderr.contains(ANN) && !done.stderr.contains("secret"));
}

#[test]
fn a_tag_is_no_pin() {
    let environment = environment("oci://registry.example.com/steps/check:1.2");
    expect![[r#"
        error[P0118]: `oci://registry.example.com/steps/check:1.2` names no module: it does not say which content is meant
         --> deploy.yml:5:11
          |
        5 |     uses: oci://registry.example.com/steps/check:1.2
          |           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ not a pinned module
          hint: pin it by digest, `oci://registry.example.com/steps/check@sha256:…`; `crane digest registry.example.com/steps/check:1.2` tells it
    "#]].assert_eq(&deploy(&environment).assert_exit(2).said());
}
