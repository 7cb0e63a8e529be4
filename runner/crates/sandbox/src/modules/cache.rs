//! The cache of third-party modules: compiled code, descriptions and downloads.
//!
//! A download is named by its digest, which is verified at every read. Precompiled code is native code without an
//! integrity check, so it must come from this user's runner: the file's owner and mode are checked, it is copied into
//! immutable memory, and its MAC must be valid; only then is it [`VerifiedCode`]. The key is in another folder, so that
//! a folder restored from elsewhere, such as a CI's cache, is useless. Deliberately absent: compiling, and running the
//! code.

use std::{
    io::{self, ErrorKind, Read as _},
    path::Path,
    sync::OnceLock,
};

use memmap2::{Mmap, MmapMut};
use sha2::{Digest as _, Sha256};

use super::{
    NoticeHandler, UserPaths,
    private_dir::{FilePrivacy, PrivateDir, PrivateDirError, UntrustedFileError},
};
use contract::{Digest, diagnostic::Notice};
use fetch::registry::{ModuleLayer, RegistryClient, RegistryError};
use plan::RegistryRef;

const KEY_FILE: &str = "module-key";
const MAC_BYTES: usize = blake3::OUT_LEN;
/// The size of one read, in bytes.
const READ_CHUNK_BYTES: usize = 1 << 20;
/// The largest size of the cache, in bytes.
const MAX_CACHE_BYTES: u64 = 1 << 30;

/// Compiled code with a valid MAC of this user's runner, in read-only memory of this process.
pub(crate) struct VerifiedCode(pub(crate) Mmap);

/// The cache of compiled code and downloads. It creates nothing before it is needed.
pub(crate) struct ModuleCache {
    paths: UserPaths,
    notify: NoticeHandler,
    storage: OnceLock<Option<ModuleCacheStorage>>,
}

struct ModuleCacheStorage {
    dir: PrivateDir,
    key: [u8; blake3::KEY_LEN],
}

impl ModuleCache {
    pub(crate) fn new(paths: UserPaths, notify: NoticeHandler) -> Self {
        Self { paths, notify, storage: OnceLock::new() }
    }

    /// The user's folder for what can be downloaded again.
    pub(crate) fn cache_dir(&self) -> Option<&Path> {
        self.paths.cache_dir.as_deref()
    }

    /// The trusted compiled code under a name, if any. `module` is for warnings.
    pub(crate) fn verified_code(&self, name: &str, module: &str) -> Option<VerifiedCode> {
        let storage = self.open_storage()?;
        let verified = storage.read_verified_code(name);
        verified.unwrap_or_else(|error| {
            self.warn_code_unused(module, &error);
            None
        })
    }

    /// Warns that cached code is not used, although the deployment is fine.
    pub(crate) fn warn_code_unused(&self, module: &str, why: &dyn std::fmt::Display) {
        (self.notify)(Notice::warning(format!(
            "recompiling module {module}: the runner can't use the cached code: {why}"
        )));
    }

    /// Stores compiled code or a description under a name.
    pub(crate) fn store_entry(&self, name: &str, code: &[u8]) {
        let Some(storage) = self.open_storage() else { return };
        let mac = storage.entry_hasher(name).update_rayon(code).finalize();
        let written = storage
            .dir
            .replace_file(name, &[mac.as_bytes(), code])
            .and_then(|()| storage.dir.evict_to_size(MAX_CACHE_BYTES));
        if let Err(error) = written {
            self.notify_not_cached(&PrivateDirError::Io { path: storage.dir.file_path(name), source: error });
        }
    }

    /// The trusted description under a name, if any.
    pub(crate) fn description(&self, name: &str, module: &str) -> Option<String> {
        let words = self.open_storage()?.read_verified_text(name);
        words.unwrap_or_else(|error| {
            let message = format!(
                "asking module {module} for its description again: the runner can't use the cached one: {error}"
            );
            (self.notify)(Notice::warning(message));
            None
        })
    }

    /// The digest of a registry's module, from its manifest.
    pub(crate) async fn resolve_layer(&self, reference: &RegistryRef) -> Result<ModuleLayer, RegistryError> {
        if let Some(manifest) = self.cached_download(&reference.digest, "json") {
            return ModuleLayer::from_manifest(&manifest);
        }
        let manifest = self.registry_client(reference).fetch_manifest().await?;
        let layer = ModuleLayer::from_manifest(&manifest)?;
        self.store_download(&reference.digest, "json", &manifest);
        Ok(layer)
    }

    /// The bytes of a module, from the cache or else from the registry.
    pub(crate) async fn module_bytes(
        &self,
        reference: &RegistryRef,
        layer: &ModuleLayer,
    ) -> Result<Vec<u8>, RegistryError> {
        if let Some(module) = self.cached_download(&layer.digest, "wasm") {
            return Ok(module);
        }
        let module = self.registry_client(reference).fetch_layer(layer).await?;
        self.store_download(&layer.digest, "wasm", &module);
        Ok(module)
    }

    fn registry_client<'a>(&'a self, reference: &'a RegistryRef) -> RegistryClient<'a> {
        RegistryClient::new(reference, self.paths.docker_config.as_deref())
    }

    /// A cached download, if its digest matches.
    fn cached_download(&self, digest: &Digest, kind: &str) -> Option<Vec<u8>> {
        let storage = self.open_storage()?;
        let name = format!("{}.{kind}", digest.hex());
        let read = storage.dir.read(&name, FilePrivacy::ReadableByOthers).and_then(|bytes| match bytes {
            Some(bytes) if Digest::from_bytes(Sha256::digest(&bytes).into()) != *digest => {
                Err(UntrustedFileError::Modified { path: storage.dir.file_path(&name) }.into())
            }
            bytes => Ok(bytes),
        });
        read.unwrap_or_else(|error| {
            (self.notify)(Notice::warning(format!(
                "downloading a module again: the runner can't use the cached copy: {error}"
            )));
            None
        })
    }

    fn store_download(&self, digest: &Digest, kind: &str, bytes: &[u8]) {
        let Some(storage) = self.open_storage() else { return };
        let name = format!("{}.{kind}", digest.hex());
        if let Err(source) = storage.dir.replace_file(&name, &[bytes]) {
            self.notify_not_cached(&PrivateDirError::Io { path: storage.dir.file_path(&name), source });
        }
    }

    fn open_storage(&self) -> Option<&ModuleCacheStorage> {
        let open = || {
            let (Some(cache), Some(state)) = (&self.paths.cache_dir, &self.paths.state_dir) else {
                let why = "set HOME, or XDG_CACHE_HOME and XDG_STATE_HOME";
                (self.notify)(Notice::note(format!("the runner does not cache compiled modules: {why}")));
                return None;
            };
            ModuleCacheStorage::open(cache, state).map_err(|error| self.notify_not_cached(&error)).ok()
        };
        self.storage.get_or_init(open).as_ref()
    }

    fn notify_not_cached(&self, error: &PrivateDirError) {
        let message = format!("the runner does not cache compiled modules: {error}");
        (self.notify)(match error {
            PrivateDirError::Untrusted(_) => Notice::warning(message),
            PrivateDirError::Io { .. } => Notice::note(message),
        });
    }
}

impl ModuleCacheStorage {
    fn open(cache: &Path, state: &Path) -> Result<Self, PrivateDirError> {
        let folder = PrivateDir::open(&cache.join("modules"))?;
        let state_dir = PrivateDir::open(state)?;
        Ok(Self { dir: folder, key: load_or_create_key(&state_dir)? })
    }

    /// The code in a file, if it exists and its MAC is valid. It is read once, so the checked bytes are the used ones.
    fn read_verified_code(&self, name: &str) -> Result<Option<VerifiedCode>, PrivateDirError> {
        let Some(mut file) = self.dir.open_file(name, FilePrivacy::ReadableByOthers)? else { return Ok(None) };
        let unusable = |source| self.dir.io_error(name, source);
        let changed = || PrivateDirError::from(UntrustedFileError::Modified { path: self.dir.file_path(name) });
        let unread = |error: io::Error| {
            if error.kind() == ErrorKind::UnexpectedEof { changed() } else { unusable(error) }
        };
        let mut mac = [0; MAC_BYTES];
        file.read_exact(&mut mac).map_err(unread)?;
        let length = file.metadata().map_err(unusable)?.len().saturating_sub(MAC_BYTES as u64).max(1);
        let mut memory =
            usize::try_from(length).map_err(io::Error::other).and_then(MmapMut::map_anon).map_err(unusable)?;
        // With pages of 4 KiB, half of the time would go into page faults.
        #[cfg(target_os = "linux")]
        let _ = memory.advise(memmap2::Advice::HugePage);
        let mut hasher = self.entry_hasher(name);
        for piece in memory.chunks_mut(READ_CHUNK_BYTES) {
            file.read_exact(piece).map_err(unread)?;
            // A large module uses all cores; for a small one, waking them costs more.
            match piece.len() == READ_CHUNK_BYTES {
                true => hasher.update_rayon(piece),
                false => hasher.update(piece),
            };
        }
        match hasher.finalize() == blake3::Hash::from_bytes(mac) {
            true => Ok(Some(VerifiedCode(memory.make_read_only().map_err(unusable)?))),
            false => Err(changed()),
        }
    }

    fn read_verified_text(&self, name: &str) -> Result<Option<String>, PrivateDirError> {
        let Some(bytes) = self.dir.read(name, FilePrivacy::ReadableByOthers)? else { return Ok(None) };
        let words = bytes.split_first_chunk::<MAC_BYTES>().and_then(|(mac, words)| {
            let is_right = self.entry_hasher(name).update(words).finalize() == blake3::Hash::from_bytes(*mac);
            is_right.then(|| String::from_utf8(words.to_vec()).ok()).flatten()
        });
        words.map(Some).ok_or_else(|| UntrustedFileError::Modified { path: self.dir.file_path(name) }.into())
    }

    /// The MAC also covers the name: one module's code under another's name is as bad as modified code.
    fn entry_hasher(&self, name: &str) -> blake3::Hasher {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
        hasher
    }
}

/// This user's key, created if missing.
fn load_or_create_key(state_dir: &PrivateDir) -> Result<[u8; blake3::KEY_LEN], PrivateDirError> {
    let path = state_dir.file_path(KEY_FILE);
    let unusable = |source| PrivateDirError::Io { path: path.clone(), source };
    let bytes = match state_dir.read(KEY_FILE, FilePrivacy::OwnerOnly)? {
        Some(bytes) => bytes,
        None => {
            let mut fresh = [0; blake3::KEY_LEN];
            getrandom::fill(&mut fresh).map_err(|error| unusable(std::io::Error::other(error.to_string())))?;
            state_dir.create_file_if_absent(KEY_FILE, &fresh).map_err(unusable)?;
            state_dir.read(KEY_FILE, FilePrivacy::OwnerOnly)?.unwrap_or_default()
        }
    };
    bytes.try_into().map_err(|_| UntrustedFileError::WrongFileType { path: path.clone() }.into())
}
