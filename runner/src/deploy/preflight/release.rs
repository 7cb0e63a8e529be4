//! Determines the release, with its digest, before anything runs.

use contract::diagnostic::{Diagnostic, ErrorCode};
use journal::event::Release;
use plan::{Plan, PlanStep};

use super::{PlannedStep, RequestedRelease, span_of};

/// Resolves the release to its digest, which the first step that pulls an archive determines.
pub(super) async fn resolve_release(
    plan: &Plan,
    steps: &[PlannedStep],
    wanted: RequestedRelease,
) -> Result<Release, Diagnostic> {
    let RequestedRelease { label, digest: known } = wanted;
    for ready in steps {
        let found = sandbox::release_digest(&on_this_machine(&ready.step), &ready.description, &ready.step.with).await;
        let span = span_of(&ready.step, "/from");
        let digest = match (found, &known) {
            (Ok(None), _) => continue,
            (Ok(Some(found)), Some(known)) if found != *known => {
                let message = format!("release {label} differs from the verified release of that name");
                let hint = format!(
                    "restore the archive with digest {known}; or give this content a label of its own, and deploy that until its checks pass"
                );
                let label = format!("its digest is {found}");
                return Err(plan.error_at(ErrorCode::NotTheVerifiedRelease, span, message, label, Some(hint)));
            }
            (Ok(found), _) => found,
            // The archive may be gone while the release folder still exists; the step finds that folder by the digest.
            (Err(_), Some(known)) => Some(known.clone()),
            (Err(failure), None) => {
                let message = format!("can't determine the digest of release {label}");
                let diagnostic =
                    plan.error_at(ErrorCode::ReleaseDigestUnavailable, span, message, "its source", failure.hint);
                return Err(diagnostic.with_cause(failure.message));
            }
        };
        return Ok(Release { label, digest });
    }
    Ok(Release { label, digest: None })
}

/// A step with what it is granted of this machine.
fn on_this_machine(step: &PlanStep) -> PlanStep {
    let mut step = step.clone();
    if step.remote_host().is_some() {
        step.grants.dirs.retain(|_, grant| grant.is_relative);
    }
    step
}
