//! What is in a folder, and which template that speaks for.
//!
//! Deliberately absent: guesses. What no template is for is named, with the page that shows how to deploy it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

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
pub(super) const MANIFESTS: [&str; 10] = [
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
            proposal
                .reasons
                .push("the folder is empty: choose a template; it also writes a small application".to_owned());
            return proposal;
        }
        let parts: [fn(&Self, &mut TemplateProposal); 9] = [
            Self::containers,
            Self::django,
            Self::python,
            Self::java,
            Self::php,
            Self::rails,
            Self::other_languages,
            Self::node,
            Self::site,
        ];
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
            proposal.note("in deploy.yml, replace `port: 8080` and `/health` with the port and the health check of your application");
            proposal.notes.extend(compose.map(only_if));
        } else if let (Some(file), None) = (compose, self.first(&MANIFESTS)) {
            proposal.propose(DeploymentTemplate::Compose, format!("{file}: its services can be replaced together"));
            proposal.notes.push(format!(
                "build.sh builds an image from a Dockerfile, and there is none here: remove that part, and give each image in {file} its digest"
            ));
        } else {
            proposal.notes.extend(compose.map(only_if));
        }
    }

    fn site(&self, proposal: &mut TemplateProposal) {
        if proposal.template.is_some() {
            return;
        }
        let generator = SITE_GENERATORS.iter().find(|(file, _)| self.first(&[file]).is_some());
        if let Some((file, command)) = generator {
            proposal.propose(DeploymentTemplate::Static, format!("{file}: it builds a static site"));
            proposal.notes.push(format!("in build.sh, run `{command}` first"));
        } else if let Some(folder) = self.first_file(&["site/index.html", "public/index.html", "index.html"]) {
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
            // The template has the step already.
            let is_known = matches!(
                (proposal.template, folder),
                (Some(DeploymentTemplate::Php), "database/migrations")
                    | (Some(DeploymentTemplate::Rails), "db/migrate")
            );
            if self.dir.join(folder).is_dir() && !is_known {
                proposal.notes.push(format!("{folder}/: {how}"));
            }
        }
    }

    /// The first of these names that the folder has.
    pub(super) fn first<'n>(&self, names: &[&'n str]) -> Option<&'n str> {
        names.iter().copied().find(|name| self.names.iter().any(|known| known == name))
    }

    /// The first of these files, which may be in folders below.
    pub(super) fn first_file<'n>(&self, paths: &[&'n str]) -> Option<&'n str> {
        paths.iter().copied().find(|path| self.dir.join(path).is_file())
    }

    /// The text of a file; empty if it can't be read.
    pub(super) fn text(&self, file: &str) -> String {
        fs::read_to_string(self.dir.join(file)).unwrap_or_default()
    }
}

impl TemplateProposal {
    pub(super) fn note(&mut self, text: &str) {
        self.notes.push(text.to_owned());
    }

    pub(super) fn propose(&mut self, template: DeploymentTemplate, reason: String) {
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

    const MANAGE: &str = "import django\nos.environ.setdefault('DJANGO_SETTINGS_MODULE', 'shop_site.settings')\n";

    const RAILS: (&str, &str) = ("config/application.rb", "");

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
        let (container, django) = (Some(DeploymentTemplate::Container), Some(DeploymentTemplate::Django));
        let (java, php) = (Some(DeploymentTemplate::Java), Some(DeploymentTemplate::Php));
        let (node, rails) = (Some(DeploymentTemplate::Node), Some(DeploymentTemplate::Rails));
        for (files, template, word) in [
            (
                &[("pyproject.toml", "[project]\ndependencies = [\"Flask\"]\n"), ("migrations/env.py", "")][..],
                python,
                "pyproject.toml",
            ),
            (&[("pyproject.toml", "[project]\nname = 'flask'\n")], None, "nothing says that it serves"),
            (&[("app.py", "")], None, "python-supervisord"),
            (&[("package.json", r#"{"scripts": {"build": "vite build"}}"#)], site, "script `build`"),
            (&[("package.json", r#"{"scripts": {"start": "node ."}}"#)], node, "`npm install --package-lock-only`"),
            (&[("package.json", r#"{"scripts": {"start": "node app.js"}}"#)], node, "program: `node app.js`"),
            (
                &[("package.json", r#"{"scripts": {"start": "x"}}"#), ("yarn.lock", "")],
                node,
                "yarn install --immutable",
            ),
            (&[("package.json", r#"{"scripts": {"start": "x", "build": "y"}}"#)], None, "choose node"),
            (
                &[("Dockerfile", ""), ("package.json", r#"{"scripts": {"start": "x"}}"#)],
                container,
                "node would fit, too",
            ),
            (&[("composer.json", "{}"), ("package.json", r#"{"scripts": {"build": "vite build"}}"#)], None, "serves"),
            (
                &[
                    ("composer.json", "{}"),
                    ("artisan", ""),
                    ("package.json", r#"{"scripts": {"build": "vite build"}}"#),
                ],
                php,
                "npm run build",
            ),
            (&[("composer.json", r#"{"type": "library"}"#), ("index.php", "")], None, "its type is `library`"),
            (&[("composer.json", r#"{"type": "project"}"#), ("bin/console", "")], php, "Symfony"),
            (&[("composer.json", "{}"), ("bin/magento", "")], None, "examples/magento"),
            (&[("pom.xml", ""), ("compose.yml", "")], java, "not only for development"),
            (&[("build.gradle.kts", "plugins { id(\"org.springframework.boot\") }")], java, "--server.port={port}"),
            (&[("pom.xml", "<packaging>war</packaging>")], None, "servlet container"),
            (&[("build.gradle", "plugins {\n    id 'war'\n}")], None, "servlet container"),
            (&[("pom.xml", "<packaging>pom</packaging>")], java, "only joins modules"),
            (&[("manage.py", MANAGE), ("requirements.txt", "")], django, "`shop_site.wsgi`"),
            (&[("manage.py", MANAGE), ("pyproject.toml", "")], django, "python would fit, too"),
            (&[("manage.py", "from flask_script import Manager")], None, "python-supervisord"),
            (&[RAILS, ("Gemfile", "gem 'rails'\ngem 'puma'\ngem 'propshaft'\n")], rails, "`bundle lock`"),
            (&[RAILS, ("Gemfile", "gem \"rails\"\ngem \"puma\"\n")], rails, "leave out the step `assets`"),
            (&[RAILS, ("Gemfile", "gem 'rails'\n"), ("db/migrate/1_a.rb", "")], rails, "does not name Puma"),
            (&[("Gemfile", "gem 'rails'\n")], None, "docs/systemd.md"),
            (&[RAILS, ("Gemfile", "gem 'rails-i18n'\n")], None, "docs/systemd.md"),
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
