//! Secrets on hosts: the granted program gets them, and nothing else there has them, in any form, while it runs or later.

use std::{fs, path::Path};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE},
};

use crate::support::{SshHost, TestEnvironment, wait_until, write_ssh_config};

/// With what is escaped in URLs, JSON and shells.
const SECRET: &str = "host/hunter2+\"correct\" horse";
/// A secret of several lines is masked line by line.
const KEY: &str = "first-line-of-the-key\nsecond-line-of-the-key";

/// The forms that a secret is masked in.
fn forms() -> Vec<String> {
    let of_text = |text: &str| {
        let json = serde_json::to_string(text).unwrap();
        let url: String = text
            .bytes()
            .map(|byte| match byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                true => char::from(byte).to_string(),
                false => format!("%{byte:02X}"),
            })
            .collect();
        let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
        let base64 = [STANDARD.encode(text), URL_SAFE.encode(text)];
        let base64 = base64.map(|form| form.trim_end_matches('=').to_owned());
        let plain = [text.to_owned(), json.trim_matches('"').to_owned(), url, hex.to_uppercase(), hex];
        plain.into_iter().chain(base64).collect::<Vec<_>>()
    };
    [SECRET].into_iter().chain(KEY.lines()).flat_map(of_text).collect()
}

fn found_in<'f>(content: &[u8], forms: &'f [String]) -> Option<&'f str> {
    let is_in = |form: &&String| content.windows(form.len()).any(|window| window == form.as_bytes());
    forms.iter().find(is_in).map(String::as_str)
}

/// The first file below a folder that has a form of a secret.
fn file_with_secret(folder: &Path, forms: &[String]) -> Option<String> {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        let found = if kind.is_dir() {
            file_with_secret(&path, forms)
        } else if kind.is_file() && entry.metadata().unwrap().len() < 8 << 20 {
            // The binary is no place that anything is written to.
            let content = fs::read(&path).unwrap_or_default();
            found_in(&content, forms).map(|form| format!("{form} is in {}", path.display()))
        } else {
            found_in(path.as_os_str().as_encoded_bytes(), forms).map(str::to_owned)
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

/// The first process besides one that shows a form of a secret in its arguments or its environment.
fn process_with_secret(but: u32, forms: &[String]) -> Option<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids.filter(|pid| *pid != but) {
        for file in ["cmdline", "environ"] {
            // One that has ended shows nothing.
            let content = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            if let Some(form) = found_in(&content, forms) {
                let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                return Some(format!("{form} is in {file} of process {pid}, {name}"));
            }
        }
    }
    None
}

/// `show` prints its secrets in all forms, and waits until somebody writes to `go`. Then it fails, since its message is recorded too.
fn plan(host: &SshHost) -> String {
    format!(
        r#"version: 1
app: shop
environments:
  test:
    ssh: {{ config: ./ssh_config }}
    secrets: {{ TOKEN: env:TOKEN, KEY: env:KEY }}
    hosts: {{ web: [{{ at: "{}", name: web-1 }}] }}
steps:
  show:
    on: web
    program: [/bin/sh, show.sh]
    trust: host
    with: {{ dir: app }}
    grants:
      dirs: {{ app: {} }}
      env: {{ TOKEN: "${{{{ secrets.TOKEN }}}}", AUTH: "Bearer ${{{{ secrets.TOKEN }}}}", KEY: "${{{{ secrets.KEY }}}}" }}
"#,
        host.address(),
        host.path("srv").display()
    )
}

const SHOW: &str = r#"
printf '%s\n' "$TOKEN" "$AUTH" "$KEY"
printf %s "$TOKEN" | base64
printf %s "$KEY" | base64 -w0
printf %s "$TOKEN" | od -An -tx1 | tr -d ' \n'
printf '%s\n' "$TOKEN" "$KEY" >&2
mkfifo go
echo $$ > pid
read line < go
printf 'it is %s' "$TOKEN" >&2
exit 1
"#;

#[test]
fn nothing_on_a_host_but_the_granted_program_has_its_secrets() {
    let host = SshHost::new();
    let mut environment = TestEnvironment::with_plan(&plan(&host));
    environment.set_variable("TOKEN", SECRET);
    environment.set_variable("KEY", KEY);
    write_ssh_config(&environment.path(""), &[&host]);
    fs::create_dir(host.path("srv")).unwrap();
    fs::write(host.path("srv/show.sh"), SHOW).unwrap();
    let forms = forms();

    let run = environment.start_with_stderr(&["--local", "--release", "r1"]);
    let pid = || fs::read_to_string(host.path("srv/pid")).ok()?.trim().parse::<u32>().ok();
    wait_until("the program runs", || pid().is_some());
    let program = pid().unwrap();
    let own = fs::read(format!("/proc/{program}/environ")).unwrap();
    assert!(found_in(&own, &forms).is_some(), "the program has its secrets");
    assert!(host.agents().len() > 1, "the agent and the program's guard run");
    assert_eq!(process_with_secret(program, &forms), None);
    assert_eq!(file_with_secret(host.path("").as_path(), &forms), None);

    fs::write(host.path("srv/go"), "\n").unwrap();
    let failed = environment.output_of(run);
    failed.assert_exit(1).assert_stderr_contains("it is ***");
    assert_eq!(found_in(failed.stderr.as_bytes(), &forms), None, "{}", failed.stderr);
    wait_until("the agent has ended", || host.agents().is_empty());
    assert_eq!(file_with_secret(host.path("").as_path(), &forms), None);
    assert_eq!(file_with_secret(&environment.path(".pawl"), &forms), None);
    let logs = environment.run(&["logs"]).stdout;
    assert!(logs.contains("Bearer ***"), "what the program said is on record: {logs}");
}
