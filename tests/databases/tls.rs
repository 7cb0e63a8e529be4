//! TLS to servers: who is believed, and who is not. The authorities are made here.

use std::{fs, path::PathBuf, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;

use crate::{
    migration_fixture::{MigrationFixture, ProcessOutput},
    server::{TestDatabase, TestDbEngine, TestDbServer},
};

/// Two authorities, and a certificate of the first one for `localhost`.
struct TestCertificates(TempDir);

impl TestCertificates {
    fn new() -> Self {
        let certificates = Self(tempfile::tempdir().unwrap());
        let authority = |file: &str| {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(rcgen::DnType::CommonName, file);
            let made = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
            fs::write(certificates.path(file), made.pem()).unwrap();
            made
        };
        let ours = authority("authority.pem");
        authority("other.pem");
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        fs::write(certificates.path("server.pem"), params.signed_by(&key, &ours).unwrap().pem()).unwrap();
        fs::write(certificates.path("key.pem"), key.serialize_pem()).unwrap();
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(certificates.path("key.pem"), fs::Permissions::from_mode(0o600)).unwrap();
        if rustix::process::geteuid().is_root() {
            for path in
                [certificates.0.path().to_owned(), certificates.path("server.pem"), certificates.path("key.pem")]
            {
                let nobody = (rustix::fs::Uid::from_raw(65534), rustix::fs::Gid::from_raw(65534));
                rustix::fs::chown(&path, Some(nobody.0), Some(nobody.1)).unwrap();
            }
        }
        certificates
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    fn server(&self, engine: TestDbEngine) -> TestDbServer {
        let (cert, key) = (self.path("server.pem"), self.path("key.pem"));
        let (cert, key) = (cert.display(), key.display());
        let more = match engine {
            TestDbEngine::Postgres => vec![
                "-c".to_owned(),
                "ssl=on".to_owned(),
                "-c".to_owned(),
                format!("ssl_cert_file={cert}"),
                "-c".to_owned(),
                format!("ssl_key_file={key}"),
            ],
            TestDbEngine::Mariadb | TestDbEngine::Sqlite => {
                vec![format!("--ssl-cert={cert}"), format!("--ssl-key={key}")]
            }
        };
        TestDbServer::start_with(engine, more)
    }
}

/// A migration that writes down what the session is protected by.
fn tls_version_migration(engine: TestDbEngine) -> &'static str {
    match engine {
        TestDbEngine::Postgres => {
            "create table tls as select ssl::text as version from pg_stat_ssl where pid = pg_backend_pid();\n"
        }
        TestDbEngine::Mariadb | TestDbEngine::Sqlite => {
            "create table tls as select variable_value as version from information_schema.session_status where variable_name = 'ssl_version';\n"
        }
    }
}

fn deploy_with_tls(database: &TestDatabase, host: &str, query: &str) -> ProcessOutput {
    let port = database.server.as_ref().unwrap().port();
    let (scheme, user) = match database.engine {
        TestDbEngine::Postgres => ("postgres", "postgres"),
        TestDbEngine::Mariadb | TestDbEngine::Sqlite => ("mysql", "shop"),
    };
    let url = format!("{scheme}://{user}:${{{{ secrets.PASSWORD }}}}@{host}:{port}/{}?{query}", database.name);
    let shop = MigrationFixture::with_url(&url, "", "");
    shop.write_migration("1_tls.sql", tls_version_migration(database.engine));
    shop.deploy()
}

/// The words of the documentation: `sslmode` and `sslrootcert`, or `ssl-mode` and `ssl-ca`.
fn tls_option_names(engine: TestDbEngine) -> (&'static str, &'static str) {
    match engine {
        TestDbEngine::Postgres => ("sslmode", "sslrootcert"),
        TestDbEngine::Mariadb | TestDbEngine::Sqlite => ("ssl-mode", "ssl-ca"),
    }
}

#[test]
fn tls_modes_accept_or_reject_certificates() {
    let certificates = TestCertificates::new();
    let (ours, other) = (certificates.path("authority.pem"), certificates.path("other.pem"));
    let (ours, other) = (ours.display(), other.display());
    for engine in [TestDbEngine::Postgres, TestDbEngine::Mariadb] {
        let server = Arc::new(certificates.server(engine));
        let (mode, ca) = tls_option_names(engine);
        // With TLS, without, or refused with these words.
        let cases: Vec<(&str, String, Result<bool, &str>)> = vec![
            ("localhost", format!("{mode}=verify-full&{ca}={ours}"), Ok(true)),
            ("127.0.0.1", format!("{mode}=verify-full&{ca}={ours}"), Err("certificate")),
            // MariaDB's driver looks at the name there too.
            (
                "127.0.0.1",
                format!("{mode}=verify-ca&{ca}={ours}"),
                if engine == TestDbEngine::Postgres { Ok(true) } else { Err("certificate") },
            ),
            ("localhost", format!("{mode}=verify-ca&{ca}={ours}"), Ok(true)),
            ("localhost", format!("{mode}=require&{ca}={ours}"), Ok(true)),
            ("localhost", format!("{mode}=verify-full&{ca}={other}"), Err("certificate")),
            ("localhost", format!("{mode}=verify-ca&{ca}={other}"), Err("certificate")),
            ("localhost", format!("{mode}=require&{ca}={other}"), Err("certificate")),
            // The machine's own authorities do not know it.
            ("localhost", format!("{mode}=verify-full"), Err("certificate")),
            ("localhost", format!("{mode}=verify-full&{ca}=/nowhere.pem"), Err("/nowhere.pem")),
            ("127.0.0.1", format!("{mode}=require"), Ok(true)),
            ("127.0.0.1", String::new(), Ok(true)),
            ("127.0.0.1", format!("{mode}=disable"), Ok(false)),
        ];
        for (host, query, expected) in cases {
            let database = TestDatabase::on_server(engine, Some(Arc::clone(&server)));
            let said = deploy_with_tls(&database, host, &query);
            match expected {
                Ok(is_protected) => {
                    let said = said.assert_exit(0);
                    let version = database.sql("select version from tls");
                    let is = version == "true" || version.starts_with("TLS");
                    assert_eq!(is, is_protected, "{engine:?} {host} {query}: {version}: {}", said.text);
                }
                Err(words) => {
                    assert_ne!(said.code, Some(0), "{engine:?} {host} {query}: {}", said.text);
                    assert!(said.text.contains(words), "{engine:?} {host} {query}: {}", said.text);
                    assert!(database.try_sql("select * from tls").is_err(), "{engine:?} {host} {query}");
                }
            }
        }
    }
}

#[test]
fn server_without_tls_is_rejected_when_tls_is_required() {
    for engine in [TestDbEngine::Postgres, TestDbEngine::Mariadb] {
        // MariaDB 11.4 and newer make a certificate of their own.
        let off = if engine == TestDbEngine::Mariadb { vec!["--skip-ssl".to_owned()] } else { Vec::new() };
        let database = TestDatabase::on_server(engine, Some(Arc::new(TestDbServer::start_with(engine, off))));
        let (mode, _) = tls_option_names(engine);
        for query in [format!("{mode}=require"), format!("{mode}=verify-ca"), format!("{mode}=verify-full")] {
            let output = deploy_with_tls(&database, "localhost", &query);
            assert_ne!(output.code, Some(0), "{engine:?} {query}: {}", output.text);
            assert!(output.text.contains("TLS") || output.text.contains("SSL"), "{engine:?} {query}: {}", output.text);
            assert!(database.try_sql("select * from tls").is_err(), "{engine:?} {query}");
        }
        deploy_with_tls(&database, "127.0.0.1", "").assert_exit(0);
        assert_ne!(database.sql("select version from tls"), "true");
    }
}
