//! The page of `runner init --template python`: from an empty folder to two releases in two slots, under requests all the time.

use serde_json::Value;

use super::{FollowedRecipe, check_session, steady, wheels};
use crate::{
    machine::{MachineUser, TestMachine, installed_tools},
    page::RecipePage,
};

/// Asks for the release without a pause, over connections that are kept, until the file `stop` is there.
const VISITOR: &str = r#"
import http.client, json, os
count, failures, releases = 0, [], []
connection = http.client.HTTPConnection("127.0.0.1", 8080, timeout=10)
while not os.path.exists("/tmp/stop"):
    try:
        connection.request("GET", "/health")
        answer = connection.getresponse()
        body = answer.read().decode()
        count += 1
        release = json.loads(body)["release"]
        if not releases or releases[-1] != release:
            releases.append(release)
    except Exception as error:
        failures.append(repr(error))
        connection.close()
with open("/tmp/visits.new", "w") as file:
    json.dump({"count": count, "failures": failures, "releases": releases}, file)
os.rename("/tmp/visits.new", "/tmp/visits")
"#;

impl FollowedRecipe {
    /// The process of the application that serves a slot.
    fn process_of(&self, slot: &str) -> String {
        let script = format!("supervisorctl status | sed -n 's/^shop-default-{slot}.*pid \\([0-9]*\\),.*/\\1/p'");
        self.machine.run(MachineUser::Root, &script)
    }

    fn answer(&self) -> String {
        self.machine.run(MachineUser::Deploy, &format!("curl --silent --fail {}", self.page.url()))
    }
}

/// An output without the lines of pip, whose versions differ in their words, and without the digests of what pip has built. A program that
/// ends at once has ended for supervisord, or could not be started: it depends on when it is asked.
fn stable(output: &str) -> String {
    const PROGRAM: &str = "shop-default-";
    const DIGEST: &str = "0123456789ab";
    let lines = output.split_inclusive('\n').filter(|line| !line.starts_with("  out    venv "));
    let text: String = lines.collect();
    let mut text = text.replace("it can't be started: Bad exit code 1", "it ended: exit status 1");
    let starts: Vec<usize> = text.match_indices(PROGRAM).map(|(at, _)| at + PROGRAM.len() + "a-".len()).collect();
    for start in starts {
        text.replace_range(start..start + DIGEST.len(), DIGEST);
    }
    text
}

#[test]
fn python_template_switches_slots_without_a_lost_request() {
    let server = installed_tools().join("pypiserver/bin/pypi-server").display().to_string();
    let prepare = |machine: &TestMachine| {
        machine.run(MachineUser::Root, &format!("test -x {server}\nln -s {server} /usr/local/bin/pypi-server"));
        // What pypiserver would look up at PyPI.
        for (name, content) in wheels() {
            machine.write(MachineUser::Root, &format!("/srv/pypi/{name}"), &content);
        }
    };
    let recipe = FollowedRecipe::new(RecipePage::read("python-slots", &[]), prepare, "", &[]);
    assert_eq!(recipe.answer(), "Hello from release 1.0\n");
    recipe.machine.write(MachineUser::Root, "/tmp/visitor.py", VISITOR.as_bytes());
    recipe.machine.run(MachineUser::Root, "systemd-run --quiet --unit=visitor python3 /tmp/visitor.py");
    let first = recipe.process_of("a");
    assert!(!first.is_empty());
    recipe.deploy("sh build.sh 2.0");
    let deployed = recipe.session(&["--local", "--release", "2.0"], 0);
    assert_eq!(recipe.answer(), "Hello from release 2.0\n");
    let rolled_back = recipe.session(&["rollback", "--local"], 0);
    // Nothing was started for it.
    assert_eq!((recipe.answer().as_str(), recipe.process_of("a")), ("Hello from release 1.0\n", first));
    recipe.deploy("echo 'raise SystemExit(\"no database\")' >>wsgi.py\nsh build.sh 3.0");
    let failed = recipe.session(&["--local", "--release", "3.0"], 1);
    assert!(failed.contains("no database"), "{failed}");
    assert_eq!(recipe.answer(), "Hello from release 1.0\n");
    let status = recipe.session(&["status"], 0);
    let visits = recipe
        .machine
        .run(MachineUser::Root, "touch /tmp/stop\nuntil [ -e /tmp/visits ]; do sleep 0.05; done\ncat /tmp/visits");
    let visits: Value = serde_json::from_str(&visits).unwrap();
    let told = (visits["failures"].as_array().unwrap().len(), visits["releases"].to_string());
    assert_eq!(told, (0, r#"["1.0","2.0","1.0"]"#.to_owned()), "{visits}");
    let host = recipe.machine.run(MachineUser::Root, "uname -n");
    let outputs: Vec<String> = recipe.sessions.iter().cloned().chain([deployed, rolled_back, failed, status]).collect();
    let outputs: Vec<String> = outputs.iter().map(|output| stable(&steady(output))).collect();
    check_session(&recipe.page.path, &outputs, &[(format!("@{}", host.trim()), "@shop")]);
}
