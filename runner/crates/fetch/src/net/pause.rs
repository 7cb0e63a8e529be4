//! The pauses that a server asks for: `Retry-After` (RFC 9110, 10.2.3) of the statuses 429 and 503.
//!
//! Deliberately absent: a date in place of the seconds, which depends on the clocks of two machines.

use std::time::Duration;

/// The longest time that all pauses of a request take together.
const MAX_TOTAL: Duration = Duration::from_secs(120);
/// The most pauses of a request.
const MAX_PAUSES: u32 = 10;
/// A server that asks for no time at all is not asked again at once.
const SHORTEST: Duration = Duration::from_millis(250);

/// The pauses of one request.
#[derive(Default)]
pub(crate) struct RequestedPauses {
    count: u32,
    total: Duration,
}

impl RequestedPauses {
    /// How long a response asks to wait.
    pub(crate) fn parse(status: u16, retry_after: Option<&str>) -> Option<Duration> {
        let seconds = retry_after.filter(|_| matches!(status, 429 | 503))?.trim();
        let is_number = !seconds.is_empty() && seconds.bytes().all(|byte| byte.is_ascii_digit());
        Some(Duration::from_secs(if is_number { seconds.parse().ok()? } else { return None }))
    }

    /// How long to wait before the request is sent again; none if it is not.
    pub(crate) fn next_for(&mut self, status: u16, retry_after: Option<&str>) -> Option<Duration> {
        let pause = Self::parse(status, retry_after)?.max(SHORTEST);
        if self.count == MAX_PAUSES || self.total + pause > MAX_TOTAL {
            return None;
        }
        self.count += 1;
        self.total += pause;
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_bounded() {
        let parsed = |status, text| RequestedPauses::parse(status, text);
        assert_eq!(parsed(429, Some("7")), Some(Duration::from_secs(7)));
        assert_eq!(parsed(503, Some(" 0 ")), Some(Duration::ZERO));
        for (status, text) in [
            (429, None),
            (500, Some("7")),
            (429, Some("")),
            (429, Some("-1")),
            (429, Some("Fri, 31 Dec 1999 23:59:59 GMT")),
        ] {
            assert_eq!(parsed(status, text), None, "{status} {text:?}");
        }
        let mut pauses = RequestedPauses::default();
        assert_eq!(pauses.next_for(429, Some("3600")), None);
        assert_eq!(pauses.next_for(429, Some("100")), Some(Duration::from_secs(100)));
        assert_eq!(pauses.next_for(429, Some("30")), None);
        assert_eq!((0..20).filter(|_| pauses.next_for(503, Some("0")).is_some()).count(), 9);
    }
}
