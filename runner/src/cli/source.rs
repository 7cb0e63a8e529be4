//! The sources of a plan and a release: `--plan`, `--env`, the environment, and git for the label of the release.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use contract::{
    EnvironmentName, Label,
    diagnostic::{Diagnostic, ErrorCode},
};
use plan;
use plan::{Plan, PlanRequest, PlanSource};
use state::StateStore;

use super::{inventory::Inventories, plan_file};
use crate::deploy::{PreflightOptions, SiblingEnvironment, UnresolvedPlan};

/// The options for plan and environment.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct PlanSourceArgs {
    /// The plan file; optional if the folder has only one: deploy.yml, pawl.yml or *.pawl.yml
    #[arg(long = "plan", value_name = "FILE", env = "PAWL_PLAN", hide_env = true)]
    pub(super) plan: Option<PathBuf>,
    /// The environment; optional if the plan has only one
    #[arg(long = "env", value_name = "NAME", env = "PAWL_ENVIRONMENT", hide_env = true)]
    pub(super) environment: Option<String>,
    /// What was read of the environment's inventories.
    #[arg(skip)]
    pub(super) inventories: Inventories,
}

/// The option for the release.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ReleaseArgs {
    /// The label of the release; by default the output of `git describe`
    #[arg(long, value_name = "LABEL", env = "PAWL_RELEASE", hide_env = true)]
    pub(super) release: Option<String>,
}

/// Reads an environment variable; none if it is not set or not UTF-8.
pub(super) fn env_variable(name: &str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "the one home of the environment")]
    std::env::var(name).ok()
}

/// Whether this process is part of a CI job.
pub(super) fn is_ci() -> bool {
    ["CI", "GITHUB_ACTIONS"]
        .iter()
        .any(|name| env_variable(name).is_some_and(|value| !value.is_empty() && value != "false"))
}

/// The user and machine of this process: `user@host`.
pub(super) fn user_at_host() -> String {
    let user = ["GITHUB_ACTOR", "GITLAB_USER_LOGIN", "BUILDKITE_BUILD_CREATOR", "USER", "LOGNAME"]
        .iter()
        .find_map(|name| env_variable(name).filter(|user| !user.is_empty()));
    let user = user.unwrap_or_else(|| format!("uid-{}", rustix::process::getuid().as_raw()));
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{user}@{host}")
}

/// The commit that the CI builds, if it names one.
pub(super) fn ci_commit() -> Option<String> {
    let names = ["GITHUB_SHA", "CI_COMMIT_SHA", "BUILDKITE_COMMIT"];
    names.iter().find_map(|name| env_variable(name)).filter(|commit| !commit.is_empty())
}

/// The commit that a release is deployed from: from the CI, or else from git. A label that git did not choose does not say that files were
/// edited since, so with such a label only a work tree without edits has a commit.
pub(super) fn release_commit(plan: &PlanSourceArgs, release: &ReleaseArgs) -> Option<String> {
    ci_commit().or_else(|| {
        let (commit, is_edited) = head_commit(plan.folder())?;
        (release.release.is_none() || !is_edited).then_some(commit)
    })
}

/// The commit that is checked out, and whether a file of it was edited. None outside a repository.
fn head_commit(folder: &Path) -> Option<(String, bool)> {
    // A deployment outside a repository needs no git, and does not wait for it.
    std::path::absolute(folder).ok()?.ancestors().find(|folder| folder.join(".git").exists())?;
    let arguments = ["status", "--porcelain=v2", "--branch", "--no-ahead-behind", "--untracked-files=no"];
    let git = Command::new("git").arg("--no-optional-locks").arg("-C").arg(folder).args(arguments).output().ok()?;
    let text = String::from_utf8(git.stdout).ok().filter(|_| git.status.success())?;
    let commit = text.lines().find_map(|line| line.strip_prefix("# branch.oid "))?;
    let is_commit = commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_commit.then(|| (commit.to_owned(), text.lines().any(|line| !line.starts_with('#'))))
}

/// The page of this job, if the CI names it.
pub(super) fn job_url() -> Option<String> {
    let full = ["CI_JOB_URL", "BUILD_URL", "BUILDKITE_BUILD_URL"].iter().find_map(|name| env_variable(name));
    full.or_else(|| {
        let [server, repository, run] = ["GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_ID"].map(env_variable);
        Some(format!("{}/{}/actions/runs/{}", server?, repository?, run?))
    })
}

impl PlanSourceArgs {
    /// The plan file: the named one, or else the only one of this folder.
    ///
    /// # Errors
    /// P0201 when there is none, P0235 when there are several.
    pub(super) fn path(&self) -> Result<PathBuf, Diagnostic> {
        self.plan.clone().map_or_else(plan_file::find_plan, Ok)
    }

    /// The folder of the plan, as an argument for other programs.
    fn folder(&self) -> &Path {
        let folder = self.plan.as_deref().and_then(Path::parent);
        folder.filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }

    /// Reads the text of the plan.
    pub(super) fn source(&self) -> Result<PlanSource, Diagnostic> {
        let path = &self.path()?;
        let unreadable = |why: &dyn std::fmt::Display| {
            let advice = "name the plan with `--plan FILE`, or go to its folder";
            let near = (!path.exists()).then(|| plan_file::near_plan(path)).flatten();
            let hint = near.map_or_else(
                || advice.to_owned(),
                |near| format!("did you mean `{}`? otherwise {advice}", near.display()),
            );
            Diagnostic::new(ErrorCode::PlanUnreadable, format!("can't read the plan {}", path.display()))
                .with_cause(why)
                .with_hint(hint)
        };
        let bytes = fs::read(path).map_err(|error| unreadable(&error))?;
        let text = String::from_utf8(bytes).map_err(|error| unreadable(&format!("it is not UTF-8: {error}")))?;
        let absolute = std::path::absolute(path).map_err(|error| unreadable(&error))?;
        let folder = absolute.parent().unwrap_or(Path::new("/")).to_owned();
        Ok(PlanSource { path: path.clone(), folder, text: text.into() })
    }

    /// Parses the plan for its environment, and returns it with the release label. The errors of the plan come before that of
    /// a missing label.
    pub(super) fn plan(&self, release: &ReleaseArgs) -> Result<(Plan, Label), Vec<Diagnostic>> {
        match release.label(self) {
            Ok(label) => Ok((self.plan_for(&label)?, label)),
            Err(missing) => {
                let problems = self.plan_for(&placeholder_label()).err();
                Err(problems.unwrap_or_default().into_iter().chain([missing]).collect())
            }
        }
    }

    /// The same for a command that runs the steps, or shows what they would do: the errors of the plan include those in the steps that
    /// can be read.
    pub(super) async fn checked_plan(
        &self,
        release: &ReleaseArgs,
        options: PreflightOptions,
    ) -> Result<(Plan, Label), Vec<Diagnostic>> {
        let label = release.label(self);
        let label_of_plan = label.clone().unwrap_or_else(|_| placeholder_label());
        let problems = match (self.read_for(&label_of_plan), label) {
            (Ok(plan), Ok(label)) => return Ok((plan, label)),
            (Ok(_), Err(missing)) => vec![missing],
            (Err(unread), label) => {
                let problems = unread.all_problems(label_of_plan, options).await;
                problems.into_iter().chain(label.err()).collect()
            }
        };
        Err(problems)
    }

    /// Parses the plan for its environment and a given label.
    pub(super) fn plan_for(&self, label: &Label) -> Result<Plan, Vec<Diagnostic>> {
        self.read_for(label).map_err(|unread| unread.problems)
    }

    /// The same, with what can be read of a plan that has errors.
    pub(super) fn read_for(&self, label: &Label) -> Result<Plan, UnreadPlan> {
        let source = self.source().map_err(|error| UnreadPlan { problems: vec![error], readable_part: None })?;
        let inventory = |inventory: &plan::InventorySource| self.inventories.read(&source, inventory);
        self.parse(source.clone(), label, &inventory)
            .map_err(|errors| UnreadPlan { problems: errors.diagnostics(), readable_part: errors.readable_part })
    }

    /// Parses the plan for a command that must start no program: one that needs an inventory has no plan then.
    pub(super) fn plan_without_inventories(&self, label: &Label) -> Option<Plan> {
        self.parse(self.source().ok()?, label, &plan::no_inventory).ok()
    }

    fn parse(
        &self,
        source: PlanSource,
        release: &Label,
        inventory: &plan::InventoryReader<'_>,
    ) -> Result<Plan, plan::PlanErrors> {
        let environment = self.environment.as_deref();
        Plan::parse(source, &PlanRequest { environment, release, env: &env_variable, inventory })
    }

    /// The hosts of the environment.
    pub(super) fn hosts(&self) -> Result<plan::EnvironmentHosts, Vec<Diagnostic>> {
        let source = self.source().map_err(|error| vec![error])?;
        let inventory = |inventory: &plan::InventorySource| self.inventories.read(&source, inventory);
        let (environment, release) = (self.environment.as_deref(), &placeholder_label());
        let request = PlanRequest { environment, release, env: &env_variable, inventory: &inventory };
        plan::locate_hosts(&source, &request).map_err(|errors| errors.diagnostics())
    }

    /// The state of the environment.
    pub(super) fn store(&self) -> Result<StateStore, Vec<Diagnostic>> {
        let location = self.location()?;
        Ok(StateStore::new(&location.state, &location.app, &location.environment))
    }

    /// Locates the state of the environment.
    pub(super) fn location(&self) -> Result<plan::HistoryLocation, Vec<Diagnostic>> {
        let source = self.source().map_err(|error| vec![error])?;
        plan::locate_history(&source, self.environment.as_deref(), &env_variable).map_err(|errors| errors.diagnostics())
    }

    /// The plan's other environments, whose releases `prune` must not remove.
    pub(super) fn other_environments(
        &self,
        environment: &EnvironmentName,
    ) -> Result<Vec<SiblingEnvironment>, Vec<Diagnostic>> {
        let source = self.source().map_err(|error| vec![error])?;
        let names = plan::environments(&source).map_err(|errors| errors.diagnostics())?;
        let sibling = |name: EnvironmentName| {
            let location = plan::locate_history(&source, Some(name.as_str()), &env_variable);
            let store = location.map(|found| StateStore::new(&found.state, &found.app, &found.environment));
            let why = |diagnostic: &Diagnostic| diagnostic.message.clone();
            let store =
                store.map_err(|errors| errors.diagnostics().first().map(why).unwrap_or_else(|| errors.to_string()));
            SiblingEnvironment { name, store }
        };
        Ok(names.into_iter().filter(|name| name != environment).map(sibling).collect())
    }

    /// The states of the requested environment, or of all environments.
    pub(super) fn stores(&self) -> Result<Vec<(EnvironmentName, StateStore)>, Vec<Diagnostic>> {
        let source = self.source().map_err(|error| vec![error])?;
        let all = plan::environments(&source).map_err(|errors| errors.diagnostics())?;
        let mut stores = Vec::new();
        for name in all {
            if self.environment.as_ref().is_none_or(|asked| asked == name.as_str()) {
                let location = plan::locate_history(&source, Some(name.as_str()), &env_variable);
                let location = location.map_err(|errors| errors.diagnostics())?;
                stores.push((name, StateStore::new(&location.state, &location.app, &location.environment)));
            }
        }
        if stores.is_empty() {
            self.store()?;
        }
        Ok(stores)
    }
}

/// A plan with errors.
pub(super) struct UnreadPlan {
    pub(super) problems: Vec<Diagnostic>,
    /// The steps without such an error, if there is enough for a plan.
    pub(super) readable_part: Option<Box<Plan>>,
}

impl UnreadPlan {
    /// The errors, with those in the steps that can be read, in the order of the plan.
    async fn all_problems(self, label: Label, options: PreflightOptions) -> Vec<Diagnostic> {
        let Self { mut problems, readable_part } = self;
        if let Some(part) = readable_part {
            problems.extend(UnresolvedPlan::problems_of_part(*part, label, options).await);
        }
        problems.sort_by_key(|problem| problem.excerpt.as_ref().map(|excerpt| excerpt.span.start));
        problems
    }
}

impl ReleaseArgs {
    /// The requested label, or that of the commit in the plan's folder.
    pub(super) fn label(&self, plan: &PlanSourceArgs) -> Result<Label, Diagnostic> {
        let text = match &self.release {
            Some(text) => text.clone(),
            None => git_describe(plan.folder())?,
        };
        text.parse().map_err(|error: contract::NameError| {
            Diagnostic::new(ErrorCode::InvalidRelease, error.to_string())
                .with_hint("use a label such as `--release v1.4.2`; it becomes part of paths and URLs")
        })
    }
}

/// The label for which a plan is parsed when its release does not matter, or is not known.
pub(super) fn placeholder_label() -> Label {
    "none".parse().expect("`none` is a label")
}

pub(super) fn git_describe(folder: &Path) -> Result<String, Diagnostic> {
    let unknown = |why: String| {
        Diagnostic::new(ErrorCode::UnknownRelease, "no release was given, and `git describe` failed")
            .with_cause(why)
            .with_hint("name it with `--release LABEL`")
    };
    let git = Command::new("git").arg("-C").arg(folder).args(["describe", "--tags", "--always", "--dirty"]).output();
    let git = git.map_err(|error| unknown(format!("can't run git: {error}")))?;
    if !git.status.success() {
        return Err(unknown(String::from_utf8_lossy(&git.stderr).trim().to_owned()));
    }
    Ok(String::from_utf8_lossy(&git.stdout).trim().to_owned())
}
