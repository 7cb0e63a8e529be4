//! The template `django`, with a real package index, supervisord and nginx: deployed, broken, resumed, rolled back.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use crate::support::{PypiAuth, PypiServer, TEMPLATE_PROJECT, TemplateSite};

/// Begins to write to the database of its argument, and waits.
const WRITER: &str = "
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute('BEGIN IMMEDIATE')
print('it writes', flush=True)
sys.stdin.read()
";

/// The template, with an index that has what it needs.
fn django_site() -> (TemplateSite, PypiServer) {
    let (site, index) = (TemplateSite::new("django"), PypiServer::start(PypiAuth::Anonymous));
    let step = format!("  venv:\n    with: {{ index: \"{}\" }}\n", index.url());
    site.change_plan(|plan| plan.replace("  venv:\n", &step));
    site.environment.write("srv/shared/secret-key", "of this machine\n");
    (site, index)
}

/// A migration that adds a greeting.
fn add_migration(site: &TemplateSite, name: &str, greeting: &str) {
    let text = format!(
        "from django.db import migrations\n\n\n\
         def add(apps, schema_editor):\n    apps.get_model('web', 'Greeting').objects.create(text='{greeting}')\n\n\n\
         class Migration(migrations.Migration):\n    dependencies = [('web', '0001_greetings')]\n    \
         operations = [migrations.RunPython(add)]\n"
    );
    site.write(&format!("web/migrations/{name}.py"), &text);
}

/// Somebody who writes to the database until its standard input ends.
fn start_writer(site: &TemplateSite) -> Child {
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", WRITER]).arg(site.environment.path("srv/shared/database/db.sqlite3"));
    let mut writer = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(writer.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "it writes\n");
    writer
}

#[test]
fn django_template_is_deployed_broken_resumed_and_rolled_back() {
    let (site, _index) = django_site();
    site.build("r1");
    site.deploy("r1").assert_exit(0);
    site.assert_greeting("Hello from shop, release r1");
    let style = site.style();
    assert!(site.get(&style).contains("sans-serif"), "nginx serves {style}");

    // Somebody keeps the database busy while the second release wants to upgrade it.
    add_migration(&site, "0002_welcome", "Welcome to shop");
    site.write("web/static/web/style.css", "p { font-family: serif }\n");
    site.build("r2");
    let mut writer = start_writer(&site);
    let failed = site.deploy("r2");
    failed.assert_exit(1).assert_stderr_contains("step `migrate` failed");
    let logs = site.environment.run_in(TEMPLATE_PROJECT, &["logs"]);
    assert!(logs.stdout.contains("database is locked"), "{}", logs.stdout);
    site.assert_greeting("Hello from shop, release r1");
    drop(writer.stdin.take());
    assert!(writer.wait().unwrap().success());
    let resumed = site.deploy("r2");
    resumed.assert_exit(0);
    assert_eq!(
        resumed.decisions()[..5],
        ["pull skip held", "venv skip held", "pending skip trusted", "static skip held", "migrate run failed-before"]
    );
    site.assert_greeting("Welcome to shop, release r2");
    // A page that a visitor has got from r1 still finds its style.
    assert!(site.style() != style && site.get(&style).contains("sans-serif"), "{style}");
    assert!(site.get(&site.style()).contains("{ font-family: serif }"), "{}", site.style());

    // A release whose migrations contradict each other ends before anything is changed.
    add_migration(&site, "0002_other", "Good morning");
    site.build("r3");
    site.deploy("r3").assert_exit(1).assert_stderr_contains("Conflicting migrations detected");
    site.assert_greeting("Welcome to shop, release r2");

    // On the way back nothing is started, and the database stays as it is.
    site.roll_back();
    site.assert_greeting("Welcome to shop, release r1");
}
