//! What is kept of third-party modules from run to run: their compiled code, what they say of themselves, and downloads.
//!
//! A download is named by its digest, which is compared whenever it is read.
//! Precompiled code is native code without an integrity check, so it comes from this user's runner or not at all: a file's
//! owner and mode are looked at, it is copied into memory that can't be changed, and its MAC is right; only then is it
//! [`Verified`]. The key lies
//! in another folder, so that a folder that was restored from somewhere, such as a CI's cache, is worth nothing.
//! Deliberately absent: compiling, and running what was read.

use std::{
    io::{self, ErrorKind, Read as _},
    path::Path,
    sync::OnceLock,
};

use memmap2::{Mmap, MmapMut};
use sha2::{Digest as _, Sha256};

use super::{
    Places, Tell,
    folder::{Distrust, Folder, FolderError, Privacy},
};
use contract::{Digest, diagnostic::Notice};
use fetch::registry::{Layer, Registry, RegistryError};
use plan::RegistryRef;

const KEY: &str = "module-key";
const MAC: usize = blake3::OUT_LEN;
/// So much is read at once, in bytes.
const PIECE: usize = 1 << 20;
/// The folder may become so large, in bytes.
const MOST: u64 = 1 << 30;

/// Compiled code that this user's runner made: its MAC was right, and it lies in memory of this process that is only read.
pub(crate) struct Verified(pub(crate) Mmap);

/// Where compiled code and downloaded modules are kept. Nothing is made before it is needed.
pub(crate) struct Cache {
    places: Places,
    tell: Tell,
    open: OnceLock<Option<Kept>>,
}

struct Kept {
    folder: Folder,
    key: [u8; blake3::KEY_LEN],
}

impl Cache {
    pub(crate) fn new(places: Places, tell: Tell) -> Self {
        Self { places, tell, open: OnceLock::new() }
    }

    /// The compiled code under a name, if there is some that can be trusted. `module` is named in warnings.
    pub(crate) fn get(&self, name: &str, module: &str) -> Option<Verified> {
        let kept = self.open()?;
        let verified = kept.verified(name);
        verified.unwrap_or_else(|error| {
            self.say_unused(module, &error);
            None
        })
    }

    /// Says that kept code is not used, and that this is no fault of the deployment.
    pub(crate) fn say_unused(&self, module: &str, why: &dyn std::fmt::Display) {
        (self.tell)(Notice::warning(format!("module {module} is compiled again, its kept code is not used: {why}")));
    }

    /// Keeps compiled code, or what a module said of itself, under a name.
    pub(crate) fn put(&self, name: &str, code: &[u8]) {
        let Some(kept) = self.open() else { return };
        let mac = kept.hasher(name).update_rayon(code).finalize();
        let written = kept.folder.write(name, &[mac.as_bytes(), code]).and_then(|()| kept.folder.shrink(MOST));
        if let Err(error) = written {
            self.say_not_kept(&FolderError::Unusable { path: kept.folder.path_of(name), source: error });
        }
    }

    /// What a module said of itself under a name, if that was kept and can be trusted.
    pub(crate) fn words(&self, name: &str, module: &str) -> Option<String> {
        let words = self.open()?.words(name);
        words.unwrap_or_else(|error| {
            let message = format!("module {module} is asked again what it is, its kept answer is not used: {error}");
            (self.tell)(Notice::warning(message));
            None
        })
    }

    /// The digest of a module in a registry, as its manifest has it.
    pub(crate) async fn find(&self, reference: &RegistryRef) -> Result<Layer, RegistryError> {
        if let Some(manifest) = self.content(&reference.digest, "json") {
            return Layer::of(&manifest);
        }
        let manifest = self.registry(reference).manifest().await?;
        let layer = Layer::of(&manifest)?;
        self.put_content(&reference.digest, "json", &manifest);
        Ok(layer)
    }

    /// The bytes of that module: those that were kept, else fetched, and kept.
    pub(crate) async fn fetch(&self, reference: &RegistryRef, layer: &Layer) -> Result<Vec<u8>, RegistryError> {
        if let Some(module) = self.content(&layer.digest, "wasm") {
            return Ok(module);
        }
        let module = self.registry(reference).layer(layer).await?;
        self.put_content(&layer.digest, "wasm", &module);
        Ok(module)
    }

    fn registry<'a>(&'a self, reference: &'a RegistryRef) -> Registry<'a> {
        Registry::new(reference, self.places.credentials.as_deref())
    }

    /// What was downloaded before, if its digest is still right.
    fn content(&self, digest: &Digest, kind: &str) -> Option<Vec<u8>> {
        let kept = self.open()?;
        let name = format!("{}.{kind}", digest.hex());
        let read = kept.folder.read(&name, Privacy::Unwritable).and_then(|bytes| match bytes {
            Some(bytes) if Digest::from_bytes(Sha256::digest(&bytes).into()) != *digest => {
                Err(Distrust::Changed { path: kept.folder.path_of(&name) }.into())
            }
            bytes => Ok(bytes),
        });
        read.unwrap_or_else(|error| {
            (self.tell)(Notice::warning(format!("a module is downloaded again, the kept one is not used: {error}")));
            None
        })
    }

    fn put_content(&self, digest: &Digest, kind: &str, bytes: &[u8]) {
        let Some(kept) = self.open() else { return };
        let name = format!("{}.{kind}", digest.hex());
        if let Err(source) = kept.folder.write(&name, &[bytes]) {
            self.say_not_kept(&FolderError::Unusable { path: kept.folder.path_of(&name), source });
        }
    }

    fn open(&self) -> Option<&Kept> {
        let open = || {
            let (Some(cache), Some(state)) = (&self.places.cache, &self.places.state) else {
                let why = "neither HOME nor XDG_CACHE_HOME and XDG_STATE_HOME is set";
                (self.tell)(Notice::note(format!("compiled modules are not kept: {why}")));
                return None;
            };
            Kept::open(cache, state).map_err(|error| self.say_not_kept(&error)).ok()
        };
        self.open.get_or_init(open).as_ref()
    }

    fn say_not_kept(&self, error: &FolderError) {
        let message = format!("compiled modules are not kept: {error}");
        (self.tell)(match error {
            FolderError::Distrusted(_) => Notice::warning(message),
            FolderError::Unusable { .. } => Notice::note(message),
        });
    }
}

impl Kept {
    fn open(cache: &Path, state: &Path) -> Result<Self, FolderError> {
        let folder = Folder::open(&cache.join("modules"))?;
        let secrets = Folder::open(state)?;
        Ok(Self { folder, key: key(&secrets)? })
    }

    /// The code in a file, if there is such a file and its MAC is right. It is read once: what is checked is what is taken.
    fn verified(&self, name: &str) -> Result<Option<Verified>, FolderError> {
        let Some(mut file) = self.folder.file(name, Privacy::Unwritable)? else { return Ok(None) };
        let unusable = |source| self.folder.unusable(name, source);
        let changed = || FolderError::from(Distrust::Changed { path: self.folder.path_of(name) });
        let unread = |error: io::Error| match error.kind() {
            ErrorKind::UnexpectedEof => changed(),
            _ => unusable(error),
        };
        let mut mac = [0; MAC];
        file.read_exact(&mut mac).map_err(unread)?;
        let length = file.metadata().map_err(unusable)?.len().saturating_sub(MAC as u64).max(1);
        let mut memory =
            usize::try_from(length).map_err(io::Error::other).and_then(MmapMut::map_anon).map_err(unusable)?;
        // In pages of 4 KiB, half of the time would go into getting them.
        #[cfg(target_os = "linux")]
        let _ = memory.advise(memmap2::Advice::HugePage);
        let mut hasher = self.hasher(name);
        for piece in memory.chunks_mut(PIECE) {
            file.read_exact(piece).map_err(unread)?;
            // A big module keeps all cores at it; for a small one they are not worth waking.
            match piece.len() == PIECE {
                true => hasher.update_rayon(piece),
                false => hasher.update(piece),
            };
        }
        match hasher.finalize() == blake3::Hash::from_bytes(mac) {
            true => Ok(Some(Verified(memory.make_read_only().map_err(unusable)?))),
            false => Err(changed()),
        }
    }

    fn words(&self, name: &str) -> Result<Option<String>, FolderError> {
        let Some(bytes) = self.folder.read(name, Privacy::Unwritable)? else { return Ok(None) };
        let words = bytes.split_first_chunk::<MAC>().and_then(|(mac, words)| {
            let is_right = self.hasher(name).update(words).finalize() == blake3::Hash::from_bytes(*mac);
            is_right.then(|| String::from_utf8(words.to_vec()).ok()).flatten()
        });
        words.map(Some).ok_or_else(|| Distrust::Changed { path: self.folder.path_of(name) }.into())
    }

    /// Over the name too: code of one module under the name of another is as bad as a changed one.
    fn hasher(&self, name: &str) -> blake3::Hasher {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
        hasher
    }
}

/// This user's key, made if there is none.
fn key(secrets: &Folder) -> Result<[u8; blake3::KEY_LEN], FolderError> {
    let path = secrets.path_of(KEY);
    let unusable = |source| FolderError::Unusable { path: path.clone(), source };
    let bytes = match secrets.read(KEY, Privacy::Secret)? {
        Some(bytes) => bytes,
        None => {
            let mut fresh = [0; blake3::KEY_LEN];
            getrandom::fill(&mut fresh).map_err(|error| unusable(std::io::Error::other(error.to_string())))?;
            secrets.write_first(KEY, &fresh).map_err(unusable)?;
            secrets.read(KEY, Privacy::Secret)?.unwrap_or_default()
        }
    };
    bytes.try_into().map_err(|_| Distrust::Kind { path: path.clone() }.into())
}
