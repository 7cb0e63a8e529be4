//! Clocks and waiting that work in a sandbox, where `std::time::SystemTime::now` panics.

use core::time::Duration;

use serde::{Deserialize, Deserializer};

/// Waits for the given duration. The wait counts towards the step's timeout.
#[cfg(target_arch = "wasm32")]
pub fn sleep(duration: Duration) {
    let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    crate::bindings::wasi::clocks::monotonic_clock::subscribe_duration(nanoseconds).block();
}

/// Waits for the given duration.
#[cfg(not(target_arch = "wasm32"))]
pub fn sleep(duration: Duration) {
    std::thread::sleep(duration);
}

/// Returns the time since a fixed point; it never decreases.
#[cfg(target_arch = "wasm32")]
#[must_use]
pub fn monotonic() -> Duration {
    Duration::from_nanos(crate::bindings::wasi::clocks::monotonic_clock::now())
}

/// Returns the time since a fixed point; it never decreases.
#[cfg(not(target_arch = "wasm32"))]
#[must_use]
pub fn monotonic() -> Duration {
    static START: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
    START.elapsed()
}

/// Returns the time since 1970-01-01 UTC.
#[cfg(target_arch = "wasm32")]
#[must_use]
pub fn since_epoch() -> Duration {
    let now = crate::bindings::wasi::clocks::wall_clock::now();
    Duration::new(now.seconds, now.nanoseconds)
}

/// Returns the time since 1970-01-01 UTC. On native targets it is fixed at 2026-01-02T03:04:05Z, so that tests repeat.
#[cfg(not(target_arch = "wasm32"))]
#[must_use]
pub fn since_epoch() -> Duration {
    Duration::from_secs(1_767_323_045)
}

/// Returns the current time as RFC 3339, such as `2026-01-02T03:04:05Z`.
#[must_use]
pub fn now_rfc3339() -> String {
    rfc3339(since_epoch())
}

/// Returns the milliseconds since a value of [`monotonic`], for notes.
#[must_use]
pub fn elapsed_ms(since: Duration) -> u64 {
    u64::try_from(monotonic().saturating_sub(since).as_millis()).unwrap_or(u64::MAX)
}

/// Deserializes `500ms`, `2s`, `5m` or `1h`, for `#[serde(deserialize_with = "pawl_step::time::duration")]`.
///
/// # Errors
/// When the text is not such a duration.
pub fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text).ok_or_else(|| {
        serde::de::Error::custom(format!("`{text}` is not a duration: write `500ms`, `2s`, `5m` or `1h`"))
    })
}

fn parse_duration(text: &str) -> Option<Duration> {
    let unit_at = text.find(|character: char| !character.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit_at);
    let number: u64 = number.parse().ok()?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.checked_mul(milliseconds).map(Duration::from_millis)
}

/// Formats a time as an RFC 3339 date in UTC: the proleptic Gregorian calendar, counted in eras of 400 years from
/// 0000-03-01.
fn rfc3339(since_epoch: Duration) -> String {
    let seconds = since_epoch.as_secs();
    let (days, second_of_day) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second_of_day / 3_600, second_of_day / 60 % 60, second_of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_duration_accepts_units_and_rejects_other_text() {
        let cases = [
            ("500ms", Some(500)),
            ("2s", Some(2_000)),
            ("5m", Some(300_000)),
            ("1h", Some(3_600_000)),
            ("0s", Some(0)),
        ];
        for (text, milliseconds) in cases {
            assert_eq!(parse_duration(text), milliseconds.map(Duration::from_millis), "{text}");
        }
        for text in ["", "5", "s", "1.5s", "-1s", "2 s", "1d", "99999999999999999999s", "18446744073709551615h"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn rfc3339_formats_dates() {
        let cases = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_767_323_045, "2026-01-02T03:04:05Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ];
        for (seconds, text) in cases {
            assert_eq!(rfc3339(Duration::from_secs(seconds)), text);
        }
    }
}
