//! Removes secret values from everything that is written: raw, base64, hex, URL- and JSON-escaped, also if they are split over
//! lines or, with [`MessageRedactor`](super::message_redactor::MessageRedactor), over messages.
//!
//! A text is redacted as a whole, before it is truncated or written. Code that splits a text earlier splits it between lines, and
//! a secret of several lines is found line by line. A secret of less than [`MIN_SECRET_BYTES`] is masked only where it stands
//! alone, since it may be a part of ordinary words. Deliberately absent: finding out which values are secret.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use aho_corasick::{AhoCorasick, MatchKind};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use serde_json::Value;

use super::secret_scanner::{SecretScanner, job_secret_name};
use contract::Secret;

/// The replacement for a secret.
pub const MASK: &str = "***";

/// The length in bytes from which a value is masked anywhere. A shorter one is masked where it stands alone.
pub const MIN_SECRET_BYTES: usize = 4;

/// Replaces secret values in texts, and finds them in control values.
#[derive(Clone, Debug, Default)]
pub struct Redactor {
    secrets: Option<SecretSpellings>,
    /// The spellings of secrets that are too short to be masked inside a word.
    short: Vec<String>,
    scanner: SecretScanner,
}

/// All spellings of all secrets, without white space, since the search ignores white space.
#[derive(Clone, Debug)]
struct SecretSpellings {
    spellings: Vec<String>,
    automaton: AhoCorasick,
    longest: usize,
}

impl Redactor {
    /// Creates a redactor of a plan's secrets.
    #[must_use]
    pub fn of_plan(secrets: &BTreeMap<String, Secret>) -> Self {
        Self::of_deployment(secrets, &BTreeMap::new())
    }

    /// Creates a redactor of a plan's secrets, and of those that the CI job gives to the runner itself, by their environment variables.
    #[must_use]
    pub fn of_deployment(plan: &BTreeMap<String, Secret>, job: &BTreeMap<String, Secret>) -> Self {
        let of_job: Vec<_> = job.iter().map(|(variable, secret)| (job_secret_name(variable), secret)).collect();
        let of_plan = plan.iter().map(|(name, secret)| (name.as_str(), secret));
        let scanner = SecretScanner::new(of_plan.chain(of_job.iter().map(|(name, secret)| (name.as_str(), *secret))));
        Self { scanner, ..Self::new(plan.values().chain(job.values())) }
    }

    /// Creates a redactor of these secrets, and of each line of a multi-line secret. It refuses none in control values.
    #[must_use]
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Self {
        let mut forms = BTreeSet::new();
        let mut short = Vec::new();
        for secret in secrets {
            let value = secret.reveal();
            short.extend(short_spellings(value.trim()));
            for part in std::iter::once(value).chain(value.lines()).map(str::trim) {
                if part.len() >= MIN_SECRET_BYTES {
                    forms.extend(spellings(part).iter().map(|form| without_whitespace(form)));
                }
            }
        }
        forms.retain(|form| form.len() >= MIN_SECRET_BYTES);
        let scanner = SecretScanner::default();
        let Some(longest) = forms.iter().map(String::len).max() else { return Self { secrets: None, short, scanner } };
        let automaton = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&forms);
        let automaton = automaton.expect("a handful of short patterns");
        let secrets = Some(SecretSpellings { spellings: forms.into_iter().collect(), automaton, longest });
        Self { secrets, short, scanner }
    }

    /// The scanner of control values.
    #[must_use]
    pub fn scanner(&self) -> &SecretScanner {
        &self.scanner
    }

    /// Redacts a text.
    #[must_use]
    pub fn redact(&self, text: &str) -> String {
        self.redact_all(&[text]).pop().unwrap_or_default()
    }

    /// Redacts consecutive texts, including secrets that cross from one to the next.
    pub(super) fn redact_all(&self, texts: &[&str]) -> Vec<String> {
        self.redact_long(texts).into_iter().map(|text| self.redact_short(text)).collect()
    }

    /// Masks the short secrets until none is left: what stood in a word may stand alone next to a mask.
    fn redact_short(&self, mut text: String) -> String {
        loop {
            let masked = self.short.iter().fold(text.clone(), |text, short| mask_standing_alone(text, short));
            if masked == text {
                return text;
            }
            text = masked;
        }
    }

    fn redact_long(&self, texts: &[&str]) -> Vec<String> {
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

    /// Redacts consecutive texts like [`redact_all`](Self::redact_all). Without secrets, it does nothing.
    pub(super) fn redact_in_place<'t>(&self, texts: impl Iterator<Item = &'t mut String>) {
        if self.secrets.is_none() && self.short.is_empty() {
            return;
        }
        let texts: Vec<&mut String> = texts.collect();
        let redacted = self.redact_all(&texts.iter().map(|text| text.as_str()).collect::<Vec<_>>());
        for (text, redacted) in texts.into_iter().zip(redacted) {
            *text = redacted;
        }
    }

    /// Whether a secret may begin at the end of this text and continue in the next.
    pub(super) fn may_end_in_secret(&self, text: &str) -> bool {
        self.may_texts_end_in_secret(std::iter::once(text))
    }

    /// Whether a secret may begin at the end of these consecutive texts and continue in the next.
    pub(super) fn may_texts_end_in_secret<'t>(&self, texts: impl DoubleEndedIterator<Item = &'t str>) -> bool {
        let Some(forms) = &self.secrets else { return false };
        let chars = texts.rev().flat_map(|text| text.chars().rev());
        let tail: String = chars.filter(|c| !is_space(*c)).take(forms.longest).collect();
        let tail: String = tail.chars().rev().collect();
        let begins = |form: &String| {
            let longest = tail.len().min(form.len() - 1);
            (1..=longest).any(|length| form.is_char_boundary(length) && tail.ends_with(&form[..length]))
        };
        forms.spellings.iter().any(begins)
    }

    /// Redacts every string in a JSON value, but not its keys, which are the runner's own.
    #[must_use]
    pub fn redact_json_values(&self, value: Value) -> Value {
        match value {
            Value::Array(items) => items.into_iter().map(|item| self.redact_json_values(item)).collect(),
            Value::Object(map) => map.into_iter().map(|(key, value)| (key, self.redact_json_values(value))).collect(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => self.redact_json(value),
        }
    }

    /// Redacts every string in a JSON value, including keys.
    #[must_use]
    pub fn redact_json(&self, value: Value) -> Value {
        if self.secrets.is_none() && self.short.is_empty() {
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

/// The spellings of a value that is too short to be masked inside a word; none of any other.
fn short_spellings(value: &str) -> Vec<String> {
    let is_mask = value.chars().all(|c| MASK.contains(c));
    if is_mask || without_whitespace(value).len() >= MIN_SECRET_BYTES {
        return Vec::new();
    }
    let mut all = vec![value.to_owned(), STANDARD_NO_PAD.encode(value)];
    all.extend(spellings(value));
    all.retain(|spelling| spelling == value || spelling.len() >= MIN_SECRET_BYTES);
    // The longest first: a spelling may contain another one.
    all.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
    all.dedup();
    all
}

/// Masks each place where `secret` is not a part of a word.
fn mask_standing_alone(text: String, secret: &str) -> String {
    if !text.contains(secret) {
        return text;
    }
    let is_punctuation = !secret.contains(char::is_alphanumeric);
    let ends_word = |neighbour: char| match is_punctuation {
        true => neighbour.is_whitespace() || "\"'`=:,;()[]{}".contains(neighbour),
        false => !neighbour.is_alphanumeric(),
    };
    let mut masked = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(found) = text[at..].find(secret) {
        let start = at + found;
        let end = start + secret.len();
        let (before, after) = (text[..start].chars().next_back(), text[end..].chars().next());
        let is_alone = [before, after].into_iter().flatten().all(ends_word);
        masked.push_str(&text[at..start]);
        if is_alone {
            masked.push_str(MASK);
            at = end;
        } else {
            // The next place may begin inside of this one.
            let next = start + text[start..].chars().next().map_or(1, char::len_utf8);
            masked.push_str(&text[start..next]);
            at = next;
        }
    }
    masked.push_str(&text[at..]);
    masked
}

pub(super) fn without_whitespace(text: &str) -> String {
    text.chars().filter(|c| !is_space(*c)).collect()
}

/// The text as a JSON string, without its quotes.
fn json_escaped(text: &str) -> String {
    let quoted = Value::String(text.to_owned()).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

/// The text with the characters that `is_escaped` as `\uXXXX`.
fn unicode_escaped(text: &str, is_escaped: impl Fn(char) -> bool) -> String {
    let mut escaped = String::new();
    for character in text.chars() {
        if is_escaped(character) {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                escaped.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            escaped.push(character);
        }
    }
    escaped
}

/// The text as libraries write it between the quotes of a JSON string. Some escape `/`, what HTML would read, or all that is not ASCII.
fn json_spellings(text: &str) -> Vec<String> {
    let mut spellings = vec![json_escaped(text)];
    let mut add = |spell: &dyn Fn(&str) -> String| {
        let more: Vec<_> = spellings.iter().map(|known| spell(known)).collect();
        spellings.extend(more);
    };
    add(&|text| text.replace('/', "\\/"));
    add(&|text| unicode_escaped(text, |character| matches!(character, '<' | '>' | '&')));
    add(&|text| unicode_escaped(text, |character| !character.is_ascii()));
    spellings
}

/// What URL encoders leave as it is besides letters and digits: by RFC 3986; paths; JavaScript's `encodeURIComponent` and `encodeURI`;
/// Go's `url.PathEscape`.
const UNESCAPED_IN_URLS: [&str; 6] = ["-._~", "-._~/", "-._~!*'()", "-._~/!*'()", "-._~!*'();/?:@&=+$,#", "-._~$&+=:@"];

/// The common spellings of a value, each once.
pub(super) fn spellings(value: &str) -> Vec<String> {
    let hex: String = value.bytes().map(|byte| format!("{byte:02x}")).collect();
    let every_byte = percent_encoded(value, |_| false);
    let url: String = url::form_urlencoded::byte_serialize(value.as_bytes()).collect();
    let json = json_spellings(value);
    let mut forms = vec![value.to_owned(), hex.to_uppercase(), hex, every_byte, url.replace('+', "%20"), url];
    forms
        .extend(UNESCAPED_IN_URLS.map(|kept| {
            percent_encoded(value, |byte| byte.is_ascii_alphanumeric() || kept.as_bytes().contains(&byte))
        }));
    // A message in JSON that quotes a text in JSON.
    forms.extend(json.iter().map(|json| json_escaped(json)));
    forms.extend(json);
    let lower_case: Vec<_> = forms.iter().map(|form| with_escapes(form, str::to_ascii_lowercase)).collect();
    let upper_case: Vec<_> = forms.iter().map(|form| with_escapes(form, str::to_ascii_uppercase)).collect();
    forms.extend(lower_case);
    forms.extend(upper_case);
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
    let mut known = BTreeSet::new();
    forms.retain(|form| form.len() >= MIN_SECRET_BYTES && known.insert(form.clone()));
    forms
}

/// The text with the digits of `%XX` and `\uXXXX` in the other case.
fn with_escapes(text: &str, change: impl Fn(&str) -> String) -> String {
    let mut changed = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['%', '\\']) {
        let (before, escape) = rest.split_at(at);
        changed.push_str(before);
        let (sign, digits) = match escape.as_bytes() {
            [b'%', ..] => (1, 2),
            [b'\\', b'u', ..] => (2, 4),
            _ => (1, 0),
        };
        let digits = escape.get(sign..sign + digits).unwrap_or_default();
        changed.push_str(&escape[..sign]);
        changed.push_str(&change(digits));
        rest = &escape[sign + digits.len()..];
    }
    changed.push_str(rest);
    changed
}

/// The text with every byte as `%XX`, except those that are kept.
fn percent_encoded(value: &str, is_kept: impl Fn(u8) -> bool) -> String {
    let mut text = String::new();
    for byte in value.bytes() {
        if is_kept(byte) {
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
            percent_encoded(VALUE, |_| false),
            url::form_urlencoded::byte_serialize(VALUE.as_bytes()).collect(),
        ] {
            let redacted = redactor().redact(&format!("before {text} after"));
            assert!(redacted.contains(MASK) && !redacted.contains("pa/ss") && !redacted.contains("word"), "{redacted}");
        }
    }

    /// What the encoders of common languages write for one password.
    #[test]
    fn spellings_of_common_encoders_are_masked() {
        let redactor = Redactor::new([&Secret::new("pa&ss(w)o/rdä!".to_owned())]);
        for (encoder, text) in [
            ("Python's quote", "pa%26ss%28w%29o/rd%C3%A4%21"),
            ("Python's quote_plus", "pa%26ss%28w%29o%2Frd%C3%A4%21"),
            ("JavaScript's encodeURIComponent", "pa%26ss(w)o%2Frd%C3%A4!"),
            ("JavaScript's encodeURI", "pa&ss(w)o/rd%C3%A4!"),
            ("Go's url.PathEscape", "pa&ss%28w%29o%2Frd%C3%A4%21"),
            ("C#'s HttpUtility.UrlEncode", "pa%26ss(w)o%2frd%c3%a4!"),
            ("Go's json.Marshal", "pa\\u0026ss(w)o/rdä!"),
            ("PHP's json_encode", "pa&ss(w)o\\/rd\\u00e4!"),
            ("C#'s JsonSerializer", "pa\\u0026ss(w)o/rd\\u00E4!"),
            ("Python's json.dumps, twice", "pa&ss(w)o/rd\\\\u00e4!"),
        ] {
            assert_eq!(redactor.redact(&format!("log: {text}.")), "log: ***.", "{encoder}");
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
    fn a_short_value_is_masked_only_where_it_stands_alone() {
        let redact = |secret: &str, text: &str| Redactor::new([&Secret::new(secret.to_owned())]).redact(text);
        for (secret, text, redacted) in [
            ("on", "month on, on-call: (on) ON", "month ***, ***-call: (***) ON"),
            ("abc", "abcabc abc abcd xabc \"abc\"", "abcabc *** abcd xabc \"***\""),
            ("abc", "616263 YWJj %61%62%63 %6162", "*** *** *** %6162"),
            ("a b", "a b, a  b, ca b", "***, a  b, ca b"),
            ("ü", "über ü", "über ***"),
            ("/", "/srv/shop / \"/\"", "/srv/shop *** \"***\""),
            ("*", "a * b", "a * b"),
            (" \n", "a b", "a b"),
        ] {
            assert_eq!(redact(secret, text), redacted, "{secret:?}");
        }
        let both = Redactor::new(["abc", "hunter2"].map(|text| Secret::new(text.to_owned())).iter());
        assert_eq!(both.redact("abc hunter2 abc"), "*** *** ***");
        assert_eq!(both.redact_json(serde_json::json!({ "abc": 1 })), serde_json::json!({ "***": 1 }));
        let pin = Redactor::new([&Secret::new("123".to_owned())]);
        assert_eq!(pin.redact_json(serde_json::json!([123, 1234])), serde_json::json!(["***", 1234]));
        assert_eq!(pin.redact_json_values(serde_json::json!({ "123": "123" })), serde_json::json!({ "123": "***" }));
    }

    #[test]
    fn numbers_and_keys_are_masked() {
        let redactor = Redactor::new([&Secret::new("123456".to_owned())]);
        let value = redactor.redact_json(serde_json::json!({"a123456": 123_456}));
        assert_eq!(value, serde_json::json!({"a***": "***"}));
    }
}
