//! JSON pointers, texts of slots, durations, versions, and names of steps.

use std::{collections::BTreeSet, time::Duration};

use contract::{StepId, duration::parse_duration, text::format_duration};
use plan::{closest_match, quoted_list};
use sandbox::DeclaredValue;
use semver::VersionReq;
use serde_json::Value;

use super::{DeclaredStep, KnownText, ValueProblem};

impl DeclaredStep<'_> {
    /// Checks a JSON pointer (RFC 6901).
    pub(super) fn check_json_pointer(&self, value: &DeclaredValue) -> Option<ValueProblem> {
        // A key is never substituted, whatever its value is.
        let pointer = value.value.as_ref()?.as_str()?;
        let is_escaped = pointer.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
        if (pointer.is_empty() || pointer.starts_with('/')) && is_escaped {
            return None;
        }
        let why = format!("`{pointer}` is not a JSON pointer");
        if !is_escaped {
            return Some(self.invalid(value, &why, "`~` alone", "write `~0` for `~`, and `~1` for `/` in a name"));
        }
        let inner = pointer.strip_prefix("$.").or_else(|| pointer.strip_prefix('.')).unwrap_or(pointer);
        let meant = if inner.contains('/') { inner.to_owned() } else { inner.replace('.', "/") };
        Some(self.invalid(value, &why, "it must begin with `/`", format!("did you mean `/{meant}`?")))
    }

    /// Checks that each slot has a port, if the text needs it. Without the setting `slots`, none has one.
    pub(super) fn check_slot_text(&self, value: &DeclaredValue) -> Option<ValueProblem> {
        const PORT: &str = "{port}";
        const SLOTS: &str = "/slots";
        let needs_port = |pointer: &str, item: &Value| match self.text_at(pointer, item) {
            Some(KnownText::Whole(text) | KnownText::Prefix(text)) => text.contains(PORT),
            None => false,
        };
        let needed = match value.value.as_ref()? {
            Value::Array(words) => {
                words.iter().enumerate().any(|(at, word)| needs_port(&format!("{}/{at}", value.pointer), word))
            }
            text @ (Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) => {
                needs_port(&value.pointer, text)
            }
        };
        if !needed || self.step.pending.contains_key(SLOTS) {
            return None;
        }
        let why = match self.step.with.pointer(SLOTS) {
            None => "the slots have no ports".to_owned(),
            Some(slots) => {
                let (name, _) = slots.as_object()?.iter().find(|(_, slot)| slot.get("port").is_none())?;
                format!("slot `{name}` has no port")
            }
        };
        let hint = "give each slot a port: `slots: { a: { port: 8001 }, b: { port: 8002 } }`";
        Some(self.invalid(value, &format!("`{PORT}` is not known, because {why}"), "which port?", hint))
    }

    pub(super) fn check_duration(&self, value: &DeclaredValue) -> Option<ValueProblem> {
        let KnownText::Whole(text) = self.text(value)? else { return None };
        let invalid = parse_duration(text).err()?;
        Some(self.invalid(value, &invalid.to_string(), "not a duration", invalid.hint()))
    }

    /// Checks that a call may take that long.
    pub(super) fn check_call_duration(&self, value: &DeclaredValue) -> Option<ValueProblem> {
        let KnownText::Whole(text) = self.text(value)? else { return None };
        let (duration, timeout) = (parse_duration(text).ok()?, self.step.timeout);
        if duration < timeout {
            return None;
        }
        let written = |duration: Duration| format_duration(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
        let why = format!("{text} is not less than the step's timeout, which is {}", written(timeout));
        let hint = format!("give the step more time, such as `timeout: {}s`", (duration * 2).as_secs().max(1));
        Some(self.invalid(value, &why, "longer than the step may take", hint))
    }

    pub(super) fn check_version_range(&self, value: &DeclaredValue) -> Option<ValueProblem> {
        let KnownText::Whole(text) = self.text(value)? else { return None };
        let invalid = VersionReq::parse(text).err()?;
        let why = format!("`{text}` is not a range of versions: {invalid}");
        let hint = "write `>=20`, `>=8.2, <8.5`, or `8.2` for any `8.x` from `8.2` on";
        Some(self.invalid(value, &why, "not a range", hint))
    }

    pub(super) fn check_earlier_step(
        &self,
        value: &DeclaredValue,
        upstream: &BTreeSet<StepId>,
    ) -> Option<ValueProblem> {
        let KnownText::Whole(name) = self.text(value)? else { return None };
        if upstream.iter().any(|step| step.as_str() == name) {
            return None;
        }
        let names = || upstream.iter().map(StepId::as_str);
        let hint = match closest_match(name, names()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if upstream.is_empty() => "remove it; no step runs before this one".to_owned(),
            None => format!("use one of {}", quoted_list(names())),
        };
        Some(self.invalid(value, &format!("no step `{name}` runs before this one"), "no such step", hint))
    }
}
