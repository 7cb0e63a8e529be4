//! `runner init`: what it proposes, what it writes, and the template `static` on a real nginx. The page of the template `python` is
//! followed by tests/recipes.rs.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
};

use serde_json::Value;

use crate::support::{
    NginxServer, RunnerOutput, TestEnvironment,
    doc_blocks::{check_session, fenced_block, page_path},
};

const PAGE: &str = "docs/init.md";
/// The folder of the application.
const PROJECT: &str = "project/shop";

fn empty_project() -> TestEnvironment {
    let environment = TestEnvironment::new();
    fs::create_dir_all(environment.path(PROJECT)).unwrap();
    environment
}

/// A command and what it prints, as a terminal shows it.
fn session(environment: &TestEnvironment, arguments: &[&str]) -> String {
    let output = environment.run_in(PROJECT, arguments);
    output.assert_exit(0);
    format!("$ runner {}\n{}", arguments.join(" "), output.stdout)
}

#[test]
fn page_shows_a_proposal_and_a_template() {
    let environment = empty_project();
    environment.write(&format!("{PROJECT}/pyproject.toml"), "[project]\nname = \"shop\"\ndependencies = [\"flask\"]\n");
    environment.write(&format!("{PROJECT}/migrations/env.py"), "");
    let proposed = session(&environment, &["init"]);
    assert_eq!(environment.list(PROJECT), ["migrations", "pyproject.toml"], "nothing was written");
    fs::remove_dir_all(environment.path(PROJECT)).unwrap();
    fs::create_dir_all(environment.path(PROJECT)).unwrap();
    let written = session(&environment, &["init", "--template", "static"]);
    check_session(PAGE, &[proposed, written], &environment.shown_paths());
}

/// That its schema is good, tests/cases/editor.rs asserts.
#[test]
fn each_template_is_its_example() {
    for template in ["compose", "container", "django", "java", "node", "php", "python", "rails", "static"] {
        let environment = empty_project();
        let written = environment.run_in(PROJECT, &["init", "--template", template, "--name", "kiosk", "--json"]);
        written.assert_exit(0);
        let answer: Value = serde_json::from_str(&written.stdout).unwrap();
        for file in answer["files"].as_array().unwrap() {
            assert!(environment.path(PROJECT).join(file.as_str().unwrap()).is_file(), "{template}: {file}");
        }
        let example = fs::read_to_string(page_path(&format!("examples/{template}/deploy.yml"))).unwrap();
        let plan = environment.read(&format!("{PROJECT}/deploy.yml"));
        assert_eq!(plan, example.replace("shop", "kiosk"));
        // A second time, everything is in the way.
        let again = environment.run_in(PROJECT, &["init", "--template", template]);
        again.assert_exit(2).assert_stderr_contains("deploy.yml").assert_stderr_contains("build.sh");
    }
}

/// The template `static`, with the folders of a test and a real nginx.
struct StaticSite {
    environment: TestEnvironment,
    nginx: NginxServer,
}

impl StaticSite {
    fn new() -> Self {
        let environment = empty_project();
        environment.run_in(PROJECT, &["init", "--template", "static"]).assert_exit(0);
        let root = environment.path("srv").display().to_string();
        let configuration = environment.read(&format!("{PROJECT}/deploy/nginx.conf"));
        let nginx = NginxServer::with_configuration(|port| {
            configuration.replace("/srv/shop", &root).replace("8080", &format!("127.0.0.1:{port}"))
        });
        let plan = format!("{PROJECT}/deploy.yml");
        environment.edit(&plan, "/srv/shop", &root);
        let text = environment.read(&plan).replace("127.0.0.1:8080", &nginx.address());
        environment.write(&plan, text);
        Self { environment, nginx }
    }

    /// The commands of the page for a release.
    fn build(&self, release: &str) {
        let commands = fenced_block(PAGE, "# As deploy, for static");
        let build = commands.lines().find(|line| line.starts_with("sh build.sh")).unwrap().replace("r1", release);
        self.environment.run_script(&format!("PATH=$(dirname \"$0\"):$PATH\ncd {PROJECT}\n{build}")).assert_exit(0);
    }

    fn deploy(&self, release: &str) -> RunnerOutput {
        self.environment.run_in(PROJECT, &["--local", "--release", release, "--json"])
    }

    /// What a visitor gets at /VERSION.
    fn version(&self) -> String {
        let mut connection = TcpStream::connect(self.nginx.address()).unwrap();
        connection.write_all(b"GET /VERSION HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        answer.rsplit("\r\n").next().unwrap().trim_end().to_owned()
    }
}

#[test]
fn static_template_is_deployed_broken_resumed_and_rolled_back() {
    let site = StaticSite::new();
    site.build("r1");
    site.deploy("r1").assert_exit(0);
    assert_eq!(site.version(), "r1");
    // Without its page, it is taken back.
    let page = format!("{PROJECT}/site/index.html");
    let text = site.environment.read(&page);
    fs::remove_file(site.environment.path(&page)).unwrap();
    site.build("r2");
    site.deploy("r2").assert_exit(4);
    assert_eq!(site.version(), "r1");
    // An archive that is cut off fails before anything changes, and the same run goes on with the whole one.
    site.environment.write(&page, text);
    site.build("r3");
    let archive = site.environment.path(format!("{PROJECT}/dist/shop-r3.tar.zst"));
    let whole = fs::read(&archive).unwrap();
    fs::write(&archive, &whole[..whole.len() / 2]).unwrap();
    site.deploy("r3").assert_exit(1);
    assert_eq!(site.version(), "r1");
    fs::write(&archive, &whole).unwrap();
    site.deploy("r3").assert_exit(0);
    assert_eq!(site.version(), "r3");
    site.environment.run_in(PROJECT, &["rollback", "--local", "--json"]).assert_exit(0);
    assert_eq!(site.version(), "r1");
}

/// What only root does on a machine; the tests of the templates start servers of their own with the same files.
#[test]
fn commands_of_the_page_are_those_of_the_template() {
    for template in ["static", "django", "java", "node", "php", "rails"] {
        let commands = fenced_block(PAGE, &format!("# As root, for {template}\n"));
        let example = page_path("examples").join(template);
        let mut copied: Vec<&str> = Vec::new();
        for (file, to) in commands.lines().filter_map(|line| line.strip_prefix("cp ")?.split_once(' ')) {
            let text = fs::read_to_string(example.join(file)).unwrap();
            assert!(text[2..].starts_with(&format!("{to}: ")), "{template}: {file} says where it goes: {text}");
            copied.push(file.strip_prefix("deploy/").unwrap());
        }
        let mut files: Vec<String> = fs::read_dir(example.join("deploy"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort_unstable();
        copied.sort_unstable();
        assert_eq!(copied, files, "{template}");
        // Nobody but root makes the folders that the plan names.
        let plan = fs::read_to_string(example.join("deploy.yml")).unwrap();
        for folder in ["/srv/shop", "/var/lib/pawl"].into_iter().filter(|folder| plan.contains(folder)) {
            let makes = |line: &str| line.starts_with("install -d ") && line.split(' ').any(|word| word == folder);
            assert!(commands.lines().any(makes), "{template}: {folder}");
        }
    }
}
