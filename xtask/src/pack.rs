//! `pack`: makes a release of the example app. `app/` becomes `dist/shop-<label>.tar.zst` with its `.sha256` beside it.
//!
//! `@VERSION@` in the app's files becomes the label. The same files and label give the same bytes: entries are sorted, and
//! hold no times or owners.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

pub(crate) fn run(dir: &Path, label: &str) -> Result<()> {
    let archive = pack(dir, label)?;
    println!("packed {}", archive.display());
    Ok(())
}

/// Returns the archive's path.
pub(crate) fn pack(dir: &Path, label: &str) -> Result<PathBuf> {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"._+-".contains(&b);
    let starts_well = label.starts_with(|first: char| first.is_ascii_alphanumeric());
    ensure!(starts_well && label.bytes().all(is_plain), "`{label}` is not a label: letters, digits and `._+-`");
    let dist = dir.join("dist");
    fs::create_dir_all(&dist).with_context(|| format!("create {}", dist.display()))?;

    let mut builder = Builder::new(zstd::Encoder::new(Vec::new(), 0)?);
    add_folder(&mut builder, &dir.join("app"), Path::new(""), label)?;
    let bytes = builder.into_inner()?.finish()?;

    let name = format!("shop-{label}.tar.zst");
    let archive = dist.join(&name);
    fs::File::create(&archive)?.write_all(&bytes)?;
    fs::write(dist.join(format!("{name}.sha256")), format!("{}  {name}\n", sha256(&bytes)))?;
    Ok(archive)
}

/// In hex.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A tar header without times and owners; `size` in bytes.
pub(crate) fn header(kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o644 });
    header.set_size(size);
    header
}

fn add_folder<W: Write>(builder: &mut Builder<W>, folder: &Path, inside: &Path, label: &str) -> Result<()> {
    let mut entries =
        fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = inside.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            builder.append_data(&mut header(EntryType::Directory, 0), &name, &[][..])?;
            add_folder(builder, &entry.path(), &name, label)?;
        } else {
            let text = fs::read_to_string(entry.path()).with_context(|| format!("read {}", entry.path().display()))?;
            let text = text.replace("@VERSION@", label);
            builder.append_data(&mut header(EntryType::Regular, text.len() as u64), &name, text.as_bytes())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn app() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("app/assets")).unwrap();
        fs::write(dir.path().join("app/VERSION"), "@VERSION@").unwrap();
        fs::write(dir.path().join("app/assets/style.css"), "body {}").unwrap();
        dir
    }

    #[test]
    fn pack_renders_the_label_and_publishes_the_digest() {
        let dir = app();
        let archive = pack(dir.path(), "r1").unwrap();
        let bytes = fs::read(&archive).unwrap();
        let published = fs::read_to_string(archive.with_extension("zst.sha256")).unwrap();
        assert_eq!(published, format!("{}  shop-r1.tar.zst\n", sha256(&bytes)));
        let mut found = Vec::new();
        for entry in tar::Archive::new(zstd::Decoder::new(&bytes[..]).unwrap()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            found.push((entry.path().unwrap().display().to_string(), text));
        }
        let expected = [("VERSION", "r1"), ("assets", ""), ("assets/style.css", "body {}")];
        let found: Vec<_> = found.iter().map(|(path, text)| (path.trim_end_matches('/'), text.as_str())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn pack_is_reproducible() {
        let read = || fs::read(pack(app().path(), "r1").unwrap()).unwrap();
        assert_eq!(read(), read());
    }

    #[test]
    fn pack_rejects_labels_with_a_path() {
        let dir = app();
        for label in ["../x", "", ".x", "a/b", "a b"] {
            assert!(pack(dir.path(), label).is_err(), "{label:?}");
        }
    }
}
