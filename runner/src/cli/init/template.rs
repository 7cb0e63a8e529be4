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
    /// A static site
    Static,
    /// A Python web application
    Python,
    /// A Django application
    Django,
    /// A Java application in several environments
    Java,
    /// A Node application
    Node,
    /// A PHP application, such as Laravel's
    Php,
    /// A Rails application
    Rails,
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
    pub(super) const ALL: [Self; 9] = [
        Self::Static,
        Self::Python,
        Self::Django,
        Self::Java,
        Self::Node,
        Self::Php,
        Self::Rails,
        Self::Container,
        Self::Compose,
    ];

    /// The name, as in `--template` and of its folder.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Python => "python",
            Self::Django => "django",
            Self::Java => "java",
            Self::Node => "node",
            Self::Php => "php",
            Self::Rails => "rails",
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
            Self::Django => "Django with its migrations and static files, under supervisord in two slots behind nginx",
            Self::Java => "a jar through dev, test, pre and prod, under supervisord in two slots behind nginx",
            Self::Node => "Node with the packages of its lock file, under supervisord in two slots behind nginx",
            Self::Php => {
                "PHP-FPM behind nginx, switched by one link, with Composer's packages and artisan's migrations"
            }
            Self::Rails => "Rails with its migrations and assets, under supervisord in two slots behind nginx",
            Self::Container => "a container in two slots behind Caddy",
            Self::Compose => "the containers of a compose file, replaced in place",
        }
    }

    /// The files that begin an application, which only an empty folder gets.
    fn starter_files(self) -> &'static [&'static str] {
        match self {
            Self::Static => &["site/index.html"],
            Self::Python => &["pyproject.toml", "requirements.txt", "wsgi.py"],
            Self::Django => &[
                "manage.py",
                "requirements.txt",
                "web/__init__.py",
                "web/migrations/0001_greetings.py",
                "web/migrations/__init__.py",
                "web/models.py",
                "web/settings.py",
                "web/static/web/style.css",
                "web/storage.py",
                "web/urls.py",
                "web/wsgi.py",
            ],
            Self::Java => &["src/web/Server.java"],
            Self::Node => &[
                "package-lock.json",
                "package.json",
                "packages/greeting/index.js",
                "packages/greeting/package.json",
                "server.js",
            ],
            Self::Php => &[
                "app/Database.php",
                "artisan",
                "composer.json",
                "composer.lock",
                "database/migrations/0001_name.php",
                "packages/greeting/composer.json",
                "packages/greeting/src/Greeting.php",
                "public/index.php",
            ],
            Self::Rails => &[
                "Gemfile",
                "Rakefile",
                "app/assets/config/manifest.js",
                "app/assets/stylesheets/application.css",
                "app/controllers/greetings_controller.rb",
                "app/models/greeting.rb",
                "app/views/greetings/show.html.erb",
                "bin/rails",
                "config.ru",
                "config/application.rb",
                "config/boot.rb",
                "config/database.yml",
                "config/environment.rb",
                "config/puma.rb",
                "config/routes.rb",
                "db/migrate/20261201000000_create_greetings.rb",
            ],
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
            Self::Django => "/collected/\n/database/\n/secret-key\n/staticfiles.json\n__pycache__/\n",
            Self::Java => "/build/\n",
            Self::Node => "/.env\nnode_modules/\n",
            Self::Php => "/.env\n/bootstrap/cache/*.php\n/vendor/\n",
            Self::Rails => {
                "/.bundle/\n/config/assets-manifest.json\n/config/master.key\n/log/\n/public/assets/\n/storage/\n/tmp/\n/vendor/bundle/\n"
            }
        }
    }

    /// The files for an application, sorted.
    pub(super) fn files(self, app: &str, is_empty: bool, schema: String) -> Vec<PlannedFile> {
        debug_assert!(parse_app_name(app).is_ok(), "{app}");
        let own = format!("{}/", self.name());
        let common = format!("{COMMON}/");
        // A template's own file takes the place of the common one.
        let is_own = |path: &str| EMBEDDED.iter().any(|(embedded, _)| embedded.strip_prefix(&own) == Some(path));
        let place = |path: &'static str| {
            path.strip_prefix(&own).or_else(|| path.strip_prefix(&common).filter(|path| !is_own(path)))
        };
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
            "deploy/nginx.conf" | "deploy/nginx-location.conf" => "for the machine's nginx",
            "deploy/php-fpm.conf" => "for the machine's PHP-FPM",
            "deploy/sudoers" => "lets the runner's user reload it",
            "deploy/Caddyfile" => "for the machine's Caddy",
            "deploy/supervisord.conf" => "for the machine's supervisord",
            ".github/workflows/deploy.yml" => "deploys each commit of main",
            GITIGNORE => "what git ignores",
            ".pawlignore" => "what a release leaves out",
            "requests/smoke.txt" => "the requests that are tried in dev and test",
            "VERSION" => "names the release, once it is packed",
            "requirements.txt" => "the packages that the application needs",
            _ => "a small application to start from",
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
            assert!(files.windows(2).all(|pair| pair[0].path != pair[1].path), "{template:?}: no file is there twice");
            // A variable of nginx has no dash in its name.
            let dashed = template.files("my-kiosk", true, String::new());
            let is_named = |text: &str| text.contains("$my-kiosk") || text.contains("${my-kiosk");
            assert!(dashed.iter().all(|file| !is_named(&file.text)), "{template:?}");
            let again = template.files("kiosk", false, String::new());
            assert_eq!(again.len() + template.starter_files().len(), files.len());
        }
    }
}
