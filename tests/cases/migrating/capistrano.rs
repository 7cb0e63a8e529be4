//! Debian's Capistrano with the files of docs/migrating/capistrano.md. Its plugins for Bundler and Rails are gems, which Debian's package
//! does not have: empty files take their places. `bundle` and `sudo` are stand-ins.

use std::fs;

use super::machine::MovedMachine;

const PAGE: &str = "docs/migrating/capistrano.md";
/// What Capistrano's plan and ours share.
const LOG: &str = "shared/log/production.log";

/// The application, which Capistrano has deployed once.
fn machine() -> MovedMachine {
    let machine = MovedMachine::new(PAGE, "current/public");
    let MovedMachine { environment, host, .. } = &machine;
    for gem in ["capistrano/bundler.rb", "capistrano/rails.rb"] {
        environment.write(&format!("stand-ins/{gem}"), "");
    }
    environment.edit("config/deploy.rb", "git@git.example.com:acme/shop.git", machine.origin().to_str().unwrap());
    environment.edit("config/deploy/production.rb", "user: \"deploy\", ", "");
    let options = format!(
        "set :ssh_options, {{ config: [\"{0}/ssh_config\"], user_known_hosts_file: [\"{0}/known_hosts\"], verify_host_key: :always }}\n\
         set :tmp_dir, \"{1}\"\nset :format, :pretty\n",
        environment.home("").display(),
        host.path("mount").display()
    );
    environment.write("config/deploy/production.rb", environment.read("config/deploy/production.rb") + &options);
    environment.write(".gitignore", "/dist/\n");
    environment.write("VERSION", "@VERSION@\n");
    environment.write("public/up", "up\n");
    environment.write("public/index.html", "one\n");
    machine.commit("one");
    for (path, text) in [("shared/config/master.key", "key\n"), (LOG, "from Capistrano\n")] {
        fs::create_dir_all(machine.path(path).parent().unwrap()).unwrap();
        fs::write(machine.path(path), text).unwrap();
    }
    cap(&machine, "deploy");
    machine
}

fn cap(machine: &MovedMachine, task: &str) {
    machine.other_tool(&format!("RUBYLIB=stand-ins cap production {task}"));
}

/// What Capistrano calls its folders.
fn is_timestamp(name: &str) -> bool {
    name.len() == 14 && name.bytes().all(|byte| byte.is_ascii_digit())
}

#[test]
fn machine_of_capistrano_moves_without_a_lost_request() {
    let machine = machine();
    let theirs = machine.releases();
    assert!(theirs.len() == 1 && is_timestamp(&theirs[0]), "{theirs:?}");
    assert_eq!(machine.live(), machine.path("releases").join(&theirs[0]).display().to_string(), "it is absolute");
    let mut traffic = machine.traffic("one");
    machine.pack();
    machine.environment.run(&["plan"]).assert_exit(0);
    machine.calls();
    // An absolute link is refused before any commit step.
    let refused = machine.deploy(&[]);
    refused.assert_exit(1).assert_stderr_contains("`app/current` is a link with an absolute path");
    machine.make_link_relative();
    assert_eq!(machine.live(), format!("releases/{}", theirs[0]));
    assert_eq!(machine.calls(), ["bundle install", "bundle exec rails assets:precompile"]);
    // The commit that is live.
    machine.deploy(&[]).assert_exit(0);
    assert!(machine.live().starts_with("releases/") && !machine.live().ends_with(&theirs[0]), "{}", machine.live());
    let calls = ["bundle exec rails db:migrate", "sudo /usr/bin/systemctl restart puma"];
    assert_eq!(machine.calls(), calls, "what is prepared is not repeated");
    let first = machine.live();
    machine.environment.run(&["rollback", "--local"]).assert_exit(2).assert_stderr_contains("error[P0217]");
    machine.environment.write("public/index.html", "two\n");
    traffic.move_to("two", || machine.release("two").assert_exit(0).code);
    let calls = machine.calls();
    let ran = ["bundle install", "bundle exec rails assets:precompile", "bundle exec rails db:migrate"];
    assert_eq!(calls, [&ran[..], &["sudo /usr/bin/systemctl restart puma"]].concat());
    traffic.move_to("one", || machine.environment.run(&["rollback", "--local"]).assert_exit(0).code);
    traffic.stop().assert_complete(100);
    assert_eq!(machine.live(), first);
    // What Capistrano has made is still there.
    let releases = machine.releases();
    assert!(releases.len() == 3 && releases.contains(&theirs[0]), "{releases:?}");
    assert!(machine.path("repo").is_dir() && machine.path("revisions.log").is_file());
    for path in [LOG, "current/log/production.log"] {
        assert_eq!(fs::read_to_string(machine.path(path)).unwrap(), "from Capistrano\n");
    }
    assert_eq!(fs::read_to_string(machine.path("current/config/master.key")).unwrap(), "key\n");
}

#[test]
fn capistrano_and_pawl_take_turns_and_the_way_back_is_one_rename() {
    let machine = machine();
    let theirs = machine.releases().remove(0);
    machine.make_link_relative();
    machine.pack();
    machine.deploy(&[]).assert_exit(0);
    let ours = machine.live();
    cap(&machine, "deploy");
    assert!(machine.live().starts_with('/'), "{}", machine.live());
    assert!(machine.path(&ours).is_dir(), "Capistrano's cleanup leaves it");
    machine.deploy(&[]).assert_exit(1).assert_stderr_contains("error[P0324]");
    machine.make_link_relative();
    machine.deploy(&[]).assert_exit(3).assert_stderr_contains("error[P0401]");
    machine.deploy(&["--accept-drift", "switch"]).assert_exit(0);
    assert_eq!(machine.live(), ours);
    // Whose folder is the newest one, Capistrano does not ask.
    machine.environment.write("public/index.html", "two\n");
    machine.release("two").assert_exit(0);
    let newest = machine.live();
    cap(&machine, &format!("deploy:rollback ROLLBACK_RELEASE={theirs}"));
    assert!(!machine.path(&newest).exists() && machine.path(&ours).is_dir());
    machine.make_link_relative();
    machine.deploy(&["--accept-drift", "switch"]).assert_exit(0);
    assert_eq!(machine.live(), newest, "it was pulled again");
    machine.calls();
    machine.go_back("NAME", &theirs);
    assert_eq!(machine.live(), format!("releases/{theirs}"));
    assert_eq!(machine.calls(), ["sudo /usr/bin/systemctl restart puma"]);
    // Pruning leaves what Pawl has not made.
    machine.environment.run(&["prune", "--local", "--keep", "1"]).assert_exit(0);
    assert_eq!(machine.releases().iter().filter(|name| is_timestamp(name)).count(), 2);
}
