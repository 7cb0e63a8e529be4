//! The list of what a release contains, as a CycloneDX 1.6 document, which tools for software bills of materials read.
//!
//! It has neither a time nor a serial number: the same release has the same list.

use serde_json::{Value, json};

use crate::{PackedArchive, PackedEntry, PackedEntryKind};
use contract::Digest;

/// The list of a release that is in the archive `name`.
#[must_use]
pub fn listing(packed: &PackedArchive, name: &str, version: &str) -> String {
    let document = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "name": name,
                "version": version,
                "hashes": hashes(&packed.digest),
            },
        },
        "components": packed.entries.iter().filter_map(component).collect::<Vec<_>>(),
    });
    format!("{document:#}\n")
}

/// The version in the list of the archive with this digest; none if it is that of another archive, or no list.
#[must_use]
pub fn listed_version(text: &str, digest: &Digest) -> Option<String> {
    let document: Value = serde_json::from_str(text).ok()?;
    let release = &document["metadata"]["component"];
    let is_ours = release["hashes"] == hashes(digest);
    release["version"].as_str().filter(|_| is_ours).map(str::to_owned)
}

/// Files and links; a folder has no content of its own.
fn component(entry: &PackedEntry) -> Option<Value> {
    match &entry.kind {
        PackedEntryKind::Directory => None,
        PackedEntryKind::File { size, is_executable, digest } => Some(json!({
            "type": "file",
            "name": entry.path,
            "hashes": digest.as_ref().map(hashes),
            "properties": [
                { "name": "pawl:size", "value": size.to_string() },
                { "name": "pawl:mode", "value": if *is_executable { "0755" } else { "0644" } },
            ],
        })),
        PackedEntryKind::Symlink { target } => Some(json!({
            "type": "file",
            "name": entry.path,
            "properties": [{ "name": "pawl:link-target", "value": target }],
        })),
    }
}

fn hashes(digest: &Digest) -> Value {
    json!([{ "alg": "SHA-256", "content": digest.hex() }])
}
