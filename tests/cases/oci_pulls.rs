//! Releases from a registry, against Debian's docker-registry, with images that umoci makes and skopeo copies: artifacts, images and
//! mirrors; and what a registry, a network or a disk can do wrong.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::support::{
    DockerRegistry, FaultyProxy, NginxServer, ProxyFault, RunnerOutput, TestArchiveFormat, TestEnvironment,
    TestRegistryAuth, crafted, doc_blocks::fenced_block, release_folder, sha256,
};

const ARTIFACT: &str = "application/vnd.acme.release";

/// A plan that pulls, with these lines of `with` and `grants`.
fn plan(with: &str, grants: &str, timeout: &str) -> String {
    format!(
        "version: 1\napp: shop\nsteps:\n  pull:\n    uses: pull\n    with: {{ into: app, {with} }}\n    \
         grants: {{ dirs: {{ app: ./deploy }}, {grants} }}\n    timeout: {timeout}\n"
    )
}

fn environment(with: &str, grants: &str) -> TestEnvironment {
    TestEnvironment::with_plan(&plan(with, grants, "1m"))
}

fn http_grant(authority: &str) -> String {
    format!("http: [\"http://{authority}\"]")
}

/// A release that does not pack well, so that its way takes some time.
fn noisy_release() -> Vec<u8> {
    let environment = TestEnvironment::new();
    let noise: String = (0..20_000_u32).map(|number| sha256(&number.to_le_bytes())).collect();
    environment.write("app/noise", noise);
    environment.archive("r1", TestArchiveFormat::TarZst)
}

/// All that lies in the folder that was pulled into, but the empty folder of the releases.
fn leftovers(environment: &TestEnvironment) -> Vec<String> {
    let mut names = environment.list("deploy");
    names.retain(|name| name != "releases");
    names.extend(environment.list("deploy/releases"));
    names
}

/// The digest that ends a reference.
fn digest_of(reference: &str) -> &str {
    reference.rsplit_once("@sha256:").unwrap().1
}

/// A deployment that fails, and leaves nothing of the release.
#[track_caller]
fn assert_fails(environment: &TestEnvironment, code: i32, texts: &[&str]) -> RunnerOutput {
    let answer = environment.run(&["--local", "--release", "r1"]);
    answer.assert_exit(code).assert_stderr_contains("error[P0");
    for text in texts {
        answer.assert_stderr_contains(text);
    }
    assert_eq!(leftovers(environment), [""; 0]);
    answer
}

/// An image of an OCI layout, layer by layer, by umoci.
struct UmociImage(TempDir);

impl UmociImage {
    fn new() -> Self {
        let image = Self(tempfile::tempdir().unwrap());
        image.umoci(&["init", "--layout", "layout"]);
        image.umoci(&["new", "--image", "layout:r1"]);
        image
    }

    fn umoci(&self, arguments: &[&str]) {
        let output = Command::new("umoci").args(arguments).current_dir(self.0.path()).output();
        let output = output.expect("umoci can't be started; `cargo xtask setup` installs it");
        assert!(output.status.success(), "umoci {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Adds what a change of the unpacked image differs in.
    fn layer(&self, change: impl FnOnce(&Path)) {
        self.umoci(&["unpack", "--rootless", "--image", "layout:r1", "bundle"]);
        change(&self.rootfs());
        self.umoci(&["repack", "--image", "layout:r1", "bundle"]);
        fs::remove_dir_all(self.0.path().join("bundle")).unwrap();
    }

    fn rootfs(&self) -> PathBuf {
        self.0.path().join("bundle/rootfs")
    }

    fn layout(&self) -> PathBuf {
        self.0.path().join("layout")
    }
}

/// Three layers: one adds, one replaces and removes, one makes a file of a folder.
fn shop_image() -> UmociImage {
    let image = UmociImage::new();
    image.layer(|root| {
        for folder in ["bin", "etc", "doc/deep", "share"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        fs::write(root.join("bin/app"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(root.join("bin/app"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::hard_link(root.join("bin/app"), root.join("bin/app2")).unwrap();
        std::os::unix::fs::symlink("app", root.join("bin/run")).unwrap();
        fs::write(root.join("etc/conf"), "one").unwrap();
        fs::write(root.join("doc/deep/page"), "page").unwrap();
        fs::write(root.join("share/x"), "x").unwrap();
    });
    image.layer(|root| {
        fs::remove_dir_all(root.join("doc")).unwrap();
        fs::write(root.join("etc/conf"), "two, which is longer").unwrap();
        fs::write(root.join("VERSION"), "r1\n").unwrap();
    });
    image.layer(|root| {
        fs::remove_dir_all(root.join("share")).unwrap();
        fs::write(root.join("share"), "a file now").unwrap();
    });
    image
}

/// Path → mode and content or target of everything below a folder, but what the runner adds.
fn tree(root: &Path) -> Vec<(String, u32, String)> {
    let (mut found, mut folders) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let (name, status) = (path.strip_prefix(root).unwrap().display().to_string(), path.symlink_metadata().unwrap());
            let content = match () {
                () if status.is_dir() => {
                    folders.push(path.clone());
                    String::new()
                }
                () if status.is_symlink() => fs::read_link(&path).unwrap().display().to_string(),
                () => fs::read_to_string(&path).unwrap(),
            };
            if !name.starts_with(".pawl-") {
                found.push((name, status.mode(), content));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn plan_of_the_page_pulls_an_artifact() {
    let archive = TestEnvironment::new().archive("r1", TestArchiveFormat::TarZst);
    let registry = DockerRegistry::start(TestRegistryAuth::Basic);
    let reference = registry.push("acme/shop", &[(ARTIFACT, &archive)]);
    let block = fenced_block("docs/pull.md", "version: 1");
    let moved = block.replace("registry.example.com/acme/shop:${{ release }}", &format!("{}/acme/shop:v1", registry.authority()));
    let moved = moved.replace("https://registry.example.com", &format!("http://{}", registry.authority()));
    let moved = moved.replace("/srv/shop", "./deploy").replace("USER", "ann");
    assert!(!moved.contains("registry.example.com"), "{moved}");
    let mut environment = TestEnvironment::with_plan(&moved);
    environment.set_variable("REGISTRY_PASSWORD", "secret");
    environment.deploy("r1", &[]).assert_exit(0);
    assert_eq!(environment.list("deploy/releases"), [release_folder("r1", digest_of(&reference))]);
    assert!(environment.exists("deploy/current/VERSION"));
    let again = environment.deploy("r1", &[]);
    assert!(again.decisions().iter().any(|decision| decision.starts_with("pull skip")), "{:?}", again.decisions());
    let journals = fs::read_dir(environment.path(".pawl/shop/default")).unwrap().flatten().map(|file| file.path());
    let text: String = journals.filter_map(|path| fs::read_to_string(path).ok()).collect();
    assert!(text.contains("oci://") && !text.contains("YW5u") && !text.contains("ann:secret"));

    environment.set_variable("REGISTRY_PASSWORD", "wrong");
    fs::remove_dir_all(environment.path("deploy")).unwrap();
    assert_fails(&environment, 2, &["the registry 127.0.0.1:", "refuses the credentials for acme/shop"]);
}

#[test]
fn image_becomes_what_umoci_unpacks() {
    let (image, registry) = (shop_image(), DockerRegistry::start(TestRegistryAuth::Anonymous));
    let source = registry.push_image(&image.layout(), "r1", "shop");
    let with = format!("from: \"{source}\", rootfs: true, version-file: VERSION");
    let environment = environment(&with, &http_grant(&registry.authority()));
    environment.deploy("r1", &[]).assert_exit(0);
    let [folder] = &environment.list("deploy/releases")[..] else { panic!("one release") };
    image.umoci(&["unpack", "--rootless", "--image", "layout:r1", "bundle"]);
    let found = tree(&environment.path(format!("deploy/releases/{folder}")));
    assert_eq!(found, tree(&image.rootfs()));
    assert!(found.iter().any(|(path, ..)| path == "bin/app2") && !found.iter().any(|(path, ..)| path.starts_with("doc")));
    // Its own digest finds it again, also when the tag has moved on.
    let answer = environment.run(&["step", "--local", "--release", "r1", "pull"]);
    answer.assert_exit(0);
    environment.write(&format!("deploy/releases/{folder}/etc/conf"), "by hand");
    environment.deploy("r1", &["--accept-drift", "pull"]).assert_exit(0);
    assert_eq!(environment.read(&format!("deploy/releases/{folder}/etc/conf")), "two, which is longer");

    // As an archive, an image of several layers is none.
    environment.edit("deploy.yml", ", rootfs: true", "");
    fs::remove_dir_all(environment.path("deploy")).unwrap();
    assert_fails(&environment, 1, &["it has 3 layers, and an archive is one", "set `rootfs: true`"]);
}

#[test]
fn mirrors_are_tried_in_order_and_each_says_why_it_failed() {
    let archive = TestEnvironment::new().archive("r1", TestArchiveFormat::TarZst);
    let digest = sha256(&archive);
    let good = NginxServer::new(&[("r1.tar.zst", &archive)]);
    let other = NginxServer::new(&[("r1.tar.zst", b"another content")]);
    let [first, second] = [&other, &good].map(|server| format!("http://{}/r1.tar.zst", server.address()));
    let with = format!("from: [\"{first}\", \"{second}\"], digest: \"sha256:{digest}\"");
    let grants = format!("http: [\"http://{}\", \"http://{}\"]", other.address(), good.address());
    let environment = environment(&with, &grants);
    let answer = environment.run(&["--local", "--release", "r1"]);
    answer.assert_exit(0);
    let log = format!("{}{}", answer.stdout, answer.stderr);
    assert!(log.contains(&format!("mirror `{first}` failed and `{second}` is tried: ")), "{log}");
    assert_eq!(environment.list("deploy/releases"), [release_folder("r1", &digest)]);

    // A content that is none of them.
    fs::remove_dir_all(environment.path("deploy")).unwrap();
    let wrong = "0a".repeat(32);
    environment.edit("deploy.yml", &digest, &wrong);
    let why = [format!("`{first}`: "), format!("`{second}`: the archive has the digest sha256:{digest}, not sha256:{wrong}")];
    assert_fails(&environment, 1, &["none of the 2 mirrors has the release", &why[0], &why[1]]);
    // A wrong label is not the mirror's fault: the content is the same on each.
    environment.edit("deploy.yml", &wrong, &digest);
    environment.edit("deploy.yml", "into: app", "into: app, version: \"2.0\"");
    assert_fails(&environment, 1, &["the file `VERSION` of the release says `r1`, not `2.0`"]);
}

#[test]
fn missing_registries_artifacts_and_credentials_are_told_apart() {
    let archive = TestEnvironment::new().archive("r1", TestArchiveFormat::TarZst);
    let registry = DockerRegistry::start(TestRegistryAuth::Basic);
    registry.push("shop", &[(ARTIFACT, &archive)]);
    let authority = registry.authority();
    let with = |tag: &str| format!("from: \"oci://{authority}/shop:{tag}\"");
    let granted = |pair: &str| {
        format!("http: [{{ origin: \"http://{authority}\", headers: {{ authorization: \"Basic {pair}\" }} }}]")
    };
    let anonymous = environment(&with("v1"), &http_grant(&authority));
    assert_fails(&anonymous, 2, &["requires authentication", "authorization: \"Basic USER:${{ secrets.NAME }}\""]);
    assert_fails(&environment(&with("none"), &granted("ann:secret")), 2, &["has no none in shop"]);
    let stated = format!("{}, digest: \"sha256:{}\"", with("v1"), "0a".repeat(32));
    assert_fails(&environment(&stated, &granted("ann:secret")), 1, &["has no sha256:0a0a"]);
    let refused = environment(&with("v1"), "http: []");
    assert_fails(&refused, 2, &["does not grant the HTTP origin"]);
    let invalid = environment("from: \"oci://shop\"", &http_grant(&authority));
    assert_fails(&invalid, 2, &["`oci://shop` is not an artifact: it has no repository"]);

    let environment = environment(&with("v1"), &granted("ann:secret"));
    drop(registry);
    assert_fails(&environment, 2, &["can't determine the digest of release r1", "refused the connection"]);
}

#[test]
fn registry_that_asks_to_wait_is_asked_again() {
    let archive = noisy_release();
    let registry = DockerRegistry::start(TestRegistryAuth::Anonymous);
    let reference = registry.push("shop", &[(ARTIFACT, &archive)]);
    let upstream = registry.authority();
    let nginx = NginxServer::with_configuration(|port| {
        format!(
            "limit_req_zone $server_name zone=one:1m rate=1r/s; limit_req_status 429;
             server {{
                 listen 127.0.0.1:{port}; error_page 429 @later;
                 location / {{ limit_req zone=one; proxy_pass http://{upstream}; proxy_set_header Host $http_host; }}
                 location @later {{ add_header Retry-After 1 always; return 429; }}
             }}"
        )
    });
    let from = format!("from: \"oci://{}/shop:v1\"", nginx.address());
    let environment = environment(&from, &http_grant(&nginx.address()));
    let began = Instant::now();
    let answer = environment.deploy("r1", &[]);
    answer.assert_exit(0);
    assert!(began.elapsed() > Duration::from_secs(1), "{:?}", began.elapsed());
    assert!(answer.stdout.contains("429"), "the log says why it took so long: {}", answer.stdout);
    assert_eq!(environment.list("deploy/releases"), [release_folder("r1", digest_of(&reference))]);
}

#[test]
fn pull_that_is_cut_anywhere_goes_on_where_it_stopped() {
    let archive = noisy_release();
    let registry = DockerRegistry::start(TestRegistryAuth::Anonymous);
    let reference = registry.push("shop", &[(ARTIFACT, &archive)]);
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    for _ in 0..10 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        // Beyond the manifest, which is asked for twice.
        let offset = 5_000 + usize::try_from(random % (archive.len() as u64 - 10_000)).unwrap();
        let proxy = FaultyProxy::new(registry.authority(), ProxyFault::CutOnce(offset));
        let authority = proxy.origin().split_off("http://".len());
        let environment = environment(&format!("from: \"oci://{authority}/shop:v1\""), &http_grant(&authority));
        let answer = environment.deploy("r1", &[]);
        answer.assert_exit(0);
        assert!(answer.stdout.contains("was interrupted and resumes"), "cut at {offset}: {}", answer.stdout);
        assert_eq!(environment.list("deploy/releases"), [release_folder("r1", digest_of(&reference))]);
        assert_eq!(proxy.connections(), 4, "two for the manifest, and two for the layer");
    }
}

#[test]
fn stalled_registry_is_given_up() {
    let archive = noisy_release();
    let registry = DockerRegistry::start(TestRegistryAuth::Anonymous);
    registry.push("shop", &[(ARTIFACT, &archive)]);
    let proxy = FaultyProxy::new(registry.authority(), ProxyFault::Stall(300_000));
    let authority = proxy.origin().split_off("http://".len());
    let with = format!("from: \"oci://{authority}/shop:v1\"");
    let environment = TestEnvironment::with_plan(&plan(&with, &http_grant(&authority), "1s"));
    assert_fails(&environment, 1, &["the runner stopped it after its timeout of 1s"]);
    let with = format!("from: \"oci://{}/shop:v1\"", registry.authority());
    environment.write("deploy.yml", plan(&with, &http_grant(&registry.authority()), "1m"));
    environment.deploy("r1", &[]).assert_exit(0);
}

#[test]
fn tampered_layers_and_manifests_are_rejected() {
    let archive = TestEnvironment::new().archive("r1", TestArchiveFormat::TarZst);
    let registry = DockerRegistry::start(TestRegistryAuth::Anonymous);
    let reference = registry.push("shop", &[(ARTIFACT, &archive)]);
    let mut other = archive.clone();
    *other.last_mut().unwrap() ^= 1;
    fs::write(registry.blob_path(&archive), &other).unwrap();
    let environment = environment(&format!("from: \"{reference}\""), &http_grant(&registry.authority()));
    let why = format!("the archive has the digest sha256:{}, not sha256:{}", sha256(&other), sha256(&archive));
    assert_fails(&environment, 1, &[&why]);
    fs::write(registry.blob_path(&archive), &archive).unwrap();
    environment.deploy("r1", &[]).assert_exit(0);
}

/// What does not fit is refused before anything is written; what turns out not to fit leaves nothing either.
#[test]
fn full_disk_leaves_nothing() {
    let registry = DockerRegistry::start(TestRegistryAuth::Anonymous);
    let zeros = crafted::zstd(&crafted::tar(&[crafted::file("zeros", &[0; 3_000_000])]));
    for (archive, why) in [(noisy_release(), "even before it is unpacked"), (zeros, "can't be written")] {
        let reference = registry.push("shop", &[(ARTIFACT, &archive)]);
        let with = format!("from: \"{reference}\", limits: {{ max-ratio: 100000 }}");
        let environment = environment(&with, &http_grant(&registry.authority()));
        fs::create_dir(environment.path("deploy")).unwrap();
        let script = "mount -t tmpfs -o size=512k pawl deploy || exit 9; \"$@\"; code=$?; ls -A deploy/releases; exit $code";
        let answer = environment.run_in_mount_namespace(script, &["--local", "--release", "r1", "--quiet"]);
        answer.assert_exit(1).assert_stderr_contains(why);
        assert!(!answer.stdout.contains("r1-") && !answer.stdout.contains(".tmp-"), "{}", answer.stdout);
        environment.deploy("r1", &[]).assert_exit(0);
    }
}

#[test]
fn release_gets_owner_modes_and_writable_folders() {
    let environment = TestEnvironment::new();
    let tool = crafted::CraftedTarEntry { mode: 0o755, ..crafted::file("bin/tool", b"#!/bin/sh\n") };
    let archive = crafted::tar(&[tool, crafted::file("VERSION", b"r1\n"), crafted::file("var/data", b"1")]);
    environment.write("dist/shop-r1.tar", &archive);
    let digest = sha256(&archive);
    let [user, group] = [rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw()];
    // Only root may give a file to somebody else.
    let owner = if user == 0 { 4321 } else { user };
    let with = format!(
        "from: \"file:dist/shop-${{{{ release }}}}.tar\", owner: \"{owner}\", group: \"{group}\", mode: \"0640\", \
         writable: [var, new/cache, store], shared: [store/]"
    );
    let grants = "renders: {}".to_owned();
    environment.write("deploy.yml", plan(&with, &grants, "1m").replace("app: ./deploy", "app: ./deploy, dist: \"./dist:ro\""));
    environment.deploy("r1", &[]).assert_exit(0);
    let release = format!("deploy/releases/{}", release_folder("r1", &digest));
    let status = |path: &str| {
        let status = fs::metadata(environment.path(format!("{release}/{path}"))).unwrap();
        (status.uid(), status.gid(), status.mode() & 0o7777)
    };
    for (path, mode) in [
        ("", 0o750),
        ("VERSION", 0o640),
        ("bin", 0o750),
        ("bin/tool", 0o750),
        ("var", 0o2770),
        ("var/data", 0o660),
        ("new/cache", 0o2770),
        ("store", 0o2770),
    ] {
        assert_eq!(status(path), (owner, group, mode), "{path}");
    }
    let again = environment.deploy("r1", &[]);
    assert!(again.decisions().iter().any(|decision| decision.starts_with("pull skip")), "{:?}", again.decisions());
    if user == 0 {
        // Another owner is a change of the plan, and one by hand is drift.
        environment.edit("deploy.yml", "owner: \"4321\"", "owner: \"4322\"");
        environment.deploy("r1", &[]).assert_exit(0);
        assert_eq!(status("bin/tool").0, 4322);
        std::os::unix::fs::chown(environment.path(&release), Some(1), None).unwrap();
        let drifted = environment.run(&["--local", "--release", "r1"]);
        drifted.assert_exit(1).assert_stderr_contains("not 4322");
        environment.deploy("r1", &["--accept-drift", "pull"]).assert_exit(0);
        assert_eq!(status("").0, 4322);
    }
}
