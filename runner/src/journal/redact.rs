//! Keeps secret values out of everything that is written: raw, base64, URL- and JSON-escaped.
//!
//! A text is redacted as a whole, before it is cut or written; whoever cuts earlier cuts between lines, and a secret of several
//! lines is found line by line. Deliberately absent: finding out what is secret.

use aho_corasick::{AhoCorasick, MatchKind};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use serde_json::Value;

use crate::plan::Secret;

/// What stands in place of a secret.
pub const MASK: &str = "***";

/// Values shorter than this many bytes are not redacted: they would blank out ordinary words.
pub const SHORTEST: usize = 4;

/// Replaces secret values in texts.
#[derive(Clone, Debug, Default)]
pub struct Redactor {
    forms: Option<AhoCorasick>,
}

impl Redactor {
    /// A redactor of these secrets; of a multi-line one, each line too.
    #[must_use]
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Self {
        let mut forms = std::collections::BTreeSet::new();
        for secret in secrets {
            let value = secret.reveal();
            for part in std::iter::once(value).chain(value.lines()).map(str::trim) {
                if part.len() >= SHORTEST {
                    forms.extend(spellings(part));
                }
            }
        }
        if forms.is_empty() {
            return Self::default();
        }
        let automaton = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&forms);
        Self { forms: Some(automaton.expect("a handful of short patterns")) }
    }

    /// The text without secrets.
    #[must_use]
    pub fn text(&self, text: &str) -> String {
        match &self.forms {
            Some(forms) if forms.is_match(text) => {
                let masks = vec![MASK; forms.patterns_len()];
                forms.replace_all(text, &masks)
            }
            Some(_) | None => text.to_owned(),
        }
    }

    /// The value with every text in it redacted, keys included.
    #[must_use]
    pub fn json(&self, value: Value) -> Value {
        if self.forms.is_none() {
            return value;
        }
        match value {
            Value::String(text) => Value::String(self.text(&text)),
            Value::Array(items) => items.into_iter().map(|item| self.json(item)).collect(),
            Value::Object(map) => map.into_iter().map(|(key, value)| (self.text(&key), self.json(value))).collect(),
            Value::Number(number) => {
                let text = number.to_string();
                let redacted = self.text(&text);
                if redacted == text { Value::Number(number) } else { Value::String(redacted) }
            }
            Value::Null | Value::Bool(_) => value,
        }
    }
}

/// Every way in which a value is commonly spelled.
fn spellings(value: &str) -> Vec<String> {
    let escaped = Value::String(value.to_owned()).to_string();
    let url: String = url::form_urlencoded::byte_serialize(value.as_bytes()).collect();
    let mut forms = vec![
        value.to_owned(),
        escaped[1..escaped.len() - 1].to_owned(),
        escaped[1..escaped.len() - 1].replace('/', "\\/"),
        url.replace('+', "%20"),
        percent(value),
        percent(value).to_ascii_lowercase(),
        url,
    ];
    // Base64 of a longer text that holds the value: its bytes stand at one of three offsets in a group of three. The
    // digits that neighbours have a part in are left off.
    for offset in 0..3 {
        let padded = [&[0u8; 2][..offset], value.as_bytes()].concat();
        for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
            let digits = engine.encode(&padded);
            let first = if offset == 0 { 0 } else { offset + 1 };
            let last = digits.len() - usize::from(padded.len() % 3 != 0);
            forms.extend(digits.get(first..last).map(str::to_owned));
        }
    }
    forms.retain(|form| form.len() >= SHORTEST);
    forms
}

/// Every byte but RFC 3986's unreserved ones as `%XX`.
fn percent(value: &str) -> String {
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
        for text in
            [VALUE.to_owned(), json, percent(VALUE), url::form_urlencoded::byte_serialize(VALUE.as_bytes()).collect()]
        {
            let redacted = redactor().text(&format!("before {text} after"));
            assert!(redacted.contains(MASK) && !redacted.contains("pa/ss") && !redacted.contains("word"), "{redacted}");
        }
    }

    #[test]
    fn base64_is_masked_at_every_offset() {
        for prefix in ["", "a", "ab", "abc", "user:"] {
            for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
                let text = engine.encode(format!("{prefix}{VALUE}tail"));
                assert!(redactor().text(&text).contains(MASK), "{prefix:?} {text}");
            }
        }
    }

    #[test]
    fn lines_of_a_key_are_masked_one_by_one() {
        let key = Secret::new("-----BEGIN KEY-----\nQUJDREVGR0g=\n-----END KEY-----\n".to_owned());
        assert_eq!(Redactor::new([&key]).text("log: QUJDREVGR0g="), "log: ***");
    }

    #[test]
    fn a_short_value_leaves_words_alone() {
        assert_eq!(Redactor::new([&Secret::new("on".to_owned())]).text("month"), "month");
    }

    #[test]
    fn numbers_and_keys_are_texts_too() {
        let redactor = Redactor::new([&Secret::new("123456".to_owned())]);
        let value = redactor.json(serde_json::json!({"a123456": 123_456}));
        assert_eq!(value, serde_json::json!({"a***": "***"}));
    }
}
