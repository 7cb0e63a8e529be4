//! Mistakes of a step that starts programs in slots.

use super::{errors_of, hint_of};
use crate::support::TestEnvironment;

const PLAN: &str = r#"version: 1
app: shop
steps:
  start:
    uses: supervisord
    trust: host
    with:
      in: app
      socket: sup
      conf: conf
      slots: { a: { port: 8081 }, b: { port: 8082 } }
      program: { command: [/bin/sleep, "60"] }
      ready: { http: [{ url: "http://127.0.0.1:{port}/health" }] }
    grants:
      dirs: { app: ./deploy }
      renders: { conf: ./conf }
      sockets: { sup: "unix:/run/supervisor.sock" }
      http: ["http://127.0.0.1:8081", "http://127.0.0.1:8082"]
"#;

const SLOTS: &str = "      slots: { a: { port: 8081 }, b: { port: 8082 } }\n";
const PORTS: &str = "give each slot a port: `slots: { a: { port: 8001 }, b: { port: 8002 } }`";

#[test]
fn secrets_of_a_container_need_a_directory() {
    let mut environment = TestEnvironment::new();
    environment.set_variable("TOKEN", "correct-horse-battery");
    let plan = r#"version: 1
app: shop
secrets: { TOKEN: env:TOKEN }
steps:
  start:
    uses: container
    trust: host
    with:
      engine: podman
      secrets-dir: private
      container: { image: "shop@sha256:0", env: { A: b }, secrets: [TOKEN] }
      ready: { http: [{ url: "http://127.0.0.1:8080/health" }] }
    grants:
      dirs: { app: ./deploy }
      renders: { private: ./private }
      secrets: [TOKEN]
      sockets: { podman: "unix:/run/podman/podman.sock" }
      http: ["http://127.0.0.1:8080"]
"#;
    environment.write("deploy.yml", plan);
    environment.run(&["plan", "--release", "r1"]).assert_exit(0);
    let without = plan.replace("      secrets-dir: private\n", "");
    environment.write("deploy.yml", &without);
    let refused = environment.run(&["plan", "--release", "r1"]);
    refused.assert_exit(2).assert_stderr_contains("`secrets-dir` is missing");
    assert_eq!(errors_of(&refused), [("P0121".to_owned(), Some(9))], "{}", refused.stderr);
    let hint = "add `secrets-dir`: the directory of `renders` that gets the secrets of `container`, each as a file";
    assert_eq!(hint_of(&refused), hint);
    environment.write("deploy.yml", without.replace(", secrets: [TOKEN] }", ", secrets: [] }"));
    environment.run(&["plan", "--release", "r1"]).assert_exit(0);
    environment.write("deploy.yml", plan.replace("{ A: b }", "{ A: \"{port}\" }"));
    let refused = environment.run(&["plan", "--release", "r1"]);
    refused.assert_exit(2).assert_stderr_contains("`{port}` is not known, because the slots have no ports");
    assert_eq!((errors_of(&refused), hint_of(&refused).as_str()), (vec![("P0121".to_owned(), Some(11))], PORTS));
}

#[test]
fn mistakes_in_slots() {
    let environment = TestEnvironment::new();
    environment.write("deploy.yml", PLAN);
    environment.run(&["plan", "--release", "r1"]).assert_exit(0);
    for (from, to, at, message, hint) in [
        ("url: \"http://", "url: \"", "ready:", "does not have the expected form", "`url`: the URL, such as"),
        (
            "http: [{ url: \"http://127.0.0.1:{port}/health\" }]",
            "tcp: [localhost]",
            "ready:",
            "`localhost` does not have the expected form",
            "`127.0.0.1:{port}`",
        ),
        (", b: { port: 8082 }", "", "slots:", "it has fewer than 2 entries", "two or more"),
        ("b: { port", "B: { port", "slots:", "`B` is not allowed as a name here", "`slots`: the slots"),
        (", b: { port: 8082 }", ", b: {}", "ready:", "`{port}` is not known, because slot `b` has no port", PORTS),
        (SLOTS, "", "ready:", "`{port}` is not known, because the slots have no ports", PORTS),
        (
            "b: { port: 8082 } }\n      program: { command: [/bin/sleep, \"60\"] }",
            "b: {} }\n      program: { command: [/bin/sleep, \"{port}\"] }",
            "program:",
            "`{port}` is not known, because slot `b` has no port",
            PORTS,
        ),
        (
            "b: { port: 8082 } }\n      program: { command: [/bin/sleep, \"60\"] }",
            "b: {} }\n      program: { command: /bin/x, env: { PORT: \"{port}\" } }",
            "program:",
            "`{port}` is not known, because slot `b` has no port",
            PORTS,
        ),
        ("      ready: { http", "      x-ready: { http", "x-ready:", "unknown setting", "did you mean `ready`"),
        (
            "command: [/bin/sleep, \"60\"]",
            "command: 5",
            "program:",
            "`5` does not have the expected form",
            "`command`: the program",
        ),
    ] {
        let plan = PLAN.replace(from, to);
        environment.write("deploy.yml", &plan);
        let refused = environment.run(&["plan", "--release", "r1"]);
        refused.assert_exit(2).assert_stderr_contains(message);
        let line = 1 + plan.lines().position(|line| line.trim_start().starts_with(at)).unwrap();
        assert!(errors_of(&refused).contains(&("P0121".to_owned(), Some(line))), "{to}: {}", refused.stderr);
        assert!(hint_of(&refused).contains(hint), "{to}: {}", refused.stderr);
    }
    environment.write("deploy.yml", PLAN.replace("      ready:", "      stop: idle\n      ready:"));
    environment
        .run(&["plan", "--release", "r1"])
        .assert_exit(2)
        .assert_stderr_contains("`stop`, `program`, `ready` can't be used together");
    let without = PLAN.lines().filter(|line| !line.contains("ready:")).collect::<Vec<_>>().join("\n");
    environment.write("deploy.yml", without);
    environment.run(&["plan", "--release", "r1"]).assert_exit(2).assert_stderr_contains("`ready` is missing");
}
