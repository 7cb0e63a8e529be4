//! Prints a revealed secret everywhere a step can print.

use pawl_step::{Change, ChangeAction, Failure, Receipt, log, secrets::Secret};

use crate::{BehaviorResult, MisbehaveConfig, extra::wasi};

/// Returns the further forms that the test asks for.
fn extra_forms(config: &MisbehaveConfig) -> Vec<String> {
    config.args.iter().map(|form| form.replace("{secret}", &secret_value(config))).collect()
}

fn secret_value(config: &MisbehaveConfig) -> String {
    Secret::open(&config.name).and_then(|secret| secret.reveal()).unwrap_or_default()
}

/// Returns preview changes that contain the secret.
pub(crate) fn changes_with_secret(config: &MisbehaveConfig) -> Vec<Change> {
    let value = secret_value(config);
    let mut changes: Vec<_> =
        encodings(&value).into_iter().map(|form| Change::new(ChangeAction::Update, &form, &form)).collect();
    changes.extend(extra_forms(config).into_iter().map(|form| Change::new(ChangeAction::Run, form, "")));
    changes
}

/// Prints the secret to the log, the progress, the streams and the result.
pub(crate) fn print_secret_everywhere(config: &MisbehaveConfig) -> BehaviorResult {
    let value = secret_value(config);
    let mut all = Vec::new();
    for form in encodings(&value) {
        log::info(format!("said {form} so"));
        let fields = [("field".to_owned(), form.clone().into()), (form.clone(), 1.into())].into_iter().collect();
        log::write(log::LogLevel::Warn, "said in fields", &fields);
        log::progress(&form, 1, Some(2), &form);
        all.push(form);
    }
    // The secret, split at every position over two messages and over two writes of a stream.
    let stdout = wasi::cli::stdout::get_stdout();
    for at in (1..value.len()).filter(|at| value.is_char_boundary(*at)) {
        let (head, tail) = value.split_at(at);
        log::info(format!("split {head}"));
        log::info(tail);
        let _ = stdout.blocking_write_and_flush(format!("stream {head}").as_bytes());
        let _ = stdout.blocking_write_and_flush(tail.as_bytes());
        let _ = stdout.blocking_write_and_flush(b"\n");
    }
    for one in value.chars() {
        log::info(one.to_string());
    }
    for wrapped in wrap_lines(&base64(value.as_bytes(), STANDARD_ALPHABET)) {
        log::info(wrapped);
    }
    log::info(wrap_lines(&base64(value.as_bytes(), STANDARD_ALPHABET)).join("\n"));
    log::error("it was all said");
    let text = all.join(" ");
    match config.end.as_str() {
        "fail" => {
            Err(Failure::permanent(format!("failed with {text}")).hint(format!("try {text}")).detail("said", all))
        }
        "panic" => panic!("panicked with {text}"),
        _ => Ok(Receipt::new().output("said", all.clone()).note("noted", all)),
    }
}

const STANDARD_ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const URL_ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Returns the secret raw, and encoded as base64 in both alphabets at every alignment, percent, JSON and hex.
fn encodings(value: &str) -> Vec<String> {
    let json = pawl_step::serde_json::Value::from(value).to_string();
    let twice = pawl_step::serde_json::Value::from(json.as_str()).to_string();
    let hex: String = value.bytes().map(|byte| format!("{byte:02x}")).collect();
    let ascii: String = json
        .encode_utf16()
        .map(|unit| match u8::try_from(unit) {
            Ok(byte) if byte.is_ascii() => char::from(byte).to_string(),
            _ => format!("\\u{unit:04x}"),
        })
        .collect();
    let percent: String = value.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let mut all = vec![value.to_owned(), json, twice, ascii, hex.to_uppercase(), hex, url_encode(value), percent];
    for before in ["", "a", "ab"] {
        for alphabet in [STANDARD_ALPHABET, URL_ALPHABET] {
            all.push(base64(format!("{before}{value}after").as_bytes(), alphabet));
        }
    }
    all
}

fn url_encode(value: &str) -> String {
    let one = |byte: u8| match byte {
        b' ' => "+".to_owned(),
        byte if byte.is_ascii_alphanumeric() || b"*-._".contains(&byte) => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    value.bytes().map(one).collect()
}

fn base64(bytes: &[u8], alphabet: &[u8; 64]) -> String {
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let all = group.iter().chain([&0u8; 2]).take(3).fold(0u32, |all, byte| all << 8 | u32::from(*byte));
        for digit in 0..=group.len() {
            text.push(char::from(alphabet[(all >> (18 - 6 * digit) & 63) as usize]));
        }
    }
    text
}

/// Wraps a text into lines of a fixed length, as the program `base64` does.
fn wrap_lines(text: &str) -> Vec<String> {
    text.as_bytes().chunks(16).map(|line| String::from_utf8_lossy(line).into_owned()).collect()
}
