//! Any text as a plan.
#![no_main]

use contract::render::{ColorMode, render_diagnostic};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for diagnostic in plan::fuzz::plan(bytes) {
        assert!(render_diagnostic(&diagnostic, ColorMode::Off).starts_with("error[P01"));
    }
});
