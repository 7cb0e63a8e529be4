//! Runs modules: WASM components that access only what the plan grants.
//!
//! [`engine`] loads modules, [`modules`] caches third-party ones, [`gate`] alone checks grants, and each capability has
//! a file: directories (`host`), [`blobs`], [`database`], [`http`], [`process`] (with [`program`]), [`secrets`],
//! [`files`] (with [`templates`]), [`socket`], [`log`]. The methods of [`ModuleRuntime`] are the exports. A call that loops, hangs in a host call, uses too much memory, panics or
//! floods its log ends with a typed failure soon after its deadline, and the runner continues. Deliberately absent: the
//! order of calls, and the journal.

mod behavior;
mod bindings;
mod blobs;
mod channel;
mod componentize;
mod contract_mismatch;
mod database;
mod declared_value;
mod decoded;
mod description;
mod download_reader;
mod engine;
mod files;
mod gate;
mod host;
mod http;
mod inputs;
mod kept_download;
mod limits;
mod log;
mod migrations;
mod modules;
mod official_code;
mod plain_schema;
mod precompiled;
mod process;
mod program;
mod program_inputs;
mod registry_content;
mod schema_violation;
mod scratch_dir;
mod secrets;
mod socket;
mod templates;
mod value_relation;

use std::time::{Duration, Instant};

use serde_json::Value;
use wasmtime::{Store, component::ResourceTableError};

pub use contract::step::PreviewChange;

pub use behavior::{InstallsReleasesBehavior, MigratesBehavior, ModuleBehaviors};
pub use channel::{CallChannel, CallMessage, ProgramOutput};
pub use declared_value::{DeclaredValue, ValueKind};
pub use decoded::DecodedArchives;
pub use description::{CapabilityKind, CapabilityNeed, DescriptionError, InputKind, ModuleDescription, ProbeStrength};
pub use engine::{
    CONTRACT_VERSION, LoadedModule, ModuleLoadError, ModuleRuntime, official_module_names, official_schemas,
};
pub use gate::{CallPurpose, argv_may_match, module_display_name, with_default_variables};
pub use inputs::{InputError, release_digest};
pub use migrations::open_migrations;
pub use modules::{NoticeHandler, RegistryError, UserPaths};
pub use program::{
    BoundedProgram, FileFormat, GUARD_ARGUMENT, LeftoverProgram, ProcessIdentity, ProgramFault, end_leftover_programs,
    find_program, run_bounded, run_program_guard, usual_path,
};
pub use program_inputs::resolve_in_plan;
pub use schema_violation::SchemaViolation;
pub use value_relation::{RelationKind, ValueRelation};

use self::{
    bindings::{Module as Instance, ModulePre, exported, types},
    gate::CapabilityGate,
    host::HostState,
    limits::{GuestLimitExceeded, GuestLimits},
    process::{ProgramLost, ProgramStopped, ProgramSupervisor},
};
use contract::step::{FailureKind, MessageLevel, ProbeFinding, Receipt, StepFailure, StepOutcome, StepProgress};
use db::migrate::MigrationFence;
use journal::{StepCompletion, StepIntent, UndoCompletion, UndoIntent, file::StepEffect};
use plan::PlanStep;

/// The longest text of a receipt that a module may return, in bytes.
const MAX_RECEIPT_BYTES: usize = 32 << 10;

/// The most lines of a module's log in an error of `describe`.
const MAX_DESCRIBE_LOG_LINES: usize = 8;
/// The longest total text of a failure, finding or description, in bytes. It is cut for display after redaction.
const MAX_TEXT_BYTES: usize = 1 << 20;

/// The longest list of changes, all texts together, in bytes.
const MAX_CHANGES_BYTES: usize = 256 << 10;

/// The longest options of a host call, in bytes.
const MAX_OPTIONS_BYTES: usize = 1 << 20;

/// The most bytes that a module may pass in one host call. A list may name the same bytes repeatedly, so the module's
/// memory is not a limit.
const MAX_HOSTCALL_BYTES: usize = 64 << 20;

/// How long to wait for blocking work of a cancelled call.
const BLOCKING_TASKS_TIMEOUT: Duration = Duration::from_secs(2);

/// The interface that a module with a rehearsal exports besides the five functions.
const REHEARSAL: &str = "pawl:step/rehearsal@0.1.2";

/// The ticks between a guest's yields, so that its deadline is noticed.
const YIELD_TICKS: u64 = 1;

fn failure(kind: FailureKind, message: impl Into<String>) -> StepFailure {
    StepFailure::new(kind, message)
}

/// Parses the options of a host call.
fn parse_options<T: serde::de::DeserializeOwned>(what: &str, text: &str) -> Result<T, StepFailure> {
    if text.len() > MAX_OPTIONS_BYTES {
        let message = format!("the options of {what} are {} bytes; the limit is {MAX_OPTIONS_BYTES}", text.len());
        return Err(failure(FailureKind::Limit, message));
    }
    serde_json::from_str(text)
        .map_err(|error| failure(FailureKind::InvalidConfig, format!("invalid options of {what}: {error}")))
}

/// An unsuccessful end of a call.
enum ModuleCallError {
    /// The module returned a failure.
    Failed(StepFailure),
    /// It trapped or timed out: the outcome is unknown.
    Aborted(StepFailure),
}

impl ModuleCallError {
    fn into_failure(self) -> StepFailure {
        match self {
            Self::Failed(failure) | Self::Aborted(failure) => failure,
        }
    }
}

/// Waits with a limit until the blocking work of cancelled calls has ended.
pub async fn wait_for_blocking_tasks() {
    hostio::blocking::wait_for_tasks(BLOCKING_TASKS_TIMEOUT).await;
}

impl ModuleRuntime {
    /// Calls `describe`.
    ///
    /// # Errors
    /// [`DescriptionError`].
    pub async fn describe(
        &self,
        module: &LoadedModule,
        step: &PlanStep,
    ) -> Result<ModuleDescription, DescriptionError> {
        if let Some(text) = module.built_in_description {
            return ModuleDescription::parse(text);
        }
        if let Some(text) = self.cached_description(module, &module_display_name(&step.uses)) {
            return ModuleDescription::parse(&text);
        }
        let (channel, mut received) = CallChannel::new();
        let ungranted_step = PlanStep { grants: Default::default(), timeout: Duration::from_secs(5), ..step.clone() };
        let text = self
            .call(module, &ungranted_step, CallPurpose::Preview, channel, async |instance, store| {
                Ok(Ok(instance.pawl_step_step().call_describe(store).await?))
            })
            .await
            .and_then(|text| {
                check_length("description", MAX_TEXT_BYTES, text.len()).map(|()| text).map_err(ModuleCallError::Failed)
            })
            .map_err(|error| {
                // The log before the end shows the cause, in every language.
                let said = std::iter::from_fn(|| received.try_recv().ok()).filter_map(|said| match said {
                    CallMessage::Progress(StepProgress::Log {
                        level: MessageLevel::Error | MessageLevel::Warn,
                        message,
                        ..
                    }) => Some(message),
                    CallMessage::Progress(StepProgress::Log { .. } | StepProgress::Meter { .. })
                    | CallMessage::Output(_) => None,
                });
                DescriptionError::CallFailed(error.into_failure(), said.take(MAX_DESCRIBE_LOG_LINES).collect())
            })?;
        let description = ModuleDescription::parse_new(&text)?;
        self.cache_description(module, &text);
        Ok(description)
    }

    /// Calls `preview`: the changes that `apply` would make.
    ///
    /// # Errors
    /// The module's [`StepFailure`], or how the call ended.
    pub async fn preview(
        &self,
        module: &LoadedModule,
        step: &PlanStep,
        input: &Value,
        channel: CallChannel,
    ) -> Result<Vec<PreviewChange>, StepFailure> {
        let input = input.to_string();
        let changes = self.call(module, step, CallPurpose::Preview, channel, async |instance, store| {
            instance.pawl_step_step().call_preview(store, &input).await
        });
        let changes = changes.await.map_err(ModuleCallError::into_failure)?;
        let bytes = changes.iter().map(|change| change.action.len() + change.subject.len() + change.detail.len() + 16);
        check_length("list of changes", MAX_CHANGES_BYTES, bytes.sum())?;
        let change = |types::Change { action, subject, detail }| PreviewChange { action, subject, detail };
        Ok(changes.into_iter().map(change).collect())
    }

    /// Calls `probe`: whether the effect of an input holds here and now.
    pub async fn probe(
        &self,
        module: &LoadedModule,
        step: &PlanStep,
        input: &Value,
        channel: CallChannel,
    ) -> ProbeFinding {
        let input = input.to_string();
        let finding = self.call(module, step, CallPurpose::Probe, channel, async |instance, store| {
            instance.pawl_step_step().call_probe(store, &input).await
        });
        match finding.await {
            Ok(exported::Finding::Held(found)) => match parse_receipt(found) {
                Ok(receipt) => ProbeFinding::Held { receipt },
                Err(failure) => ProbeFinding::Failed { failure },
            },
            Ok(exported::Finding::Absent) => ProbeFinding::Absent,
            Ok(exported::Finding::Drifted(why) | exported::Finding::Unknown(why)) if why.len() > MAX_TEXT_BYTES => {
                ProbeFinding::Failed { failure: length_failure("finding", MAX_TEXT_BYTES, why.len()) }
            }
            Ok(exported::Finding::Drifted(why)) => ProbeFinding::Drifted { why },
            Ok(exported::Finding::Unknown(why)) => ProbeFinding::Unknown { why },
            Err(error) => ProbeFinding::Failed { failure: error.into_failure() },
        }
    }

    /// Calls `rehearse` of a module that has a rehearsal: whether `apply` would be refused. It may run programs, and changes nothing.
    ///
    /// # Errors
    /// The module's [`StepFailure`], or how the call ended.
    pub async fn rehearse(
        &self,
        module: &LoadedModule,
        step: &PlanStep,
        input: &Value,
        channel: CallChannel,
    ) -> Result<(), StepFailure> {
        let input = input.to_string();
        let gate = self.gate(step, CallPurpose::Rehearse).await?;
        let answer = self.call_gated(module, step, gate, MigrationFence::default(), channel, async |code, store| {
            let instance = code.instance_pre().instantiate_async(&mut *store).await?;
            let missing = || wasmtime::Error::msg("it describes a rehearsal, and exports none");
            let interface = instance.get_export_index(&mut *store, None, REHEARSAL).ok_or_else(missing)?;
            let function = instance.get_export_index(&mut *store, Some(&interface), "rehearse").ok_or_else(missing)?;
            let rehearse = instance.get_typed_func::<(&str,), (Result<(), types::Failure>,)>(&mut *store, function)?;
            Ok(rehearse.call_async(&mut *store, (&input,)).await?.0)
        });
        answer.await.map_err(ModuleCallError::into_failure)
    }

    /// Calls `apply`. The journal must hold the intent.
    pub async fn apply(
        &self,
        module: &LoadedModule,
        step: &PlanStep,
        intent: StepIntent,
        channel: CallChannel,
    ) -> StepCompletion {
        let started = Instant::now();
        let input = intent.input().to_string();
        let fence = MigrationFence::from_input(intent.input());
        let purpose = match intent.effect() {
            StepEffect::ReadOnly => CallPurpose::Check,
            StepEffect::Mutating | StepEffect::Exposing => CallPurpose::Mutate,
        };
        let result = self.call_fenced(module, step, purpose, fence, channel, async |instance, store| {
            instance.pawl_step_step().call_apply(store, &input).await
        });
        let outcome = match result.await.map(parse_receipt) {
            Ok(Ok(receipt)) => StepOutcome::Succeeded { receipt },
            // The module reported success, but its receipt is invalid.
            Ok(Err(failure)) | Err(ModuleCallError::Aborted(failure)) => StepOutcome::Unknown { failure },
            Err(ModuleCallError::Failed(failure)) => StepOutcome::Failed { failure },
        };
        intent.complete(outcome, started.elapsed())
    }

    /// Calls `revert`. The journal must hold the intent.
    pub async fn revert(
        &self,
        module: &LoadedModule,
        step: &PlanStep,
        intent: UndoIntent,
        input: &Value,
        done: &Receipt,
        channel: CallChannel,
    ) -> UndoCompletion {
        let (input, done) = (input.to_string(), types::Receipt::from(done));
        let result = self.call(module, step, CallPurpose::Mutate, channel, async |instance, store| {
            instance.pawl_step_step().call_revert(store, &input, &done).await
        });
        intent.complete(result.await.err().map(ModuleCallError::into_failure))
    }

    async fn call<T>(
        &self,
        module: &LoadedModule,
        step: &PlanStep,
        purpose: CallPurpose,
        channel: CallChannel,
        export: impl AsyncFnOnce(&Instance, &mut Store<HostState>) -> wasmtime::Result<Result<T, types::Failure>>,
    ) -> Result<T, ModuleCallError> {
        self.call_fenced(module, step, purpose, MigrationFence::default(), channel, export).await
    }

    /// One call with its own store, instance, grants and timeout.
    async fn call_fenced<T>(
        &self,
        module: &LoadedModule,
        step: &PlanStep,
        purpose: CallPurpose,
        fence: MigrationFence,
        channel: CallChannel,
        export: impl AsyncFnOnce(&Instance, &mut Store<HostState>) -> wasmtime::Result<Result<T, types::Failure>>,
    ) -> Result<T, ModuleCallError> {
        let gate = self.gate(step, purpose).await.map_err(ModuleCallError::Failed)?;
        let writes = gate.may_write_files();
        let answer = self.call_gated(module, step, gate, fence, channel, async |code, store| {
            let instance = code.instantiate_async(&mut *store).await?;
            export(&instance, store).await
        });
        let answer = answer.await;
        if writes {
            self.dir_snapshots.clear();
        }
        answer
    }

    /// The gate of a call. Blocking work of an earlier cancelled call must not run at the same time.
    async fn gate(&self, step: &PlanStep, purpose: CallPurpose) -> Result<CapabilityGate, StepFailure> {
        wait_for_blocking_tasks().await;
        CapabilityGate::open(step, purpose, &self.dir_snapshots)
    }

    async fn call_gated<T>(
        &self,
        module: &LoadedModule,
        step: &PlanStep,
        gate: CapabilityGate,
        fence: MigrationFence,
        channel: CallChannel,
        export: impl AsyncFnOnce(
            &ModulePre<HostState>,
            &mut Store<HostState>,
        ) -> wasmtime::Result<Result<T, types::Failure>>,
    ) -> Result<T, ModuleCallError> {
        let (programs, attempt) = (ProgramSupervisor::default(), channel.clone());
        let mut host = HostState::new(gate, GuestLimits::default(), fence, channel, programs.clone())
            .map_err(ModuleCallError::Failed)?;
        host.decoded_archives = self.decoded_archives.clone();
        host.downloads = self.kept_downloads();
        let log = host.log.clone();
        let mut store = Store::new(self.engine(), host);
        store.set_hostcall_fuel(MAX_HOSTCALL_BYTES);
        store.limiter(|host| &mut host.limits);
        // An epoch deadline alone does not stop a host call: the guest yields, and the timer ends it.
        store.set_epoch_deadline(YIELD_TICKS);
        store.epoch_deadline_async_yield_and_update(YIELD_TICKS);
        let work = async {
            let code = self.instance_pre(module).map_err(wasmtime::Error::new)?;
            export(code, &mut store).await
        };
        tokio::pin!(work);
        let (answer, timed_out) = tokio::select! {
            answer = programs.until_stopped(&mut work, attempt.stop_requested()) => (answer, false),
            () = tokio::time::sleep(step.timeout) => match programs.stop_and_wait(&mut work).await {
                Some(answer) => (answer, true),
                None => return Err(ModuleCallError::Aborted(time_out_failure(step, None))),
            },
            // A guest may ignore the error of its output stream.
            exceeded = log.wait_for_limit_exceeded() => return Err(ModuleCallError::Aborted(limit_failure(&exceeded))),
        };
        match answer {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(failure)) => {
                let failure = with_grant_hint(step, bounded_failure(failure));
                let cut_off = || time_out_failure(step, Some(&failure));
                Err(ModuleCallError::Failed(if timed_out { cut_off() } else { failure }))
            }
            Err(_) if timed_out => Err(ModuleCallError::Aborted(time_out_failure(step, None))),
            Err(trap) => Err(ModuleCallError::Aborted(trap_failure(&trap))),
        }
    }
}

fn check_length(what: &str, limit: usize, bytes: usize) -> Result<(), StepFailure> {
    if bytes > limit { Err(length_failure(what, limit, bytes)) } else { Ok(()) }
}

fn length_failure(what: &str, limit: usize, bytes: usize) -> StepFailure {
    failure(FailureKind::Limit, format!("its {what} is {bytes} bytes; the limit is {limit}"))
}

/// The module's failure, within limits.
fn bounded_failure(failure: types::Failure) -> StepFailure {
    let hint = failure.hint.as_ref().map_or(0, String::len);
    let bytes = failure.kind.as_str().len() + failure.message.len() + hint + failure.details.len();
    check_length("failure", MAX_TEXT_BYTES, bytes).err().unwrap_or_else(|| failure.into())
}

/// WASI denies a path with only the code `not-permitted`, which modules pass on. This adds the line that would grant
/// it.
fn with_grant_hint(step: &PlanStep, mut failure: StepFailure) -> StepFailure {
    if failure.kind == FailureKind::Denied && failure.message.replace('-', " ").contains("not permitted") {
        let line = "grants: { dirs: { <name>: \"<path>\" } }";
        let line = format!("to grant another directory, add to step `{}` in the plan: {line}", step.id);
        failure.hint = Some(failure.hint.map_or_else(|| line.clone(), |hint| format!("{hint}; {line}")));
    }
    failure
}

/// Parses a receipt.
fn parse_receipt(receipt: types::Receipt) -> Result<Receipt, StepFailure> {
    let object = |what: &str, text: &str| {
        if text.len() > MAX_RECEIPT_BYTES {
            return Err(failure(
                FailureKind::Limit,
                format!("its {what} are {} bytes; the limit is {MAX_RECEIPT_BYTES}", text.len()),
            ));
        }
        serde_json::from_str(if text.is_empty() { "{}" } else { text })
            .map_err(|error| failure(FailureKind::Permanent, format!("its {what} are not a JSON object: {error}")))
    };
    let receipt = Receipt { outputs: object("outputs", &receipt.outputs)?, notes: object("notes", &receipt.notes)? };
    // Escaped control characters take six times the space, and the record must fit into a line of the journal.
    let written = serde_json::to_string(&receipt).map_or(usize::MAX, |text| text.len());
    if written > MAX_RECEIPT_BYTES + MAX_RECEIPT_BYTES / 2 {
        return Err(failure(
            FailureKind::Limit,
            format!("its receipt is {written} bytes as a journal record, which is too large"),
        ));
    }
    Ok(receipt)
}

fn limit_failure(exceeded: &GuestLimitExceeded) -> StepFailure {
    failure(FailureKind::Limit, format!("the runner stopped it: {exceeded}"))
}

/// The failure of a call beyond its timeout. The module's own failure says how its program ended when it was asked to.
fn time_out_failure(step: &PlanStep, module_failure: Option<&StepFailure>) -> StepFailure {
    let limit = format_duration(step.timeout);
    let how = module_failure.map_or_else(String::new, |failure| format!(": {}", failure.message));
    let message = format!("the runner stopped it after its timeout of {limit}{how}");
    let details = module_failure.map_or_else(Default::default, |failure| failure.details.clone());
    let failure = failure(FailureKind::TimeOut, message).with_hint("if it needs more time, set `timeout:` on the step");
    StepFailure { details, ..failure }
}

fn is_table_full(error: &ResourceTableError) -> bool {
    matches!(error, ResourceTableError::Full)
}

fn trap_failure(error: &wasmtime::Error) -> StepFailure {
    if let Some(exceeded) = error.chain().find_map(|cause| cause.downcast_ref::<GuestLimitExceeded>()) {
        return limit_failure(exceeded);
    }
    if error.chain().any(|cause| cause.downcast_ref::<ResourceTableError>().is_some_and(is_table_full)) {
        return limit_failure(&GuestLimitExceeded { resource: "open handle", limit: host::MAX_HANDLES.to_string() });
    }
    if let Some(stopped) = error.chain().find_map(|cause| cause.downcast_ref::<ProgramStopped>()) {
        return failure(FailureKind::Transient, stopped.to_string());
    }
    if let Some(lost) = error.chain().find_map(|cause| cause.downcast_ref::<ProgramLost>()) {
        return failure(FailureKind::Permanent, lost.to_string());
    }
    let why = match error.downcast_ref::<wasmtime::Trap>() {
        Some(wasmtime::Trap::StackOverflow) => "its stack overflowed: it recursed too deeply".to_owned(),
        Some(wasmtime::Trap::UnreachableCodeReached) => "it panicked".to_owned(),
        Some(trap) => trap.to_string(),
        None => error.root_cause().to_string(),
    };
    let mut failure = failure(FailureKind::Trap, format!("the module crashed: {why}"));
    failure.hint = Some("read its log with `runner logs`, and fix the module".to_owned());
    failure
}

/// A duration in the plan's notation.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    match duration.as_millis() {
        millis if millis % 60_000 == 0 && millis > 0 => format!("{}m", millis / 60_000),
        millis if millis % 1000 == 0 => format!("{}s", millis / 1000),
        millis => format!("{millis}ms"),
    }
}
