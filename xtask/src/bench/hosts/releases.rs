//! Releases to deploy: small ones, and large ones of which a small part changes from one to the next.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;
use flate2::{Compression, write::GzEncoder};
use tar::{Builder, EntryType};

use crate::pack::{header, sha256};

/// A large release: so many files of so many bytes are 50 MB as they are.
const FILES: usize = 2_850;
const FILE_BYTES: usize = 17_544;
/// How many words there are in it.
const VOCABULARY: u64 = 4_096;
/// Of how many files one is changed, and which part of it: 2 % of all bytes.
const CHANGED_FILES: usize = 10;
const CHANGED_PARTS: usize = 5;

/// Makes the archive of a small release; returns its path.
pub(super) fn pack_small(folder: &Path, release: &str) -> Result<PathBuf> {
    let page = format!("<!doctype html>\n<title>Shop</title>\n<p>Release {release}\n");
    let files = [("VERSION".to_owned(), release.to_owned()), ("index.html".to_owned(), page)];
    write_archive(folder, release, 0, files.into_iter())
}

/// Makes the archive of a large one. In each number, other bytes differ from those of number 0, and all times are new.
pub(super) fn pack_large(folder: &Path, release: &str, number: u64) -> Result<PathBuf> {
    let version = ("VERSION".to_owned(), release.to_owned());
    let files = (0..FILES).map(|file| {
        let is_changed = number > 0 && (file + usize::try_from(number).unwrap_or(0)).is_multiple_of(CHANGED_FILES);
        let changed = if is_changed { FILE_BYTES / CHANGED_PARTS } else { 0 };
        let text = words(file as u64 | number << 32, changed) + &words(file as u64, FILE_BYTES - changed);
        (format!("src/{:02}/{file}.js", file % 50), text)
    });
    write_archive(folder, release, number, std::iter::once(version).chain(files))
}

fn write_archive(
    folder: &Path,
    release: &str,
    number: u64,
    files: impl Iterator<Item = (String, String)>,
) -> Result<PathBuf> {
    let mut builder = Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (name, text) in files {
        let mut header = header(EntryType::Regular, text.len() as u64);
        header.set_mtime(1_795_000_000 + number);
        builder.append_data(&mut header, name, text.as_bytes())?;
    }
    let bytes = builder.into_inner()?.finish()?;
    let dist = folder.join("dist");
    fs::create_dir_all(&dist)?;
    let name = format!("shop-{release}.tar.gz");
    fs::write(dist.join(&name), &bytes)?;
    fs::write(dist.join(format!("{name}.sha256")), format!("{}  {name}\n", sha256(&bytes)))?;
    Ok(dist.join(name))
}

/// Text of so many bytes, the same for a seed: words of a vocabulary, some of which are frequent.
fn words(seed: u64, bytes: usize) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state >> 11
    };
    let mut text = String::with_capacity(bytes + 16);
    while text.len() < bytes {
        let word = next() % VOCABULARY * (next() % VOCABULARY) / VOCABULARY;
        text += &format!("{:x}", (word + 1) * 0x1_0f0d);
        text.push(if next().is_multiple_of(9) { '\n' } else { ' ' });
    }
    text.truncate(bytes);
    text
}
