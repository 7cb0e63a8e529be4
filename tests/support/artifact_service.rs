//! GitHub's artifact service with its storage, and the parts of GitHub's REST API about artifacts and deployments, in this process.
//!
//! It does what docs and the official client show: ids that say nothing about order, names that are used once, a Finalize that
//! fails and burns its name, content in blocks, URLs that are good by their signature alone. The official client is tried against
//! it as well as ours (`tests/github/official.rs`), so that it is not made to fit ours. Each kind of call can be made to fail, by its
//! number. Deliberately absent: expiry, and the rights of the REST token.

#[path = "artifact_service/blobs.rs"]
mod blobs;
#[path = "artifact_service/deployments.rs"]
mod deployments;
#[path = "artifact_service/http_server.rs"]
mod http_server;
#[path = "artifact_service/rest.rs"]
mod rest;
#[path = "artifact_service/twirp.rs"]
mod twirp;

use std::{
    collections::BTreeMap,
    io,
    ops::RangeBounds,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::json;

use self::http_server::{FakeServiceRequest, RawHttpServer};
use crate::support::{HttpReply, sha256};

/// The run, as the service calls it.
const BACKEND_RUN_ID: &str = "ce7f54c7-61c7-4aae-887f-30da475f5f1a";
/// A job of it.
const BACKEND_JOB_ID: &str = "ca395085-040a-526b-2ce8-bdc85f692774";
/// The repository and the run, as GitHub calls them.
pub const REPOSITORY: &str = "acme/shop";
pub const RUN_ID: u64 = 4711;
/// What the REST API takes.
pub const REST_TOKEN: &str = "ghs_not-a-real-token";
/// What signed URLs end with, and no message may have.
pub const SIGNATURE: &str = "c2lnbmF0dXJlLXRoYXQtbm9ib2R5LXNlZXM";

/// Kinds of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FakeServiceCall {
    Create,
    Finalize,
    List,
    Sign,
    Delete,
    Block,
    BlockList,
    /// The content, by a signed URL of the service.
    Content,
    RestList,
    RestZip,
    /// The content, by a redirect of the REST API.
    RestContent,
    RestDelete,
    /// Workflow runs and jobs.
    RestRuns,
    DeploymentCreate,
    DeploymentList,
    StatusCreate,
    StatusList,
}

/// What goes wrong with a call.
#[derive(Clone, Debug)]
pub enum InjectedFault {
    /// It is not done.
    Status(u16),
    /// It is not done, and better asked again in so many seconds.
    RetryAfter(u16, u64),
    /// It is not done, and this is said about it.
    StatusWithBody(u16, String),
    /// The connection breaks off after so many bytes of the request's body.
    CutRequest(usize),
    /// It is done, and the connection breaks off before the answer.
    LostResponse,
    /// No answer, and the connection stays.
    NoResponse,
}

/// An artifact, or what is left of one.
struct FakeArtifact {
    id: u64,
    run: String,
    job: String,
    /// Uploaded, and not yet named by a block list.
    blocks: BTreeMap<String, Vec<u8>>,
    /// How many blocks the content came in.
    block_count: usize,
    kind: String,
    content: Vec<u8>,
    digest: Option<String>,
    size: usize,
    is_final: bool,
}

/// A workflow run before the current one.
struct FakeEarlierRun {
    id: u64,
    branch: String,
    is_of_fork: bool,
    artifacts: BTreeMap<String, FakeArtifact>,
}

/// What the service knows.
struct FakeServiceState {
    origin: String,
    /// Those of the current workflow run.
    artifacts: BTreeMap<String, FakeArtifact>,
    earlier_runs: Vec<FakeEarlierRun>,
    run: u64,
    branch: String,
    /// The jobs of each attempt of the current run, as the REST API lists them.
    jobs: BTreeMap<u32, Vec<serde_json::Value>>,
    is_rest_denied: bool,
    deployments: Vec<deployments::FakeDeployment>,
    /// How many artifacts were begun.
    created_count: u64,
    calls: BTreeMap<FakeServiceCall, usize>,
    faults: Vec<(FakeServiceCall, Vec<usize>, InjectedFault)>,
    uses_camel_case: bool,
    is_token_expired: bool,
    latency: Duration,
}

/// The service, until it is dropped.
pub struct FakeArtifactService {
    origin: String,
    state: Arc<Mutex<FakeServiceState>>,
    _server: RawHttpServer,
}

impl FakeArtifactService {
    pub fn start() -> Self {
        let listener = RawHttpServer::bind();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(FakeServiceState {
            origin: origin.clone(),
            artifacts: BTreeMap::new(),
            earlier_runs: Vec::new(),
            run: RUN_ID,
            branch: "main".to_owned(),
            jobs: BTreeMap::new(),
            is_rest_denied: false,
            deployments: Vec::new(),
            created_count: 0,
            calls: BTreeMap::new(),
            faults: Vec::new(),
            uses_camel_case: false,
            is_token_expired: false,
            latency: Duration::ZERO,
        }));
        let shared = Arc::clone(&state);
        let wire = RawHttpServer::new(listener, move |request| respond(&shared, request));
        Self { origin, state, _server: wire }
    }

    /// What a job sees of the service in its environment.
    pub fn variables(&self) -> [(&'static str, String); 5] {
        [
            ("ACTIONS_RESULTS_URL", format!("{}/", self.origin)),
            ("ACTIONS_RUNTIME_TOKEN", runtime_token()),
            ("GITHUB_API_URL", self.api_url()),
            ("GITHUB_REPOSITORY", REPOSITORY.to_owned()),
            ("GITHUB_RUN_ID", self.lock_state().run.to_string()),
        ]
    }

    pub fn url(&self) -> String {
        self.origin.clone()
    }

    pub fn api_url(&self) -> String {
        format!("{}/api/v3", self.origin)
    }

    /// Calls of a kind fail by their numbers, from 0.
    pub fn inject_fault(&self, call: FakeServiceCall, numbers: impl RangeBounds<usize>, mishap: InjectedFault) {
        let numbers = (0..1000).filter(|number| numbers.contains(number)).collect();
        self.lock_state().faults.push((call, numbers, mishap));
    }

    /// Replies are in camelCase.
    pub fn use_camel_case(&self) {
        self.lock_state().uses_camel_case = true;
    }

    /// The runtime token has expired.
    pub fn expire_token(&self) {
        self.lock_state().is_token_expired = true;
    }

    /// Each answer takes so much longer.
    pub fn set_latency(&self, latency: Duration) {
        self.lock_state().latency = latency;
    }

    /// How many calls of a kind there were.
    pub fn call_count(&self, call: FakeServiceCall) -> usize {
        self.lock_state().calls.get(&call).copied().unwrap_or_default()
    }

    /// The names of all artifacts that are complete.
    pub fn artifact_names(&self) -> Vec<String> {
        let state = self.lock_state();
        state.artifacts.iter().filter(|(_, artifact)| artifact.is_final).map(|(name, _)| name.clone()).collect()
    }

    /// The content of an artifact.
    pub fn content(&self, name: &str) -> Vec<u8> {
        self.lock_state().artifacts[name].content.clone()
    }

    /// How many blocks the content of an artifact came in.
    pub fn block_count(&self, name: &str) -> usize {
        self.lock_state().artifacts[name].block_count
    }

    /// Changes the content behind the service's back.
    pub fn replace_content(&self, name: &str, content: Vec<u8>) {
        self.lock_state().artifacts.get_mut(name).unwrap().content = content;
    }

    /// Another workflow run begins, on the same branch. The artifacts of the one before are in its own list only.
    pub fn begin_run(&self) {
        let mut state = self.lock_state();
        let (id, branch) = (state.run, state.branch.clone());
        let artifacts = std::mem::take(&mut state.artifacts);
        state.earlier_runs.push(FakeEarlierRun { id, branch, is_of_fork: false, artifacts });
        state.jobs.clear();
        state.run += 1;
    }

    /// The newest earlier run was on another branch, or for a fork.
    pub fn change_earlier_run(&self, branch: &str, is_of_fork: bool) {
        let mut state = self.lock_state();
        let run = state.earlier_runs.last_mut().unwrap();
        (run.branch, run.is_of_fork) = (branch.to_owned(), is_of_fork);
    }

    /// The jobs of an attempt of the current run, as the REST API lists them.
    pub fn set_jobs(&self, attempt: u32, jobs: Vec<serde_json::Value>) {
        self.lock_state().jobs.insert(attempt, jobs);
    }

    /// The token lacks `actions: read`.
    pub fn deny_rest(&self) {
        self.lock_state().is_rest_denied = true;
    }

    /// Listings have no digests, as those of other services.
    pub fn remove_digests(&self) {
        self.lock_state().artifacts.values_mut().for_each(|artifact| artifact.digest = None);
    }

    /// An artifact of another job of the run.
    pub fn add_artifact(&self, name: &str, content: &[u8]) {
        let mut state = self.lock_state();
        let mut artifact = state.new_artifact(BACKEND_RUN_ID, "0d9b4c1a-0000-4000-8000-another-job0");
        (artifact.content, artifact.size) = (content.to_vec(), content.len());
        artifact.digest = Some(format!("sha256:{}", sha256(content)));
        artifact.is_final = true;
        state.artifacts.insert(name.to_owned(), artifact);
    }

    /// Another job of the run removes an artifact.
    pub fn remove_artifact(&self, name: &str) {
        self.lock_state().artifacts.remove(name);
    }

    /// The descriptions of a deployment's statuses, oldest first; deployments count from 0.
    pub fn status_descriptions(&self, deployment: usize) -> Vec<String> {
        let state = self.lock_state();
        let statuses = state.deployments[deployment].statuses.iter();
        statuses.map(|status| status["description"].as_str().unwrap().to_owned()).collect()
    }

    fn lock_state(&self) -> MutexGuard<'_, FakeServiceState> {
        self.state.lock().unwrap()
    }
}

/// A token as a job gets it: a JWT with the ids of run and job.
pub fn runtime_token() -> String {
    let payload = json!({
        "aud": "app", "exp": 4_000_000_000_u64,
        "scp": format!("Actions.GenericRead:0000 Actions.Results:{BACKEND_RUN_ID}:{BACKEND_JOB_ID} Actions.UploadArtifacts:0000"),
    });
    let parts = [json!({"alg": "RS256", "typ": "JWT"}), payload].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    format!("{}.bm90LWEtcmVhbC1zaWduYXR1cmU", parts.join("."))
}

impl FakeServiceState {
    /// A new artifact. Its id is less than that of most before it.
    fn new_artifact(&mut self, run: &str, job: &str) -> FakeArtifact {
        self.created_count += 1;
        let id = 5_000_000_000 - self.created_count * 37 + self.created_count % 3 * 1000;
        FakeArtifact {
            id,
            run: run.to_owned(),
            job: job.to_owned(),
            blocks: BTreeMap::new(),
            block_count: 0,
            kind: "application/zip".to_owned(),
            content: Vec::new(),
            digest: None,
            size: 0,
            is_final: false,
        }
    }

    fn signed_url(&self, id: u64, via: &str) -> String {
        format!("{}/devstore/artifacts/{id}.zip?se=2030-01-01T00%3A00%3A00Z&via={via}&sig={SIGNATURE}", self.origin)
    }

    fn artifact_by_id(&mut self, id: u64) -> Option<&mut FakeArtifact> {
        let earlier = self.earlier_runs.iter_mut().flat_map(|run| run.artifacts.values_mut());
        self.artifacts.values_mut().chain(earlier).find(|artifact| artifact.id == id)
    }

    /// Counts a call, and says what goes wrong with it.
    fn next_fault(&mut self, call: FakeServiceCall) -> Option<InjectedFault> {
        let count = self.calls.entry(call).or_default();
        let number = *count;
        *count += 1;
        let is_hit =
            |(of, numbers, _): &&(FakeServiceCall, Vec<usize>, InjectedFault)| *of == call && numbers.contains(&number);
        self.faults.iter().find(is_hit).map(|(_, _, mishap)| mishap.clone())
    }
}

/// Which call a request is.
fn call_of(request: &FakeServiceRequest) -> Option<FakeServiceCall> {
    let path = request.path.as_str();
    if let Some(method) = path.strip_prefix(twirp::PREFIX) {
        return twirp::call_of(method);
    }
    if path.starts_with(blobs::PREFIX) {
        return blobs::call_of(request);
    }
    let path = path.strip_prefix("/api/v3")?;
    rest::call_of(&request.method, path).or_else(|| deployments::call_of(&request.method, path))
}

fn respond(state: &Mutex<FakeServiceState>, request: &mut FakeServiceRequest) -> io::Result<Option<HttpReply>> {
    let Some(call) = call_of(request) else { return Ok(Some(HttpReply::status(404))) };
    let (mishap, latency) = {
        let mut world = state.lock().unwrap();
        (world.next_fault(call), world.latency)
    };
    std::thread::sleep(latency);
    let failed = |status, headers, body| Ok(Some(HttpReply { status, headers, body }));
    let mut is_told = true;
    match mishap {
        Some(InjectedFault::Status(status)) => {
            apply_failed_call(&mut state.lock().unwrap(), call, request)?;
            return failed(status, Vec::new(), br#"{"code":"internal","msg":"not today"}"#.to_vec());
        }
        Some(InjectedFault::RetryAfter(status, seconds)) => {
            return failed(status, vec![("retry-after".to_owned(), seconds.to_string())], Vec::new());
        }
        Some(InjectedFault::StatusWithBody(status, text)) => return failed(status, Vec::new(), text.into_bytes()),
        Some(InjectedFault::CutRequest(bytes)) => return request.body(bytes).map(|_| None),
        Some(InjectedFault::NoResponse) => {
            request.wait_for_hangup();
            return Ok(None);
        }
        Some(InjectedFault::LostResponse) => is_told = false,
        None => {}
    }
    let body = request.body(usize::MAX)?;
    let world = &mut state.lock().unwrap();
    let reply = match call {
        FakeServiceCall::Create
        | FakeServiceCall::Finalize
        | FakeServiceCall::List
        | FakeServiceCall::Sign
        | FakeServiceCall::Delete => twirp::answer(world, call, request, &body),
        FakeServiceCall::Block
        | FakeServiceCall::BlockList
        | FakeServiceCall::Content
        | FakeServiceCall::RestContent => blobs::answer(world, call, request, body),
        FakeServiceCall::RestList
        | FakeServiceCall::RestZip
        | FakeServiceCall::RestDelete
        | FakeServiceCall::RestRuns => rest::answer(world, call, request),
        FakeServiceCall::DeploymentCreate
        | FakeServiceCall::DeploymentList
        | FakeServiceCall::StatusCreate
        | FakeServiceCall::StatusList => deployments::answer(world, call, request, &body),
    };
    Ok(is_told.then_some(reply))
}

/// What fails and is not without effect: a name stays, and can't be used.
fn apply_failed_call(
    world: &mut FakeServiceState,
    call: FakeServiceCall,
    request: &mut FakeServiceRequest,
) -> io::Result<()> {
    if call == FakeServiceCall::Finalize {
        let body = request.body(usize::MAX)?;
        let fields: serde_json::Value = serde_json::from_slice(&body)?;
        if let Some(artifact) = world.artifacts.get_mut(fields["name"].as_str().unwrap_or_default()) {
            artifact.blocks.clear();
            artifact.content.clear();
        }
    }
    Ok(())
}
