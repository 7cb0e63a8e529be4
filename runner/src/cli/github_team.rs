//! Members of GitHub teams, for `allow: [github-team:ORGANIZATION/TEAM]`.
//!
//! The job's own token can't read teams, so `PAWL_TEAM_TOKEN` has one that can (`read:org`, or "Members: read" of a GitHub app).
//! The request is that of GitHub's REST API, "Get team membership for a user".

use serde::Deserialize;

use super::{
    github_api::{api_error_text, client},
    source::env_variable,
};

/// The variable with a token that can read the members of teams.
const TOKEN_VARIABLE: &str = "PAWL_TEAM_TOKEN";

#[derive(Deserialize)]
struct Membership {
    state: String,
}

/// Whether a user is an active member of a team.
///
/// # Errors
/// GitHub can't be asked.
pub(super) async fn is_member(organization: &str, team: &str, login: &str) -> Result<bool, String> {
    let token = env_variable(TOKEN_VARIABLE).filter(|token| !token.is_empty());
    let token = token.ok_or_else(|| format!("{TOKEN_VARIABLE} is not set: it needs a token that can read teams"))?;
    let route = format!("/orgs/{organization}/teams/{team}/memberships/{login}");
    match client(token)?.get::<Membership, _, ()>(route, None).await {
        Ok(membership) => Ok(membership.state == "active"),
        Err(octocrab::Error::GitHub { source, .. }) if source.status_code.as_u16() == 404 => Ok(false),
        Err(error) => Err(api_error_text(&error)),
    }
}
