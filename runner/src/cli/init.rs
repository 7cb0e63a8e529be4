//! `runner init [DIR]`: writes a plan and the files around it, from a template; without `--template`, it proposes one.
//!
//! Invariant: nothing is overwritten, and a call that was killed or failed can be repeated. Deliberately absent: asking questions, and the
//! machine itself, which docs/init.md sets up.

mod files;
mod forge;
mod languages;
mod repository;
mod survey;
mod template;

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde_json::json;

use crate::report::{self, OutputFormat, json};
use contract::diagnostic::{Diagnostic, ErrorCode, ExitKind};

use forge::{ForgeKind, ForgeRepository, ReadyRepository};
use repository::{BRANCH, NewRepository, REMOTE};
use survey::FolderSurvey;
use template::{DeploymentTemplate, PlannedFile};

/// What an application is called whose folder has no name that would do.
const DEFAULT_NAME: &str = "app";
/// How wide the column of paths is at least.
const MIN_PATH_WIDTH: usize = 32;

/// Arguments of `init`.
#[derive(Debug, clap::Args)]
pub(super) struct InitArgs {
    /// The folder of the application
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// The template; without it, one is proposed and nothing is written
    #[arg(long, value_name = "NAME")]
    template: Option<DeploymentTemplate>,
    /// The name of the application; by default that of the folder
    #[arg(long, value_name = "NAME", value_parser = parse_app_name)]
    name: Option<String>,
    /// Also makes a git repository, with the files in its first commit and this remote
    #[arg(long, value_name = "URL", requires = "template")]
    remote: Option<String>,
    /// Pushes the first commit to the remote
    #[arg(long, requires = "remote")]
    push: bool,
    /// Creates the remote's repository on GitHub or GitLab, a private one; needs a token in GITHUB_TOKEN, GH_TOKEN or GITLAB_TOKEN
    #[arg(long, requires = "remote")]
    create: bool,
    /// Creates a repository that everybody can see
    #[arg(long, requires = "create")]
    public: bool,
    /// The kind of forge, if the remote's host is not github.com or gitlab.com
    #[arg(long, value_name = "KIND", requires = "create")]
    forge: Option<ForgeKind>,
}

/// Proposes a template, or writes it.
///
/// # Errors
/// P0239 when a file exists or cannot be written; P0114, P0243 and P0244 about the repository on a forge; P0214.
pub(super) async fn run(args: &InitArgs, form: OutputFormat, out: &mut dyn Write) -> Result<ExitKind, Diagnostic> {
    let answer = match args.template {
        None => propose(args, form)?,
        Some(template) => write(args, template, form).await?,
    };
    report::write_answer(out, &answer)?;
    Ok(ExitKind::Success)
}

/// What fits the folder, and why.
fn propose(args: &InitArgs, form: OutputFormat) -> Result<String, Diagnostic> {
    let survey = FolderSurvey::read(&args.dir).map_err(|error| unusable(&args.dir, &error))?;
    let proposal = survey.proposal();
    let command = |template: DeploymentTemplate| {
        let dir = match args.dir.to_str() {
            Some(".") | None => String::new(),
            Some(dir) => format!(" {dir}"),
        };
        format!("runner init --template {}{dir}", template.name())
    };
    if form == OutputFormat::Json {
        let object = json!({
            "template": proposal.template.map(DeploymentTemplate::name), "reasons": proposal.reasons, "notes": proposal.notes,
            "run": proposal.template.map(command),
        });
        return Ok(json::line(&object) + "\n");
    }
    let head = match proposal.template {
        Some(template) => format!("{}: {}", template.name(), template.summary()),
        None => "no template fits this folder".to_owned(),
    };
    let mut lines = vec![("proposal", head)];
    lines.extend(proposal.reasons.iter().map(|reason| ("because", reason.clone())));
    lines.extend(proposal.notes.iter().map(|note| ("note", note.clone())));
    match proposal.template {
        Some(template) => lines.push(("write it", command(template))),
        None if proposal.notes.is_empty() => {
            let all = DeploymentTemplate::ALL.into_iter();
            lines.extend(all.map(|template| ("choose", format!("{}   # {}", command(template), template.summary()))));
        }
        None => {
            let names = DeploymentTemplate::ALL.map(DeploymentTemplate::name).join(", ");
            lines.push(("templates", names));
        }
    }
    Ok(lines.into_iter().map(|(what, text)| format!("{what:<10} {text}\n")).collect())
}

/// Writes a template. A folder that it has made for that, and left empty, goes away again.
async fn write(args: &InitArgs, template: DeploymentTemplate, form: OutputFormat) -> Result<String, Diagnostic> {
    let is_new = !args.dir.exists();
    fs::create_dir_all(&args.dir).map_err(|error| unusable(&args.dir, &error))?;
    write_in_folder(args, template, form).await.inspect_err(|_| {
        if is_new {
            let _ = fs::remove_dir(&args.dir);
        }
    })
}

async fn write_in_folder(
    args: &InitArgs,
    template: DeploymentTemplate,
    form: OutputFormat,
) -> Result<String, Diagnostic> {
    let name = match &args.name {
        Some(name) => name.clone(),
        None => app_name(&args.dir.canonicalize().map_err(|error| unusable(&args.dir, &error))?),
    };
    let schema = format!("{:#}\n", plan::schema(&sandbox::official_schemas()));
    let with_starter = template.files(&name, true, schema.clone());
    // What an earlier call wrote before it was killed does not make the folder one with an application.
    let is_empty = files::has_nothing_else(&args.dir, &with_starter).map_err(|error| unusable(&args.dir, &error))?;
    let files = if is_empty { with_starter } else { template.files(&name, false, schema) };
    files::refuse_existing(&args.dir, &files)?;
    let message = format!("Deploy {name}, from the template {}", template.name());
    let repository =
        args.remote.as_deref().map(|url| NewRepository::prepare(&args.dir, url, &files, message)).transpose()?;
    let at_forge = match (&repository, &args.remote) {
        (Some(repository), Some(url)) if args.create => {
            Some(ForgeRepository::prepare(url, args.forge, args.public, repository.head()).await?)
        }
        (Some(_) | None, Some(_) | None) => None,
    };
    files::write(&args.dir, &files)?;
    let mut ready = None;
    if let Some(repository) = &repository {
        repository.commit()?;
        if let Some(at_forge) = at_forge {
            ready = Some(at_forge.create().await?);
        }
        repository.connect(args.push)?;
    }
    let written = WrittenTemplate { template, name, files: &files, is_empty, ready };
    Ok(match form {
        OutputFormat::Json => written.json(args),
        OutputFormat::Text => written.text(args),
    })
}

/// What a call has written.
struct WrittenTemplate<'a> {
    template: DeploymentTemplate,
    name: String,
    files: &'a [PlannedFile],
    /// Whether the folder had no application.
    is_empty: bool,
    /// The repository on a forge.
    ready: Option<ReadyRepository>,
}

impl WrittenTemplate<'_> {
    fn json(&self, args: &InitArgs) -> String {
        let repository = args.remote.as_ref().map(|_| {
            let mut repository = json!({ "branch": BRANCH, "remote": REMOTE, "pushed": args.push });
            if let Some(ready) = &self.ready {
                repository["forge"] = ready.json();
            }
            repository
        });
        let paths: Vec<&str> = self.files.iter().map(|file| file.path.as_str()).collect();
        let object =
            json!({ "template": self.template.name(), "app": self.name, "files": paths, "repository": repository });
        json::line(&object) + "\n"
    }

    fn text(&self, args: &InitArgs) -> String {
        let (template, name, count) = (self.template.name(), &self.name, self.files.len());
        let mut answer = format!("wrote the template {template} for {name}, {count} files\n");
        let width = self.files.iter().map(|file| file.path.len()).max().unwrap_or_default().max(MIN_PATH_WIDTH);
        for file in self.files {
            answer += &format!("  {:<width$} {}\n", file.path, file.purpose());
        }
        if let Some(ready) = &self.ready {
            answer += &format!("{}\n", ready.sentence());
        }
        if args.remote.is_some() {
            let pushed = if args.push { "pushed to" } else { "not pushed yet; the remote is" };
            answer += &format!("committed to {BRANCH}, in a new repository: {pushed} {REMOTE}\n");
            if !self.is_empty {
                answer += "what was here before is not in the commit: add it with `git add .`\n";
            }
        }
        answer + "docs/init.md says what to do on the machine; `runner plan` shows what a deployment would do\n"
    }
}

fn unusable(path: &Path, error: &io::Error) -> Diagnostic {
    Diagnostic::new(ErrorCode::InitRefused, format!("can't write {}", path.display()))
        .with_cause(error)
        .with_hint("name a folder that you can write to: `runner init --template NAME DIR`")
}

/// The name of a folder as that of an application.
fn app_name(dir: &Path) -> String {
    let name = dir.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let words: Vec<String> =
        name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_owned).collect();
    let name = words.join("-");
    if parse_app_name(&name).is_ok() { name } else { DEFAULT_NAME.to_owned() }
}

/// A name that is good in a plan, for nginx and supervisord, and for a Python package.
fn parse_app_name(text: &str) -> Result<String, String> {
    let is_name = text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.len() <= 40
        && text.split('-').all(|part| !part.is_empty())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if is_name {
        Ok(text.to_owned())
    } else {
        Err("an application's name has lowercase letters, digits and `-`, with a letter first, such as `shop`"
            .to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::{template::GITIGNORE, *};

    fn init(dir: &Path, template: DeploymentTemplate) -> Result<ExitKind, Diagnostic> {
        let args = InitArgs {
            dir: dir.to_owned(),
            template: Some(template),
            name: None,
            remote: None,
            push: false,
            create: false,
            public: false,
            forge: None,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(run(&args, OutputFormat::Text, &mut Vec::new()))
    }

    #[test]
    fn nothing_is_overwritten_and_nothing_is_half_written() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("build.sh"), "mine").unwrap();
        let refused = init(folder.path(), DeploymentTemplate::Static).unwrap_err();
        assert_eq!(refused.code, ErrorCode::InitRefused);
        assert!(refused.message.ends_with("exist already: build.sh"), "{}", refused.message);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn gitignore_gets_the_lines_that_it_does_not_have() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(GITIGNORE);
        fs::write(&path, "*.log\ndist/").unwrap();
        init(folder.path(), DeploymentTemplate::Static).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("*.log\ndist/\n") && text.contains("\n.pawl/\n"), "{text}");
        assert_eq!(text.matches("dist/").count(), 1);
    }

    #[test]
    fn folders_have_names() {
        for (dir, name) in [("/srv/My.Shop_2", "my-shop-2"), ("/srv/42", "app"), ("/", "app"), ("/x/shop", "shop")] {
            assert_eq!(app_name(Path::new(dir)), name, "{dir}");
        }
    }
}
