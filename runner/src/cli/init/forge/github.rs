//! GitHub's REST API: "Get a repository", "List commits", "Get the authenticated user", "Get an organization", and "Create a repository"
//! for the user or an organization.

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
    let ForgeAddress { owner, name, .. } = address;
    let answer = api.get(&["repos", owner, name], &[]).await?;
    match answer.status {
        200 => {
            let commits = api.get(&["repos", owner, name, "commits"], &[("per_page", "1")]).await?;
            // For an empty repository, GitHub answers 409.
            Ok(FoundRepository::Existing(existing(&answer, commits.newest_commit("sha", 409)?)?))
        }
        404 => Ok(FoundRepository::Missing(create_request(api, address, is_public).await?)),
        _ => Err(answer.error()),
    }
}

/// A repository as GitHub describes it.
pub(super) fn existing(answer: &ForgeAnswer, head: Option<String>) -> Result<ExistingRepository, ForgeError> {
    let is_private = answer.body["private"].as_bool().ok_or_else(|| missing("private"))?;
    // GitHub Enterprise has `internal`, too.
    let visibility = answer.text("visibility").unwrap_or(if is_private { "private" } else { "public" });
    Ok(ExistingRepository { head, visibility: visibility.to_owned(), page: answer.needed_text("html_url")? })
}

async fn create_request(api: &ForgeApi, address: &ForgeAddress, is_public: bool) -> Result<CreateRequest, ForgeError> {
    let user = api.get(&["user"], &[]).await?;
    // The token of an app has no user.
    let login = match user.status {
        200 => user.text("login").unwrap_or_default().to_owned(),
        403 => String::new(),
        _ => return Err(user.error()),
    };
    let body = json!({ "name": address.name, "private": !is_public });
    if login.eq_ignore_ascii_case(&address.owner) {
        return Ok(CreateRequest { route: vec!["user".to_owned(), "repos".to_owned()], body });
    }
    let organization = api.get(&["orgs", &address.owner], &[]).await?;
    match organization.status {
        200 => Ok(CreateRequest { route: vec!["orgs".to_owned(), address.owner.clone(), "repos".to_owned()], body }),
        404 => {
            let login = if login.is_empty() { "this token".to_owned() } else { login };
            Err(ForgeError::NoOwner { what: "organization", owner: address.owner.clone(), login })
        }
        _ => Err(organization.error()),
    }
}

/// Why GitHub has not created a repository.
pub(super) fn refusal(answer: &ForgeAnswer, is_public: bool) -> ForgeError {
    let is_named = |error: &serde_json::Value| error["field"] == "name";
    match answer.status {
        422 if answer.body["errors"].as_array().is_some_and(|errors| errors.iter().any(is_named))
            && answer.said.contains("already exists") =>
        {
            ForgeError::NameTaken { said: answer.said.clone() }
        }
        // What a token may not do, GitHub does not show to it.
        403 | 404 => match (answer.error(), missing_right(answer, is_public)) {
            (ForgeError::TooManyCalls { seconds }, _) => ForgeError::TooManyCalls { seconds },
            (_, missing) => ForgeError::Forbidden { said: answer.said.clone(), missing },
        },
        _ => answer.error(),
    }
}

/// What the token lacks, by the headers of the answer: a classic token has scopes, a fine-grained one permissions.
fn missing_right(answer: &ForgeAnswer, is_public: bool) -> Option<String> {
    if let Some(scopes) = answer.header("x-oauth-scopes") {
        let has = |scope: &str| scopes.split(',').any(|known| known.trim() == scope);
        let is_enough = has("repo") || is_public && has("public_repo");
        let owned = if scopes.trim().is_empty() { "none".to_owned() } else { format!("`{}`", scopes.trim()) };
        return (!is_enough).then(|| format!("the scope `repo`; its scopes: {owned}"));
    }
    let permissions = answer.header("x-accepted-github-permissions")?;
    Some(format!("the permission `{permissions}`"))
}
