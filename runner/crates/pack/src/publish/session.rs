//! What is needed to continue an upload that was cut: one small file for each content and target.
//!
//! It only suggests: the server says what it has. Without a folder for these files, an upload begins anew in each call.

use std::{fs, path::PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use contract::Digest;

/// A server forgets an unfinished upload at some time; what is older than this is forgotten here too.
const MAX_AGE_SECONDS: u64 = 7 * 24 * 3600;

pub(super) struct UploadSessions {
    folder: Option<PathBuf>,
}

/// An unfinished upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct UploadSession {
    /// The URL of the upload, or its name.
    pub(super) upload: String,
    /// The bytes of a chunk or a part.
    pub(super) chunk_bytes: u64,
}

impl UploadSessions {
    pub(super) fn new(folder: Option<PathBuf>) -> Self {
        Self { folder }
    }

    pub(super) fn find(&self, target: &str, digest: &Digest) -> Option<UploadSession> {
        let path = self.path(target, digest)?;
        let age = fs::metadata(&path).ok()?.modified().ok()?.elapsed().unwrap_or_default();
        let is_fresh = age.as_secs() < MAX_AGE_SECONDS;
        serde_json::from_slice(&fs::read(path).ok()?).ok().filter(|_| is_fresh)
    }

    /// Without room for it, the upload is not continued later.
    pub(super) fn store(&self, target: &str, digest: &Digest, session: &UploadSession) {
        let Some((path, folder)) = self.path(target, digest).zip(self.folder.as_ref()) else { return };
        let _ = fs::create_dir_all(folder);
        if let Ok(text) = serde_json::to_vec(session) {
            let _ = hostio::atomic_file::replace_unsynced_file(&path, &text);
        }
    }

    pub(super) fn remove(&self, target: &str, digest: &Digest) {
        if let Some(path) = self.path(target, digest) {
            let _ = fs::remove_file(path);
        }
    }

    fn path(&self, target: &str, digest: &Digest) -> Option<PathBuf> {
        let name = Digest::from_bytes(Sha256::digest(format!("{target}\n{digest}")).into());
        Some(self.folder.as_ref()?.join(format!("{}.json", &name.hex()[..32])))
    }
}
