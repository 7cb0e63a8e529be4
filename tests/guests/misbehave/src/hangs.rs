//! Never returns, or leaves a mess: loops, waits, and open transactions.

use pawl_step::{Failure, database, time};

use crate::{BehaviorResult, MisbehaveConfig, report_allowed};

/// Loops forever, with a little work in each round.
pub(crate) fn loop_forever() -> ! {
    let mut count = 0u64;
    loop {
        count = core::hint::black_box(count.wrapping_add(1));
    }
}

/// Waits forever in a host call.
pub(crate) fn sleep_forever() -> ! {
    time::sleep(core::time::Duration::from_secs(1 << 30));
    loop_forever()
}

/// Recurses without limit and without using linear memory, so that the sandbox's stack ends before the guest's.
#[allow(unconditional_recursion)]
#[inline(never)]
pub(crate) fn recurse(depth: u64) -> u64 {
    recurse(depth.wrapping_add(1)).rotate_left(7) ^ depth
}

/// Writes a row in a transaction and leaves it open.
pub(crate) fn leave_transaction_open(config: &MisbehaveConfig) -> BehaviorResult {
    let connection = database::Connection::open(&config.name)?;
    connection.execute("CREATE TABLE IF NOT EXISTS t (x)", &[])?;
    let transaction = connection.begin(database::TransactionMode::Immediate)?;
    transaction.execute("INSERT INTO t VALUES (1)", &[])?;
    match config.end.as_str() {
        "trap" => core::arch::wasm32::unreachable(),
        "panic" => panic!("with an open transaction"),
        "loop" => loop_forever(),
        "sleep" => sleep_forever(),
        "query" => {
            transaction.query(&config.sql, &[])?;
            report_allowed("ended", true)
        }
        "fail" => Err(Failure::permanent("left open")),
        "forget" => {
            core::mem::forget(transaction);
            core::mem::forget(connection);
            report_allowed("forgotten", true)
        }
        _ => report_allowed("dropped", true),
    }
}
