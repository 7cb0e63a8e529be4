//! A template of `runner init` that runs under supervisord behind nginx, with the folders and servers of a test.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use super::{NginxServer, RunnerOutput, SupervisordServer, TestEnvironment};

/// The folder of the application.
pub const TEMPLATE_PROJECT: &str = "project/shop";

/// A project from a template, its machine, and its visitors.
pub struct TemplateSite {
    pub environment: TestEnvironment,
    nginx: NginxServer,
    supervisord: SupervisordServer,
}

impl TemplateSite {
    /// Writes the template. Its paths below `/srv/shop` are in the folder `srv` of the environment; its servers are those of the test.
    pub fn new(template: &str) -> Self {
        Self::with_slot_ports(template, &[])
    }

    /// The same of a template whose slots have these ports: each gets a free one.
    pub fn with_slot_ports(template: &str, ports: &[&str]) -> Self {
        let environment = TestEnvironment::new();
        fs::create_dir_all(environment.path(TEMPLATE_PROJECT)).unwrap();
        environment.run_in(TEMPLATE_PROJECT, &["init", "--template", template]).assert_exit(0);
        let supervisord = SupervisordServer::new();
        let root = environment.path("srv").display().to_string();
        let free: Vec<_> = ports.iter().map(|port| (*port, super::ports::free_port())).collect();
        let with_ports = |text: String| {
            free.iter().fold(text, |text, (port, free)| {
                // Their beginnings are never those of another port.
                let changed = text.replace(&format!("127.0.0.1:{port}"), &format!("127.0.0.1:{free}"));
                changed.replace(&format!("port: {port}"), &format!("port: {free}"))
            })
        };
        let configuration = with_ports(environment.read(&format!("{TEMPLATE_PROJECT}/deploy/nginx.conf")));
        let nginx = NginxServer::with_configuration(|port| {
            configuration.replace("/srv/shop", &root).replace("listen 8080", &format!("listen 127.0.0.1:{port}"))
        });
        let site = Self { environment, nginx, supervisord };
        site.change_plan(|plan| {
            with_ports(plan.to_owned())
                .replace("/srv/shop", &root)
                .replace("/etc/supervisor/conf.d", &site.supervisord.path("conf.d").display().to_string())
                .replace("/run/supervisor.sock", &site.supervisord.path("supervisor.sock").display().to_string())
                .replace("127.0.0.1:8080", &site.nginx.address())
                .replace("        user: deploy\n", "")
                .replace("stay: 2s", "every: 50ms, stay: 300ms")
        });
        site
    }

    pub fn change_plan(&self, change: impl FnOnce(&str) -> String) {
        let path = format!("{TEMPLATE_PROJECT}/deploy.yml");
        self.environment.write(&path, change(&self.environment.read(&path)));
    }

    /// Writes a file of the project.
    pub fn write(&self, path: &str, text: &str) {
        self.environment.write(&format!("{TEMPLATE_PROJECT}/{path}"), text);
    }

    /// Runs a command of the developer.
    pub fn in_project(&self, command: &str) {
        let script = format!("PATH=$(dirname \"$0\"):$PATH\ncd {TEMPLATE_PROJECT}\n{command}");
        self.environment.run_script(&script).assert_exit(0);
    }

    pub fn build(&self, release: &str) {
        self.in_project(&format!("sh build.sh {release}"));
    }

    pub fn deploy(&self, release: &str) -> RunnerOutput {
        self.environment.run_in(TEMPLATE_PROJECT, &["--local", "--release", release, "--json"])
    }

    /// Goes back, and fails if a program is started for that.
    #[track_caller]
    pub fn roll_back(&self) {
        // Each with its state: supervisord calls what it has just started STARTING for a second.
        let names =
            || self.supervisord.programs().iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
        let programs: Vec<String> = names();
        assert_eq!(programs.len(), 2, "{programs:?}");
        self.environment.run_in(TEMPLATE_PROJECT, &["rollback", "--local", "--json"]).assert_exit(0);
        assert_eq!(programs, names());
    }

    /// What a visitor gets.
    pub fn get(&self, path: &str) -> String {
        request(&self.nginx.address(), path)
    }

    /// The greeting at `/`, which is a whole page.
    #[track_caller]
    pub fn assert_greeting(&self, expected: &str) {
        let answer = self.get("/");
        assert!(answer.contains(&format!("<p>{expected}\n")), "{answer}");
    }

    /// Where the page of now has its style.
    pub fn style(&self) -> String {
        let page = self.get("/");
        page.split_once("href=\"").unwrap().1.split_once('"').unwrap().0.to_owned()
    }

    /// Somebody who asks for the release again and again.
    pub fn steady_visitor(&self) -> SteadyVisitor {
        let (address, is_over) = (self.nginx.address(), Arc::new(AtomicBool::new(false)));
        let until = Arc::clone(&is_over);
        let answers = thread::spawn(move || {
            let mut answers = Vec::new();
            while !until.load(Ordering::Relaxed) {
                answers.push(request(&address, "/health"));
            }
            answers
        });
        SteadyVisitor { is_over, answers }
    }
}

fn request(address: &str, path: &str) -> String {
    let mut connection = TcpStream::connect(address).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    answer
}

/// Somebody who asks for the release until it is said what they must have seen.
pub struct SteadyVisitor {
    is_over: Arc<AtomicBool>,
    answers: JoinHandle<Vec<String>>,
}

impl SteadyVisitor {
    /// Fails unless each answer is of the one release, and after some of the other.
    #[track_caller]
    pub fn assert_saw(self, one: &str, other: &str) {
        self.is_over.store(true, Ordering::Relaxed);
        let answers = self.answers.join().unwrap();
        let is_of = |answer: &String, release: &str| {
            answer.starts_with("HTTP/1.1 200") && answer.contains(&format!("{{\"release\":\"{release}\"}}"))
        };
        let first = answers.iter().take_while(|answer| is_of(answer, one)).count();
        assert!(first > 0, "{:?}", answers.first());
        let bad = answers[first..].iter().find(|answer| !is_of(answer, other));
        assert!(bad.is_none() && first < answers.len(), "{first} of {}: {bad:?}", answers.len());
    }
}
