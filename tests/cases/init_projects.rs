//! The table of public projects in docs/init.md: what `runner init` proposes for the files in their top folders that count.

use std::fs;

use serde_json::Value;

use crate::support::{TestEnvironment, doc_blocks::page_path};

/// Files with the part of their text that counts.
type ProjectFiles = &'static [(&'static str, &'static str)];

/// Each project of the table.
const PROJECTS: [(&str, ProjectFiles); 10] = [
    (
        "django/djangoproject.com",
        &[
            ("Dockerfile", ""),
            ("docker-compose.yml", ""),
            ("manage.py", "from django.core.management import execute_from_command_line\n"),
            ("package.json", "{}"),
            ("pyproject.toml", ""),
        ],
    ),
    (
        "miguelgrinberg/microblog",
        &[("Dockerfile", ""), ("microblog.py", ""), ("migrations/env.py", ""), ("requirements.txt", "Flask==3.0.0\n")],
    ),
    (
        "gothinkster/node-express-realworld-example-app",
        &[("Dockerfile", ""), ("package.json", r#"{"scripts": {"start": "nx serve", "build": "nx build"}}"#)],
    ),
    ("dockersamples/example-voting-app", &[("docker-compose.yml", ""), ("vote/Dockerfile", "")]),
    ("vuejs/docs", &[("package.json", r#"{"scripts": {"dev": "vitepress", "build": "vitepress build"}}"#)]),
    (
        "laravel/laravel",
        &[
            ("artisan", ""),
            ("composer.json", r#"{"type": "project"}"#),
            ("database/migrations/0001_01_01_000000_create_users_table.php", ""),
            ("package.json", r#"{"scripts": {"build": "vite build", "dev": "vite"}}"#),
            ("public/index.php", ""),
        ],
    ),
    (
        "lobsters/lobsters",
        &[
            ("Gemfile", "gem \"rails\", \"~> 5.1\"\ngem \"unicorn\"\n"),
            ("config/application.rb", ""),
            ("db/migrate/20120701.rb", ""),
            ("package.json", "{}"),
        ],
    ),
    (
        "spring-projects/spring-petclinic",
        &[
            ("build.gradle", "id 'org.springframework.boot'"),
            ("docker-compose.yml", ""),
            ("gradlew", ""),
            ("mvnw", ""),
            ("pom.xml", "<artifactId>spring-boot-starter-parent</artifactId>"),
        ],
    ),
    ("pallets/flask", &[("pyproject.toml", "[project]\nname = \"Flask\"\ndependencies = [\n    \"werkzeug\",\n]\n")]),
    (
        "squidfunk/mkdocs-material",
        &[
            ("Dockerfile", ""),
            ("mkdocs.yml", ""),
            ("package.json", "{}"),
            ("pyproject.toml", ""),
            ("requirements.txt", ""),
        ],
    ),
];

#[test]
fn projects_of_the_page_get_the_proposal_of_its_table() {
    let page = fs::read_to_string(page_path("docs/init.md")).unwrap();
    for (project, files) in PROJECTS {
        let environment = TestEnvironment::new();
        for (path, text) in files {
            environment.write(&format!("project/{path}"), text);
        }
        let proposed = environment.run_in("project", &["init", "--json"]);
        proposed.assert_exit(0);
        let answer: Value = serde_json::from_str(&proposed.stdout).unwrap();
        let row = page.lines().find(|line| line.starts_with(&format!("| {project} |")));
        let shown = row.unwrap_or_else(|| panic!("{project} has no row")).split(" | ").nth(1).unwrap();
        let template = answer["template"].as_str().unwrap_or("none");
        assert_eq!(shown.split([',', ';', ':']).next(), Some(template), "{project}: {answer}");
        for note in answer["notes"].as_array().unwrap() {
            if let Some((other, _)) = note.as_str().unwrap().split_once(" would fit, too") {
                assert!(shown.contains(other), "{project}: {other} would fit, too, which the row does not say");
            }
        }
    }
}
