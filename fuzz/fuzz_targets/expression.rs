//! Any text with look-ups.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| plan::fuzz::expression(bytes));
