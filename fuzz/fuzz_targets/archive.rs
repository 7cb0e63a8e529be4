//! Any bytes as an archive.
#![no_main]

use std::sync::OnceLock;

use fetch::archive::fuzz::Room;

static ROOM: OnceLock<Room> = OnceLock::new();

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ROOM.get_or_init(Room::new).archive(bytes));
