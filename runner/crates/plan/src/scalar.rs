//! The values of plain scalars, by the core schema of YAML 1.2 (yaml.org/spec/1.2.2, §10.3.2).
//!
//! Invariant: no number changes silently. A number that JSON cannot hold, or that YAML 1.1 and 1.2 read differently (`0755`),
//! is an error that asks for quotes. `yes`, `no` and `on` are strings.

use serde_json::Number;

use super::yaml::YamlValue;

/// Resolves a plain scalar.
///
/// # Errors
/// The reason for which the number is refused.
pub(super) fn resolve(text: &str) -> Result<YamlValue, &'static str> {
    Ok(match text {
        "" | "~" | "null" | "Null" | "NULL" => YamlValue::Null,
        "true" | "True" | "TRUE" => YamlValue::Bool(true),
        "false" | "False" | "FALSE" => YamlValue::Bool(false),
        _ => match number(text)? {
            Some(value) => YamlValue::Number { value, written: text.to_owned() },
            None => YamlValue::Text(text.to_owned()),
        },
    })
}

fn number(text: &str) -> Result<Option<Number>, &'static str> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return Err("JSON cannot represent it");
    }
    for (prefix, radix) in [("0x", 16), ("0o", 8)] {
        if let Some(digits) = text.strip_prefix(prefix)
            && !digits.is_empty()
            && digits.chars().all(|digit| digit.is_digit(radix))
        {
            return u64::from_str_radix(digits, radix).map(|n| Some(n.into())).map_err(|_| TOO_LARGE);
        }
    }
    if is_digits(unsigned) {
        if unsigned.len() > 1 && unsigned.starts_with('0') {
            return Err("with a leading zero, it is octal in some YAML versions and decimal in others");
        }
        let plain = text.strip_prefix('+').unwrap_or(text);
        let value = plain.parse::<i64>().map(Number::from).or_else(|_| plain.parse::<u64>().map(Number::from));
        return value.map(Some).map_err(|_| TOO_LARGE);
    }
    if !is_float(unsigned) {
        return Ok(None);
    }
    let plain = text.strip_prefix('+').unwrap_or(text);
    plain.parse().ok().and_then(Number::from_f64).map(Some).ok_or(TOO_LARGE)
}

const TOO_LARGE: &str = "it does not fit in 64 bits";

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// `(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`, without the sign.
fn is_float(text: &str) -> bool {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let exponent_fits = exponent.is_none_or(|e| is_digits(e.strip_prefix(['-', '+']).unwrap_or(e)));
    let mantissa_fits = match mantissa.split_once('.') {
        Some(("", fraction)) => is_digits(fraction),
        Some((whole, fraction)) => is_digits(whole) && (fraction.is_empty() || is_digits(fraction)),
        None => is_digits(mantissa),
    };
    exponent_fits && mantissa_fits
}
