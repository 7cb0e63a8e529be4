//! Any text as a plan, and its long form.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| plan::fuzz::expanded(bytes));
