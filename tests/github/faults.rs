//! What goes wrong with the service: each fault with its outcome, and with how often was asked.

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use bytes::Bytes;
use contract::{
    Secret,
    diagnostic::{Diagnostic, Exit},
};
use state::artifacts::{Access, ArtifactError, Artifacts, Listed, Patience};

use super::artifacts::{QUICK, Ways, access, client, names, noise, run};
use crate::artifact_service::{ArtifactService, Call, Mishap, REST_TOKEN, SIGNATURE, token};

/// The code and the exit code; fails when a secret is in any form of the error.
#[track_caller]
fn told(error: &ArtifactError) -> (&'static str, Exit) {
    let diagnostic = Diagnostic::from(error);
    let shown = format!("{error} {error:?} {diagnostic:?}");
    for secret in [token().as_str(), REST_TOKEN, SIGNATURE, "sig="] {
        assert!(!shown.contains(secret), "{shown}");
    }
    assert!(!diagnostic.causes.is_empty() && diagnostic.causes.iter().all(|cause| !cause.is_empty()), "{shown}");
    (diagnostic.code.0, diagnostic.exit)
}

fn counts<const N: usize>(service: &ArtifactService, calls: [Call; N]) -> [usize; N] {
    calls.map(|call| service.count(call))
}

fn store(client: &Artifacts, content: &Bytes) -> Result<Listed, ArtifactError> {
    run(client.upload("pawl-a01", content.clone()))
}

#[test]
fn what_passes_is_asked_again() {
    let content = noise(100);
    for status in [429, 500, 502, 503, 504] {
        let service = ArtifactService::start();
        let calls = [Call::Create, Call::Block, Call::BlockList, Call::List, Call::Sign, Call::Content, Call::Delete];
        for call in calls {
            service.fail(call, ..2, Mishap::Status(status));
        }
        let client = client(&service, Ways::Service);
        let stored = store(&client, &content).unwrap();
        run(async {
            assert_eq!(names(&client.list("pawl-").await.unwrap()), [stored.name.as_str()]);
            assert_eq!(client.download(&stored).await.unwrap(), content);
            client.delete(&stored).await.unwrap();
        });
        assert_eq!(counts(&service, calls), [3; 7], "{status}");
        assert_eq!(service.count(Call::Finalize), 1);
    }
}

#[test]
fn what_does_not_pass_ends_after_five_tries() {
    for (call, mishap) in [
        (Call::Create, Mishap::Status(503)),
        (Call::Block, Mishap::Status(500)),
        (Call::Block, Mishap::Cut(10)),
        (Call::BlockList, Mishap::Status(429)),
    ] {
        let service = ArtifactService::start();
        service.fail(call, .., mishap);
        let error = store(&client(&service, Ways::Both), &noise(100)).unwrap_err();
        assert_eq!(told(&error), ("P0512", Exit::InDoubt));
        assert!(matches!(error, ArtifactError::Unavailable { tries: 5, .. }), "{error:?}");
        assert_eq!(counts(&service, [call, Call::Create]), [5, if call == Call::Create { 5 } else { 1 }]);
        assert_eq!(service.names(), [""; 0]);
    }
}

#[test]
fn a_list_that_can_not_be_had_is_no_empty_list() {
    let service = ArtifactService::start();
    service.plant("pawl-a01", b"x");
    service.fail(Call::List, .., Mishap::Status(500));
    let error = run(client(&service, Ways::Service).list("pawl-")).unwrap_err();
    assert_eq!(told(&error), ("P0512", Exit::InDoubt));
    assert_eq!(service.count(Call::List), 5);
    // Half a list is none either.
    (0..150).for_each(|number| service.plant(&format!("pawl-{number}"), b"x"));
    service.fail(Call::RestList, 1.., Mishap::Status(404));
    let error = run(client(&service, Ways::Both).list("pawl-")).unwrap_err();
    assert_eq!(told(&error), ("P0512", Exit::InDoubt));
    assert!(matches!(error, ArtifactError::Neither { .. }), "{error:?}");
    assert_eq!(counts(&service, [Call::List, Call::RestList]), [10, 2]);
}

#[test]
fn a_wait_that_is_asked_for_is_kept_up_to_a_bound() {
    let service = ArtifactService::start();
    service.plant("pawl-a01", b"x");
    service.fail(Call::List, ..1, Mishap::Later(429, 1));
    service.fail(Call::List, 2..3, Mishap::Later(503, 3600));
    let patient = Patience { longest_pause: Duration::from_secs(5), ..QUICK };
    let patient = Artifacts::with_patience(access(&service, Ways::Service), patient).unwrap();
    let began = Instant::now();
    assert_eq!(run(patient.list("pawl-")).unwrap().len(), 1);
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    let began = Instant::now();
    assert_eq!(run(client(&service, Ways::Service).list("pawl-")).unwrap().len(), 1);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(service.count(Call::List), 4);
}

#[test]
fn a_block_that_was_cut_is_sent_again() {
    let service = ArtifactService::start();
    service.fail(Call::Block, 1..3, Mishap::Cut(1 << 20));
    let content = noise(20 << 20);
    let stored = store(&client(&service, Ways::Service), &content).unwrap();
    assert_eq!(service.content(&stored.name), content);
    assert_eq!((service.blocks(&stored.name), service.count(Call::Block)), (3, 5));
}

#[test]
fn a_finalize_that_fails_burns_the_name() {
    for mishap in [Mishap::Status(500), Mishap::Status(400), Mishap::Says(200, r#"{"ok":false}"#.to_owned())] {
        let service = ArtifactService::start();
        service.fail(Call::Finalize, ..2, mishap);
        let stored = store(&client(&service, Ways::Service), &noise(100)).unwrap();
        assert_eq!(service.names(), [stored.name.as_str()]);
        assert_eq!(service.content(&stored.name), noise(100));
        // Each time it is looked whether it is there all the same.
        assert_eq!(counts(&service, [Call::Create, Call::Finalize, Call::List]), [3, 3, 2]);
    }
}

#[test]
fn a_finalize_that_always_fails_ends() {
    let service = ArtifactService::start();
    service.fail(Call::Finalize, .., Mishap::Status(500));
    let error = store(&client(&service, Ways::Service), &noise(100)).unwrap_err();
    assert_eq!(told(&error), ("P0512", Exit::InDoubt));
    assert_eq!(counts(&service, [Call::Create, Call::Finalize, Call::List]), [5, 5, 5]);
}

#[test]
fn a_finalize_without_an_answer_is_looked_up() {
    let service = ArtifactService::start();
    service.fail(Call::Finalize, ..1, Mishap::LostAnswer);
    let client = client(&service, Ways::Service);
    let stored = store(&client, &noise(100)).unwrap();
    assert_eq!(counts(&service, [Call::Create, Call::Finalize, Call::List]), [1, 1, 1]);
    assert_eq!(service.names(), [stored.name.as_str()]);
    assert_eq!(run(client.list("")).unwrap(), [stored]);
}

#[test]
fn a_finalize_that_never_got_there_is_not_taken_for_done() {
    let service = ArtifactService::start();
    service.fail(Call::Finalize, ..1, Mishap::Cut(0));
    let stored = store(&client(&service, Ways::Service), &noise(100)).unwrap();
    assert_eq!(counts(&service, [Call::Create, Call::Finalize, Call::List]), [2, 2, 1]);
    assert_eq!(service.names(), [stored.name.as_str()]);
}

#[test]
fn a_finalize_is_repeated_when_it_was_put_off() {
    let service = ArtifactService::start();
    service.fail(Call::Finalize, ..2, Mishap::Later(429, 0));
    store(&client(&service, Ways::Service), &noise(100)).unwrap();
    assert_eq!(counts(&service, [Call::Create, Call::Finalize, Call::List]), [1, 3, 0]);
}

#[test]
fn a_name_that_is_taken_is_not_used() {
    let service = ArtifactService::start();
    service.fail(Call::Create, ..1, Mishap::Status(409));
    store(&client(&service, Ways::Service), &noise(100)).unwrap();
    assert_eq!(counts(&service, [Call::Create, Call::Finalize]), [2, 1]);
    // Its own, of a Create without an answer: that name is begun, and the next is another.
    service.fail(Call::Create, 2..3, Mishap::LostAnswer);
    let stored = store(&client(&service, Ways::Service), &noise(100)).unwrap();
    assert_eq!(service.content(&stored.name), noise(100));
    assert_eq!(counts(&service, [Call::Create, Call::Finalize]), [5, 2]);
    service.fail(Call::Create, 5.., Mishap::Status(409));
    let error = store(&client(&service, Ways::Service), &noise(100)).unwrap_err();
    assert_eq!(told(&error), ("P0513", Exit::InDoubt));
    assert_eq!(service.count(Call::Create), 10);
}

#[test]
fn what_the_service_lists_and_does_not_give_comes_by_rest() {
    let service = ArtifactService::start();
    service.plant("pawl-a01", b"content");
    service.fail(Call::Content, .., Mishap::Status(404));
    let calls = [Call::Sign, Call::Content, Call::RestZip, Call::RestContent];

    let single = client(&service, Ways::Service);
    let listed = run(single.list("pawl-")).unwrap().remove(0);
    let error = run(single.download(&listed)).unwrap_err();
    assert_eq!(told(&error), ("P0513", Exit::InDoubt));
    assert_eq!(counts(&service, calls), [1, 1, 0, 0]);

    // The storage refuses whoever shows a token, so it was not forwarded.
    assert_eq!(run(client(&service, Ways::Both).download(&listed)).unwrap(), b"content");
    assert_eq!(counts(&service, calls), [2, 2, 1, 1]);

    service.fail(Call::Sign, .., Mishap::Status(404));
    service.fail(Call::RestZip, 1..3, Mishap::Status(502));
    assert_eq!(run(client(&service, Ways::Both).download(&listed)).unwrap(), b"content");
    assert_eq!(counts(&service, calls), [3, 2, 4, 2]);

    service.fail(Call::RestZip, 4.., Mishap::Status(410));
    let error = run(client(&service, Ways::Both).download(&listed)).unwrap_err();
    assert_eq!(told(&error), ("P0513", Exit::InDoubt));
    assert!(Diagnostic::from(&error).causes.iter().any(|cause| cause.contains("410")), "{error:?}");
}

#[test]
fn an_expired_token_is_told_at_once() {
    let service = ArtifactService::start();
    service.plant("pawl-a01", b"content");
    service.expire();
    let single = client(&service, Ways::Service);
    for error in [store(&single, &noise(100)).unwrap_err(), run(single.list("pawl-")).unwrap_err()] {
        assert_eq!(told(&error), ("P0511", Exit::InDoubt));
    }
    assert_eq!(counts(&service, [Call::Create, Call::List]), [1, 1]);
    // The other way has another token.
    let both = client(&service, Ways::Both);
    let listed = run(both.list("pawl-")).unwrap().remove(0);
    assert_eq!(run(both.download(&listed)).unwrap(), b"content");
    assert_eq!(counts(&service, [Call::List, Call::RestList]), [2, 1]);
}

#[test]
fn a_token_that_expires_before_finalize_stores_nothing_twice() {
    let service = ArtifactService::start();
    service.fail(Call::Finalize, .., Mishap::Status(401));
    let error = store(&client(&service, Ways::Service), &noise(100)).unwrap_err();
    assert_eq!(told(&error), ("P0511", Exit::InDoubt));
    assert_eq!(counts(&service, [Call::Create, Call::Finalize, Call::List]), [1, 1, 0]);
}

#[test]
fn another_content_than_listed_is_refused() {
    let service = ArtifactService::start();
    service.plant("pawl-a01", b"content");
    service.tamper("pawl-a01", b"CONTENT".to_vec());
    for (ways, asked) in [(Ways::Service, [1, 0]), (Ways::Both, [2, 1])] {
        let client = client(&service, ways);
        let listed = run(client.list("pawl-")).unwrap().remove(0);
        let error = run(client.download(&listed)).unwrap_err();
        assert_eq!(told(&error), ("P0514", Exit::Journal));
        assert_eq!(counts(&service, [Call::Content, Call::RestContent]), asked);
    }
}

#[test]
fn more_than_a_bound_is_not_read() {
    let service = ArtifactService::start();
    service.plant("pawl-a01", &vec![0; (64 << 20) + 1]);
    let client = client(&service, Ways::Service);
    let listed = run(client.list("pawl-")).unwrap().remove(0);
    let error = run(client.download(&listed)).unwrap_err();
    assert_eq!(told(&error), ("P0515", Exit::InDoubt));
    assert_eq!(service.count(Call::Content), 1);
}

#[test]
fn a_download_that_was_cut_is_asked_for_again() {
    let service = ArtifactService::start();
    service.plant("pawl-a01", b"content");
    service.fail(Call::Content, ..3, Mishap::LostAnswer);
    let client = client(&service, Ways::Service);
    let listed = run(client.list("pawl-")).unwrap().remove(0);
    assert_eq!(run(client.download(&listed)).unwrap(), b"content");
    assert_eq!(service.count(Call::Content), 4);
}

#[test]
fn nothing_waits_without_end() {
    let service = ArtifactService::start();
    service.plant("pawl-a01", b"content");
    for call in [Call::Create, Call::List, Call::Sign, Call::RestList, Call::RestZip] {
        service.fail(call, .., Mishap::Silence);
    }
    let limit = Duration::from_millis(30);
    let short = Patience { call: limit, transfer: limit, ..QUICK };
    let ended = |client: &Artifacts, within: Duration| {
        let began = Instant::now();
        assert_eq!(told(&store(client, &noise(1)).unwrap_err()), ("P0512", Exit::InDoubt));
        assert!(began.elapsed() < within, "{:?}", began.elapsed());
        let began = Instant::now();
        assert_eq!(told(&run(client.list("")).unwrap_err()), ("P0512", Exit::InDoubt));
        assert!(began.elapsed() < within, "{:?}", began.elapsed());
    };
    // By the limit of a call, five times, at most two ways.
    let client = Artifacts::with_patience(access(&service, Ways::Both), short).unwrap();
    ended(&client, Duration::from_secs(5));
    assert_eq!(counts(&service, [Call::Create, Call::List, Call::RestList]), [5, 5, 5]);
    // By the deadline, though each call might be tried for long.
    let long = Patience { tries: u32::MAX, total: Duration::from_millis(200), ..QUICK };
    let client = Artifacts::with_patience(access(&service, Ways::Both), long).unwrap();
    ended(&client, Duration::from_secs(5));
    // A pause that would end after the deadline is not begun.
    let service = ArtifactService::start();
    service.fail(Call::List, .., Mishap::Later(429, 3600));
    let pausing = Patience { longest_pause: Duration::from_secs(3600), ..QUICK };
    let client = Artifacts::with_patience(access(&service, Ways::Service), pausing).unwrap();
    let began = Instant::now();
    assert_eq!(told(&run(client.list("")).unwrap_err()), ("P0512", Exit::InDoubt));
    assert!(began.elapsed() < Duration::from_secs(5) && service.count(Call::List) == 1);
}

#[test]
fn a_service_that_is_slow_is_waited_for() {
    let service = ArtifactService::start();
    service.slow_down(Duration::from_millis(50));
    let began = Instant::now();
    store(&client(&service, Ways::Service), &noise(100)).unwrap();
    // Create, block, block list, finalize: one after the other, each once.
    assert!(began.elapsed() >= Duration::from_millis(200));
    assert_eq!(counts(&service, [Call::Create, Call::Block, Call::BlockList, Call::Finalize]), [1; 4]);
}

#[test]
fn nobody_there_is_told() {
    // A port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let access =
        Access { results_url: format!("http://127.0.0.1:{port}"), runtime_token: Secret::new(token()), rest: None };
    let client = Artifacts::with_patience(access, QUICK).unwrap();
    let error = run(client.list("")).unwrap_err();
    assert_eq!(told(&error), ("P0512", Exit::InDoubt));
    assert!(matches!(error, ArtifactError::Unavailable { tries: 5, .. }), "{error:?}");
}

#[test]
fn what_is_no_answer_of_the_service_is_told() {
    let page = "<html>a login page</html>";
    for (call, body) in [
        (Call::Create, page),
        (Call::Create, r#"{"ok":true,"signed_upload_url":"no url"}"#),
        (Call::Create, r#"{"ok":true}"#),
        (Call::List, page),
        (Call::List, r#"{"artifacts":[{"name":"x"}]}"#),
        (
            Call::List,
            r#"{"artifacts":[{"workflow_run_backend_id":"r","workflow_job_run_backend_id":"j","database_id":"x","name":"x"}]}"#,
        ),
    ] {
        let service = ArtifactService::start();
        service.fail(call, .., Mishap::Says(200, body.to_owned()));
        let client = client(&service, Ways::Service);
        let failed =
            if call == Call::List { run(client.list("")).map(drop) } else { store(&client, &noise(1)).map(drop) };
        assert_eq!(told(&failed.unwrap_err()), ("P0513", Exit::InDoubt), "{body}");
    }
}

#[test]
fn no_message_has_a_secret_in_it() {
    let service = ArtifactService::start();
    service.plant("pawl-a01", b"content");
    let url = format!("{}/devstore/artifacts/1.zip?se=2030&sig={SIGNATURE}", service.url());
    let echo = format!("you sent {} and {REST_TOKEN} to {url}, sig={SIGNATURE}", token());
    let says = |key: &str| Mishap::Says(400, serde_json::json!({ key: echo }).to_string());
    service.fail(Call::Create, .., says("msg"));
    service.fail(Call::Sign, .., says("msg"));
    service.fail(Call::RestZip, .., says("message"));
    let client = client(&service, Ways::Both);
    let listed = run(client.list("pawl-")).unwrap().remove(0);
    for error in [store(&client, &noise(1)).unwrap_err(), run(client.download(&listed)).unwrap_err()] {
        assert_eq!(told(&error), ("P0513", Exit::InDoubt));
        assert!(format!("{:?}", Diagnostic::from(&error)).contains("you sent *** and *** to http://"), "{error:?}");
    }
    let shown = format!("{client:?} {:?}", access(&service, Ways::Both));
    assert!(!shown.contains(&token()) && !shown.contains(REST_TOKEN), "{shown}");
}
