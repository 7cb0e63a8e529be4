//! The template `rails`, with a real Rails, supervisord and nginx: deployed, broken, resumed, rolled back.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use crate::support::{NginxServer, RunnerOutput, SupervisordServer, TestEnvironment};

/// The folder of the application.
const PROJECT: &str = "project/shop";
/// A migration that fails while two greetings are the same.
const UNIQUE_GREETINGS: &str = "class MakeGreetingsUnique < ActiveRecord::Migration[6.1]
  def up
    add_index :greetings, :text, unique: true
    execute \"INSERT INTO greetings (text) VALUES ('Welcome to shop')\"
  end
end
";

/// The template, with the folders and servers of a test.
struct RailsSite {
    environment: TestEnvironment,
    nginx: NginxServer,
    supervisord: SupervisordServer,
}

impl RailsSite {
    fn new() -> Self {
        let environment = TestEnvironment::new();
        fs::create_dir_all(environment.path(PROJECT)).unwrap();
        environment.run_in(PROJECT, &["init", "--template", "rails"]).assert_exit(0);
        let supervisord = SupervisordServer::new();
        let root = environment.path("srv").display().to_string();
        let configuration = environment.read(&format!("{PROJECT}/deploy/nginx.conf"));
        let nginx = NginxServer::with_configuration(|port| {
            configuration.replace("/srv/shop", &root).replace("8080", &format!("127.0.0.1:{port}"))
        });
        let plan = environment.read(&format!("{PROJECT}/deploy.yml"));
        let plan = plan
            .replace("/srv/shop", &root)
            .replace("/etc/supervisor/conf.d", &supervisord.path("conf.d").display().to_string())
            .replace("/run/supervisor.sock", &supervisord.path("supervisor.sock").display().to_string())
            .replace("127.0.0.1:8080", &nginx.address())
            .replace("        user: deploy\n", "")
            .replace("stay: 2s", "every: 50ms, stay: 300ms");
        environment.write(&format!("{PROJECT}/deploy.yml"), plan);
        environment.write("srv/shared/config/master.key", "0123456789abcdef0123456789abcdef\n");
        let site = Self { environment, nginx, supervisord };
        // Which versions Debian has today.
        site.in_project("bundle lock --local");
        site
    }

    /// Runs a command of the developer.
    fn in_project(&self, command: &str) {
        let script = format!("PATH=$(dirname \"$0\"):$PATH\ncd {PROJECT}\n{command}");
        self.environment.run_script(&script).assert_exit(0);
    }

    fn write(&self, path: &str, text: &str) {
        self.environment.write(&format!("{PROJECT}/{path}"), text);
    }

    fn build(&self, release: &str) {
        self.in_project(&format!("sh build.sh {release}"));
    }

    fn deploy(&self, release: &str) -> RunnerOutput {
        self.environment.run_in(PROJECT, &["--local", "--release", release, "--json"])
    }

    /// What a visitor gets.
    fn get(&self, path: &str) -> String {
        request(&self.nginx.address(), path)
    }

    /// The greeting at `/`, which is a whole page.
    #[track_caller]
    fn assert_greeting(&self, expected: &str) {
        let answer = self.get("/");
        assert!(answer.contains(&format!("<p>{expected}\n")), "{answer}");
    }

    /// Where the page of now has its style.
    fn style(&self) -> String {
        let page = self.get("/");
        page.split_once("href=\"").unwrap().1.split_once('"').unwrap().0.to_owned()
    }

    /// Somebody who changes the database by hand.
    fn in_database(&self, statement: &str) {
        let database = self.environment.path("srv/shared/storage/production.sqlite3");
        assert!(Command::new("sqlite3").arg(database).arg(statement).status().unwrap().success());
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

/// Somebody who asks for the release again and again.
struct SteadyVisitor {
    is_over: Arc<AtomicBool>,
    answers: JoinHandle<Vec<String>>,
}

impl SteadyVisitor {
    fn of(site: &RailsSite) -> Self {
        let (address, is_over) = (site.nginx.address(), Arc::new(AtomicBool::new(false)));
        let until = Arc::clone(&is_over);
        let answers = thread::spawn(move || {
            let mut answers = Vec::new();
            while !until.load(Ordering::Relaxed) {
                answers.push(request(&address, "/health"));
            }
            answers
        });
        Self { is_over, answers }
    }

    /// Fails unless each answer is of the one release, and after some of the other.
    #[track_caller]
    fn assert_saw(self, one: &str, other: &str) {
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

#[test]
fn rails_template_is_deployed_broken_resumed_and_rolled_back() {
    let site = RailsSite::new();
    site.build("r1");
    site.deploy("r1").assert_exit(0);
    site.assert_greeting("Hello from shop, release r1");
    let style = site.style();
    assert!(site.get(&style).contains("sans-serif"), "nginx serves {style}");

    // The second release wants each greeting once, and there is one twice. Nobody who visits sees that.
    site.write("db/migrate/20261202000000_make_greetings_unique.rb", UNIQUE_GREETINGS);
    site.write("app/assets/stylesheets/application.css", "p { font-family: serif }\n");
    site.in_database("INSERT INTO greetings (text) VALUES ('Hello from shop')");
    site.build("r2");
    let visitor = SteadyVisitor::of(&site);
    let failed = site.deploy("r2");
    failed.assert_exit(1).assert_stderr_contains("step `migrate` failed");
    let logs = site.environment.run_in(PROJECT, &["logs"]);
    assert!(logs.stdout.contains("UNIQUE constraint failed"), "{}", logs.stdout);
    site.assert_greeting("Hello from shop, release r1");
    site.in_database("DELETE FROM greetings WHERE id > 1");
    let resumed = site.deploy("r2");
    resumed.assert_exit(0);
    assert_eq!(
        resumed.decisions()[..4],
        ["pull skip held", "bundle skip held", "assets skip held", "migrate run failed-before"]
    );
    visitor.assert_saw("r1", "r2");
    site.assert_greeting("Welcome to shop, release r2");
    // A page that a visitor has got from r1 still finds its style.
    assert!(site.style() != style && site.get(&style).contains("sans-serif"), "{style}");
    assert!(site.get(&site.style()).contains("{ font-family: serif }"), "{}", site.style());

    // On the way back nothing is started, and the database and the assets stay as they are.
    let programs = site.supervisord.programs();
    let visitor = SteadyVisitor::of(&site);
    site.environment.run_in(PROJECT, &["rollback", "--local", "--json"]).assert_exit(0);
    visitor.assert_saw("r2", "r1");
    site.assert_greeting("Welcome to shop, release r1");
    assert_eq!(site.style(), style);
    assert_eq!(site.supervisord.programs(), programs);
}

/// Builds a gem and the index that has it.
const GEM_INDEX: &str = "mkdir -p gem/lib gem/index/gems
cd gem
echo 'GREETING = 1' >lib/greeting.rb
cat >greeting.gemspec <<'EOF'
Gem::Specification.new('greeting', '1.0.0') do |gem|
  gem.summary, gem.authors, gem.files = 'A greeting', ['shop'], ['lib/greeting.rb']
end
EOF
gem build --quiet --output index/gems/greeting-1.0.0.gem greeting.gemspec
gem generate_index --directory index";

#[test]
fn gems_of_a_source_are_installed_once_for_all_releases() {
    let environment = TestEnvironment::new();
    fs::create_dir_all(environment.path(PROJECT)).unwrap();
    environment.run_in(PROJECT, &["init", "--template", "rails"]).assert_exit(0);
    environment.run_script(GEM_INDEX).assert_exit(0);
    let gems = environment.path("gem/index").display().to_string();
    let index = NginxServer::with_configuration(|port| format!("server {{ listen 127.0.0.1:{port}; root {gems}; }}"));
    let plan = environment.read(&format!("{PROJECT}/deploy.yml"));
    let (beginning, _) = plan.split_once("  assets:\n").unwrap();
    let plan = beginning.replace("/srv/shop", &environment.path("srv").display().to_string());
    environment.write(&format!("{PROJECT}/deploy.yml"), plan);
    environment.write("srv/shared/config/master.key", "");
    environment
        .write(&format!("{PROJECT}/Gemfile"), format!("source \"http://{}\"\ngem \"greeting\"\n", index.address()));
    let build = |release: &str, before: &str| {
        let script = format!("PATH=$(dirname \"$0\"):$PATH\ncd {PROJECT}\n{before}sh build.sh {release}");
        environment.run_script(&script).assert_exit(0);
    };
    build("r1", "bundle lock\n");
    environment.run_in(PROJECT, &["--local", "--release", "r1", "--json"]).assert_exit(0);
    let installed = environment.path("srv/shared/vendor/bundle/ruby");
    assert!(find_file(&installed, "greeting.rb"), "{}", installed.display());

    // The second release finds the gem, so it does not need the index.
    drop(index);
    environment.write(&format!("{PROJECT}/app/models/order.rb"), "class Order < ActiveRecord::Base\nend\n");
    build("r2", "");
    let second = environment.run_in(PROJECT, &["--local", "--release", "r2", "--json"]);
    second.assert_exit(0);
    assert_eq!(second.decisions()[1], "bundle run changed");

    // Another gem than those of Gemfile.lock is not installed.
    environment.edit(&format!("{PROJECT}/Gemfile"), "gem \"greeting\"\n", "gem \"greeting\"\ngem \"rake\"\n");
    build("r3", "");
    let third = environment.run_in(PROJECT, &["--local", "--release", "r3", "--json"]);
    third.assert_exit(1).assert_stderr_contains("step `bundle` failed");
}

/// Whether a file of this name is somewhere in the folder.
fn find_file(folder: &Path, name: &str) -> bool {
    fs::read_dir(folder).unwrap().flatten().any(|entry| {
        let path = entry.path();
        entry.file_name() == name || (path.is_dir() && find_file(&path, name))
    })
}
