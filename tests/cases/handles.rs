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
