//! Times one call of a module whose code is loaded: a store, an instance, the step's grants, the export, and all of it gone
//! again. Prints the median in nanoseconds. For `cargo xtask bench steps`.

mod prepared_plan;

use std::time::Instant;

use anyhow::{Result, anyhow};

const ROUNDS: usize = 500;

/// Grants no directory, so that the benchmark measures the sandbox and no file access of the host.
const PLAN: &str = r#"{"version": 1, "app": "bench", "steps": {"check": {
    "uses": "verify", "with": {"tcp": ["127.0.0.1:1"]}, "grants": {"tcp": ["127.0.0.1:1"]}}}}"#;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let prepared = prepared_plan::prepare(&std::env::temp_dir(), PLAN).await?;
    let [ready] = &prepared.steps[..] else { return Err(anyhow!("the plan has one step")) };
    let input = serde_json::json!({
        "app": "bench", "environment": "default", "run": "1-abcdef", "attempt": 1, "step": "check", "target": "local",
        "key": "0123456789abcdef", "config": ready.step.with, "release": {"label": "r1", "digest": null},
        "outputs": {}, "head": {"live": null},
    });
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let changes = prepared.executor(ready).preview(&ready.step, &input, sandbox::CallChannel::unobserved()).await;
        times.push(began.elapsed());
        let changes = changes.map_err(|failure| anyhow!("{failure:?}"))?;
        anyhow::ensure!(changes.len() == 1, "one check is previewed");
    }
    times.sort();
    #[expect(clippy::print_stdout, reason = "its output is read by xtask")]
    {
        println!("{}", times[ROUNDS / 2].as_nanos());
    }
    Ok(())
}
