//! Our client at work, and what its tests share.

use std::{future::Future, time::Duration};

use bytes::Bytes;
use contract::Secret;
use state::artifacts::{Access, ArtifactError, Artifacts, Listed, Patience, RestAccess};

use crate::artifact_service::{ArtifactService, Call, REPOSITORY, REST_TOKEN, RUN_ID, token};

/// Tries as often as always, and waits for little.
pub(super) const QUICK: Patience = Patience {
    tries: 5,
    pause: Duration::from_millis(1),
    longest_pause: Duration::from_millis(20),
    call: Duration::from_secs(10),
    transfer: Duration::from_secs(10),
    total: Duration::from_secs(40),
};

/// Whether there is a second way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ways {
    Service,
    Both,
}

pub(super) fn access(service: &ArtifactService, ways: Ways) -> Access {
    let rest = RestAccess {
        api_url: service.api_url(),
        repository: REPOSITORY.to_owned(),
        run: RUN_ID,
        token: Secret::new(REST_TOKEN.to_owned()),
    };
    Access {
        results_url: service.url(),
        runtime_token: Secret::new(token()),
        rest: (ways == Ways::Both).then_some(rest),
    }
}

pub(super) fn client(service: &ArtifactService, ways: Ways) -> Artifacts {
    Artifacts::with_patience(access(service, ways), QUICK).unwrap()
}

/// Runs to its end, on this thread.
pub(super) fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// Bytes that look like nothing, the same each time.
pub(super) fn noise(length: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let byte = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..length).map(byte).collect()
}

pub(super) fn names(listed: &[Listed]) -> Vec<&str> {
    let mut names: Vec<_> = listed.iter().map(|listed| listed.name.as_str()).collect();
    names.sort_unstable();
    names
}

#[test]
fn what_is_stored_is_listed_read_and_deleted() {
    for is_camel in [false, true] {
        let service = ArtifactService::start();
        if is_camel {
            service.speak_camel_case();
        }
        let client = client(&service, Ways::Service);
        run(async {
            let content = noise(1000);
            let stored = client.upload("pawl-shop-prod-a01-s0001", content.clone()).await.unwrap();
            let nonce = stored.name.strip_prefix("pawl-shop-prod-a01-s0001-").unwrap();
            assert_eq!(nonce.len(), 32);
            assert_eq!(service.content(&stored.name), content);
            service.plant("logs", b"of another job");
            service.plant("pawl-shop-prod-a00-s0009-x", b"of another attempt");
            let listed = client.list("pawl-shop-prod-").await.unwrap();
            assert_eq!(names(&listed), ["pawl-shop-prod-a00-s0009-x", stored.name.as_str()]);
            assert_eq!(listed.iter().find(|listed| listed.name == stored.name), Some(&stored));
            for listed in &listed {
                assert_eq!(client.download(listed).await.unwrap(), service.content(&listed.name));
                client.delete(listed).await.unwrap();
                client.delete(listed).await.unwrap();
            }
            assert_eq!(service.names(), ["logs"]);
            assert_eq!(client.list("pawl-").await.unwrap(), []);
        });
    }
}

#[test]
fn large_contents_go_up_in_blocks() {
    let service = ArtifactService::start();
    let client = client(&service, Ways::Service);
    const BLOCK: usize = 8 << 20;
    for (length, blocks) in [(0, 0), (1, 1), (BLOCK, 1), (BLOCK + 1, 2), (25 << 20, 4)] {
        let content = noise(length);
        let stored = run(client.upload("large", content.clone())).unwrap();
        assert_eq!(service.blocks(&stored.name), blocks, "{length}");
        assert_eq!(run(client.download(&stored)).unwrap(), content, "{length}");
    }
}

#[test]
fn ids_say_nothing_about_order() {
    let service = ArtifactService::start();
    let client = client(&service, Ways::Service);
    let mut ids = Vec::new();
    run(async {
        for number in 0..6_u8 {
            let stored = client.upload(&format!("pawl-s{number}"), Bytes::from(vec![number; 9])).await.unwrap();
            ids.push(stored.id);
        }
        assert!(!ids.is_sorted() && !ids.iter().rev().is_sorted(), "the service makes it too easy: {ids:?}");
        for listed in client.list("pawl-").await.unwrap() {
            let number = listed.name.as_bytes()[6] - b'0';
            assert_eq!(listed.id, ids[usize::from(number)]);
            assert_eq!(client.download(&listed).await.unwrap(), [number; 9]);
        }
    });
}

#[test]
fn all_pages_are_listed_by_rest() {
    let service = ArtifactService::start();
    for number in 0..230 {
        service.plant(&format!("pawl-{number:03}"), &[number]);
    }
    service.plant("a-log", b"");
    service.fail(Call::List, .., crate::artifact_service::Mishap::Status(500));
    let client = client(&service, Ways::Both);
    run(async {
        let listed = client.list("pawl-").await.unwrap();
        assert_eq!(names(&listed), (0..230).map(|number| format!("pawl-{number:03}")).collect::<Vec<_>>());
        assert_eq!((service.count(Call::List), service.count(Call::RestList)), (5, 3));
        let last = listed.iter().find(|listed| listed.name == "pawl-229").unwrap();
        assert_eq!(client.download(last).await.unwrap(), [229]);
        client.delete(last).await.unwrap();
        client.delete(last).await.unwrap();
        assert_eq!(service.names().len(), 230);
        // What REST listed, it reads and deletes: the service's ids are not known.
        let counts = [Call::Sign, Call::Delete, Call::RestZip, Call::RestDelete].map(|call| service.count(call));
        assert_eq!(counts, [0, 0, 1, 2]);
    });
}

#[test]
fn bad_names_are_not_asked_for() {
    let service = ArtifactService::start();
    let client = client(&service, Ways::Service);
    for stem in ["", "pawl/shop", "pawl:shop", "pawl\nshop"] {
        let failed = run(client.upload(stem, noise(1))).unwrap_err();
        assert!(matches!(failed, ArtifactError::Name { .. }), "{failed:?}");
    }
    let failed = run(client.upload("pawl", Bytes::from(vec![0; (64 << 20) + 1]))).unwrap_err();
    assert!(matches!(failed, ArtifactError::TooLarge { .. }), "{failed:?}");
    assert_eq!(service.count(Call::Create), 0);
}

#[test]
fn what_the_ci_says_is_looked_at_first() {
    let service = ArtifactService::start();
    let good = || access(&service, Ways::Both);
    let rest = |change: fn(&mut RestAccess)| {
        let mut access = good();
        change(access.rest.as_mut().unwrap());
        access
    };
    for (access, wrong) in [
        (Access { results_url: "ftp://x".to_owned(), ..good() }, "ACTIONS_RESULTS_URL"),
        (Access { results_url: String::new(), ..good() }, "ACTIONS_RESULTS_URL"),
        (Access { runtime_token: Secret::new("s3cret".to_owned()), ..good() }, "ACTIONS_RUNTIME_TOKEN"),
        (Access { runtime_token: Secret::new(format!("{}\n", token())), ..good() }, "ACTIONS_RUNTIME_TOKEN"),
        (rest(|rest| rest.repository = "acme".to_owned()), "GITHUB_REPOSITORY"),
        (rest(|rest| rest.repository = "acme/../x".to_owned()), "GITHUB_REPOSITORY"),
        (rest(|rest| rest.api_url = "api.github.com".to_owned()), "GITHUB_API_URL"),
        (rest(|rest| rest.token = Secret::new("a\r\nb: c".to_owned())), "the token"),
    ] {
        let error = Artifacts::new(access).unwrap_err();
        assert!(matches!(error, ArtifactError::Access { what, .. } if what == wrong), "{wrong}: {error:?}");
        assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
    }
}
