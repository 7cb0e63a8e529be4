//! Uses too much: memory, log, handles, returned texts.

use pawl_step::{Failure, Receipt, log};

use crate::{BehaviorResult, MisbehaveConfig, extra::wasi, report_allowed};

const MIB: usize = 1 << 20;

/// Produces a GiB, or as many handles as possible.
pub(crate) fn flood_host(config: &MisbehaveConfig) -> BehaviorResult {
    let chunk = config.text.repeat(1.max(MIB / config.text.len().max(1)));
    match config.r#do.as_str() {
        "memory" => {
            let mut kept = Vec::new();
            for _ in 0..1024 {
                kept.push(core::hint::black_box(vec![1u8; MIB]));
            }
            report_allowed("kept", kept.len())
        }
        "log" => {
            for _ in 0..1024 {
                log::info(&chunk);
            }
            report_allowed("logged", 1024)
        }
        "progress" => {
            for at in 0..10_000_000 {
                log::progress("task", at, None, "bytes");
            }
            report_allowed("told", 10_000_000)
        }
        "stdout" | "endless-line" => {
            // Errors are ignored. Each of many streams could keep its own unfinished line.
            for _ in 0..1024 {
                let stream = wasi::cli::stdout::get_stdout();
                for part in chunk.as_bytes().chunks(4096) {
                    let _ = stream.blocking_write_and_flush(part);
                }
            }
            report_allowed("written", 1024)
        }
        "handles" => {
            let mut kept = Vec::new();
            for _ in 0..100_000 {
                kept.push(wasi::cli::stdout::get_stdout());
            }
            report_allowed("kept", kept.len())
        }
        "connections" => {
            let mut kept = Vec::new();
            for _ in 0..100_000 {
                kept.push(pawl_step::database::Connection::open(&config.name)?);
            }
            report_allowed("kept", kept.len())
        }
        _ => report_allowed("random", wasi::random::random::get_random_bytes(1 << 40).len()),
    }
}

/// Returns texts of many MiB.
pub(crate) fn return_oversized(what: &str) -> BehaviorResult {
    let text = "x".repeat(100 * MIB / 2);
    match what {
        "receipt" => Ok(Receipt::new().output("text", text)),
        "kind" => Err(Failure::new(pawl_step::FailureKind::Other("y".repeat(2 * MIB)), "a long kind")),
        _ => Err(Failure::permanent(text).hint("h".repeat(MIB)).detail("more", "d".repeat(MIB))),
    }
}

/// Passes a hundred MiB of arguments in one call.
pub(crate) fn pass_oversized_arguments(config: &MisbehaveConfig) -> BehaviorResult {
    use pawl_step::process::Command;
    let arguments = vec!["a".repeat(MIB); 100];
    report_allowed("status", Command::new(&config.program).args(arguments).run()?.status)
}
