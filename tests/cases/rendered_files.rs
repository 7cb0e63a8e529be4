//! Files that the host renders for a step, which never sees what is in them; and rehearsals.

use std::{fs, os::unix::fs::PermissionsExt as _};

use serde_json::json;

use crate::support::GuestFixture;

const SECRET: &str = "correct-horse-battery";

/// A step that acts as told on `conf`, with a template and a secret.
fn guest(with: serde_json::Value) -> GuestFixture {
    let grants = json!({
        "dirs": { "app": "./app:ro" }, "renders": { "conf": "./etc/shop" }, "secrets": ["TOKEN"],
    });
    let mut fixture =
        GuestFixture::new(with, grants).with_plan_field("secrets", json!({ "TOKEN": "env:DEPLOY_TOKEN" }));
    fixture.environment.set_variable("DEPLOY_TOKEN", SECRET);
    fs::create_dir_all(fixture.environment.path("app")).unwrap();
    fixture
        .with_file("app/env.j2", "TEXT={{ text }}\nTOKEN={{ secrets.TOKEN }}\n")
        .with_file("app/plain.j2", "{{ text }}\n")
}

#[test]
fn secret_is_rendered_into_a_file_that_the_step_can_not_read() {
    let rendered =
        guest(json!({ "do": "render", "path": "app/env.j2", "to": "conf/shop.env", "name": "TOKEN", "text": "hi" }));
    let outcome = rendered.run();
    assert_eq!(outcome.outputs["same"], true, "{outcome:#?}");
    let path = rendered.environment.path("etc/shop/shop.env");
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("TEXT=hi\nTOKEN={SECRET}\n"));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(outcome.outputs["path"], path.to_str().unwrap());

    let with = json!({ "do": "render-and-read", "path": "app/env.j2", "to": "conf/shop.env", "name": "TOKEN" });
    guest(with).run().assert_failure("denied", "the directory `conf` is not granted to this step");
}

#[test]
fn rendered_file_without_secrets_is_for_everybody() {
    let fixture = guest(json!({ "do": "render", "path": "app/plain.j2", "to": "conf/sub/a.conf", "text": "x" }));
    fixture.run();
    let mode = fs::metadata(fixture.environment.path("etc/shop/sub/a.conf")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644);
}

#[test]
fn directory_of_renders_is_not_among_those_that_the_step_reads() {
    let fixture = guest(json!({ "do": "nothing" }))
        .with_step_field("grants", json!({ "dirs": { "app": "./app" }, "renders": { "conf": "./app/conf" } }));
    let output = fixture.environment.deploy("r1", &[]);
    output
        .assert_exit(2)
        .assert_stderr_contains("the step could read directory `conf` of `renders` through directory `app`");
}

#[test]
fn links_lead_nowhere() {
    let fixture = guest(json!({ "do": "render", "path": "app/plain.j2", "to": "conf/out/a.conf", "text": "x" }));
    fs::create_dir_all(fixture.environment.path("etc/shop")).unwrap();
    fs::create_dir(fixture.environment.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink("../../elsewhere", fixture.environment.path("etc/shop/out")).unwrap();
    let outcome = fixture.run();
    assert_eq!(outcome.result, "failed", "{outcome:#?}");
    assert!(!fixture.environment.path("elsewhere/a.conf").exists());
    guest(json!({ "do": "place", "path": "conf/../../x" })).run().assert_failure("invalid-config", "`conf/../../x`");
}

#[test]
fn modes_are_set_in_writable_directories_only() {
    guest(json!({ "do": "set-mode", "path": "app/env.j2", "text": "0600" }))
        .run()
        .assert_denied("write access to directory `app`", "dirs: { app: \"<path>\" }");
    let fixture = guest(json!({ "do": "set-mode", "path": "app", "text": "0750" }))
        .with_step_field("grants", json!({ "dirs": { "app": "./app" } }));
    fixture.run();
    let mode = |path: &str| fs::metadata(fixture.environment.path(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("app"), mode("app/env.j2")), (0o750, 0o750));
}

#[test]
fn refused_rehearsal_leaves_everything_as_it_is() {
    let fixture = guest(json!({ "do": "refuse", "text": "port 8080 is taken" }));
    let output = fixture.environment.run(&["--local", "--release", "r1"]);
    output
        .assert_exit(1)
        .assert_stderr_contains("error[P0324]: step `call` would be refused, so no commit step was begun")
        .assert_stderr_contains("port 8080 is taken")
        .assert_stderr_contains("make the port free; then run");
    let journal = fixture.environment.run(&["--local", "--release", "r1", "--json"]);
    assert!(!journal.stdout.contains("\"type\":\"intent\""), "{}", journal.stdout);
    assert!(journal.stdout.contains("rehearsal-failed"), "{}", journal.stdout);
}

#[test]
fn rehearsal_renders_copies_and_changes_nothing() {
    let with = json!({
        "do": "rehearse-act", "text": "render", "path": "app/plain.j2", "to": "conf/a.conf",
    });
    let fixture = guest(with);
    fixture.run();
    assert!(!fixture.environment.path("etc/shop/a.conf").exists());
    let with = json!({ "do": "rehearse-act", "text": "move", "path": "conf/a.conf", "to": "conf/b.conf" });
    let output = guest(with).environment.run(&["--local", "--release", "r1"]);
    output.assert_exit(1).assert_stderr_contains("can't rename files in a preview, a probe, a rehearsal or a check");
}
