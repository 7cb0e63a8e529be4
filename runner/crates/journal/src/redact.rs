//! Removes secret values from everything that is written: raw, base64, hex, URL- and JSON-escaped, also if they are split over
//! lines or, with [`MessageRedactor`](super::message_redactor::MessageRedactor), over messages.
//!
//! A text is redacted as a whole, before it is truncated or written. Code that splits a text earlier splits it between lines, and
//! a secret of several lines is found line by line. Deliberately absent: finding out which values are secret.

use std::{collections::BTreeSet, ops::Range};

use aho_corasick::{AhoCorasick, MatchKind};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use serde_json::Value;

use contract::Secret;

/// The replacement for a secret.
pub const MASK: &str = "***";

/// The length in bytes below which a value is not redacted, since it would hide ordinary words.
pub const MIN_SECRET_BYTES: usize = 4;

/// Replaces secret values in texts.
#[derive(Clone, Debug, Default)]
pub struct Redactor {
    secrets: Option<SecretSpellings>,
}

/// All spellings of all secrets, without white space, since the search ignores white space.
#[derive(Clone, Debug)]
struct SecretSpellings {
    spellings: Vec<String>,
    automaton: AhoCorasick,
    longest: usize,
}

impl Redactor {
    /// Creates a redactor of these secrets, and of each line of a multi-line secret.
    #[must_use]
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Self {
        let mut forms = BTreeSet::new();
        for secret in secrets {
            let value = secret.reveal();
            for part in std::iter::once(value).chain(value.lines()).map(str::trim) {
                if part.len() >= MIN_SECRET_BYTES {
                    forms.extend(spellings(part).iter().map(|form| without_whitespace(form)));
                }
            }
        }
        forms.retain(|form| form.len() >= MIN_SECRET_BYTES);
        let Some(longest) = forms.iter().map(String::len).max() else { return Self::default() };
        let automaton = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&forms);
        let automaton = automaton.expect("a handful of short patterns");
        Self { secrets: Some(SecretSpellings { spellings: forms.into_iter().collect(), automaton, longest }) }
    }

    /// Redacts a text.
    #[must_use]
    pub fn redact(&self, text: &str) -> String {
        self.redact_all(&[text]).pop().unwrap_or_default()
    }

    /// Redacts consecutive texts, including secrets that cross from one to the next.
    pub(super) fn redact_all(&self, texts: &[&str]) -> Vec<String> {
        let unchanged = || texts.iter().map(|&text| text.to_owned()).collect();
        let Some(forms) = &self.secrets else { return unchanged() };
        let dense: String = texts.iter().flat_map(|text| text.chars()).filter(|c| !is_space(*c)).collect();
        if !forms.automaton.is_match(&dense) {
            return unchanged();
        }
        let mut found = forms.automaton.find_iter(&dense).map(|found| found.range()).peekable();
        let mut at = 0;
        let mut redacted = Vec::new();
        for text in texts {
            let mut clean = String::with_capacity(text.len());
            let mut masked: Option<Range<usize>> = None;
            for c in text.chars() {
                if is_space(c) {
                    // White space inside a secret is removed with it.
                    if !masked.as_ref().is_some_and(|range| range.start < at && at < range.end) {
                        clean.push(c);
                    }
                    continue;
                }
                while found.peek().is_some_and(|range| range.end <= at) {
                    found.next();
                }
                match found.peek() {
                    Some(range) if range.start <= at => {
                        if masked.as_ref() != Some(range) {
                            clean.push_str(MASK);
                            masked = Some(range.clone());
                        }
                    }
                    Some(_) | None => clean.push(c),
                }
                at += c.len_utf8();
            }
            redacted.push(clean);
        }
        redacted
    }

    /// Whether a secret may begin at the end of this text and continue in the next.
    pub(super) fn may_end_in_secret(&self, text: &str) -> bool {
        let Some(forms) = &self.secrets else { return false };
        let tail: String = text.chars().rev().filter(|c| !is_space(*c)).take(forms.longest).collect();
        let tail: String = tail.chars().rev().collect();
        let begins = |form: &String| {
            let longest = tail.len().min(form.len() - 1);
            (1..=longest).any(|length| form.is_char_boundary(length) && tail.ends_with(&form[..length]))
        };
        forms.spellings.iter().any(begins)
    }

    /// Redacts every string in a JSON value, including keys.
    #[must_use]
    pub fn redact_json(&self, value: Value) -> Value {
        if self.secrets.is_none() {
            return value;
        }
        match value {
            Value::String(text) => Value::String(self.redact(&text)),
            Value::Array(items) => items.into_iter().map(|item| self.redact_json(item)).collect(),
            Value::Object(map) => {
                map.into_iter().map(|(key, value)| (self.redact(&key), self.redact_json(value))).collect()
            }
            Value::Number(number) => {
                let text = number.to_string();
                let redacted = self.redact(&text);
                if redacted == text { Value::Number(number) } else { Value::String(redacted) }
            }
            Value::Null | Value::Bool(_) => value,
        }
    }
}

fn is_space(c: char) -> bool {
    c.is_ascii_whitespace()
}

fn without_whitespace(text: &str) -> String {
    text.chars().filter(|c| !is_space(*c)).collect()
}

/// The text as a JSON string, without its quotes.
fn json_escaped(text: &str) -> String {
    let quoted = Value::String(text.to_owned()).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

/// The text with every non-ASCII character as `\uXXXX`.
fn ascii_escaped(text: &str) -> String {
    let one = |unit: u16| match u8::try_from(unit) {
        Ok(byte) if byte.is_ascii() => char::from(byte).to_string(),
        Ok(_) | Err(_) => format!("\\u{unit:04x}"),
    };
    text.encode_utf16().map(one).collect()
}

/// The common spellings of a value.
fn spellings(value: &str) -> Vec<String> {
    let json = json_escaped(value);
    let hex: String = value.bytes().map(|byte| format!("{byte:02x}")).collect();
    let every_byte: String = value.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let url: String = url::form_urlencoded::byte_serialize(value.as_bytes()).collect();
    let mut forms = vec![
        value.to_owned(),
        json.replace('/', "\\/"),
        json_escaped(&json),
        ascii_escaped(&json),
        json,
        hex.to_uppercase(),
        hex,
        every_byte.to_ascii_lowercase(),
        every_byte,
        url.replace('+', "%20"),
        percent_encoded(value),
        percent_encoded(value).to_ascii_lowercase(),
        url,
    ];
    // In the base64 of a longer text, the value begins at one of three offsets in a group of three bytes. The digits that
    // depend on neighbouring bytes are left out.
    for offset in 0..3 {
        let padded = [&[0u8; 2][..offset], value.as_bytes()].concat();
        for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
            let digits = engine.encode(&padded);
            let first = if offset == 0 { 0 } else { offset + 1 };
            let last = digits.len() - usize::from(padded.len() % 3 != 0);
            forms.extend(digits.get(first..last).map(str::to_owned));
        }
    }
    forms.retain(|form| form.len() >= MIN_SECRET_BYTES);
    forms
}

/// The text with every byte as `%XX`, except the unreserved ones of RFC 3986.
fn percent_encoded(value: &str) -> String {
    let mut text = String::new();
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUE: &str = "s3cr€t \"pa/ss\"+word\\end";

    fn redactor() -> Redactor {
        Redactor::new([&Secret::new(VALUE.to_owned())])
    }

    #[test]
    fn every_spelling_is_masked() {
        let json = Value::String(VALUE.to_owned()).to_string();
        for text in [
            VALUE.to_owned(),
            json,
            percent_encoded(VALUE),
            url::form_urlencoded::byte_serialize(VALUE.as_bytes()).collect(),
        ] {
            let redacted = redactor().redact(&format!("before {text} after"));
            assert!(redacted.contains(MASK) && !redacted.contains("pa/ss") && !redacted.contains("word"), "{redacted}");
        }
    }

    #[test]
    fn base64_is_masked_at_every_offset() {
        for prefix in ["", "a", "ab", "abc", "user:"] {
            for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
                let text = engine.encode(format!("{prefix}{VALUE}tail"));
                assert!(redactor().redact(&text).contains(MASK), "{prefix:?} {text}");
            }
        }
    }

    #[test]
    fn each_line_of_a_key_is_masked() {
        let key = Secret::new("-----BEGIN KEY-----\nQUJDREVGR0g=\n-----END KEY-----\n".to_owned());
        assert_eq!(Redactor::new([&key]).redact("log: QUJDREVGR0g="), "log: ***");
    }

    #[test]
    fn a_secret_that_is_split_over_lines_is_masked() {
        let long = "0123456789".repeat(9);
        let redactor = Redactor::new([&Secret::new(long.clone())]);
        let base64 = STANDARD_NO_PAD.encode(&long);
        let (head, tail) = base64.split_at(76);
        assert_eq!(redactor.redact(&format!("key: |\n  {head}\r\n  {tail}\nend")), "key: |\n  ***\nend");
        assert_eq!(redactor.redact("on two\nlines"), "on two\nlines");
    }

    #[test]
    fn a_secret_across_texts_is_masked_in_each() {
        let redactor = redactor();
        let (head, tail) = VALUE.split_at(4);
        assert_eq!(redactor.redact_all(&[&format!("a {head}"), &format!("{tail} b"), "c"]), ["a ***", "*** b", "c"]);
        assert!(redactor.may_end_in_secret("it ends with s3") && !redactor.may_end_in_secret("it does not!"));
    }

    #[test]
    fn a_short_value_is_not_masked() {
        assert_eq!(Redactor::new([&Secret::new("on".to_owned())]).redact("month"), "month");
    }

    #[test]
    fn numbers_and_keys_are_masked() {
        let redactor = Redactor::new([&Secret::new("123456".to_owned())]);
        let value = redactor.redact_json(serde_json::json!({"a123456": 123_456}));
        assert_eq!(value, serde_json::json!({"a***": "***"}));
    }
}
