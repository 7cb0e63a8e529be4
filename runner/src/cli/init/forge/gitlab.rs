//! GitLab's REST API: "Get a single project", "List repository commits", "Get a namespace", and "Create a project".

use serde_json::json;

use super::{
    CreateRequest, ExistingRepository, FoundRepository,
    address::ForgeAddress,
    api::{ForgeAnswer, ForgeApi, missing},
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
                Some(false) | None => {
                    let commits = api.get(&["projects", &path, "repository", "commits"], &[("per_page", "1")]).await?;
                    // For an empty repository, GitLab answers 404.
                    commits.newest_commit("id", 404)?
                }
            };
            Ok(FoundRepository::Existing(existing(&answer, head)?))
        }
        404 => Ok(FoundRepository::Missing(create_request(api, address, is_public).await?)),
        403 => Err(refusal(&answer)),
        _ => Err(answer.error()),
    }
}

/// A project as GitLab describes it.
pub(super) fn existing(answer: &ForgeAnswer, head: Option<String>) -> Result<ExistingRepository, ForgeError> {
    let (visibility, page) = (answer.needed_text("visibility")?, answer.needed_text("web_url")?);
    Ok(ExistingRepository { head, visibility, page })
}

async fn create_request(api: &ForgeApi, address: &ForgeAddress, is_public: bool) -> Result<CreateRequest, ForgeError> {
    let namespace = api.get(&["namespaces", &address.owner], &[]).await?;
    match namespace.status {
        // A name of digits may be taken for an id.
        200 if namespace.text("full_path").is_none_or(|path| path.eq_ignore_ascii_case(&address.owner)) => {
            let id = namespace.body["id"].as_u64();
            let id = id.ok_or_else(|| missing("id"))?;
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
