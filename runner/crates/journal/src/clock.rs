//! The only use of the wall clock. It dates records for people, and no decision depends on it.

/// The time now, in whole milliseconds.
#[must_use]
pub fn now() -> jiff::Timestamp {
    #[expect(clippy::disallowed_methods, reason = "the one home of the wall clock")]
    let now = jiff::Timestamp::now();
    jiff::Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}
