//! Releases from a registry, against Debian's docker-registry, with images that umoci makes and skopeo copies: artifacts, images and
//! mirrors; and to whom a release belongs.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use crate::support::{
    ANN_CREDENTIALS, DockerRegistry, NginxServer, RunnerOutput, SshHost, TestArchiveFormat, TestEnvironment,
    TestRegistryAuth, crafted, doc_blocks::fenced_block, release_folder, sha256, write_ssh_config,
};

pub(super) const ARTIFACT: &str = "application/vnd.acme.release";

/// A plan that pulls, with these lines of `with` and `grants`.
pub(super) fn plan(with: &str, grants: &str, timeout: &str) -> String {
    format!(
        "version: 1\napp: shop\nsteps:\n  pull:\n    uses: pull\n    with: {{ into: app, {with} }}\n    \
         grants: {{ dirs: {{ app: ./deploy }}, {grants} }}\n    timeout: {timeout}\n"
    )
}

pub(super) fn environment(with: &str, grants: &str) -> TestEnvironment {
    TestEnvironment::with_plan(&plan(with, grants, "1m"))
}

pub(super) fn http_grant(authority: &str) -> String {
    format!("http: [\"http://{authority}\"]")
}

/// All that lies in the folder that was pulled into, but the empty folder of the releases.
fn leftovers(environment: &TestEnvironment) -> Vec<String> {
    let mut names = environment.list("deploy");
    names.retain(|name| name != "releases");
    names.extend(environment.list("deploy/releases"));
    names
}

/// The digest that ends a reference.
pub(super) fn digest_of(reference: &str) -> &str {
    reference.rsplit_once("@sha256:").unwrap().1
}

/// A deployment that fails, and leaves nothing of the release.
#[track_caller]
pub(super) fn assert_fails(environment: &TestEnvironment, code: i32, texts: &[&str]) -> RunnerOutput {
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
            let (name, status) =
                (path.strip_prefix(root).unwrap().display().to_string(), path.symlink_metadata().unwrap());
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
    let moved = block
        .replace("registry.example.com/acme/shop:${{ release }}", &format!("{}/acme/shop:v1", registry.authority()));
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
    assert!(
        found.iter().any(|(path, ..)| path == "bin/app2") && !found.iter().any(|(path, ..)| path.starts_with("doc"))
    );
    // Alone, as the page says it.
    let line = fenced_block("docs/pull.md", "runner step ");
    let line = line
        .replace("registry.example.com/acme/shop:r1", source.strip_prefix("oci://").unwrap())
        .replace("/srv/shop", "./alone");
    let line = line.replace("https://registry.example.com", &format!("http://{}", registry.authority()));
    let alone: Vec<_> = line.split_whitespace().skip(1).filter(|word| *word != "\\").collect();
    environment.run(&alone).assert_exit(0);
    assert_eq!(environment.list("alone/releases"), environment.list("deploy/releases"));
    environment.write(&format!("deploy/releases/{folder}/etc/conf"), "by hand");
    environment.deploy("r1", &["--accept-drift", "pull"]).assert_exit(0);
    assert_eq!(environment.read(&format!("deploy/releases/{folder}/etc/conf")), "two, which is longer");

    // As an archive, an image of several layers is none.
    environment.edit("deploy.yml", ", rootfs: true", "");
    fs::remove_dir_all(environment.path("deploy")).unwrap();
    assert_fails(&environment, 1, &["it has 3 layers; a release archive must be the only layer", "set `rootfs: true`"]);
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
    assert!(log.contains(&format!("mirror `{first}` failed, trying `{second}`: ")), "{log}");
    assert_eq!(environment.list("deploy/releases"), [release_folder("r1", &digest)]);

    // A content that is none of them.
    fs::remove_dir_all(environment.path("deploy")).unwrap();
    let wrong = "0a".repeat(32);
    environment.edit("deploy.yml", &digest, &wrong);
    let why = [&first, &second]
        .map(|mirror| format!("`{mirror}`: the archive has the digest sha256:[HASH], not sha256:[HASH]"));
    assert_fails(&environment, 1, &["none of the 2 mirrors has the release", &why[0], &why[1]]);
    // A wrong label is not the mirror's fault: the content is the same on each.
    environment.edit("deploy.yml", &wrong, &digest);
    environment.edit("deploy.yml", "into: app", "into: app, version: \"2.0\"");
    assert_fails(&environment, 1, &["the file `VERSION` of the release says `r1`, not `2.0`"]);
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
    environment
        .write("deploy.yml", plan(&with, &grants, "1m").replace("app: ./deploy", "app: ./deploy, dist: \"./dist:ro\""));
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
        drifted.assert_exit(3).assert_stderr_contains("not 4322");
        environment.deploy("r1", &["--accept-drift", "pull"]).assert_exit(0);
        assert_eq!(status("").0, 4322);
    }
}

/// The host itself asks the registry, with the credentials of the plan, of which nothing stays there.
#[test]
fn host_pulls_an_image_from_the_registry_by_itself() {
    let (image, registry) = (shop_image(), DockerRegistry::start(TestRegistryAuth::Basic));
    let source = registry.push_image(&image.layout(), "r1", "shop");
    let host = SshHost::new();
    fs::create_dir(host.path("srv")).unwrap();
    let authority = registry.authority();
    let plan = format!(
        r#"version: 1
app: shop
secrets: {{ PASSWORD: env:PASSWORD }}
environments:
  test:
    ssh: {{ config: ./ssh_config }}
    hosts: {{ web: [{{ at: "{}", name: web-1 }}] }}
steps:
  pull:
    on: web
    with: {{ from: ["oci://127.0.0.1:1/shop:r1", "{source}"], into: app, rootfs: true, mode: "0640" }}
    grants:
      dirs: {{ app: "{}" }}
      http: ["http://127.0.0.1:1", {{ origin: "http://{authority}", headers: {{ authorization: "Basic ann:${{{{ secrets.PASSWORD }}}}" }} }}]
"#,
        host.address(),
        host.path("srv").display()
    );
    let mut environment = TestEnvironment::with_plan(&plan);
    write_ssh_config(&environment.path(""), &[&host]);
    environment.set_variable("PASSWORD", "wrong");
    let refused = environment.run(&["--local", "--release", "r1"]);
    refused.assert_exit(2).assert_stderr_contains("refuses the credentials for shop");
    environment.set_variable("PASSWORD", "secret");
    let answer = environment.deploy("r1", &[]);
    answer.assert_exit(0);
    assert!(answer.stdout.contains("failed, trying `oci://"), "{}", answer.stdout);
    let [folder] = &fs::read_dir(host.path("srv/releases")).unwrap().collect::<Vec<_>>()[..] else {
        panic!("one release")
    };
    let release = folder.as_ref().unwrap().path();
    assert_eq!(fs::read_to_string(release.join("etc/conf")).unwrap(), "two, which is longer");
    assert_eq!(fs::metadata(release.join("VERSION")).unwrap().mode() & 0o777, 0o640);
    assert_eq!(files_with(&host.path(""), &["ann:secret", ANN_CREDENTIALS]), [""; 0]);
}

/// The files below a folder in which one of these texts is; not the runner's own binary.
fn files_with(root: &Path, texts: &[&str]) -> Vec<String> {
    let (mut found, mut folders) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let status = fs::symlink_metadata(&path).unwrap();
            if status.is_dir() {
                folders.push(path);
            } else if status.is_file() && status.len() < 10_000_000 {
                let content = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
                found.extend(texts.iter().any(|text| content.contains(text)).then(|| path.display().to_string()));
            }
        }
    }
    found
}
