//! GitHub's side of the double.

use serde_json::{Value, json};

use super::{ApiReply, CreateFault, FakeForgeState};
use crate::support::git_http::GitHttpRequest;

impl FakeForgeState {
    pub(super) fn github_get(&self, request: &GitHttpRequest, route: &[&str]) -> ApiReply {
        assert!(request.headers.contains_key("user-agent"), "GitHub refuses calls without it");
        let scopes = vec![("x-oauth-scopes", self.scopes.clone())];
        let not_found = (404, scopes.clone(), json!({ "message": "Not Found", "status": "404" }));
        match route {
            ["user"] => (200, scopes, json!({ "login": "ann", "id": 1, "type": "User" })),
            ["orgs", "acme"] => (200, scopes, json!({ "login": "acme", "id": 2 })),
            ["repos", owner, name] => match self.repositories.get(&format!("{owner}/{name}")) {
                Some(visibility) => (200, scopes, self.github_repository(&format!("{owner}/{name}"), visibility)),
                None => not_found,
            },
            ["repos", owner, name, "commits"] => match self.head(&format!("{owner}/{name}")) {
                Some(head) => (200, scopes, json!([{ "sha": head }])),
                None => (409, scopes, json!({ "message": "Git Repository is empty.", "status": "409" })),
            },
            _ => not_found,
        }
    }

    fn github_repository(&self, path: &str, visibility: &str) -> Value {
        json!({
            "id": 1296269, "name": path.rsplit('/').next(), "full_name": path, "private": visibility != "public",
            "visibility": visibility, "html_url": format!("http://{}/{path}", self.address),
            "clone_url": format!("http://{}/{path}.git", self.address), "default_branch": "main", "size": 0,
        })
    }

    pub(super) fn github_post(&mut self, owner: &str, body: &Value) -> Option<ApiReply> {
        let headers =
            vec![("x-oauth-scopes", self.scopes.clone()), ("x-accepted-oauth-scopes", "public_repo, repo".to_owned())];
        let is_private = body["private"] == true;
        let has = |scope: &str| self.scopes.split(", ").any(|known| known == scope);
        if !has("repo") && (is_private || !has("public_repo")) {
            return Some((404, headers, json!({ "message": "Not Found", "status": "404" })));
        }
        let path = format!("{owner}/{}", body["name"].as_str().unwrap());
        let fault = self.create_fault.take();
        if matches!(fault, Some(CreateFault::HiddenRepository)) || self.repositories.contains_key(&path) {
            let error = json!({
                "resource": "Repository", "code": "custom", "field": "name", "message": "name already exists on this account",
            });
            return Some((
                422,
                headers,
                json!({ "message": "Repository creation failed.", "errors": [error], "status": "422" }),
            ));
        }
        let visibility = if is_private { "private" } else { "public" };
        self.add_repository(&path, visibility);
        let created = (201, headers, self.github_repository(&path, visibility));
        fault.is_none().then_some(created)
    }
}
