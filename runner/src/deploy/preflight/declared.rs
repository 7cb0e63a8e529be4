//! Checks the values that a module's schema declares (`x-pawl-value`) against the step's grants and each other, before anything runs.
//!
//! Invariant: a value that is known only later is checked as far as it is known, and never refused for the rest. Deliberately
//! absent: names of modules (a declaration is all that counts), files and programs on this machine ([`machine`](super::machine)),
//! and what only an answer can tell, such as a redirect.

mod grant_lines;
mod network;
mod paths;
mod programs;
mod relations;
mod texts;

use std::collections::BTreeSet;

use contract::{
    StepId,
    diagnostic::{Diagnostic, ErrorCode},
    text::dotted_pointer,
};
use plan::{Plan, PlanStep};
use sandbox::{CapabilityKind, DeclaredValue, ModuleDescription, ValueKind, ValueRelation};
use serde_json::Value;

use super::span_of;
pub(super) use grant_lines::{GrantHint, GrantLine, env_line_hint, grant_line_hint};

/// An error in a declared value.
pub(super) struct ValueProblem {
    /// The JSON pointer to the value.
    pub(super) pointer: String,
    /// The kind of grant that it lacks, or would need if it were valid.
    pub(super) capability: Option<CapabilityKind>,
    pub(super) diagnostic: Diagnostic,
    /// The hint of the diagnostic, which the other errors of the step add lines to.
    pub(super) hint: GrantHint,
}

/// A step with its declared values.
pub(super) struct DeclaredStep<'a> {
    pub(super) plan: &'a Plan,
    pub(super) step: &'a PlanStep,
    pub(super) values: Vec<DeclaredValue>,
    relations: Vec<ValueRelation>,
}

/// As much of a text as is known before the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KnownText<'a> {
    Whole(&'a str),
    /// It begins so; the rest is known later.
    Prefix(&'a str),
}

impl<'a> DeclaredStep<'a> {
    pub(super) fn new(plan: &'a Plan, step: &'a PlanStep, description: &ModuleDescription) -> Self {
        let (values, relations) = (description.declared_values(&step.with), description.value_relations(&step.with));
        Self { plan, step, values, relations }
    }

    /// All errors of the declared values. `upstream` are the steps that this one waits for; none if they are not known.
    pub(super) fn problems(&self, upstream: Option<&BTreeSet<StepId>>) -> Vec<ValueProblem> {
        self.values.iter().flat_map(|value| self.check(value, upstream)).collect()
    }

    fn check(&self, value: &DeclaredValue, upstream: Option<&BTreeSet<StepId>>) -> Vec<ValueProblem> {
        let found = match value.kind {
            ValueKind::HttpUrl => self.check_url(value),
            ValueKind::TcpAddress => self.check_tcp_address(value),
            ValueKind::Source => self.check_source(value),
            ValueKind::JsonPointer => self.check_json_pointer(value),
            ValueKind::Database => self.check_database(value),
            ValueKind::DirName => self.check_dir_name(value),
            ValueKind::DirPath | ValueKind::WorkingDir => self.check_dir_path(value),
            ValueKind::RelativePath => self.check_relative_path(value),
            ValueKind::SeparatePaths => self.check_separate_paths(value),
            ValueKind::Program | ValueKind::Command => self.check_argv(value),
            ValueKind::ProgramEnvironment => return self.check_program_environment(value),
            ValueKind::SlotText => self.check_slot_text(value),
            ValueKind::Duration => self.check_duration(value),
            ValueKind::CallDuration => self.check_duration(value).or_else(|| self.check_call_duration(value)),
            ValueKind::VersionRange => self.check_version_range(value),
            ValueKind::EarlierStep => upstream.and_then(|upstream| self.check_earlier_step(value, upstream)),
            // They are checked with the URL and the program beside them.
            ValueKind::HttpMethod | ValueKind::Arguments => None,
        };
        found.into_iter().collect()
    }

    /// The text of a value, as far as it is known; none if it is left out or no text.
    pub(super) fn text<'v>(&'v self, value: &'v DeclaredValue) -> Option<KnownText<'v>> {
        self.text_at(&value.pointer, value.value.as_ref()?)
    }

    fn text_at<'v>(&'v self, pointer: &str, value: &'v Value) -> Option<KnownText<'v>> {
        match self.step.pending.get(pointer) {
            Some(pending) => Some(KnownText::Prefix(pending.known_prefix())),
            None => value.as_str().map(KnownText::Whole),
        }
    }

    /// The value of a kind in the same object.
    pub(super) fn beside(&self, value: &DeclaredValue, kind: ValueKind) -> Option<&DeclaredValue> {
        self.values.iter().find(|other| other.kind == kind && other.object == value.object)
    }

    /// A value that can't work whatever is granted.
    fn invalid(&self, value: &DeclaredValue, why: &str, label: &str, hint: impl Into<String>) -> ValueProblem {
        let hint: String = hint.into();
        let at = dotted_pointer(&value.pointer);
        let message = format!("invalid `with` of step `{}` at `{at}`: {why}", self.step.id);
        let capability = match value.kind {
            ValueKind::HttpUrl | ValueKind::HttpMethod | ValueKind::Source => Some(CapabilityKind::Http),
            ValueKind::TcpAddress => Some(CapabilityKind::Tcp),
            ValueKind::JsonPointer
            | ValueKind::Database
            | ValueKind::DirName
            | ValueKind::DirPath
            | ValueKind::WorkingDir
            | ValueKind::RelativePath
            | ValueKind::SeparatePaths
            | ValueKind::Program
            | ValueKind::Command
            | ValueKind::ProgramEnvironment
            | ValueKind::SlotText
            | ValueKind::Duration
            | ValueKind::CallDuration
            | ValueKind::VersionRange
            | ValueKind::EarlierStep
            | ValueKind::Arguments => None,
        };
        self.problem(ErrorCode::InvalidConfig, value, capability, message, label, GrantHint::from(hint))
    }

    /// A value that the grants do not cover. `what` completes "step `x` needs …".
    fn not_granted(
        &self,
        value: &DeclaredValue,
        kind: CapabilityKind,
        what: &str,
        hint: impl Into<GrantHint>,
    ) -> ValueProblem {
        let message = format!("step `{}` needs {what}, but the plan does not grant it", self.step.id);
        self.problem(ErrorCode::MissingGrant, value, Some(kind), message, "not granted", hint.into())
    }

    fn problem(
        &self,
        code: ErrorCode,
        value: &DeclaredValue,
        capability: Option<CapabilityKind>,
        message: String,
        label: &str,
        hint: GrantHint,
    ) -> ValueProblem {
        // What is wrong with a key is shown at the key.
        let is_key = matches!(value.kind, ValueKind::JsonPointer | ValueKind::ProgramEnvironment);
        let key = self.step.with_key_spans.get(&value.pointer).filter(|_| is_key);
        let span = key.cloned().unwrap_or_else(|| span_of(self.step, &value.pointer));
        let diagnostic = self.plan.error_at(code, span, message, label, Some(hint.text(self.step)));
        ValueProblem { pointer: value.pointer.clone(), capability, diagnostic, hint }
    }
}
