//! Determines the release, with its digest, before anything runs.

use contract::{
    Label,
    diagnostic::{Diagnostic, ErrorCode},
    step::FailureKind,
};
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
                let others =
                    if failure.kind == FailureKind::NotFound { packed_labels(&ready.step, &label) } else { None };
                let such_as = others.map_or_else(String::new, |labels| format!(", such as {}", labels.join(", ")));
                let hint = failure.hint.map(|hint| hint + &such_as);
                let diagnostic = plan.error_at(ErrorCode::ReleaseDigestUnavailable, span, message, "its source", hint);
                return Err(diagnostic.with_cause(failure.message));
            }
        };
        return Ok(Release { label, digest });
    }
    Ok(Release { label, digest: None })
}

/// The labels of other releases whose archives are in the same directory, the most similar one first; none if there are none.
fn packed_labels(step: &PlanStep, label: &Label) -> Option<Vec<String>> {
    const MOST: usize = 5;
    let archive = step.grants.host_path(step.with["from"].as_str()?.strip_prefix("file:")?)?;
    let (before, after) = archive.file_name()?.to_str()?.split_once(label.as_str())?;
    let names = archive.parent()?.read_dir().ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let label_of = |name: String| Some(name.strip_prefix(before)?.strip_suffix(after)?.to_owned());
    let mut labels: Vec<_> = names.filter_map(label_of).filter(|other| other.parse::<Label>().is_ok()).collect();
    labels.sort_unstable();
    if let Some(near) = plan::closest_match(label.as_str(), labels.iter().map(String::as_str)).map(str::to_owned) {
        labels.retain(|other| *other != near);
        labels.insert(0, near);
    }
    labels.truncate(MOST);
    (!labels.is_empty()).then_some(labels)
}

/// A step with what it is granted of this machine.
fn on_this_machine(step: &PlanStep) -> PlanStep {
    let mut step = step.clone();
    if step.remote_host().is_some() {
        step.grants.dirs.retain(|_, grant| grant.is_relative);
    }
    step
}
