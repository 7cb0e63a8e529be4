//! Our client at work, and what its tests share.

use std::{future::Future, time::Duration};

use bytes::Bytes;
use contract::Secret;
use state::artifacts::{ArtifactAccess, ArtifactError, ArtifactInfo, ArtifactStore, CallLimits, RestApiAccess};

use crate::artifact_service::{FakeArtifactService, FakeServiceCall, REPOSITORY, REST_TOKEN, RUN_ID, runtime_token};

/// Tries as often as always, and waits for little.
pub(super) const FAST_RETRIES: CallLimits = CallLimits {
    max_attempts: 5,
    first_delay: Duration::from_millis(1),
    max_delay: Duration::from_millis(20),
    call_timeout: Duration::from_secs(10),
    transfer_timeout: Duration::from_secs(10),
    total_timeout: Duration::from_secs(40),
};

/// Whether there is a second way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ArtifactApis {
    ServiceOnly,
    ServiceAndRest,
}

pub(super) fn access(service: &FakeArtifactService, ways: ArtifactApis) -> ArtifactAccess {
    let rest = RestApiAccess {
        api_url: service.api_url(),
        repository: REPOSITORY.to_owned(),
        run: RUN_ID,
        token: Secret::new(REST_TOKEN.to_owned()),
    };
    ArtifactAccess {
        results_url: service.url(),
        runtime_token: Secret::new(runtime_token()),
        rest: (ways == ArtifactApis::ServiceAndRest).then_some(rest),
    }
}

pub(super) fn client(service: &FakeArtifactService, ways: ArtifactApis) -> ArtifactStore {
    ArtifactStore::with_limits(access(service, ways), FAST_RETRIES).unwrap()
}

/// Runs to its end, on this thread.
pub(super) fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// Bytes that look like nothing, the same each time.
pub(super) fn pseudo_random_bytes(length: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let byte = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..length).map(byte).collect()
}

pub(super) fn artifact_names(listed: &[ArtifactInfo]) -> Vec<&str> {
    let mut names: Vec<_> = listed.iter().map(|listed| listed.name.as_str()).collect();
    names.sort_unstable();
    names
}

#[test]
fn stored_artifact_can_be_listed_read_and_deleted() {
    for is_camel in [false, true] {
        let service = FakeArtifactService::start();
        if is_camel {
            service.use_camel_case();
        }
        let client = client(&service, ArtifactApis::ServiceOnly);
        block_on(async {
            let content = pseudo_random_bytes(1000);
            let stored = client.upload("pawl-shop-prod-a01-s0001", content.clone()).await.unwrap();
            let nonce = stored.name.strip_prefix("pawl-shop-prod-a01-s0001-").unwrap();
            assert_eq!(nonce.len(), 32);
            assert_eq!(service.content(&stored.name), content);
            service.add_artifact("logs", b"of another job");
            service.add_artifact("pawl-shop-prod-a00-s0009-x", b"of another attempt");
            let listed = client.list("pawl-shop-prod-").await.unwrap();
            assert_eq!(artifact_names(&listed), ["pawl-shop-prod-a00-s0009-x", stored.name.as_str()]);
            assert_eq!(listed.iter().find(|listed| listed.name == stored.name), Some(&stored));
            for listed in &listed {
                assert_eq!(client.download(listed).await.unwrap(), service.content(&listed.name));
                client.delete(listed).await.unwrap();
                client.delete(listed).await.unwrap();
            }
            assert_eq!(service.artifact_names(), ["logs"]);
            assert_eq!(client.list("pawl-").await.unwrap(), []);
        });
    }
}

#[test]
fn large_content_is_uploaded_in_blocks() {
    let service = FakeArtifactService::start();
    let client = client(&service, ArtifactApis::ServiceOnly);
    const BLOCK: usize = 8 << 20;
    for (length, blocks) in [(0, 0), (1, 1), (BLOCK, 1), (BLOCK + 1, 2), (25 << 20, 4)] {
        let content = pseudo_random_bytes(length);
        let stored = block_on(client.upload("large", content.clone())).unwrap();
        assert_eq!(service.block_count(&stored.name), blocks, "{length}");
        assert_eq!(block_on(client.download(&stored)).unwrap(), content, "{length}");
    }
}

#[test]
fn artifacts_are_found_whatever_the_order_of_ids() {
    let service = FakeArtifactService::start();
    let client = client(&service, ArtifactApis::ServiceOnly);
    let mut ids = Vec::new();
    block_on(async {
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
fn rest_listing_reads_all_pages() {
    let service = FakeArtifactService::start();
    for number in 0..230 {
        service.add_artifact(&format!("pawl-{number:03}"), &[number]);
    }
    service.add_artifact("a-log", b"");
    service.inject_fault(FakeServiceCall::List, .., crate::artifact_service::InjectedFault::Status(500));
    let client = client(&service, ArtifactApis::ServiceAndRest);
    block_on(async {
        let listed = client.list("pawl-").await.unwrap();
        assert_eq!(artifact_names(&listed), (0..230).map(|number| format!("pawl-{number:03}")).collect::<Vec<_>>());
        assert_eq!((service.call_count(FakeServiceCall::List), service.call_count(FakeServiceCall::RestList)), (5, 3));
        let last = listed.iter().find(|listed| listed.name == "pawl-229").unwrap();
        assert_eq!(client.download(last).await.unwrap(), [229]);
        client.delete(last).await.unwrap();
        client.delete(last).await.unwrap();
        assert_eq!(service.artifact_names().len(), 230);
        // What REST listed, it reads and deletes: the service's ids are not known.
        let counts =
            [FakeServiceCall::Sign, FakeServiceCall::Delete, FakeServiceCall::RestZip, FakeServiceCall::RestDelete]
                .map(|call| service.call_count(call));
        assert_eq!(counts, [0, 0, 1, 2]);
    });
}

#[test]
fn oversized_artifact_is_rejected_before_a_request() {
    let service = FakeArtifactService::start();
    let client = client(&service, ArtifactApis::ServiceOnly);
    let failed = block_on(client.upload("pawl", Bytes::from(vec![0; (64 << 20) + 1]))).unwrap_err();
    assert!(matches!(failed, ArtifactError::TooLarge { .. }), "{failed:?}");
    assert_eq!(service.call_count(FakeServiceCall::Create), 0);
}

#[test]
fn ci_variables_are_validated_first() {
    let service = FakeArtifactService::start();
    let good = || access(&service, ArtifactApis::ServiceAndRest);
    let rest = |change: fn(&mut RestApiAccess)| {
        let mut access = good();
        change(access.rest.as_mut().unwrap());
        access
    };
    for (access, wrong) in [
        (ArtifactAccess { results_url: "ftp://x".to_owned(), ..good() }, "ACTIONS_RESULTS_URL"),
        (ArtifactAccess { results_url: String::new(), ..good() }, "ACTIONS_RESULTS_URL"),
        (ArtifactAccess { runtime_token: Secret::new("s3cret".to_owned()), ..good() }, "ACTIONS_RUNTIME_TOKEN"),
        (
            ArtifactAccess { runtime_token: Secret::new(format!("{}\n", runtime_token())), ..good() },
            "ACTIONS_RUNTIME_TOKEN",
        ),
        (rest(|rest| rest.repository = "acme".to_owned()), "GITHUB_REPOSITORY"),
        (rest(|rest| rest.repository = "acme/../x".to_owned()), "GITHUB_REPOSITORY"),
        (rest(|rest| rest.api_url = "api.github.com".to_owned()), "GITHUB_API_URL"),
        (rest(|rest| rest.token = Secret::new("a\r\nb: c".to_owned())), "the token"),
    ] {
        let error = ArtifactStore::new(access).unwrap_err();
        assert!(matches!(error, ArtifactError::InvalidAccess { what, .. } if what == wrong), "{wrong}: {error:?}");
        assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
    }
}
