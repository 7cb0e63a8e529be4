//! What to write in the plan to get what was published.

use std::path::Path;

use url::Url;

use super::PublishSource;

pub(super) fn of_folder(source: &PublishSource, folder: &Path, name: &str) -> String {
    let grant = match folder.display().to_string() {
        path if path.starts_with(['/', '.']) => path,
        path => format!("./{path}"),
    };
    format!(
        "pull:\n  with: {{ from: \"file:dist/{}\", into: app }}\n  grants: {{ dirs: {{ app: /srv/APP, dist: \"{grant}:ro\" }} }}\n",
        source.with_release(name, '/')
    )
}

pub(super) fn of_url(source: &PublishSource, url: &Url) -> String {
    let location = source.with_release(url.as_str(), '/');
    with_origin(&location, &url.origin().ascii_serialization())
}

pub(super) fn of_registry(source: &PublishSource, location: &str, origin: &str) -> String {
    with_origin(&source.with_release(location, ':'), origin)
}

fn with_origin(location: &str, origin: &str) -> String {
    format!(
        "pull:\n  with: {{ from: \"{location}\", into: app }}\n  grants: {{ dirs: {{ app: /srv/APP }}, http: [\"{origin}\"] }}\n"
    )
}

/// A line of the file that the step `venv` reads.
pub(super) fn of_package(name: &str, version: &str, digest: &str) -> String {
    format!("requirements.txt:\n  {name}=={version} --hash={digest}\n")
}
