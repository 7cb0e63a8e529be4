//! The host's blobs in native tests: archives in memory, extracted file by file, with the file list that a comparison
//! needs.

use serde_json::{Map, Value};

use crate::Failure;
use crate::blobs::{UnpackLimits, UnpackStats};
use crate::fs::backend;
use crate::fs::{self, FileType};
use crate::{Digest, testing};

/// The name of the list of extracted files; the host uses another name.
const FILE_LIST: &str = ".files.json";

/// The largest number of lines in a comparison.
const MAX_LINES: usize = 20;

#[derive(Debug)]
pub(crate) struct HostBlob {
    source: String,
    digest: String,
}

pub(crate) fn resolve(source: &str) -> Result<Digest, Failure> {
    let archive = testing::archive(source).ok_or_else(|| Failure::not_found(format!("`{source}` does not exist")))?;
    Digest::try_from(archive.digest).map_err(Failure::bad_content)
}

pub(crate) fn fetch(source: &str, digest: &Digest) -> Result<HostBlob, Failure> {
    testing::archive(source).ok_or_else(|| Failure::not_found(format!("`{source}` does not exist")))?;
    Ok(HostBlob { source: source.to_owned(), digest: digest.to_string() })
}

pub(crate) fn unpack(
    blob: HostBlob,
    dir: &str,
    path: &str,
    _limits: &UnpackLimits,
    _is_image: bool,
) -> Result<UnpackStats, Failure> {
    extract(&blob, dir, path).inspect_err(|_| {
        // The host does the same. After a kill the removal fails too.
        let _already_failing = remove(dir, path);
    })
}

fn extract(blob: &HostBlob, dir: &str, path: &str) -> Result<UnpackStats, Failure> {
    let archive = testing::archive(&blob.source).ok_or_else(|| Failure::not_found("the archive no longer exists"))?;
    let mut list = Map::new();
    fs::create_dir_all(&format!("{dir}/{path}"))?;
    for (name, content) in &archive.files {
        let file = format!("{dir}/{path}/{name}");
        fs::create_dir_all(file.rsplit_once('/').map_or("", |(folder, _)| folder))?;
        fs::write_atomic(&file, content.as_bytes())?;
        list.insert(name.clone(), content.clone().into());
    }
    fs::write_atomic(&format!("{dir}/{path}/{FILE_LIST}"), Value::Object(list).to_string().as_bytes())?;
    if archive.digest != blob.digest {
        return Err(Failure::bad_content(format!(
            "`{}` has the digest {}, not {}",
            blob.source, archive.digest, blob.digest
        )));
    }
    let bytes = archive.files.iter().map(|(_, content)| content.len() as u64).sum();
    Ok(UnpackStats { files: archive.files.len() as u64, bytes, archive_bytes: bytes })
}

pub(crate) fn compare(dir: &str, path: &str) -> Result<Vec<String>, Failure> {
    if !fs::exists(&format!("{dir}/{path}"))? {
        return Ok(vec![format!("missing: {path}")]);
    }
    let list = match fs::read_text(&format!("{dir}/{path}/{FILE_LIST}")) {
        Ok(list) => list,
        Err(failure) => return Ok(vec![failure.message]),
    };
    let list: Map<String, Value> =
        serde_json::from_str(&list).map_err(|error| Failure::bad_content(error.to_string()))?;
    let mut lines: Vec<String> = Vec::new();
    for (name, content) in &list {
        let mut above = name.match_indices('/').map(|(at, _)| &name[..at]);
        let linked = above.find(|folder| {
            fs::metadata_of_link(&format!("{dir}/{path}/{folder}"))
                .is_ok_and(|found| found.is_some_and(|found| found.file_type == FileType::Link))
        });
        if let Some(folder) = linked {
            lines.push(format!("changed: {folder} (a symbolic link, was a directory)"));
            continue;
        }
        let file = format!("{dir}/{path}/{name}");
        match fs::metadata_of_link(&file)?.map(|found| found.file_type) {
            None => lines.push(format!("missing: {name}")),
            Some(FileType::File) if fs::read_text(&file)? == content.as_str().unwrap_or_default() => {}
            Some(FileType::File) => lines.push(format!("changed: {name} (modified since)")),
            Some(FileType::Link) => lines.push(format!("changed: {name} (a symbolic link, was a file)")),
            Some(FileType::Directory | FileType::Other) => lines.push(format!("changed: {name} (was a file)")),
        }
    }
    lines.dedup();
    if lines.len() > MAX_LINES {
        let more = lines.len() - MAX_LINES + 1;
        lines.truncate(MAX_LINES - 1);
        lines.push(format!("and {more} more"));
    }
    Ok(lines)
}

pub(crate) fn remove(dir: &str, path: &str) -> Result<(), Failure> {
    let here = format!("{dir}/{path}");
    let Some(found) = fs::metadata_of_link(&here)? else { return Ok(()) };
    if found.file_type != FileType::Directory {
        return fs::remove(&here);
    }
    for entry in fs::list(&here)? {
        remove(dir, &format!("{path}/{}", entry.name))?;
    }
    backend::remove_dir(dir, path).map_err(|cause| fs::fs_failure("remove", &here, cause))
}
