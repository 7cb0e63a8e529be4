//! A pull of an archive of many small files over HTTP into memory-backed storage, where it is there: the disk would
//! hide the work. Theirs downloads, hashes and unpacks at once too, but neither compares the digest nor swaps the folder in.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use flate2::{Compression, write::GzEncoder};
use tar::{Builder, EntryType};
use tempfile::TempDir;

use super::{BenchRow, BenchTarget, interleaved_medians, wall_time};
use crate::{
    http::LoopbackServer,
    pack::{header, sha256},
    workspace,
};

const ROUNDS: usize = 5;
const FILES: u64 = 8_500;
const MAX_RATIO: f64 = 1.0;

pub(super) fn rows(runner: &Path) -> Result<Vec<BenchRow>> {
    let tar = text_files_tar()?;
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(&tar)?;
    let archives = [("tar.gz", "--gzip", gzip.finish()?), ("tar.zst", "--zstd", zstd::encode_all(&tar[..], 0)?)];
    let unpacked = tar.len() / 1_000_000;
    drop(tar);
    archives
        .into_iter()
        .map(|(extension, flag, archive)| {
            println!("{unpacked} MB as {extension}: {} MB", archive.len() / 1_000_000);
            let (ours, theirs) = measure(runner, extension, flag, archive)?;
            let name = format!("pull of {FILES} files from a {extension} · `curl` to `tee >(sha256sum)` to `tar x`");
            Ok(BenchRow { name, ours, theirs, target: BenchTarget::Ratio(MAX_RATIO) })
        })
        .collect()
}

fn measure(runner: &Path, extension: &str, flag: &str, archive: Vec<u8>) -> Result<(Duration, Duration)> {
    let name = format!("tree.{extension}");
    let sum: Arc<[u8]> = format!("{}  {name}\n", sha256(&archive)).into_bytes().into();
    let archive: Arc<[u8]> = archive.into();
    let (path, sum_path) = (format!("/{name}"), format!("/{name}.sha256"));
    let server = LoopbackServer::start(move |asked| {
        if asked == path { Some(Arc::clone(&archive)) } else { (asked == sum_path).then(|| Arc::clone(&sum)) }
    })?;
    let plan = plan(&server.origin(), &name);
    let ours = || {
        let folder = fresh_folder()?;
        fs::write(folder.path().join("deploy.yml"), &plan)?;
        wall_time(Command::new(runner).args(["--local", "--release", "r1"]).current_dir(folder.path()))
    };
    let line = format!("set -euo pipefail; curl -s {}/{name} | tee >(sha256sum >sum) | tar x {flag}", server.origin());
    let theirs = || {
        let folder = fresh_folder()?;
        wall_time(Command::new("bash").args(["-c", &line]).current_dir(folder.path()))
    };
    interleaved_medians(ROUNDS, ours, theirs)
}

fn plan(origin: &str, name: &str) -> String {
    format!(
        "version: 1\n\
         app: bench\n\
         environments: {{ bench: {{}} }}\n\
         steps:\n\
         \x20 pull:\n\
         \x20   uses: pull\n\
         \x20   with: {{ from: \"{origin}/{name}\", into: app }}\n\
         \x20   grants: {{ dirs: {{ app: ./out }}, http: [\"{origin}\"] }}\n"
    )
}

/// In memory where the system has such a place. Removed outside of the measured time.
pub(super) fn fresh_folder() -> Result<TempDir> {
    let memory = Path::new("/dev/shm");
    let place: PathBuf = if memory.is_dir() { memory.to_owned() } else { workspace::target_dir()? };
    tempfile::tempdir_in(&place).with_context(|| format!("make a folder in {}", place.display()))
}

/// A tar of text files, the same each time: words of a small vocabulary, which compress about as well as source code.
pub(super) fn text_files_tar() -> Result<Vec<u8>> {
    let mut random = XorshiftRng(0x9E37_79B9_7F4A_7C15);
    let vocabulary: Vec<Vec<u8>> = (0..VOCABULARY)
        .map(|_| {
            let letters = (0..3 + random.below(9)).map(|_| b'a' + random.below(26) as u8);
            letters.chain([b' ']).collect()
        })
        .collect();
    let mut builder = Builder::new(Vec::new());
    for number in 0..FILES {
        let size = MEAN_SIZE / 4 + random.below(MEAN_SIZE * 3 / 2) as usize;
        let mut text = Vec::with_capacity(size + 16);
        while text.len() < size {
            text.extend_from_slice(&vocabulary[random.below(vocabulary.len()) as usize]);
        }
        let path = format!("part-{:02}/file-{number:04}.txt", number % 85);
        builder.append_data(&mut header(EntryType::Regular, text.len() as u64), path, &text[..])?;
    }
    Ok(builder.into_inner()?)
}

const VOCABULARY: usize = 800;
/// In bytes; 8,500 of them are about 181 MB.
const MEAN_SIZE: usize = 20_800;

/// Marsaglia's xorshift64 (2003): enough for filler, and the same everywhere.
struct XorshiftRng(u64);

impl XorshiftRng {
    fn below(&mut self, limit: usize) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xorshift_matches_the_published_sequence() {
        // xorshift64 with shifts 13, 7, 17 from state 1, by hand: 1 → 8193 → 8257 → 1082269761.
        let mut random = XorshiftRng(1);
        assert_eq!(random.below(usize::MAX), 1_082_269_761);
    }
}
