//! The settings that compiled code depends on: `official` precompiles modules with them, and `sandbox` loads them.

use wasmtime::{Config, Result};

/// Creates the engine's configuration.
///
/// It names the target, because otherwise the code would depend on the CPU features of the build machine. Stacks are
/// small, so that infinite recursion ends soon.
///
/// # Errors
/// An error when this wasmtime was built without a compiler for the target.
pub fn engine_config() -> Result<Config> {
    let mut config = Config::new();
    config.target(target_triple())?;
    config.wasm_component_model(true);
    config.epoch_interruption(true);
    // Nothing shows the address map, and it would be a tenth of the code.
    config.generate_address_map(false);
    // Nothing unwinds through a module's code: a trap ends it, and wasmtime carries host panics across it.
    config.native_unwind_info(false);
    config.max_wasm_stack(1 << 20);
    config.async_stack_size(2 << 20);
    // Otherwise the environment variable `WASMTIME_BACKTRACE_DETAILS` would decide.
    config.wasm_backtrace_details(wasmtime::WasmBacktraceDetails::Disable);
    Ok(config)
}

fn target_triple() -> &'static str {
    if cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        "x86_64-unknown-linux-gnu"
    } else if cfg!(all(target_arch = "aarch64", target_os = "linux")) {
        "aarch64-unknown-linux-gnu"
    } else if cfg!(all(target_arch = "aarch64", target_os = "macos")) {
        "aarch64-apple-darwin"
    } else {
        "x86_64-apple-darwin"
    }
}
