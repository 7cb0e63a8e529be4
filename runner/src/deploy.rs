//! A deployment, from the lock to its release: the only place that sees every stage.
//!
//! [`run`] is the procedure. Each stage has a type of its own: the [`RunningAttempt`] that is under way, its [`StepRunner`] and
//! [`HookRunner`], the calls of modules by an [`Executor`], the rollback, and the [`AttemptConclusion`]. The order intent, effect, outcome
//! is in the types of [`journal`](journal). A failure before the point of no return holds; after it, with
//! `on-failure: rollback` and a verified release before it, everything back to that point is undone.
//! Deliberately absent: rules (those are [`decision`](journal::decision)'s), output (an observer of the journal's), and the
//! command line.

#![deny(clippy::wildcard_enum_match_arm)]

use std::time::{Duration, Instant};

mod attempt;
mod call;
mod conclusion;
mod environment;
mod error;
mod executor;
mod fingerprint;
mod hooks;
mod interrupt;
mod modules;
pub mod pins;
mod preflight;
mod preview;
mod prune;
mod request;
mod resolve;
mod rollback;
mod step;
mod undo;

pub use error::{AttemptError, migration_diagnostic};
pub use executor::Executor;
pub use interrupt::Interrupt;
pub use pins::{ModulePins, PinPolicy, PinnedModule, describe_change};
pub use preflight::{
    DescribedSteps, PlannedStep, PreflightOptions, PreparedPlan, RequestedRelease, describe_steps, load_pins as pinned,
};
pub use preview::{StepPreview, preview_deployment};
pub use prune::{DEFAULT_KEPT_RELEASES, PruneError, prune, release_dirs};
pub use request::{DeployOverrides, DeploymentRequest, MissingJournalPolicy};
pub use resolve::lineage;

use self::{attempt::RunningAttempt, conclusion::AttemptConclusion, hooks::HookRunner, step::StepRunner};
use contract::diagnostic::{Diagnostic, ExitKind, Notice};
use journal::{JournalState, event::JournalHeader, file::EntryObserver};

/// How an attempt ended.
#[derive(Debug)]
pub struct AttemptResult {
    pub exit: ExitKind,
    pub header: JournalHeader,
    pub took: Duration,
    /// What stopped it.
    pub error: Option<Diagnostic>,
    /// What failed without changing how it ended.
    pub warnings: Vec<Notice>,
}

/// Deploys: one attempt, from the lock to its release.
///
/// # Errors
/// What keeps an attempt from beginning. Once it has begun, every end is an [`AttemptResult`].
pub async fn run(
    mut request: DeploymentRequest<'_>,
    interrupt: Interrupt,
    observe: impl FnOnce(&JournalState, &JournalHeader) -> EntryObserver,
) -> Result<AttemptResult, Vec<Diagnostic>> {
    let started = Instant::now();
    request.check_named_steps()?;

    let mut lock = request.take_lock(&interrupt).await.map_err(single)?;
    let earlier = request.read_journals().map_err(single)?;
    let state = &earlier.loaded.state;
    request.overrides.journal_missing = request.is_journal_missing(state).map_err(single)?;
    request.prepared.check_resources()?;
    request.prepared.check_migrations(Some(state)).await?;

    let epoch = lock.next_epoch(state.epoch()).map_err(|error| single((&error).into()))?;
    let attempt = RunningAttempt::begin(&request, &lock, epoch, earlier, interrupt, observe);
    let mut attempt = attempt.map_err(|error| single((&error).into()))?;
    let mut conclusion = match run_hooks_and_steps(&mut attempt).await {
        Ok(()) => AttemptConclusion::succeeded(),
        Err(error) => {
            let rollback = rollback::roll_back_if_due(&mut attempt, &error).await;
            AttemptConclusion::failed(&attempt, &error, rollback)
        }
    };
    conclusion.warnings = HookRunner { attempt: &mut attempt }.run_closing(conclusion.exit).await;
    end(&mut attempt, &mut conclusion).await;

    let close_timeout = attempt.close_timeout().await;
    let header = attempt.header.clone();
    drop(attempt);
    // Nothing of ours may still work when the lock goes.
    sandbox::wait_for_blocking_tasks().await;
    if let Err(error) = lock.close(close_timeout).await {
        conclusion.lock_not_closed(&error);
    }
    let AttemptConclusion { exit, error, warnings } = conclusion;
    Ok(AttemptResult { exit, header, took: started.elapsed(), error, warnings })
}

/// Everything from the first hook to the last step.
async fn run_hooks_and_steps(attempt: &mut RunningAttempt<'_>) -> Result<(), AttemptError> {
    attempt.publish_journal().await?;
    HookRunner { attempt: &mut *attempt }.run_before().await?;
    StepRunner { attempt }.run_all().await
}

/// Writes the last line; after a verified deployment, old releases are removed.
async fn end(attempt: &mut RunningAttempt<'_>, conclusion: &mut AttemptConclusion) {
    let is_verified = attempt.is_verified(conclusion.exit);
    match attempt.journal.record_end(conclusion.exit, is_verified) {
        Ok(()) if is_verified => conclusion.warnings.extend(prune::prune_after(attempt).await),
        Ok(()) => {}
        Err(error) => conclusion.end_not_recorded(&error),
    }
}

fn single(diagnostic: Diagnostic) -> Vec<Diagnostic> {
    vec![diagnostic]
}
