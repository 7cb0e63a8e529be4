//! The one home of the wall clock. Nothing is decided by it: it dates records for people.

/// The time now, in whole milliseconds.
#[must_use]
pub fn now() -> jiff::Timestamp {
    #[expect(clippy::disallowed_methods, reason = "the one home of the wall clock")]
    let now = jiff::Timestamp::now();
    jiff::Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}
