//! `plan`: what would be done, and nothing of it done.

use expect_test::expect;

use crate::support::{TestEnvironment, release_folder};

#[test]
fn preview_of_the_first_deployment_writes_nothing() {
    let environment = TestEnvironment::new();
    environment.pack("r1");
    let before = environment.tree();
    let preview = environment.run(&["plan", "--release", "r1"]);
    preview.assert_exit(0);
    assert_eq!(environment.tree(), before);
    expect![[r#"
        shop r1 → test (preview: nothing is changed)
          run    pull     prepare  first run
                   create app/releases/r1-[HASH]  (release r1 from file:dist/shop-r1.tar.zst)
                   needs a writable directory `app`: it stores releases/ and shared/
                   may reach directory `app` = [ROOT]/shop/deploy/test (read and write; from `grants`)
                   may reach directory `dist` = [ROOT]/shop/dist (read only; from `grants`)
          run    migrate  commit   first run
                   run migrations/0001_products.sql  (on database main)
                   run migrations/0002_first_products.sql  (on database main)
                   needs a directory `migrations`: it contains the migrations
                   needs a database `main`: it is changed by the migrations
                   may reach directory `migrations` = [ROOT]/shop/migrations (read only; from `grants`)
                   may reach database `main` = sqlite:[ROOT]/shop/deploy/test/shop.db
          run    switch   commit   first run
                   not known yet: it is known after `pull` and `migrate`
                   needs a writable directory: it holds the link and the releases
                   may reach directory `app` = [ROOT]/shop/deploy/test (read and write; from `grants`)
          run    verify   check    first run
                   check file app/current/VERSION  (the content `r1`)
                   check file app/current/index.html  (a file that contains `Release r1`)
                   needs a directory: it contains the files to check
                   may reach directory `app` = [ROOT]/shop/deploy/test (read only; from `grants`)
    "#]]
    .assert_eq(&preview.stdout_snapshot());
}

#[test]
fn preview_shows_pending_migrations() {
    let environment = TestEnvironment::deployed();
    environment.pack("r2");
    environment.write("migrations/0003_purchase.sql", "CREATE TABLE purchase (id INTEGER PRIMARY KEY);\n");
    let before = environment.tree();
    let preview = environment.run(&["plan", "--release", "r2"]);
    preview.assert_exit(0);
    assert_eq!(environment.tree(), before);
    expect![[r#"
        shop r2 → test (preview: nothing is changed)
          run    pull     prepare  its configuration and the release changed
                   create app/releases/r2-[HASH]  (release r2 from file:dist/shop-r2.tar.zst)
                   needs a writable directory `app`: it stores releases/ and shared/
                   may reach directory `app` = [ROOT]/shop/deploy/test (read and write; from `grants`)
                   may reach directory `dist` = [ROOT]/shop/dist (read only; from `grants`)
          run    migrate  commit   migrations, the release and outputs of earlier steps changed
                   run migrations/0003_purchase.sql  (on database main)
                   needs a directory `migrations`: it contains the migrations
                   needs a database `main`: it is changed by the migrations
                   may reach directory `migrations` = [ROOT]/shop/migrations (read only; from `grants`)
                   may reach database `main` = sqlite:[ROOT]/shop/deploy/test/shop.db
          run    switch   commit   the release and outputs of earlier steps changed
                   not known yet: it is known after `pull` and `migrate`
                   needs a writable directory: it holds the link and the releases
                   may reach directory `app` = [ROOT]/shop/deploy/test (read and write; from `grants`)
          run    verify   check    its configuration, the release and outputs of earlier steps changed
                   check file app/current/VERSION  (the content `r2`)
                   check file app/current/index.html  (a file that contains `Release r2`)
                   needs a directory: it contains the files to check
                   may reach directory `app` = [ROOT]/shop/deploy/test (read only; from `grants`)
    "#]]
    .assert_eq(&preview.stdout_snapshot());
}

#[test]
fn preview_shows_the_new_link_target_once_the_release_is_pulled() {
    let environment = TestEnvironment::deployed();
    let digest = environment.pack("r2");
    environment.deploy("r2", &["--until", "migrate"]).assert_exit(0);
    let preview = environment.run(&["plan", "--release", "r2", "--json"]).json();
    let changes = preview["steps"][2]["changes"].as_array().unwrap();
    assert_eq!((changes.len(), &preview["steps"][2]["decision"]), (1, &"run".into()), "{preview}");
    assert!(changes[0].to_string().contains(&format!("releases/{}", release_folder("r2", &digest))), "{}", changes[0]);
}

#[test]
fn preview_of_a_deployed_release_skips_every_step() {
    let environment = TestEnvironment::deployed();
    let preview = environment.run(&["plan", "--release", "r1", "--json"]).json();
    let steps = preview["steps"].as_array().unwrap();
    let decided: Vec<_> = steps.iter().map(|step| format!("{} {}", step["decision"], step["because"])).collect();
    assert_eq!(decided, [r#""skip" "held""#; 4]);
}

#[test]
fn preview_marks_trusted_steps() {
    let environment = TestEnvironment::with_plan(
        "version: 1\napp: shop\nsteps:\n  hello:\n    uses: run\n    trust: host\n    with: { program: /bin/echo, args: [hi] }\n    grants: { programs: [[/bin/echo, \"*\"]] }\n",
    );
    let preview = environment.run(&["plan", "--release", "r1"]);
    preview.assert_exit(0);
    expect![[r#"
        shop r1 → default (preview: nothing is changed)
          run    hello  commit   first run
                   run /bin/echo hi
                   needs a program: it is run
                   may reach program /bin/echo * (from `grants`)
                   TRUST: HOST — this step can do whatever this machine's user can
          programs get `PATH` = /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin and `HOME` = the home of the runner's user, unless the step sets them
    "#]]
    .assert_eq(&preview.stdout_snapshot());
    assert!(!environment.exists(".pawl"));
}

/// A change of one step's inputs may leave its outputs as they are.
#[test]
fn step_that_only_outputs_could_change_is_known_after_the_step_that_returns_them() {
    let environment = TestEnvironment::deployed();
    environment.write("migrations/0003_purchase.sql", "CREATE TABLE purchase (id INTEGER PRIMARY KEY);\n");
    let preview = environment.run(&["plan", "--release", "r1", "--json"]).json();
    let row = |index: usize| {
        let step = &preview["steps"][index];
        [&step["step"], &step["decision"], &step["unknown"]].map(|value| value.as_str().unwrap_or("null").to_owned())
    };
    assert_eq!(row(1), ["migrate", "run", "null"]);
    assert_eq!(row(2), ["switch", "null", "it is known after `migrate`"]);
}

#[test]
fn preview_lists_the_headers_that_a_grant_sends() {
    let mut environment = TestEnvironment::with_plan(
        "version: 1\napp: shop\nsecrets: { TOK: env:SHOP_TOK }\n\
         http: { api: { origin: \"http://127.0.0.1:5\", methods: [GET], headers: { x-a: \"Bearer ${{ secrets.TOK }}\" } } }\n\
         steps:\n  verify:\n    with: { http: [{ url: \"http://127.0.0.1:5/\" }] }\n    grants: { http: [api] }\n",
    );
    environment.set_variable("SHOP_TOK", "correct-horse-battery");
    let shown = environment.run(&["plan", "--release", "r1"]);
    shown.assert_exit(0);
    let expected =
        "may reach http://127.0.0.1:5 (GET; sends `x-a: Bearer ${{ secrets.TOK }}`; from `http.api` of the plan)";
    assert!(shown.stdout.contains(expected), "{}", shown.stdout);
    assert!(!shown.stdout.contains("correct-horse"), "{}", shown.stdout);
}
