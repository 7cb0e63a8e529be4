//! The template `node`, with a real Node, supervisord and nginx: deployed, broken, resumed, rolled back. And packages of a registry.

use std::{
    fs,
    process::Command,
    sync::{Arc, Mutex},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;
use sha2::{Digest as _, Sha512};

use crate::support::{HttpReply, HttpTestServer, TEMPLATE_PROJECT, TemplateSite};

#[test]
fn node_template_is_deployed_broken_resumed_and_rolled_back() {
    let site = TemplateSite::with_slot_ports("node", &["8001", "8002"]);
    site.build("r1");
    site.deploy("r1").assert_exit(0);
    site.assert_greeting("Hello from shop, release r1");

    // The second release asks for a package that its lock file does not have. Nobody who visits sees that.
    let package = format!("{TEMPLATE_PROJECT}/package.json");
    let whole = site.environment.read(&package);
    site.write(
        "package.json",
        &whole.replace("\"greeting\":", "\"other\": \"file:packages/greeting\",\n    \"greeting\":"),
    );
    site.write("packages/greeting/index.js", "exports.greeting = 'Welcome to shop';\n");
    site.build("r2");
    let visitor = site.steady_visitor();
    site.deploy("r2").assert_exit(1).assert_stderr_contains("step `install` failed");
    site.assert_greeting("Hello from shop, release r1");

    // The third one can't start.
    site.write("package.json", &whole);
    let server = site.environment.read(&format!("{TEMPLATE_PROJECT}/server.js"));
    site.write("server.js", &server.replace("require('greeting')", "require('greetings')"));
    site.build("r3");
    let failed = site.deploy("r3");
    failed
        .assert_exit(1)
        .assert_stderr_contains("step `start` failed")
        .assert_stderr_contains("in slot b: it ended: exit status 1");
    site.assert_greeting("Hello from shop, release r1");

    site.write("server.js", &server);
    site.build("r4");
    site.deploy("r4").assert_exit(0);
    visitor.assert_saw("r1", "r4");
    site.assert_greeting("Welcome to shop, release r4");

    // On the way back nothing is started or installed.
    let visitor = site.steady_visitor();
    site.roll_back();
    visitor.assert_saw("r4", "r1");
    site.assert_greeting("Hello from shop, release r1");
}

/// The package `greeting` in two versions, as a registry describes it: "package metadata" of npm's registry API.
fn registry() -> HttpTestServer {
    let tarballs: Vec<(String, Vec<u8>)> = [("1.0.0", "Good morning"), ("1.1.0", "Good evening")]
        .map(|(version, text)| (version.to_owned(), tarball(version, text)))
        .into();
    let origin = Arc::new(Mutex::new(String::new()));
    let known = Arc::clone(&origin);
    let server = HttpTestServer::new(move |path, _| {
        if let Some((_, content)) = tarballs.iter().find(|(version, _)| path == format!("/greeting-{version}.tgz")) {
            return HttpReply::ok(content.clone());
        }
        if path != "/greeting" {
            return HttpReply::status(404);
        }
        let origin = known.lock().unwrap();
        let version = |(version, content): &(String, Vec<u8>)| {
            let integrity = format!("sha512-{}", STANDARD.encode(Sha512::digest(content)));
            let dist = json!({ "tarball": format!("{origin}/greeting-{version}.tgz"), "integrity": integrity });
            (version.clone(), json!({ "name": "greeting", "version": version, "main": "index.js", "dist": dist }))
        };
        let versions: serde_json::Map<_, _> = tarballs.iter().map(version).collect();
        let package = json!({ "name": "greeting", "dist-tags": { "latest": "1.1.0" }, "versions": versions });
        HttpReply::ok(package.to_string())
    });
    *origin.lock().unwrap() = server.origin();
    server
}

/// A package as `npm pack` makes it.
fn tarball(version: &str, text: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let manifest = json!({ "name": "greeting", "version": version, "main": "index.js" }).to_string();
    fs::create_dir(folder.path().join("package")).unwrap();
    fs::write(folder.path().join("package/package.json"), manifest).unwrap();
    fs::write(folder.path().join("package/index.js"), format!("exports.greeting = '{text}';\n")).unwrap();
    let packed = Command::new("tar").args(["-cz", "package"]).current_dir(folder.path()).output().unwrap();
    assert!(packed.status.success());
    packed.stdout
}

#[test]
fn packages_of_a_registry_are_those_of_the_lock_file_and_a_rollback_needs_no_registry() {
    let registry = registry();
    let site = TemplateSite::with_slot_ports("node", &["8001", "8002"]);
    // The cache of a user with no other packages.
    let cache = site.environment.path("npm-cache").display().to_string();
    site.write(
        ".npmrc",
        &format!("registry={}/\ncache={cache}\nfetch-retries=0\nupdate-notifier=false\n", registry.origin()),
    );
    let depend_on = |version: &str| {
        let package = json!({ "name": "shop", "private": true, "dependencies": { "greeting": version } });
        site.write("package.json", &package.to_string());
        fs::remove_file(site.environment.path(TEMPLATE_PROJECT).join("package-lock.json")).unwrap();
        site.in_project("npm install --package-lock-only --no-audit --no-fund");
    };
    depend_on("1.0.0");
    site.build("r1");
    site.deploy("r1").assert_exit(0);
    site.assert_greeting("Good morning, release r1");
    depend_on("1.1.0");
    site.build("r2");
    site.deploy("r2").assert_exit(0);
    site.assert_greeting("Good evening, release r2");

    drop(registry);
    fs::remove_dir_all(&cache).unwrap();
    site.roll_back();
    site.assert_greeting("Good morning, release r1");
    // A release with the same packages needs the registry, since nothing else has them now.
    site.build("r3");
    site.deploy("r3").assert_exit(1).assert_stderr_contains("step `install` failed");
    site.assert_greeting("Good morning, release r1");
}
