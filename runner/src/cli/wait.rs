//! `--lock-wait`, for every command that changes something.

use std::time::Duration;

use state::LockWait;

#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct LockWaitArgs {
    /// How long to wait for another deployment of the same environment, such as `90s` or `10m`
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    lock_wait: Option<Duration>,
}

impl LockWaitArgs {
    pub(super) fn wait(&self) -> LockWait {
        self.lock_wait.map_or(LockWait::Default, LockWait::For)
    }
}

/// Parses a whole number with a unit; 0 needs none.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || "expected a whole number with `ms`, `s`, `m` or `h`, such as `10m`".to_owned();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let unit = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let factor = match &text[unit..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    let number: u32 = text[..unit].parse().map_err(|_| wrong())?;
    Ok(Duration::from_millis(u64::from(number) * factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, expected) in [("0", 0), ("500ms", 500), ("90s", 90_000), ("10m", 600_000), ("1h", 3_600_000)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(expected)));
        }
        for bad in ["", "10", "m", "1d", "-1s", "1.5s", "99999999999s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
