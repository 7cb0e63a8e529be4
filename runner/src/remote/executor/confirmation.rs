//! Confirms a call that its host undoes otherwise.
//!
//! Invariant: only a connection that was made after the call has succeeded confirms it. The one that the call was made over may live on
//! although nobody could log in any more.

use std::{cell::RefCell, convert::Infallible, time::Duration};

use tokio::{sync::oneshot, time::sleep};

use contract::{
    diagnostic::{Diagnostic, ErrorCode},
    step::{FailureKind, MessageLevel, StepFailure, StepOutcome, StepProgress},
    text::format_duration,
};
use plan::PlanStep;
use sandbox::CallChannel;

use super::{ANSWER_TIMEOUT, REDIAL_PAUSE, RemoteExecutor};
use crate::{
    agent::wire::{AgentAnswer, CallId, ToAgent},
    remote::{AgentConnection, ConnectionError},
};

/// How much longer than its time a host may take until it has undone a step that was not confirmed, and its agent has ended.
const UNDO_TIME: Duration = Duration::from_secs(15);

/// A call that its host waits to be confirmed.
pub(super) struct ConfirmedCall {
    within: Duration,
    key: String,
    epoch: u64,
    /// Why no new connection has confirmed it yet.
    unreached: RefCell<Option<Diagnostic>>,
}

impl ConfirmedCall {
    /// None for a step without `confirm`, and for an undo, which has no key.
    pub(super) fn new(step: &PlanStep, key: Option<&str>, epoch: Option<u64>) -> Option<Self> {
        let within = step.confirm.as_ref()?.within;
        Some(Self { within, key: key?.to_owned(), epoch: epoch?, unreached: RefCell::default() })
    }

    /// How long it may take until the host has settled it.
    pub(super) fn settling_time(&self) -> Duration {
        self.within + UNDO_TIME
    }

    /// Notes why a new connection did not reach the host.
    pub(super) fn note_unreached(&self, why: Diagnostic) {
        *self.unreached.borrow_mut() = Some(why);
    }

    /// In words, for a failure.
    fn why(&self) -> String {
        let unreached = self.unreached.borrow();
        let Some(Diagnostic { message, causes, .. }) = unreached.as_ref() else { return String::new() };
        let causes: String = causes.iter().map(|cause| format!("; {cause}")).collect();
        format!(" ({message}{causes})")
    }
}

impl RemoteExecutor {
    /// Makes a call, and confirms it over a new connection when its host waits for that.
    pub(super) async fn call_confirmed(
        &self,
        connection: &AgentConnection,
        step: &PlanStep,
        channel: &CallChannel,
        confirmed: Option<&ConfirmedCall>,
        request: impl FnOnce(CallId) -> ToAgent,
    ) -> Result<AgentAnswer, ConnectionError> {
        let (timeout, answer_timeout) = (step.timeout, self.answer_timeout(step));
        let Some(confirmed) = confirmed else {
            return connection.call(Some(channel.clone()), timeout + answer_timeout, request).await;
        };
        let (tell, told) = oneshot::channel();
        // To undo it may take as long as the step itself.
        let limit = timeout * 2 + confirmed.within + answer_timeout;
        let answer = connection.call_to_confirm(Some(channel.clone()), limit, Some(tell), request);
        let confirming = async {
            if told.await.is_ok() {
                self.confirm(confirmed, channel).await;
            }
            // The host says what came of it.
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            answer = answer => answer,
            never = confirming => match never {},
        }
    }

    /// Confirms a call; tries again until its host can be reached.
    async fn confirm(&self, call: &ConfirmedCall, channel: &CallChannel) {
        loop {
            match self.confirm_once(call).await {
                Ok(true) => {
                    let (level, message) = (MessageLevel::Info, "confirmed over a new connection".to_owned());
                    return channel.send(StepProgress::Log { level, message, fields: serde_json::Map::new() });
                }
                // It is being undone.
                Ok(false) => return,
                Err(diagnostic) => call.note_unreached(diagnostic),
            }
            sleep(REDIAL_PAUSE).await;
        }
    }

    /// Confirms a call. Returns whether it counts; the host may have undone it, or may not have made it.
    ///
    /// # Errors
    /// The host can't be reached.
    pub(super) async fn confirm_once(&self, call: &ConfirmedCall) -> Result<bool, Diagnostic> {
        let connection = self.dialer.dial(&self.host, &|megabytes| self.tell_upload(megabytes)).await?;
        let (app, environment, target) = match self.session.borrow().as_ref() {
            Some(session) => (session.app.clone(), session.environment.clone(), session.target.clone()),
            None => return Ok(false),
        };
        let (key, epoch) = (call.key.clone(), call.epoch);
        let request = |call| ToAgent::Confirm { call, app, environment, target, key, epoch };
        match connection.call(None, ANSWER_TIMEOUT, request).await {
            Ok(AgentAnswer::Confirmation { confirmed }) => Ok(confirmed),
            Ok(_) => Err(self.lost("the host's answer does not match the request")),
            Err(error) => Err(self.session_error(&error)),
        }
    }

    /// The outcome of a call that succeeded and was not confirmed, so that the host undid it, or failed to.
    pub(super) fn not_confirmed(&self, call: &ConfirmedCall, failure: Option<StepFailure>) -> StepOutcome {
        let within = format_duration(u64::try_from(call.within.as_millis()).unwrap_or(u64::MAX));
        let (host, why) = (&self.host.name, call.why());
        let unconfirmed = format!("no new connection confirmed it within {within}{why}");
        match failure {
            None => {
                let message = format!("{unconfirmed}, so {host} undid it");
                let failure = StepFailure::new(FailureKind::Transient, message).with_code(ErrorCode::NotConfirmed);
                let hint = call.unreached.borrow().as_ref().and_then(|why| why.hint.clone());
                let hint = hint.unwrap_or_else(|| format!("find out why {host} takes no new connection"));
                StepOutcome::Failed { failure: failure.with_hint(hint) }
            }
            Some(failure) => {
                let message = format!("{unconfirmed}, and {host} could not undo it: {}", failure.message);
                let unknown = StepFailure::new(FailureKind::Permanent, message).with_code(ErrorCode::NotUndoneByHost);
                let hint = failure.hint.unwrap_or_else(|| format!("look at what {host} shows, and fix the cause"));
                StepOutcome::Unknown { failure: unknown.with_hint(hint) }
            }
        }
    }
}
