//! Several mistakes at once, and mistakes that would hide others.

use super::{COMMANDS, apply_edits, errors_of, hint_of, prepared};
use crate::support::TestEnvironment;

#[test]
fn ten_mistakes_are_listed_at_once() {
    let mut environment = prepared();
    apply_edits(
        &environment,
        &[
            ("file:dist/", "file:dits/"),
            ("dir: migrations,", "dir: migration,"),
            ("lock-timeout: 2s", "lock-timeout: 2 seconds"),
            ("args: [\"${{ release }}\"]", "args: [\"${{ steps.pull.lable }}\"]"),
            ("dir: scripts\n", "dir: script\n"),
            ("inputs: [scripts/warm.sh]", "inputs: [scripts/warm.conf]"),
            ("link: current,", "link: /current,"),
            ("{ /status: up }", "{ status: up }"),
            ("method: GET", "method: POST"),
            ("sql: [{ database: main", "sql: [{ database: mian"),
            ("$ chmod -x scripts/warm.sh", ""),
            ("$ sed -i s/20.11.1/18.19.0/ tools/node", ""),
        ],
        &[],
    );
    let expected = [
        ("P0122", "from:"),
        ("P0122", "dir: migration,"),
        ("P0121", "2 seconds"),
        ("P0233", "program: \"${{ vars.warm }}\""),
        ("P0108", "steps.pull.lable"),
        ("P0122", "dir: script"),
        ("P0204", "warm.conf"),
        ("P0234", "version: \">=20\""),
        ("P0121", "link: /current"),
        ("P0122", "method: POST"),
        ("P0121", "status: up"),
        ("P0122", "database: mian"),
    ];
    let plan = environment.read("deploy.yml");
    let line = |text: &str| plan.lines().position(|line| line.contains(text)).map(|index| index + 1);
    let expected: Vec<_> = expected.iter().map(|(code, text)| ((*code).to_owned(), line(text))).collect();
    let before = environment.tree();
    for command in COMMANDS {
        let refused = environment.run(command);
        assert_eq!(errors_of(refused.assert_exit(2)), expected, "{command:?}\n{}", refused.stderr);
        assert_eq!(refused.stderr.matches("hint: ").count(), expected.len(), "{command:?}\n{}", refused.stderr);
        if command[0] != "doctor" {
            assert_eq!(environment.tree(), before, "{command:?} touched something");
        }
    }
    // A secret without a value is one more, and hides only what is in its own step.
    environment.set_variable("SHOP_TOKEN", "");
    for command in COMMANDS {
        let refused = environment.run(command);
        let codes: Vec<_> = errors_of(refused.assert_exit(2)).into_iter().map(|(code, _)| code).collect();
        let with_secret = ["P0114", "P0122", "P0122", "P0121", "P0121", "P0122", "P0121", "P0122"];
        assert_eq!(codes, with_secret, "{command:?}\n{}", refused.stderr);
    }
}

#[test]
fn error_in_the_text_of_one_step_hides_none_in_the_others() {
    let environment = prepared();
    environment.edit("deploy.yml", "  switch:\n    uses: switch\n", "  switch:\n    uses: switch\n    timout: 5m\n");
    environment.edit("deploy.yml", "{ /status: up }", "{ status: up }");
    for command in COMMANDS {
        let refused = environment.run(command);
        let codes: Vec<_> = errors_of(refused.assert_exit(2)).into_iter().map(|(code, _)| code).collect();
        assert_eq!(codes, ["P0104", "P0121"], "{command:?}\n{}", refused.stderr);
    }
}

#[test]
fn all_secrets_without_a_value_are_listed_with_what_to_export() {
    let environment = prepared();
    let secrets = "secrets: { TOKEN: env:SHOP_TOKEN, DB: env:SHOP_DB, MAIL: env:SHOP_MAIL }";
    environment.edit("deploy.yml", "secrets: { TOKEN: env:SHOP_TOKEN }", secrets);
    environment.edit("deploy.yml", "methods: [GET] }]\n", "methods: [GET] }]\n      secrets: [DB, MAIL]\n");
    for command in COMMANDS {
        let refused = environment.run(command);
        assert_eq!(errors_of(refused.assert_exit(2)).len(), 2, "{}", refused.stderr);
        refused.assert_stderr_contains("`export SHOP_DB=…`").assert_stderr_contains("`export SHOP_MAIL=…`");
    }
}

/// `verify` as a module of somebody: it declares its values, and the runner does not know its name.
#[test]
fn module_of_anybody_gets_the_same_checks() {
    let environment = prepared();
    environment.write("checks.wasm", TestEnvironment::component("verify"));
    environment.edit("deploy.yml", "uses: verify", "uses: ./checks.wasm");
    environment.run(COMMANDS[1]).assert_exit(0);
    environment.edit("deploy.yml", "{ /status: up }", "{ status: up }");
    environment.edit("deploy.yml", "method: GET", "method: PUT");
    for command in COMMANDS {
        let refused = environment.run(command);
        let codes: Vec<_> = errors_of(refused.assert_exit(2)).into_iter().map(|(code, _)| code).collect();
        assert_eq!(codes, ["P0122", "P0121"], "{command:?}\n{}", refused.stderr);
    }
}

#[test]
fn templates_of_other_programs_are_text() {
    let environment = prepared();
    for text in ["{{ .State }}", "{{ release | upper }}", "{{{ release }}}", "$${{ release }}"] {
        environment.edit("deploy.yml", "json: { /status: up }", &format!("json: {{ /status: \"{text}\" }}"));
        environment.run(COMMANDS[1]).assert_exit(0);
        environment.edit("deploy.yml", &format!("json: {{ /status: \"{text}\" }}"), "json: { /status: up }");
    }
    // The text of a lookup itself is possible through a variable.
    environment.edit("deploy.yml", "port: 8080", "port: 8080, template: \"{{ release }}\"");
    environment.edit("deploy.yml", "json: { /status: up }", "json: { /status: \"${{ vars.template }}\" }");
    environment.run(COMMANDS[1]).assert_exit(0);
}

#[test]
fn misspelled_step_of_an_option_is_found() {
    let environment = prepared();
    for arguments in [
        &["--local", "--release", "r1", "--until", "swich"][..],
        &["plan", "--release", "r1", "--until", "swich"],
        &["plan", "--release", "r1", "--rerun", "swich"],
        &["plan", "--release", "r1", "--start-from", "swich"],
    ] {
        let refused = environment.run(arguments);
        refused.assert_exit(2).assert_stderr_contains("error[P0205]");
        assert_eq!(hint_of(&refused), "did you mean `switch`?");
    }
}
