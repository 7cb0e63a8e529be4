//! What a step can do with a secret that it never sees, and with a socket.

use serde_json::json;

use crate::support::{GuestFixture, NGINX_TOKEN, NginxServer};

/// A step with the secret `NGINX_TOKEN`, granted as told.
fn guest_with_secret(
    with: serde_json::Value,
    mut grants: serde_json::Value,
    access: serde_json::Value,
) -> GuestFixture {
    grants["secrets"] = access;
    let mut fixture =
        GuestFixture::new(with, grants).with_plan_field("secrets", json!({ "TOKEN": "env:DEPLOY_TOKEN" }));
    fixture.environment.set_variable("DEPLOY_TOKEN", NGINX_TOKEN);
    fixture
}

#[test]
fn server_receives_the_secret_and_the_step_does_not() {
    let nginx = NginxServer::new(&[]);
    let url = format!("http://{}/private", nginx.address());
    let grants = json!({ "http": [format!("http://{}", nginx.address())] });
    let without = guest_with_secret(json!({ "do": "request", "url": url }), grants.clone(), json!([])).run();
    assert_eq!(without.outputs["status"], 403, "{without:#?}");
    let with = guest_with_secret(
        json!({ "do": "request-with", "url": url, "name": "TOKEN" }),
        grants.clone(),
        json!(["TOKEN"]),
    )
    .run();
    assert_eq!(with.outputs["status"], 204, "{with:#?}");
    let seen =
        guest_with_secret(json!({ "do": "reveal", "name": "TOKEN" }), grants.clone(), json!({ "TOKEN": "use" })).run();
    seen.assert_denied("the value of secret `TOKEN`", "secrets: { TOKEN: reveal }");
    let revealed =
        guest_with_secret(json!({ "do": "reveal", "name": "TOKEN" }), grants, json!({ "TOKEN": "reveal" })).run();
    assert_eq!(revealed.outputs["length"], NGINX_TOKEN.len(), "{revealed:#?}");
}

#[test]
fn socket_is_requested_by_its_granted_name() {
    let nginx = NginxServer::new(&[("index.html", b"hello")]);
    let grants = json!({ "sockets": { "engine": format!("unix:{}", nginx.socket()) } });
    let ask = |url: &str, access| {
        guest_with_secret(json!({ "do": "request-with", "url": url, "name": "TOKEN" }), grants.clone(), access).run()
    };
    assert_eq!(ask("unix://engine/private", json!(["TOKEN"])).outputs["status"], 204);
    assert_eq!(ask("unix://engine/index.html?all=1", json!(["TOKEN"])).outputs["status"], 200);
    assert_eq!(ask("unix://engine/../../etc/passwd", json!(["TOKEN"])).outputs["status"], 404);
    ask("unix://other/private", json!(["TOKEN"]))
        .assert_denied("socket `other`", "sockets: { other: \"unix:<path>\" }");
    ask("unix://engine/private", json!([])).assert_denied("secret `TOKEN`", "secrets: [TOKEN]");
}

#[test]
fn socket_without_http_is_asked_and_answers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let server = std::thread::spawn(move || {
        let (mut peer, _) = listener.accept().unwrap();
        let mut request = String::new();
        std::io::Read::read_to_string(&mut peer, &mut request).unwrap();
        std::io::Write::write_all(&mut peer, format!("you said {request}").as_bytes()).unwrap();
    });
    let grants = json!({ "sockets": { "admin": format!("unix:{}", path.display()) } });
    let answered = GuestFixture::new(json!({ "do": "exchange", "name": "admin", "text": "show map" }), grants).run();
    assert_eq!(answered.outputs["answer"], "you said show map", "{answered:#?}");
    server.join().unwrap();
    let gone = json!({ "sockets": { "admin": "unix:/run/no-such.sock" } });
    let refused = GuestFixture::new(json!({ "do": "exchange", "name": "admin", "text": "x" }), gone).run();
    refused.assert_failure("transient", "unix:/run/no-such.sock");
}

#[test]
fn socket_that_a_step_could_have_linked_elsewhere_is_not_followed() {
    let outside = tempfile::tempdir().unwrap();
    let path = outside.path().join("engine.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let fixture = GuestFixture::new(json!({ "do": "nothing" }), json!({}));
    let app = fixture.environment.path("app");
    std::fs::create_dir(&app).unwrap();
    std::os::unix::fs::symlink(&path, app.join("slot.sock")).unwrap();
    let grants = json!({ "dirs": { "app": "./app" }, "sockets": { "slot": "unix:./app/slot.sock" } });
    let fixture = fixture
        .with_step_field("grants", grants)
        .with_step_field("with", json!({ "do": "exchange", "name": "slot", "text": "x" }));
    fixture.run().assert_failure("denied", "outside the directory");
}

#[test]
fn program_receives_the_secret_in_a_granted_variable() {
    // The value itself would be refused: the arguments are recorded.
    let (length, start) = (NGINX_TOKEN.len(), &NGINX_TOKEN[..6]);
    let script = format!("test ${{#TOKEN}} = {length} && test \"${{TOKEN#{start}}}\" != \"$TOKEN\"");
    let with = json!({ "do": "run-with", "program": "/bin/sh", "args": ["-c", script], "name": "TOKEN" });
    let grants = json!({ "programs": [["/bin/sh", "-c", "**"]] });
    let mut open = grants.clone();
    open["env"] = json!({ "TOKEN": null });
    let run = guest_with_secret(with.clone(), open, json!(["TOKEN"])).run();
    assert_eq!(run.outputs["status"], 0, "{run:#?}");
    guest_with_secret(with, grants, json!(["TOKEN"]))
        .run()
        .assert_denied("environment variable `TOKEN`", "env: { TOKEN: }");
}
