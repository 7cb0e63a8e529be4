//! The password is seen nowhere: not in what is printed, kept, or listed of processes; not by a module that looks for it. However it is
//! written into the plan, and whatever goes wrong.

use std::fs;

use serde_json::json;

use crate::{
    guest::misbehave_component,
    migration_fixture::{MigrationFixture, run_process, wait_until},
    server::{PASSWORD, TestDatabase, TestDbEngine},
};

const SERVER_ENGINES: [TestDbEngine; 2] = [TestDbEngine::Postgres, TestDbEngine::Mariadb];

/// The spellings that must not be seen.
fn encodings(word: &str) -> Vec<String> {
    let percent = word.replace('/', "%2F").replace('@', "%40").replace('?', "%3F");
    vec![word.to_owned(), percent, word.replace('/', "\\/")]
}

#[track_caller]
fn assert_absent(engine: TestDbEngine, words: &[&str], texts: &[String]) {
    for text in texts {
        for word in words.iter().flat_map(|word| encodings(word)) {
            assert!(!text.contains(&word), "{engine:?}: {word} is in {text}");
        }
    }
}

/// Everything that lies beside the plan.
fn files_besides_plan(shop: &MigrationFixture) -> Vec<String> {
    let plan = shop.path("deploy.yml");
    let files = shop.files().into_iter().filter(|(path, _)| *path != plan);
    files.map(|(path, content)| format!("{}: {}", path.display(), String::from_utf8_lossy(&content))).collect()
}

#[test]
fn password_appears_in_no_output_or_file() {
    for engine in SERVER_ENGINES {
        // By a look-up, and written into the plan.
        for is_written in [false, true] {
            let database = TestDatabase::new(engine);
            let url = if is_written { database.plain_url() } else { database.url() };
            let shop = MigrationFixture::with_url(&url, "", "");
            shop.write_migration("1_a.sql", "create table if not exists a (id integer);\n");
            let mut texts = Vec::new();
            for line in [
                "plan --release r1",
                "plan --release r1 --json",
                "doctor --release r1",
                "--local --release r1 --verbose",
                "--local --release r1 --json --fresh",
                "migrate status",
                "migrate status --json",
                "migrate lint",
                "migrate preview --json",
                "migrate accept 1 --local --json",
                "why migrate",
                "why migrate --json",
                "logs",
                "logs --json",
                "status --json",
                "history --json",
            ] {
                texts.push(shop.run(&line.split(' ').collect::<Vec<_>>()).assert_exit(0).text);
            }
            // What fails has the most to say.
            for (line, exit) in [
                ("migrate baseline 1 --local", 1),
                ("migrate down --local", 1),
                ("migrate resolve 1 --applied --local --json", 1),
                ("migrate resolve 9 --applied --local", 1),
            ] {
                texts.push(shop.run(&line.split(' ').collect::<Vec<_>>()).assert_exit(exit).text);
            }
            shop.write_migration("2_b.sql", "select broken from nowhere;\n");
            for line in ["--local --release r1 --verbose", "--local --release r1 --json", "why migrate", "logs"] {
                texts.push(shop.run(&line.split(' ').collect::<Vec<_>>()).text);
            }
            texts.extend(files_besides_plan(&shop));
            assert!(texts.len() > 25 && texts.iter().any(|text| text.contains("nowhere")));
            assert_absent(engine, &[PASSWORD], &texts);
        }
    }
}

/// A server that refuses, is not there, has no name, or no TLS: what is said of it has neither the right nor the wrong password.
#[test]
fn password_is_absent_from_connection_errors() {
    const WRONG: &str = "wr0ng/W@rd?";
    for engine in SERVER_ENGINES {
        let database = TestDatabase::new(engine);
        let port = database.server.as_ref().unwrap().port();
        let (scheme, user, option) = match engine {
            TestDbEngine::Postgres => ("postgres", "postgres", "sslmode"),
            TestDbEngine::Mariadb | TestDbEngine::Sqlite => ("mysql", "shop", "ssl-mode"),
        };
        let name = &database.name;
        let escaped = |word: &str| encodings(word)[1].clone();
        let url =
            |user: &str, word: &str, place: &str, query: &str| format!("{scheme}://{user}:{word}@{place}/{query}");
        let here = format!("127.0.0.1:{port}");
        let looked_up = "${{ secrets.PASSWORD }}";
        let written = escaped(PASSWORD);
        let mut cases = Vec::new();
        for word in [looked_up, &written] {
            let disabled = format!("{name}?{option}=disable");
            cases.extend([
                ("user", url("nobody", word, &here, &disabled)),
                ("down", url(user, word, "127.0.0.1:1", &disabled)),
                ("name", url(user, word, "nowhere.invalid", name)),
                ("database", url(user, word, &here, &format!("nothing?{option}=disable"))),
                ("tls", url(user, word, &here, &format!("{name}?{option}=require"))),
                ("authority", url(user, word, &here, &format!("{name}?{option}=verify-full"))),
                ("option", url(user, word, &here, &format!("{name}?{option}=sometimes"))),
                ("port", url(user, word, "127.0.0.1:x", name)),
            ]);
        }
        cases.push(("password", url(user, &escaped(WRONG), &here, &format!("{name}?{option}=disable"))));
        for (what, url) in cases {
            let shop = MigrationFixture::with_url(&url, "", "");
            shop.write_migration("1_a.sql", "create table if not exists a (id integer);\n");
            let mut texts = Vec::new();
            for line in [
                "--local --release r1 --verbose",
                "--local --release r1 --json",
                "plan --release r1",
                "doctor --release r1",
                "migrate status",
                "migrate preview --json",
                "migrate baseline 1 --local",
                "migrate resolve 1 --applied --local --json",
                "migrate down --local",
                "logs",
            ] {
                let said = shop.run(&line.split(' ').collect::<Vec<_>>());
                if line.contains("--release r1 --") || line == "migrate status" {
                    assert_ne!(said.code, Some(0), "{engine:?} {what}: {line}: {}", said.text);
                }
                texts.push(said.text);
            }
            texts.extend(files_besides_plan(&shop));
            assert_absent(engine, &[PASSWORD, WRONG], &texts);
        }
        // A secret that is wrong is one too.
        let shop =
            MigrationFixture::with_url(&url(user, looked_up, &here, &format!("{name}?{option}=disable")), "", "");
        shop.write_migration("1_a.sql", "select 1;\n");
        let mut command = shop.command("state", &["--local", "--release", "r1", "--verbose"]);
        command.env("PASSWORD", WRONG);
        let said = run_process(command);
        assert_ne!(said.code, Some(0));
        let mut texts = vec![said.text];
        texts.extend(files_besides_plan(&shop));
        assert_absent(engine, &[WRONG], &texts);
    }
}

#[test]
fn password_is_absent_from_process_arguments() {
    for engine in SERVER_ENGINES {
        let database = TestDatabase::new(engine);
        let shop = MigrationFixture::new(&database, "");
        let (slow, seen) = match engine {
            TestDbEngine::Postgres => (
                "select pg_sleep(30)",
                "select count(*) from pg_stat_activity where query like '%pg_sleep(30)%' and pid <> pg_backend_pid()",
            ),
            TestDbEngine::Mariadb | TestDbEngine::Sqlite => (
                "select sleep(30)",
                "select count(*) from information_schema.processlist where info = 'select sleep(30)'",
            ),
        };
        shop.write_migration("1_slow.sql", format!("{slow};\n"));
        let mut child = shop.start("state");
        wait_until("the migration is under way", || database.sql(seen) != "0");
        // Its own, and those of what it started.
        let mut family = vec![child.id()];
        let mut at = 0;
        while let Some(id) = family.get(at).copied() {
            at += 1;
            let children = fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
            let children = children.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
            family.extend(
                children.flat_map(|ids| ids.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<u32>>()),
            );
        }
        let texts: Vec<String> = family
            .iter()
            .map(|id| {
                String::from_utf8_lossy(&fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default()).into_owned()
            })
            .collect();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(texts[0].contains("--local"), "{texts:?}");
        assert_absent(engine, &[PASSWORD], &texts);
    }
}

/// A module that was granted the database looks for its URL: in the catalogues, in what fails, in what the host answers, in its
/// surroundings. It is the module that tells what it saw, before anything is taken out of its words.
#[test]
fn guest_that_searches_for_the_password_finds_nothing() {
    let catalogues = |engine| match engine {
        TestDbEngine::Postgres => vec![
            "select name, setting from pg_settings",
            "select pid::text, usename::text, application_name, query from pg_stat_activity",
            "select rolname::text, rolpassword from pg_authid",
            "select current_user::text, session_user::text, inet_server_port(), current_setting('application_name')",
            "select current_setting('pawl.password')",
            "select current_setting('password', true)",
            "select srvname::text, srvoptions::text from pg_foreign_server",
            "select * from _pawl_ledger",
            "select * from _pawl_migrations",
            "select 'x'::integer",
            "select nothing from nowhere",
            "select 1 /",
            "set password to default",
        ],
        TestDbEngine::Mariadb | TestDbEngine::Sqlite => vec![
            "show variables",
            "show full processlist",
            "select user, host, authentication_string from mysql.user",
            "show grants",
            "select current_user(), user(), database(), connection_id()",
            "select @@global.init_connect, @@hostname",
            "select attr_name, attr_value from performance_schema.session_connect_attrs",
            "select * from _pawl_ledger",
            "select * from _pawl_migrations",
            "select nothing from nowhere",
            "select 1 /",
            "set password = default",
        ],
    };
    for engine in SERVER_ENGINES {
        let database = TestDatabase::new(engine);
        let port = database.server.as_ref().unwrap().port();
        let down = database.url_at(1, "${{ secrets.PASSWORD }}");
        let refused = database.url().replace("postgres:$", "nobody:$").replace("shop:$", "nobody:$");
        for (url, rows) in [(database.url(), true), (database.plain_url(), true), (down, false), (refused, false)] {
            let shop = MigrationFixture::with_url(&url, "", "");
            shop.write_migration("1_a.sql", "create table if not exists a (id integer);\n");
            fs::copy(misbehave_component(), shop.path("module.wasm")).unwrap();
            let address = format!("127.0.0.1:{port}/{}", database.name);
            let needles: Vec<String> = encodings(PASSWORD).into_iter().chain([address]).collect();
            let backwards: Vec<String> = needles.iter().map(|word| word.chars().rev().collect()).collect();
            let plan = json!({
                "version": 1, "app": "shop", "state": "dir:${{ env.STATE }}", "secrets": { "PASSWORD": "env:PASSWORD" },
                "steps": { "look": {
                    "uses": "./module.wasm",
                    "with": {
                        "do": "look-for-password", "name": "main", "args": catalogues(engine), "text": backwards.join("\n"),
                    },
                    "grants": { "dirs": { "migrations": "./migrations:ro" }, "databases": { "main": url } },
                } },
            });
            shop.write("deploy.yml", plan.to_string());
            let output =
                shop.run(&["--local", "--release", "r1", "--verbose"]).assert_exit(0).assert_contains("looked at ");
            assert_eq!(!output.text.contains(", 0 rows"), rows, "{engine:?}: {}", output.text);
            let journal = fs::read_to_string(shop.root().join("state/shop/default/attempt-000001.journal")).unwrap();
            assert!(journal.contains(r#""seen":"""#), "{engine:?}: it saw something: {journal}");
            let mut texts = files_besides_plan(&shop);
            texts.retain(|text| !text.contains("module.wasm: "));
            texts.push(output.text);
            assert_absent(engine, &[PASSWORD], &texts);
        }
    }
}
