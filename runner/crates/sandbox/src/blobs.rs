//! The capability `blobs`: opens sources, which the native pipeline in [`archive`] reads.
//!
//! Invariants: bytes never enter the sandbox. A source without an expected digest is not opened. When a call is
//! cancelled, its blocking work is stopped and cleans up. Deliberately absent: formats and limits; see [`archive`].

use std::{
    io::{self, Read},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use cap_std::fs::Dir;
use serde::Deserialize;
use url::Url;
use wasmtime::component::Resource;

use super::{
    bindings::{HostError, blobs},
    download_reader::{report_kept, spawn_download_reader},
    failure,
    gate::{CapabilityGate, ContentSource},
    host::HostState,
    kept_download::KeptDownload,
    log::GuestLog,
    registry_content::{self, RegistryContent},
};
use contract::{
    Digest,
    step::{FailureKind, StepFailure, StepProgress},
};
use fetch::{
    archive::{self, ArchiveError, ArchiveLimits, DecodedArchive, UnpackJob, UnpackSummary},
    net::{self, Download, NetRequest},
    oci::{OciError, OciLayer},
};
use hostio::{blocking::run_blocking, confined_path::open_regular_file};

/// The interval of an archive's progress events.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// The most bytes of a checksum file that are read.
const MAX_CHECKSUM_FILE_BYTES: u64 = 1 << 20;

/// An opened, unread source.
pub struct OpenBlob {
    content: BlobContent,
    /// The last part of the path, which may show the format.
    name: String,
    digest: Digest,
    size: Option<u64>,
    /// What the archive was, if the content is its tar.
    decoded: Option<DecodedArchive>,
}

enum BlobContent {
    File(cap_std::fs::File),
    Download(Box<Download>, Option<KeptDownload>),
    Layers(RegistryContent),
}

/// Converts an extraction error. A network error inside it is more precise.
fn unpack_failure(gate: &CapabilityGate, error: ArchiveError) -> StepFailure {
    if let Some(inner) = source_error(&error) {
        if let Some(fault) = inner.downcast_ref::<net::NetError>() {
            return gate.network_failure(fault.clone());
        }
        if let Some(fault) = inner.downcast_ref::<OciError>() {
            return gate.registry_failure(fault.clone());
        }
    }
    error.into()
}

/// The error of the source, inside that of an extraction.
fn source_error(error: &ArchiveError) -> Option<&(dyn std::error::Error + Send + Sync + 'static)> {
    let ArchiveError::Source(source) = error else { return None };
    source.get_ref()
}

/// The published digest of a source, or for a file without one, the digest of its content.
pub(super) async fn resolve_digest(gate: &CapabilityGate, source: &str) -> Result<Digest, StepFailure> {
    match gate.parse_source(source)? {
        ContentSource::File { dir, path } => {
            let (folder, name) = path.rsplit_once('/').unwrap_or((".", &path));
            for (list, is_single) in [(format!("{path}.sha256"), true), (format!("{folder}/SHA256SUMS"), false)] {
                match read_checksum_file(dir, &list) {
                    Ok(text) => {
                        if let Some(digest) = find_checksum(&text, name, is_single, &list)? {
                            return Ok(digest);
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(gate.open_failure(source, &error)),
                }
            }
            let file = open_regular_file(dir, &path).map_err(|error| gate.open_failure(source, &error))?;
            let digest = run_blocking(move |_| archive::digest(file)).await?;
            digest.map_err(|error| failure(FailureKind::Transient, format!("can't read {path}: {error}")))
        }
        ContentSource::Oci(reference) => {
            gate.repository(reference).resolve().await.map_err(|error| gate.registry_failure(error))
        }
        ContentSource::Url(url) => {
            let name = url.path_segments().and_then(Iterator::last).unwrap_or_default().to_owned();
            let mut sidecar_url = url.clone();
            sidecar_url.set_path(&format!("{}.sha256", url.path()));
            let sums_url =
                url.join("SHA256SUMS").map_err(|error| failure(FailureKind::InvalidConfig, error.to_string()))?;
            for (list, is_of_one) in [(sidecar_url, true), (sums_url, false)] {
                let network = |error| gate.network_failure(error);
                let request = NetRequest::new("GET", list.as_str()).map_err(network)?;
                let response = gate.client().send(request).await.map_err(network)?;
                match response.status {
                    200 => {
                        let text = String::from_utf8_lossy(&response.body);
                        if let Some(digest) = find_checksum(&text, &name, is_of_one, list.as_str())? {
                            return Ok(digest);
                        }
                    }
                    404 | 403 | 410 => {}
                    status => {
                        let mut failure =
                            failure(FailureKind::Transient, format!("{list} answered with status {status}"));
                        failure.retryable = status >= 500 || status == 429;
                        return Err(failure);
                    }
                }
            }
            Err(failure(FailureKind::InvalidConfig, format!("the digest of {} is unknown", display_url(&url)))
                .with_hint("write `digest: sha256:…` next to `from`, or publish it as `<file>.sha256`"))
        }
    }
}

/// The text of a checksum file, up to a limit.
fn read_checksum_file(dir: &Dir, path: &str) -> io::Result<String> {
    let mut text = String::new();
    open_regular_file(dir, path)?.take(MAX_CHECKSUM_FILE_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// The digest of `name` in a `.sha256` file or a `sha256sum` list.
fn find_checksum(text: &str, name: &str, is_single: bool, list: &str) -> Result<Option<Digest>, StepFailure> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let entry = lines.find_map(|line| {
        let (digest, file) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let file = file.trim_start().trim_start_matches('*').trim_start_matches("./");
        (is_single || file == name).then_some(digest)
    });
    match entry {
        Some(digest) => {
            digest.parse().map(Some).map_err(|error| failure(FailureKind::BadContent, format!("{list}: {error}")))
        }
        None if is_single => Err(failure(FailureKind::BadContent, format!("{list} is empty"))),
        None => Ok(None),
    }
}

/// A URL for people, without its query, which may be signed.
fn display_url(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.to_string()
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct UnpackOptions {
    max_files: Option<u64>,
    max_bytes: Option<u64>,
    max_ratio: Option<u64>,
    max_path: Option<usize>,
    /// Whether it is an image, whose layers are the folder.
    rootfs: bool,
}

impl UnpackOptions {
    fn limits(&self) -> ArchiveLimits {
        let defaults = ArchiveLimits::default();
        ArchiveLimits {
            max_files: self.max_files.unwrap_or(defaults.max_files),
            max_bytes: self.max_bytes.unwrap_or(defaults.max_bytes),
            max_ratio: self.max_ratio.unwrap_or(defaults.max_ratio),
            max_path_bytes: self.max_path.unwrap_or(defaults.max_path_bytes),
        }
    }
}

/// Refuses what certainly does not fit on the disk: content is at least as large as its archive.
fn check_room(into: &Dir, dir: &str, size: Option<u64>) -> Result<(), StepFailure> {
    let (Some(size), Ok(room)) = (size, rustix::fs::fstatvfs(into)) else { return Ok(()) };
    let free = room.f_bavail.saturating_mul(room.f_frsize);
    if size <= free {
        return Ok(());
    }
    let message = format!(
        "the disk of directory `{dir}` has {free} bytes free, but the release needs {size} even before it is unpacked"
    );
    Err(failure(FailureKind::Permanent, message)
        .with_hint("make room there, such as with `runner prune`, then run again"))
}

fn byte_progress_reporter(log: GuestLog, name: String, total: Option<u64>) -> impl Fn(u64) + Sync {
    let last = Mutex::new(None::<Instant>);
    move |done| {
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| last.elapsed() >= PROGRESS_INTERVAL) {
            *last = Some(Instant::now());
            log.send(StepProgress::Meter { task: name.clone(), done, total, unit: "bytes".to_owned() });
        }
    }
}

fn counts(UnpackSummary { files, bytes, archive_bytes }: UnpackSummary) -> String {
    serde_json::json!({ "files": files, "bytes": bytes, "archive-bytes": archive_bytes }).to_string()
}

impl HostState {
    /// Ends an extraction of contents with these digests, of which so many bytes came from an earlier attempt. What was downloaded stays only
    /// if it may be right, and is needed again.
    fn conclude_unpack(
        &self,
        unpacked: Result<UnpackSummary, ArchiveError>,
        digests: &[Digest],
        kept_bytes: u64,
    ) -> Result<String, StepFailure> {
        if unpacked.as_ref().err().is_none_or(disproves_content) {
            digests.iter().for_each(|digest| self.downloads.remove(digest));
        }
        unpacked.map(counts).map_err(|error| {
            let may_be_kept = kept_bytes > 0 && error.kind() == FailureKind::BadContent;
            let failed = unpack_failure(&self.gate, error);
            if !may_be_kept {
                return failed;
            }
            // The server's content may be right: a power loss may have damaged what was kept.
            let message = format!("{}; an earlier attempt had received {kept_bytes} bytes of it", failed.message);
            failure(FailureKind::Transient, message)
                .with_hint("run again: the runner has removed these bytes, and downloads everything")
        })
    }
}

/// Whether an error says that the content is not the wanted one.
fn disproves_content(error: &ArchiveError) -> bool {
    let network_error = || source_error(error).and_then(|inner| inner.downcast_ref::<net::NetError>());
    error.kind() == FailureKind::BadContent || matches!(network_error(), Some(net::NetError::ContentChanged { .. }))
}

impl blobs::Host for HostState {
    async fn resolve(&mut self, source: String) -> Result<String, HostError> {
        Ok(resolve_digest(&self.gate, &source).await?.to_string())
    }

    async fn fetch(&mut self, source: String, digest: String) -> Result<Resource<OpenBlob>, HostError> {
        let digest = digest.parse().map_err(|error| failure(FailureKind::InvalidConfig, format!("{error}")))?;
        let blob = match self.gate.parse_source(&source)? {
            ContentSource::Oci(reference) => {
                self.downloads.remove_old();
                let content = RegistryContent::find(self.gate.repository(reference), &digest).await;
                let content = content.map_err(|error| self.gate.registry_failure(error))?;
                let size = Some(content.size());
                OpenBlob { content: BlobContent::Layers(content), name: source, digest, size, decoded: None }
            }
            ContentSource::File { dir, path } => {
                let file = open_regular_file(dir, &path).map_err(|error| self.gate.open_failure(&source, &error))?;
                let size = file.metadata().ok().map(|metadata| metadata.len());
                let host_path = source.strip_prefix("file:").and_then(|text| self.gate.host_path(text));
                let decoded = host_path.and_then(|path| self.decoded_archives.get(&path));
                OpenBlob { content: BlobContent::File(file), name: path, digest, size, decoded }
            }
            ContentSource::Url(url) => {
                self.downloads.remove_old();
                let mut kept = self.downloads.open(&digest);
                let offset = kept.as_ref().map_or(0, KeptDownload::len);
                let opened = self.gate.client().open_download(&url, offset).await;
                let download = opened.map_err(|error| self.gate.network_failure(error))?;
                let size = download.size();
                if let Some(kept) = &mut kept {
                    kept.fit_to_room(size);
                }
                report_kept(offset, size, url.path(), &self.log);
                OpenBlob {
                    content: BlobContent::Download(Box::new(download), kept),
                    name: url.path().to_owned(),
                    digest,
                    size,
                    decoded: None,
                }
            }
        };
        Ok(self.table.push(blob)?)
    }

    async fn unpack(
        &mut self,
        blob: Resource<OpenBlob>,
        dir: String,
        path: String,
        options: String,
    ) -> Result<String, HostError> {
        let options: UnpackOptions = super::parse_options("an archive", &options)?;
        let limits = options.limits();
        let target_dir = self.gate.writable_dir(&dir)?.try_clone();
        let into =
            target_dir.map_err(|error| failure(FailureKind::Permanent, format!("directory `{dir}`: {error}")))?;
        let OpenBlob { content, name, digest, size, decoded } = self.table.delete(blob)?;
        check_room(&into, &dir, size)?;
        let progress = byte_progress_reporter(self.log.clone(), name.clone(), size);
        let (_arrival, source, name, digest, kept_bytes): (_, Box<dyn Read + Send>, _, _, _) = match content {
            BlobContent::Layers(content) if options.rootfs => {
                let (_arrival, source, layers) = content.into_layers(&self.downloads, name, self.log.clone());
                let digests: Vec<_> = layers.iter().map(|layer| layer.digest.clone()).collect();
                let kept_bytes = source.kept_bytes();
                let unpacked = run_blocking(move |stop| {
                    let job = UnpackJob {
                        name: "",
                        expected: &digest,
                        decoded: None,
                        limits: &limits,
                        stop: &stop,
                        progress: &progress,
                    };
                    archive::unpack_layers(source, &registry_content::image_layers(&layers), &job, &into, &path)
                });
                let unpacked = unpacked.await?;
                return Ok(self.conclude_unpack(unpacked, &digests, kept_bytes)?);
            }
            _ if options.rootfs => {
                let message = format!("`rootfs` needs an image in a registry, but the source is `{name}`");
                return Err(failure(FailureKind::InvalidConfig, message).into());
            }
            BlobContent::Layers(content) => {
                let content = content.only_layer().map_err(|error| self.gate.registry_failure(error))?;
                let (arrival, source, layers) = content.into_layers(&self.downloads, name, self.log.clone());
                let OciLayer { name, digest, .. } = layers.into_iter().next().expect("it has one layer");
                let kept_bytes = source.kept_bytes();
                (Some(arrival), Box::new(source), name, digest, kept_bytes)
            }
            BlobContent::File(file) => (None, Box::new(file), name, digest, 0),
            BlobContent::Download(download, kept) => {
                let (arrival, source) = spawn_download_reader(download, kept, name.clone(), self.log.clone());
                let kept_bytes = source.kept_bytes();
                (Some(arrival), Box::new(source), name, digest, kept_bytes)
            }
        };
        let digests = vec![digest.clone()];
        let unpacked = run_blocking(move |stop| {
            let (expected, decoded) = (&digest, decoded.as_ref());
            let job = UnpackJob { name: &name, expected, decoded, limits: &limits, stop: &stop, progress: &progress };
            archive::unpack(source, &job, &into, &path)
        });
        let unpacked = unpacked.await?;
        Ok(self.conclude_unpack(unpacked, &digests, kept_bytes)?)
    }

    async fn compare(&mut self, dir: String, path: String) -> Result<Vec<String>, HostError> {
        let dir_handle = self.gate.dir(&dir)?.try_clone();
        let within =
            dir_handle.map_err(|error| failure(FailureKind::Permanent, format!("directory `{dir}`: {error}")))?;
        Ok(run_blocking(move |_| archive::compare(&within, &path)).await?.map_err(StepFailure::from)?)
    }

    async fn remove(&mut self, dir: String, path: String) -> Result<(), HostError> {
        let dir_handle = self.gate.writable_dir(&dir)?.try_clone();
        let within =
            dir_handle.map_err(|error| failure(FailureKind::Permanent, format!("directory `{dir}`: {error}")))?;
        Ok(run_blocking(move |_| archive::remove(&within, &path)).await?.map_err(StepFailure::from)?)
    }
}

impl blobs::HostBlob for HostState {
    async fn digest(&mut self, blob: Resource<OpenBlob>) -> wasmtime::Result<String> {
        Ok(self.table.get(&blob)?.digest.to_string())
    }

    async fn drop(&mut self, blob: Resource<OpenBlob>) -> wasmtime::Result<()> {
        self.table.delete(blob)?;
        Ok(())
    }
}
