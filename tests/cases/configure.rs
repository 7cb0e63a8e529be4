//! Configuration files: rendered, checked, put in place, and put back.

use std::{fs, os::unix::fs::PermissionsExt as _};

use crate::support::{TestEnvironment, TracedCall, doc_blocks::fenced_block};

const TEMPLATE: &str = "{% for port in ports %}\nlisten {{ port }};\n{% endfor %}\nrelease {{ release }};\n";

/// A plan with one template, whose files `check` and `notify` are told of.
fn plan(with: &str) -> String {
    format!(
        r#"version: 1
app: shop
steps:
  configure:
    trust: host
    with:
      templates: {{ conf/site.j2: etc/site.conf }}
      values: {{ ports: [8080, 8081] }}
{with}
    grants:
      dirs: {{ conf: "./conf:ro" }}
      renders: {{ etc: ./etc }}
      programs: [[/bin/sh, "**"]]
  after:
    program: [/bin/sh, -c, "test ! -e broken"]
    trust: host
    with: {{ dir: work }}
    grants: {{ dirs: {{ work: ".:ro" }}, programs: [[/bin/sh, "**"]] }}
"#
    )
}

fn configured(with: &str) -> TestEnvironment {
    let environment = TestEnvironment::with_plan(&plan(with));
    environment.write("conf/site.j2", TEMPLATE);
    environment
}

fn site(environment: &TestEnvironment) -> String {
    environment.read("etc/site.conf")
}

#[test]
fn plan_of_the_page_writes_the_files() {
    let mut environment = TestEnvironment::with_plan(&fenced_block("docs/configure.md", "version: 1"));
    environment.set_variable("DB_PASSWORD", "correct-horse-battery");
    environment.write("conf/env.j2", "# listen on {{ port }}\nDB_PASSWORD={{ secrets.DB_PASSWORD }}\n");
    environment.write("conf/site.j2", "listen {{ port }}; # {{ workers }} {{ app }} {{ environment }} {{ release }}\n");
    environment.deploy("r1", &[]).assert_exit(0);
    assert_eq!(environment.read("etc/shop.env"), "# listen on 8080\nDB_PASSWORD=correct-horse-battery\n");
    assert_eq!(site(&environment), "listen 8080; # 4 shop default r1\n");
    let mode = |path: &str| fs::metadata(environment.path(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("etc/shop.env"), mode("etc/site.conf")), (0o640, 0o600));
    environment.deploy("r1", &[]).assert_exit(0);
    let journals = fs::read_dir(environment.path(".pawl/shop/default")).unwrap().flatten().map(|file| file.path());
    let text: String = journals.filter_map(|path| fs::read_to_string(path).ok()).collect();
    assert!(text.contains("site.conf") && !text.contains("correct-horse-battery"));
}

#[test]
fn files_are_rendered_once_and_a_changed_template_is_noticed() {
    let environment = configured("      notify: [/bin/sh, -c, \"echo told >> told\"]");
    environment.deploy("r1", &[]).assert_exit(0);
    assert_eq!(site(&environment), "listen 8080;\nlisten 8081;\nrelease r1;\n");
    let again = environment.deploy("r1", &[]);
    assert!(again.decisions().iter().any(|decision| decision.starts_with("configure skip")), "{:?}", again.decisions());
    environment.edit("conf/site.j2", "release", "version");
    environment.deploy("r1", &[]).assert_exit(0);
    assert!(site(&environment).ends_with("version r1;\n"));
    assert!(!environment.exists("etc/site.conf.pawl-new"));
}

#[test]
fn file_that_was_edited_by_hand_is_not_overwritten() {
    let environment = configured("");
    environment.deploy("r1", &[]).assert_exit(0);
    environment.write("etc/site.conf", "by hand\n");
    environment
        .deploy("r2", &[])
        .assert_refused_beforehand()
        .assert_stderr_contains("was edited since the last deployment wrote it");
    assert_eq!(site(&environment), "by hand\n");
    fs::remove_file(environment.path("etc/site.conf")).unwrap();
    environment.deploy("r2", &[]).assert_exit(0);
    assert!(site(&environment).ends_with("release r2;\n"));
}

/// Also the edit of a file that a failed deployment has put back.
#[test]
fn edit_after_a_rollback_is_not_overwritten() {
    let environment = configured("");
    environment.edit("deploy.yml", "app: shop\n", "app: shop\non-failure: rollback\n");
    // Of somebody else: there is nothing to compare with, and it comes back.
    environment.write("etc/site.conf", "of the system\n");
    environment.write("broken", "");
    environment.deploy("r1", &[]).assert_exit(1);
    assert_eq!(site(&environment), "of the system\n");
    fs::remove_file(environment.path("broken")).unwrap();
    environment.deploy("r1", &[]).assert_exit(0);
    environment.write("broken", "");
    environment.deploy("r2", &[]).assert_exit(1);
    assert!(site(&environment).ends_with("release r1;\n"));
    fs::remove_file(environment.path("broken")).unwrap();
    environment.write("etc/site.conf", "by hand\n");
    let refused = environment.deploy("r3", &[]);
    refused.assert_refused_beforehand().assert_stderr_contains("was edited since the last deployment wrote it");
    assert_eq!(site(&environment), "by hand\n");
}

#[test]
fn check_sees_each_file_before_it_replaces_the_old_one() {
    let environment = configured("      check: [/bin/sh, -c, \"! grep -q r2 $0\", \"{}\"]");
    environment.deploy("r1", &[]).assert_exit(0);
    environment.deploy("r2", &[]).assert_refused_beforehand().assert_stderr_contains("the check refuses etc/site.conf");
    assert!(site(&environment).ends_with("release r1;\n"));
    assert!(!environment.exists("etc/site.conf.pawl-new"));
}

#[test]
fn check_of_the_whole_puts_the_old_files_back() {
    let root = tempfile::tempdir().unwrap();
    let site_path = root.path().join("site.conf").display().to_string();
    let with = format!("      check: [/bin/sh, -c, \"! grep -q r2 {site_path}\"]");
    let environment = TestEnvironment::with_plan(&plan(&with).replace("./etc", &root.path().display().to_string()));
    environment.write("conf/site.j2", TEMPLATE);
    environment.deploy("r1", &[]).assert_exit(0);
    environment
        .deploy("r2", &[])
        .assert_exit(1)
        .assert_stderr_contains("error[P0301]")
        .assert_stderr_contains("the check refused the files, and the old ones are back");
    assert!(fs::read_to_string(&site_path).unwrap().ends_with("release r1;\n"));
}

/// Killed between the new file and the program that is told of it: the next deployment tells it, also one of another release. What a killed
/// runner left half-written is removed.
#[test]
fn killed_deployment_tells_the_program_in_the_end() {
    for next in ["r2", "r3"] {
        let environment = configured("");
        let root = environment.path("").display().to_string();
        environment.write(
            "deploy.yml",
            plan(&format!("      notify: [/bin/sh, -c, \"cp {root}/etc/site.conf {root}/told\"]")),
        );
        environment.deploy("r1", &["--until", "configure"]).assert_exit(0);
        let is_placed =
            |call: &TracedCall| call.name.starts_with("rename") && call.text.contains("\"site.conf.pawl-new\", ");
        let run = environment.run_traced(&["--local", "--release", "r2", "--until", "configure"], is_placed);
        assert!(run.is_some_and(|run| run.killed_after.is_some()));
        assert!(site(&environment).ends_with("release r2;\n") && environment.read("told").ends_with("release r1;\n"));
        environment.write("etc/site.conf.pawl-new.0123456789abcdef.tmp", "half of");
        environment.deploy(next, &["--until", "configure"]).assert_exit(0);
        assert!(site(&environment).ends_with(&format!("release {next};\n")));
        assert_eq!(environment.read("told"), site(&environment));
        assert_eq!(environment.list("etc"), [".pawl", "site.conf"]);
    }
}

#[test]
fn server_that_can_not_be_told_keeps_the_old_files() {
    let root = tempfile::tempdir().unwrap();
    let site_path = root.path().join("site.conf").display().to_string();
    let told = root.path().join("told").display().to_string();
    let with = format!("      notify: [/bin/sh, -c, \"echo told >> {told}; ! grep -q r2 {site_path}\"]");
    let environment = TestEnvironment::with_plan(&plan(&with).replace("./etc", &root.path().display().to_string()));
    environment.write("conf/site.j2", TEMPLATE);
    environment.deploy("r1", &[]).assert_exit(0);
    environment.deploy("r2", &[]).assert_exit(1).assert_stderr_contains("the old files are back");
    assert!(fs::read_to_string(&site_path).unwrap().ends_with("release r1;\n"));
    // Once for r1, once for r2, and once more with the old files.
    assert_eq!(fs::read_to_string(&told).unwrap().lines().count(), 3);
}

#[test]
fn files_that_are_placed_come_back_when_another_can_not_be() {
    let environment = configured("");
    environment.write("etc/site.conf", "old\n");
    environment.write("conf/other.j2", "other\n");
    environment.edit(
        "deploy.yml",
        "conf/site.j2: etc/site.conf",
        "conf/site.j2: etc/site.conf, conf/other.j2: etc/taken",
    );
    environment.write("etc/taken/file", "a directory is in the way\n");
    environment.deploy("r1", &[]).assert_exit(1).assert_stderr_contains("taken");
    assert_eq!(site(&environment), "old\n");
    fs::remove_dir_all(environment.path("etc/taken")).unwrap();
    environment.deploy("r1", &[]).assert_exit(0);
    assert_eq!((site(&environment).contains("release r1"), environment.read("etc/taken").as_str()), (true, "other\n"));
}

#[test]
fn two_templates_for_one_file_are_refused() {
    let environment = configured("");
    environment.write("conf/other.j2", "other\n");
    environment.edit(
        "deploy.yml",
        "conf/site.j2: etc/site.conf",
        "conf/site.j2: etc/site.conf, conf/other.j2: etc/site.conf",
    );
    let refused = environment.deploy("r1", &[]);
    refused.assert_refused_beforehand().assert_stderr_contains("are templates for the same file `etc/site.conf`");
    assert!(!environment.exists("etc/site.conf"));
}
