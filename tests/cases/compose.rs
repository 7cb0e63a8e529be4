//! Compose projects on a real podman: a release in the place of the one before, in two phases, and the way back.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::Command,
    time::Instant,
};

use crate::support::{
    DockerRegistry, PodmanEngine, RunnerOutput, SshHost, TestEnvironment, TestRegistryAuth, doc_blocks::fenced_block,
    free_port, plan_on_host, wait_until, write_ssh_config,
};

const PAGE: &str = "docs/compose.md";

/// The plan of the page, with the folders and addresses of a test, a podman and a registry.
struct ComposeSite {
    environment: TestEnvironment,
    podman: PodmanEngine,
    registry: DockerRegistry,
    /// The port of the project.
    port: u16,
    /// Networks of one name would share rules of the machine's firewall, so each test has a project of its own.
    project: String,
}

fn world() -> ComposeSite {
    let environment = TestEnvironment::with_plan("");
    let port = free_port();
    let registry = DockerRegistry::start(TestRegistryAuth::Anonymous);
    let mut world =
        ComposeSite { environment, podman: PodmanEngine::new(), registry, port, project: format!("shop{port}") };
    world.environment.write("deploy.yml", world.adapted(&fenced_block(PAGE, "version: 1")));
    world.environment.set_variable("DB_PASSWORD", "correct-horse-battery");
    world.pack("r1", "works");
    world
}

impl ComposeSite {
    /// A text of the page with what this test has.
    fn adapted(&self, text: &str) -> String {
        let root = self.environment.path("srv").display().to_string();
        let socket = self.podman.socket().display().to_string();
        let mut text = text.to_owned();
        for (from, to) in [
            ("/srv/shop", root.as_str()),
            ("/run/podman/podman.sock", &socket),
            ("127.0.0.1:8080", &format!("127.0.0.1:{}", self.port)),
            ("project: shop", &format!("project: {}", self.project)),
            // The default times are for real programs.
            ("/health\" }] }", "/health\" }], every: 50ms, within: 2s, stay: 300ms }\n      stop-timeout: 1s"),
        ] {
            text = text.replace(from, to);
        }
        text
    }

    /// Builds the image of a release, pushes it, and packs the release. Returns the image's name.
    fn pack(&self, release: &str, behavior: &str) -> String {
        let tag = format!("shop-{release}-{behavior}");
        self.podman.build(&tag, &format!("ENV RELEASE={release} BEHAVIOR={behavior}"));
        let image = self.podman.push(&tag, &self.registry.authority(), "shop");
        self.pack_image(release, &image);
        image
    }

    /// Packs a release of an image.
    fn pack_image(&self, release: &str, image: &str) {
        let file = self.adapted(&fenced_block(PAGE, "# app/compose.yml"));
        let line = file.lines().find(|line| line.contains("image:")).unwrap().trim().to_owned();
        self.environment.write("app/compose.yml", file.replace(&line, &format!("image: {image}")));
        self.environment.write("app/images.txt", format!("{image}\n"));
        self.environment.write("app/VERSION", "@VERSION@\n");
        self.environment.pack(release);
    }

    fn deploy(&self, release: &str) -> RunnerOutput {
        self.environment.deploy(release, &[])
    }

    /// What a visitor gets.
    fn answer(&self) -> String {
        let Ok(mut connection) = TcpStream::connect(("127.0.0.1", self.port)) else { return String::new() };
        connection.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        answer.rsplit("\r\n").next().unwrap().to_owned()
    }

    /// The ids of the containers, which change when one is recreated.
    fn ids(&self) -> String {
        self.podman.run(&["ps", "--all", "--no-trunc", "--format", "{{.ID}}"])
    }

    /// The record of what the project holds.
    fn record(&self) -> String {
        format!("srv/compose/{}.json", self.project)
    }

    #[track_caller]
    fn assert_live(&self, release: &str) {
        assert_eq!(self.answer(), format!("{release} correct-horse-battery"));
        let containers = self.podman.containers();
        // While docker-compose 1 replaces a container, the old one has its id before the name, and keeps it when the new one fails.
        let name = format!("{}_web_1 running", self.project);
        assert!(containers.len() == 1 && containers[0].ends_with(&name), "{containers:?}");
    }
}

#[test]
fn plan_of_the_page_replaces_the_running_release() {
    let world = world();
    world.deploy("r1").assert_exit(0);
    world.assert_live("r1");
    let again = world.deploy("r1");
    again.assert_decisions(&["pull skip held", "images skip held", "up skip held", "verify skip held"]);
    world.pack("r2", "works");
    world.deploy("r2").assert_exit(0);
    world.assert_live("r2");
    world.environment.run(&["rollback", "--local", "--json"]).assert_exit(0);
    world.assert_live("r1");
    // Somebody has stopped it: the probe notices, and it is started again.
    world.podman.run(&["stop", "--time", "0", &format!("{}_web_1", world.project)]);
    world.deploy("r1").assert_exit(0);
    world.assert_live("r1");
    // The secret is in no file of the runner.
    let found = Command::new("grep").args(["-rl", "correct-horse-battery"]).arg(world.environment.path("")).output();
    assert_eq!(String::from_utf8_lossy(&found.unwrap().stdout), "");
}

#[test]
fn failed_pull_leaves_the_running_containers_untouched() {
    let world = world();
    world.deploy("r1").assert_exit(0);
    let before = world.ids();
    let unknown = format!("{}/shop@sha256:{:064}", world.registry.authority(), 7);
    world.pack_image("r2", &unknown);
    world.deploy("r2").assert_exit(1).assert_stderr_contains("can't pull").assert_stderr_contains("manifest unknown");
    assert_eq!(world.ids(), before);
    world.assert_live("r1");
}

#[test]
fn failed_up_brings_the_old_release_back() {
    let world = world();
    world.deploy("r1").assert_exit(0);
    // One of them ends 600 ms after its start.
    world.environment.edit("deploy.yml", "stay: 300ms", "stay: 900ms");
    for (release, behavior, told) in [
        ("r2", "never", ["it was not ready within 2s", "expected status 200, found 503"]),
        ("r3", "exits", ["service web: it ended", "the database is not to be found"]),
        ("r4", "ends", ["service web: it ended", "out of memory"]),
    ] {
        world.pack(release, behavior);
        let failed = world.deploy(release);
        failed.assert_exit(1).assert_stderr_contains("error[P0301]").assert_stderr_contains("r1 runs again");
        for told in told {
            failed.assert_stderr_contains(told);
        }
        world.assert_live("r1");
    }
    // Compose itself fails: somebody has the second port.
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    world.pack("r5", "works");
    world.environment.edit("app/compose.yml", "8080\"]", &format!("8080\", \"127.0.0.1:{port}:8081\"]"));
    world.environment.pack("r5");
    world
        .deploy("r5")
        .assert_exit(1)
        .assert_stderr_contains("`compose up` exited")
        .assert_stderr_contains("r1 runs again");
    world.assert_live("r1");
    drop(other);
    world.pack("r6", "works");
    world.deploy("r6").assert_exit(0);
    world.assert_live("r6");
}

#[test]
fn failed_first_release_is_taken_down() {
    let world = world();
    world.pack("r1", "exits");
    world.deploy("r1").assert_exit(1).assert_stderr_contains("nothing ran before, so all containers are removed");
    assert_eq!(world.podman.containers(), Vec::<String>::new());
    assert!(!world.environment.exists(&world.record()));
}

#[test]
fn failed_check_after_it_goes_back_to_the_release_before() {
    let world = world();
    world.deploy("r1").assert_exit(0);
    world.environment.edit("deploy.yml", "contains: \"${{ release }}\" }] }", "contains: r1 }], tries: 1 }");
    world.pack("r2", "works");
    world.deploy("r2").assert_exit(4);
    world.assert_live("r1");
}

#[test]
fn what_can_be_known_is_found_in_the_rehearsal() {
    let mut world = world();
    let refused = |world: &ComposeSite, release: &str, told: &str| {
        world.deploy(release).assert_refused_beforehand().assert_stderr_contains(told);
    };
    // Something else has the port.
    let other = TcpListener::bind(("127.0.0.1", world.port)).unwrap();
    let serving = std::thread::spawn(move || {
        let (mut connection, _) = other.accept().unwrap();
        let _ = connection.read(&mut [0; 1024]);
        connection.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
    });
    refused(&world, "r1", "something already listens at http://127.0.0.1");
    serving.join().unwrap();
    world.deploy("r1").assert_exit(0);
    let before = world.ids();
    let edited = |release: &str, from: &str, to: &str, told: &str| {
        world.environment.edit("app/compose.yml", from, to);
        world.environment.pack(release);
        refused(&world, release, told);
        assert_eq!(world.ids(), before);
        world.environment.edit("app/compose.yml", to, from);
    };
    edited("r2", "    ports:", "    prots:", "Unsupported config option for services.web");
    edited("r3", "    restart: always", "    restart: always\n  job: { build: . }", "service job has no `image`");
    edited(
        "r4",
        "    restart: always",
        "    restart: always\n  job: { image: shop:new }",
        "does not have the image shop:new",
    );
    world.environment.pack("r5");
    let record = world.environment.read(&world.record());
    fs::remove_file(world.environment.path(world.record())).unwrap();
    let project = &world.project;
    refused(
        &world,
        "r5",
        &format!("project {project} has containers, but `app/compose/{project}.json` does not exist"),
    );
    world.environment.write(&world.record(), record);
    world.podman.stop_service();
    let down = world.deploy("r5");
    down.assert_exit(3).assert_stderr_contains("the container engine does not answer");
    world.podman.serve();
    assert_eq!(world.ids(), before);
}

#[test]
fn killed_deployment_is_finished_by_the_next() {
    let world = world();
    let began = Instant::now();
    world.deploy("r1").assert_exit(0);
    let took = began.elapsed();
    for (number, release) in ["r2", "r3", "r4"].into_iter().enumerate() {
        world.pack(release, "works");
        // In the pull, while compose works, and while the step waits.
        let moment = took.mul_f64([0.25, 0.6, 0.9][number]);
        let began = Instant::now();
        let mut killed = world.environment.start(&["--local", "--release", release]);
        wait_until("the moment", || began.elapsed() >= moment || killed.try_wait().unwrap().is_some());
        let _ = killed.kill();
        killed.wait().unwrap();
        world.deploy(release).assert_exit(0);
        world.assert_live(release);
    }
    // It still knows what to go back to.
    world.pack("r5", "exits");
    world.deploy("r5").assert_exit(1).assert_stderr_contains("r4 runs again");
    world.assert_live("r4");
}

#[test]
fn commands_of_the_page_run_the_step_alone() {
    let world = world();
    world.deploy("r1").assert_exit(0);
    world.environment.run(&["rollback", "--local", "--json"]);
    let image = world.environment.read("app/images.txt");
    // Another project: the plan's is not this step's.
    let commands = world
        .adapted(&fenced_block(PAGE, "runner step compose"))
        .replace("project=shop", &format!("project=alone{}", world.port))
        .replace("/health\"}]", "/health\"}], \"every\": \"50ms\", \"stay\": \"100ms\"");
    world.podman.run(&["rm", "--force", "--time", "0", "--all"]);
    fs::copy(world.environment.path("app/compose.yml"), world.environment.path("srv/compose.yml")).unwrap();
    let script = commands.replace("runner step", "\"$0\" step");
    world.environment.run_script(&script).assert_exit(0);
    assert_eq!(world.podman.containers(), [format!("alone{}_web_1 running", world.port)]);
    assert_eq!(world.answer(), "r1 none");
    let id = world.ids();
    world.environment.run_script(&script).assert_exit(0);
    assert_eq!((world.ids(), image.lines().count()), (id, 1), "it held");
}

#[test]
fn project_comes_up_on_a_host_by_its_agent() {
    let (world, host) = (world(), SshHost::new());
    world.environment.write("deploy.yml", plan_on_host(&world.environment.read("deploy.yml"), &host.address()));
    write_ssh_config(&world.environment.path(""), &[&host]);
    world.deploy("r1").assert_exit(0);
    world.assert_live("r1");
    let unknown = format!("{}/shop@sha256:{:064}", world.registry.authority(), 7);
    world.pack_image("r2", &unknown);
    let before = world.ids();
    world.deploy("r2").assert_exit(1).assert_stderr_contains("manifest unknown");
    assert_eq!(world.ids(), before, "nothing was touched");
    world.pack("r3", "exits");
    let failed = world.deploy("r3");
    failed.assert_exit(1).assert_stderr_contains("the database is not to be found");
    failed.assert_stderr_contains("r1 runs again");
    world.assert_live("r1");
    let found = Command::new("grep").args(["-rl", "correct-horse-battery"]).arg(host.path("")).output();
    assert_eq!(String::from_utf8_lossy(&found.unwrap().stdout), "");
}
