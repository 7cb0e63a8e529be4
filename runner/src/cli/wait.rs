//! `--lock-wait`, for every command that changes something.

use std::time::Duration;

use contract::duration::parse_duration;
use state::LockWait;

#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct LockWaitArgs {
    /// How long to wait for another deployment of the same environment, such as `90s` or `10m`
    #[arg(long, value_name = "DURATION", value_parser = parse_wait)]
    lock_wait: Option<Duration>,
}

impl LockWaitArgs {
    pub(super) fn wait(&self) -> LockWait {
        self.lock_wait.map_or(LockWait::Default, LockWait::For)
    }
}

/// Parses a duration; 0 needs no unit.
fn parse_wait(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    parse_duration(text).map_err(|error| error.hint())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_needs_no_unit() {
        assert_eq!(parse_wait("0"), Ok(Duration::ZERO));
        assert_eq!(parse_wait("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(parse_wait("10"), Err("add a unit: `10s` or `10m`".to_owned()));
    }
}
