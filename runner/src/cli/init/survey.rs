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
/// What says in which language a project is written. `package.json` is the last one: others have it, too.
const MANIFESTS: [&str; 10] = [
    "pyproject.toml",
    "setup.py",
    "requirements.txt",
    "composer.json",
    "Gemfile",
    "pom.xml",
    "build.gradle",
    "build.gradle.kts",
    "go.mod",
    "package.json",
];
/// Frameworks and servers, by which a Python package is known to serve requests.
const PYTHON_SERVERS: [&str; 11] = [
    "aiohttp",
    "django",
    "fastapi",
    "flask",
    "gunicorn",
    "litestar",
    "pyramid",
    "sanic",
    "starlette",
    "uvicorn",
    "waitress",
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
        let parts: [fn(&Self, &mut TemplateProposal); 5] =
            [Self::containers, Self::python, Self::other_languages, Self::node, Self::site];
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
        let only_if =
            |file: &str| format!("{file}: choose compose if it is what runs in production, not only for development");
        if let Some(file) = self.first(&IMAGE_FILES) {
            proposal.propose(
                DeploymentTemplate::Container,
                format!("{file}: its image can be started beside the one that serves"),
            );
            proposal.note("in deploy.yml, `port: 8080` and `/health` must become the port and the address of yours");
            proposal.notes.extend(compose.map(only_if));
        } else if let (Some(file), None) = (compose, self.first(&MANIFESTS)) {
            proposal.propose(DeploymentTemplate::Compose, format!("{file}: its services can be replaced together"));
            proposal.notes.push(format!(
                "build.sh builds an image of a Dockerfile, which is not here: leave that out, and give each image in {file} its digest"
            ));
        } else {
            proposal.notes.extend(compose.map(only_if));
        }
    }

    fn python(&self, proposal: &mut TemplateProposal) {
        let entry = self.first(&["manage.py", "wsgi.py", "asgi.py", "app.py", "main.py"]);
        match (self.first(&["pyproject.toml", "setup.py"]), entry.or_else(|| self.first(&["requirements.txt"]))) {
            (Some(file), _) if entry.is_none() && !self.needs_python_server() => {
                proposal.notes.push(format!("{file}: a Python package, and nothing says that it serves requests"));
            }
            (Some(file), _) => {
                proposal.propose(DeploymentTemplate::Python, format!("{file}: the application can be built as a package"));
                if proposal.template != Some(DeploymentTemplate::Python) {
                    return;
                }
                if self.first(&["wsgi.py"]).is_none() {
                    proposal.note("in deploy.yml, `wsgi:application` must become the module and the name of yours");
                }
                if self.first(&["requirements.txt"]).is_none() {
                    proposal.note("build.sh needs requirements.txt with a hash for each package: `uv export` or `pip-compile --generate-hashes` writes it");
                }
            }
            (None, Some(file)) => proposal.notes.push(format!(
                "{file}: Python without a pyproject.toml, so it can't be built as a package; docs/recipes/python-supervisord.md deploys its files"
            )),
            (None, None) => {}
        }
    }

    /// Whether a framework or server is among what the package depends on.
    fn needs_python_server(&self) -> bool {
        let project = self.text("pyproject.toml");
        let between = |start: &str, end: &str| {
            let rest = project.split_once(start).map_or("", |(_, rest)| rest);
            rest.split_once(end).map_or(rest, |(inside, _)| inside).to_owned()
        };
        let texts = [
            between("\ndependencies = [", "]\n"),
            between("\n[tool.poetry.dependencies]", "\n["),
            self.text("setup.py"),
            self.text("requirements.txt"),
        ];
        let text = texts.concat().to_lowercase();
        PYTHON_SERVERS.iter().any(|server| text.contains(server))
    }

    fn other_languages(&self, proposal: &mut TemplateProposal) {
        for (file, language, page) in [
            ("composer.json", "PHP", "docs/recipes/php-fpm.md deploys it"),
            ("Gemfile", "Ruby", "docs/systemd.md starts a server in two slots"),
            ("pom.xml", "Java", "docs/systemd.md starts a jar in two slots"),
            ("build.gradle", "Java", "docs/systemd.md starts a jar in two slots"),
            ("build.gradle.kts", "Java", "docs/systemd.md starts a jar in two slots"),
            ("go.mod", "Go", "docs/systemd.md starts a program in two slots"),
        ] {
            if self.first(&[file]).is_some() {
                proposal.notes.push(format!("{file}: there is no template for {language} yet; {page}"));
            }
        }
    }

    fn node(&self, proposal: &mut TemplateProposal) {
        // In a project of another language it only builds what that serves.
        let is_alone = self.first(&MANIFESTS) == Some("package.json");
        if !is_alone {
            return;
        }
        let package: Value = serde_json::from_str(&self.text("package.json")).unwrap_or_default();
        match (package["scripts"].get("start").is_some(), package["scripts"].get("build").is_some()) {
            (false, true) => {
                proposal.propose(DeploymentTemplate::Static, "package.json: it has a script `build` and none called `start`".to_owned());
                proposal.note("in build.sh, run `npm ci && npm run build` first, and name the folder that it writes instead of `site`");
            }
            (true, false) => proposal.note("package.json: there is no template for Node yet; docs/recipes/node-systemd.md deploys it"),
            (true, true) => proposal.note(
                "package.json: it has scripts `build` and `start`. If Node serves it, see docs/recipes/node-systemd.md; if the build is a site of files, choose static",
            ),
            (false, false) => {}
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
    fn note(&mut self, text: &str) {
        self.notes.push(text.to_owned());
    }

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
                &[("pyproject.toml", "[project]\ndependencies = [\"Flask\"]\n"), ("migrations/env.py", "")][..],
                python,
                "pyproject.toml",
            ),
            (&[("pyproject.toml", "[project]\nname = 'flask'\n")], None, "nothing says that it serves"),
            (&[("app.py", "")], None, "python-supervisord"),
            (&[("package.json", r#"{"scripts": {"build": "vite build"}}"#)], site, "script `build`"),
            (&[("package.json", r#"{"scripts": {"start": "node ."}}"#)], None, "node-systemd"),
            (&[("composer.json", "{}"), ("package.json", r#"{"scripts": {"build": "vite build"}}"#)], None, "php-fpm"),
            (&[("pom.xml", ""), ("compose.yml", "")], None, "not only for development"),
            (&[("Dockerfile", ""), ("compose.yml", "")], container, "only for development"),
            (&[("docker-compose.yml", "")], Some(DeploymentTemplate::Compose), "replaced together"),
            (&[("Dockerfile", ""), ("pyproject.toml", ""), ("manage.py", "")], container, "python would fit, too"),
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
        let found = proposal(&[("setup.py", "flask"), ("alembic/env.py", "")]);
        assert!(found.notes.iter().any(|note| note.contains("alembic upgrade head")), "{:?}", found.notes);
    }
}
