//! Releases that start as services of a real systemd, on a machine in namespaces, beside the one that serves.

use crate::support::{
    TestEnvironment,
    doc_blocks::fenced_block,
    machine::{MachineUser, TestMachine},
    plan_on_host,
};

use super::supervisord::{SERVER, SQUATTER};

const PAGE: &str = "docs/systemd.md";

/// The plan of the page as it is written, on a machine whose nginx has the lines of the page.
struct SystemdSite {
    environment: TestEnvironment,
    machine: TestMachine,
}

/// What a shell command has said.
struct SystemdOutput {
    code: Option<i32>,
    text: String,
}

impl SystemdOutput {
    #[track_caller]
    fn assert_exit(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "{}", self.text);
        self
    }

    #[track_caller]
    fn assert_contains(&self, text: &str) -> &Self {
        assert!(self.text.contains(text), "{text:?} is not in\n{}", self.text);
        self
    }
}

fn world() -> SystemdSite {
    let world = SystemdSite { environment: TestEnvironment::with_plan(""), machine: TestMachine::boot() };
    world.plan(&fenced_block(PAGE, "version: 1"));
    let nginx = format!(
        "user www-data;\npid /var/nginx.pid;\nerror_log /var/nginx.log;\nevents {{}}\nhttp {{\naccess_log off;\n{}\n}}\n",
        fenced_block(PAGE, "upstream shop_a")
    );
    world.machine.write(MachineUser::Root, "/var/nginx.conf", nginx.as_bytes());
    world.run("nginx -c /var/nginx.conf");
    world.pack("r1", "works");
    world
}

impl SystemdSite {
    /// Writes a plan. The default times are for real programs.
    fn plan(&self, text: &str) {
        let short = "/health\" }], every: 50ms, within: 3s, stay: 300ms }";
        let text = text.replace("/health\" }] }", short).replace("drain: 10s", "drain: 100ms");
        self.machine.write(MachineUser::Root, "/var/shop/deploy.yml", text.as_bytes());
    }

    fn edit(&self, from: &str, to: &str) {
        let text = self.run("cat /var/shop/deploy.yml");
        assert!(text.contains(from), "{from}");
        self.machine.write(MachineUser::Root, "/var/shop/deploy.yml", text.replace(from, to).as_bytes());
    }

    fn pack(&self, release: &str, behavior: &str) {
        self.environment.write("app/serve.py", SERVER);
        self.environment.write("app/VERSION", "@VERSION@\n");
        self.environment.write("app/behavior", behavior);
        self.environment.pack(release);
        let archive = format!("dist/shop-{release}.tar.zst");
        let content = std::fs::read(self.environment.path(&archive)).unwrap();
        self.machine.write(MachineUser::Root, &format!("/var/shop/{archive}"), &content);
    }

    fn run(&self, script: &str) -> String {
        self.machine.run(MachineUser::Root, script)
    }

    fn say(&self, script: &str) -> SystemdOutput {
        let script = format!("cd /var/shop; export DB_PASSWORD=correct-horse-battery; {script}");
        let (code, text) = self.machine.run_with_one_stream(MachineUser::Root, &script);
        SystemdOutput { code, text }
    }

    fn deploy(&self, release: &str) -> SystemdOutput {
        self.say(&format!("runner --local --release {release}"))
    }

    /// What a visitor gets.
    fn answer(&self) -> String {
        self.run("curl -s http://127.0.0.1:8080/")
    }

    /// How many programs of releases run.
    fn programs(&self) -> usize {
        let found = self.run("grep -lE 'releases/.*/serve[.]py' /proc/[0-9]*/cmdline 2>/dev/null || true");
        found.lines().count()
    }

    /// The units of the app with their states, and the files about them.
    fn units(&self) -> (Vec<String>, Vec<String>) {
        let units = self.run("systemctl list-units --all --plain --no-legend --full 'shop-*'");
        // systemd forgets a unit a moment after its file is gone.
        let of = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            (words[1] != "not-found").then(|| format!("{} {}", words[0], words[3]))
        };
        let files = self.run("cd /etc/systemd/system; find . -name 'shop-*' -type f | sort");
        (units.lines().filter_map(of).collect(), files.lines().map(str::to_owned).collect())
    }
}

/// Running units, and their files.
fn running(slots: &[&str]) -> (Vec<String>, Vec<String>) {
    let of = |before: &str, after: &str| slots.iter().map(|slot| format!("{before}{slot}{after}")).collect();
    (of("shop-default-", ".service running"), of("./shop-default-", ".service"))
}

#[test]
fn plan_of_the_page_starts_each_release_beside_the_one_that_serves() {
    let world = world();
    world.deploy("r1").assert_exit(0);
    assert_eq!(world.answer(), "r1 cor", "the program got its secret");
    assert_eq!(world.units(), running(&["a"]));
    assert_eq!(world.run("stat -c %U /srv/shop/slots/a/sock").trim(), "www-data");
    world.deploy("r1").assert_exit(0).assert_contains("start");
    world.pack("r2", "works");
    world.deploy("r2").assert_exit(0);
    assert_eq!((world.answer().as_str(), world.units()), ("r2 cor", running(&["a", "b"])));
    // The old service runs on, so the way back is one rename.
    world.say("runner rollback --local").assert_exit(0);
    assert_eq!(world.answer(), "r1 cor");
    assert_eq!(world.run("grep -c begins /srv/shop/slots/a.log").trim(), "1", "it was not started again");
    world.pack("r3", "works");
    world.deploy("r3").assert_exit(0);
    assert_eq!((world.answer().as_str(), world.units()), ("r3 cor", running(&["a", "b"])));
    // After a boot, both are started.
    let enabled = world.run("systemctl is-enabled shop-default-a shop-default-b");
    assert_eq!(enabled, "enabled\nenabled\n");
    // The password is in files of its own only.
    let found = world.run("grep -rl correct-horse-battery /etc/systemd /srv/shop /var/shop || true");
    let secret = |slot: &str| format!("/etc/systemd/system/.pawl/shop-default-{slot}/DB_PASSWORD");
    let mut found: Vec<&str> = found.lines().collect();
    found.sort_unstable();
    assert_eq!(found, [secret("a"), secret("b")]);
    assert!(!world.run("systemctl show shop-default-a").contains("correct-horse"));
    world.run("! setpriv --reuid=nobody --regid=nogroup --clear-groups cat /etc/systemd/system/.pawl/shop-default-a/DB_PASSWORD");
    // With its settings.
    assert_eq!(world.run("systemctl show --property=NoNewPrivileges shop-default-b"), "NoNewPrivileges=yes\n");
}

#[test]
fn release_that_does_not_become_ready_leaves_nothing() {
    let world = world();
    world.deploy("r1").assert_exit(0);
    for (release, behavior, told) in [
        ("r2", "never", ["it was not ready within 3s", "found 503 with `no connection to the database`"]),
        ("r3", "exits", ["it ended: exit status 3", "the database is not to be found"]),
        ("r4", "falls-ill", ["it was ready for", "did not stay so for 0.8s"]),
        ("r5", "ends", ["it ended: exit status 9", "out of memory"]),
    ] {
        world.edit("stay: 300ms", "stay: 800ms");
        world.pack(release, behavior);
        let failed = world.deploy(release);
        failed.assert_exit(1).assert_contains("error[P0301]");
        for told in told {
            failed.assert_contains(told);
        }
        assert_eq!((world.answer().as_str(), world.units()), ("r1 cor", running(&["a"])), "{behavior}");
        assert_eq!(world.programs(), 1, "{behavior}: only r1 runs");
        world.run("test ! -e /srv/shop/slots/b/slot.json");
        world.edit("stay: 800ms", "stay: 300ms");
    }
    for (from, to, told) in [
        ("command: \"/usr/bin/python3", "command: \"/usr/bin/no-such-program", "no-such-program: not found"),
        ("user: www-data", "user: nobody-knows", "nobody-knows"),
        ("service: { ", "service: { RootDirectory: /nowhere, ", "it can't be started: systemd can't"),
    ] {
        world.edit(from, to);
        world.pack("r6", "works");
        world.deploy("r6").assert_exit(1).assert_contains(told);
        assert_eq!((world.answer().as_str(), world.units()), ("r1 cor", running(&["a"])), "{to}");
        world.edit(to, from);
    }
    world.deploy("r6").assert_exit(0);
    assert_eq!(world.answer(), "r6 cor");
}

/// With ports: another program has the one of the new release. First it answers beforehand, then only once the release was started.
#[test]
fn taken_port_leaves_nothing() {
    let world = world();
    for (from, to) in [
        ("{slot-dir}/sock", "{port}"),
        ("units: units", "units: units\n      slots: { a: { port: 8001 }, b: { port: 8002 } }"),
        ("unix://{slot}/health", "http://127.0.0.1:{port}/health"),
        ("      sockets:\n", "      http: [\"http://127.0.0.1:8001\", \"http://127.0.0.1:8002\"]\n      sockets:\n"),
    ] {
        world.edit(from, to);
    }
    world.run(
        "sed -i 's#unix:/srv/shop/slots/a/sock#127.0.0.1:8001#; s#unix:/srv/shop/slots/b/sock#127.0.0.1:8002#' /var/nginx.conf\n\
         nginx -c /var/nginx.conf -s reload",
    );
    world.deploy("r1").assert_exit(0);
    world.pack("r2", "works");
    world.machine.write(MachineUser::Root, "/var/squatter.py", SQUATTER.as_bytes());
    for (file, told) in [
        ("/var", ["error[P0324]", "something already listens at http://127.0.0.1:8002/health", "`ss -ltnp`"]),
        ("/srv/shop/slots/b/slot.json", ["error[P0301]", "it ended: exit status 1", "Address already in use"]),
    ] {
        world.run(&format!(
            "systemd-run --quiet --unit=squatter /usr/bin/python3 /var/squatter.py 8002 {file}\n\
             until ss -ltn | grep -q :8002; do sleep 0.01; done"
        ));
        let failed = world.deploy("r2");
        failed.assert_exit(1);
        for told in told {
            failed.assert_contains(told);
        }
        assert_eq!((world.answer().as_str(), world.units()), ("r1 cor", running(&["a"])), "{file}");
        world.run("test ! -e /srv/shop/slots/b/slot.json");
        world.run("systemctl stop squatter");
        assert_eq!(world.programs(), 1, "only r1 runs");
    }
    world.deploy("r2").assert_exit(0);
    assert_eq!(world.answer(), "r2 cor");
}

#[test]
fn what_can_be_known_is_found_in_the_rehearsal() {
    let world = world();
    world.deploy("r1").assert_exit(0);
    world.pack("r2", "works");
    let refused = |told: &str| {
        world.deploy("r2").assert_exit(1).assert_contains("error[P0324]").assert_contains(told);
        assert_eq!(world.answer(), "r1 cor");
    };
    world.run("echo '[Unit]' >/etc/systemd/system/shop-default-b.service");
    refused("`app/slots/b/slot.json` does not, so this step did not write it");
    world.run("rm /etc/systemd/system/shop-default-b.service");
    world.edit("\"/usr/bin/python3 {release-dir}/serve.py", "\"{release-dir}/bin/serve");
    refused("bin/serve does not exist");
    world.edit("\"{release-dir}/bin/serve", "\"/usr/bin/python3 {release-dir}/serve.py");
    world.edit("MemoryMax: 512M", "User: root");
    refused("`service` can't set `User`: the step sets it");
    world.edit("User: root", "MemoryMax: 512M");
    // A systemd of a user who has none.
    world.edit("units: units", "units: units\n      systemctl: [/usr/bin/systemctl, --user]");
    refused("systemd does not answer");
    world.edit("units: units\n      systemctl: [/usr/bin/systemctl, --user]", "units: units");
    world.deploy("r2").assert_exit(0);
    assert_eq!(world.answer(), "r2 cor");
}

#[test]
fn hook_of_the_page_stops_the_old_service() {
    let world = world();
    world.plan(&(fenced_block(PAGE, "version: 1") + &fenced_block(PAGE, "hooks:")));
    world.deploy("r1").assert_exit(0);
    world.pack("r2", "works");
    world.deploy("r2").assert_exit(0);
    assert_eq!((world.answer().as_str(), world.units()), ("r2 cor", running(&["b"])));
    world.say("runner rollback --local").assert_exit(0);
    assert_eq!((world.answer().as_str(), world.units()), ("r1 cor", running(&["a"])));
}

/// The undo reaches back to the first step that exposes anything, so the start comes after one here.
#[test]
fn undo_of_the_start_stops_the_service() {
    let world = world();
    world.deploy("r1").assert_exit(0);
    let first = "  expose:\n    uses: switch\n    with: { link: current, to: \"${{ steps.pull.path }}\" }\n    grants: { dirs: [app] }\n";
    world.edit("  start:\n", &format!("{first}  start:\n"));
    world.deploy("r1").assert_exit(0);
    world.edit("contains: \"${{ release }}\" }] }", "contains: r1 }], tries: 1 }");
    world.pack("r2", "works");
    world.deploy("r2").assert_exit(4);
    assert_eq!((world.answer().as_str(), world.units()), ("r1 cor", running(&["a"])));
}

#[test]
fn killed_deployment_is_finished_by_the_next() {
    let world = world();
    world.deploy("r1").assert_exit(0);
    for (release, moment) in [("r2", "0.15"), ("r3", "0.4"), ("r4", "0.7"), ("r5", "1.0")] {
        world.pack(release, "works");
        world.say(&format!("timeout --signal=KILL {moment} runner --local --release {release} || true")).assert_exit(0);
        world.deploy(release).assert_exit(0);
        assert_eq!((world.answer(), world.units()), (format!("{release} cor"), running(&["a", "b"])));
    }
}

#[test]
fn output_goes_to_the_journal() {
    let world = world();
    world.run("systemctl start systemd-journald");
    world.edit("units: units", "units: units\n      journal: [/usr/bin/journalctl]");
    world.edit("[/usr/bin/systemctl, \"**\"]", "[/usr/bin/systemctl, \"**\"], [/usr/bin/journalctl, \"**\"]");
    world.pack("r1", "exits");
    let failed = world.deploy("r1");
    failed.assert_exit(1).assert_contains("it ended: exit status 3").assert_contains("the database is not to be found");
    world.run("test ! -e /srv/shop/slots/a.log");
    assert_eq!(world.units(), running(&[]));
}

#[test]
fn commands_of_the_page_run_the_step_alone() {
    let world = world();
    let commands = fenced_block(PAGE, "runner step systemd");
    let commands = commands.replace("{port}\"]}", "{port}\"], \"every\": \"50ms\", \"stay\": \"100ms\"}");
    world.run("mkdir -p /srv/shop");
    world.say(&commands).assert_exit(0);
    let units = world.run("systemctl list-units --plain --no-legend --full 'step-*'");
    assert!(units.starts_with("step-systemd-default-a.service loaded active running"), "{units}");
    world.run("curl -sf http://127.0.0.1:8001/slots/a/slot.json | grep -q '\"state\":\"ready\"'");
    let pid = || world.run("systemctl show --property=MainPID step-systemd-default-a");
    let before = pid();
    world.say(&commands).assert_exit(0);
    assert_eq!(pid(), before, "it held");
}

/// A user's own systemd, by the lines of the page.
#[test]
fn service_starts_without_root() {
    let world = world();
    world.run("id deploy >/dev/null 2>&1 || useradd --create-home --shell /bin/sh deploy");
    let id = world.run("id -u deploy").trim().to_owned();
    // As logind would.
    world.run(&format!(
        "install -d -o deploy -m 700 /run/user/{id}; install -d -o deploy /srv/shop; chown -R deploy /var/shop\n\
         systemd-run --quiet --uid=deploy --property=Delegate=yes --setenv=XDG_RUNTIME_DIR=/run/user/{id} \
         --setenv=HOME=\"$(getent passwd deploy | cut -d: -f6)\" /lib/systemd/systemd --user\n\
         until test -S /run/user/{id}/systemd/private; do sleep 0.01; done"
    ));
    let lines = fenced_block(PAGE, "with:\n  systemctl:").replace("/run/user/1000", &format!("/run/user/{id}"));
    let line = |begin: &str| lines.lines().find(|line| line.trim_start().starts_with(begin)).unwrap().trim().to_owned();
    world.edit("units: units", &format!("units: units\n      {}", line("systemctl:")));
    world.edit("        user: www-data\n", "");
    world.edit(
        "service: { ",
        &format!("service: {{ {}, ", line("service:").trim_start_matches("service: { ").trim_end_matches(" }")),
    );
    world.edit("renders: { units: /etc/systemd/system }", &line("renders:"));
    world.edit("programs: [[/usr/bin/systemctl, \"**\"]]", &format!("{}\n      {}", line("programs:"), line("env:")));
    let script = "cd /var/shop; export DB_PASSWORD=correct-horse-battery; runner --local --release r1";
    let (code, text) = world.machine.run_with_one_stream(MachineUser::Deploy, script);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(world.answer(), "r1 cor");
    let owner = world.run("stat -c %U /srv/shop/slots/a/sock");
    assert_eq!((owner.trim(), world.units()), ("deploy", running(&[])));
}

/// The machine is its own host: a runner reaches it by ssh, and sends it an agent.
#[test]
fn service_starts_on_a_host_by_its_agent() {
    let world = world();
    world.plan(&plan_on_host(&fenced_block(PAGE, "version: 1"), "ssh://127.0.0.1:2222"));
    world.run(
        "mkdir -p /run/sshd\ncd /var/shop\nfor key in host-key user-key; do ssh-keygen -q -t ed25519 -N '' -f $key; done\n\
         printf '%s\\n' 'ListenAddress 127.0.0.1' 'Port 2222' 'HostKey /var/shop/host-key' 'PermitRootLogin yes' 'StrictModes no' \
         'AuthorizedKeysFile /var/shop/user-key.pub' 'UsePAM no' >sshd_config\n\
         echo \"[127.0.0.1]:2222 $(cut -d' ' -f1,2 host-key.pub)\" >known_hosts\n\
         printf '%s\\n' 'IdentityFile /var/shop/user-key' 'UserKnownHostsFile /var/shop/known_hosts' >ssh_config\n\
         systemd-run --quiet /usr/sbin/sshd -D -f /var/shop/sshd_config\n\
         until ss -ltn | grep -q :2222; do sleep 0.01; done",
    );
    let running = |slots: &[&str]| {
        let (units, files) = running(slots);
        let of_prod = |names: Vec<String>| names.iter().map(|name| name.replace("default", "prod")).collect::<Vec<_>>();
        (of_prod(units), of_prod(files))
    };
    for (release, behavior, exit, answer, slots) in [
        ("r1", "works", 0, "r1 cor", &["a"][..]),
        ("r2", "works", 0, "r2 cor", &["a", "b"]),
        ("r3", "exits", 1, "r2 cor", &["b"]),
    ] {
        world.pack(release, behavior);
        let said = world.deploy(release);
        said.assert_exit(exit);
        assert_eq!((world.answer().as_str(), world.units()), (answer, running(slots)), "{}", said.text);
    }
}
