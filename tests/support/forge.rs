//! A forge in this process: repositories that git reaches by HTTP, and the parts of the API of GitHub or GitLab that create them.
//!
//! Fields and status codes are those of their public references: GitHub's "REST API endpoints for repositories", "… for commits" and
//! "Scopes for OAuth apps"; GitLab's "Projects API", "Namespaces API", "Commits API" and "REST API: authentication". Deliberately absent:
//! what the runner does not ask for; and who may push, since git has credentials of its own.

mod github_api;
mod gitlab_api;

use std::{
    collections::BTreeMap,
    io::Write as _,
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::Command,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::git_http::{GitHttpRequest, init_bare_repository, write_backend_answer};

/// The token of the user `ann`.
pub const FORGE_TOKEN: &str = "ghp_not-a-real-token-of-ann";

/// Whose API it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FakeForgeKind {
    Github,
    Gitlab,
}

/// What happens to a call that creates a repository.
#[derive(Clone, Copy, Debug)]
pub enum CreateFault {
    /// It is done, and the connection breaks off before the answer.
    LostAnswer,
    /// The name belongs to a repository that the token can't see.
    HiddenRepository,
}

/// A forge with the user `ann`, who is a member of `acme` and of its group `web`.
pub struct FakeForge {
    kind: FakeForgeKind,
    address: SocketAddr,
    folder: TempDir,
    state: Arc<Mutex<FakeForgeState>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

struct FakeForgeState {
    kind: FakeForgeKind,
    address: SocketAddr,
    root: PathBuf,
    /// The visibility of each repository, by `owner/name`.
    repositories: BTreeMap<String, String>,
    /// What the token may do: `repo` of GitHub, `api` of GitLab.
    scopes: String,
    create_fault: Option<CreateFault>,
    /// The answer to calls of a method.
    forced: Option<(&'static str, u16, Value)>,
    /// The method and the route of each call of the API.
    calls: Vec<String>,
}

/// Status, headers and body.
type ApiReply = (u16, Vec<(&'static str, String)>, Value);

impl FakeForge {
    pub fn start(kind: FakeForgeKind) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let scopes = match kind {
            FakeForgeKind::Github => "repo, workflow",
            FakeForgeKind::Gitlab => "api",
        };
        let state = Arc::new(Mutex::new(FakeForgeState {
            kind,
            address,
            root: folder.path().to_owned(),
            repositories: BTreeMap::new(),
            scopes: scopes.to_owned(),
            create_fault: None,
            forced: None,
            calls: Vec::new(),
        }));
        let stop = Arc::new(AtomicBool::new(false));
        let (over, shared) = (Arc::clone(&stop), Arc::clone(&state));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&shared);
                // Who went away needs no answer.
                std::thread::spawn(move || stream.and_then(|stream| serve(&stream, &shared)));
            }
        });
        Self { kind, address, folder, state, stop, thread: Some(thread) }
    }

    /// The name in `--forge`.
    pub fn kind_name(&self) -> &'static str {
        match self.kind {
            FakeForgeKind::Github => "github",
            FakeForgeKind::Gitlab => "gitlab",
        }
    }

    /// The variable that the runner takes the token from.
    pub fn token_variable(&self) -> &'static str {
        match self.kind {
            FakeForgeKind::Github => "GITHUB_ENTERPRISE_TOKEN",
            FakeForgeKind::Gitlab => "GITLAB_TOKEN",
        }
    }

    /// `127.0.0.1:<port>`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The address for git.
    pub fn remote(&self, path: &str) -> String {
        format!("http://{}/{path}.git", self.address)
    }

    /// The repository on disk.
    pub fn repository(&self, path: &str) -> PathBuf {
        self.folder.path().join(format!("{path}.git"))
    }

    /// `private`, `internal` or `public`; none if there is no such repository.
    pub fn visibility(&self, path: &str) -> Option<String> {
        self.lock_state().repositories.get(path).cloned()
    }

    /// A user creates a repository.
    pub fn add_repository(&self, path: &str, visibility: &str) {
        self.lock_state().add_repository(path, visibility);
    }

    /// A user pushes to a repository. Returns the commit.
    pub fn add_commit(&self, path: &str) -> String {
        let work = tempfile::tempdir().unwrap();
        let script = "git init --quiet --initial-branch main && echo theirs >notes.txt && git add notes.txt \
                      && git -c user.name=Bob -c user.email=bob@example.com commit --quiet --message theirs \
                      && git push --quiet \"$0\" main";
        let pushed =
            Command::new("sh").args(["-euc", script]).arg(self.repository(path)).current_dir(work.path()).status();
        assert!(pushed.unwrap().success());
        self.lock_state().head(path).unwrap()
    }

    /// What the token may do.
    pub fn set_scopes(&self, scopes: &str) {
        scopes.clone_into(&mut self.lock_state().scopes);
    }

    /// What happens to the next call that creates a repository.
    pub fn set_create_fault(&self, fault: CreateFault) {
        self.lock_state().create_fault = Some(fault);
    }

    /// All calls of a method get this answer, until it is taken back.
    pub fn force_answer(&self, answer: Option<(&'static str, u16, Value)>) {
        self.lock_state().forced = answer;
    }

    /// The method and the route of each call so far.
    pub fn calls(&self) -> Vec<String> {
        self.lock_state().calls.clone()
    }

    fn lock_state(&self) -> MutexGuard<'_, FakeForgeState> {
        self.state.lock().unwrap()
    }
}

impl Drop for FakeForge {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the listener.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(mut stream: &TcpStream, state: &Mutex<FakeForgeState>) -> std::io::Result<()> {
    let request = GitHttpRequest::read(stream)?;
    let Some(route) = request.path().strip_prefix("/api/").map(str::to_owned) else {
        let root = state.lock().unwrap().root.clone();
        return write_backend_answer(stream, &request.ask_backend(&root)?);
    };
    let Some((status, headers, body)) = state.lock().unwrap().answer(&request, &route) else { return Ok(()) };
    let body = body.to_string();
    let mut head = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}content-type: application/json\r\n\r\n{body}").as_bytes())
}

impl FakeForgeState {
    fn add_repository(&mut self, path: &str, visibility: &str) {
        let folder = self.root.join(format!("{path}.git"));
        init_bare_repository(&folder);
        // Who pushes has shown who they are.
        let configured =
            Command::new("git").arg("-C").arg(&folder).args(["config", "http.receivepack", "true"]).status();
        assert!(configured.unwrap().success());
        self.repositories.insert(path.to_owned(), visibility.to_owned());
    }

    /// The newest commit of `main`.
    fn head(&self, path: &str) -> Option<String> {
        let folder = self.root.join(format!("{path}.git"));
        let output =
            Command::new("git").arg("-C").arg(folder).args(["rev-parse", "--verify", "main"]).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim_end().to_owned())
    }

    /// None if the connection breaks off.
    fn answer(&mut self, request: &GitHttpRequest, route: &str) -> Option<ApiReply> {
        self.calls.push(format!("{} {}", request.method, request.target));
        let authorization = request.headers.get("authorization").map_or("", String::as_str);
        if authorization != format!("Bearer {FORGE_TOKEN}") {
            // No forge repeats the token; if one did, the runner must not show it.
            let said = authorization.strip_prefix("Bearer ").unwrap_or_default();
            return Some((401, Vec::new(), json!({ "message": format!("Bad credentials {said}"), "status": "401" })));
        }
        if let Some((method, status, body)) = &self.forced
            && *method == request.method
        {
            return Some((*status, vec![("retry-after", "7".to_owned())], body.clone()));
        }
        let body = serde_json::from_slice(&request.body).unwrap_or(Value::Null);
        let segments: Vec<&str> = route.split('/').collect();
        match (self.kind, request.method.as_str(), segments.as_slice()) {
            (FakeForgeKind::Github, "GET", ["v3", rest @ ..]) => Some(self.github_get(request, rest)),
            (FakeForgeKind::Github, "POST", ["v3", "user", "repos"]) => self.github_post("ann", &body),
            (FakeForgeKind::Github, "POST", ["v3", "orgs", owner, "repos"]) => self.github_post(owner, &body),
            (FakeForgeKind::Gitlab, "GET", ["v4", rest @ ..]) => Some(self.gitlab_get(rest)),
            (FakeForgeKind::Gitlab, "POST", ["v4", "projects"]) => self.gitlab_post(&body),
            _ => Some((404, Vec::new(), json!({ "message": "Not Found" }))),
        }
    }
}
