//! Any text as a plan.
#![no_main]

use contract::render::{Color, render};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for diagnostic in plan::fuzz::plan(bytes) {
        assert!(render(&diagnostic, Color::Off).starts_with("error[P01"));
    }
});
