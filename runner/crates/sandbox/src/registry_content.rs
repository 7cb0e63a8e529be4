//! The layers of an artifact or an image, on their way from a registry to a folder.
//!
//! Invariant: one task downloads them one after the other, and ends with the call; a part of the next layer waits while the one before is
//! extracted. Deliberately absent: what a layer is; see [`archive`](fetch::archive) and [`oci`](fetch::oci).

use std::{
    io::{self, Read},
    sync::Arc,
};

use tokio::sync::mpsc;

use super::{
    download_reader::{DownloadReader, DownloadTask, report_interruption, report_kept},
    kept_download::{KeptDownload, KeptDownloads},
    log::GuestLog,
};
use contract::Digest;
use fetch::{
    archive::{ImageLayer, LayerSource},
    oci::{LayerOrder, OciDownload, OciError, OciLayer, OciRepository},
};

/// The most chunks that wait to be extracted.
const MAX_WAITING_CHUNKS: usize = 16;

/// What a manifest leads to.
pub(super) struct RegistryContent {
    repository: Arc<OciRepository>,
    layers: Vec<OciLayer>,
}

impl RegistryContent {
    pub(super) async fn find(repository: OciRepository, digest: &Digest) -> Result<Self, OciError> {
        let layers = repository.layers(digest).await?;
        Ok(Self { repository: Arc::new(repository), layers })
    }

    /// Its bytes in the registry.
    pub(super) fn size(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).fold(0, u64::saturating_add)
    }

    /// An artifact, whose only layer is the archive.
    pub(super) fn only_layer(self) -> Result<Self, OciError> {
        match self.layers.len() {
            1 => Ok(self),
            count => {
                Err(OciError::Unsupported(format!("it has {count} layers; a release archive must be the only layer")))
            }
        }
    }

    /// Begins to download what is not kept. Errors come from the source.
    pub(super) fn into_layers(
        self,
        downloads: &KeptDownloads,
        name: String,
        log: GuestLog,
    ) -> (DownloadTask, RegistryReader, Vec<OciLayer>) {
        let (sender, chunks) = mpsc::channel(MAX_WAITING_CHUNKS);
        let size = self.size();
        let Self { repository, layers } = self;
        let kept: Vec<_> = layers.iter().map(|layer| open_kept(downloads, layer, size)).collect();
        let kept_bytes = |kept: &Option<KeptDownload>| kept.as_ref().map_or(0, KeptDownload::len);
        let wanted: Vec<_> = layers.iter().cloned().zip(kept.iter().map(kept_bytes)).collect();
        report_kept(kept.iter().map(kept_bytes).sum(), Some(size), &name, &log);
        let task = tokio::spawn(async move {
            let mut order = LayerOrder::First;
            for (layer, offset) in &wanted {
                let is_there = if *offset == layer.size {
                    sender.send(Ok(None)).await.is_ok()
                } else {
                    send_layer(repository.open(layer, *offset, order).await, &sender, &name, &log).await
                };
                if !is_there {
                    return;
                }
                order = LayerOrder::Later;
            }
        });
        (DownloadTask(task), RegistryReader(DownloadReader::new(chunks, kept)), layers)
    }
}

/// What is kept of a layer, whose image has this size.
fn open_kept(downloads: &KeptDownloads, layer: &OciLayer, size: u64) -> Option<KeptDownload> {
    let mut kept = downloads.open(&layer.digest)?;
    kept.fit_to_room(Some(size));
    (kept.len() <= layer.size).then_some(kept)
}

/// The layers for extraction.
pub(super) fn image_layers(layers: &[OciLayer]) -> Vec<ImageLayer<'_>> {
    layers.iter().map(|layer| ImageLayer { digest: &layer.digest, name: &layer.name }).collect()
}

/// Passes on a layer and its end. Returns whether there is a reader for the next.
async fn send_layer(
    opened: Result<OciDownload, OciError>,
    sender: &mpsc::Sender<io::Result<Option<Vec<u8>>>>,
    name: &str,
    log: &GuestLog,
) -> bool {
    let mut download = match opened {
        Ok(download) => download,
        Err(error) => {
            // The reader may have gone, and then nobody wants to know.
            let _ = sender.send(Err(io::Error::other(error))).await;
            return false;
        }
    };
    let mut reported = 0;
    loop {
        let chunk = download.next_chunk().await;
        report_interruption(download.take_interruption(), &mut reported, name, log);
        let (is_end, is_error) = (matches!(chunk, Ok(None)), chunk.is_err());
        if sender.send(chunk.map_err(io::Error::other)).await.is_err() || is_error {
            return false;
        }
        if is_end {
            return true;
        }
    }
}

/// The contents of the layers.
pub(super) struct RegistryReader(DownloadReader);

impl RegistryReader {
    /// How many bytes come from an earlier attempt.
    pub(super) fn kept_bytes(&self) -> u64 {
        self.0.kept_bytes()
    }
}

impl Read for RegistryReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl LayerSource for RegistryReader {
    fn begin_layer(&mut self) {
        self.0.begin_next();
    }
}
