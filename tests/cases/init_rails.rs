//! The template `rails`, with a real Rails, supervisord and nginx: deployed, broken, resumed, rolled back.

use std::{fs, path::Path, process::Command};

use crate::support::{NginxServer, TEMPLATE_PROJECT, TemplateSite, TestEnvironment};

/// A migration that fails while two greetings are the same.
const UNIQUE_GREETINGS: &str = "class MakeGreetingsUnique < ActiveRecord::Migration[6.1]
  def up
    add_index :greetings, :text, unique: true
    execute \"INSERT INTO greetings (text) VALUES ('Welcome to shop')\"
  end
end
";

/// The template, with the gems of the day.
fn rails_site() -> TemplateSite {
    let site = TemplateSite::new("rails");
    site.environment.write("srv/shared/config/master.key", "0123456789abcdef0123456789abcdef\n");
    // Which versions Debian has today.
    site.in_project("bundle lock --local");
    site
}

/// Somebody who changes the database by hand.
fn change_database(site: &TemplateSite, statement: &str) {
    let database = site.environment.path("srv/shared/storage/production.sqlite3");
    assert!(Command::new("sqlite3").arg(database).arg(statement).status().unwrap().success());
}

#[test]
fn rails_template_is_deployed_broken_resumed_and_rolled_back() {
    let site = rails_site();
    site.build("r1");
    site.deploy("r1").assert_exit(0);
    site.assert_greeting("Hello from shop, release r1");
    let style = site.style();
    assert!(site.get(&style).contains("sans-serif"), "nginx serves {style}");

    // The second release wants each greeting once, and there is one twice. Nobody who visits sees that.
    site.write("db/migrate/20261202000000_make_greetings_unique.rb", UNIQUE_GREETINGS);
    site.write("app/assets/stylesheets/application.css", "p { font-family: serif }\n");
    change_database(&site, "INSERT INTO greetings (text) VALUES ('Hello from shop')");
    site.build("r2");
    let visitor = site.steady_visitor();
    let failed = site.deploy("r2");
    failed.assert_exit(1).assert_stderr_contains("step `migrate` failed");
    let logs = site.environment.run_in(TEMPLATE_PROJECT, &["logs"]);
    assert!(logs.stdout.contains("UNIQUE constraint failed"), "{}", logs.stdout);
    site.assert_greeting("Hello from shop, release r1");
    change_database(&site, "DELETE FROM greetings WHERE id > 1");
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
    let visitor = site.steady_visitor();
    site.roll_back();
    visitor.assert_saw("r2", "r1");
    site.assert_greeting("Welcome to shop, release r1");
    assert_eq!(site.style(), style);
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
    fs::create_dir_all(environment.path(TEMPLATE_PROJECT)).unwrap();
    environment.run_in(TEMPLATE_PROJECT, &["init", "--template", "rails"]).assert_exit(0);
    environment.run_script(GEM_INDEX).assert_exit(0);
    let gems = environment.path("gem/index").display().to_string();
    let index = NginxServer::with_configuration(|port| format!("server {{ listen 127.0.0.1:{port}; root {gems}; }}"));
    let plan = environment.read(&format!("{TEMPLATE_PROJECT}/deploy.yml"));
    let (beginning, _) = plan.split_once("  assets:\n").unwrap();
    let plan = beginning.replace("/srv/shop", &environment.path("srv").display().to_string());
    environment.write(&format!("{TEMPLATE_PROJECT}/deploy.yml"), plan);
    environment.write("srv/shared/config/master.key", "");
    environment.write(
        &format!("{TEMPLATE_PROJECT}/Gemfile"),
        format!("source \"http://{}\"\ngem \"greeting\"\n", index.address()),
    );
    let build = |release: &str, before: &str| {
        let script = format!("PATH=$(dirname \"$0\"):$PATH\ncd {TEMPLATE_PROJECT}\n{before}sh build.sh {release}");
        environment.run_script(&script).assert_exit(0);
    };
    build("r1", "bundle lock\n");
    environment.run_in(TEMPLATE_PROJECT, &["--local", "--release", "r1", "--json"]).assert_exit(0);
    let installed = environment.path("srv/shared/vendor/bundle/ruby");
    assert!(find_file(&installed, "greeting.rb"), "{}", installed.display());

    // The second release finds the gem, so it does not need the index.
    drop(index);
    environment.write(&format!("{TEMPLATE_PROJECT}/app/models/order.rb"), "class Order < ActiveRecord::Base\nend\n");
    build("r2", "");
    let second = environment.run_in(TEMPLATE_PROJECT, &["--local", "--release", "r2", "--json"]);
    second.assert_exit(0);
    assert_eq!(second.decisions()[1], "bundle run changed");

    // Another gem than those of Gemfile.lock is not installed.
    environment.edit(&format!("{TEMPLATE_PROJECT}/Gemfile"), "gem \"greeting\"\n", "gem \"greeting\"\ngem \"rake\"\n");
    build("r3", "");
    let third = environment.run_in(TEMPLATE_PROJECT, &["--local", "--release", "r3", "--json"]);
    third.assert_exit(1).assert_stderr_contains("step `bundle` failed");
}

/// Whether a file of this name is somewhere in the folder.
fn find_file(folder: &Path, name: &str) -> bool {
    fs::read_dir(folder).unwrap().flatten().any(|entry| {
        let path = entry.path();
        entry.file_name() == name || (path.is_dir() && find_file(&path, name))
    })
}
