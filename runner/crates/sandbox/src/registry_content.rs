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
    download_reader::{DownloadReader, DownloadTask, report_interruption},
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

    /// Begins to download. Errors come from the source.
    pub(super) fn into_layers(self, name: String, log: GuestLog) -> (DownloadTask, RegistryReader, Vec<OciLayer>) {
        let (sender, chunks) = mpsc::channel(MAX_WAITING_CHUNKS);
        let Self { repository, layers } = self;
        let wanted = layers.clone();
        let task = tokio::spawn(async move {
            let mut order = LayerOrder::First;
            for layer in &wanted {
                if !send_layer(repository.open(layer, order).await, &sender, &name, &log).await {
                    return;
                }
                order = LayerOrder::Later;
            }
        });
        (DownloadTask(task), RegistryReader(DownloadReader::new(chunks)), layers)
    }
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
