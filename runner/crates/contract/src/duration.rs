//! Durations as users write them: a whole number and a unit, such as `500ms`, `30s`, `10m` or `1h`.

use std::time::Duration;

/// Why a text is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Not a whole number with a unit.
    #[error("`{text}` is not a duration")]
    Malformed { text: String },
    /// A number above `u32::MAX`.
    #[error("`{text}` is too long for a duration")]
    TooLong { text: String },
}

impl DurationError {
    /// What to write instead.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Malformed { text } => match text.parse::<u32>() {
                Ok(number) if number > 0 => format!("add a unit: `{number}s` or `{number}m`"),
                Ok(_) | Err(_) => "write a whole number with `ms`, `s`, `m` or `h`, such as `30s`".to_owned(),
            },
            Self::TooLong { .. } => "write a smaller number, such as `1h`".to_owned(),
        }
    }
}

/// Parses a whole number with `ms`, `s`, `m` or `h`.
///
/// # Errors
/// [`DurationError`] if it is something else, or does not fit.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let malformed = || DurationError::Malformed { text: text.to_owned() };
    let unit = text.find(|c: char| !c.is_ascii_digit()).filter(|digits| *digits > 0).ok_or_else(malformed)?;
    let unit_ms: u64 = match &text[unit..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(malformed()),
    };
    // Only digits are left, so the number is too large if it does not parse.
    let number: u32 = text[..unit].parse().map_err(|_| DurationError::TooLong { text: text.to_owned() })?;
    Ok(Duration::from_millis(u64::from(number) * unit_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_and_a_unit_are_a_duration() {
        for (text, ms) in [("0s", 0), ("500ms", 500), ("90s", 90_000), ("10m", 600_000), ("1h", 3_600_000)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)));
        }
        assert_eq!(parse_duration("4294967295h"), Ok(Duration::from_secs(4_294_967_295 * 3600)));
    }

    #[test]
    fn other_texts_are_malformed() {
        for text in ["", "0", "10", "m", "1d", "1H", "-1s", "+1s", "1.5s", "1 s", "1s ", "１s"] {
            assert_eq!(parse_duration(text), Err(DurationError::Malformed { text: text.to_owned() }));
        }
    }

    #[test]
    fn what_does_not_fit_is_too_long_and_does_not_wrap() {
        for text in ["4294967296ms", "9999999999999999h", "99999999999999999999999s"] {
            let error = parse_duration(text).unwrap_err();
            assert_eq!(error.to_string(), format!("`{text}` is too long for a duration"));
        }
    }

    #[test]
    fn hints_name_the_unit() {
        let hint = |text| parse_duration(text).unwrap_err().hint();
        assert_eq!(hint("30"), "add a unit: `30s` or `30m`");
        assert_eq!(hint("5 minutes"), "write a whole number with `ms`, `s`, `m` or `h`, such as `30s`");
        assert_eq!(hint("4294967296s"), "write a smaller number, such as `1h`");
    }
}
