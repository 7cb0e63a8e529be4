//! What is kept of third-party modules from run to run: their compiled code, and downloads.
//!
//! A download is named by its digest, which is compared whenever it is read.
//! Precompiled code is native code without an integrity check, so it comes from this user's runner or not at all: a file
//! is read as a whole, its owner and mode are looked at, and its MAC is right; only then is it [`Verified`]. The key lies
//! in another folder, so that a folder that was restored from somewhere, such as a CI's cache, is worth nothing.
//! Deliberately absent: compiling, and running what was read.

use std::{path::Path, sync::OnceLock};

use sha2::{Digest as _, Sha256};

use super::{
    Places, Tell,
    folder::{Distrust, Folder, FolderError, Privacy},
    registry::{Layer, Registry, RegistryError},
};
use crate::{
    diagnose::Notice,
    plan::{Digest, RegistryRef},
};

const KEY: &str = "module-key";
const MAC: usize = blake3::OUT_LEN;
/// The folder may become so large, in bytes.
const MOST: u64 = 1 << 30;

/// Bytes that this user's runner made: their MAC was right.
pub(in crate::sandbox) struct Verified(Vec<u8>);

impl Verified {
    /// The compiled code.
    pub(in crate::sandbox) fn code(&self) -> &[u8] {
        &self.0[MAC..]
    }
}

/// Where compiled code and downloaded modules are kept. Nothing is made before it is needed.
pub(in crate::sandbox) struct Cache {
    places: Places,
    tell: Tell,
    open: OnceLock<Option<Kept>>,
}

struct Kept {
    folder: Folder,
    key: [u8; blake3::KEY_LEN],
}

impl Cache {
    pub(in crate::sandbox) fn new(places: Places, tell: Tell) -> Self {
        Self { places, tell, open: OnceLock::new() }
    }

    /// The compiled code under a name, if there is some that can be trusted. `module` is named in warnings.
    pub(in crate::sandbox) fn get(&self, name: &str, module: &str) -> Option<Verified> {
        let kept = self.open()?;
        let verified = kept.folder.read(name, Privacy::Unwritable).and_then(|bytes| {
            let Some(bytes) = bytes else { return Ok(None) };
            let is_right = bytes
                .split_first_chunk::<MAC>()
                .is_some_and(|(mac, code)| kept.mac(name, code) == blake3::Hash::from_bytes(*mac));
            match is_right {
                true => Ok(Some(Verified(bytes))),
                false => Err(Distrust::Changed { path: kept.folder.path_of(name) }.into()),
            }
        });
        verified.unwrap_or_else(|error| {
            self.say_unused(module, &error);
            None
        })
    }

    /// Says that kept code is not used, and that this is no fault of the deployment.
    pub(in crate::sandbox) fn say_unused(&self, module: &str, why: &dyn std::fmt::Display) {
        (self.tell)(Notice::warning(format!("module {module} is compiled again, its kept code is not used: {why}")));
    }

    /// Keeps compiled code under a name.
    pub(in crate::sandbox) fn put(&self, name: &str, code: &[u8]) {
        let Some(kept) = self.open() else { return };
        let mac = kept.mac(name, code);
        let written = kept.folder.write(name, &[mac.as_bytes(), code]).and_then(|()| kept.folder.shrink(MOST));
        if let Err(error) = written {
            self.say_not_kept(&FolderError::Unusable { path: kept.folder.path_of(name), source: error });
        }
    }

    /// The bytes of a module in a registry: those that were kept, else fetched, and kept.
    pub(in crate::sandbox) async fn fetch(&self, reference: &RegistryRef) -> Result<Vec<u8>, RegistryError> {
        let registry = Registry::new(reference, self.places.credentials.as_deref());
        let manifest = match self.content(&reference.digest, "json") {
            Some(manifest) => manifest,
            None => {
                let manifest = registry.manifest().await?;
                self.put_content(&reference.digest, "json", &manifest);
                manifest
            }
        };
        let layer = Layer::of(&manifest)?;
        if let Some(module) = self.content(&layer.digest, "wasm") {
            return Ok(module);
        }
        let module = registry.layer(&layer).await?;
        self.put_content(&layer.digest, "wasm", &module);
        Ok(module)
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

    /// Over the name too: code of one module under the name of another is as bad as a changed one.
    fn mac(&self, name: &str, code: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes()).update_rayon(code);
        hasher.finalize()
    }
}

/// This user's key, made if there is none.
fn key(secrets: &Folder) -> Result<[u8; blake3::KEY_LEN], FolderError> {
    let path = secrets.path_of(KEY);
    let unusable = |source| FolderError::Unusable { path: path.clone(), source };
    if secrets.read(KEY, Privacy::Secret)?.is_none() {
        let mut fresh = [0; blake3::KEY_LEN];
        getrandom::fill(&mut fresh).map_err(|error| unusable(std::io::Error::other(error.to_string())))?;
        secrets.write_first(KEY, &fresh).map_err(unusable)?;
    }
    let bytes = secrets.read(KEY, Privacy::Secret)?.unwrap_or_default();
    bytes.try_into().map_err(|_| Distrust::Kind { path: path.clone() }.into())
}
