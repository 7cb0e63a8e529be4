//! A machine that another tool has deployed to, behind a real nginx, and the checkout from which Pawl deploys to it with the plan of a guide.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, process::Command, time::Duration};

use super::{PLAN, RELATIVE_LINK};
use crate::support::{
    ConstantTraffic, NginxServer, RunnerOutput, SshHost, TestEnvironment, TrafficRate,
    doc_blocks::{fenced_block, fenced_blocks, page_path},
    write_named_ssh_config,
};

/// Programs that the plans name by their path, and that only say that they were called.
const STAND_INS: [&str; 4] = ["bundle", "composer", "php", "sudo"];

/// The files of a guide, in a checkout, and the first of its two hosts.
pub(super) struct MovedMachine {
    pub(super) environment: TestEnvironment,
    pub(super) host: SshHost,
    nginx: NginxServer,
    page: &'static str,
}

impl MovedMachine {
    /// nginx serves a folder below `current`: `current` itself, or `current/public`.
    pub(super) fn new(page: &'static str, served: &str) -> Self {
        let host = SshHost::with_options("Subsystem sftp internal-sftp");
        let folder = host.path("srv").join(served).display().to_string();
        // Files are served to a POST as well, so that the traffic can have both kinds.
        let nginx = NginxServer::with_configuration(|port| {
            format!("server {{ listen 127.0.0.1:{port}; root {folder}; location / {{ error_page 405 =200 $uri; }} }}")
        });
        let environment = TestEnvironment::with_plan("");
        fs::remove_file(environment.path("deploy.yml")).unwrap();
        for folder in ["app", "migrations"] {
            fs::remove_dir_all(environment.path(folder)).unwrap();
        }
        write_named_ssh_config(&environment.home(""), &[("10.0.0.7", &host)]);
        // Not every client knows what ssh puts in the place of `%p`.
        let config = environment.home("ssh_config");
        let text = fs::read_to_string(&config).unwrap().replace("%p", &host.port().to_string());
        fs::write(config, text).unwrap();
        let machine = Self { environment, host, nginx, page };
        for program in STAND_INS {
            machine.stand_in(program, "");
        }
        machine.write_files();
        let git = |arguments: &[&str]| machine.environment.git(arguments);
        git(&["init", "--quiet", "--bare", "-b", "main", machine.origin().to_str().unwrap()]);
        git(&["init", "--quiet", "-b", "main"]);
        git(&["remote", "add", "origin", machine.origin().to_str().unwrap()]);
        machine
    }

    /// Where the repository is pushed to.
    pub(super) fn origin(&self) -> PathBuf {
        self.environment.home("origin.git")
    }

    /// The folder of the application on the machine.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.host.path("srv").join(path)
    }

    /// A program on the machine that writes down how it was called, and then does this.
    pub(super) fn stand_in(&self, program: &str, script: &str) {
        fs::create_dir_all(self.host.path("bin")).unwrap();
        let (path, calls) = (self.host.path("bin").join(program), self.host.path("calls").display().to_string());
        fs::write(&path, format!("#!/bin/sh\necho \"{program} $*\" >>{calls}\n{script}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// How stand-ins were called since the last question.
    pub(super) fn calls(&self) -> Vec<String> {
        let path = self.host.path("calls");
        let text = fs::read_to_string(&path).unwrap_or_default();
        let _ = fs::remove_file(path);
        text.lines().map(str::to_owned).collect()
    }

    /// Writes each block of the page that begins with a path: `# PATH`, `<?php // PATH` or `{# PATH #}`.
    fn write_files(&self) {
        let text = fs::read_to_string(page_path(self.page)).unwrap();
        for block in fenced_blocks(&text) {
            let first = block.text.lines().next().unwrap_or_default();
            let starts = ["# ", "<?php // ", "{# "].into_iter().find_map(|start| first.strip_prefix(start));
            let Some(path) = starts.map(|path| path.trim_end_matches(" #}")) else { continue };
            if !path.contains(' ') {
                self.environment.write(path, self.adapted(&block.text));
            }
        }
        let plan = self.environment.read("pawl.yml");
        let config = self.environment.home("ssh_config").display().to_string();
        let ssh = format!("    ssh: {{ config: {config} }}\n    hosts:\n");
        assert!(plan.starts_with(PLAN) && plan.contains("    hosts:\n"), "{plan}");
        self.environment.write("pawl.yml", plan.replacen("    hosts:\n", &ssh, 1));
    }

    /// A text of the page with what this test has: one host, its folder, and the address of nginx.
    pub(super) fn adapted(&self, text: &str) -> String {
        let lines = text.split_inclusive('\n').filter(|line| !line.contains("10.0.0.8"));
        let mut text: String = lines.collect();
        for (from, to) in [
            ("/srv/shop", self.path("").display().to_string().trim_end_matches('/')),
            ("http://127.0.0.1/", &format!("http://{}/", self.nginx.address())),
            ("deploy@", ""),
        ] {
            text = text.replace(from, to);
        }
        for program in STAND_INS {
            let to = self.host.path("bin").join(program).display().to_string();
            text = text.replace(&format!("/usr/bin/{program},"), &format!("{to},"));
            text = text.replace(&format!("/usr/bin/{program} "), &format!("{to} "));
        }
        text
    }

    /// Commits all files and pushes them.
    pub(super) fn commit(&self, message: &str) {
        self.environment.git(&["add", "."]);
        self.environment.git(&["commit", "--quiet", "--message", message]);
        self.environment.git(&["push", "--quiet", "origin", "main"]);
    }

    /// Packs what is checked out, by the first command of the page.
    pub(super) fn pack(&self) {
        let commands = fenced_block(self.page, "runner pack ");
        let [pack, "runner --local"] = commands.lines().collect::<Vec<_>>()[..] else { panic!("{commands}") };
        self.environment.run_script(&pack.replace("runner ", "\"$0\" ")).assert_exit(0);
    }

    /// Deploys what is checked out, by the second command of the page.
    pub(super) fn deploy(&self, more: &[&str]) -> RunnerOutput {
        self.environment.run(&[&["--local", "--json"], more].concat())
    }

    /// Commits what is there, and deploys it.
    pub(super) fn release(&self, message: &str) -> RunnerOutput {
        self.commit(message);
        self.pack();
        self.deploy(&[])
    }

    /// Runs a command of another tool in the checkout. What it says is shown if it fails.
    #[track_caller]
    pub(super) fn other_tool(&self, command: &str) {
        let script = format!(
            "export LC_ALL=C.UTF-8; {{ {command}; }} >tool.log 2>&1 </dev/null || {{ cat tool.log >&2; exit 1; }}"
        );
        let output = self.environment.run_script(&script);
        assert_eq!(
            output.code,
            Some(0),
            "{command}: is it installed? `cargo xtask setup` does that\n{}",
            output.stderr
        );
        fs::remove_file(self.environment.path("tool.log")).unwrap();
    }

    /// Runs commands of a page on the machine.
    pub(super) fn on_machine(&self, commands: &str) {
        let script = format!("PATH={}:$PATH\n{}", self.host.path("bin").display(), self.adapted(commands));
        let status = Command::new("sh").args(["-euc", &script]).current_dir(self.path("")).status();
        assert!(status.unwrap().success(), "{commands}");
    }

    pub(super) fn make_link_relative(&self) {
        self.on_machine(&fenced_block(self.page, RELATIVE_LINK));
    }

    /// The commands that go back to a folder of the other tool.
    pub(super) fn go_back(&self, placeholder: &str, name: &str) {
        self.on_machine(&fenced_block(self.page, ".current.back").replace(placeholder, name));
    }

    /// Where `current` leads to.
    pub(super) fn live(&self) -> String {
        fs::read_link(self.path("current")).unwrap().display().to_string()
    }

    /// The folders in `releases`, sorted.
    pub(super) fn releases(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("releases")).unwrap().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        names
    }

    /// Users who ask without end, and get `answer` at first.
    pub(super) fn traffic(&self, answer: &str) -> ConstantTraffic {
        let rate = TrafficRate { clients: 1, pause: Duration::from_millis(2) };
        ConstantTraffic::start(&self.nginx.address(), rate, answer)
    }
}
