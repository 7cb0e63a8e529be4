//! Every fenced block of the documentation, with the test that runs it or reads it out of the page. A new block fails here until a test
//! of it is named, or it is said to be nothing that anybody runs.
//!
//! Three kinds of pages have rules of their own: the recipes, of which tests/recipes.rs and what belongs to it leave no block out; the pages of errors, whose
//! examples the tests produce; and what a command generates between two comments.

use std::{fs, path::PathBuf};

use super::readme::pages_below;
use crate::support::doc_blocks::{fenced_blocks, page_path};

/// What becomes of a block.
#[derive(Clone, Copy, Debug)]
enum BlockUse {
    /// A test of this file reads it out of the page, and runs or checks it.
    Tested(&'static str, &'static str),
    /// Nobody runs it: it is a picture, or describes a format.
    Shown,
}

use BlockUse::{Shown, Tested};

/// How a block begins, and what becomes of it.
type BlockRow = (&'static str, BlockUse);

const PLANS: BlockUse = Tested("tests/cases/readme.rs", "plans_on_pages_are_valid");
const SESSION: BlockUse = Tested("tests/cases/readme.rs", "readme_shows_the_first_plans_session");
const PACKAGES: BlockUse = Tested("xtask/src/setup.rs", "setup_installs_what_the_pages_install");
const RECIPES: &str = "tests/cases/ssh_recipes.rs";
const WORKFLOWS: &str = "tests/github/documented_workflows.rs";
const AUTHORS: &str = "tests/cases/authors.rs";
const INIT: &str = "tests/cases/init.rs";
const SUPERVISORD: &str = "tests/cases/supervisord.rs";
const SYSTEMD: &str = "tests/cases/systemd.rs";
const COMPOSE: &str = "tests/cases/compose.rs";
const CONTAINER: &str = "tests/cases/container.rs";
const MAGENTO: &str = "tests/cases/magento_example.rs";
const ALONE: &str = "tests/cases/steps_alone.rs";
const MACHINE_PACKAGES: &str = "tests/cases/packages.rs";
const PACKING: &str = "tests/cases/packing.rs";
const PUBLISHING: &str = "tests/cases/publishing.rs";
const VENV: &str = "tests/cases/venv.rs";
const ANSIBLE_MOVES: BlockUse =
    Tested("tests/cases/migrating/ansible.rs", "machine_of_ansible_moves_without_a_lost_request");
const ANSIBLE_RETURNS: BlockUse =
    Tested("tests/cases/migrating/ansible.rs", "ansible_and_pawl_take_turns_and_the_playbook_goes_back");
const CAPISTRANO_MOVES: BlockUse =
    Tested("tests/cases/migrating/capistrano.rs", "machine_of_capistrano_moves_without_a_lost_request");
const CAPISTRANO_RETURNS: BlockUse =
    Tested("tests/cases/migrating/capistrano.rs", "capistrano_and_pawl_take_turns_and_the_way_back_is_one_rename");
const DEPLOYER_MOVES: BlockUse =
    Tested("tests/cases/migrating/deployer.rs", "machine_of_deployer_moves_without_a_lost_request_and_back");
const FABRIC_MOVES: BlockUse =
    Tested("tests/cases/migrating/fabric.rs", "machine_of_fabric_moves_without_a_lost_request_and_back");
const KAMAL_MOVES: BlockUse =
    Tested("tests/cases/migrating/kamal.rs", "containers_run_beside_that_of_kamal_and_no_request_is_lost");
const MIGRATING: &str = "tests/cases/migrating.rs";
const VERIFY: &str = "tests/cases/verify_traffic.rs";

/// The blocks of each page, in order.
const PAGES: &[(&str, &[BlockRow])] = &[
    (
        "README.md",
        &[
            ("# Deploys a release", Tested("tests/cases/readme.rs", "readme_shows_the_example_plan")),
            ("cargo build", Tested("xtask/tests/shown_commands.rs", "first_plan_of_the_readme_is_deployed_by_hand")),
            ("$ runner --local --release r1", SESSION),
            ("$ runner --local --release r2", SESSION),
            ("$ runner --local --release r2", SESSION),
            ("$ runner why pull", SESSION),
            (
                "- uses: pawl-deploy/pawl@",
                Tested("tests/github/built_from_source.rs", "step_of_the_readme_builds_the_runner_and_deploys_with_it"),
            ),
        ],
    ),
    ("docs/adr/0001-tcp-import.md", &[("interface tcp {", Shown)]),
    ("docs/adr/0005-secrets-and-sockets-by-name.md", &[("secrets: {", Shown)]),
    ("docs/adr/0012-snapshot-index-archives.md", &[("lock/record", Shown)]),
    ("docs/architecture.md", &[("  deploy.yml ──►", Shown), ("  runner ──", Shown)]),
    ("docs/benchmarks.md", &[("cuts of a host's connection: ", Shown)]),
    ("docs/checks.md", &[("version: 1", PLANS)]),
    (
        "docs/configure.md",
        &[
            ("version: 1", Tested("tests/cases/configure.rs", "plan_of_the_page_writes_the_files")),
            ("runner step configure", Tested(ALONE, "configure_runs_alone")),
        ],
    ),
    (
        "docs/compose.md",
        &[
            ("version: 1", Tested(COMPOSE, "plan_of_the_page_replaces_the_running_release")),
            ("# app/compose.yml", Tested(COMPOSE, "plan_of_the_page_replaces_the_running_release")),
            ("runner step compose", Tested(COMPOSE, "commands_of_the_page_run_the_step_alone")),
        ],
    ),
    (
        "docs/container.md",
        &[
            ("version: 1", Tested(CONTAINER, "plan_of_the_page_starts_each_release_beside_the_one_that_serves")),
            ("http://:8080", Tested(CONTAINER, "no_request_is_lost_in_swaps_of_a_slow_container")),
            ("hooks:", Tested(CONTAINER, "hook_of_the_page_stops_the_old_container")),
            ("runner step images", Tested(CONTAINER, "commands_of_the_page_run_each_step_alone")),
        ],
    ),
    (
        "docs/elsewhere.md",
        &[
            ("state: git:origin", Shown),
            ("deploy:", Tested("tests/github/gitlab.rs", "retry_after_a_failure_resumes_with_the_state_in_git")),
            ("deploy:", Tested("tests/github/gitlab.rs", "retry_after_a_failure_resumes_with_the_artifact")),
            ("steps:", Tested("tests/cases/other_ci.rs", "buildkite_pipeline_with_the_state_in_git_resumes_elsewhere")),
            (
                "steps:",
                Tested(
                    "tests/cases/other_ci.rs",
                    "buildkite_script_resumes_after_a_failure_and_probes_without_a_journal",
                ),
            ),
            ("name: deploy", Tested(WORKFLOWS, "workflows_without_a_state_deploy")),
        ],
    ),
    ("docs/environments.md", &[("environments:", PLANS), ("hooks:", PLANS)]),
    (
        "docs/github-log.md",
        &[("$ runner --release r2", Tested("tests/cases/readme.rs", "github_log_shows_a_resumed_attempt"))],
    ),
    (
        "docs/github.md",
        &[
            ("name: deploy", Tested(WORKFLOWS, "pushed_fix_resumes_with_the_recommended_workflow")),
            ("name: deploy", Tested(WORKFLOWS, "workflows_without_a_state_deploy")),
            ("name: operate", Tested(WORKFLOWS, "step_in_doubt_is_answered_from_github")),
            ("name: deploy everywhere", Tested(WORKFLOWS, "matrix_deploys_to_each_environment")),
            (
                "name: deploy one",
                Tested(WORKFLOWS, "reusable_workflow_that_a_matrix_calls_has_an_instance_for_each_call"),
            ),
            ("name: promote", Tested(WORKFLOWS, "release_is_promoted_from_test_to_prod")),
        ],
    ),
    (
        "docs/hosts.md",
        &[
            ("version: 1", PLANS),
            ("environments:", PLANS),
            ("Host 10.0.0.*", Tested(RECIPES, "jump_host_of_the_page_leads_to_the_hosts_behind_it")),
            ("eval ", Tested(RECIPES, "job_of_the_page_keeps_its_key_in_an_agent")),
            ("TrustedUserCAKeys ", Tested(RECIPES, "certificates_of_the_page_need_no_list_of_keys_on_either_side")),
            (
                "ssh-keygen -q -s host-ca",
                Tested(RECIPES, "certificates_of_the_page_need_no_list_of_keys_on_either_side"),
            ),
            ("@cert-authority ", Tested(RECIPES, "certificates_of_the_page_need_no_list_of_keys_on_either_side")),
            (
                "ssh-keygen -q -t ed25519",
                Tested(RECIPES, "certificates_of_the_page_need_no_list_of_keys_on_either_side"),
            ),
            ("environments:", PLANS),
            ("version: 1", PLANS),
            ("environments:", PLANS),
        ],
    ),
    (
        "docs/init.md",
        &[
            ("$ runner init", Tested(INIT, "page_shows_a_proposal_and_a_template")),
            ("$ runner init --template", Tested(INIT, "page_shows_a_proposal_and_a_template")),
            (
                "export GITHUB_TOKEN=",
                Tested("tests/cases/init_forge.rs", "commands_of_the_page_create_a_repository_and_push"),
            ),
            ("# As root, for static", Tested(INIT, "commands_of_the_page_are_those_of_the_template")),
            ("# As deploy, for static", Tested(INIT, "static_template_is_deployed_broken_resumed_and_rolled_back")),
            ("# As root, for django", Tested(INIT, "commands_of_the_page_are_those_of_the_template")),
            ("# As root, for java", Tested(INIT, "commands_of_the_page_are_those_of_the_template")),
            (
                "# As deploy, for java",
                Tested(
                    "tests/cases/init_java.rs",
                    "java_template_is_promoted_stopped_by_a_real_request_resumed_and_rolled_back",
                ),
            ),
            ("# As root, for node", Tested(INIT, "commands_of_the_page_are_those_of_the_template")),
            ("# As root, for php", Tested(INIT, "commands_of_the_page_are_those_of_the_template")),
            ("# As root, for rails", Tested(INIT, "commands_of_the_page_are_those_of_the_template")),
        ],
    ),
    ("docs/journal.md", &[("4214ce79 ", Shown), ("3bb66167 ", Shown), ("ad76f0f8 ", Shown), ("f4d40815 ", Shown)]),
    ("docs/lock.md", &[("{ version: 2,", Shown), ("{ resource: shop/prod", Shown)]),
    (
        "docs/migrate.md",
        &[
            ("secrets: {", PLANS),
            ("vars: {", PLANS),
            ("-- pawl: allow", Tested("tests/databases/operator.rs", "unsafe_statements_warn_deny_and_are_allowed")),
            ("runner step migrate", Tested(ALONE, "migrate_runs_alone")),
            (
                "sqlx migrate run",
                Tested("tests/databases/interop.rs", "commands_of_the_page_find_no_difference_to_sqlx"),
            ),
        ],
    ),
    (
        "docs/migrating/README.md",
        &[(
            "# As deploy: the same target, relative",
            Tested(MIGRATING, "link_is_made_relative_by_the_same_commands_on_each_page"),
        )],
    ),
    (
        "docs/migrating/ansible.md",
        &[
            ("# inventory.ini", ANSIBLE_MOVES),
            ("# playbook.yml", ANSIBLE_MOVES),
            ("# group_vars/web.yml", ANSIBLE_MOVES),
            ("# roles/shop/tasks/main.yml", ANSIBLE_MOVES),
            ("# roles/shop/handlers/main.yml", ANSIBLE_MOVES),
            ("{# roles/shop/templates/env.j2 #}", ANSIBLE_MOVES),
            ("# pawl.yml", ANSIBLE_MOVES),
            ("{# conf/env.j2 #}", ANSIBLE_MOVES),
            ("runner pack app", ANSIBLE_MOVES),
            ("# As deploy: the same target, relative", ANSIBLE_MOVES),
            ("# then.yml", ANSIBLE_MOVES),
            ("ansible-playbook -i inventory.ini", ANSIBLE_RETURNS),
        ],
    ),
    (
        "docs/migrating/capistrano.md",
        &[
            ("# Capfile", CAPISTRANO_MOVES),
            ("# config/deploy.rb", CAPISTRANO_MOVES),
            ("# config/deploy/production.rb", CAPISTRANO_MOVES),
            ("# pawl.yml", CAPISTRANO_MOVES),
            ("# .pawlignore", CAPISTRANO_MOVES),
            ("runner pack .", CAPISTRANO_MOVES),
            ("# As deploy: the same target, relative", CAPISTRANO_MOVES),
            ("# As deploy: NAME", CAPISTRANO_RETURNS),
        ],
    ),
    (
        "docs/migrating/deployer.md",
        &[
            ("<?php // deploy.php", Tested("tests/cases/migrating/deployer.rs", "deploy_php_is_well_formed")),
            ("# pawl.yml", DEPLOYER_MOVES),
            ("# .pawlignore", DEPLOYER_MOVES),
            ("runner pack .", DEPLOYER_MOVES),
            ("# As deploy: NUMBER", DEPLOYER_MOVES),
        ],
    ),
    (
        "docs/migrating/fabric.md",
        &[
            ("# fabfile.py", FABRIC_MOVES),
            ("# pawl.yml", FABRIC_MOVES),
            ("runner pack app", FABRIC_MOVES),
            ("# As deploy: the same target, relative", FABRIC_MOVES),
            ("# As deploy: NAME", FABRIC_MOVES),
        ],
    ),
    (
        "docs/migrating/kamal.md",
        &[
            ("# config/deploy.yml", Tested("tests/cases/migrating/kamal.rs", "file_of_kamal_is_well_formed")),
            ("# .kamal/secrets", Shown),
            ("# pawl.yml", KAMAL_MOVES),
            ("http://:8080 {", KAMAL_MOVES),
            ("docker buildx build", Shown),
            ("gateway=", Shown),
            ("docker ps --quiet", Shown),
            ("kamal app boot", Shown),
        ],
    ),
    (
        "docs/pack.md",
        &[
            ("runner pack app", Tested(PACKING, "commands_of_the_page_make_a_release")),
            ("runner pack app", Tested(PACKING, "commands_of_the_page_make_a_release")),
            ("runner pack .", Tested(PACKING, "commands_of_the_page_make_a_release")),
        ],
    ),
    (
        "docs/plan.md",
        &[
            ("version: 1", PLANS),
            ("# yaml-language-server:", Tested("tests/cases/editor.rs", "comment_of_the_page_names_the_schema")),
            (
                "{ \"yaml.schemas\":",
                Tested("tests/cases/editor.rs", "settings_of_the_page_are_for_every_name_of_a_plan"),
            ),
            ("runner step run", Tested(ALONE, "run_runs_alone")),
            ("version: 1", PLANS),
            ("version: 1", PLANS),
            ("version: 1", PLANS),
            ("version: 1", PLANS),
            ("environments:", PLANS),
        ],
    ),
    (
        "docs/publish.md",
        &[
            ("runner publish dist/", Tested(PUBLISHING, "command_of_the_page_publishes_to_a_web_server")),
            (
                "runner pack .",
                Tested("tests/cases/publishing/python.rs", "commands_of_the_page_build_and_publish_a_package"),
            ),
        ],
    ),
    ("docs/recipes/README.md", &[("/srv/shop", Shown)]),
    (
        "docs/shell.md",
        &[("runner completions", Tested("tests/cases/completions.rs", "commands_of_the_page_write_the_scripts"))],
    ),
    (
        "docs/steps.md",
        &[
            ("$ sudo apt-get install gcc", PACKAGES),
            ("$ sudo apt-get install rustc-web", PACKAGES),
            ("runner new-step warm ", Tested(AUTHORS, "guide_builds_a_step_in_rust")),
            ("$ sudo apt-get install nodejs", PACKAGES),
            ("runner new-step warm-js ", Tested(AUTHORS, "guide_builds_a_step_in_javascript")),
            ("$ sudo apt-get install python3", PACKAGES),
            ("runner new-step warm-py ", Tested(AUTHORS, "guide_builds_a_step_in_python")),
            ("use pawl_step::{", Tested(AUTHORS, "guide_shows_the_example_step")),
            ("{", Shown),
            ("\"behaves\": {", Shown),
            ("{", Shown),
            ("#[test]", Shown),
            ("runner step --local", Tested(AUTHORS, "guide_builds_a_step_in_rust")),
        ],
    ),
    (
        "docs/pull.md",
        &[
            ("version: 1", Tested("tests/cases/oci_pulls.rs", "plan_of_the_page_pulls_an_artifact")),
            ("runner step ", Tested("tests/cases/oci_pulls.rs", "image_becomes_what_umoci_unpacks")),
        ],
    ),
    (
        "docs/supervisord.md",
        &[
            ("version: 1", Tested(SUPERVISORD, "plan_of_the_page_starts_each_release_beside_the_one_that_serves")),
            ("upstream shop_a", Tested(SUPERVISORD, "no_request_is_lost_in_ten_switches")),
            ("hooks:", Tested(SUPERVISORD, "hook_of_the_page_stops_the_old_program")),
            ("runner step supervisord", Tested(ALONE, "supervisord_runs_alone")),
        ],
    ),
    (
        "docs/systemd.md",
        &[
            ("version: 1", Tested(SYSTEMD, "plan_of_the_page_starts_each_release_beside_the_one_that_serves")),
            ("upstream shop_a", Tested(SYSTEMD, "plan_of_the_page_starts_each_release_beside_the_one_that_serves")),
            ("hooks:", Tested(SYSTEMD, "hook_of_the_page_stops_the_old_service")),
            ("with:", Tested(SYSTEMD, "service_starts_without_root")),
            ("runner step systemd", Tested(SYSTEMD, "commands_of_the_page_run_the_step_alone")),
        ],
    ),
    (
        "docs/packages.md",
        &[
            ("version: 1", Tested(MACHINE_PACKAGES, "plan_of_the_page_installs_the_versions")),
            (
                "  packages:\n    trust: host\n",
                Tested("tests/cases/packages_dnf.rs", "step_of_the_page_installs_the_versions_with_dnf"),
            ),
            ("runner step packages", Tested(MACHINE_PACKAGES, "command_of_the_page_runs_the_step_alone")),
        ],
    ),
    (
        "docs/venv.md",
        &[
            ("version: 1", Tested(VENV, "plan_of_the_page_gives_each_release_its_environment")),
            ("gunicorn==", Tested(VENV, "plan_of_the_page_gives_each_release_its_environment")),
            ("runner step venv", Tested(VENV, "command_of_the_page_runs_the_step_alone")),
        ],
    ),
    (
        "docs/verify.md",
        &[
            ("version: 1", Tested(VERIFY, "plan_of_the_page_tries_each_release_with_real_requests")),
            ("runner step verify", Tested(VERIFY, "command_of_the_page_runs_it_alone")),
        ],
    ),
    (
        "docs/zero-downtime.md",
        &[
            ("upstream shop_a", Tested("tests/cases/switch_traffic.rs", "nginx_follows_the_link_and_loses_no_request")),
            ("http://:8080", Tested("tests/cases/switch_traffic.rs", "caddy_follows_the_link_and_loses_no_request")),
            ("frontend shop", Tested("tests/cases/switch_traffic.rs", "haproxy_is_told_and_loses_no_request")),
            ("version: 1", PLANS),
            ("runner step switch", Tested(ALONE, "switch_runs_alone")),
        ],
    ),
    (
        "examples/fleet/README.md",
        &[(
            "cargo xtask pack",
            Tested("tests/cases/fleet_example.rs", "example_is_deployed_to_eight_hosts_that_have_sshd_only"),
        )],
    ),
    (
        "examples/magento/README.md",
        &[
            ("server {", Tested(MAGENTO, "failed_upgrade_is_resumed_and_nothing_is_built_again")),
            ("mkdir -p /srv/shop", Tested(MAGENTO, "failed_upgrade_is_resumed_and_nothing_is_built_again")),
        ],
    ),
    (
        "examples/shop/README.md",
        &[(
            "cargo xtask pack",
            Tested("xtask/tests/shown_commands.rs", "commands_of_the_example_deploy_it_and_skip_it"),
        )],
    ),
];

/// The pages, by their path in the repository. Those of errors are not among them.
fn pages() -> Vec<String> {
    let folders = ["docs", "examples", "runner/templates"].map(page_path);
    let mut pages: Vec<PathBuf> = folders.iter().flat_map(|folder| pages_below(folder)).collect();
    pages.extend(["README.md", "CHANGELOG.md"].map(page_path));
    let root = page_path("");
    pages.iter().map(|page| page.strip_prefix(&root).unwrap().display().to_string()).collect()
}

/// Whether a test of tests/recipes.rs follows this page, which asserts that it left no block out.
fn is_followed_recipe(page: &str) -> bool {
    let name = page.strip_prefix("docs/recipes/").and_then(|name| name.strip_suffix(".md"));
    let tests =
        ["tests/recipes.rs", "tests/recipes/python_slots.rs"].map(|path| fs::read_to_string(page_path(path)).unwrap());
    name.is_some_and(|name| tests.concat().contains(&format!("RecipePage::read(\"{name}\"")))
}

#[test]
fn every_block_of_the_documentation_has_its_test() {
    for page in pages().iter().filter(|page| !is_followed_recipe(page)) {
        let blocks = fenced_blocks(&fs::read_to_string(page_path(page)).unwrap());
        let rows = PAGES.iter().find(|(name, _)| name == page).map_or(&[][..], |(_, rows)| rows);
        for (number, block) in blocks.iter().enumerate() {
            let start = block.text.lines().next().unwrap_or_default();
            let is_known = rows.get(number).is_some_and(|(expected, _)| block.text.starts_with(expected));
            assert!(
                is_known,
                "{page}: block {} ({start:?}) has no test: name the one that runs it in PAGES",
                number + 1
            );
        }
        assert_eq!(blocks.len(), rows.len(), "{page}: PAGES names a block that is gone");
    }
    let known = pages();
    for (page, _) in PAGES {
        assert!(known.iter().any(|known| known == page), "{page} is gone");
    }
}

#[test]
fn named_tests_exist() {
    for (page, rows) in PAGES {
        for (start, block_use) in *rows {
            let Tested(file, test) = block_use else { continue };
            let text = fs::read_to_string(page_path(file)).unwrap_or_else(|error| panic!("{page}: {file}: {error}"));
            assert!(text.contains(&format!("fn {test}() {{")), "{page}: {start:?}: {file} has no test {test}");
            assert!(text.contains(page), "{file} does not read {page}");
        }
    }
}
