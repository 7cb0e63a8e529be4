//! The recipes of docs/recipes, each followed on a machine of its own: its files are written and its commands run in the order of
//! the page, with nothing changed. Then come a release that works, one that does not, and a rollback; after each, what the
//! application answers is what `status` says. `UPDATE_EXPECT=1` rewrites the outputs of the pages.

#![expect(clippy::unwrap_used, reason = "what a test is made of is well formed, or it fails")]

#[path = "support/doc_blocks.rs"]
#[expect(dead_code, reason = "the cases use all of it")]
mod doc_blocks;
#[path = "support/machine.rs"]
mod machine;
#[path = "support/normalize.rs"]
mod normalize;
#[path = "recipes/page.rs"]
mod page;
#[path = "recipes/python_slots.rs"]
mod python_slots;

use std::fs;

use serde_json::Value;

use doc_blocks::{check_session, command_line};
use machine::{MachineUser, TestMachine};
use page::{RecipeAction, RecipePage};

/// A recipe that was followed, up to its first release.
struct FollowedRecipe {
    page: RecipePage,
    machine: TestMachine,
    /// What the page exports for the commands after it.
    exports: String,
    /// The sessions that the page has asked for.
    sessions: Vec<String>,
}

impl FollowedRecipe {
    /// Follows a page. `prepare` does what the page expects to be there, `files` are those of the application that are not on it.
    fn new(page: RecipePage, prepare: impl FnOnce(&TestMachine), variables: &str, files: &[(&str, &[u8])]) -> Self {
        let machine = TestMachine::boot();
        // The page makes this user; this machine, which is below, may have one of the same name.
        machine.run(MachineUser::Root, "if id deploy >/dev/null 2>&1; then userdel deploy; fi");
        prepare(&machine);
        let mut recipe = Self { page, machine, exports: variables.to_owned(), sessions: Vec::new() };
        assert_eq!(recipe.page.other_blocks(), [], "{}: nothing follows these", recipe.page.path);
        recipe.check_installation();
        for action in recipe.page.actions() {
            match action {
                RecipeAction::WriteFile { path, content } if path.starts_with('/') => {
                    recipe.machine.write(MachineUser::Root, &path, content.as_bytes());
                }
                RecipeAction::WriteFile { path, content } => recipe.write(&path, content.as_bytes()),
                RecipeAction::RunAsRoot(script) => drop(recipe.machine.run(MachineUser::Root, &script)),
                RecipeAction::TypeAsDeploy(arguments) => {
                    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                    let session = recipe.session(&arguments, 0);
                    recipe.sessions.push(session);
                }
                RecipeAction::RunAsDeploy(script) => {
                    for (path, content) in files {
                        recipe.write(path, content);
                    }
                    recipe.deploy(&script);
                    recipe.exports.extend(
                        script.lines().filter(|line| line.starts_with("export ")).map(|line| format!("{line}\n")),
                    );
                }
            }
        }
        recipe
    }

    /// Asserts that Debian has each package that the page installs.
    fn check_installation(&self) {
        let commands = self.page.typed_commands();
        let lists: Vec<&str> = commands.iter().filter_map(|command| command.strip_prefix("apt-get install ")).collect();
        let [packages] = lists[..] else { panic!("{} installs once: {commands:?}", self.page.path) };
        self.machine.run(
            MachineUser::Root,
            &format!("for package in {packages}; do apt-cache show \"$package\" >/dev/null; done"),
        );
    }

    /// Runs the commands for somebody who has no lock file yet, in a new `app`, and then what installs from it.
    fn check_lock_file(&self, lock_file: &str, installed: &str) {
        let mut commands = self.page.typed_commands();
        commands.retain(|command| !command.starts_with("apt-get "));
        assert!(!commands.is_empty(), "{} makes no {lock_file}", self.page.path);
        let typed = commands.join("\n");
        self.machine.run(
            MachineUser::Deploy,
            &format!(
                "mkdir -p new/app\ncd new/app\n{typed}\ntest -s {lock_file}\nsh ~/shop/app/install.sh\ntest -e {installed}"
            ),
        );
    }

    /// Writes a file of the checkout.
    #[track_caller]
    fn write(&self, path: &str, content: &[u8]) {
        self.machine.write(MachineUser::Deploy, &format!("shop/{path}"), content);
    }

    /// A script in the checkout.
    fn in_checkout(&self, script: &str) -> String {
        format!("{}cd shop\n{script}", self.exports)
    }

    /// Runs a script of `deploy` in the checkout, which must succeed.
    #[track_caller]
    fn deploy(&self, script: &str) -> String {
        self.machine.run(MachineUser::Deploy, &self.in_checkout(script))
    }

    /// A command and what a terminal shows of it.
    #[track_caller]
    fn session(&self, arguments: &[&str], exit: i32) -> String {
        let line = command_line(arguments);
        let (code, shown) = self.machine.run_with_one_stream(MachineUser::Deploy, &self.in_checkout(&line));
        assert_eq!(code, Some(exit), "{line}\n{shown}");
        format!("$ {line}\n{shown}")
    }

    /// Asserts that this release is live and verified by `status`, that the application answers with it and with a setting of
    /// `.env`, and that the release has what was built for it and what is shared.
    #[track_caller]
    fn assert_live(&self, label: &str, built: &str) {
        let status = self.deploy("runner status --json");
        let status: Value = serde_json::from_str(status.lines().next().unwrap()).unwrap();
        let live = &status[0]["live"];
        let answer = self.machine.run(MachineUser::Deploy, &format!("curl --silent --fail {}", self.page.url()));
        let shown = (live["release"]["label"].as_str(), live["verified"].as_bool(), answer.as_str());
        assert_eq!(shown, (Some(label), Some(true), format!("Corner shop, release {label}\n").as_str()), "{status}");
        self.machine.run(MachineUser::Root, &format!("cd /srv/shop/current\ntest -e {built}\ntest -e uploads/photo"));
    }

    /// Everything after the first release; `break_app` is a script that puts the error into r3.
    fn check(&self, built: &str, break_app: &str) {
        self.machine
            .run(MachineUser::Root, "setpriv --reuid=www-data --clear-groups touch /srv/shop/current/uploads/photo");
        self.assert_live("r1", built);
        self.deploy("sh pack.sh r2");
        let deployed = self.session(&["--local", "--release", "r2"], 0);
        self.assert_live("r2", built);
        self.deploy(&format!("{break_app}\nsh pack.sh r3"));
        let failed = self.session(&["--local", "--release", "r3"], 4);
        assert!(failed.contains("r2 is live again"), "{failed}");
        self.assert_live("r2", built);
        let status = self.session(&["status"], 0);
        let rolled_back = self.session(&["rollback", "--local"], 0);
        self.assert_live("r1", built);
        let host = self.machine.run(MachineUser::Root, "uname -n");
        let outputs = [deployed, failed, status, rolled_back].map(|output| steady(&output));
        check_session(&self.page.path, &outputs, &[(format!("@{}", host.trim()), "@shop")]);
    }
}

/// An output without what the speed of the machine changes: how many rounds a check waited, and what npm says of its time.
fn steady(output: &str) -> String {
    const CHECKED: &str = "  ran    verify   ";
    const ADDED: &str = "  out    install  added 1 package in ";
    let steady_line = |line: &str| match line.strip_prefix(CHECKED).and_then(|count| count.split_once(" round")) {
        Some((_, after)) => format!("{CHECKED}1 round{}", after.trim_start_matches('s')),
        None if line.starts_with(ADDED) => format!("{ADDED}1s\n"),
        None => line.to_owned(),
    };
    output.split_inclusive('\n').map(steady_line).collect()
}

/// The wheels that `cargo xtask setup` downloads, each with its name.
fn wheels() -> Vec<(String, Vec<u8>)> {
    let entries =
        fs::read_dir(machine::installed_tools().join("wheels")).expect("`cargo xtask setup` downloads the wheels");
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(path).unwrap())).collect()
}

#[test]
fn python_recipe_deploys_and_rolls_back() {
    let prepare = |machine: &TestMachine| {
        for (name, content) in wheels() {
            machine.write(MachineUser::Root, &format!("/opt/wheels/{name}"), &content);
        }
        let create = "version=$(ls /usr/lib/postgresql | sort -V | tail -1)\n\
                      rm -rf /etc/postgresql/* /var/lib/postgresql/*\n\
                      pg_createcluster \"$version\" main -- --no-sync\n\
                      systemctl start \"postgresql@$version-main\"";
        machine.run(MachineUser::Root, create);
    };
    // Instead of PyPI.
    let variables = "export PIP_NO_INDEX=1 PIP_FIND_LINKS=/opt/wheels\n";
    let recipe = FollowedRecipe::new(RecipePage::read("python-supervisord", &[]), prepare, variables, &[]);
    recipe.check(".venv/bin/gunicorn", "sed -i 's/\"200 OK\"/\"500 Internal Server Error\"/' app/wsgi.py");
    let tables = "runuser -u postgres -- psql --no-align --tuples-only -d shop -c 'SELECT count(*) FROM orders'";
    assert_eq!(recipe.machine.run(MachineUser::Root, &format!("cd /\n{tables}")), "0\n");
}

#[test]
fn node_recipe_deploys_and_rolls_back() {
    let files: [(&str, &[u8]); 4] = [
        (
            "app/package.json",
            br#"{ "name": "shop", "version": "1.0.0", "dependencies": { "greeting": "file:greeting" } }"#,
        ),
        ("app/package-lock.json", include_bytes!("recipes/package-lock.json")),
        ("app/greeting/package.json", br#"{ "name": "greeting", "version": "1.0.0" }"#),
        ("app/greeting/index.js", b"module.exports = 'Hello'\n"),
    ];
    let recipe = FollowedRecipe::new(RecipePage::read("node-systemd", &[]), |_| {}, "", &files);
    recipe.check_lock_file("package-lock.json", "node_modules/.installed");
    recipe.check("node_modules/greeting/index.js", "sed -i \"1a throw new Error('no database');\" app/server.js");
}

#[test]
fn php_recipe_deploys_and_rolls_back() {
    let versions = fs::read_dir("/etc/php").expect("`cargo xtask setup` installs PHP-FPM");
    let version = versions.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).max().unwrap();
    let files: [(&str, &[u8]); 4] = [
        ("app/composer.json", include_bytes!("recipes/composer.json")),
        ("app/composer.lock", include_bytes!("recipes/composer.lock")),
        ("app/src/Order.php", b"<?php\nnamespace Shop;\nclass Order {}\n"),
        (
            "app/migrate.php",
            b"<?php\nfile_put_contents('/srv/shop/shared/migrated', file_get_contents('VERSION'), FILE_APPEND);\n",
        ),
    ];
    let page = RecipePage::read("php-fpm", &[("8.2", &version)]);
    let recipe = FollowedRecipe::new(page, |_| {}, "", &files);
    recipe.check_lock_file("composer.lock", "vendor/.installed");
    recipe.check("vendor/autoload.php", "sed -i \"1a throw new Exception('no database');\" app/public/index.php");
    assert_eq!(recipe.machine.run(MachineUser::Root, "cat /srv/shop/shared/migrated"), "r1\nr2\nr3\nr1\n");
}
