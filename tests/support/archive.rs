//! Archives of an app: `@VERSION@` in its files becomes the label; no times and no owners, so that the same app and label
//! give the same digest.

use std::{
    fs,
    io::{Cursor, Write as _},
    path::Path,
};

use sha2::{Digest as _, Sha256};

/// What an archive is.
#[derive(Clone, Copy, Debug)]
pub enum TestArchiveFormat {
    TarZst,
    TarGz,
    Zip,
}

/// The name of the folder that a release is pulled into; `digest` in hex.
pub fn release_folder(label: &str, digest: &str) -> String {
    format!("{label}-{}", &digest[..8])
}

/// In hex.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of an archive of a folder.
pub(super) fn pack_folder(folder: &Path, label: &str, format: TestArchiveFormat) -> Vec<u8> {
    let mut files = Vec::new();
    read_files(folder, "", label, &mut files);
    match format {
        TestArchiveFormat::TarZst => zstd::encode_all(&tar_bytes(&files)[..], 0).unwrap(),
        TestArchiveFormat::TarGz => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(&tar_bytes(&files)).unwrap();
            encoder.finish().unwrap()
        }
        TestArchiveFormat::Zip => {
            let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
            for (name, content) in &files {
                writer.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
                writer.write_all(content).unwrap();
            }
            writer.finish().unwrap().into_inner()
        }
    }
}

fn tar_bytes(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, name, &content[..]).unwrap();
    }
    builder.into_inner().unwrap()
}

fn read_files(folder: &Path, inside: &str, label: &str, files: &mut Vec<(String, Vec<u8>)>) {
    let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let name = format!("{inside}{}", path.file_name().unwrap().to_string_lossy());
        if path.is_dir() {
            read_files(&path, &format!("{name}/"), label, files);
        } else {
            let text = fs::read_to_string(&path).unwrap().replace("@VERSION@", label);
            files.push((name, text.into_bytes()));
        }
    }
}
