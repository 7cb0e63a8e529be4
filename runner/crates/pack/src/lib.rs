//! Makes a release of a folder, and publishes releases to where `pull` finds them.
//!
//! ```text
//! folder ─► entries, checked by the rules of `pull` ─► tar ─► zstd ─► archive, digest, listing
//! archive ─► folder | HTTP PUT | S3 | OCI registry | Python index
//! ```
//! Invariants: the same files, version and time give the same bytes. What is packed, `pull` unpacks. What is published is visible as a
//! whole or not at all, and never takes the place of another content. Deliberately absent: clock, environment, git and the terminal.

mod archive;
mod checksum;
mod entries;
mod error;
mod listing;
pub mod publish;
mod reader;

pub use archive::{PackRequest, PackedArchive, pack};
pub use checksum::{checksum_line, parse_checksum};
pub use entries::{IGNORE_FILE, PackedEntry, PackedEntryKind};
pub use error::PackError;
pub use fetch::archive::ArchiveLimits;
pub use listing::{listed_version, listing};
