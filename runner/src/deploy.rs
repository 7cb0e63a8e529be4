//! Runs one attempt of a deployment, from acquiring the lock to releasing it.
//!
//! [`run`] is the procedure. Each stage has its own type: [`RunningAttempt`], its [steps](steps) and [`HookRunner`],
//! the [`Executor`] that calls modules, the rollback, and [`AttemptConclusion`]. The types of [`journal`](journal)
//! enforce the order intent, effect, outcome. A failure before the point of no return leaves everything as it is, but
//! for staged steps, which are undone if the plan says `on-failure: rollback`. A failure after it then undoes everything back to that
//! point, if the previous release was verified. Deliberately absent: the decision rules (see [`decision`](journal::decision)), the output (an
//! observer of the journal prints it), and the command line.

use std::time::{Duration, Instant};

mod after_undo;
mod assumed_steps;
mod attempt;
mod call;
mod conclusion;
mod environment;
mod error;
mod executor;
mod fingerprint;
mod hooks;
mod host_prune;
mod interrupt;
mod left_behind;
mod modules;
mod next_attempt;
mod output_recorder;
mod outputs;
pub mod pins;
mod preflight;
mod preview;
mod prune;
mod rehearsal;
pub(crate) mod release_folders;
mod request;
mod resolution;
mod resolve;
mod rollback;
mod rollback_scope;
mod slot_records;
mod step;
mod steps;
mod undo;
mod unrecorded_release;

pub use error::{AttemptError, migration_diagnostic};
pub use executor::Executor;
pub(crate) use fingerprint::input_fingerprint;
pub use host_prune::{HostReleases, ReleaseHosts};
pub use interrupt::Interrupt;
pub use pins::{ModulePins, PinPolicy, PinnedModule, describe_change};
pub use preflight::{
    DescribedSteps, PlannedStep, PreflightOptions, PreflightScope, PreparedPlan, RequestedRelease, UnresolvedPlan,
    describe_steps, host_problems, load_pins as pinned,
};
pub use preview::{StepPreview, preview_deployment};
pub(crate) use prune::release_dir;
pub use prune::{
    DEFAULT_KEPT_RELEASES, PruneError, ReleaseDirs, SiblingEnvironment, examine_releases, host_failure, prune,
    release_retention,
};
pub(crate) use request::program_records_path;
pub use request::{DeployOverrides, DeploymentRequest, MissingJournalPolicy};
pub use resolution::{ResolutionRequest, StatedOutcome, StepResolution, resolve_step};
pub use resolve::lineage;
pub use unrecorded_release::UnrecordedRelease;

use self::{attempt::RunningAttempt, conclusion::AttemptConclusion, hooks::HookRunner};
use contract::diagnostic::{Diagnostic, ExitKind, Notice};
use journal::{
    JournalState,
    event::{JournalHeader, ROLLBACK},
    file::EntryObserver,
};

/// How an attempt ended.
#[derive(Debug)]
pub struct AttemptResult {
    pub exit: ExitKind,
    pub header: JournalHeader,
    pub took: Duration,
    /// The error that stopped it.
    pub error: Option<Diagnostic>,
    /// The failures that did not change how it ended.
    pub warnings: Vec<Notice>,
}

/// Runs one attempt: acquires the lock, runs the hooks and steps, and releases the lock.
///
/// # Errors
/// The errors that keep an attempt from beginning. Once it has begun, it always returns an [`AttemptResult`].
pub async fn run(
    mut request: DeploymentRequest<'_>,
    interrupt: Interrupt,
    observe: impl FnOnce(&JournalState, &JournalHeader) -> EntryObserver,
) -> Result<AttemptResult, Vec<Diagnostic>> {
    let started = Instant::now();
    request.overrides.check_named_steps(request.prepared)?;
    request.check_recorded_values()?;

    let mut lock = request.take_lock(&interrupt).await.map_err(single)?;
    request.end_leftover_programs(&interrupt).await.map_err(single)?;
    let earlier = request.read_journals().map_err(single)?;
    let state = &earlier.loaded.state;
    request.overrides.journal_missing = request.is_journal_missing(state).map_err(single)?;
    let unrecorded = request.unrecorded_release(state)?;
    assumed_steps::check_assumed_steps(request.prepared, &request.overrides, state)?;
    assumed_steps::check_rollback_lookups(request.prepared, &request.overrides, state)?;
    request.refuse_import_without_hosts()?;
    request.prepared.check_resources_of_deployment().await?;
    if request.overrides.command != Some(ROLLBACK) {
        request.prepared.check_migrations(Some(state)).await?;
    }
    request.prepared.check_code()?;

    let epoch = lock.next_epoch(state.epoch()).map_err(|error| single((&error).into()))?;
    request.store.record_loaded(&earlier.loaded, lock.staging()).map_err(|error| single((&error).into()))?;
    let attempt = RunningAttempt::begin(&request, &lock, epoch, earlier, interrupt, observe);
    let mut attempt = attempt.map_err(|error| single((&error).into()))?;
    attempt.unrecorded = unrecorded;
    let mut conclusion = match run_hooks_and_steps(&mut attempt).await {
        Ok(()) => AttemptConclusion::succeeded(),
        Err(error) => {
            let error = attempt.lost_lock_or(error).await;
            let rollback = rollback::roll_back_if_due(&mut attempt, &error).await;
            AttemptConclusion::failed(&attempt, &error, rollback).await
        }
    };
    if !attempt.overrides().is_import() {
        let hook_warnings = HookRunner { attempt: &mut attempt }.run_closing(conclusion.exit).await;
        conclusion.warnings.extend(hook_warnings);
    }
    end(&mut attempt, &mut conclusion).await;

    let close_timeout = attempt.close_timeout().await;
    let header = attempt.header.clone();
    drop(attempt);
    // No work of this process may still be running when the lock is released.
    sandbox::wait_for_blocking_tasks().await;
    if let Err(error) = lock.close(close_timeout).await {
        conclusion.lock_not_closed(&error);
    }
    let AttemptConclusion { exit, error, warnings } = conclusion;
    Ok(AttemptResult { exit, header, took: started.elapsed(), error, warnings })
}

/// Uploads the journal, then runs the `before` hooks and all steps.
async fn run_hooks_and_steps(attempt: &mut RunningAttempt<'_>) -> Result<(), AttemptError> {
    attempt.publish_journal().await?;
    attempt.leave_unusable_hosts_behind()?;
    attempt.begin_host_sessions().await?;
    // An import changes nothing.
    if !attempt.overrides().is_import() {
        HookRunner { attempt: &mut *attempt }.run_before().await?;
    }
    steps::run_all_steps(attempt).await
}

/// Writes the last entry of the journal, and removes old releases after a verified deployment. Does nothing if the lock is lost:
/// closing it then says so.
async fn end(attempt: &mut RunningAttempt<'_>, conclusion: &mut AttemptConclusion) {
    if attempt.journal.borrow().is_fenced() || attempt.confirm_lock_at_end().await.is_err() {
        return;
    }
    let is_verified = attempt.is_verified(conclusion.exit);
    let recorded = attempt.journal.borrow_mut().record_end(conclusion.exit, is_verified);
    if let Err(error) = recorded {
        return conclusion.end_not_recorded(&error);
    }
    let recorded = attempt.request.store.record_ended(&attempt.state(), attempt.staging());
    if let Err(error) = recorded {
        conclusion.warnings.push(Notice::warning(format!("{error}; the journals have everything")));
    }
    if is_verified && !attempt.overrides().is_import() {
        conclusion.warnings.extend(prune::prune_after(attempt).await);
    }
}

fn single(diagnostic: Diagnostic) -> Vec<Diagnostic> {
    vec![diagnostic]
}
