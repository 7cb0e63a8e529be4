//! GitLab's side of the double.

use serde_json::{Value, json};

use super::{ApiReply, CreateFault, FakeForgeState};

impl FakeForgeState {
    pub(super) fn gitlab_get(&self, route: &[&str]) -> ApiReply {
        let not_found = |what: &str| (404, Vec::new(), json!({ "message": format!("404 {what} Not Found") }));
        let decoded: Vec<String> = route.iter().map(|segment| segment.replace("%2F", "/")).collect();
        let decoded: Vec<&str> = decoded.iter().map(String::as_str).collect();
        match decoded.as_slice() {
            ["namespaces", "ann"] => (200, Vec::new(), json!({ "id": 1, "kind": "user", "full_path": "ann" })),
            ["namespaces", "acme/web"] => {
                (200, Vec::new(), json!({ "id": 7, "kind": "group", "full_path": "acme/web" }))
            }
            ["namespaces", ..] => not_found("Namespace"),
            ["projects", path] => match self.repositories.get(*path) {
                Some(visibility) => (200, Vec::new(), self.gitlab_project(path, visibility)),
                None => not_found("Project"),
            },
            ["projects", path, "repository", "commits"] => match self.head(path) {
                Some(head) => (200, Vec::new(), json!([{ "id": head }])),
                None => not_found("Repository"),
            },
            _ => not_found("Page"),
        }
    }

    fn gitlab_project(&self, path: &str, visibility: &str) -> Value {
        json!({
            "id": 3, "path": path.rsplit('/').next(), "path_with_namespace": path, "visibility": visibility,
            "web_url": format!("http://{}/{path}", self.address), "empty_repo": self.head(path).is_none(),
            "http_url_to_repo": format!("http://{}/{path}.git", self.address), "default_branch": "main",
        })
    }

    pub(super) fn gitlab_post(&mut self, body: &Value) -> Option<ApiReply> {
        if !self.scopes.split(' ').any(|scope| scope == "api") {
            let text = "The request requires higher privileges than provided by the access token.";
            let refused = json!({ "error": "insufficient_scope", "error_description": text, "scope": "api" });
            return Some((403, Vec::new(), refused));
        }
        let owner = match body["namespace_id"].as_u64() {
            Some(1) => "ann",
            Some(7) => "acme/web",
            other => panic!("no such namespace: {other:?}"),
        };
        let path = format!("{owner}/{}", body["path"].as_str().unwrap());
        let fault = self.create_fault.take();
        if matches!(fault, Some(CreateFault::HiddenRepository)) || self.repositories.contains_key(&path) {
            let taken = json!(["has already been taken"]);
            return Some((400, Vec::new(), json!({ "message": { "name": taken, "path": taken } })));
        }
        let visibility = body["visibility"].as_str().unwrap().to_owned();
        self.add_repository(&path, &visibility);
        let created = (201, Vec::new(), self.gitlab_project(&path, &visibility));
        fault.is_none().then_some(created)
    }
}
