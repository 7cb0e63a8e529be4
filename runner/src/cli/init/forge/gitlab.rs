//! GitLab's REST API: "Get a single project", "List repository commits", "Get a namespace", and "Create a project".

use serde_json::json;

use super::{
    CreateRequest, ExistingRepository, FoundRepository,
    address::ForgeAddress,
    api::{ForgeAnswer, ForgeApi},
    error::ForgeError,
};

/// What is at the address, for the token's user.
pub(super) async fn find(
    api: &ForgeApi,
    address: &ForgeAddress,
    is_public: bool,
) -> Result<FoundRepository, ForgeError> {
    let path = format!("{}/{}", address.owner, address.name);
    let answer = api.get(&["projects", &path], &[]).await?;
    match answer.status {
        200 => {
            let head = match answer.body["empty_repo"].as_bool() {
                Some(true) => None,
                Some(false) | None => newest_commit(api, &path).await?,
            };
            Ok(FoundRepository::Existing(existing(&answer, head)?))
        }
        404 => Ok(FoundRepository::Missing(create_request(api, address, is_public).await?)),
        403 => Err(refusal(&answer)),
        _ => Err(answer.error()),
    }
}

/// The newest commit of the default branch; none of an empty repository, for which GitLab answers 404.
async fn newest_commit(api: &ForgeApi, path: &str) -> Result<Option<String>, ForgeError> {
    let answer = api.get(&["projects", path, "repository", "commits"], &[("per_page", "1")]).await?;
    match answer.status {
        404 => Ok(None),
        200 => {
            let commits = answer.body.as_array();
            let commits = commits.ok_or_else(|| ForgeError::Strange { why: "it has no list of commits".to_owned() })?;
            Ok(commits.first().map(|commit| commit["id"].as_str().unwrap_or("unknown").to_owned()))
        }
        _ => Err(answer.error()),
    }
}

/// A project as GitLab describes it.
pub(super) fn existing(answer: &ForgeAnswer, head: Option<String>) -> Result<ExistingRepository, ForgeError> {
    let text = |key: &str| {
        let text = answer.text(key).map(str::to_owned);
        text.ok_or_else(|| ForgeError::Strange { why: format!("`{key}` is missing") })
    };
    Ok(ExistingRepository { head, visibility: text("visibility")?, page: text("web_url")? })
}

async fn create_request(api: &ForgeApi, address: &ForgeAddress, is_public: bool) -> Result<CreateRequest, ForgeError> {
    let namespace = api.get(&["namespaces", &address.owner], &[]).await?;
    match namespace.status {
        // A name of digits may be taken for an id.
        200 if namespace.text("full_path").is_none_or(|path| path.eq_ignore_ascii_case(&address.owner)) => {
            let id = namespace.body["id"].as_u64();
            let id = id.ok_or_else(|| ForgeError::Strange { why: "`id` is missing".to_owned() })?;
            let visibility = if is_public { "public" } else { "private" };
            let body =
                json!({ "name": address.name, "path": address.name, "namespace_id": id, "visibility": visibility });
            Ok(CreateRequest { route: vec!["projects".to_owned()], body })
        }
        200 | 404 => Err(ForgeError::NoOwner {
            what: "user or group",
            owner: address.owner.clone(),
            login: "this token".to_owned(),
        }),
        403 => Err(refusal(&namespace)),
        _ => Err(namespace.error()),
    }
}

/// Why GitLab has not done something.
pub(super) fn refusal(answer: &ForgeAnswer) -> ForgeError {
    match answer.status {
        400 | 409 if answer.said.contains("already been taken") => ForgeError::NameTaken { said: answer.said.clone() },
        403 if answer.text("error") == Some("insufficient_scope") => {
            ForgeError::Forbidden { said: answer.said.clone(), missing: Some("the scope `api`".to_owned()) }
        }
        _ => answer.error(),
    }
}
