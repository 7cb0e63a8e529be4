//! A folder: the file gets its name by one link, which fails if the name is taken. The checksum follows.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use hostio::atomic_file::{StagedFile, remove_abandoned, replace_file};

use super::{PublishError, PublishSource, Published, snippet};
use crate::checksum_line;
use contract::Digest;

pub(super) fn publish(source: &PublishSource, path: &Path) -> Result<Published, PublishError> {
    let name = path.file_name().ok_or_else(|| PublishError::Invalid(format!("{} is no file", path.display())))?;
    let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or_else(|| Path::new("."));
    std::fs::create_dir_all(folder).map_err(failed("create", folder))?;
    let mut checksum = path.as_os_str().to_owned();
    checksum.push(".sha256");
    let checksum = PathBuf::from(checksum);
    for own in [path, &checksum] {
        remove_abandoned(own);
    }
    let was_published = !match path.exists() {
        true => false,
        false => {
            let staged = StagedFile::fill(path, |file| copy(source, file)).map_err(failed("write", path))?.0;
            staged.create().map_err(failed("write", path))?
        }
    };
    if was_published {
        let found = digest(path).map_err(failed("read", path))?;
        if found != source.digest {
            let location = path.display().to_string();
            return Err(PublishError::Differs { location, found: found.to_string(), ours: source.digest.clone() });
        }
    }
    let line = checksum_line(&source.digest, &name.to_string_lossy());
    if std::fs::read(&checksum).ok().as_deref() != Some(line.as_bytes()) {
        replace_file(&checksum, line.as_bytes()).map_err(failed("write", &checksum))?;
    }
    Ok(Published {
        location: format!("file:{}", path.display()),
        digest: source.digest.clone(),
        was_published,
        resumed_bytes: 0,
        snippet: snippet::of_folder(source, folder, &name.to_string_lossy()),
    })
}

fn failed(action: &str, path: &Path) -> impl FnOnce(io::Error) -> PublishError {
    PublishError::io(format!("{action} {}", path.display()))
}

fn copy(source: &PublishSource, to: &mut File) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < source.size {
        let count = source.file.read_at(&mut buffer, at)?;
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter"));
        }
        io::Write::write_all(to, &buffer[..count])?;
        at += count as u64;
    }
    Ok(())
}

fn digest(path: &Path) -> io::Result<Digest> {
    fetch::archive::digest(File::open(path)?.take(u64::MAX))
}
