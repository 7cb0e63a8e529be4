//! The repository on a forge, for `--create`: looked up before anything is written, and created when the first commit is there.
//!
//! Invariant: the token goes to the API of the address's own host, and nowhere else: no file, address or message has it. A repository with
//! other commits, or one that more people see than was asked for, is not used. Deliberately absent: pushing, which git does with its own
//! credentials; and changing or removing a repository.

mod address;
mod api;
mod error;
mod github;
mod gitlab;

use serde_json::{Value, json};

use super::super::source::env_variable;
use contract::{
    Secret,
    diagnostic::{Diagnostic, ErrorCode},
    text::escape_line,
};

use address::ForgeAddress;
pub(super) use address::ForgeKind;
use api::ForgeApi;
use error::{ForgeError, InitProgress};

/// What is at an address.
#[derive(Debug)]
enum FoundRepository {
    Existing(ExistingRepository),
    /// How it is created.
    Missing(CreateRequest),
}

/// A repository that is there.
#[derive(Debug)]
struct ExistingRepository {
    /// The newest commit; none of an empty one.
    head: Option<String>,
    /// `private`, `public`, or for all users of the forge `internal`.
    visibility: String,
    /// Its page on the web.
    page: String,
}

/// The call that creates a repository.
#[derive(Debug)]
struct CreateRequest {
    route: Vec<String>,
    body: Value,
}

/// The repository that will be the remote.
#[derive(Debug)]
pub(super) struct ForgeRepository {
    address: ForgeAddress,
    api: ForgeApi,
    /// The variable with the token.
    variable: &'static str,
    is_public: bool,
    /// What an earlier call of the same command may have pushed.
    own_head: Option<String>,
    found: FoundRepository,
}

/// The repository, ready to be pushed to.
#[derive(Debug)]
pub(super) struct ReadyRepository {
    address: ForgeAddress,
    was_created: bool,
    has_own_head: bool,
    visibility: String,
    page: String,
}

impl ForgeRepository {
    /// Finds out, before anything is written, whether the repository can be created or used.
    ///
    /// # Errors
    /// P0114, P0239, P0243, P0244.
    pub(super) async fn prepare(
        remote: &str,
        kind: Option<ForgeKind>,
        is_public: bool,
        own_head: Option<String>,
    ) -> Result<Self, Diagnostic> {
        let address = ForgeAddress::parse(remote, kind).map_err(|problem| {
            Diagnostic::new(ErrorCode::InitRefused, "no repository can be created at the address of `--remote`")
                .with_cause(problem.cause)
                .with_hint(problem.hint)
        })?;
        let (variable, token) = token(&address)?;
        let fail = |error: &ForgeError| error.diagnostic(&address, variable, InitProgress::NothingWritten);
        let api = ForgeApi::new(&address, token).map_err(|error| fail(&error))?;
        let found = find(&api, &address, is_public).await.map_err(|error| fail(&error))?;
        if let FoundRepository::Existing(repository) = &found {
            repository.check(is_public, own_head.as_deref()).map_err(|error| fail(&error))?;
        }
        Ok(Self { address, api, variable, is_public, own_head, found })
    }

    /// Creates it if it is missing.
    ///
    /// # Errors
    /// P0243, P0244. The files and the commit stay.
    pub(super) async fn create(self) -> Result<ReadyRepository, Diagnostic> {
        let Self { address, api, variable, is_public, own_head, found } = self;
        let ready = |repository: ExistingRepository, was_created| ReadyRepository {
            address: address.clone(),
            was_created,
            has_own_head: repository.head.is_some(),
            visibility: repository.visibility,
            page: repository.page,
        };
        let created = match found {
            FoundRepository::Existing(repository) => return Ok(ready(repository, false)),
            FoundRepository::Missing(request) => create(&api, &address, is_public, &request).await,
        };
        let result = match created {
            Ok(repository) => repository.check(is_public, own_head.as_deref()).map(|()| ready(repository, true)),
            // It came into being meanwhile, or can't be seen.
            Err(ForgeError::NameTaken { said }) => match find(&api, &address, is_public).await {
                Ok(FoundRepository::Existing(repository)) => {
                    repository.check(is_public, own_head.as_deref()).map(|()| ready(repository, false))
                }
                Ok(FoundRepository::Missing(_)) => Err(ForgeError::NameTaken { said }),
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        result.map_err(|error| error.diagnostic(&address, variable, InitProgress::Committed))
    }
}

impl ExistingRepository {
    /// Whether it has nothing of others, and shows the files to nobody who was not meant.
    fn check(&self, is_public: bool, own_head: Option<&str>) -> Result<(), ForgeError> {
        match &self.head {
            Some(head) if Some(head.as_str()) != own_head => Err(ForgeError::HasCommits { head: head.clone() }),
            _ if !is_public && self.visibility != "private" => {
                Err(ForgeError::NotPrivate { visibility: self.visibility.clone() })
            }
            Some(_) | None => Ok(()),
        }
    }
}

impl ReadyRepository {
    /// What was done, in a line.
    pub(super) fn sentence(&self) -> String {
        let (address, visibility, page) = (&self.address, escape_line(&self.visibility), escape_line(&self.page));
        match (self.was_created, self.has_own_head) {
            (true, _) => format!("created {address}, {visibility}: {page}"),
            (false, false) => format!("{address} was there and empty, {visibility}: {page}"),
            (false, true) => format!("{address} was there with this commit, {visibility}: {page}"),
        }
    }

    /// The same for programs.
    pub(super) fn json(&self) -> Value {
        json!({
            "kind": self.address.kind.name(), "name": format!("{}/{}", self.address.owner, self.address.name),
            "created": self.was_created, "visibility": self.visibility, "page": self.page,
        })
    }
}

/// The first variable with a token for the forge, and the token.
fn token(address: &ForgeAddress) -> Result<(&'static str, Secret), Diagnostic> {
    let variables = address.token_variables();
    let set = |name: &&'static str| Some((*name, env_variable(name).filter(|token| !token.is_empty())?));
    match variables.iter().find_map(set) {
        Some((name, token)) => Ok((name, Secret::new(token))),
        None => {
            let name = variables[variables.len() - 1];
            let message = format!("{address} can't be created without a token: {name} is not set");
            let rights = match address.kind {
                ForgeKind::Github => "`repo`, or for a fine-grained one `Administration: write`",
                ForgeKind::Gitlab => "`api`",
            };
            let hint = format!("set {} to a token with the scope {rights}", variables.join(" or "));
            Err(Diagnostic::new(ErrorCode::MissingSecret, message).with_hint(hint))
        }
    }
}

async fn find(api: &ForgeApi, address: &ForgeAddress, is_public: bool) -> Result<FoundRepository, ForgeError> {
    match address.kind {
        ForgeKind::Github => github::find(api, address, is_public).await,
        ForgeKind::Gitlab => gitlab::find(api, address, is_public).await,
    }
}

async fn create(
    api: &ForgeApi,
    address: &ForgeAddress,
    is_public: bool,
    request: &CreateRequest,
) -> Result<ExistingRepository, ForgeError> {
    let route: Vec<&str> = request.route.iter().map(String::as_str).collect();
    let answer = api.post(&route, &request.body).await?;
    match (answer.status, address.kind) {
        (201, ForgeKind::Github) => github::existing(&answer, None),
        (201, ForgeKind::Gitlab) => gitlab::existing(&answer, None),
        (_, ForgeKind::Github) => Err(github::refusal(&answer, is_public)),
        (_, ForgeKind::Gitlab) => Err(gitlab::refusal(&answer)),
    }
}
