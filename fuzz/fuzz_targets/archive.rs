//! Any bytes as an archive.
#![no_main]

use std::sync::OnceLock;

use fetch::archive::fuzz::ArchiveFuzzDir;

static DIR: OnceLock<ArchiveFuzzDir> = OnceLock::new();

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| DIR.get_or_init(ArchiveFuzzDir::new).check_archive(bytes));
