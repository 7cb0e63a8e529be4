//! Releases that start as containers of a real podman behind Caddy, beside the one that serves: ready, never ready, killed, and under load.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::support::{
    CaddyServer, DockerRegistry, PodmanEngine, RunnerOutput, TestEnvironment, TestRegistryAuth,
    doc_blocks::fenced_block, wait_until,
};

const PAGE: &str = "docs/container.md";

/// The plan of the page, with the folders and addresses of a test, a podman, a registry, and Caddy as the page configures it.
struct World {
    environment: TestEnvironment,
    podman: PodmanEngine,
    registry: DockerRegistry,
    caddy: CaddyServer,
    /// The ports of the slots.
    ports: [u16; 2],
}

fn free_ports() -> [u16; 2] {
    [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap()).map(|listener| listener.local_addr().unwrap().port())
}

fn world() -> World {
    let environment = TestEnvironment::with_plan(&fenced_block(PAGE, "version: 1"));
    let ports = free_ports();
    let root = environment.path("srv").display().to_string();
    let caddy = CaddyServer::new(|port| {
        let mut text = fenced_block(PAGE, "http://:8080").replace("/srv/shop", &root);
        for (from, to) in [
            ("http://:8080 {", format!("http://:{port} {{\n\tbind 127.0.0.1")),
            ("8001", ports[0].to_string()),
            ("8002", ports[1].to_string()),
        ] {
            text = text.replace(from, &to);
        }
        text
    });
    let registry = DockerRegistry::start(TestRegistryAuth::Anonymous);
    let mut world = World { environment, podman: PodmanEngine::new(), registry, caddy, ports };
    world.environment.write("deploy.yml", world.adapted(&fenced_block(PAGE, "version: 1")));
    world.environment.set_variable("DB_PASSWORD", "correct-horse-battery");
    world.pack("r1", "works");
    world
}

impl World {
    /// A text of the page with what this test has.
    fn adapted(&self, text: &str) -> String {
        let root = self.environment.path("srv").display().to_string();
        let [a, b] = self.ports.map(|port| port.to_string());
        let socket = self.podman.socket().display().to_string();
        let mut text = text.to_owned();
        for (from, to) in [
            ("/srv/shop", root.as_str()),
            ("/run/podman/podman.sock", &socket),
            ("127.0.0.1:8080", &self.caddy.address()),
            ("8001", &a),
            ("8002", &b),
            // The default times are for real programs.
            ("/health\" }] }", "/health\" }], every: 50ms, within: 3s, stay: 300ms }"),
            ("drain: 10s", "drain: 100ms"),
        ] {
            text = text.replace(from, to);
        }
        text
    }

    /// Builds the image of a release, pushes it, and writes what the plan reads.
    fn pack(&self, release: &str, behavior: &str) {
        let lines =
            format!("ENV RELEASE={release} BEHAVIOR={behavior}\nLABEL org.opencontainers.image.version={release}");
        self.podman.build(release, &lines);
        let name = self.podman.push(release, &self.registry.authority(), "shop");
        self.environment.write(&format!("dist/shop-{release}.image"), format!("{name}\n"));
    }

    fn deploy(&self, release: &str) -> RunnerOutput {
        self.environment.deploy(release, &[])
    }

    /// What a visitor gets.
    fn answer(&self) -> String {
        let mut connection = TcpStream::connect(self.caddy.address()).unwrap();
        connection.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        answer.rsplit("\r\n").next().unwrap().to_owned()
    }

    /// Moments at which the runner is killed, and what is left.
    fn kill_after(&self, release: &str, moment: Duration) {
        let began = Instant::now();
        let mut killed = self.environment.start(&["--local", "--release", release]);
        wait_until("the moment", || began.elapsed() >= moment || killed.try_wait().unwrap().is_some());
        let _ = killed.kill();
        killed.wait().unwrap();
    }
}

/// The containers of releases in the slots, as [`PodmanEngine::containers`] has them.
fn running(slots: &[(&str, &str)]) -> Vec<String> {
    slots.iter().map(|(slot, release)| format!("shop-default-start-{slot}-{release} running")).collect()
}

#[test]
fn plan_of_the_page_starts_each_release_beside_the_one_that_serves() {
    let world = world();
    world.deploy("r1").assert_exit(0);
    assert_eq!(world.answer(), "r1 cor", "the container got its secret");
    assert_eq!(world.podman.containers(), running(&[("a", "r1")]));
    let again = world.deploy("r1");
    for step in ["images", "start"] {
        let is_skipped = again.decisions().iter().any(|decision| decision.starts_with(&format!("{step} skip")));
        assert!(is_skipped, "{:?}", again.decisions());
    }
    world.pack("r2", "works");
    world.deploy("r2").assert_exit(0);
    assert_eq!((world.answer().as_str(), world.podman.containers()), ("r2 cor", running(&[("a", "r1"), ("b", "r2")])));
    // The old container runs on, so the way back is one rename.
    let started = |name: &str| world.podman.run(&["inspect", "--format", "{{.State.StartedAt}}", name]);
    let first = started("shop-default-start-a-r1");
    world.environment.run(&["rollback", "--local", "--json"]).assert_exit(0);
    assert_eq!((world.answer().as_str(), started("shop-default-start-a-r1")), ("r1 cor", first));
    world.pack("r3", "works");
    world.deploy("r3").assert_exit(0);
    assert_eq!((world.answer().as_str(), world.podman.containers()), ("r3 cor", running(&[("a", "r1"), ("b", "r3")])));
    let labels = world.podman.labels("shop-default-start-b-r3");
    let label = |name: &str| labels[name].as_str();
    assert_eq!(
        ["app", "environment", "slot", "release"].map(|name| label(&format!("pawl.{name}"))),
        ["shop", "default", "b", "r3"]
    );
    // The password is in its files only, and nobody else reaches them.
    let inspected = world.podman.run(&["inspect", "shop-default-start-b-r3"]);
    assert!(!inspected.contains("correct-horse"), "{inspected}");
    let found =
        Command::new("grep").args(["-rl", "correct-horse-battery"]).arg(world.environment.path("")).output().unwrap();
    let found = String::from_utf8(found.stdout).unwrap();
    assert_eq!(found.lines().filter(|path| path.contains("/srv-secrets/")).count(), 2, "{found}");
    assert_eq!(found.lines().count(), 2, "{found}");
    let folder = world.environment.path("srv-secrets/shop-default-start-b");
    assert_eq!(fs::metadata(folder).unwrap().permissions().mode() & 0o777, 0o700);
}

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
    let refused = |world: &World, told: &str| {
        let refused = world.deploy("r2");
        refused.assert_exit(1).assert_stderr_contains("error[P0324]").assert_stderr_contains(told);
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
    refused(&world, &format!("something answers at http://127.0.0.1:{}/health already", world.ports[1]));
    answering.join().unwrap();
    // Somebody else's container.
    world.podman.run(&[
        "create",
        "--name",
        "shop-default-start-b-r2",
        &world.environment.read("dist/shop-r1.image").trim().to_owned(),
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
    let mut command = world.environment.command(&["--local", "--release", "r1"]);
    let refused = command.uid(65534).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    for told in
        ["the container engine does not answer", "Permission denied", "give the runner's user access to its socket"]
    {
        assert!(said.contains(told), "{said}");
    }
    assert!(!world.environment.exists("srv/slots") && world.podman.containers().is_empty());
}

#[test]
fn hook_of_the_page_stops_the_old_container() {
    let world = world();
    let plan = world.environment.read("deploy.yml") + &world.adapted(&fenced_block(PAGE, "stop: previous"));
    world.environment.write("deploy.yml", plan);
    world.deploy("r1").assert_exit(0);
    world.pack("r2", "works");
    world.deploy("r2").assert_exit(0);
    assert_eq!((world.answer().as_str(), world.podman.containers()), ("r2 cor", running(&[("b", "r2")])));
    assert!(!world.environment.exists("srv-secrets/shop-default-start-a"));
    world.environment.run(&["rollback", "--local", "--json"]).assert_exit(0);
    assert_eq!((world.answer().as_str(), world.podman.containers()), ("r1 cor", running(&[("a", "r1")])));
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
fn changed_secret_and_settings_start_beside_the_old_container() {
    let mut world = world();
    world.deploy("r1").assert_exit(0);
    world.environment.set_variable("DB_PASSWORD", "staple");
    world.deploy("r1").assert_exit(0);
    assert_eq!((world.answer().as_str(), world.podman.containers()), ("r1 sta", running(&[("a", "r1"), ("b", "r1")])));
    world.environment.edit(
        "deploy.yml",
        "container: { port: 8080,",
        "container: { port: 8080, user: \"65534\", memory: 64m, env: { GREETING: \"from {slot}\" }, volumes: [\"{slot-dir}:/here:ro\"], \
         stop-signal: TERM, command: serve,",
    );
    world.deploy("r1").assert_exit(0);
    assert_eq!(
        (world.answer().as_str(), world.podman.containers()),
        ("r1 from a", running(&[("a", "r1"), ("b", "r1")]))
    );
    let inspected = world.podman.run(&[
        "inspect",
        "--format",
        "{{.Config.User}} {{.HostConfig.Memory}} {{.HostConfig.Binds}}",
        "shop-default-start-a-r1",
    ]);
    assert!(inspected.starts_with("65534 67108864 ") && inspected.contains("/slots/a:/here:ro"), "{inspected}");
    let again = world.deploy("r1");
    assert!(again.decisions().iter().any(|decision| decision.starts_with("start skip")), "{:?}", again.decisions());
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

/// Asks until it is told to stop. Returns how many requests were lost, and how many were answered.
fn load(address: &str, stop: &AtomicBool, method: &str) -> (usize, usize) {
    let connect = || BufReader::new(TcpStream::connect(address).unwrap());
    let (mut connection, mut lost, mut answered) = (connect(), 0, 0);
    let body = if method == "POST" { "content-length: 1\r\n\r\nx" } else { "\r\n" };
    let request = format!("{method} / HTTP/1.1\r\nhost: x\r\n{body}");
    while !stop.load(Ordering::Relaxed) {
        match exchange(&mut connection, &request).as_deref() {
            Some("r1 cor" | "r2 cor") => answered += 1,
            Some(_) => lost += 1,
            None => {
                lost += 1;
                connection = connect();
            }
        }
    }
    (lost, answered)
}

/// Sends a request; returns the body of its answer, if that is 200.
fn exchange(connection: &mut BufReader<TcpStream>, request: &str) -> Option<String> {
    connection.get_mut().write_all(request.as_bytes()).ok()?;
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if connection.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let is_length = |line: &str| line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned);
    let mut body = vec![0; head.lines().find_map(is_length)?.trim().parse().ok()?];
    connection.read_exact(&mut body).ok()?;
    head.starts_with("HTTP/1.1 200").then(|| String::from_utf8(body).unwrap())
}

#[test]
fn no_request_is_lost_in_swaps_of_a_slow_container() {
    let world = world();
    world.pack("r1", "slow");
    world.deploy("r1").assert_exit(0);
    world.pack("r2", "slow");
    let hook = world.adapted(&fenced_block(PAGE, "stop: previous"));
    world.environment.write("deploy.yml", world.environment.read("deploy.yml") + &hook);
    let (stop, address) = (AtomicBool::new(false), world.caddy.address());
    let results: Vec<(usize, usize)> = thread::scope(|scope| {
        let loads = ["GET", "POST"].map(|method| {
            let (stop, address) = (&stop, &address);
            scope.spawn(move || load(address, stop, method))
        });
        for release in ["r2", "r1", "r2"] {
            world.deploy(release).assert_exit(0);
            assert_eq!(world.answer(), format!("{release} cor"));
        }
        stop.store(true, Ordering::Relaxed);
        loads.map(|load| load.join().unwrap()).into()
    });
    assert_eq!(results.iter().map(|(lost, _)| *lost).collect::<Vec<_>>(), [0, 0], "{results:?}");
    assert!(results.iter().all(|(_, answered)| *answered > 100), "{results:?}");
    assert_eq!(world.podman.containers().len(), 1);
}

#[test]
fn commands_of_the_page_run_each_step_alone() {
    let world = world();
    let commands = world
        .adapted(&fenced_block(PAGE, "runner step images"))
        .replace("/health\"}]", "/health\"}], \"every\": \"50ms\", \"stay\": \"100ms\"");
    let ran = world.environment.run_script(&commands.replace("runner step", "\"$0\" step"));
    ran.assert_exit(0);
    assert_eq!(world.podman.containers(), ["step-container-default-container-a-r1 running"]);
    let mut connection = TcpStream::connect(("127.0.0.1", world.ports[0])).unwrap();
    connection.write_all(b"GET / HTTP/1.0\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("\r\nr1 "), "{answer}");
}
