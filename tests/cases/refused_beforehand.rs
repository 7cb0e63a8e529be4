//! What the rehearsal refuses with real servers in front: no commit step begins, and neither a file nor a link changes.
//!
//! What supervisord, systemd, the container engine and compose refuse beforehand is in their own files.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use super::switch_traffic::{Proxy, environment, program_path};
use crate::support::{CaddyServer, TestEnvironment};

/// nginx, whose whole configuration `configure` renders, and which `switch` asks whether it follows the link.
const NGINX_PLAN: &str = r#"version: 1
app: shop
on-failure: rollback
dirs: { app: ./app, conf: "./conf:ro" }
steps:
  configure:
    trust: host
    with:
      templates: { conf/nginx.j2: etc/nginx.conf }
      values: { workers: 64 }
      check: [NGINX, -t, -q, -p, PREFIX, -e, stderr, -c, "{}"]
    grants: { dirs: [conf], renders: { etc: PREFIX }, programs: [[NGINX, "**"]] }
  switch:
    trust: host
    with:
      link: live
      to: "slots/${{ release }}"
      wired: { nginx: [NGINX, -T, -q, -p, PREFIX, -e, stderr, -c, PREFIX/nginx.conf] }
    grants: { dirs: [app], programs: [[NGINX, "**"]] }
"#;

/// All files but those of the runner.
fn world(environment: &TestEnvironment) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut tree = environment.tree();
    tree.retain(|path, _| !path.starts_with(environment.path(".pawl")) && !path.ends_with("deploy.lock"));
    tree
}

/// Deploys b, which is refused so that nothing changes.
#[track_caller]
fn refused(environment: &TestEnvironment, told: &[&str]) {
    let before = world(environment);
    let refused = environment.deploy("b", &[]);
    refused.assert_refused_beforehand();
    for told in told {
        refused.assert_stderr_contains(told);
    }
    assert_eq!(world(environment), before);
}

/// nginx's own name for the file, with what it needs and an error or not.
fn configuration_of_nginx(events: &str, link: &Path) -> String {
    format!("pid nginx.pid;\n{events} {{ worker_connections {{{{ workers }}}}; }}\n# {}/is-b\n", link.display())
}

#[test]
fn errors_of_templates_and_edits_are_found_beforehand() {
    let environment = TestEnvironment::with_plan("");
    let prefix = environment.path("etc").display().to_string();
    let plan = NGINX_PLAN.replace("NGINX", &program_path("nginx").display().to_string()).replace("PREFIX", &prefix);
    environment.write("deploy.yml", plan);
    let link = environment.path("app/live");
    environment.write("conf/nginx.j2", configuration_of_nginx("events", &link));
    for slot in ["a", "b"] {
        environment.write(&format!("app/slots/{slot}/is-{slot}"), "");
    }
    // Once nginx has the configuration.
    environment.write("etc/nginx.conf", configuration_of_nginx("events", &link).replace("{{ workers }}", "32"));
    environment.deploy("a", &[]).assert_exit(0);
    let with = |file: &str, from: &str, to: &str, told: &[&str]| {
        environment.edit(file, from, to);
        refused(&environment, told);
        environment.edit(file, to, from);
    };
    with(
        "conf/nginx.j2",
        "worker_connections",
        "worker_conections",
        &["the check refuses etc/nginx.conf", "unknown directive \"worker_conections\""],
    );
    with("conf/nginx.j2", "workers", "wrokers", &["conf/nginx.j2:2: undefined value"]);
    with("conf/nginx.j2", "{{ workers }}", "{{ workers }", &["conf/nginx.j2:2: "]);
    with(
        "etc/nginx.conf",
        "64",
        "128",
        &["nginx.conf was edited since the last deployment wrote it", "put the change into conf/nginx.j2"],
    );
    environment.deploy("b", &[]).assert_exit(0);
    assert_eq!(fs::read_link(link).unwrap(), PathBuf::from("slots/b"));
}

#[test]
fn owners_of_files_that_do_not_exist_are_found_beforehand() {
    for (owner, told) in [("owner", "there is no user `nobody-such`"), ("group", "there is no group `nobody-such`")] {
        let environment = TestEnvironment::with_plan(&format!(
            r#"version: 1
app: shop
steps:
  configure:
    trust: host
    with: {{ templates: {{ conf/site.j2: {{ to: etc/site.conf, {owner}: nobody-such }} }} }}
    grants: {{ dirs: {{ conf: "./conf:ro" }}, renders: {{ etc: ./etc }} }}
"#
        ));
        environment.write("conf/site.j2", "release {{ release }}\n");
        fs::create_dir(environment.path("etc")).unwrap();
        refused(&environment, &[told, "or name another one; then run"]);
    }
}

/// A link that `switch` does not replace, since a revert could not restore it.
#[test]
fn links_that_are_not_replaced_are_found_beforehand() {
    let environment = TestEnvironment::with_plan(
        "version: 1\napp: shop\ndirs: { app: ./app }\nsteps:\n  switch:\n    with: { link: live, to: \"slots/${{ release }}\" }\n    \
         grants: { dirs: [app] }\n",
    );
    for slot in ["a", "b"] {
        environment.write(&format!("app/slots/{slot}/is-{slot}"), "");
    }
    let link = environment.path("app/live");
    std::os::unix::fs::symlink(environment.path("app/slots/a"), &link).unwrap();
    refused(&environment, &["`app/live` is a link with an absolute path", "`ln -sfn releases/<name> live`"]);
    fs::remove_file(&link).unwrap();
    fs::create_dir(&link).unwrap();
    refused(&environment, &["`app/live` is a file or folder, not a symbolic link", "move it elsewhere"]);
    fs::remove_dir(&link).unwrap();
    environment.deploy("b", &[]).assert_exit(0);
}

#[test]
fn switch_is_refused_while_nginx_has_an_error() {
    let environment = environment(
        "wired: { nginx: [NGINX, -T, -q, -p, PREFIX, -e, stderr, -c, CONF] }",
        "programs: [[NGINX, \"**\"]]",
    );
    let plan = environment.read("deploy.yml").replace("NGINX", &program_path("nginx").display().to_string());
    let prefix = environment.path("").display().to_string();
    environment.write("deploy.yml", plan.replace("CONF", &format!("{prefix}/nginx.conf")).replace("PREFIX", &prefix));
    let good = configuration_of_nginx("events", &environment.path("app/live")).replace("{{ workers }}", "64");
    environment.write("nginx.conf", &good);
    environment.deploy("a", &[]).assert_exit(0);
    environment.write("nginx.conf", good.replace("events", "evnets"));
    refused(&environment, &["unknown directive \"evnets\"", "correct the configuration of nginx"]);
    environment.write("nginx.conf", &good);
    environment.deploy("b", &[]).assert_exit(0);
}

#[test]
fn switch_is_refused_while_the_admin_api_of_caddy_is_off() {
    let environment = environment("wired: { caddy: \"ADMIN/config/\" }", "http: [\"ADMIN\"]");
    let caddy = Proxy::caddy(&environment.path("app"));
    let plan = environment.read("deploy.yml").replace("ADMIN", &format!("http://127.0.0.1:{}", caddy.admin));
    environment.write("deploy.yml", plan);
    environment.deploy("a", &[]).assert_exit(0);
    drop(caddy);
    // It serves as before, and says nothing of itself.
    let root = environment.path("app/live").display().to_string();
    let _without = CaddyServer::new(|port| format!("http://127.0.0.1:{port} {{\n\troot * {root}\n\tfile_server\n}}\n"));
    refused(&environment, &["can't read the configuration of Caddy", "remove `admin off` from the Caddyfile"]);
}

#[test]
fn switch_is_refused_while_haproxy_can_not_be_told() {
    let environment =
        environment("haproxy: { socket: admin, map: app/slots.map, key: shop }", "sockets: { admin: \"SOCKET\" }");
    environment.write("app/slots.map", "shop a\n");
    environment.write("app/other.map", "");
    let haproxy = Proxy::haproxy(&environment.path("app"));
    environment.edit("deploy.yml", "SOCKET", &format!("unix:{}", haproxy.path("admin.sock").display()));
    environment.deploy("a", &[]).assert_exit(0);
    environment.edit("deploy.yml", "app/slots.map", "app/other.map");
    refused(&environment, &["HAProxy does not use the map", "name the file in its configuration"]);
    environment.edit("deploy.yml", "app/other.map", "app/slots.map");
    drop(haproxy);
    refused(&environment, &["HAProxy does not answer", "give the runner's user access to its socket"]);
}
