//! `runner post`: the `post` step of the GitHub action, after the deployment ended or was killed.
//!
//! It uploads the rest of the journal, and releases a lock whose holder was killed on this machine. If it fails, the next attempt
//! does both, so a failure is a warning: `post` never fails a successful job.

use std::time::Duration;

use super::{
    ci, github,
    output::CommandOutput,
    source::{self, PlanSourceArgs},
};
use contract::diagnostic::{Diagnostic, ExitKind, Notice};
use state::StateStore;

/// The longest time for the upload of the journal.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(60);

/// Arguments of `post`.
#[derive(Debug, clap::Args)]
pub(super) struct PostArgs {
    #[command(flatten)]
    plan: PlanSourceArgs,
}

/// Uploads the rest of the journal, and releases the lock.
///
/// # Errors
/// Never: a failure is a warning.
pub(super) async fn run(args: &PostArgs, screen: &CommandOutput) -> Result<ExitKind, Vec<Diagnostic>> {
    let tell = screen.notifier();
    if !github::is_job() {
        tell(Notice::note("nothing to do: this is not a GitHub job"));
        return Ok(ExitKind::Success);
    }
    let location = args.plan.path().map_err(|error| vec![error]).and_then(|path| Ok((path, args.plan.location()?)));
    let (path, location) = match location {
        Ok(found) => found,
        // A later step may have changed the work tree. An invalid plan was reported by the deployment itself.
        Err(problems) => {
            let why = problems.first().map_or_else(String::new, |problem| problem.message.clone());
            tell(Notice::warning(format!("could not upload the journal after the deployment: {why}")));
            return Ok(ExitKind::Success);
        }
    };
    let store = StateStore::new(&location.state, &location.app, &location.environment);
    if !ci::has_journal(store.folder()) {
        return Ok(ExitKind::Success);
    }
    if !store.is_folder() {
        release_orphaned_lock(&store, &|notice| tell(notice));
    }
    let store = match ci::with_checkpoints(store, &path, &location.app, &location.environment, &|_| {}) {
        Ok(store) => store,
        Err(problem) => {
            tell(Notice::warning(format!("could not upload the journal after the deployment: {}", problem.message)));
            return Ok(ExitKind::Success);
        }
    };
    if let Some(checkpoints) = store.checkpoints() {
        checkpoints.upload_remaining(UPLOAD_TIMEOUT).await;
        let shown = checkpoints.status();
        if let Some(trouble) = shown.last_error {
            tell(Notice::warning(format!("could not store the journal as an artifact of this run: {trouble}")));
        } else if let Some(name) = shown.newest {
            tell(Notice::note(format!("the journal is in artifact {name}")));
        }
    }
    Ok(ExitKind::Success)
}

/// Releases the lock of a killed process of this machine, so that nobody has to wait for the lease to expire.
fn release_orphaned_lock(store: &StateStore, tell: &dyn Fn(Notice)) {
    match store.release_orphaned_lock(&source::user_at_host(), "its process was killed") {
        Ok(Some(_)) => tell(Notice::note(format!("released the lock on {}", store.resource()))),
        Ok(None) => {}
        Err(error) => tell(Notice::warning(format!("could not release the lock on {}: {error}", store.resource()))),
    }
}
