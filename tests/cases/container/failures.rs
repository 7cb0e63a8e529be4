//! Containers that do not become ready, what is refused beforehand, and a runner that is killed.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::world::{ContainerSite, running, world};

#[test]
fn release_that_does_not_become_ready_leaves_nothing() {
    let world = world();
    world.deploy("r1").assert_exit(0);
    world.environment.edit("deploy.yml", "stay: 300ms", "stay: 900ms");
    for (release, behavior, told) in [
        (
            "r2",
            "never",
            vec!["it was not ready within 3s", "expected status 200, found 503 with `no connection to the database`"],
        ),
        ("r3", "exits", vec!["it ended: exit status 3", "the database is not to be found"]),
        ("r4", "falls-ill", vec!["it was ready for", "did not stay so for 0.9s", "found 503"]),
        ("r5", "ends", vec!["it ended: exit status 9", "out of memory"]),
    ] {
        world.pack(release, behavior);
        let failed = world.deploy(release);
        failed.assert_exit(1).assert_stderr_contains("error[P0301]");
        for told in told {
            failed.assert_stderr_contains(told);
        }
        assert_eq!(
            (world.answer().as_str(), world.podman.containers()),
            ("r1 cor", running(&[("a", "r1")])),
            "{behavior}"
        );
        assert!(!world.environment.exists("srv/slots/b/slot.json"));
        assert!(!world.environment.exists("srv-secrets/shop-default-start-b"));
    }
    world.pack("r6", "slow");
    world.deploy("r6").assert_exit(0);
    assert_eq!(world.answer(), "r6 cor");
}

#[test]
fn what_can_be_known_is_found_in_the_rehearsal() {
    let mut world = world();
    world.deploy("r1").assert_exit(0);
    world.pack("r2", "works");
    let refused = |world: &ContainerSite, told: &str| {
        let refused = world.deploy("r2");
        refused.assert_refused_beforehand().assert_stderr_contains(told);
        assert_eq!(world.answer(), "r1 cor");
        assert!(!world.environment.exists("srv/slots/b/slot.json"));
    };
    // Another program has the port.
    let taken = TcpListener::bind(("127.0.0.1", world.ports[1])).unwrap();
    let answering = thread::spawn(move || {
        let (mut connection, _) = taken.accept().unwrap();
        let _ = connection.read(&mut [0; 1024]);
        connection.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
    });
    refused(&world, &format!("something already listens at http://127.0.0.1:{}/health", world.ports[1]));
    answering.join().unwrap();
    // Somebody else's container.
    world.podman.run(&[
        "create",
        "--name",
        "shop-default-start-b-r2",
        world.environment.read("dist/shop-r1.image").trim(),
    ]);
    refused(&world, "a container shop-default-start-b-r2 exists, which this step did not start");
    world.podman.run(&["rm", "shop-default-start-b-r2"]);
    // An image that nobody has pulled.
    world.environment.edit("deploy.yml", "container: { port", "container: { image: \"127.0.0.1:1/shop:r2\", port");
    refused(&world, "the engine does not have the image 127.0.0.1:1/shop:r2");
    world.environment.edit("deploy.yml", "container: { image: \"127.0.0.1:1/shop:r2\", port", "container: { port");
    assert_eq!(world.podman.containers(), running(&[("a", "r1")]));
    // No engine.
    world.environment.edit(
        "deploy.yml",
        "container: { port",
        &format!("container: {{ image: \"{}\", port", world.environment.read("dist/shop-r2.image").trim()),
    );
    let plan = world.environment.read("deploy.yml");
    let from = plan.find("  images:").unwrap();
    let until = plan.find("  start:").unwrap();
    world.environment.write("deploy.yml", format!("{}{}", &plan[..from], &plan[until..]));
    world.podman.stop_service();
    refused(&world, "the container engine does not answer");
    world.podman.serve();
    world.deploy("r2").assert_exit(0);
    assert_eq!(world.answer(), "r2 cor");
}

/// A port whose owner answers nothing is found by the engine, when it starts the container.
#[test]
fn port_that_is_taken_silently_leaves_nothing() {
    let world = world();
    world.deploy("r1").assert_exit(0);
    world.pack("r2", "works");
    let listener = TcpListener::bind(("127.0.0.1", world.ports[1])).unwrap();
    // Whoever asks waits for an answer, until the timeout of the check.
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // It closes each connection at once.
                drop(listener.accept());
            }
        });
        let failed = world.deploy("r2");
        stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", world.ports[1]));
        failed.assert_exit(1).assert_stderr_contains("its port is taken").assert_stderr_contains("`ss -ltnp` shows");
    });
    assert_eq!((world.answer().as_str(), world.podman.containers()), ("r1 cor", running(&[("a", "r1")])));
    assert!(!world.environment.exists("srv/slots/b/slot.json"));
}

#[test]
fn forbidden_socket_is_found_before_anything_is_changed() {
    let world = world();
    let everywhere = world.environment.path("").parent().unwrap().to_owned();
    let chown = Command::new("chown").args(["-R", "nobody"]).arg(&everywhere).status().unwrap();
    assert!(chown.success());
    let mut folder = world.podman.socket();
    folder.pop();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(world.podman.socket(), fs::Permissions::from_mode(0o600)).unwrap();
    // Another user may not be able to enter the folder of the build.
    let command = world.environment.command(&["--local", "--release", "r1"]);
    let runner = everywhere.join("runner");
    fs::copy(command.get_program(), &runner).unwrap();
    let mut as_nobody = Command::new(runner);
    as_nobody
        .args(command.get_args())
        .env_clear()
        .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let refused = as_nobody.current_dir(world.environment.path("")).uid(65534).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    for told in
        ["the container engine does not answer", "Permission denied", "give the runner's user access to its socket"]
    {
        assert!(said.contains(told), "{said}");
    }
    assert!(!world.environment.exists("srv/slots") && world.podman.containers().is_empty());
}

/// A staged step is undone after a failure of any later commit step; here the gate behind the switch fails.
#[test]
fn undo_of_the_start_removes_the_container() {
    let world = world();
    world.deploy("r1").assert_exit(0);
    let first = "  expose:\n    uses: switch\n    with: { link: current, to: \"slots/${{ release }}\" }\n    grants: { dirs: [app] }\n";
    world.environment.edit("deploy.yml", "  start:\n", &format!("{first}  start:\n"));
    for release in ["r1", "r2"] {
        fs::create_dir_all(world.environment.path(format!("srv/slots/{release}"))).unwrap();
    }
    world.deploy("r1").assert_exit(0);
    world.environment.edit("deploy.yml", "contains: \"${{ release }}\" }] }", "contains: r1 }], tries: 1 }");
    world.pack("r2", "works");
    let failed = world.deploy("r2");
    failed.assert_exit(4);
    assert_eq!(
        (world.answer().as_str(), world.podman.containers()),
        ("r1 cor", running(&[("a", "r1")])),
        "{}",
        failed.stderr
    );
    assert!(!world.environment.exists("srv/slots/b/slot.json"));
}

#[test]
fn killed_deployment_is_finished_by_the_next() {
    let world = world();
    let began = Instant::now();
    world.deploy("r1").assert_exit(0);
    let took = u64::try_from(began.elapsed().as_millis()).unwrap();
    let mut live = "r1".to_owned();
    for index in 1..=5 {
        let release = format!("r{}", index + 1);
        world.pack(&release, "works");
        let moment = Duration::from_millis(50 + index * 7919 % took);
        world.kill_after(&release, moment);
        assert!(
            [&live, &release].iter().any(|label| world.answer() == format!("{label} cor")),
            "killed after {moment:?}"
        );
        world.deploy(&release).assert_exit(0);
        assert_eq!(world.answer(), format!("{release} cor"), "killed after {moment:?}");
        let slots = if index % 2 == 1 { [("a", &live), ("b", &release)] } else { [("a", &release), ("b", &live)] };
        assert_eq!(
            world.podman.containers(),
            running(&slots.map(|(slot, label)| (slot, label.as_str()))),
            "killed after {moment:?}"
        );
        live = release;
    }
}
