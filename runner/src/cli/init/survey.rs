//! What is in a folder, and which template that speaks for.
//!
//! Deliberately absent: guesses. What no template is for is named, with the page that shows how to deploy it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::template::DeploymentTemplate;

/// The names that a compose file may have.
const COMPOSE_FILES: [&str; 4] = ["compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml"];
/// The names of files from which an image is built.
const IMAGE_FILES: [&str; 2] = ["Dockerfile", "Containerfile"];
/// Folders with migrations, and how they are run.
const MIGRATION_FOLDERS: [(&str, &str); 6] = [
    (
        "migrations",
        "add a step `migrate` if they are SQL (docs/migrate.md), or a `run` step for the framework's command",
    ),
    ("db/migrate", "add a `run` step: `bin/rails db:migrate`"),
    ("db/migrations", "add a step `migrate` if they are SQL (docs/migrate.md)"),
    ("database/migrations", "add a `run` step: `php artisan migrate --force`"),
    ("alembic", "add a `run` step: `alembic upgrade head`"),
    ("prisma/migrations", "add a `run` step: `npx prisma migrate deploy`"),
];
/// Generators of sites, by their configuration.
const SITE_GENERATORS: [(&str, &str); 6] = [
    ("mkdocs.yml", "mkdocs build --site-dir site"),
    ("hugo.toml", "hugo --destination site"),
    ("hugo.yaml", "hugo --destination site"),
    ("_config.yml", "jekyll build --destination site"),
    ("astro.config.mjs", "astro build --outDir site"),
    ("docusaurus.config.js", "docusaurus build --out-dir site"),
];

/// A folder that is looked at.
#[derive(Debug)]
pub(super) struct FolderSurvey {
    dir: PathBuf,
    /// What is in it, without hidden files.
    names: Vec<String>,
}

/// What fits a folder.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct TemplateProposal {
    pub(super) template: Option<DeploymentTemplate>,
    pub(super) reasons: Vec<String>,
    pub(super) notes: Vec<String>,
}

impl FolderSurvey {
    pub(super) fn read(dir: &Path) -> io::Result<Self> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if !name.starts_with('.') {
                names.push(name);
            }
        }
        names.sort();
        Ok(Self { dir: dir.to_owned(), names })
    }

    /// Whether nothing but hidden files is there.
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The template that fits, with what speaks for it, and what it does not know.
    pub(super) fn proposal(&self) -> TemplateProposal {
        let mut proposal = TemplateProposal::default();
        if self.is_empty() {
            proposal.reasons.push("it is empty: choose one, which also begins an application".to_owned());
            return proposal;
        }
        let parts: [fn(&Self, &mut TemplateProposal); 6] =
            [Self::containers, Self::python, Self::node, Self::php, Self::java, Self::site];
        for part in parts {
            part(self, &mut proposal);
        }
        if proposal.template.is_none() && proposal.notes.is_empty() {
            proposal.reasons.push("nothing in it says how it is built or served".to_owned());
        }
        self.migrations(&mut proposal);
        proposal
    }

    fn containers(&self, proposal: &mut TemplateProposal) {
        let compose = self.first(&COMPOSE_FILES);
        if let Some(file) = self.first(&IMAGE_FILES) {
            proposal.propose(
                DeploymentTemplate::Container,
                format!("{file}: its image can be started beside the one that serves"),
            );
            proposal.notes.push(
                "in deploy.yml, `port: 8080` and `/health` must become the port and the address of yours".to_owned(),
            );
            if let Some(compose) = compose {
                proposal.notes.push(format!(
                    "{compose}: if it is what runs in production, and not only for development, choose compose"
                ));
            }
        } else if let Some(file) = compose {
            proposal.propose(DeploymentTemplate::Compose, format!("{file}: its services can be replaced together"));
            proposal.notes.push(format!("build.sh builds an image of a Dockerfile, which is not here: leave that out, and give each image in {file} its digest"));
        }
    }

    fn python(&self, proposal: &mut TemplateProposal) {
        let has_package = self.first(&["pyproject.toml", "setup.py"]);
        let entry = self.first(&["manage.py", "wsgi.py", "asgi.py", "app.py", "main.py"]);
        match (has_package, entry.or_else(|| self.first(&["requirements.txt"]))) {
            (Some(file), _) if self.is_python_library(file) => proposal.notes.push(format!(
                "{file}: a Python package, and nothing says that it serves requests"
            )),
            (Some(file), _) => {
                proposal.propose(DeploymentTemplate::Python, format!("{file}: the application can be built as a package"));
                if self.first(&["wsgi.py"]).is_none() {
                    proposal.notes.push("in deploy.yml, `wsgi:application` must become the module and name of yours".to_owned());
                }
                if self.first(&["requirements.txt"]).is_none() {
                    proposal.notes.push("build.sh needs requirements.txt, with a hash for each package: `uv export` or `pip-compile --generate-hashes`".to_owned());
                }
            }
            (None, Some(file)) => proposal.notes.push(format!(
                "{file}: Python without a pyproject.toml, so it can't be built as a package; docs/recipes/python-supervisord.md deploys its files"
            )),
            (None, None) => {}
        }
    }

    /// Whether a package has no sign of a server.
    fn is_python_library(&self, file: &str) -> bool {
        let servers = [
            "django",
            "flask",
            "fastapi",
            "starlette",
            "gunicorn",
            "uvicorn",
            "aiohttp",
            "pyramid",
            "wsgi",
            "asgi",
            "sanic",
            "litestar",
        ];
        let mut text = self.text(file) + &self.text("requirements.txt");
        text.make_ascii_lowercase();
        !servers.iter().any(|server| text.contains(server))
            && self.first(&["manage.py", "wsgi.py", "asgi.py"]).is_none()
    }

    fn node(&self, proposal: &mut TemplateProposal) {
        if self.first(&["package.json"]).is_none() {
            return;
        }
        let package: Value = serde_json::from_str(&self.text("package.json")).unwrap_or_default();
        let has = |script: &str| package["scripts"].get(script).is_some();
        if has("start") && !has("build") {
            proposal.notes.push("package.json with a script `start`: there is no template for Node yet; docs/recipes/node-systemd.md deploys it".to_owned());
        } else if has("build") && !has("start") {
            proposal.propose(
                DeploymentTemplate::Static,
                "package.json has a script `build` and none that serves".to_owned(),
            );
            proposal.notes.push(
                "in build.sh, run `npm ci && npm run build`, and name the folder that it writes instead of `site`"
                    .to_owned(),
            );
        } else if has("build") {
            proposal.notes.push("package.json has scripts `build` and `start`: if it is served by Node, see docs/recipes/node-systemd.md; if the build is a site of files, choose static".to_owned());
        }
    }

    fn php(&self, proposal: &mut TemplateProposal) {
        if self.first(&["composer.json"]).is_some() {
            proposal
                .notes
                .push("composer.json: there is no template for PHP yet; docs/recipes/php-fpm.md deploys it".to_owned());
        }
    }

    fn java(&self, proposal: &mut TemplateProposal) {
        if let Some(file) = self.first(&["pom.xml", "build.gradle", "build.gradle.kts"]) {
            proposal
                .notes
                .push(format!("{file}: there is no template for Java yet; docs/systemd.md starts a jar in two slots"));
        }
    }

    fn site(&self, proposal: &mut TemplateProposal) {
        if proposal.template.is_some() {
            return;
        }
        let generator = SITE_GENERATORS.iter().find(|(file, _)| self.first(&[file]).is_some());
        if let Some((file, command)) = generator {
            proposal.propose(DeploymentTemplate::Static, format!("{file}: a site of files is built here"));
            proposal.notes.push(format!("in build.sh, run `{command}` first"));
        } else if let Some(folder) = ["site/index.html", "public/index.html", "index.html"]
            .into_iter()
            .find(|file| self.dir.join(file).is_file())
        {
            // What has a server of its own may have an index.html too.
            if proposal.notes.is_empty() {
                proposal.propose(DeploymentTemplate::Static, format!("{folder}: files that can be served as they are"));
                if folder != "site/index.html" {
                    proposal.notes.push("in build.sh, name their folder instead of `site`".to_owned());
                }
            }
        }
    }

    fn migrations(&self, proposal: &mut TemplateProposal) {
        for (folder, how) in MIGRATION_FOLDERS {
            if self.dir.join(folder).is_dir() {
                proposal.notes.push(format!("{folder}/: {how}"));
            }
        }
    }

    /// The first of these names that the folder has.
    fn first<'n>(&self, names: &[&'n str]) -> Option<&'n str> {
        names.iter().copied().find(|name| self.names.iter().any(|known| known == name))
    }

    /// The text of a file; empty if it can't be read.
    fn text(&self, file: &str) -> String {
        fs::read_to_string(self.dir.join(file)).unwrap_or_default()
    }
}

impl TemplateProposal {
    fn propose(&mut self, template: DeploymentTemplate, reason: String) {
        if self.template.is_none() {
            self.template = Some(template);
            self.reasons.push(reason);
        } else {
            self.notes.push(format!("{} would fit, too: {reason}", template.name()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proposal(files: &[(&str, &str)]) -> TemplateProposal {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        FolderSurvey::read(folder.path()).unwrap().proposal()
    }

    #[test]
    fn folders_get_the_template_that_fits_or_are_told_why_none_does() {
        let (python, site) = (Some(DeploymentTemplate::Python), Some(DeploymentTemplate::Static));
        let container = Some(DeploymentTemplate::Container);
        for (files, template, word) in [
            (
                &[("pyproject.toml", "dependencies = ['flask']"), ("migrations/env.py", "")][..],
                python,
                "pyproject.toml",
            ),
            (&[("pyproject.toml", "name = 'lib'")], None, "nothing says that it serves"),
            (&[("app.py", "")], None, "python-supervisord"),
            (&[("package.json", r#"{"scripts": {"build": "vite build"}}"#)], site, "script `build`"),
            (&[("package.json", r#"{"scripts": {"start": "node ."}}"#)], None, "node-systemd"),
            (&[("composer.json", "{}"), ("public/index.html", "")], None, "php-fpm"),
            (&[("pom.xml", "")], None, "docs/systemd.md"),
            (&[("Dockerfile", ""), ("compose.yml", "")], container, "only for development"),
            (&[("docker-compose.yml", "")], Some(DeploymentTemplate::Compose), "replaced together"),
            (&[("Dockerfile", ""), ("pyproject.toml", "django")], container, "python would fit, too"),
            (&[("mkdocs.yml", "")], site, "mkdocs.yml"),
            (&[("index.html", "")], site, "index.html"),
            (&[("notes.txt", "")], None, "nothing in it"),
            (&[(".git/HEAD", "")], None, "empty"),
        ] {
            let found = proposal(files);
            let told = [found.reasons.clone(), found.notes.clone()].concat().join("\n");
            assert_eq!(found.template, template, "{files:?}: {told}");
            assert!(told.contains(word), "{files:?}: {told}");
        }
    }

    #[test]
    fn migrations_are_named() {
        let found = proposal(&[("pyproject.toml", "flask"), ("alembic/env.py", "")]);
        assert!(found.notes.iter().any(|note| note.contains("alembic upgrade head")), "{:?}", found.notes);
    }
}
