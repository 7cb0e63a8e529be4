//! The pages of docs/errors about the artifacts of a CI run; the others are in `tests/cases/error_pages`.

use super::{
    forged::forge_checkpoint,
    freshness::ReplayedRun,
    long_history::machine_with_damaged_base,
    resume::{
        KEY, artifact_after_post, ci_machine, configure_ci, failed_first_attempt, fresh_machine,
        machine_with_deployment, run_attempt, unzip_files,
    },
};
use crate::{
    artifact_service::{FakeArtifactService, FakeServiceCall, InjectedFault},
    support::{
        TestEnvironment,
        doc_blocks::{check_error_page, command_line, exit_code},
    },
};

const DEPLOY: &[&str] = &["--local", "--release", "r1"];

/// The page shows the error of an attempt, which is on standard output in a job.
#[track_caller]
fn check_page(code: &str, machine: &mut TestEnvironment, attempt: u32) {
    machine.set_variable("GITHUB_RUN_ATTEMPT", &attempt.to_string());
    check_page_of(code, machine);
}

#[track_caller]
fn check_page_of(code: &str, machine: &TestEnvironment) {
    let output = machine.run(DEPLOY);
    output.assert_exit(exit_code(code));
    check_error_page(code, None, &job_errors(&output.stdout), &machine.shown_paths());
}

/// The errors that a GitHub job shows as annotations, in the form that a terminal shows.
fn job_errors(stdout: &str) -> String {
    let shown = stdout.lines().filter_map(|line| line.strip_prefix("::error ")?.split_once("::"));
    let rendered = shown.filter_map(|(properties, message)| {
        let (_, code) = properties.rsplit_once("title=Pawl ")?;
        let message = message.replace("%0A", "\n").replace("%0D", "\r").replace("%25", "%");
        let (first, rest) = message.split_once('\n').unwrap_or((&message, ""));
        let rest = rest.lines().map(|line| match line.strip_prefix("hint: ") {
            Some(hint) => format!("  hint: {hint}\n"),
            None => format!("  caused by: {line}\n"),
        });
        Some(format!("error[{code}]: {first}\n{}", rest.collect::<String>()))
    });
    rendered.collect()
}

/// A second attempt on a new machine, after a failed first one.
fn second_machine(service: &FakeArtifactService) -> TestEnvironment {
    let first = failed_first_attempt(service, None);
    artifact_after_post(&first, service);
    fresh_machine(&first)
}

#[test]
fn p0226_older_journal_in_place_of_the_newest() {
    let (run, _) = ReplayedRun::new(true, |_| {});
    run.replay();
    check_page("P0226", &mut run.next_machine(), 3);
}

#[test]
fn p0611_damaged_snapshot_before_the_first_journal() {
    let mut machine = machine_with_damaged_base(&FakeArtifactService::start());
    machine.set_variable("GITHUB_ACTIONS", "false");
    let output = machine.run(&["status"]);
    output.assert_exit(exit_code("P0611"));
    check_error_page("P0611", Some(&command_line(&["status"])), &output.stderr, &machine.shown_paths());
}

#[test]
fn p0240_two_jobs_with_one_identity() {
    let service = FakeArtifactService::start();
    let contents = [1, 2].map(|_| {
        let service = FakeArtifactService::start();
        let first = failed_first_attempt(&service, Some(KEY));
        (service.content(&artifact_after_post(&first, &service)), first)
    });
    // Under names that the page shows; the other job has the same number of lines.
    for ((content, _), nonce) in contents.iter().zip(["0f3c", "7b1a"]) {
        let lines = checkpoint_lines(content);
        service.add_artifact(&format!("pawl-shop-test-deploy-a01-s{lines:04}-{nonce}"), content);
    }
    let mut machine = fresh_machine(&contents[0].1);
    configure_ci(&mut machine, &service);
    check_page("P0240", &mut machine, 2);
}

#[test]
fn p0241_dropped_key() {
    let service = FakeArtifactService::start();
    let first = failed_first_attempt(&service, Some(KEY));
    let content = service.content(&artifact_after_post(&first, &service));
    let service = FakeArtifactService::start();
    service.add_artifact(&format!("pawl-shop-test-deploy-a01-s{:04}-0f3c", checkpoint_lines(&content)), &content);
    let mut machine = fresh_machine(&first);
    configure_ci(&mut machine, &service);
    machine.set_variable("PAWL_KEY", "");
    check_page("P0241", &mut machine, 2);
}

#[test]
fn p0242_pull_request_of_a_fork() {
    let service = FakeArtifactService::start();
    let mut machine = ci_machine(&service);
    let head = serde_json::json!({ "repo": { "full_name": "eve/shop" } });
    let event = serde_json::json!({ "repository": { "full_name": "acme/shop" }, "pull_request": { "head": head } });
    machine.write("event.json", event.to_string());
    let path = machine.path("event.json").to_str().unwrap().to_owned();
    machine.set_variable("GITHUB_EVENT_PATH", &path);
    check_page("P0242", &mut machine, 1);
}

/// The lines of all journals in a checkpoint, which its name counts.
fn checkpoint_lines(zip: &[u8]) -> usize {
    let files = unzip_files(zip);
    let journals = files.iter().filter(|(name, _)| name.ends_with(".journal"));
    journals.map(|(_, bytes)| bytes.iter().filter(|byte| **byte == b'\n').count()).sum()
}

#[test]
fn p0406_step_whose_record_is_unconfirmed() {
    let plan = r#"version: 1
app: shop
steps:
  index:
    uses: run
    trust: host
    with: { program: /bin/sh, args: [index.sh], dir: here }
    grants: { dirs: { here: ".:ro" }, programs: [[/bin/sh, index.sh]] }
  warm:
    uses: run
    trust: host
    with: { program: /bin/sh, args: [warm.sh], dir: here, repeatable: true }
    grants: { dirs: { here: ".:ro" }, programs: [[/bin/sh, warm.sh]] }
"#;
    let service = FakeArtifactService::start();
    let mut first = TestEnvironment::with_plan(plan);
    configure_ci(&mut first, &service);
    first.write("index.sh", "exit 0");
    first.write("warm.sh", "exit 1");
    run_attempt(&mut first, 1).assert_exit(1);
    check_page("P0406", &mut machine_with_deployment(&first), 2);
}

#[test]
fn p0510_token_that_is_not_one() {
    let service = FakeArtifactService::start();
    let mut machine = ci_machine(&service);
    machine.set_variable("ACTIONS_RUNTIME_TOKEN", "ghs_not-a-jwt");
    check_page("P0510", &mut machine, 1);
    assert_eq!(service.call_count(FakeServiceCall::List), 0);
    assert!(!machine.exists("deploy/test/current"), "nothing was done");
}

#[test]
fn p0511_rejected_token() {
    let service = FakeArtifactService::start();
    let mut machine = second_machine(&service);
    service.expire_token();
    machine.set_variable("PAWL_TOKEN", "");
    check_page("P0511", &mut machine, 2);
}

#[test]
fn p0512_unavailable_service() {
    let service = FakeArtifactService::start();
    let mut machine = second_machine(&service);
    machine.set_variable("PAWL_TOKEN", "");
    service.inject_fault(FakeServiceCall::List, .., InjectedFault::RetryAfter(503, 0));
    check_page("P0512", &mut machine, 2);
}

#[test]
fn p0513_refused_request() {
    let service = FakeArtifactService::start();
    let mut machine = second_machine(&service);
    machine.set_variable("PAWL_TOKEN", "");
    service.inject_fault(FakeServiceCall::Content, .., InjectedFault::Status(404));
    check_page("P0513", &mut machine, 2);
}

#[test]
fn p0514_digest_mismatch() {
    let service = FakeArtifactService::start();
    let mut machine = second_machine(&service);
    let name = service.artifact_names().remove(0);
    service.replace_content(&name, b"something else".to_vec());
    check_page("P0514", &mut machine, 2);
}

#[test]
fn p0515_oversized_artifact() {
    let service = FakeArtifactService::start();
    let mut machine = second_machine(&service);
    service.add_artifact("pawl-shop-test-deploy-a01-s9999-large", &vec![0; (64 << 20) + 1]);
    check_page("P0515", &mut machine, 2);
}

#[test]
fn p0520_journal_that_was_not_uploaded() {
    let service = FakeArtifactService::start();
    service.inject_fault(FakeServiceCall::Create, .., InjectedFault::RetryAfter(503, 0));
    check_page("P0520", &mut ci_machine(&service), 1);
}

#[test]
fn p0521_missing_journal() {
    let service = FakeArtifactService::start();
    let mut machine = ci_machine(&service);
    machine.set_variable("PAWL_MISSING_JOURNAL", "fail");
    check_page("P0521", &mut machine, 2);
}

#[test]
fn p0522_journal_without_a_valid_mac() {
    let service = FakeArtifactService::start();
    let first = failed_first_attempt(&service, Some(KEY));
    let content = service.content(&artifact_after_post(&first, &service));
    let service = FakeArtifactService::start();
    service.add_artifact(&format!("pawl-shop-test-deploy-a01-s{:04}-0f3c", checkpoint_lines(&content)), &content);
    let mut machine = fresh_machine(&first);
    configure_ci(&mut machine, &service);
    machine.set_variable("PAWL_KEY", "another key");
    check_page("P0522", &mut machine, 2);
}

#[test]
fn p0523_journal_of_another_plan() {
    let service = FakeArtifactService::start();
    let first = failed_first_attempt(&service, None);
    let content = service.content(&artifact_after_post(&first, &service));
    let other = |manifest: &mut serde_json::Value| manifest["plan"] = "deploy/prod.yml".into();
    let service = FakeArtifactService::start();
    service.add_artifact("pawl-shop-test-deploy-a01-s0017-0f3c", &forge_checkpoint(&content, |_| Some(()), other));
    let mut machine = fresh_machine(&first);
    configure_ci(&mut machine, &service);
    check_page("P0523", &mut machine, 2);
}

#[test]
fn p0526_invalid_variable_of_the_job() {
    let service = FakeArtifactService::start();
    let mut machine = ci_machine(&service);
    machine.set_variable("GITHUB_RUN_ATTEMPT", "second");
    check_page_of("P0526", &machine);
    machine.set_variable("GITHUB_RUN_ATTEMPT", "1");
    machine.set_variable("GITHUB_JOB", "deploy/eu");
    let output = machine.run(DEPLOY);
    output.assert_exit(exit_code("P0526"));
    assert!(output.stdout.contains("GITHUB_JOB of this CI job is invalid"), "{}", output.stdout);
}
