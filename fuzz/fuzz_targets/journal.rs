//! Any bytes as the journals of an app.
#![no_main]

use ::journal::fuzz::{journal, scratch_folder};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| journal(bytes, scratch_folder().path()));
