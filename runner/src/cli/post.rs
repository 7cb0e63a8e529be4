//! `runner post`: what the `post` of an action does, after the step itself ended or was killed.
//!
//! Brings up what is left of the journal, and gives up a lock whose holder was killed on this machine. Both are done again by the
//! next attempt where this can't be: a failure is a warning, so that `post` never fails a job that went well.

use std::{path::Path, time::Duration};

use super::{
    ci, github,
    output::CommandOutput,
    source::{self, PlanSourceArgs},
};
use contract::diagnostic::{Diagnostic, ExitKind, Notice};
use state::StateStore;

/// How long the journal may take.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(60);

/// Arguments of `post`.
#[derive(Debug, clap::Args)]
pub(super) struct PostArgs {
    #[command(flatten)]
    plan: PlanSourceArgs,
}

/// Brings up what is left, and gives up the lock.
///
/// # Errors
/// None: what can't be done is a warning.
pub(super) async fn run(args: &PostArgs, screen: &CommandOutput) -> Result<ExitKind, Vec<Diagnostic>> {
    let tell = screen.notifier();
    if !github::is_job() {
        tell(Notice::note("nothing to do: this is no job of GitHub's"));
        return Ok(ExitKind::Success);
    }
    let location = match args.plan.location() {
        Ok(location) => location,
        // A later step may have changed the work tree. A plan that was never right was told of by the step itself.
        Err(problems) => {
            let why = problems.first().map_or_else(String::new, |problem| problem.message.clone());
            tell(Notice::warning(format!("nothing could be brought up after the deployment: {why}")));
            return Ok(ExitKind::Success);
        }
    };
    let store = StateStore::new(&location.state, &location.app, &location.environment);
    if !has_journal(store.folder()) {
        return Ok(ExitKind::Success);
    }
    if !store.is_folder() {
        release_orphaned_lock(&store, &|notice| tell(notice));
    }
    let store = match ci::with_checkpoints(store, &args.plan.plan, &location.app, &location.environment, &|_| {}) {
        Ok(store) => store,
        Err(problem) => {
            tell(Notice::warning(format!("nothing could be brought up after the deployment: {}", problem.message)));
            return Ok(ExitKind::Success);
        }
    };
    if let Some(checkpoints) = store.checkpoints() {
        checkpoints.upload_remaining(UPLOAD_TIMEOUT).await;
        let shown = checkpoints.status();
        if let Some(trouble) = shown.last_error {
            tell(Notice::warning(format!("the journal is not among the artifacts of this run: {trouble}")));
        } else if let Some(name) = shown.newest {
            tell(Notice::note(format!("the journal is in artifact {name}")));
        }
    }
    Ok(ExitKind::Success)
}

/// Whether there is a journal here.
fn has_journal(folder: &Path) -> bool {
    folder.read_dir().is_ok_and(|mut entries| {
        entries.any(|entry| entry.is_ok_and(|entry| entry.file_name().to_string_lossy().ends_with(".journal")))
    })
}

/// A lease of a process of this machine that was killed need not run out.
fn release_orphaned_lock(store: &StateStore, tell: &dyn Fn(Notice)) {
    match store.release_orphaned_lock(&source::user_at_host(), "its process was killed") {
        Ok(Some(_)) => tell(Notice::note(format!("gave up the lock of {}", store.resource()))),
        Ok(None) => {}
        Err(error) => tell(Notice::warning(format!("the lock of {} was not given up: {error}", store.resource()))),
    }
}
