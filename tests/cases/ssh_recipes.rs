//! What docs/hosts.md says of ssh, on real sshds: a jump host, certificates, and the keys of a CI job.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use crate::support::{RunnerOutput, SshHost, TestEnvironment, doc_blocks::fenced_block, make_key, write_ssh_config};

const PAGE: &str = "docs/hosts.md";

/// A plan for a host that is called as on the page.
fn environment(hosts: &[&SshHost], ssh: &str) -> TestEnvironment {
    let environment = TestEnvironment::with_plan(&format!(
        "version: 1\napp: shop\nenvironments: {{ test: {{ ssh: {{ {ssh} }}, hosts: {{ web: [10.0.0.7] }} }} }}\n\
         steps: {{ verify: {{ on: web, with: {{ files: [{{ path: VERSION }}] }}, grants: {{ dirs: {{ app: \"/srv/shop:ro\" }} }} }} }}\n"
    ));
    write_ssh_config(&environment.path(""), hosts);
    environment
}

/// Where the names of the page lead to here.
fn names(hosts: &[(&str, &SshHost)]) -> String {
    let name = |(name, host): &(&str, &SshHost)| format!("Host {name}\n  HostName 127.0.0.1\n  Port {}\n", host.port());
    hosts.iter().map(name).collect()
}

fn survey(environment: &TestEnvironment) -> RunnerOutput {
    environment.run(&["hosts", "--json"])
}

fn user_of(survey: &RunnerOutput) -> String {
    survey.assert_exit(0);
    survey.json()["hosts"][0]["user"].as_str().unwrap().to_owned()
}

fn shell(folder: &Path, script: &str) {
    let status = Command::new("sh").args(["-euc", script]).current_dir(folder).stdout(Stdio::null()).status();
    assert!(status.unwrap().success(), "{script}");
}

#[test]
fn jump_host_of_the_page_leads_to_the_hosts_behind_it() {
    let (jump, host) = (SshHost::with_users("", &[]), SshHost::with_users("", &[]));
    let environment = environment(&[&jump, &host], "config: ./ssh_config");
    let behind = fenced_block(PAGE, "ProxyJump");
    let here = names(&[("jump.example.com", &jump), ("10.0.0.7", &host)]);
    // Keys and known hosts are those of the test.
    environment.write("ssh_config", format!("{behind}{here}Host *\n{}", environment.read("ssh_config")));
    assert_eq!(user_of(&survey(&environment)), "deploy");
    let jumped = jump.read("sshd.log");
    assert!(jumped.contains("Accepted publickey for deploy"), "{jumped}");
    // Without its key in `UserKnownHostsFile`, the jump host is not trusted.
    environment.write("known_hosts", host.known_key());
    let refused = survey(&environment);
    refused.assert_exit(1);
    refused.assert_stderr_contains("error[P0261]: the key of the jump host");
}

#[test]
fn certificates_of_the_page_need_no_list_of_keys_on_either_side() {
    let ca = tempfile::tempdir().unwrap();
    let (users, hosts) = (ca.path().join("user-ca"), ca.path().join("host-ca"));
    [&users, &hosts].into_iter().for_each(|key| make_key(key));
    let options = fenced_block(PAGE, "TrustedUserCAKeys");
    let options = options.replace("/etc/ssh/user-ca.pub", &users.with_extension("pub").display().to_string());
    let certificate = ca.path().join("host-key-cert.pub");
    let options = options.replace("/etc/ssh/ssh_host_ed25519_key-cert.pub", &certificate.display().to_string());
    let host = SshHost::with_signed_key(&options, |key| {
        let sign = fenced_block(PAGE, "ssh-keygen -q -s host-ca");
        fs::copy(key.with_extension("pub"), ca.path().join("ssh_host_ed25519_key.pub")).unwrap();
        shell(ca.path(), &sign.replace("/etc/ssh/", ""));
        fs::rename(ca.path().join("ssh_host_ed25519_key-cert.pub"), &certificate).unwrap();
    });
    let environment = environment(&[&host], "config: ./ssh_config, known-hosts: ./known_hosts");
    // A key that nobody knows, made and signed as the job on the page does.
    let job = fenced_block(PAGE, "ssh-keygen -q -s user-ca");
    fs::copy(&users, environment.path("user-ca")).unwrap();
    shell(&environment.path(""), &job.replace("-n deploy", &format!("-n {}", whoami())));
    environment.write(
        "ssh_config",
        format!(
            "{}  HostKeyAlias 10.0.0.7\n  IdentitiesOnly yes\n  IdentityFile {}\n",
            names(&[("10.0.0.7", &host)]),
            environment.path("job-key").display()
        ),
    );
    let authority = fenced_block(PAGE, "@cert-authority");
    let public = fs::read_to_string(hosts.with_extension("pub")).unwrap();
    let (pattern, _) = authority.split_once(" ssh-ed25519").unwrap();
    environment.write("known_hosts", format!("{pattern} {public}"));
    assert_eq!(user_of(&survey(&environment)), whoami());
    assert!(host.read("sshd.log").contains("CA ED25519"), "{}", host.read("sshd.log"));
    // A certificate that has expired opens nothing.
    shell(&environment.path(""), &format!("ssh-keygen -q -s user-ca -I job -n {} -V -2h:-1h job-key.pub", whoami()));
    let refused = survey(&environment);
    refused.assert_exit(1);
    refused.assert_stderr_contains("P0262");
}

#[test]
fn job_of_the_page_keeps_its_key_in_an_agent() {
    let host = SshHost::new();
    let mut environment = environment(&[&host], "config: ./ssh_config");
    let known = format!("UserKnownHostsFile {}\n", environment.path("known_hosts").display());
    environment.write("ssh_config", format!("{}Host *\n{known}", names(&[("10.0.0.7", &host)])));
    let key = host.read("user-key");
    environment.set_variable("DEPLOY_KEY", key.trim_end());
    let job = fenced_block(PAGE, "ssh-add");
    assert!(job.contains("\nrunner --release"), "{job}");
    let (before, _) = job.split_once("\nrunner --release").unwrap();
    // The agent ends with the job.
    let script = format!("{{\n{before}\n}} >/dev/null\ntrap 'ssh-agent -k >/dev/null' EXIT\n\"$0\" hosts --json\n");
    let output = environment.run_script(&script);
    assert_eq!(user_of(&output), whoami());
    assert!(!environment.list("").iter().any(|name| name.contains("DEPLOY_KEY")));
}

fn whoami() -> String {
    let output = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
