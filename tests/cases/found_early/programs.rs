//! Mistakes with programs: the table, what is not a mistake, and the same words when a step meets one.

use super::{COMMANDS, Mistake, check_mistakes, errors_of, prepared, write_program};
use crate::support::TestEnvironment;

#[test]
fn mistakes_in_programs() {
    check_mistakes(&[
        Mistake {
            name: "arguments that are not granted",
            edits: &[("args: [\"${{ release }}\"]", "args: [\"${{ release }}\", --all]")],
            code: "P0122",
            at: "program: \"${{ vars.warm }}\"",
            hint: "to `programs:` in the step's `grants:`",
            fix: &[("programs: [", "programs: [$1, ")],
        },
        Mistake {
            name: "program that is not there",
            edits: &[("scripts/warm.sh }", "scripts/wram.sh }")],
            code: "P0233",
            at: "program: \"${{ vars.warm }}\"",
            hint: "correct the path",
            fix: &[("scripts/wram.sh }", "scripts/warm.sh }")],
        },
        Mistake {
            name: "program that is not executable",
            edits: &[("$ chmod -x scripts/warm.sh", "")],
            code: "P0233",
            at: "program: \"${{ vars.warm }}\"",
            hint: "run `chmod +x ",
            fix: &[("$ $1", "")],
        },
        Mistake {
            name: "interpreter that is not there",
            edits: &[("$ sed -i 1s,/bin/sh,/bin/no-such-shell, scripts/warm.sh", "")],
            code: "P0233",
            at: "program: \"${{ vars.warm }}\"",
            hint: "install `/bin/no-such-shell`, or correct the first line",
            fix: &[("$ sed -i 1s,$1,/bin/sh, scripts/warm.sh", "")],
        },
        Mistake {
            name: "interpreter that is not on the PATH",
            edits: &[("$ sed -i '1s,/bin/sh,/usr/bin/env no-such-python,' scripts/warm.sh", "")],
            code: "P0233",
            at: "program: \"${{ vars.warm }}\"",
            hint: "install `no-such-python`",
            fix: &[("$ sed -i '1s,/usr/bin/env $1,/bin/sh,' scripts/warm.sh", "")],
        },
        Mistake {
            name: "script with the line ends of Windows",
            edits: &[("$ sed -i 's/$/\\r/' scripts/warm.sh", "")],
            code: "P0233",
            at: "program: \"${{ vars.warm }}\"",
            hint: "run `sed -i ",
            fix: &[("$ $1", "")],
        },
        Mistake {
            name: "script without its first line",
            edits: &[("$ sed -i 1d scripts/warm.sh", "")],
            code: "P0233",
            at: "program: \"${{ vars.warm }}\"",
            hint: "begin a script with a line such as `#!/bin/sh`",
            fix: &[("$ sed -i '1i $1' scripts/warm.sh", "")],
        },
        Mistake {
            name: "script with a byte order mark",
            edits: &[("$ sed -i '1s/^/\\xEF\\xBB\\xBF/' scripts/warm.sh", "")],
            code: "P0233",
            at: "program: \"${{ vars.warm }}\"",
            hint: "run `sed -i ",
            fix: &[("$ $1", "")],
        },
        Mistake {
            name: "program that is empty",
            edits: &[("$ : > scripts/warm.sh", "")],
            code: "P0233",
            at: "program: \"${{ vars.warm }}\"",
            hint: "write the program",
            fix: &[("$ echo '#!/bin/sh' > scripts/warm.sh", "")],
        },
        Mistake {
            name: "directory instead of a program",
            edits: &[("scripts/warm.sh }", "scripts }")],
            code: "P0233",
            at: "program: \"${{ vars.warm }}\"",
            hint: "name a program in it",
            fix: &[("scripts }", "scripts/warm.sh }")],
        },
        Mistake {
            name: "name that is not on the PATH",
            edits: &[
                ("/scripts/warm.sh }", "/scripts/warm.sh, tool: sed }"),
                ("program: node", "program: no-such-node"),
                ("[node,", "[no-such-node,"),
            ],
            code: "P0233",
            at: "program: no-such-node",
            hint: "install it, or add its folder to the `PATH`",
            fix: &[("$ cp tools/node tools/no-such-node", "")],
        },
        Mistake {
            name: "working directory that does not exist",
            edits: &[("dir: scripts\n", "dir: scripts/warm\n")],
            code: "P0202",
            at: "dir: scripts/warm",
            hint: "create it",
            fix: &[("$ mkdir scripts/warm", "")],
        },
        Mistake {
            name: "misspelled working directory",
            edits: &[("dir: scripts\n", "dir: script\n")],
            code: "P0122",
            at: "dir: script",
            hint: "did you mean `scripts`?",
            fix: &[("dir: script\n", "dir: $1\n")],
        },
        Mistake {
            name: "input that does not exist",
            edits: &[("inputs: [scripts/warm.sh]", "inputs: [scripts/warm.conf]")],
            code: "P0204",
            at: "scripts/warm.conf",
            hint: "create it",
            fix: &[("$ touch scripts/warm.conf", "")],
        },
        Mistake {
            name: "misspelled directory of the marker",
            edits: &[("marker: app/.warm", "marker: ap/.warm")],
            code: "P0122",
            at: "marker: ap",
            hint: "did you mean `app`?",
            fix: &[("marker: ap/", "marker: $1/")],
        },
        Mistake {
            name: "misspelled directory of what is created",
            edits: &[("marker: app/.warm", "creates: ap/.warm")],
            code: "P0122",
            at: "creates: ap",
            hint: "did you mean `app`?",
            fix: &[("creates: ap/", "creates: $1/")],
        },
        Mistake {
            name: "probe that is not granted",
            edits: &[("marker: app/.warm", "probe: [/bin/sh, -c, \"exit 1\"]")],
            code: "P0122",
            at: "probe:",
            hint: "add `[\"/bin/sh\", \"-c\", \"exit 1\"]` to `programs:`",
            fix: &[("programs: [", "programs: [$1, ")],
        },
        Mistake {
            name: "variable that is not left open",
            edits: &[("env: { WARM: all }", "env: { WARM: all, COLD: none }")],
            code: "P0122",
            at: "COLD: none",
            hint: "add `COLD:` to `env:`",
            fix: &[("env: { WARM: ,", "env: { $1 , WARM: ,")],
        },
        Mistake {
            name: "variable that the grant sets already",
            edits: &[("env: { WARM: all }", "env: { WARM: all, TOKEN: none }")],
            code: "P0121",
            at: "TOKEN: none",
            hint: "remove it here",
            fix: &[(", TOKEN: none", "")],
        },
        Mistake {
            name: "runtime that is too old",
            edits: &[("$ sed -i s/20.11.1/18.19.0/ tools/node", "")],
            code: "P0234",
            at: "version: \">=20\"",
            hint: "install a version that fits",
            fix: &[("$ sed -i s/18.19.0/22.3.0/ tools/node", "")],
        },
        Mistake {
            name: "runtime that does not tell its version",
            edits: &[("$ sed -i s/20.11.1/unknown/ tools/node", "")],
            code: "P0234",
            at: "version: \">=20\"",
            hint: "set `args:`",
            fix: &[
                ("$ sed -i 's/echo.*/test \"$*\" != -v || echo 20.1/' tools/node", ""),
                ("version: \">=20\"", "$1 [-v], version: \">=20\""),
                ("[node, --version]", "[node, -v]"),
            ],
        },
        Mistake {
            name: "range that is none",
            edits: &[("version: \">=20\"", "version: at least 20")],
            code: "P0121",
            at: "at least 20",
            hint: "write `>=20`",
            fix: &[("at least 20", "\"$1\"")],
        },
        Mistake {
            name: "installer that is no step before",
            edits: &[("dir: scripts\n", "dir: scripts\n      installed-by: migrte\n")],
            code: "P0121",
            at: "installed-by",
            hint: "did you mean `migrate`?",
            fix: &[("installed-by: migrte", "installed-by: $1")],
        },
    ]);
}

/// Two steps that run programs; what the second one needs is made by the first.
const MAKING_PLAN: &str = r#"version: 1
app: shop
steps:
  build:
    uses: run
    trust: host
    with: { program: /bin/sh, args: [build.sh], dir: src }
    grants: { dirs: { src: "./src:ro" }, programs: [[/bin/sh, build.sh]] }
  start:
    uses: run
    trust: host
    with: { program: "${{ vars.tool }}", dir: src/out, inputs: [src/out/app] }
    grants: { dirs: { src: "./src:ro" }, programs: [["${{ vars.tool }}"]] }
vars: { tool: TOOL }
"#;
const BUILD_SCRIPT: &str = "mkdir -p out\nprintf '#!/bin/sh\\ntouch started\\n' > out/app\nchmod +x out/app\n";

fn making(tool: &str) -> TestEnvironment {
    let environment = TestEnvironment::with_plan(&MAKING_PLAN.replace("TOOL", tool));
    environment.write("src/build.sh", BUILD_SCRIPT);
    environment
}

#[test]
fn what_an_earlier_step_makes_is_not_missed() {
    let environment = making("none");
    let tool = environment.path("src/out/app").display().to_string();
    environment.edit("deploy.yml", "tool: none", &format!("tool: {tool}"));
    environment.run(COMMANDS[1]).assert_exit(0);
    environment.run(COMMANDS[0]).assert_exit(0);
    assert!(environment.exists("src/out/started"));
}

#[test]
fn program_that_an_earlier_step_installs_elsewhere_is_named() {
    let environment = making("none");
    // Outside of the plan's folder, as `/usr/local/bin` is.
    let tool = environment.home("bin/app").display().to_string();
    environment.edit("deploy.yml", "tool: none", &format!("tool: {tool}"));
    environment.write("src/build.sh", format!("{BUILD_SCRIPT}mkdir -p {tool}\nrmdir {tool}\ncp out/app {tool}\n"));
    let refused = environment.run(COMMANDS[0]);
    refused.assert_exit(2).assert_stderr_contains("error[P0233]").assert_stderr_contains("`installed-by: build`");
    assert!(!environment.exists(".pawl"));
    environment.edit("deploy.yml", "dir: src/out", "installed-by: build, dir: src/out");
    environment.run(COMMANDS[1]).assert_exit(0);
    environment.run(COMMANDS[0]).assert_exit(0);
    assert!(environment.exists("src/out/started"));
}

#[test]
fn setup_looks_for_programs_after_its_steps() {
    for (installed, exit) in [("bin/app", 0), ("bin/other", 2)] {
        let environment = making("none");
        let tool = environment.home("bin/app").display().to_string();
        let plan = environment
            .read("deploy.yml")
            .replace("steps:\n  build", "setup:\n  build")
            .replace("  start:", "steps:\n  start:");
        environment.write("deploy.yml", plan.replace("tool: none", &format!("tool: {tool}")));
        let installed = environment.home(installed).display().to_string();
        environment.write(
            "src/build.sh",
            format!("{BUILD_SCRIPT}mkdir -p {installed}\nrmdir {installed}\ncp out/app {installed}\n"),
        );
        // The inputs are missed too, since no step of the deployment makes them.
        let refused = environment.run(COMMANDS[0]);
        refused
            .assert_exit(2)
            .assert_stderr_contains("error[P0233]")
            .assert_stderr_contains("run `runner setup --local` first");
        let setup = environment.run(&["setup", "--local", "--release", "r1"]);
        setup.assert_exit(exit);
        if exit == 2 {
            setup.assert_stderr_contains("error[P0233]");
        }
        assert_eq!(environment.exists("src/out/started"), exit == 0);
        assert!(environment.exists("src/out/app"), "the setup step ran");
    }
}

/// The program is made by an earlier step, so only the step itself can tell what is wrong with it.
#[test]
fn step_that_can_not_start_its_program_says_why() {
    for (script, expected) in [
        ("", "there is no such file"),
        ("mkdir -p out/app", "it is a directory"),
        ("touch out/app", "is not executable"),
        (
            "printf '#!/bin/no-such-shell\\n' > out/app; chmod +x out/app",
            "names `/bin/no-such-shell`, and there is no such file",
        ),
        ("printf '#!/bin/sh\\r\\n' > out/app; chmod +x out/app", "ends in a carriage return"),
        ("echo x > out/app; chmod +x out/app", "neither an executable for this system nor a script"),
    ] {
        let environment = making("none");
        let tool = environment.path("src/out/app").display().to_string();
        environment.edit("deploy.yml", "tool: none", &format!("tool: {tool}"));
        environment.edit("deploy.yml", ", inputs: [src/out/app]", "");
        environment.write("src/build.sh", format!("mkdir -p out\n{script}\n"));
        let failed = environment.run(COMMANDS[0]);
        failed.assert_exit(1).assert_stderr_contains("error[P0301]");
        assert!(failed.stderr.replace('\n', " ").contains(expected), "{script}: {}", failed.stderr);
    }
}

#[test]
fn program_whose_path_is_known_later_is_not_looked_for() {
    let environment = prepared();
    environment.edit(
        "deploy.yml",
        "program: \"${{ vars.warm }}\"",
        "program: \"/opt/${{ steps.pull.label }}/warm.sh\"",
    );
    environment.edit("deploy.yml", "programs: [", "programs: [[/opt/r1/warm.sh, r1], ");
    environment.run(COMMANDS[1]).assert_exit(0);
    // The arguments that are known must fit.
    environment.edit("deploy.yml", "[/opt/r1/warm.sh, r1]", "[/opt/r1/warm.sh, r2]");
    environment.edit("deploy.yml", "[\"${{ vars.warm }}\", r1]", "[\"${{ vars.warm }}\", r3]");
    environment.edit("deploy.yml", "marker: app/.warm", "probe: [/bin/no-such-probe]");
    let refused = environment.run(COMMANDS[1]);
    assert_eq!(errors_of(refused.assert_exit(2)).len(), 2, "{}", refused.stderr);
}

#[test]
fn program_on_the_path_of_the_step_is_found() {
    let environment = prepared();
    write_program(&environment, "tools/warm", "#!/usr/bin/env sh\ntouch ran\n");
    environment.edit("deploy.yml", "program: \"${{ vars.warm }}\"", "program: warm");
    environment.edit("deploy.yml", "programs: [", "programs: [[warm, \"*\"], ");
    environment.edit("deploy.yml", "/tools:/bin", "/tools:/bin:/usr/bin");
    environment.run(COMMANDS[1]).assert_exit(0);
    environment.edit("deploy.yml", "/tools:/bin:/usr/bin", "/bin:/usr/bin");
    let refused = environment.run(COMMANDS[1]);
    refused.assert_exit(2).assert_stderr_contains("can't run `warm`: it is not in any folder on the step's PATH, ");
}

#[test]
fn program_in_the_folder_of_the_plan_is_meant_without_its_path() {
    let environment =
        TestEnvironment::with_plan("version: 1\napp: shop\nsteps:\n  build:\n    program: [ok.sh]\n    trust: host\n");
    write_program(&environment, "ok.sh", "#!/bin/sh\n");
    let refused = environment.run(COMMANDS[0]);
    refused.assert_exit(2).assert_stderr_contains("did you mean `./ok.sh`, in the plan's folder?");
    environment.edit("deploy.yml", "[ok.sh]", "[./ok.sh]");
    environment.run(COMMANDS[0]).assert_exit(0);
}

/// Each script that can't be run is told, also after a step whose program might have changed it, and together with the other mistakes.
#[test]
fn all_scripts_that_cannot_be_run_are_told_at_once() {
    let environment = TestEnvironment::with_plan(
        "version: 1\napp: shop\nsteps:\n  one: { program: [./one.sh], trust: host }\n  two: { program: [./two.sh], trust: host }\n  \
         three: { program: [/bin/chmod, +x, ./four.sh], trust: host }\n  four: { program: [./four.sh], trust: host }\n",
    );
    for name in ["one.sh", "two.sh", "four.sh"] {
        environment.write(name, "#!/bin/sh\n");
    }
    let plan = environment.run(&["plan", "--release", "r1"]);
    plan.assert_exit(2);
    let told: Vec<&str> = plan.stderr.lines().filter(|line| line.starts_with("error[P0233]")).collect();
    assert_eq!(told.len(), 2, "{}", plan.stderr);
    assert!(told[0].contains("`./one.sh`") && told[1].contains("`./two.sh`"), "{told:?}");
}

/// A wrong value of a step's own key hides no mistake in its configuration.
#[test]
fn mistake_in_a_key_of_a_step_hides_none_in_its_configuration() {
    let environment = TestEnvironment::with_plan(
        "version: 1\napp: shop\nsteps:\n  verify:\n    timeout: 5y\n    with: { http: [{ url: \"http://127.0.0.1:8001/\" }], interval: 5x }\n",
    );
    let plan = environment.run(&["plan", "--release", "r1"]);
    plan.assert_exit(2).assert_stderr_contains("error[P0118]: `5y` is not a duration");
    plan.assert_stderr_contains("at `interval`: `5x` is not a duration");
}
