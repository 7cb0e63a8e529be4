//! `plan`: what would be done, and nothing of it done.

use expect_test::expect;

use crate::support::Environment;

#[test]
fn a_preview_of_the_first_deployment_writes_nothing() {
    let environment = Environment::new();
    environment.pack("r1");
    let before = environment.tree();
    let preview = environment.run(&["plan", "--release", "r1"]);
    preview.assert_exit(0);
    assert_eq!(environment.tree(), before);
    expect![[""]].assert_eq(&preview.printed());
}

#[test]
fn a_preview_shows_pending_migrations_and_where_the_link_will_lead() {
    let environment = Environment::deployed();
    environment.pack("r2");
    environment.write("migrations/0003_purchase.sql", "CREATE TABLE purchase (id INTEGER PRIMARY KEY);\n");
    let before = environment.tree();
    let preview = environment.run(&["plan", "--release", "r2"]);
    preview.assert_exit(0);
    assert_eq!(environment.tree(), before);
    expect![[""]].assert_eq(&preview.printed());
}

#[test]
fn a_preview_of_nothing_to_do_agrees_with_the_deployment() {
    let environment = Environment::deployed();
    let preview = environment.run(&["plan", "--release", "r1", "--json"]).json();
    let steps = preview["steps"].as_array().unwrap();
    let decided: Vec<_> = steps.iter().map(|step| format!("{} {}", step["decision"], step["because"])).collect();
    assert_eq!(decided, [r#""skip" "held""#; 4]);
}

#[test]
fn a_preview_says_what_is_as_strong_as_the_machine() {
    let environment = Environment::with_plan(
        "version: 1\napp: shop\nsteps:\n  hello:\n    uses: run\n    trust: host\n    with: { program: /bin/echo, args: [hi] }\n    grants: { programs: [[/bin/echo, \"*\"]] }\n",
    );
    let preview = environment.run(&["plan", "--release", "r1"]);
    preview.assert_exit(0);
    expect![[""]].assert_eq(&preview.printed());
    assert!(!environment.exists(".pawl"));
}
