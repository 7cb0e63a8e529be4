//! Completion scripts, asked by the shells that they are for, and manual pages.

use std::{fs, process::Command};

use crate::support::{TestEnvironment, doc_blocks::fenced_block};

#[test]
fn bash_completes_commands_and_options() {
    let environment = TestEnvironment::new();
    let script = environment.run(&["completions", "bash"]);
    environment.write("runner.bash", &script.assert_exit(0).stdout);
    let ask = |words: &str| {
        let asked = format!(
            "source runner.bash; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _runner runner \"${{COMP_WORDS[$COMP_CWORD]}}\" x; echo \"${{COMPREPLY[*]}}\""
        );
        let output = Command::new("bash").args(["--norc", "-c", &asked]).current_dir(environment.path("")).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    assert_eq!(ask("runner pub"), "publish\n");
    let options = ask("runner pack --re");
    assert_eq!(options, "--render\n");
}

#[test]
fn fish_completes_commands() {
    let environment = TestEnvironment::new();
    environment.write("runner.fish", &environment.run(&["completions", "fish"]).assert_exit(0).stdout);
    let asked = "source runner.fish; complete -C 'runner roll'";
    let output = Command::new("fish").args(["--no-config", "-c", asked]).current_dir(environment.path("")).output();
    let output = output.expect("fish can't be started; `cargo xtask setup` installs it");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.starts_with("rollback\t"), "{said}");
}

#[test]
fn each_command_has_a_manual_page() {
    let environment = TestEnvironment::new();
    environment.run(&["man", "man1"]).assert_exit(0);
    let pages = environment.list("man1");
    for page in ["runner.1", "runner-pack.1", "runner-publish.1", "runner-lock-release.1"] {
        assert!(pages.iter().any(|name| name == page), "{pages:?}");
    }
    assert!(!pages.iter().any(|name| name.contains("agent")), "{pages:?}");
    let text = fs::read_to_string(environment.path("man1/runner-pack.1")).unwrap();
    assert!(text.starts_with(".ie") && text.contains("SOURCE_DATE_EPOCH"), "{text}");
}

#[test]
fn commands_of_the_page_write_the_scripts() {
    let environment = TestEnvironment::new();
    let folders = [".local/share/bash-completion/completions", ".config/fish/completions", ".zfunc"];
    folders.iter().for_each(|folder| fs::create_dir_all(environment.home(folder)).unwrap());
    let script = fenced_block("docs/shell.md", "completions bash").replace("runner completions", "\"$0\" completions");
    environment.run_script(&script).assert_exit(0);
    for (file, start) in folders.into_iter().zip(["runner", "runner.fish", "_runner"]) {
        assert!(fs::read_to_string(environment.home(file).join(start)).unwrap().contains("rollback"), "{file}");
    }
}
