//! `pull_from_server`, over HTTP and from files: which digest is expected, what is refused, and that a failed pull leaves nothing.

use expect_test::expect;

use crate::support::{
    HttpReply, HttpTestServer, RunnerOutput, TestArchiveFormat, TestEnvironment, release_folder, sha256,
};

/// A plan that pulls `<origin>/<file>`, with more settings.
fn plan(server: &HttpTestServer, file: &str, more: &str) -> String {
    format!(
        r#"version: 1
app: shop
steps:
  pull:
    uses: pull
    with: {{ from: "{origin}/{file}", into: app{more} }}
    grants: {{ dirs: {{ app: ./deploy }}, http: ["{origin}"] }}
    retry: 3
"#,
        origin = server.origin(),
    )
}

/// Deploys r1 from a server that has these files.
fn pull_from_server(files: Vec<(String, Vec<u8>)>, file: &str, more: &str) -> (TestEnvironment, RunnerOutput) {
    let server = HttpTestServer::new(move |path, _| {
        let found = files.iter().find(|(name, _)| path[1..] == **name);
        found.map_or_else(|| HttpReply::status(404), |(_, bytes)| HttpReply::ok(bytes.clone()))
    });
    let environment = TestEnvironment::with_plan(&plan(&server, file, more));
    let answer = environment.run(&["--local", "--release", "r1"]);
    (environment, answer)
}

fn example_archive(format: TestArchiveFormat) -> Vec<u8> {
    TestEnvironment::new().archive("r1", format)
}

#[test]
fn digest_is_read_from_a_file_next_to_the_archive() {
    for (name, format) in [
        ("r1.tar.zst", TestArchiveFormat::TarZst),
        ("r1.tar.gz", TestArchiveFormat::TarGz),
        ("r1.zip", TestArchiveFormat::Zip),
    ] {
        let bytes = example_archive(format);
        let digest = sha256(&bytes);
        let digest_file = (format!("{name}.sha256"), format!("{digest}  {name}\n").into_bytes());
        let (environment, answer) = pull_from_server(vec![(name.to_owned(), bytes), digest_file], name, "");
        answer.assert_exit(0);
        let folder = release_folder("r1", &digest);
        assert_eq!(environment.list("deploy/releases"), [folder.as_str()], "{name}");
        assert_eq!(environment.read(&format!("deploy/releases/{folder}/VERSION")).trim(), "r1");
        assert!(environment.exists(&format!("deploy/releases/{folder}/assets/style.css")));
    }
}

#[test]
fn digest_is_read_from_the_plan_or_a_checksum_manifest() {
    let bytes = example_archive(TestArchiveFormat::TarGz);
    let digest = sha256(&bytes);
    let file = || ("r1.tar.gz".to_owned(), bytes.clone());
    let (environment, answer) = pull_from_server(vec![file()], "r1.tar.gz", &format!(", digest: \"sha256:{digest}\""));
    answer.assert_exit(0);
    assert_eq!(environment.list("deploy/releases"), [release_folder("r1", &digest)]);

    let manifest = format!("{}  other.tar.gz\n{digest}  r1.tar.gz\n", "0".repeat(64));
    let (environment, answer) =
        pull_from_server(vec![file(), ("SHA256SUMS".to_owned(), manifest.into_bytes())], "r1.tar.gz", "");
    answer.assert_exit(0);
    assert_eq!(environment.list("deploy/releases"), [release_folder("r1", &digest)]);
}

#[test]
fn archive_without_a_digest_is_not_pulled() {
    let (environment, answer) =
        pull_from_server(vec![("r1.tar.gz".to_owned(), example_archive(TestArchiveFormat::TarGz))], "r1.tar.gz", "");
    answer.assert_exit(2);
    assert_eq!(environment.list("deploy/releases"), [""; 0]);
    expect![[r#"
        error[P0203]: can't determine the digest of release r1
         --> deploy.yml:6:19
          |
        6 |     with: { from: "http://127.0.0.1:[PORT]/r1.tar.gz", into: app }
          |                   ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ its source
          caused by: the digest of http://127.0.0.1:[PORT]/r1.tar.gz is unknown
          hint: write `digest: sha256:…` next to `from`, or publish it as `<file>.sha256`
    "#]]
    .assert_eq(&mask_port(&answer.stderr_snapshot()));
}

#[test]
fn wrong_digest_leaves_no_files() {
    let wrong = format!(", digest: \"sha256:{}\"", "a".repeat(64));
    let (environment, answer) = pull_from_server(
        vec![("r1.tar.gz".to_owned(), example_archive(TestArchiveFormat::TarGz))],
        "r1.tar.gz",
        &wrong,
    );
    answer.assert_exit(1);
    expect![[r#"
        note: wrote deploy.lock, which pins the modules; commit it
        shop r1 to default (run [RUN 1], attempt 1)
          start  pull  first run
          FAIL   pull  the archive has the digest sha256:[HASH], not sha256:[HASH] [TIME]
        error[P0301]: step `pull` failed on attempt 1
          caused by: the archive has the digest sha256:[HASH], not sha256:[HASH]
          hint: if you republished the archive, publish its new digest too (sha256:[HASH]); otherwise do not use it; then run `runner --local --release r1` again
    "#]].assert_eq(&mask_port(&answer.stderr_snapshot()));
    assert_eq!(leftovers(&environment), [""; 0]);
}

#[test]
fn truncated_archive_leaves_no_files() {
    for name in ["r1.tar.gz", "r1.tar.zst", "r1.zip"] {
        let format = match name {
            "r1.tar.gz" => TestArchiveFormat::TarGz,
            "r1.tar.zst" => TestArchiveFormat::TarZst,
            _ => TestArchiveFormat::Zip,
        };
        let mut bytes = example_archive(format);
        bytes.truncate(bytes.len() / 2);
        let digest = format!(", digest: \"sha256:{}\"", sha256(&bytes));
        let (environment, answer) = pull_from_server(vec![(name.to_owned(), bytes)], name, &digest);
        answer.assert_exit(1);
        assert_eq!(leftovers(&environment), [""; 0], "{name}");
    }
}

#[test]
fn busy_server_is_retried() {
    let bytes = example_archive(TestArchiveFormat::TarZst);
    let digest = sha256(&bytes);
    let server = HttpTestServer::new(
        move |_, before| if before < 2 { HttpReply::status(503) } else { HttpReply::ok(bytes.clone()) },
    );
    let plan = plan(&server, "r1.tar.zst", &format!(", digest: \"sha256:{digest}\""));
    let environment = TestEnvironment::with_plan(&plan);
    let answer = environment.deploy("r1", &[]);
    answer.assert_exit(0);
    assert_eq!(
        answer.event_types().iter().filter(|kind| *kind == "intent").count(),
        3,
        "{:?}",
        server.requested_paths()
    );
    assert_eq!(server.requested_paths(), ["/r1.tar.zst"; 3]);
    assert_eq!(environment.list("deploy/releases"), [release_folder("r1", &digest)]);
}

#[test]
fn server_that_stays_busy_leaves_no_files() {
    let server = HttpTestServer::new(|_, _| HttpReply::status(503));
    let plan = plan(&server, "r1.tar.zst", &format!(", digest: \"sha256:{}\"", "a".repeat(64)))
        .replace("retry: 3", "retry: 1");
    let environment = TestEnvironment::with_plan(&plan);
    environment.run(&["--local", "--release", "r1"]).assert_exit(1).assert_stderr_contains("503");
    assert_eq!(server.requested_paths().len(), 2);
    assert_eq!(leftovers(&environment), [""; 0]);
}

#[test]
fn file_that_does_not_match_its_published_digest_is_rejected() {
    let environment = TestEnvironment::new();
    environment.pack("r1");
    environment.write("dist/shop-r1.tar.zst", "something else");
    environment.run(&["--local", "--release", "r1"]).assert_exit(1).assert_stderr_contains("digest");
    assert_eq!(environment.list("deploy/test/releases"), [""; 0]);
    environment.pack("r1");
    environment.deploy("r1", &[]).assert_exit(0);
}

/// All that lies in the folder that was pulled into, but the empty folder of the releases.
fn leftovers(environment: &TestEnvironment) -> Vec<String> {
    let mut names = environment.list("deploy");
    names.retain(|name| name != "releases");
    names.extend(environment.list("deploy/releases"));
    names
}

fn mask_port(text: &str) -> String {
    let mut parts = text.split("127.0.0.1:");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str("127.0.0.1:[PORT]");
        out.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit()));
    }
    out
}
