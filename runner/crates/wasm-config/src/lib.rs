//! The settings that compiled code depends on: `official` precompiles modules with them, and `sandbox` loads them.

use wasmtime::{Config, Result};

/// The engine's settings.
///
/// The target is named, or the build machine's CPU features would be baked in. Stacks are small: a step that recurses
/// without end meets its limit soon.
///
/// # Errors
/// When this wasmtime was built without a compiler for the target.
pub fn engine_config() -> Result<Config> {
    let mut config = Config::new();
    config.target(target_triple())?;
    config.wasm_component_model(true);
    config.epoch_interruption(true);
    // Where in a module's text an instruction came from is never shown, and would be a tenth of the code.
    config.generate_address_map(false);
    // Nothing unwinds through a module's code: traps end it, and panics of the host's are carried around it.
    config.native_unwind_info(false);
    config.max_wasm_stack(1 << 20);
    config.async_stack_size(2 << 20);
    // Fixed, since the user's environment (`WASMTIME_BACKTRACE_DETAILS`) would decide otherwise.
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
