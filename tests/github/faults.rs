//! What goes wrong with the service: each fault with its outcome, and with how often was asked.

use std::time::{Duration, Instant};

use bytes::Bytes;
use contract::{
    Secret,
    diagnostic::{Diagnostic, ExitKind},
};
use state::artifacts::{ArtifactAccess, ArtifactError, ArtifactInfo, ArtifactStore, CallLimits};

use super::artifacts::{ArtifactApis, FAST_RETRIES, access, artifact_names, block_on, client, pseudo_random_bytes};
use crate::{
    artifact_service::{FakeArtifactService, FakeServiceCall, InjectedFault, REST_TOKEN, SIGNATURE, runtime_token},
    support::free_port,
};

/// The code and the exit code; fails when a secret is in any form of the error.
#[track_caller]
fn code_and_exit(error: &ArtifactError) -> (&'static str, ExitKind) {
    let diagnostic = Diagnostic::from(error);
    let shown = format!("{error} {error:?} {diagnostic:?}");
    for secret in [runtime_token().as_str(), REST_TOKEN, SIGNATURE, "sig="] {
        assert!(!shown.contains(secret), "{shown}");
    }
    assert!(!diagnostic.causes.is_empty() && diagnostic.causes.iter().all(|cause| !cause.is_empty()), "{shown}");
    (diagnostic.code.as_str(), diagnostic.exit)
}

fn call_counts<const N: usize>(service: &FakeArtifactService, calls: [FakeServiceCall; N]) -> [usize; N] {
    calls.map(|call| service.call_count(call))
}

fn upload_artifact(client: &ArtifactStore, content: &Bytes) -> Result<ArtifactInfo, ArtifactError> {
    block_on(client.upload("pawl-a01", content.clone()))
}

#[test]
fn transient_errors_are_retried() {
    let content = pseudo_random_bytes(100);
    for status in [429, 500, 502, 503, 504] {
        let service = FakeArtifactService::start();
        let calls = [
            FakeServiceCall::Create,
            FakeServiceCall::Block,
            FakeServiceCall::BlockList,
            FakeServiceCall::List,
            FakeServiceCall::Sign,
            FakeServiceCall::Content,
            FakeServiceCall::Delete,
        ];
        for call in calls {
            service.inject_fault(call, ..2, InjectedFault::Status(status));
        }
        let client = client(&service, ArtifactApis::ServiceOnly);
        let stored = upload_artifact(&client, &content).unwrap();
        block_on(async {
            assert_eq!(artifact_names(&client.list("pawl-").await.unwrap()), [stored.name.as_str()]);
            assert_eq!(client.download(&stored).await.unwrap(), content);
            client.delete(&stored).await.unwrap();
        });
        assert_eq!(call_counts(&service, calls), [3; 7], "{status}");
        assert_eq!(service.call_count(FakeServiceCall::Finalize), 1);
    }
}

#[test]
fn permanent_errors_end_after_five_tries() {
    for (call, mishap) in [
        (FakeServiceCall::Create, InjectedFault::Status(503)),
        (FakeServiceCall::Block, InjectedFault::Status(500)),
        (FakeServiceCall::Block, InjectedFault::CutRequest(10)),
        (FakeServiceCall::BlockList, InjectedFault::Status(429)),
    ] {
        let service = FakeArtifactService::start();
        service.inject_fault(call, .., mishap);
        let error =
            upload_artifact(&client(&service, ArtifactApis::ServiceAndRest), &pseudo_random_bytes(100)).unwrap_err();
        assert_eq!(code_and_exit(&error), ("P0512", ExitKind::InDoubt));
        assert!(matches!(error, ArtifactError::Unavailable { tries: 5, .. }), "{error:?}");
        assert_eq!(
            call_counts(&service, [call, FakeServiceCall::Create]),
            [5, if call == FakeServiceCall::Create { 5 } else { 1 }]
        );
        assert_eq!(service.artifact_names(), [""; 0]);
    }
}

#[test]
fn failed_listing_is_not_an_empty_list() {
    let service = FakeArtifactService::start();
    service.add_artifact("pawl-a01", b"x");
    service.inject_fault(FakeServiceCall::List, .., InjectedFault::Status(500));
    let error = block_on(client(&service, ArtifactApis::ServiceOnly).list("pawl-")).unwrap_err();
    assert_eq!(code_and_exit(&error), ("P0512", ExitKind::InDoubt));
    assert_eq!(service.call_count(FakeServiceCall::List), 5);
    // Half a list is none either.
    (0..150).for_each(|number| service.add_artifact(&format!("pawl-{number}"), b"x"));
    service.inject_fault(FakeServiceCall::RestList, 1.., InjectedFault::Status(404));
    let error = block_on(client(&service, ArtifactApis::ServiceAndRest).list("pawl-")).unwrap_err();
    assert_eq!(code_and_exit(&error), ("P0512", ExitKind::InDoubt));
    assert!(matches!(error, ArtifactError::BothFailed { .. }), "{error:?}");
    assert_eq!(call_counts(&service, [FakeServiceCall::List, FakeServiceCall::RestList]), [10, 2]);
}

#[test]
fn retry_after_is_honored_up_to_a_limit() {
    let service = FakeArtifactService::start();
    service.add_artifact("pawl-a01", b"x");
    service.inject_fault(FakeServiceCall::List, ..1, InjectedFault::RetryAfter(429, 1));
    service.inject_fault(FakeServiceCall::List, 2..3, InjectedFault::RetryAfter(503, 3600));
    let patient = CallLimits { max_delay: Duration::from_secs(5), ..FAST_RETRIES };
    let patient = ArtifactStore::with_limits(access(&service, ArtifactApis::ServiceOnly), patient).unwrap();
    let began = Instant::now();
    assert_eq!(block_on(patient.list("pawl-")).unwrap().len(), 1);
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    let began = Instant::now();
    assert_eq!(block_on(client(&service, ArtifactApis::ServiceOnly).list("pawl-")).unwrap().len(), 1);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(service.call_count(FakeServiceCall::List), 4);
}

#[test]
fn cut_block_is_sent_again() {
    let service = FakeArtifactService::start();
    service.inject_fault(FakeServiceCall::Block, 1..3, InjectedFault::CutRequest(1 << 20));
    let content = pseudo_random_bytes(20 << 20);
    let stored = upload_artifact(&client(&service, ArtifactApis::ServiceOnly), &content).unwrap();
    assert_eq!(service.content(&stored.name), content);
    assert_eq!((service.block_count(&stored.name), service.call_count(FakeServiceCall::Block)), (3, 5));
}

#[test]
fn failed_finalize_makes_the_name_unusable() {
    for mishap in [
        InjectedFault::Status(500),
        InjectedFault::Status(400),
        InjectedFault::StatusWithBody(200, r#"{"ok":false}"#.to_owned()),
    ] {
        let service = FakeArtifactService::start();
        service.inject_fault(FakeServiceCall::Finalize, ..2, mishap);
        let stored = upload_artifact(&client(&service, ArtifactApis::ServiceOnly), &pseudo_random_bytes(100)).unwrap();
        assert_eq!(service.artifact_names(), [stored.name.as_str()]);
        assert_eq!(service.content(&stored.name), pseudo_random_bytes(100));
        // Each time it is looked whether it is there all the same.
        assert_eq!(
            call_counts(&service, [FakeServiceCall::Create, FakeServiceCall::Finalize, FakeServiceCall::List]),
            [3, 3, 2]
        );
    }
}

#[test]
fn repeated_finalize_failure_ends_the_upload() {
    let service = FakeArtifactService::start();
    service.inject_fault(FakeServiceCall::Finalize, .., InjectedFault::Status(500));
    let error = upload_artifact(&client(&service, ArtifactApis::ServiceOnly), &pseudo_random_bytes(100)).unwrap_err();
    assert_eq!(code_and_exit(&error), ("P0512", ExitKind::InDoubt));
    assert_eq!(
        call_counts(&service, [FakeServiceCall::Create, FakeServiceCall::Finalize, FakeServiceCall::List]),
        [5, 5, 5]
    );
}

#[test]
fn finalize_without_a_response_is_looked_up() {
    let service = FakeArtifactService::start();
    service.inject_fault(FakeServiceCall::Finalize, ..1, InjectedFault::LostResponse);
    let client = client(&service, ArtifactApis::ServiceOnly);
    let stored = upload_artifact(&client, &pseudo_random_bytes(100)).unwrap();
    assert_eq!(
        call_counts(&service, [FakeServiceCall::Create, FakeServiceCall::Finalize, FakeServiceCall::List]),
        [1, 1, 1]
    );
    assert_eq!(service.artifact_names(), [stored.name.as_str()]);
    assert_eq!(block_on(client.list("")).unwrap(), [stored]);
}

#[test]
fn finalize_that_never_arrived_is_repeated() {
    let service = FakeArtifactService::start();
    service.inject_fault(FakeServiceCall::Finalize, ..1, InjectedFault::CutRequest(0));
    let stored = upload_artifact(&client(&service, ArtifactApis::ServiceOnly), &pseudo_random_bytes(100)).unwrap();
    assert_eq!(
        call_counts(&service, [FakeServiceCall::Create, FakeServiceCall::Finalize, FakeServiceCall::List]),
        [2, 2, 1]
    );
    assert_eq!(service.artifact_names(), [stored.name.as_str()]);
}

#[test]
fn finalize_is_repeated_after_retry_after() {
    let service = FakeArtifactService::start();
    service.inject_fault(FakeServiceCall::Finalize, ..2, InjectedFault::RetryAfter(429, 0));
    upload_artifact(&client(&service, ArtifactApis::ServiceOnly), &pseudo_random_bytes(100)).unwrap();
    assert_eq!(
        call_counts(&service, [FakeServiceCall::Create, FakeServiceCall::Finalize, FakeServiceCall::List]),
        [1, 3, 0]
    );
}

#[test]
fn taken_name_is_replaced_by_another() {
    let service = FakeArtifactService::start();
    service.inject_fault(FakeServiceCall::Create, ..1, InjectedFault::Status(409));
    upload_artifact(&client(&service, ArtifactApis::ServiceOnly), &pseudo_random_bytes(100)).unwrap();
    assert_eq!(call_counts(&service, [FakeServiceCall::Create, FakeServiceCall::Finalize]), [2, 1]);
    // Its own, of a Create without an answer: that name is begun, and the next is another.
    service.inject_fault(FakeServiceCall::Create, 2..3, InjectedFault::LostResponse);
    let stored = upload_artifact(&client(&service, ArtifactApis::ServiceOnly), &pseudo_random_bytes(100)).unwrap();
    assert_eq!(service.content(&stored.name), pseudo_random_bytes(100));
    assert_eq!(call_counts(&service, [FakeServiceCall::Create, FakeServiceCall::Finalize]), [5, 2]);
    service.inject_fault(FakeServiceCall::Create, 5.., InjectedFault::Status(409));
    let error = upload_artifact(&client(&service, ArtifactApis::ServiceOnly), &pseudo_random_bytes(100)).unwrap_err();
    assert_eq!(code_and_exit(&error), ("P0513", ExitKind::InDoubt));
    assert_eq!(service.call_count(FakeServiceCall::Create), 10);
}

#[test]
fn listed_content_is_downloaded_by_rest_when_the_service_fails() {
    let service = FakeArtifactService::start();
    service.add_artifact("pawl-a01", b"content");
    service.inject_fault(FakeServiceCall::Content, .., InjectedFault::Status(404));
    let calls =
        [FakeServiceCall::Sign, FakeServiceCall::Content, FakeServiceCall::RestZip, FakeServiceCall::RestContent];

    let single = client(&service, ArtifactApis::ServiceOnly);
    let listed = block_on(single.list("pawl-")).unwrap().remove(0);
    let error = block_on(single.download(&listed)).unwrap_err();
    assert_eq!(code_and_exit(&error), ("P0513", ExitKind::InDoubt));
    assert_eq!(call_counts(&service, calls), [1, 1, 0, 0]);

    // The storage refuses whoever shows a token, so it was not forwarded.
    assert_eq!(block_on(client(&service, ArtifactApis::ServiceAndRest).download(&listed)).unwrap(), b"content");
    assert_eq!(call_counts(&service, calls), [2, 2, 1, 1]);

    service.inject_fault(FakeServiceCall::Sign, .., InjectedFault::Status(404));
    service.inject_fault(FakeServiceCall::RestZip, 1..3, InjectedFault::Status(502));
    assert_eq!(block_on(client(&service, ArtifactApis::ServiceAndRest).download(&listed)).unwrap(), b"content");
    assert_eq!(call_counts(&service, calls), [3, 2, 4, 2]);

    service.inject_fault(FakeServiceCall::RestZip, 4.., InjectedFault::Status(410));
    let error = block_on(client(&service, ArtifactApis::ServiceAndRest).download(&listed)).unwrap_err();
    assert_eq!(code_and_exit(&error), ("P0513", ExitKind::InDoubt));
    assert!(Diagnostic::from(&error).causes.iter().any(|cause| cause.contains("410")), "{error:?}");
}

#[test]
fn expired_token_is_reported_without_retry() {
    let service = FakeArtifactService::start();
    service.add_artifact("pawl-a01", b"content");
    service.expire_token();
    let single = client(&service, ArtifactApis::ServiceOnly);
    for error in
        [upload_artifact(&single, &pseudo_random_bytes(100)).unwrap_err(), block_on(single.list("pawl-")).unwrap_err()]
    {
        assert_eq!(code_and_exit(&error), ("P0511", ExitKind::InDoubt));
    }
    assert_eq!(call_counts(&service, [FakeServiceCall::Create, FakeServiceCall::List]), [1, 1]);
    // The other way has another token.
    let both = client(&service, ArtifactApis::ServiceAndRest);
    let listed = block_on(both.list("pawl-")).unwrap().remove(0);
    assert_eq!(block_on(both.download(&listed)).unwrap(), b"content");
    assert_eq!(call_counts(&service, [FakeServiceCall::List, FakeServiceCall::RestList]), [2, 1]);
}

#[test]
fn token_that_expires_before_finalize_uploads_nothing_twice() {
    let service = FakeArtifactService::start();
    service.inject_fault(FakeServiceCall::Finalize, .., InjectedFault::Status(401));
    let error = upload_artifact(&client(&service, ArtifactApis::ServiceOnly), &pseudo_random_bytes(100)).unwrap_err();
    assert_eq!(code_and_exit(&error), ("P0511", ExitKind::InDoubt));
    assert_eq!(
        call_counts(&service, [FakeServiceCall::Create, FakeServiceCall::Finalize, FakeServiceCall::List]),
        [1, 1, 0]
    );
}

#[test]
fn content_that_does_not_match_its_digest_is_rejected() {
    let service = FakeArtifactService::start();
    service.add_artifact("pawl-a01", b"content");
    service.replace_content("pawl-a01", b"CONTENT".to_vec());
    for (ways, asked) in [(ArtifactApis::ServiceOnly, [1, 0]), (ArtifactApis::ServiceAndRest, [2, 1])] {
        let client = client(&service, ways);
        let listed = block_on(client.list("pawl-")).unwrap().remove(0);
        let error = block_on(client.download(&listed)).unwrap_err();
        assert_eq!(code_and_exit(&error), ("P0514", ExitKind::Journal));
        assert_eq!(call_counts(&service, [FakeServiceCall::Content, FakeServiceCall::RestContent]), asked);
    }
}

#[test]
fn oversized_content_is_not_read() {
    let service = FakeArtifactService::start();
    service.add_artifact("pawl-a01", &vec![0; (64 << 20) + 1]);
    let client = client(&service, ArtifactApis::ServiceOnly);
    let listed = block_on(client.list("pawl-")).unwrap().remove(0);
    let error = block_on(client.download(&listed)).unwrap_err();
    assert_eq!(code_and_exit(&error), ("P0515", ExitKind::InDoubt));
    assert_eq!(service.call_count(FakeServiceCall::Content), 1);
}

#[test]
fn cut_download_is_retried() {
    let service = FakeArtifactService::start();
    service.add_artifact("pawl-a01", b"content");
    service.inject_fault(FakeServiceCall::Content, ..3, InjectedFault::LostResponse);
    let client = client(&service, ArtifactApis::ServiceOnly);
    let listed = block_on(client.list("pawl-")).unwrap().remove(0);
    assert_eq!(block_on(client.download(&listed)).unwrap(), b"content");
    assert_eq!(service.call_count(FakeServiceCall::Content), 4);
}

#[test]
fn every_wait_is_bounded() {
    let service = FakeArtifactService::start();
    service.add_artifact("pawl-a01", b"content");
    for call in [
        FakeServiceCall::Create,
        FakeServiceCall::List,
        FakeServiceCall::Sign,
        FakeServiceCall::RestList,
        FakeServiceCall::RestZip,
    ] {
        service.inject_fault(call, .., InjectedFault::NoResponse);
    }
    // Long enough for a request to arrive on a busy machine.
    let limit = Duration::from_millis(150);
    let short = CallLimits { call_timeout: limit, transfer_timeout: limit, ..FAST_RETRIES };
    let ended = |client: &ArtifactStore, within: Duration| {
        let began = Instant::now();
        assert_eq!(
            code_and_exit(&upload_artifact(client, &pseudo_random_bytes(1)).unwrap_err()),
            ("P0512", ExitKind::InDoubt)
        );
        assert!(began.elapsed() < within, "{:?}", began.elapsed());
        let began = Instant::now();
        assert_eq!(code_and_exit(&block_on(client.list("")).unwrap_err()), ("P0512", ExitKind::InDoubt));
        assert!(began.elapsed() < within, "{:?}", began.elapsed());
    };
    // By the limit of a call, five times, at most two ways.
    let client = ArtifactStore::with_limits(access(&service, ArtifactApis::ServiceAndRest), short).unwrap();
    ended(&client, Duration::from_secs(5));
    assert_eq!(
        call_counts(&service, [FakeServiceCall::Create, FakeServiceCall::List, FakeServiceCall::RestList]),
        [5, 5, 5]
    );
    // By the deadline, though each call might be tried for long.
    let long = CallLimits { max_attempts: u32::MAX, total_timeout: Duration::from_millis(200), ..FAST_RETRIES };
    let client = ArtifactStore::with_limits(access(&service, ArtifactApis::ServiceAndRest), long).unwrap();
    ended(&client, Duration::from_secs(5));
    // A pause that would end after the deadline is not begun.
    let service = FakeArtifactService::start();
    service.inject_fault(FakeServiceCall::List, .., InjectedFault::RetryAfter(429, 3600));
    let pausing = CallLimits { max_delay: Duration::from_secs(3600), ..FAST_RETRIES };
    let client = ArtifactStore::with_limits(access(&service, ArtifactApis::ServiceOnly), pausing).unwrap();
    let began = Instant::now();
    assert_eq!(code_and_exit(&block_on(client.list("")).unwrap_err()), ("P0512", ExitKind::InDoubt));
    assert!(began.elapsed() < Duration::from_secs(5) && service.call_count(FakeServiceCall::List) == 1);
}

#[test]
fn slow_service_succeeds() {
    let service = FakeArtifactService::start();
    service.set_latency(Duration::from_millis(50));
    let began = Instant::now();
    upload_artifact(&client(&service, ArtifactApis::ServiceOnly), &pseudo_random_bytes(100)).unwrap();
    // Create, block, block list, finalize: one after the other, each once.
    assert!(began.elapsed() >= Duration::from_millis(200));
    assert_eq!(
        call_counts(
            &service,
            [FakeServiceCall::Create, FakeServiceCall::Block, FakeServiceCall::BlockList, FakeServiceCall::Finalize]
        ),
        [1; 4]
    );
}

#[test]
fn unreachable_service_is_reported() {
    let port = free_port();
    let access = ArtifactAccess {
        results_url: format!("http://127.0.0.1:{port}"),
        runtime_token: Secret::new(runtime_token()),
        rest: None,
    };
    let client = ArtifactStore::with_limits(access, FAST_RETRIES).unwrap();
    let error = block_on(client.list("")).unwrap_err();
    assert_eq!(code_and_exit(&error), ("P0512", ExitKind::InDoubt));
    assert!(matches!(error, ArtifactError::Unavailable { tries: 5, .. }), "{error:?}");
}

#[test]
fn malformed_response_is_reported() {
    let page = "<html>a login page</html>";
    for (call, body) in [
        (FakeServiceCall::Create, page),
        (FakeServiceCall::Create, r#"{"ok":true,"signed_upload_url":"no url"}"#),
        (FakeServiceCall::Create, r#"{"ok":true}"#),
        (FakeServiceCall::List, page),
        (FakeServiceCall::List, r#"{"artifacts":[{"name":"x"}]}"#),
        (
            FakeServiceCall::List,
            r#"{"artifacts":[{"workflow_run_backend_id":"r","workflow_job_run_backend_id":"j","database_id":"x","name":"x"}]}"#,
        ),
    ] {
        let service = FakeArtifactService::start();
        service.inject_fault(call, .., InjectedFault::StatusWithBody(200, body.to_owned()));
        let client = client(&service, ArtifactApis::ServiceOnly);
        let failed = if call == FakeServiceCall::List {
            block_on(client.list("")).map(drop)
        } else {
            upload_artifact(&client, &pseudo_random_bytes(1)).map(drop)
        };
        assert_eq!(code_and_exit(&failed.unwrap_err()), ("P0513", ExitKind::InDoubt), "{body}");
    }
}

#[test]
fn error_messages_contain_no_secret() {
    let service = FakeArtifactService::start();
    service.add_artifact("pawl-a01", b"content");
    let url = format!("{}/devstore/artifacts/1.zip?se=2030&sig={SIGNATURE}", service.url());
    let echo = format!("you sent {} and {REST_TOKEN} to {url}, sig={SIGNATURE}", runtime_token());
    let says = |key: &str| InjectedFault::StatusWithBody(400, serde_json::json!({ key: echo }).to_string());
    service.inject_fault(FakeServiceCall::Create, .., says("msg"));
    service.inject_fault(FakeServiceCall::Sign, .., says("msg"));
    service.inject_fault(FakeServiceCall::RestZip, .., says("message"));
    let client = client(&service, ArtifactApis::ServiceAndRest);
    let listed = block_on(client.list("pawl-")).unwrap().remove(0);
    for error in [
        upload_artifact(&client, &pseudo_random_bytes(1)).unwrap_err(),
        block_on(client.download(&listed)).unwrap_err(),
    ] {
        assert_eq!(code_and_exit(&error), ("P0513", ExitKind::InDoubt));
        assert!(format!("{:?}", Diagnostic::from(&error)).contains("you sent *** and *** to http://"), "{error:?}");
    }
    let shown = format!("{client:?} {:?}", access(&service, ArtifactApis::ServiceAndRest));
    assert!(!shown.contains(&runtime_token()) && !shown.contains(REST_TOKEN), "{shown}");
}
