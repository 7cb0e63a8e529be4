//! Any bytes as what coordinator and agent send each other.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wire::fuzz::frames(bytes));
