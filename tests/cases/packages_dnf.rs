//! Packages that a real dnf and rpm install from a repository of the test's own, on a machine that ends with the test.

use crate::support::{PackageMachine, RpmFixture, doc_blocks::fenced_block};

const PAGE: &str = "docs/packages.md";
/// What the plan of the page installs; the scripts of packages need a shell.
const PACKAGES: [&str; 2] = ["shop-fonts 1.2-1", "vips 8.15.1-1"];
const LIST: &str = "[vips=8.15.1-1, shop-fonts=1.2-1]";

/// A machine whose repository has the packages of the page, and a newer one; r1 is packed.
fn world() -> PackageMachine {
    let plan = fenced_block(PAGE, "version: 1\napp: shop\nkeep: 3");
    let step = fenced_block(PAGE, "manager: dnf");
    let (start, end) = (plan.find("  packages:\n").unwrap(), plan.find("  switch:\n").unwrap());
    let machine = PackageMachine::boot(&format!("{}{step}{}", &plan[..start], &plan[end..]));
    for (name, version) in [("vips", "8.15.1"), ("vips", "8.16.0"), ("shop-fonts", "1.2")] {
        machine.build_rpm(name, version, RpmFixture::default());
    }
    machine.build_rpm("shop-shell", "1.0", RpmFixture { tags: &["Provides: /bin/sh"], ..RpmFixture::default() });
    machine.publish_rpms();
    machine.environment().write("app/VERSION", "@VERSION@\n");
    machine.environment().pack("r1");
    machine
}

#[test]
fn step_of_the_page_installs_the_versions_with_dnf() {
    let machine = world();
    machine.deploy("r1").assert_exit(0);
    assert_eq!(machine.rpms(), PACKAGES);
    let held = ["pull skip held", "packages skip held", "switch skip held", "verify skip held"];
    machine.deploy("r1").assert_decisions(&held);
    machine.install("[vips=8.16.0-1, shop-fonts=1.2-1]");
    machine.environment().pack("r2");
    machine.deploy("r2").assert_exit(0);
    assert_eq!(machine.rpms(), [PACKAGES[0], "vips 8.16.0-1"]);
    machine.run("runner rollback --local --json").assert_exit(0);
    assert_eq!(machine.rpms(), [PACKAGES[0], "vips 8.16.0-1"], "a rollback leaves the packages");
    machine.run("rpm --erase shop-fonts").assert_exit(0);
    machine.environment().pack("r3");
    machine.deploy("r3").assert_exit(0);
    assert_eq!(machine.rpms(), [PACKAGES[0], "vips 8.16.0-1"]);
}

#[test]
fn what_dnf_would_refuse_or_remove_is_refused_before_any_commit_step() {
    let machine = world();
    machine.deploy("r1").assert_exit(0);
    let tagged = |tags| RpmFixture { tags, ..RpmFixture::default() };
    machine.build_rpm("shop-lite", "1.0", tagged(&["Conflicts: vips"]));
    machine.build_rpm("shop-next", "1.0", tagged(&["Obsoletes: shop-fonts < 2"]));
    machine.build_rpm("shop-old", "1.0", tagged(&["Requires: vips = 7.0"]));
    machine.build_rpm("shop-fonts", "1.1", RpmFixture::default());
    machine.publish_rpms();
    machine.environment().pack("r2");
    for (list, said, hint) in [
        (
            "[shop-fonts=9.0-1]",
            "the package lists have no shop-fonts in version 9.0-1, only 1.2-1, 1.1-1",
            "`update: true`",
        ),
        ("[nowhere=1.0-1]", "the package lists have no nowhere", "correct it"),
        ("[shop-lite=1.0-1]", "conflicts with vips", "versions of the packages that fit"),
        ("[shop-next=1.0-1]", "would remove shop-fonts.noarch 1.2-1", "this step removes nothing"),
        ("[shop-old=1.0-1]", "nothing provides vips = 7.0", "versions of the packages that fit"),
        ("[shop-fonts=1.1-1]", "a newer version is installed", "`downgrade: true`"),
    ] {
        machine.install(list);
        let refused = machine.deploy("r2");
        refused.assert_refused_beforehand().assert_stderr_contains(said).assert_stderr_contains(hint);
        assert_eq!(machine.rpms(), PACKAGES, "{list}");
    }
    machine.install("[shop-fonts=1.1-1]\n      downgrade: true");
    machine.deploy("r2").assert_exit(0);
    assert_eq!(machine.rpms(), ["shop-fonts 1.1-1", PACKAGES[1]]);
}

#[test]
fn only_root_installs_packages_with_dnf() {
    let machine = world();
    let refused = machine.deploy_without_root();
    refused.assert_refused_beforehand().assert_stderr_contains("the runner's user is not root");
    assert_eq!(machine.rpms(), Vec::<String>::new());
}

#[test]
fn update_fetches_the_lists_of_dnf_first() {
    let machine = world();
    machine.build_rpm("shop-fonts", "2.0", RpmFixture::default());
    machine.list_rpms();
    machine.install("[shop-fonts=2.0-1]");
    machine.deploy("r1").assert_refused_beforehand().assert_stderr_contains("have no shop-fonts in version 2.0-1");
    machine.install("[shop-fonts=2.0-1]\n      update: true");
    machine.deploy("r1").assert_exit(0);
    assert_eq!(machine.rpms(), ["shop-fonts 2.0-1"]);
    machine.run("rm -r /repository/*").assert_exit(0);
    machine.install("[vips=8.17.0-1]\n      update: true");
    machine.environment().pack("r2");
    let down = machine.deploy("r2");
    down.assert_exit(1).assert_stderr_contains("error[P0301]").assert_stderr_contains("a repository does not answer");
    assert_eq!(machine.rpms(), ["shop-fonts 2.0-1"]);
}

/// A package in any version is left to the machine.
#[test]
fn any_version_is_installed_once_with_dnf() {
    let machine = world();
    machine.install("[vips, shop-fonts=1.2-1]\n      any-version: true");
    machine.deploy("r1").assert_exit(0);
    assert_eq!(machine.rpms(), [PACKAGES[0], "vips 8.16.0-1"]);
    machine.build_rpm("vips", "9.0", RpmFixture::default());
    machine.publish_rpms();
    machine.run("rpm --erase shop-fonts").assert_exit(0);
    machine.environment().pack("r2");
    machine.deploy("r2").assert_exit(0);
    assert_eq!(machine.rpms(), [PACKAGES[0], "vips 8.16.0-1"]);
}

/// rpm takes a package for installed whose script was killed; dnf's history tells that it was.
#[test]
fn killed_installation_with_dnf_is_finished_by_the_next_attempt() {
    for before in [None, Some("1.1")] {
        let machine = world();
        if let Some(version) = before {
            machine.build_rpm("shop-fonts", version, RpmFixture::default());
            machine.publish_rpms();
            machine.run(&format!("dnf --assumeyes install shop-fonts-{version}")).assert_exit(0);
        }
        let section = "%post\ntouch /run/script; [ -e /run/go ] || sleep 60; touch /run/done";
        machine.build_rpm("shop-fonts", "1.2", RpmFixture { section, ..RpmFixture::default() });
        machine.publish_rpms();
        machine.install("[shop-fonts=1.2-1]");
        machine.kill_in_script("dnf");
        assert_eq!(machine.rpms(), ["shop-fonts 1.2-1", "shop-shell 1.0-1"], "{before:?}");
        assert!(!machine.exists("/run/done"));
        machine.run("touch /run/go").assert_exit(0);
        let resumed = machine.deploy("r1");
        assert_eq!(resumed.assert_exit(0).decisions()[..2], ["pull skip held", "packages run interrupted"]);
        assert_eq!(machine.rpms(), ["shop-fonts 1.2-1", "shop-shell 1.0-1"]);
        assert!(machine.exists("/run/done"), "its script has run to the end");
        assert!(resumed.stdout.contains("running `dnf reinstall` first"), "{}", resumed.stdout);
        assert_eq!(machine.deploy("r1").decisions()[1], "packages skip held");
    }
}

#[test]
fn failed_script_of_an_rpm_is_named() {
    let machine = world();
    let section = "%pre\necho 'no such font' >&2; exit 3";
    machine.build_rpm("shop-fonts", "1.3", RpmFixture { section, ..RpmFixture::default() });
    machine.publish_rpms();
    machine.install("[shop-fonts=1.3-1]");
    let failed = machine.deploy("r1");
    failed
        .assert_exit(1)
        .assert_stderr_contains("error[P0301]")
        .assert_stderr_contains("a package's own script failed");
    assert!(!machine.exists("/srv/shop/current"));
    machine.install(LIST);
    machine.deploy("r1").assert_exit(0);
    assert_eq!(machine.rpms(), [PACKAGES[0], "shop-shell 1.0-1", PACKAGES[1]]);
}

#[test]
fn another_installation_with_dnf_is_waited_for() {
    let machine = world();
    let section = "%post\ntouch /run/script; while ! [ -e /run/go ]; do sleep 0.05; done";
    machine.build_rpm("slow", "1.0", RpmFixture { section, ..RpmFixture::default() });
    machine.publish_rpms();
    machine.check_lock_is_waited_for("dnf --assumeyes install slow", LIST);
    assert_eq!(machine.rpms(), [PACKAGES[0], "shop-shell 1.0-1", "slow 1.0-1", PACKAGES[1]]);
}

#[test]
fn full_disk_is_named_with_dnf() {
    let machine = world();
    machine.run("mkdir -p /opt/shop-fonts && mount -t tmpfs -o size=64k tmpfs /opt/shop-fonts").assert_exit(0);
    machine.build_rpm("shop-fonts", "1.4", RpmFixture { bytes: 1 << 20, ..RpmFixture::default() });
    machine.publish_rpms();
    machine.install("[shop-fonts=1.4-1]");
    let failed = machine.deploy("r1");
    failed.assert_exit(1).assert_stderr_contains("error[P0301]").assert_stderr_contains("the disk is full");
    machine.run("umount /opt/shop-fonts").assert_exit(0);
    machine.deploy("r1").assert_exit(0);
    assert_eq!(machine.rpms(), ["shop-fonts 1.4-1"]);
}
