//! The templates: the examples of this repository, which the binary contains.

use super::parse_app_name;

/// The files as `(path, text)`: the folders of `examples` that are templates, and `common`; build.rs lists them.
static EMBEDDED: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/deployment_templates.rs"));

/// The name of the application in the examples.
const PLACEHOLDER: &str = "shop";
/// The folder of what all templates have.
const COMMON: &str = "common";
/// The only file that may exist already.
pub(super) const GITIGNORE: &str = ".gitignore";
/// What the first line of a plan names.
const SCHEMA: &str = "pawl.schema.json";

/// A way to deploy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum DeploymentTemplate {
    /// A site of files
    Static,
    /// A Python web application
    Python,
    /// A container behind a proxy
    Container,
    /// Containers of a compose file
    Compose,
}

/// A file that will be written.
#[derive(Debug)]
pub(super) struct PlannedFile {
    pub(super) path: String,
    pub(super) text: String,
}

impl DeploymentTemplate {
    pub(super) const ALL: [Self; 4] = [Self::Static, Self::Python, Self::Container, Self::Compose];

    /// The name, as in `--template` and of its folder.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Python => "python",
            Self::Container => "container",
            Self::Compose => "compose",
        }
    }

    /// What it does, in some words.
    pub(super) fn summary(self) -> &'static str {
        match self {
            Self::Static => "files that nginx serves, switched by one link",
            Self::Python => {
                "a package from an index, in a virtual environment, under supervisord in two slots behind nginx"
            }
            Self::Container => "a container in two slots behind Caddy",
            Self::Compose => "the containers of a compose file, replaced in place",
        }
    }

    /// The files that begin an application, which only an empty folder gets.
    fn starter_files(self) -> &'static [&'static str] {
        match self {
            Self::Static => &["site/index.html"],
            Self::Python => &["pyproject.toml", "requirements.txt", "wsgi.py"],
            Self::Container => &[],
            Self::Compose => &["compose.yml"],
        }
    }

    /// Lines for `.gitignore` besides the common ones.
    fn ignored(self) -> &'static str {
        match self {
            Self::Static => "site/VERSION\n",
            Self::Container | Self::Compose => "",
            Self::Python => "/VERSION\n/build/\n*.egg-info/\n__pycache__/\n",
        }
    }

    /// The files for an application, sorted.
    pub(super) fn files(self, app: &str, is_empty: bool, schema: String) -> Vec<PlannedFile> {
        debug_assert!(parse_app_name(app).is_ok(), "{app}");
        let own = format!("{}/", self.name());
        let common = format!("{COMMON}/");
        let place = |path: &'static str| path.strip_prefix(&own).or_else(|| path.strip_prefix(&common));
        let mut files: Vec<PlannedFile> = EMBEDDED
            .iter()
            .filter_map(|(path, text)| Some((place(path)?, text)))
            .filter(|(path, _)| is_empty || !self.starter_files().contains(path))
            .map(|(path, text)| PlannedFile { path: path.to_owned(), text: text.replace(PLACEHOLDER, app) })
            .collect();
        if let Some(gitignore) = files.iter_mut().find(|file| file.path == GITIGNORE) {
            gitignore.text += self.ignored();
        }
        files.push(PlannedFile { path: SCHEMA.to_owned(), text: schema });
        files.sort_by(|one, other| one.path.cmp(&other.path));
        files
    }
}

impl PlannedFile {
    /// What it is for, in some words.
    pub(super) fn purpose(&self) -> &'static str {
        match self.path.as_str() {
            "deploy.yml" => "the plan",
            SCHEMA => "for editors: keys and errors of the plan",
            "build.sh" => "makes a release",
            "deploy/nginx.conf" => "for the machine's nginx",
            "deploy/Caddyfile" => "for the machine's Caddy",
            "deploy/supervisord.conf" => "for the machine's supervisord",
            ".github/workflows/deploy.yml" => "deploys each commit of main",
            GITIGNORE => "what git leaves alone",
            "requirements.txt" => "the packages that the application needs",
            _ => "a beginning of the application",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_have_the_name_of_the_application() {
        for template in DeploymentTemplate::ALL {
            let files = template.files("kiosk", true, String::new());
            for name in ["deploy.yml", "build.sh", ".github/workflows/deploy.yml", GITIGNORE, SCHEMA] {
                assert!(files.iter().any(|file| file.path == name), "{template:?}: {name}");
            }
            for starter in template.starter_files() {
                assert!(files.iter().any(|file| file.path == *starter), "{template:?}: {starter}");
            }
            assert!(files.iter().all(|file| !file.text.contains(PLACEHOLDER)), "{template:?}");
            let again = template.files("kiosk", false, String::new());
            assert_eq!(again.len() + template.starter_files().len(), files.len());
        }
    }
}
