//! Images that a step pulls into a real podman from a real registry: by digest, all or none.

use crate::support::{DockerRegistry, PodmanEngine, RunnerOutput, TestEnvironment, TestRegistryAuth};

/// A plan of one step, with a podman and a registry.
struct ImagesSite {
    environment: TestEnvironment,
    podman: PodmanEngine,
    registry: DockerRegistry,
}

fn world(auth: TestRegistryAuth, with: &str, grants: &str) -> ImagesSite {
    let podman = PodmanEngine::new();
    let plan = format!(
        "version: 1\napp: shop\nsecrets: {{ REGISTRY: env:REGISTRY }}\nsteps:\n  images:\n    trust: host\n    \
         with: {{ file: dist/images.txt, engine: podman{with} }}\n    \
         grants: {{ dirs: {{ dist: \"./dist:ro\" }}, sockets: {{ podman: \"unix:{}\" }}{grants} }}\n",
        podman.socket().display()
    );
    ImagesSite { environment: TestEnvironment::with_plan(&plan), podman, registry: DockerRegistry::start(auth) }
}

impl ImagesSite {
    /// Builds an image and moves it to the registry; returns its name there.
    fn push(&self, name: &str) -> String {
        self.podman.build(name, &format!("ENV RELEASE={name}\nLABEL version={name}"));
        self.podman.push(name, &self.registry.authority(), name)
    }

    fn pull(&self, images: &[&str]) -> RunnerOutput {
        self.environment.write("dist/images.txt", images.join("\n"));
        self.environment.deploy("r1", &[])
    }

    fn digests(names: &[&str]) -> Vec<String> {
        let mut digests: Vec<_> = names.iter().map(|name| name.split_once('@').unwrap().1.to_owned()).collect();
        digests.sort_unstable();
        digests
    }
}

#[test]
fn images_come_together_or_not_at_all() {
    let world = world(TestRegistryAuth::Anonymous, "", "");
    let (web, job) = (world.push("web"), world.push("job"));
    assert_eq!(world.podman.images(), Vec::<String>::new());
    let unknown = format!("{}@sha256:{:064}", job.split_once('@').unwrap().0, 7);
    world
        .pull(&[&web, &unknown])
        .assert_exit(1)
        .assert_stderr_contains("manifest unknown")
        .assert_stderr_contains("check name and digest");
    assert_eq!(world.podman.images(), Vec::<String>::new(), "the first one is removed again");
    let pulled = world.pull(&[&web, &job]);
    pulled.assert_exit(0);
    assert_eq!(world.podman.images(), ImagesSite::digests(&[&web, &job]));
    world.pull(&[&web, &job]).assert_exit(0).assert_decisions(&["images skip held"]);
    // What was there before stays.
    world.pull(&[&web, &unknown]).assert_exit(1);
    assert_eq!(world.podman.images(), ImagesSite::digests(&[&web, &job]));
    // Somebody has removed one.
    world.podman.run(&["rmi", &job]);
    world.pull(&[&web, &job]).assert_exit(0);
    assert_eq!(world.podman.images(), ImagesSite::digests(&[&web, &job]));
    let tag = world.pull(&[web.split_once('@').unwrap().0]);
    tag.assert_exit(1).assert_stderr_contains("has no digest, so it may become another image");
}

#[test]
fn wrong_label_is_refused() {
    let world = world(TestRegistryAuth::Anonymous, ", label: { version: web }", "");
    let (web, job) = (world.push("web"), world.push("job"));
    let refused = world.pull(&[&web, &job]);
    refused.assert_exit(1).assert_stderr_contains(&format!("label `version` of {job} must be `web`, and is `job`"));
    assert_eq!(world.podman.images(), Vec::<String>::new());
    world.pull(&[&web]).assert_exit(0);
}

#[test]
fn registry_that_does_not_answer_leaves_nothing() {
    let world = world(TestRegistryAuth::Anonymous, "", "");
    let web = world.push("web");
    let ImagesSite { environment, podman, registry } = world;
    drop(registry);
    environment.write("dist/images.txt", &web);
    environment.deploy("r1", &[]).assert_exit(1).assert_stderr_contains("connection refused");
    assert_eq!(podman.images(), Vec::<String>::new());
}

#[test]
fn registry_gets_its_credentials_from_a_secret() {
    let mut world = world(TestRegistryAuth::Basic, "", "");
    let web = world.push("web");
    world.pull(&[&web]).assert_exit(1).assert_stderr_contains("give the step the registry's credentials");
    world.environment.edit("deploy.yml", "engine: podman", "engine: podman, auth: REGISTRY");
    world.environment.edit("deploy.yml", "grants: { dirs", "grants: { secrets: [REGISTRY], dirs");
    // Of {"username": "ann", "password": "secret"}.
    let auth = "eyJ1c2VybmFtZSI6ICJhbm4iLCAicGFzc3dvcmQiOiAic2VjcmV0In0=";
    world.environment.set_variable("REGISTRY", auth);
    world.pull(&[&web]).assert_exit(0);
    assert_eq!(world.podman.images(), ImagesSite::digests(&[&web]));
}
