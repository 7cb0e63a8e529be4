//! What goes wrong with a publication: who does not answer, wrong checksums, no room, and two at the same moment.

use std::fs;

use super::{ARCHIVE, PACK, cuts::publish_cut, packed, packed_with_noise, publish};
use crate::support::{MeteredRelay, MotoServer, NginxServer, TestEnvironment, aws_variables, free_port, sha256};

#[test]
fn servers_that_are_down_are_named() {
    let address = format!("127.0.0.1:{}", free_port());
    std::thread::scope(|scope| {
        for target in ["http://ADDRESS/x/", "oci://ADDRESS/shop:r1", "s3://acme-state/x/"] {
            let target = target.replace("ADDRESS", &address);
            let address = &address;
            scope.spawn(move || {
                let mut environment = packed();
                aws_variables(address).iter().for_each(|(name, value)| environment.set_variable(name, value));
                let output = publish(&environment, &target, &[]);
                output.assert_exit(1).assert_stderr_contains("error[P0237]").assert_stderr_contains(address);
                output.assert_stderr_contains("can't be reached").assert_stderr_contains("publish again");
            });
        }
    });
}

#[test]
fn file_that_is_not_what_its_checksum_says_is_refused() {
    let environment = packed();
    environment.write(ARCHIVE, "damaged");
    let output = publish(&environment, "public/", &[]);
    output.assert_exit(2).assert_stderr_contains("error[P0237]").assert_stderr_contains("shop-r1.tar.zst.sha256 says");
    assert!(!environment.exists("public"));
}

#[test]
fn full_disk_leaves_nothing() {
    let environment = packed();
    environment.write("large.tar.zst", super::noise(8 << 20));
    fs::create_dir(environment.path("public")).unwrap();
    let script = "mount -t tmpfs -o size=4m none public && { \"$@\"; code=$?; ls -A public; exit $code; }";
    let output = environment.run_in_mount_namespace(script, &["publish", "large.tar.zst", "public/"]);
    output.assert_exit(1).assert_stderr_contains("error[P0237]").assert_stderr_contains("No space left");
    assert_eq!(output.stdout, "", "something is left");
    // What comes through a pipe needs room too.
    let script = "mount -t tmpfs -o size=4m none public && export TMPDIR=$PWD/public && exec \"$@\" <large.tar.zst";
    let output = environment.run_in_mount_namespace(script, &["publish", "-", "elsewhere/x.tar.zst"]);
    output.assert_exit(1).assert_stderr_contains("keep what comes from standard input");
    assert!(!environment.exists("elsewhere"));
}

#[test]
fn server_without_room_is_told_apart() {
    let environment = packed();
    let nginx = NginxServer::with_configuration(|port| {
        format!("server {{ listen 127.0.0.1:{port}; root /nonexistent; dav_methods PUT; client_max_body_size 10; }}")
    });
    let output = publish(&environment, &format!("http://{}/x/", nginx.address()), &[]);
    output.assert_exit(1).assert_stderr_contains("has no room (status 413)");
}

/// A web server that may not be written to.
#[test]
fn server_that_refuses_to_write_is_quoted() {
    let (environment, nginx) = (packed(), NginxServer::new(&[]));
    let output = publish(&environment, &format!("http://{}/x/", nginx.address()), &[]);
    output.assert_exit(1).assert_stderr_contains("answered with status 405 to PUT /x/shop-r1.tar.zst");
}

/// While an upload in parts was interrupted, somebody else has published under its name. The parts would be paid for.
#[test]
fn parts_of_an_upload_that_was_overtaken_are_removed() {
    let moto = MotoServer::start();
    let mut environment = packed_with_noise(12 << 20);
    let relay = MeteredRelay::new(moto.address());
    let mut other = packed();
    for (environment, address) in [(&mut environment, relay.address()), (&mut other, moto.address())] {
        aws_variables(&address).iter().for_each(|(name, value)| environment.set_variable(name, value));
    }
    let (target, chunk) = ("s3://acme-state/late/", (5 << 20).to_string());
    publish_cut(&environment, &relay, &["publish", ARCHIVE, target, "--chunk", &chunk], 7 << 20);
    assert_eq!(moto.unfinished_uploads(), 1);
    publish(&other, target, &[]).assert_exit(0);
    publish(&environment, target, &["--chunk", &chunk]).assert_exit(2).assert_stderr_contains("error[P0238]");
    assert_eq!(moto.unfinished_uploads(), 0);
    assert_eq!(moto.digest("late/shop-r1.tar.zst"), sha256(&fs::read(other.path(ARCHIVE)).unwrap()));
}

#[test]
fn two_at_the_same_moment_leave_one() {
    let moto = MotoServer::start();
    let mut environments = [TestEnvironment::new(), TestEnvironment::new()];
    for (number, environment) in environments.iter_mut().enumerate() {
        environment.write("app/own", number.to_string());
        environment.run(&PACK).assert_exit(0);
        aws_variables(&moto.address()).iter().for_each(|(name, value)| environment.set_variable(name, value));
    }
    let shared = tempfile::tempdir().unwrap();
    let folder = format!("{}/", shared.path().display());
    for round in 0..4 {
        let targets = [format!("s3://acme-state/race-{round}/"), format!("{folder}{round}/")];
        for target in &targets {
            let codes: Vec<_> = std::thread::scope(|scope| {
                let runs: Vec<_> =
                    environments.iter().map(|environment| scope.spawn(|| publish(environment, target, &[]))).collect();
                runs.into_iter().map(|run| run.join().unwrap().code.unwrap()).collect()
            });
            let winner = codes.iter().position(|code| *code == 0).unwrap_or_else(|| panic!("{target}: {codes:?}"));
            assert_eq!(codes[1 - winner], 2, "{target}: {codes:?}");
            let digest = sha256(&fs::read(environments[winner].path(ARCHIVE)).unwrap());
            let found = match target.strip_prefix("s3://acme-state/") {
                Some(key) => moto.digest(&format!("{key}shop-r1.tar.zst")),
                None => sha256(&fs::read(format!("{target}shop-r1.tar.zst")).unwrap()),
            };
            assert_eq!(found, digest, "{target}");
        }
    }
}
