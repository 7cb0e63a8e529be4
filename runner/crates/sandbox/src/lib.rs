//! Runs modules: WASM components that reach only what the plan grants them.
//!
//! [`engine`] loads them, [`modules`] keeps third-party ones, [`gate`] is the one place that checks grants, and each capability has a file: directories
//! (`host`), [`blobs`], [`database`], [`http`], [`process`], [`secrets`], [`log`]. [`Module`]'s methods are the five exports. A call that
//! loops, hangs in a host call, takes too much memory, panics or floods its log ends as a typed failure soon after its
//! deadline, and the runner goes on. Deliberately absent: what to call when; no record is written here.

mod bindings;
mod blobs;
mod code;
mod component;
mod database;
mod description;
mod engine;
mod gate;
mod host;
mod http;
mod inputs;
mod limits;
mod log;
mod migrations;
mod misfit;
mod modules;
mod process;
mod secrets;

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::mpsc::UnboundedSender;
use wasmtime::{Store, component::ResourceTableError};

pub use description::{Capability, Description, DescriptionError, InputKind, Mismatch, Need};
pub use engine::{LoadError, Module, Runtime, official};
pub use gate::{Purpose, name_of};
pub use inputs::{InputError, release_digest};
pub use migrations::open_migrations;
pub use modules::{Places, RegistryError, Tell};

use self::{
    bindings::{Module as Instance, exported, types},
    gate::Gate,
    host::Host,
    limits::{Exceeded, Limits},
};
use contract::step::{Failure, Finding, Level, Outcome, Progress, Receipt};
use db::migrate::Fence;
use journal::{Ended, Intent, UndoEnded, UndoIntent};
use plan::Step;

/// The longest text of a receipt that a module may return, in bytes.
const LONGEST: usize = 32 << 10;

/// How much of what a module said is shown when it can't describe itself.
const LINES_OF_A_DESCRIPTION: usize = 8;
/// The longest texts of a failure or a finding together, and of a description, in bytes. What people get to see of them is
/// cut later, once it is redacted.
const LONGEST_WORDS: usize = 1 << 20;

/// The longest list of changes, all texts together, in bytes.
const LONGEST_CHANGES: usize = 256 << 10;

/// The longest `options` of a host call, in bytes.
const LONGEST_OPTIONS: usize = 1 << 20;

/// How much a module may hand to the host in one call, in bytes. A list may name the same bytes again and again, so that its
/// own memory is no bound.
const HANDED_OVER: usize = 64 << 20;

/// How long native work of a call that was given up is waited for.
const SETTLING: Duration = Duration::from_secs(2);

/// A guest gives way this many ticks apart, so that its deadline is noticed.
const YIELD_TICKS: u64 = 1;

fn failure(kind: &str, message: impl Into<String>) -> Failure {
    Failure::new(kind, message)
}

/// The options of a host call.
fn options<T: serde::de::DeserializeOwned>(what: &str, text: &str) -> Result<T, Failure> {
    if text.len() > LONGEST_OPTIONS {
        let message = format!("options of {what} are {} bytes long; {LONGEST_OPTIONS} are allowed", text.len());
        return Err(failure("limit", message));
    }
    serde_json::from_str(text).map_err(|error| failure("invalid-config", format!("options of {what}: {error}")))
}

/// What `apply` would do, as a module tells it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Change {
    /// `create`, `update`, `delete`, `run` or `check`.
    pub action: String,
    /// What it is done to.
    pub subject: String,
    /// More in a few words.
    pub detail: String,
}

/// How a call ended that was not answered well.
enum Broken {
    /// The module said why.
    Failed(Failure),
    /// It trapped, or its time was up: what it did is not known.
    Ended(Failure),
}

impl Broken {
    fn into_failure(self) -> Failure {
        match self {
            Self::Failed(failure) | Self::Ended(failure) => failure,
        }
    }
}

/// Where a guest's messages go while a call runs.
pub type Messages = UnboundedSender<Progress>;

/// Waits until the native work of calls that were given up has ended, and not for ever.
pub async fn settle_down() {
    hostio::blocking::settle_down(SETTLING).await;
}

impl Runtime {
    /// What a module says of itself.
    ///
    /// # Errors
    /// [`DescriptionError`].
    pub async fn describe(&self, module: &Module, step: &Step) -> Result<Description, DescriptionError> {
        if let Some(text) = module.description {
            return Description::parse(text);
        }
        if let Some(text) = self.kept_words(module, &name_of(&step.uses)) {
            return Description::parse(&text);
        }
        let (messages, mut said) = tokio::sync::mpsc::unbounded_channel();
        let bare = Step { grants: Default::default(), timeout: Duration::from_secs(5), ..step.clone() };
        let text = self
            .call(module, &bare, Purpose::Preview, messages, async |instance, store| {
                Ok(Ok(instance.pawl_step_step().call_describe(store).await?))
            })
            .await
            .and_then(|text| within("description", LONGEST_WORDS, text.len()).map(|()| text).map_err(Broken::Failed))
            .map_err(|broken| {
                // What it wrote before it ended tells where, in every language.
                let said = std::iter::from_fn(|| said.try_recv().ok()).filter_map(|said| match said {
                    Progress::Log { level: Level::Error | Level::Warn, message, .. } => Some(message),
                    Progress::Log { .. } | Progress::Meter { .. } => None,
                });
                DescriptionError::Call(broken.into_failure(), said.take(LINES_OF_A_DESCRIPTION).collect())
            })?;
        let description = Description::parse(&text)?;
        self.keep_words(module, &text);
        Ok(description)
    }

    /// What `apply` would do.
    ///
    /// # Errors
    /// The module's [`Failure`], or how the call ended.
    pub async fn preview(
        &self,
        module: &Module,
        step: &Step,
        input: &Value,
        messages: Messages,
    ) -> Result<Vec<Change>, Failure> {
        let input = input.to_string();
        let changes = self.call(module, step, Purpose::Preview, messages, async |instance, store| {
            instance.pawl_step_step().call_preview(store, &input).await
        });
        let changes = changes.await.map_err(Broken::into_failure)?;
        let bytes = changes.iter().map(|change| change.action.len() + change.subject.len() + change.detail.len() + 16);
        within("list of changes", LONGEST_CHANGES, bytes.sum())?;
        let change = |types::Change { action, subject, detail }| Change { action, subject, detail };
        Ok(changes.into_iter().map(change).collect())
    }

    /// Whether the effect of an input holds, here and now.
    pub async fn probe(&self, module: &Module, step: &Step, input: &Value, messages: Messages) -> Finding {
        let input = input.to_string();
        let finding = self.call(module, step, Purpose::Probe, messages, async |instance, store| {
            instance.pawl_step_step().call_probe(store, &input).await
        });
        match finding.await {
            Ok(exported::Finding::Held(found)) => match receipt(found) {
                Ok(receipt) => Finding::Held { receipt },
                Err(failure) => Finding::Failed { failure },
            },
            Ok(exported::Finding::Absent) => Finding::Absent,
            Ok(exported::Finding::Drifted(why) | exported::Finding::Unknown(why)) if why.len() > LONGEST_WORDS => {
                Finding::Failed { failure: too_long("finding", LONGEST_WORDS, why.len()) }
            }
            Ok(exported::Finding::Drifted(why)) => Finding::Drifted { why },
            Ok(exported::Finding::Unknown(why)) => Finding::Unknown { why },
            Err(broken) => Finding::Failed { failure: broken.into_failure() },
        }
    }

    /// Does it: only what is on record as intended.
    pub async fn apply(&self, module: &Module, step: &Step, intent: Intent, messages: Messages) -> Ended {
        let began = Instant::now();
        let input = intent.input().to_string();
        let fence = Fence::of(intent.input());
        let done = self.call_fenced(module, step, Purpose::Act, fence, messages, async |instance, store| {
            instance.pawl_step_step().call_apply(store, &input).await
        });
        let outcome = match done.await.map(receipt) {
            Ok(Ok(receipt)) => Outcome::Succeeded { receipt },
            // It says that it succeeded, in words that can't be understood.
            Ok(Err(failure)) | Err(Broken::Ended(failure)) => Outcome::Unknown { failure },
            Err(Broken::Failed(failure)) => Outcome::Failed { failure },
        };
        intent.ended(outcome, began.elapsed())
    }

    /// Undoes it: only what is on record as to be undone.
    pub async fn revert(
        &self,
        module: &Module,
        step: &Step,
        intent: UndoIntent,
        input: &Value,
        done: &Receipt,
        messages: Messages,
    ) -> UndoEnded {
        let (input, done) = (input.to_string(), types::Receipt::from(done));
        let undone = self.call(module, step, Purpose::Act, messages, async |instance, store| {
            instance.pawl_step_step().call_revert(store, &input, &done).await
        });
        intent.ended(undone.await.err().map(Broken::into_failure))
    }

    async fn call<T>(
        &self,
        module: &Module,
        step: &Step,
        purpose: Purpose,
        messages: Messages,
        export: impl AsyncFnOnce(&Instance, &mut Store<Host>) -> wasmtime::Result<Result<T, types::Failure>>,
    ) -> Result<T, Broken> {
        self.call_fenced(module, step, purpose, Fence::default(), messages, export).await
    }

    /// One call: an own store, an own instance, the step's grants and its time.
    async fn call_fenced<T>(
        &self,
        module: &Module,
        step: &Step,
        purpose: Purpose,
        fence: Fence,
        messages: Messages,
        export: impl AsyncFnOnce(&Instance, &mut Store<Host>) -> wasmtime::Result<Result<T, types::Failure>>,
    ) -> Result<T, Broken> {
        // What a call before this one was given up on must not work beside it.
        settle_down().await;
        let gate = Gate::open(step, purpose, &self.folders).map_err(Broken::Failed)?;
        let writes = gate.may_write_files();
        let answer = self.call_gated(module, step, gate, fence, messages, export).await;
        if writes {
            self.folders.forget();
        }
        answer
    }

    async fn call_gated<T>(
        &self,
        module: &Module,
        step: &Step,
        gate: Gate,
        fence: Fence,
        messages: Messages,
        export: impl AsyncFnOnce(&Instance, &mut Store<Host>) -> wasmtime::Result<Result<T, types::Failure>>,
    ) -> Result<T, Broken> {
        let host = Host::new(gate, Limits::default(), fence, messages).map_err(Broken::Failed)?;
        let log = host.log.clone();
        let mut store = Store::new(self.engine(), host);
        store.set_hostcall_fuel(HANDED_OVER);
        store.limiter(|host| &mut host.limits);
        // A deadline of epochs alone does not stop a host call: the guest gives way, and the timer does the rest.
        store.set_epoch_deadline(YIELD_TICKS);
        store.epoch_deadline_async_yield_and_update(YIELD_TICKS);
        let work = async {
            let instance = module.code.instantiate_async(&mut store).await?;
            export(&instance, &mut store).await
        };
        let answer = tokio::select! {
            answer = tokio::time::timeout(step.timeout, work) => answer,
            // A guest may pass over the error that its output stream gives it.
            exceeded = log.flooded() => return Err(Broken::Ended(stopped(&exceeded))),
        };
        match answer {
            Ok(Ok(Ok(value))) => Ok(value),
            Ok(Ok(Err(failure))) => Err(Broken::Failed(granting(step, bounded(failure)))),
            Ok(Err(trap)) => Err(Broken::Ended(trapped(&trap))),
            Err(_) => {
                let limit = humane(step.timeout);
                let message = format!("it did not end within its time-out of {limit}, and was stopped");
                Err(Broken::Ended(
                    failure("time-out", message).with_hint("if it needs longer, set `timeout:` on the step"),
                ))
            }
        }
    }
}

fn within(what: &str, most: usize, bytes: usize) -> Result<(), Failure> {
    if bytes > most { Err(too_long(what, most, bytes)) } else { Ok(()) }
}

fn too_long(what: &str, most: usize, bytes: usize) -> Failure {
    failure("limit", format!("its {what} is {bytes} bytes long; {most} are allowed"))
}

/// A failure as a module words it, unless it words it without end.
fn bounded(failure: types::Failure) -> Failure {
    let hint = failure.hint.as_ref().map_or(0, String::len);
    let bytes = failure.kind.len() + failure.message.len() + hint + failure.details.len();
    within("failure", LONGEST_WORDS, bytes).err().unwrap_or_else(|| failure.into())
}

/// WASI denies a path with a bare code, `not-permitted`, which modules pass on: the line that would grant it is added here.
fn granting(step: &Step, mut failure: Failure) -> Failure {
    if failure.kind == "denied" && failure.message.replace('-', " ").contains("not permitted") {
        let line = "grants: { dirs: { <name>: \"<path>\" } }";
        let line = format!("to grant what lies elsewhere, add to step `{}` in the plan: {line}", step.id);
        failure.hint = Some(failure.hint.map_or_else(|| line.clone(), |hint| format!("{hint}; {line}")));
    }
    failure
}

/// A receipt, if it is what the contract says.
fn receipt(receipt: types::Receipt) -> Result<Receipt, Failure> {
    let object = |what: &str, text: &str| {
        if text.len() > LONGEST {
            return Err(failure("limit", format!("its {what} are {} bytes long; {LONGEST} are allowed", text.len())));
        }
        serde_json::from_str(if text.is_empty() { "{}" } else { text })
            .map_err(|error| failure("permanent", format!("its {what} are no JSON object: {error}")))
    };
    let receipt = Receipt { outputs: object("outputs", &receipt.outputs)?, notes: object("notes", &receipt.notes)? };
    // Escaped, a text of control characters is six times as long: the record must still fit into a line of the journal.
    let written = serde_json::to_string(&receipt).map_or(usize::MAX, |text| text.len());
    if written > LONGEST + LONGEST / 2 {
        return Err(failure("limit", format!("its receipt is {written} bytes long as a record; that is too much")));
    }
    Ok(receipt)
}

fn stopped(exceeded: &Exceeded) -> Failure {
    failure("limit", format!("it was stopped: {exceeded}"))
}

fn is_full(error: &ResourceTableError) -> bool {
    matches!(error, ResourceTableError::Full)
}

fn trapped(error: &wasmtime::Error) -> Failure {
    if let Some(exceeded) = error.chain().find_map(|cause| cause.downcast_ref::<Exceeded>()) {
        return stopped(exceeded);
    }
    if error.chain().any(|cause| cause.downcast_ref::<ResourceTableError>().is_some_and(is_full)) {
        return stopped(&Exceeded { what: "open handles", limit: host::HANDLES.to_string() });
    }
    let why = match error.downcast_ref::<wasmtime::Trap>() {
        Some(wasmtime::Trap::StackOverflow) => "its stack overflowed: it recurses too deep".to_owned(),
        Some(wasmtime::Trap::UnreachableCodeReached) => "it panicked".to_owned(),
        Some(trap) => trap.to_string(),
        None => error.root_cause().to_string(),
    };
    let mut failure = failure("trap", format!("the module ended abnormally: {why}"));
    failure.hint = Some("its log has more: `runner logs`".to_owned());
    failure
}

/// A duration as the plan writes it.
#[must_use]
pub fn humane(duration: Duration) -> String {
    match duration.as_millis() {
        millis if millis % 60_000 == 0 && millis > 0 => format!("{}m", millis / 60_000),
        millis if millis % 1000 == 0 => format!("{}s", millis / 1000),
        millis => format!("{millis}ms"),
    }
}
