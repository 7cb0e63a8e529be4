//! The guides of docs/migrating: their files and commands are taken from the pages. Capistrano, Ansible and Fabric are the real ones, and
//! deploy to a real sshd; of Deployer and Kamal, which no package source of the tests has, the cases make what they leave on a machine.

mod ansible;
mod capistrano;
mod deployer;
mod fabric;
mod kamal;
mod machine;

use std::fs;

use crate::support::{
    TestEnvironment,
    doc_blocks::{fenced_block, fenced_blocks, page_path},
};

/// The first line of the plan on each page.
pub(super) const PLAN: &str = "# pawl.yml\n";
pub(super) const GUIDES: [&str; 5] = [
    "docs/migrating/ansible.md",
    "docs/migrating/capistrano.md",
    "docs/migrating/deployer.md",
    "docs/migrating/fabric.md",
    "docs/migrating/kamal.md",
];

/// The commands that make the link relative, which three guides have, too.
const RELATIVE_LINK: &str = "# As deploy: the same target, relative";

/// As they stand on the pages. No host of a page is there; ssh says so at once.
#[test]
fn plans_of_the_guides_are_valid() {
    for page in GUIDES {
        let mut environment = TestEnvironment::with_plan(&fenced_block(page, PLAN));
        environment.write("conf/env.j2", "");
        environment.write_program("bin/ssh", "#!/bin/sh\nexit 255\n");
        #[expect(clippy::disallowed_methods, reason = "tests pass on where programs are")]
        let path = std::env::var("PATH").unwrap();
        environment.set_variable("PATH", &format!("{}:{path}", environment.path("bin").display()));
        for secret in ["DB_PASSWORD", "RAILS_MASTER_KEY", "REGISTRY_AUTH"] {
            environment.set_variable(secret, "hunter2-hunter2");
        }
        environment.git(&["init", "--quiet", "--bare", "origin.git"]);
        environment.git(&["init", "--quiet"]);
        environment.git(&["remote", "add", "origin", "origin.git"]);
        let planned = environment.run(&["plan", "--release", &"0".repeat(64)]);
        planned.assert_stderr_contains("error[P0260]").assert_stderr_contains("web-2");
        assert_eq!(planned.stderr.matches("error[").count(), 2, "{page}: {}", planned.stderr);
    }
}

#[test]
fn each_guide_is_in_the_index_and_links_to_it() {
    let index = fs::read_to_string(page_path("docs/migrating/README.md")).unwrap();
    for page in GUIDES {
        let name = page.rsplit('/').next().unwrap();
        assert!(index.contains(&format!("]({name})")), "{page}");
        assert!(fs::read_to_string(page_path(page)).unwrap().contains("](README.md)"), "{page}");
    }
}

#[test]
fn link_is_made_relative_by_the_same_commands_on_each_page() {
    let commands = fenced_block("docs/migrating/README.md", RELATIVE_LINK);
    for page in GUIDES {
        let blocks = fenced_blocks(&fs::read_to_string(page_path(page)).unwrap());
        let same = blocks.iter().filter(|block| block.text == commands).count();
        // Deployer's link is relative, and Kamal has none.
        let expected = usize::from(!page.ends_with("deployer.md") && !page.ends_with("kamal.md"));
        assert_eq!(same, expected, "{page}");
    }
}
