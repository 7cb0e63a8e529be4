//! Packages that a real apt and dpkg install from a repository of the test's own, on a machine that ends with the test.

use crate::support::{DebFixture, PackageMachine, RunnerOutput, doc_blocks::fenced_block};

const PAGE: &str = "docs/packages.md";
/// What the plan of the page installs.
const PACKAGES: [&str; 2] = ["ii libvips42 8.14.1-3+deb12u2", "ii shop-fonts 1.2-1"];
const LIST: &str = "[libvips42=8.14.1-3+deb12u2, shop-fonts=1.2-1]";

/// A machine whose repository has the packages of the page, and newer ones; r1 is packed.
fn world() -> PackageMachine {
    let machine = PackageMachine::boot(&fenced_block(PAGE, "version: 1"));
    for (name, version) in
        [("libvips42", "8.14.1-3+deb12u2"), ("libvips42", "8.14.1-3+deb12u3"), ("shop-fonts", "1.2-1")]
    {
        machine.build(name, version, DebFixture::default());
    }
    machine.publish();
    machine.environment().write("app/VERSION", "@VERSION@\n");
    machine.environment().pack("r1");
    machine
}

/// The types of the events and the message of the step, in JSON, that say what the step had to do.
fn has_run(output: &RunnerOutput) -> bool {
    let lines = output.json_lines();
    let receipts = lines.iter().filter(|line| line["event"]["step"] == "packages").filter_map(|line| {
        line.pointer("/event/outcome/receipt/notes").or_else(|| line.pointer("/event/receipt/notes"))
    });
    let notes: Vec<_> = receipts.collect();
    assert!(!notes.is_empty(), "{}", output.stdout);
    notes.iter().any(|notes| notes["ran"] != false)
}

#[test]
fn plan_of_the_page_installs_the_versions() {
    let machine = world();
    let first = machine.deploy("r1");
    first.assert_exit(0);
    assert!(has_run(&first));
    assert_eq!(machine.packages(), PACKAGES);
    let held = ["pull skip held", "packages skip held", "switch skip held", "verify skip held"];
    machine.deploy("r1").assert_decisions(&held);
    // Another release needs the same packages.
    machine.environment().pack("r2");
    let second = machine.deploy("r2");
    second.assert_exit(0);
    assert!(!has_run(&second), "{}", second.stdout);
    // A newer version in the plan.
    machine.install("[libvips42=8.14.1-3+deb12u3, shop-fonts=1.2-1]");
    machine.environment().pack("r3");
    machine.deploy("r3").assert_exit(0);
    assert_eq!(machine.packages(), ["ii libvips42 8.14.1-3+deb12u3", PACKAGES[1]]);
    // The way back leaves the packages, as `runner plan` says.
    machine.run("runner rollback --local --json").assert_exit(0);
    assert_eq!(machine.packages(), ["ii libvips42 8.14.1-3+deb12u3", PACKAGES[1]]);
    machine.environment().pack("r4");
    let plan = machine.run("runner plan --release r4");
    assert!(plan.stdout.contains("a rollback does not undo it"), "{}", plan.stdout);
}

#[test]
fn automatic_rollback_leaves_the_packages() {
    let machine = world();
    machine.deploy("r1").assert_exit(0);
    machine.install("[libvips42=8.14.1-3+deb12u3, shop-fonts=1.2-1]");
    machine.environment().edit("deploy.yml", "equals: \"${{ release }}\"", "equals: \"something else\"");
    machine.environment().pack("r2");
    machine.deploy("r2").assert_exit(4);
    assert_eq!(machine.packages(), ["ii libvips42 8.14.1-3+deb12u3", PACKAGES[1]]);
    assert!(machine.run("cat /srv/shop/current/VERSION").stdout.starts_with("r1"));
}

#[test]
fn what_apt_would_refuse_is_refused_before_any_commit_step() {
    let machine = world();
    machine.deploy("r1").assert_exit(0);
    machine.build("shop-lite", "1.0", DebFixture { control: &["Conflicts: shop-fonts"], ..DebFixture::default() });
    let needs_old = DebFixture { control: &["Depends: libvips42 (= 8.14.1-3+deb12u1)"], ..DebFixture::default() };
    machine.build("shop-old", "1.0", needs_old);
    machine.build("shop-fonts", "1.1-1", DebFixture::default());
    machine.build("shop-fonts", "1.3-1", DebFixture::default());
    machine.publish();
    machine.environment().pack("r2");
    for (list, said, hint) in [
        (
            "[shop-fonts=9.0]",
            "the package lists have no shop-fonts in version 9.0, only 1.3-1, 1.2-1, 1.1-1",
            "`update: true`",
        ),
        ("[nowhere=1.0, shop-fonts=9.0]", "the package lists have no nowhere; the package lists have", "correct it"),
        ("[shop-lite=1.0]", "installing shop-lite=1.0 would remove shop-fonts 1.2-1", "this step removes nothing"),
        ("[shop-old=1.0]", "Depends: libvips42 (= 8.14.1-3+deb12u1)", "versions of the packages that fit"),
        ("[shop-fonts=1.1-1]", "a newer version is installed", "`downgrade: true`"),
        ("[shop-fonts]", "`shop-fonts` has no version", "`any-version: true`"),
    ] {
        machine.install(list);
        let refused = machine.deploy("r2");
        refused.assert_refused_beforehand().assert_stderr_contains(said).assert_stderr_contains(hint);
        assert_eq!(machine.packages(), PACKAGES, "{list}");
    }
    machine.run("apt-mark hold shop-fonts").assert_exit(0);
    machine.install("[shop-fonts=1.3-1]");
    let held = machine.deploy("r2");
    held.assert_refused_beforehand().assert_stderr_contains("shop-fonts is on hold");
    held.assert_stderr_contains("`apt-mark unhold shop-fonts`");
    machine.run("apt-mark unhold shop-fonts").assert_exit(0);
    machine.install("[shop-fonts=1.1-1]\n      downgrade: true");
    machine.deploy("r2").assert_exit(0);
    assert_eq!(machine.packages(), [PACKAGES[0], "ii shop-fonts 1.1-1"]);
}

#[test]
fn only_root_installs_packages() {
    let machine = world();
    let refused = machine.deploy_without_root();
    refused.assert_refused_beforehand().assert_stderr_contains("the runner's user is not root");
    assert_eq!(machine.packages(), Vec::<String>::new());
}

#[test]
fn update_fetches_the_lists_first() {
    let machine = world();
    machine.build("shop-fonts", "2.0-1", DebFixture::default());
    machine.environment().write("repository/Packages", "");
    machine.run("apt-get update").assert_exit(0);
    machine.list_packages();
    machine.install(LIST);
    machine.deploy("r1").assert_refused_beforehand().assert_stderr_contains("the package lists have no libvips42");
    machine.install("[libvips42=8.14.1-3+deb12u2, shop-fonts=1.2-1]\n      update: true");
    let updated = machine.deploy("r1");
    updated.assert_exit(0);
    assert_eq!(machine.packages(), PACKAGES);
    // What is there needs no list.
    machine.run("rm -r /repository/*").assert_exit(0);
    machine.environment().pack("r2");
    machine.deploy("r2").assert_exit(0);
    machine.install("[shop-fonts=2.0-1]\n      update: true");
    machine.environment().pack("r3");
    let down = machine.deploy("r3");
    down.assert_exit(1).assert_stderr_contains("error[P0301]").assert_stderr_contains("a repository does not answer");
    assert_eq!(machine.packages(), PACKAGES);
    machine.install("[shop-fonts=2.0-1]");
    machine.deploy("r3").assert_exit(1).assert_stderr_contains("a repository does not answer");
    assert_eq!(machine.packages(), PACKAGES);
}

#[test]
fn any_version_is_left_to_the_machine() {
    let machine = world();
    machine.install("[libvips42, shop-fonts=1.2-1]\n      any-version: true");
    machine.deploy("r1").assert_exit(0);
    assert_eq!(machine.packages(), ["ii libvips42 8.14.1-3+deb12u3", PACKAGES[1]]);
    machine.build("libvips42", "9.0-1", DebFixture::default());
    machine.publish();
    machine.run("apt-get install --yes libvips42").assert_exit(0);
    machine.deploy("r1").assert_decisions(&[
        "pull skip held",
        "packages skip held",
        "switch skip held",
        "verify skip held",
    ]);
    // Nor does it get a newer one because another package is missing.
    machine.build("libvips42", "10.0-1", DebFixture::default());
    machine.publish();
    machine.run("apt-get remove --yes shop-fonts").assert_exit(0);
    assert_eq!(machine.deploy("r1").assert_exit(0).decisions()[1], "packages run absent");
    assert_eq!(machine.packages(), ["ii libvips42 9.0-1", PACKAGES[1]]);
}

#[test]
fn removed_package_comes_back_and_another_version_is_drift() {
    let machine = world();
    machine.deploy("r1").assert_exit(0);
    machine.run("apt-get remove --yes shop-fonts").assert_exit(0);
    let again = machine.deploy("r1");
    assert_eq!(again.assert_exit(0).decisions()[1], "packages run absent");
    assert_eq!(machine.packages(), PACKAGES);
    // A newer version is refused before anything; of an older one, the probe says that somebody has changed it.
    machine.run("apt-get install --yes libvips42").assert_exit(0);
    machine.deploy("r1").assert_refused_beforehand().assert_stderr_contains("a newer version is installed");
    machine.build("libvips42", "8.14.1-3+deb12u1", DebFixture::default());
    machine.publish();
    machine.run("apt-get install --yes --allow-downgrades libvips42=8.14.1-3+deb12u1").assert_exit(0);
    let drifted = machine.deploy("r1");
    drifted.assert_exit(3).assert_stderr_contains("error[P0401]");
    drifted.assert_stderr_contains("libvips42 is installed in version 8.14.1-3+deb12u1, not 8.14.1-3+deb12u2");
    machine.deploy_with("r1", "--accept-drift packages").assert_exit(0);
    assert_eq!(machine.packages(), PACKAGES);
}

#[test]
fn killed_installation_is_finished_by_the_next_attempt() {
    for (script, left) in [("postinst", "iF shop-fonts 1.2-1"), ("preinst", "iHRshop-fonts 1.2-1")] {
        let machine = world();
        let lines = "touch /run/script; [ -e /run/go ] || sleep 60";
        machine.build("shop-fonts", "1.2-1", DebFixture { script: Some((script, lines)), ..DebFixture::default() });
        machine.publish();
        machine.kill_in_script("apt-get,dpkg");
        let packages = machine.packages();
        assert!(packages.iter().any(|found| found == left), "{packages:?}");
        machine.run("touch /run/go").assert_exit(0);
        let resumed = machine.deploy("r1");
        assert_eq!(resumed.assert_exit(0).decisions()[..2], ["pull skip held", "packages run interrupted"]);
        assert_eq!(machine.packages(), PACKAGES);
        for words in ["not fully installed: ", "shop-fonts", "; running `dpkg --configure -a` first"] {
            assert!(resumed.stdout.contains(words), "{}", resumed.stdout);
        }
    }
}

#[test]
fn failed_script_is_named_and_a_corrected_version_is_installed() {
    let machine = world();
    let broken = DebFixture { script: Some(("postinst", "echo 'no such font' >&2; exit 3")), ..DebFixture::default() };
    machine.build("shop-fonts", "1.2-1", broken);
    machine.publish();
    let failed = machine.deploy("r1");
    failed
        .assert_exit(1)
        .assert_stderr_contains("error[P0301]")
        .assert_stderr_contains("a package's own script failed");
    failed.assert_stderr_contains("post-installation script subprocess returned error exit status 3");
    assert!(!machine.exists("/srv/shop/current"));
    machine.build("shop-fonts", "1.3-1", DebFixture::default());
    machine.publish();
    machine.install("[libvips42=8.14.1-3+deb12u2, shop-fonts=1.3-1]");
    machine.deploy("r1").assert_exit(0);
    assert_eq!(machine.packages(), [PACKAGES[0], "ii shop-fonts 1.3-1"]);
}

#[test]
fn another_installation_is_waited_for() {
    let machine = world();
    let slow = DebFixture {
        script: Some(("postinst", "touch /run/script; while ! [ -e /run/go ]; do sleep 0.05; done")),
        ..DebFixture::default()
    };
    machine.build("slow", "1.0", slow);
    machine.publish();
    machine.check_lock_is_waited_for("apt-get install --yes slow", LIST);
    assert_eq!(machine.packages(), [PACKAGES[0], PACKAGES[1], "ii slow 1.0"]);
}

#[test]
fn full_disk_is_named() {
    let machine = world();
    machine.run("mkdir -p /opt/shop-fonts && mount -t tmpfs -o size=64k tmpfs /opt/shop-fonts").assert_exit(0);
    machine.build("shop-fonts", "1.2-1", DebFixture { bytes: 1 << 20, ..DebFixture::default() });
    machine.publish();
    let failed = machine.deploy("r1");
    failed.assert_exit(1).assert_stderr_contains("error[P0301]").assert_stderr_contains("the disk is full");
    machine.run("umount /opt/shop-fonts").assert_exit(0);
    machine.deploy("r1").assert_exit(0);
    assert_eq!(machine.packages(), PACKAGES);
}

#[test]
fn command_of_the_page_runs_the_step_alone() {
    let machine = world();
    machine.run(&fenced_block(PAGE, "runner step packages")).assert_exit(0);
    assert_eq!(machine.packages(), [PACKAGES[1]]);
    assert!(machine.exists("/opt/shop-fonts/version"));
}
