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
