//! What README and docs show is what there is: the example's plan, and every output of the runner.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::support::{
    TestEnvironment,
    doc_blocks::{check_session, command_line, page_path},
};

const BROKEN_MIGRATION: &str = "CREATE TABLE order (id INTEGER PRIMARY KEY);\n";
const FIXED_MIGRATION: &str = "CREATE TABLE orders (id INTEGER PRIMARY KEY);\n";

fn read_page(path: &str) -> String {
    fs::read_to_string(page_path(path)).unwrap()
}

/// The example as it is in the repository, with two releases.
fn example() -> TestEnvironment {
    let environment = TestEnvironment::new();
    environment.write("deploy.yml", read_page("examples/shop/deploy.yml"));
    environment.pack("r1");
    environment.pack("r2");
    environment
}

/// A command and what a terminal shows of it.
fn session(environment: &TestEnvironment, arguments: &[&str], exit: i32) -> String {
    let (code, shown) = environment.run_with_one_stream(arguments);
    assert_eq!(code, Some(exit), "{shown}");
    format!("$ {}\n{shown}", command_line(arguments))
}

#[test]
fn readme_shows_the_example_plan() {
    let block = format!("```yaml\n{}```", read_page("examples/shop/deploy.yml"));
    assert!(read_page("README.md").contains(&block), "copy examples/shop/deploy.yml into the README");
}

#[test]
fn readme_shows_the_first_plans_session() {
    let environment = example();
    let (first, second) = (["--local", "--release", "r1"], ["--local", "--release", "r2"]);
    let repeated = [session(&environment, &first, 0), session(&environment, &first, 0)].join("\n");
    environment.write("migrations/0003_orders.sql", BROKEN_MIGRATION);
    let failed = session(&environment, &second, 1);
    environment.write("migrations/0003_orders.sql", FIXED_MIGRATION);
    let resumed = session(&environment, &second, 0);
    let why = session(&environment, &["why", "pull"], 0);
    check_session("README.md", &[repeated, failed, resumed, why], &environment.shown_paths());
}

/// The log of a job: what is in a group is folded.
#[test]
fn github_log_shows_a_resumed_attempt() {
    let mut environment = example();
    environment.run(&["modules", "--accept"]).assert_exit(0);
    environment.set_variable("GITHUB_ACTIONS", "true");
    environment.run(&["--release", "r1"]).assert_exit(0);
    environment.write("migrations/0003_orders.sql", BROKEN_MIGRATION);
    environment.run(&["--release", "r2"]).assert_exit(1);
    environment.write("migrations/0003_orders.sql", FIXED_MIGRATION);
    let log = session(&environment, &["--release", "r2"], 0);
    let mut shown = String::new();
    let mut is_folded = false;
    for line in log.lines() {
        if let Some(title) = line.strip_prefix("::group::") {
            shown += &format!("▸ {title}\n");
            is_folded = true;
        } else if line == "::endgroup::" {
            is_folded = false;
        } else if !is_folded && !line.starts_with("::") {
            shown += &format!("{line}\n");
        }
    }
    check_session("docs/github-log.md", &[shown], &environment.shown_paths());
}

/// The Markdown files below a folder, without the pages of errors, which have their own tests.
pub(super) fn pages_below(folder: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let (folders, mut pages): (Vec<_>, Vec<_>) = paths.partition(|path| path.is_dir());
    pages.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    pages.extend(folders.iter().filter(|path| !path.ends_with("errors")).flat_map(|folder| pages_below(folder)));
    pages
}

/// The plans on the pages, and the parts of plans as whole ones. What they name is missing on this machine; they are valid.
#[test]
fn plans_on_pages_are_valid() {
    const STEPS: &str =
        "steps: { check: { uses: verify, with: { files: [{ path: VERSION }] }, grants: { dirs: { app: ./app } } } }\n";
    let mut count = 0;
    for page in [
        "docs/plan.md",
        "docs/zero-downtime.md",
        "docs/environments.md",
        "docs/migrate.md",
        "docs/checks.md",
        "docs/hosts.md",
    ] {
        let text = read_page(page);
        for block in text.split("```yaml\n").skip(1) {
            let mut plan = block.split("```").next().unwrap().to_owned();
            if !plan.starts_with("version: 1\n") {
                plan = format!("version: 1\napp: shop\n{plan}");
            }
            if !plan.contains("\nsteps:\n") {
                plan += STEPS;
            }
            let mut environment = TestEnvironment::with_plan(&plan);
            environment.set_variable("TEST_DATABASE_URL", "sqlite:./shop.db");
            environment.set_variable("DB_PASSWORD", "hunter2-hunter2");
            environment.set_variable("DEPLOY_TOKEN", "hunter3-hunter3");
            // No host of a page is there; ssh says so at once.
            environment.write_program("bin/ssh", "#!/bin/sh\nexit 255\n");
            #[expect(clippy::disallowed_methods, reason = "tests pass on where programs are")]
            let path = std::env::var("PATH").unwrap();
            environment.set_variable("PATH", &format!("{}:{path}", environment.path("bin").display()));
            let in_test: &[&str] = if plan.contains("\nenvironments:\n") { &["--env", "test"] } else { &[] };
            let output = environment.run(&[&["plan", "--release", "r1"], in_test].concat());
            assert!(!output.stderr.contains("error[P01"), "{page}:\n{plan}\n{}", output.stderr);
            count += 1;
        }
    }
    assert!(count >= 5, "{count} plans");
}

/// A new block with an output needs a test above.
#[test]
fn outputs_are_on_checked_pages_only() {
    // tests/cases/init.rs checks the second one.
    let checked = ["README.md", "docs/init.md", "docs/github-log.md"].map(page_path);
    let mut pages: Vec<_> =
        ["docs", "examples"].into_iter().flat_map(|folder| pages_below(&page_path(folder))).collect();
    pages.push(page_path("README.md"));
    // tests/recipes follows each of its pages.
    let is_recipe = |path: &PathBuf| path.starts_with(page_path("docs/recipes"));
    for path in pages.iter().filter(|path| !checked.contains(path) && !is_recipe(path)) {
        let text = fs::read_to_string(path).unwrap();
        let mut is_block = false;
        for line in text.lines() {
            is_block ^= line.starts_with("```");
            let is_output =
                ["$ runner ", "error[P", "  start  ", "  skip   "].iter().any(|start| line.starts_with(start));
            assert!(!(is_block && is_output), "{}: no test produces {line:?}", path.display());
        }
    }
}
