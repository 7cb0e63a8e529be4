//! What a step can do with a secret that it never sees, and with a socket.

use serde_json::json;

use crate::support::{Nginx, TOKEN, Trial};

/// A step with the secret `TOKEN`, granted as told.
fn trial(with: serde_json::Value, mut grants: serde_json::Value, access: serde_json::Value) -> Trial {
    grants["secrets"] = access;
    let mut trial = Trial::new(with, grants).plan("secrets", json!({ "TOKEN": "env:DEPLOY_TOKEN" }));
    trial.environment.set("DEPLOY_TOKEN", TOKEN);
    trial
}

#[test]
fn a_server_gets_the_secret_and_the_step_does_not() {
    let nginx = Nginx::new(&[]);
    let url = format!("http://{}/private", nginx.address());
    let grants = json!({ "http": [format!("http://{}", nginx.address())] });
    let without = trial(json!({ "do": "request", "url": url }), grants.clone(), json!([])).run();
    assert_eq!(without.outputs["status"], 403, "{without:#?}");
    let with =
        trial(json!({ "do": "request-with", "url": url, "name": "TOKEN" }), grants.clone(), json!(["TOKEN"])).run();
    assert_eq!(with.outputs["status"], 204, "{with:#?}");
    let seen = trial(json!({ "do": "reveal", "name": "TOKEN" }), grants.clone(), json!({ "TOKEN": "use" })).run();
    seen.assert_denied("see the value of secret `TOKEN`", "secrets: { TOKEN: reveal }");
    let revealed = trial(json!({ "do": "reveal", "name": "TOKEN" }), grants, json!({ "TOKEN": "reveal" })).run();
    assert_eq!(revealed.outputs["length"], TOKEN.len(), "{revealed:#?}");
}

#[test]
fn a_socket_is_asked_by_its_name() {
    let nginx = Nginx::new(&[("index.html", b"hello")]);
    let grants = json!({ "sockets": { "engine": format!("unix:{}", nginx.socket()) } });
    let ask = |url: &str, access| {
        trial(json!({ "do": "request-with", "url": url, "name": "TOKEN" }), grants.clone(), access).run()
    };
    assert_eq!(ask("unix://engine/private", json!(["TOKEN"])).outputs["status"], 204);
    assert_eq!(ask("unix://engine/index.html?all=1", json!(["TOKEN"])).outputs["status"], 200);
    assert_eq!(ask("unix://engine/../../etc/passwd", json!(["TOKEN"])).outputs["status"], 404);
    ask("unix://other/private", json!(["TOKEN"]))
        .assert_denied("socket `other`", "sockets: { other: \"unix:<path>\" }");
    ask("unix://engine/private", json!([])).assert_denied("secret `TOKEN`", "secrets: [TOKEN]");
}

#[test]
fn a_program_gets_the_secret_in_a_variable_that_is_granted() {
    let script = format!("test \"$TOKEN\" = {TOKEN}");
    let with = json!({ "do": "run-with", "program": "/bin/sh", "args": ["-c", script], "name": "TOKEN" });
    let grants = json!({ "programs": [["/bin/sh", "-c", "**"]] });
    let mut open = grants.clone();
    open["env"] = json!({ "TOKEN": null });
    let run = trial(with.clone(), open, json!(["TOKEN"])).run();
    assert_eq!(run.outputs["status"], 0, "{run:#?}");
    trial(with, grants, json!(["TOKEN"])).run().assert_denied("environment variable `TOKEN`", "env: { TOKEN: }");
}
