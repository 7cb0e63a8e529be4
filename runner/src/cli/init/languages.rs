//! What the files of a language's own tools speak for.
//!
//! Deliberately absent: running those tools, and reading more of a project than its top folder.

use serde_json::Value;

use super::{
    survey::{FolderSurvey, MANIFESTS, TemplateProposal},
    template::DeploymentTemplate,
};
use contract::text::escape_line;

/// What pip installs from, and what writes it.
const HASHED_REQUIREMENTS: &str =
    "requirements.txt with a hash for each package: `uv export` or `pip-compile --generate-hashes` writes it";
/// What the checks of a plan ask for.
const HEALTH: &str = "the checks request `/health` and expect `{\"release\": …}`: add it to your application, with the text of the file VERSION";
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
/// The files by which a PHP application is known to serve requests.
const PHP_ENTRIES: [&str; 4] = ["artisan", "bin/console", "public/index.php", "index.php"];

/// How Maven and Gradle are told to build a war.
const WAR_BUILDS: [&str; 6] =
    ["<packaging>war</packaging>", "id 'war'", "id \"war\"", "id(\"war\")", "apply plugin: 'war'", "`war`"];

impl FolderSurvey {
    pub(super) fn django(&self, proposal: &mut TemplateProposal) {
        if !self.is_django() {
            return;
        }
        proposal.propose(
            DeploymentTemplate::Django,
            "manage.py: Django's commands upgrade the database and collect the static files".to_owned(),
        );
        if proposal.template != Some(DeploymentTemplate::Django) {
            return;
        }
        let manage = self.text("manage.py");
        let project =
            manage.split(['"', '\'']).find_map(|word| word.split_once(".settings")).map(|(project, _)| project);
        match project {
            Some("web") => {}
            Some(project) => proposal.note(&format!("in deploy.yml, replace `web.wsgi` with `{project}.wsgi`")),
            None => proposal.note("in deploy.yml, replace `web.wsgi` with your WSGI module"),
        }
        proposal.note(
            "the settings need STATIC_ROOT, and must find what outlives a release: compare them with examples/django/web/settings.py of Pawl",
        );
        proposal.note(HEALTH);
        if !self.text("requirements.txt").contains("--hash=") {
            proposal.note(&format!("the release needs {HASHED_REQUIREMENTS}"));
        }
    }

    fn is_django(&self) -> bool {
        // Others called theirs `manage.py`, too.
        self.text("manage.py").contains("django")
    }

    pub(super) fn python(&self, proposal: &mut TemplateProposal) {
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
                    proposal.note("in deploy.yml, replace `wsgi:application` with your module and the name of the application in it");
                }
                if self.first(&["requirements.txt"]).is_none() {
                    proposal.note(&format!("build.sh needs {HASHED_REQUIREMENTS}"));
                }
            }
            (None, Some(_)) if self.is_django() => {}
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

    pub(super) fn java(&self, proposal: &mut TemplateProposal) {
        let Some(file) = self.first(&["pom.xml", "build.gradle", "build.gradle.kts"]) else { return };
        let build = self.text(file);
        if WAR_BUILDS.iter().any(|sign| build.contains(sign)) {
            proposal.notes.push(format!("{file}: a war for a servlet container, for which there is no template"));
            return;
        }
        proposal
            .propose(DeploymentTemplate::Java, format!("{file}: its jar can be started beside the one that serves"));
        if proposal.template != Some(DeploymentTemplate::Java) {
            return;
        }
        if build.contains("<packaging>pom</packaging>") {
            proposal.note(&format!("{file} only joins modules: build.sh must take the jar of the one that serves"));
        }
        let has = |wrapper: &str| self.first(&[wrapper]).is_some();
        let command = match file {
            "pom.xml" if has("mvnw") => "./mvnw package",
            "pom.xml" => "mvn package",
            _ if has("gradlew") => "./gradlew build",
            _ => "gradle build",
        };
        proposal.note(&format!(
            "in build.sh, `{command}` must take the place of `javac` and `jar`; the jar must contain what it depends on"
        ));
        if build.contains("spring-boot") || build.contains("springframework.boot") {
            proposal.note("in deploy.yml, the program must be `java -jar {release-dir}/app.jar --server.port={port}`");
        } else {
            proposal.note("in deploy.yml, pass `{port}` to the program in the way that it expects");
        }
        proposal.note(HEALTH);
    }

    pub(super) fn php(&self, proposal: &mut TemplateProposal) {
        if self.first(&["composer.json"]).is_none() {
            return;
        }
        let composer: Value = serde_json::from_str(&self.text("composer.json")).unwrap_or_default();
        if self.first_file(&["bin/magento"]).is_some() {
            proposal.note("bin/magento: for a shop that takes long to build, see the plan in Pawl's examples/magento");
            return;
        }
        match composer["type"].as_str() {
            None | Some("project") => {}
            Some(kind) => {
                proposal
                    .notes
                    .push(format!("composer.json: its type is `{kind}`, so nothing says that it serves requests"));
                return;
            }
        }
        let Some(entry) = self.first_file(&PHP_ENTRIES) else {
            proposal.note("composer.json: a PHP package, and nothing says that it serves requests");
            return;
        };
        proposal.propose(
            DeploymentTemplate::Php,
            format!("composer.json and {entry}: PHP-FPM can serve it, with the packages of Composer"),
        );
        if proposal.template != Some(DeploymentTemplate::Php) {
            return;
        }
        match entry {
            "artisan" => {}
            "bin/console" => proposal.note(
                "in deploy.yml, `config` and `migrate` are Laravel's commands; for Symfony, write `bin/console cache:warmup`, `doctrine:migrations:migrate`, and `doctrine:migrations:up-to-date` as the probe",
            ),
            _ => proposal.note("in deploy.yml, `config` and `migrate` are Laravel's commands: write those of yours, or leave them out"),
        }
        if self.text("package.json").contains("\"build\"") {
            proposal.note("in build.sh, run `npm ci && npm run build` first");
        }
        proposal.note(HEALTH);
    }

    pub(super) fn rails(&self, proposal: &mut TemplateProposal) {
        if !self.is_rails() {
            return;
        }
        proposal.propose(
            DeploymentTemplate::Rails,
            "Gemfile and config/application.rb: Rails' commands upgrade the database and compile the assets".to_owned(),
        );
        if proposal.template != Some(DeploymentTemplate::Rails) {
            return;
        }
        if self.first(&["Gemfile.lock"]).is_none() {
            proposal.note("the release needs Gemfile.lock: `bundle lock` writes it");
        }
        if self.has_gem(&["sprockets-rails", "propshaft"]) {
            proposal.note(
                "each release must keep the manifest of its assets for itself: see `config.assets.manifest` in examples/rails/config/application.rb of Pawl",
            );
        } else {
            proposal.note("the Gemfile names neither sprockets-rails nor propshaft: in deploy.yml, leave out the step `assets` if the application has no assets");
        }
        if !self.has_gem(&["puma"]) {
            proposal.note("the Gemfile does not name Puma, which the step `start` in deploy.yml runs");
        }
        proposal.note(HEALTH);
    }

    fn is_rails(&self) -> bool {
        self.has_gem(&["rails"]) && self.first_file(&["config/application.rb"]).is_some()
    }

    /// Whether the Gemfile names one of these.
    fn has_gem(&self, names: &[&str]) -> bool {
        let is_named = |line: &str| {
            let mut words = line.trim_start().split(['"', '\'']);
            words.next().is_some_and(|word| word.trim_end() == "gem")
                && words.next().is_some_and(|name| names.contains(&name))
        };
        self.text("Gemfile").lines().any(is_named)
    }

    pub(super) fn other_languages(&self, proposal: &mut TemplateProposal) {
        if self.first(&["Gemfile"]).is_some() && !self.is_rails() {
            proposal.note("Gemfile: there is no template for Ruby without Rails yet; docs/systemd.md starts a server in two slots");
        }
        if self.first(&["go.mod"]).is_some() {
            proposal.note("go.mod: there is no template for Go yet; docs/systemd.md starts a program in two slots");
        }
    }

    pub(super) fn node(&self, proposal: &mut TemplateProposal) {
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
            (true, false) => {
                proposal.propose(
                    DeploymentTemplate::Node,
                    "package.json: it has a script `start` and none called `build`, so Node can serve it".to_owned(),
                );
                if proposal.template == Some(DeploymentTemplate::Node) {
                    self.node_notes(&package, proposal);
                }
            }
            (true, true) => proposal.note(
                "package.json: it has scripts `build` and `start`. If Node serves it, choose node, with `npm ci && npm run build` in build.sh; if the build is a static site, choose static",
            ),
            (false, false) => {}
        }
    }

    fn node_notes(&self, package: &Value, proposal: &mut TemplateProposal) {
        match package["scripts"]["start"].as_str() {
            Some("node server.js") => {}
            Some(start) => proposal.note(&format!(
                "in deploy.yml, replace `/usr/bin/node server.js` with what the script `start` runs, with the full path of its program: `{}`",
                escape_line(start)
            )),
            None => proposal.note("in deploy.yml, replace `/usr/bin/node server.js` with what the script `start` runs, with the full path of its program"),
        }
        match self.first(&["package-lock.json", "npm-shrinkwrap.json", "yarn.lock", "pnpm-lock.yaml"]) {
            Some("yarn.lock") => {
                proposal.note("in deploy.yml, replace `npm ci` and its options with `yarn install --immutable`")
            }
            Some("pnpm-lock.yaml") => {
                proposal.note(
                    "in deploy.yml, replace `npm ci` and its options with `pnpm install --frozen-lockfile --prod`",
                );
            }
            Some(_) => {}
            None => proposal.note("the release needs package-lock.json: `npm install --package-lock-only` writes it"),
        }
        proposal.note("the application must listen on the port in the variable PORT");
        proposal.note(HEALTH);
    }
}
