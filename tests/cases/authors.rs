//! docs/steps.md, followed word for word: in each language its commands make a step that is built, runs, is skipped the second
//! time, and is denied what is not granted, in the same words.
//!
//! What was downloaded or compiled before is kept below cargo's target directory, so that only the first run takes long.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

const GUIDE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/steps.md");

/// A language of the guide.
struct GuideLanguage {
    /// The heading of its section.
    heading: &'static str,
    /// What the section calls its step.
    step: &'static str,
    /// What is kept of a project from one test to the next, all of it or nothing.
    cached_paths: &'static [&'static str],
    /// What must be installed.
    required_programs: &'static [&'static str],
}

#[test]
fn guide_builds_a_step_in_rust() {
    let project = follow_guide(&GuideLanguage {
        heading: "### Rust",
        step: "warm",
        cached_paths: &["target"],
        required_programs: &["cargo"],
    });
    // And then runs it without a plan.
    fs::remove_file(project.join("deploy/hello.txt")).unwrap();
    let [command] = &guide_commands("## Pinned modules")[..] else { panic!("the guide runs the step by one command") };
    let (code, said) = run_in_shell(&project, command);
    assert_eq!(code, 0, "{command}\n{said}");
    let greeting = fs::read_to_string(project.join("deploy/hello.txt")).unwrap();
    assert!(greeting.starts_with("Hello, Ada, from "), "{greeting}");
}

#[test]
fn guide_builds_a_step_in_javascript() {
    let programs = &["node", "npm"];
    let kept = &["node_modules", "package-lock.json"];
    follow_guide(&GuideLanguage {
        heading: "### JavaScript",
        step: "warm-js",
        cached_paths: kept,
        required_programs: programs,
    });
}

#[test]
fn guide_builds_a_step_in_python() {
    follow_guide(&GuideLanguage {
        heading: "### Python",
        step: "warm-py",
        cached_paths: &[".venv"],
        required_programs: &["python3"],
    });
}

#[test]
fn guide_shows_the_example_step() {
    let guide = fs::read_to_string(GUIDE).unwrap();
    let shown = guide.split_once("```rust\nuse pawl_step").unwrap().1.split_once("```").unwrap().0;
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/hello-step/src/lib.rs");
    assert!(fs::read_to_string(example).unwrap().contains(shown), "copy {example} into the guide");
}

/// Follows a language's section; its project, in which the step is built.
#[expect(clippy::disallowed_methods, reason = "nothing stands outside of a test to pass the environment on")]
fn follow_guide(language: &GuideLanguage) -> PathBuf {
    for program in language.required_programs {
        let found = env::split_paths(&env::var_os("PATH").unwrap()).any(|folder| folder.join(program).is_file());
        assert!(found, "{program} is missing: run `cargo xtask setup`");
    }
    let commands = guide_commands(language.heading);
    let [make, enter, build @ .., first, second] = &commands[..] else { panic!("too few commands: {commands:?}") };
    assert!(make.starts_with("runner new-step ") && enter == &format!("cd {}", language.step), "{commands:?}");
    let work_dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("authors").join(language.step);
    let (project, kept) = (work_dir.join(language.step), work_dir.join("kept"));
    fs::create_dir_all(&kept).unwrap();
    let move_all = |from: &Path, to: &Path| {
        if language.cached_paths.iter().all(|name| from.join(name).exists() && !to.join(name).exists()) {
            language.cached_paths.iter().for_each(|name| fs::rename(from.join(name), to.join(name)).unwrap());
        }
    };
    move_all(&project, &kept);
    if project.exists() {
        fs::remove_dir_all(&project).unwrap();
    }
    assert_eq!(run_in_shell(&work_dir, make).0, 0);
    move_all(&kept, &project);
    for command in build {
        let (code, output) = run_in_shell(&project, command);
        assert_eq!(code, 0, "{command}\n{output}");
    }

    let (code, said) = run_in_shell(&project, first);
    assert!(code == 0 && said.contains("(1 ran)"), "{said}");
    assert_eq!(fs::read_to_string(project.join("deploy/hello.txt")).unwrap(), "Hello, Ada, from v1\n");
    let (code, said) = run_in_shell(&project, second);
    assert!(code == 0 && said.contains("1 skipped)"), "{said}");

    // A link out of the grant, and a directory that is not granted: as the guide says, by an edit of the plan.
    std::os::unix::fs::symlink(&work_dir, project.join("deploy/out")).unwrap();
    let plan = fs::read_to_string(project.join("deploy.yml")).unwrap();
    for (file, why) in [
        ("app/out/hello.txt", "cannot write `app/out/hello.txt`: not permitted"),
        ("app/../hello.txt", "`app/../hello.txt` is not a path inside a granted directory"),
        ("other/hello.txt", "the directory `other` is not granted to this step"),
    ] {
        fs::write(project.join("deploy.yml"), plan.replace("app/hello.txt", file)).unwrap();
        let (code, said) = run_in_shell(&project, "runner --local --release v2");
        assert!(code == 1 && said.contains(&format!("caused by: {why}")), "{code} {said}");
    }
    assert!(!work_dir.join("hello.txt").exists() && !project.join("hello.txt").exists());
    project
}

/// The commands of a section of the guide, those apart that install what is needed.
fn guide_commands(heading: &str) -> Vec<String> {
    let guide = fs::read_to_string(GUIDE).unwrap();
    let section = guide.split_once(&format!("\n{heading}\n")).unwrap().1;
    let section = section.split("\n##").next().unwrap();
    let blocks = section.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap());
    blocks.flat_map(str::lines).map(str::to_owned).collect()
}

/// The exit code and all that was said. The author's own environment, with the runner on the PATH.
#[expect(clippy::disallowed_methods, reason = "nothing stands outside of a test to pass the environment on")]
fn run_in_shell(folder: &Path, command: &str) -> (i32, String) {
    let runner = PathBuf::from(env!("CARGO_BIN_EXE_runner"));
    let found = env::var_os("PATH").unwrap();
    let path = [runner.parent().unwrap().to_owned()].into_iter().chain(env::split_paths(&found));
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{command} 2>&1")]).current_dir(folder).env("PATH", env::join_paths(path).unwrap());
    // What cargo set for this test is not an author's.
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        let is_ours =
            name.starts_with("CARGO_") && !name.starts_with("CARGO_HOME") && !name.starts_with("CARGO_REGISTR");
        if is_ours || ["RUSTFLAGS", "RUSTC", "CI", "GITHUB_ACTIONS"].contains(&&*name) {
            shell.env_remove(name);
        }
    }
    let output = shell.output().unwrap();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stdout).into_owned())
}
