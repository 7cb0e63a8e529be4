//! The workflows that `runner init` writes, run by `act` as they are, but for the action and the runner, which are this checkout's.
//!
//! In place of GitHub's own actions for artifacts, which can't be fetched here, stand two that keep the files in a folder.

use std::{fs, path::Path};

use super::{
    act::{copy_dir, hermetic_command},
    documented_workflows::WorkflowFixture,
};
use crate::support::NginxServer;

const RUNNER: &str = env!("CARGO_BIN_EXE_runner");
/// What the two actions run. `STORE` is a folder, with one for each artifact.
const UPLOAD: &str = "mkdir -p STORE/${{ inputs.name }} && cp ${{ inputs.path }} STORE/${{ inputs.name }}";
const DOWNLOAD: &str = "mkdir -p ${{ inputs.path }} && cp STORE/${{ inputs.name }}/* ${{ inputs.path }}";
/// A plan with the environments of the template, for the archives that its `build.sh` makes.
const PROMOTION: &str = r#"version: 1
app: shop
state: dir:MACHINE/state
dirs: { app: "MACHINE/${{ vars.name }}", dist: "./dist:ro" }
environments:
  dev: { vars: { name: dev } }
  test: { after: dev, vars: { name: test } }
  pre: { after: test, vars: { name: pre } }
  prod: { after: pre, vars: { name: prod } }
steps:
  pull:
    with: { from: "file:dist/shop-${{ release }}.tar.zst", into: app, version-file: VERSION }
    grants: { dirs: [app, dist] }
  switch: { with: { link: current }, grants: { dirs: [app] } }
  verify: { with: { files: [{ path: current/VERSION, equals: "${{ release }}" }] }, grants: { dirs: ["app:ro"] } }
"#;

/// A repository with what `runner init` writes for a template.
fn template(name: &str) -> WorkflowFixture {
    let fixture = WorkflowFixture::new("", "");
    let (project, repository) = (fixture.path("shop"), fixture.path("repository"));
    fs::create_dir(&project).unwrap();
    let mut init = hermetic_command(RUNNER, &fixture.path("home"));
    let output = init.args(["init", "--template", name]).current_dir(&project).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    copy_dir(&project, &repository);
    // The template's script calls `runner`.
    let folder = Path::new(RUNNER).parent().unwrap().display();
    let build = fs::read_to_string(repository.join("build.sh")).unwrap();
    fixture.write("build.sh", &format!("PATH={folder}:$PATH\n{build}"));
    fixture
}

/// The workflow of the template, with the actions of this test for artifacts.
fn workflow(fixture: &WorkflowFixture) -> String {
    let store = fixture.path("stored").display().to_string();
    for (name, script) in [("upload", UPLOAD), ("download", DOWNLOAD)] {
        let script = script.replace("STORE", &store);
        let action = format!(
            "name: {name}\ninputs: {{ name: {{}}, path: {{}}, if-no-files-found: {{}} }}\n\
             runs: {{ using: composite, steps: [{{ shell: sh, run: \"{script}\" }}] }}\n"
        );
        fixture.write(&format!("{name}/action.yml"), &action);
    }
    let text = fs::read_to_string(fixture.path("repository/.github/workflows/deploy.yml")).unwrap();
    let replaced = |line: &str| {
        let action =
            ["upload", "download"].into_iter().find(|name| line.contains(&format!("actions/{name}-artifact@")));
        match (action, line.split_once("uses:")) {
            (Some(name), Some((indent, _))) => format!("{indent}uses: ./{name}\n"),
            _ => format!("{line}\n"),
        }
    };
    text.lines().map(replaced).collect()
}

#[test]
fn workflow_of_the_static_template_deploys() {
    let fixture = template("static");
    let root = fixture.path("machine").display().to_string();
    let read = |path: &str| fs::read_to_string(fixture.path("repository").join(path)).unwrap();
    let nginx = NginxServer::with_configuration(|port| {
        read("deploy/nginx.conf").replace("/srv/shop", &root).replace("8080", &format!("127.0.0.1:{port}"))
    });
    let plan = read("deploy.yml").replace("/srv/shop", &root).replace("127.0.0.1:8080", &nginx.address());
    fixture.write("deploy.yml", &plan);
    fixture.run(&workflow(&fixture), "push", &[]).assert_deployed(&["default"]);
    assert_eq!(fs::read_to_string(fixture.path("machine/current/VERSION")).unwrap(), "1\n");
}

#[test]
fn workflow_of_the_java_template_takes_one_build_through_all_environments() {
    let fixture = template("java");
    fixture.write("deploy.yml", PROMOTION);
    let environments = ["dev", "test", "pre", "prod"];
    fixture.run(&workflow(&fixture), "push", &[]).assert_deployed(&environments);
    let jar = |environment: &str| fs::read(fixture.path(&format!("machine/{environment}/current/app.jar"))).unwrap();
    assert!(environments.into_iter().all(|environment| jar(environment) == jar("dev")));
}
