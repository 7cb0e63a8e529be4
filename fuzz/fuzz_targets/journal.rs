//! Any bytes as the journals of an app.
#![no_main]

use ::journal::fuzz::{journal, room};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| journal(bytes, room().path()));
