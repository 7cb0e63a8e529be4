//! Finds secrets in control values: the values that decisions read, which the journal records unchanged.
//!
//! Control values are names, labels, digests, inputs and receipts. A secret in one of them is refused, since the journal can
//! neither hide it (later decisions would read `***`) nor record it. Deliberately absent: texts, which [`super::redact`] masks.

use aho_corasick::AhoCorasick;
use serde_json::Value;

use super::redact::{spellings, without_whitespace};
use contract::{
    Secret,
    error_code::ErrorCode,
    step::{FailureKind, ProbeFinding, Receipt, StepFailure, StepOutcome},
    text::{dotted_pointer, pointer_token},
};

/// The length in characters from which a secret is refused in control values. A shorter one would be found by chance.
pub const MIN_REFUSED_CHARS: usize = 8;

/// The length in characters from which a single line of a secret is refused too.
const MIN_REFUSED_LINE_CHARS: usize = 20;

/// The hint for a user whose value only looks like a secret.
const NOT_A_SECRET_HINT: &str = "not a secret? use `env.NAME` instead of `secrets`";

/// The hint for a value that contains a secret of the CI job, which no plan needs.
const JOB_SECRET_HINT: &str =
    "take it out of this value; if it is there by chance, such as a word, give the job a long random secret";

/// What the name of a secret of the CI job begins with, unlike that of a plan's secret.
const JOB_SECRET_PREFIX: char = '$';

/// The name of a secret that the CI job gives to the runner in an environment variable.
#[must_use]
pub fn job_secret_name(variable: &str) -> String {
    format!("{JOB_SECRET_PREFIX}{variable}")
}

/// The secrets that control values must not contain, in all spellings.
#[derive(Clone, Debug, Default)]
pub struct SecretScanner {
    names: Vec<String>,
    /// The spellings without white space, since the search ignores white space.
    dense: Option<AhoCorasick>,
    /// The index into `names` of each dense spelling.
    dense_owners: Vec<usize>,
    /// The spellings that would be too short without their white space.
    spaced: Vec<(String, usize)>,
}

/// A secret in a control value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretLocation {
    /// The name of the secret in the plan, or its [`job_secret_name`].
    pub secret: String,
    /// The JSON pointer to the value; empty for a value that is not JSON.
    pub pointer: String,
}

impl SecretLocation {
    /// The secret, for people: database passwords have the name `<step>.<database>`.
    #[must_use]
    pub fn secret_text(&self) -> String {
        if let Some(variable) = self.secret.strip_prefix(JOB_SECRET_PREFIX) {
            return format!("the value of the job's secret `{variable}`");
        }
        match self.secret.split_once('.') {
            Some((step, database)) => format!("the password of database `{database}` of step `{step}`"),
            None => format!("the value of secret `{}`", self.secret),
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        if self.secret.starts_with(JOB_SECRET_PREFIX) { JOB_SECRET_HINT } else { NOT_A_SECRET_HINT }
    }

    fn under(self, parent: &str) -> Self {
        Self { pointer: format!("/{parent}{}", self.pointer), ..self }
    }
}

impl SecretScanner {
    /// Creates a scanner of named secrets.
    #[must_use]
    pub fn new<'a>(secrets: impl IntoIterator<Item = (&'a str, &'a Secret)>) -> Self {
        let mut scanner = Self::default();
        let mut dense = Vec::new();
        for (name, secret) in secrets {
            let owner = scanner.names.len();
            scanner.names.push(name.to_owned());
            let value = secret.reveal().trim();
            let lines = value.lines().map(str::trim).filter(|line| line.chars().count() >= MIN_REFUSED_LINE_CHARS);
            let whole = Some(value).filter(|value| is_refused(value));
            for part in whole.into_iter().chain(lines) {
                for spelling in spellings(part) {
                    let compact = without_whitespace(&spelling);
                    if compact.chars().count() >= MIN_REFUSED_CHARS {
                        dense.push(compact);
                        scanner.dense_owners.push(owner);
                    } else {
                        scanner.spaced.push((spelling, owner));
                    }
                }
            }
        }
        if !dense.is_empty() {
            scanner.dense = Some(AhoCorasick::new(&dense).expect("a handful of short patterns"));
        }
        scanner
    }

    /// The name of a secret that a text contains.
    #[must_use]
    pub fn find_in_text(&self, text: &str) -> Option<&str> {
        let spaced = || self.spaced.iter().find(|(spelling, _)| text.contains(spelling)).map(|(_, owner)| *owner);
        let dense = self.dense.as_ref().and_then(|dense| {
            let found = if text.contains(|c: char| c.is_ascii_whitespace()) {
                dense.find(&without_whitespace(text))
            } else {
                dense.find(text)
            };
            found.map(|found| self.dense_owners[found.pattern().as_usize()])
        });
        dense.or_else(spaced).map(|owner| self.names[owner].as_str())
    }

    /// A secret in a JSON value, its keys included.
    #[must_use]
    pub fn find_in_json(&self, value: &Value) -> Option<SecretLocation> {
        if self.dense.is_none() && self.spaced.is_empty() {
            return None;
        }
        let at = |secret: &str| SecretLocation { secret: secret.to_owned(), pointer: String::new() };
        match value {
            Value::String(text) => self.find_in_text(text).map(at),
            Value::Number(number) => self.find_in_text(&number.to_string()).map(at),
            Value::Array(items) => items
                .iter()
                .enumerate()
                .find_map(|(index, item)| self.find_in_json(item).map(|found| found.under(&index.to_string()))),
            Value::Object(map) => map.iter().find_map(|(key, value)| match self.find_in_text(key) {
                // The key is the secret, so the pointer ends before it.
                Some(secret) => Some(at(secret)),
                None => self.find_in_json(value).map(|found| found.under(&pointer_token(key))),
            }),
            Value::Null | Value::Bool(_) => None,
        }
    }

    /// A secret in a step's input. The names of its members are the runner's own.
    #[must_use]
    pub fn find_in_input(&self, input: &Value) -> Option<SecretLocation> {
        match input {
            Value::Object(members) => members
                .iter()
                .find_map(|(name, value)| self.find_in_json(value).map(|found| found.under(&pointer_token(name)))),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                self.find_in_json(input)
            }
        }
    }

    /// A secret in a receipt; the pointer begins with `/outputs` or `/notes`.
    #[must_use]
    pub fn find_in_receipt(&self, receipt: &Receipt) -> Option<SecretLocation> {
        let in_map = |name: &str, map: &serde_json::Map<String, Value>| {
            map.iter().find_map(|(key, value)| match self.find_in_text(key) {
                Some(secret) => Some(SecretLocation { secret: secret.to_owned(), pointer: format!("/{name}") }),
                None => self.find_in_json(value).map(|found| found.under(&pointer_token(key)).under(name)),
            })
        };
        in_map("outputs", &receipt.outputs).or_else(|| in_map("notes", &receipt.notes))
    }

    /// The outcome as it may be recorded: a success whose receipt contains a secret has an unknown outcome, since its
    /// effect happened, and nothing can be recorded that undoes or skips it.
    #[must_use]
    pub fn admit_outcome(&self, outcome: StepOutcome) -> StepOutcome {
        match outcome {
            StepOutcome::Succeeded { receipt } => match self.find_in_receipt(&receipt) {
                Some(found) => StepOutcome::Unknown { failure: receipt_failure(&found) },
                None => StepOutcome::Succeeded { receipt },
            },
            StepOutcome::Failed { .. } | StepOutcome::Unknown { .. } => outcome,
        }
    }

    /// The finding as it may be recorded: a probe whose receipt contains a secret has failed.
    #[must_use]
    pub fn admit_finding(&self, finding: ProbeFinding) -> ProbeFinding {
        match finding {
            ProbeFinding::Held { receipt } => match self.find_in_receipt(&receipt) {
                Some(found) => {
                    let mut failure = receipt_failure(&found);
                    // The diagnostic of a failed probe has a hint of its own.
                    failure.message += &format!("; {}", found.hint());
                    ProbeFinding::Failed { failure }
                }
                None => ProbeFinding::Held { receipt },
            },
            ProbeFinding::Absent
            | ProbeFinding::Drifted { .. }
            | ProbeFinding::Unknown { .. }
            | ProbeFinding::Failed { .. } => finding,
        }
    }
}

/// Whether a secret is long enough to be refused in control values.
#[must_use]
pub fn is_refused(value: &str) -> bool {
    value.trim().chars().count() >= MIN_REFUSED_CHARS
}

fn receipt_failure(found: &SecretLocation) -> StepFailure {
    let message = format!(
        "it returned {} in `{}`, so its receipt was not recorded",
        found.secret_text(),
        dotted_pointer(&found.pointer)
    );
    StepFailure::new(FailureKind::Permanent, message).with_hint(found.hint()).with_code(ErrorCode::SecretInReceipt)
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use serde_json::json;

    use super::*;

    fn scanner(value: &str) -> SecretScanner {
        SecretScanner::new([("TOKEN", &Secret::new(value.to_owned()))])
    }

    fn receipt(outputs: Value, notes: Value) -> Receipt {
        serde_json::from_value(json!({ "outputs": outputs, "notes": notes })).unwrap()
    }

    #[test]
    fn a_secret_is_found_in_every_spelling_anywhere_in_a_value() {
        for value in ["shop-live", "pass word", "a b c d e", "s3cr€t \"pa/ss\"+word\\end", "12345678", "\n hunter2x \n"]
        {
            let scanner = scanner(value);
            for spelling in spellings(value.trim()) {
                assert_eq!(scanner.find_in_text(&format!("x{spelling}y")), Some("TOKEN"), "{value:?} {spelling:?}");
            }
            for prefix in ["", "a", "ab"] {
                let text = STANDARD.encode(format!("{prefix}{}tail", value.trim()));
                assert_eq!(scanner.find_in_text(&text), Some("TOKEN"), "{value:?} {text}");
            }
        }
    }

    #[test]
    fn only_secrets_of_eight_characters_and_lines_of_twenty_are_refused() {
        assert_eq!(scanner("shop-li").find_in_text("shop-live"), None);
        assert_eq!(scanner(" shop-li\n").find_in_text("shop-live"), None);
        assert_eq!(scanner("schlüsse").find_in_text("ein-schlüssel"), Some("TOKEN"));
        let key = scanner("-----BEGIN-----\nQUJDREVGR0hJSktMTU5P\n-----END-----");
        assert_eq!(key.find_in_text("QUJDREVGR0hJSktMTU5P"), Some("TOKEN"));
        assert_eq!(key.find_in_text("-----BEGIN-----"), None);
    }

    #[test]
    fn a_secret_broken_into_lines_is_found() {
        assert_eq!(scanner("0123456789").find_in_text("012345\n  6789"), Some("TOKEN"));
    }

    #[test]
    fn the_location_names_the_secret_and_the_field() {
        let scanner = scanner("shop-live");
        let find = |value: Value| scanner.find_in_json(&value).map(|found| (found.secret, found.pointer));
        let at = |pointer: &str| Some(("TOKEN".to_owned(), pointer.to_owned()));
        assert_eq!(find(json!({ "a": [0, { "b/c": "to shop-live" }] })), at("/a/1/b~1c"));
        assert_eq!(find(json!({ "a": { "shop-live": 1 } })), at("/a"));
        assert_eq!(find(json!({ "a": null, "b": true, "c": "shop" })), None);
        let number = SecretScanner::new([("PIN", &Secret::new("12345678".to_owned()))]);
        assert_eq!(number.find_in_json(&json!([912_345_678])).unwrap().pointer, "/0");
        let notes = receipt(json!({}), json!({ "from": "shop-live" }));
        assert_eq!(scanner.find_in_receipt(&notes).unwrap().pointer, "/notes/from");
    }

    #[test]
    fn a_receipt_with_a_secret_makes_the_outcome_unknown_and_the_probe_failed() {
        let scanner = scanner("shop-live");
        let bad = receipt(json!({ "path": "shop-live" }), json!({}));
        let good = receipt(json!({ "path": "shop" }), json!({}));
        let outcome = scanner.admit_outcome(StepOutcome::Succeeded { receipt: bad.clone() });
        let StepOutcome::Unknown { failure } = outcome else { panic!("{outcome:?}") };
        assert_eq!(
            failure.message,
            "it returned the value of secret `TOKEN` in `outputs.path`, so its receipt was not recorded"
        );
        assert_eq!(failure.stated_code(), Some(ErrorCode::SecretInReceipt));
        assert!(matches!(scanner.admit_finding(ProbeFinding::Held { receipt: bad }), ProbeFinding::Failed { .. }));
        let held = ProbeFinding::Held { receipt: good.clone() };
        assert_eq!(scanner.admit_finding(held.clone()), held);
        let succeeded = StepOutcome::Succeeded { receipt: good };
        assert_eq!(scanner.admit_outcome(succeeded.clone()), succeeded);
    }

    #[test]
    fn a_secret_of_the_job_is_named_by_its_variable() {
        let found = SecretLocation { secret: job_secret_name("PAWL_KEY"), pointer: String::new() };
        assert_eq!(found.secret_text(), "the value of the job's secret `PAWL_KEY`");
        assert_eq!(found.hint(), JOB_SECRET_HINT);
    }

    #[test]
    fn a_database_password_is_named_by_its_database() {
        let found = SecretLocation { secret: "migrate.main".to_owned(), pointer: String::new() };
        assert_eq!(found.secret_text(), "the password of database `main` of step `migrate`");
    }
}
