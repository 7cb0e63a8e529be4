//! Mistakes that can be found before anything is done. `runner plan`, `runner doctor` and a deployment refuse each with the same code
//! and line, nothing is touched, and what the hint says makes the error go away.

mod hints;
mod mistakes;
mod pasted;
mod programs;
mod slots;
mod together;

use std::{fs, os::unix::fs::PermissionsExt as _, process::Command};

use crate::support::{RunnerOutput, TestEnvironment};

/// A plan with every kind of check, and nothing wrong with it. `ROOT` is the plan's folder.
const PLAN: &str = r#"version: 1
app: shop
secrets: { TOKEN: env:SHOP_TOKEN }
vars: { root: ./deploy, port: 8080, warm: ROOT/scripts/warm.sh }
steps:
  pull:
    uses: pull
    with: { from: "file:dist/shop-${{ release }}.tar.zst", into: app }
    grants: { dirs: { app: "${{ vars.root }}", dist: "./dist:ro" } }
  migrate:
    uses: migrate
    with: { dir: migrations, database: main, lock-timeout: 2s }
    grants: { dirs: { migrations: "./migrations:ro" }, databases: { main: "sqlite:${{ vars.root }}/shop.db" } }
  warm:
    uses: run
    trust: host
    with:
      program: "${{ vars.warm }}"
      args: ["${{ release }}"]
      dir: scripts
      env: { WARM: all }
      inputs: [scripts/warm.sh]
      marker: app/.warm
      requires: [{ program: node, version: ">=20" }]
    grants:
      dirs: { app: "${{ vars.root }}", scripts: "./scripts:ro" }
      programs: [["${{ vars.warm }}", r1], [node, --version]]
      env: { WARM: , PATH: "ROOT/tools:/bin", TOKEN: "${{ secrets.TOKEN }}" }
  switch:
    uses: switch
    with: { link: current, in: app }
    grants: { dirs: { app: "${{ vars.root }}" } }
  verify:
    uses: verify
    with:
      http: [{ url: "http://127.0.0.1:${{ vars.port }}/health", method: GET, json: { /status: up }, timeout: 2s }]
      tcp: ["127.0.0.1:${{ vars.port }}"]
      files: [{ path: current/VERSION, in: app, equals: "${{ release }}" }]
      sql: [{ database: main, query: "select count(*) from products", equals: 2 }]
    grants:
      dirs: { app: "${{ vars.root }}:ro" }
      http: [{ origin: "http://127.0.0.1:${{ vars.port }}", methods: [GET] }]
      tcp: ["127.0.0.1:${{ vars.port }}"]
      databases: { main: "sqlite:${{ vars.root }}/shop.db" }
"#;

/// A folder with the plan and everything that it needs; nothing was deployed.
fn prepared() -> TestEnvironment {
    let mut environment = TestEnvironment::new();
    let root = environment.path("").display().to_string();
    environment.write("deploy.yml", PLAN.replace("ROOT", root.trim_end_matches('/')));
    environment.pack("r1");
    write_program(&environment, "scripts/warm.sh", "#!/bin/sh\ntouch ran\n");
    write_program(&environment, "tools/node", "#!/bin/sh\necho v20.11.1\n");
    environment.set_variable("SHOP_TOKEN", "correct-horse-battery");
    environment
}

fn write_program(environment: &TestEnvironment, path: &str, script: &str) {
    environment.write(path, script);
    fs::set_permissions(environment.path(path), fs::Permissions::from_mode(0o755)).unwrap();
}

/// A deployment, a preview and an examination, in this order: the last one creates the writable directories.
const COMMANDS: [&[&str]; 3] =
    [&["--local", "--release", "r1"], &["plan", "--release", "r1"], &["doctor", "--release", "r1"]];

/// One mistake in the plan, or on the machine.
struct Mistake {
    name: &'static str,
    /// The texts of the plan that are replaced; or, after `$ `, a shell command in the plan's folder.
    edits: &'static [(&'static str, &'static str)],
    code: &'static str,
    /// A text of the line that is marked.
    at: &'static str,
    /// A part of the hint.
    hint: &'static str,
    /// What is replaced to follow the hint, as in `edits`. `$1` is the first text in backticks of the hint, `$2` the second.
    fix: &'static [(&'static str, &'static str)],
}

/// Makes the edits in the plan, or runs the commands.
fn apply_edits(environment: &TestEnvironment, edits: &[(&str, &str)], quoted: &[&str]) {
    let fill = |text: &str| {
        let numbered = quoted.iter().enumerate().rev();
        numbered.fold(text.to_owned(), |text, (index, quoted)| text.replace(&format!("${}", index + 1), quoted))
    };
    for (from, to) in edits {
        match from.strip_prefix("$ ") {
            None => environment.edit("deploy.yml", &fill(from), &fill(to)),
            Some(script) => {
                let status = Command::new("sh").args(["-ec", &fill(script)]).current_dir(environment.path("")).status();
                assert!(status.unwrap().success(), "{script}");
            }
        }
    }
}

/// The errors of a command: code, and line in the plan.
fn errors_of(output: &RunnerOutput) -> Vec<(String, Option<usize>)> {
    let mut errors = Vec::new();
    for line in output.stderr.lines() {
        if let Some(rest) = line.strip_prefix("error[") {
            errors.push((rest[..5].to_owned(), None));
        } else if let Some((_, position)) = line.split_once("--> deploy.yml:") {
            let line = position.split(':').next().and_then(|line| line.parse().ok());
            if let Some(last) = errors.last_mut() {
                last.1 = line;
            }
        }
    }
    errors
}

/// The first hint that a command shows.
fn hint_of(output: &RunnerOutput) -> String {
    let hint = output.stderr.lines().find_map(|line| line.trim_start().strip_prefix("hint: "));
    hint.unwrap_or_else(|| panic!("no hint in\n{}", output.stderr)).to_owned()
}

fn check_mistake(mistake: &Mistake) {
    let name = mistake.name;
    let environment = prepared();
    apply_edits(&environment, mistake.edits, &[]);
    let plan = environment.read("deploy.yml");
    let line = 1 + plan.lines().position(|line| line.contains(mistake.at)).unwrap_or_else(|| panic!("{name}: {plan}"));
    let before = environment.tree();
    let mut hint = String::new();
    for command in COMMANDS {
        let refused = environment.run(command);
        assert_eq!(refused.code, Some(2), "{name}: {command:?}\n{}{}", refused.stdout, refused.stderr);
        let expected = vec![(mistake.code.to_owned(), Some(line))];
        assert_eq!(errors_of(&refused), expected, "{name}: {command:?}\n{}", refused.stderr);
        hint = hint_of(&refused);
        assert!(hint.contains(mistake.hint), "{name}: {command:?}\n{}", refused.stderr);
        if command[0] != "doctor" {
            assert_eq!(environment.tree(), before, "{name}: {command:?} touched something");
        }
    }
    assert!(!environment.exists("scripts/ran") && !environment.exists("deploy/releases"), "{name}");
    let quoted: Vec<_> = hint.split('`').skip(1).step_by(2).collect();
    apply_edits(&environment, mistake.fix, &quoted);
    for command in &COMMANDS[1..] {
        let fixed = environment.run(command);
        assert_eq!(fixed.code, Some(0), "{name}: {command:?}, by the hint {hint:?}\n{}", fixed.stderr);
    }
}

fn check_mistakes(mistakes: &[Mistake]) {
    mistakes.iter().for_each(check_mistake);
}

#[test]
fn plan_without_a_mistake_is_accepted() {
    let environment = prepared();
    for command in &COMMANDS[1..] {
        environment.run(command).assert_exit(0);
    }
    assert!(!environment.exists("scripts/ran"));
}
