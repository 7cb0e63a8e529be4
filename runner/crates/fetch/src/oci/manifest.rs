//! Manifests and indexes (OCI image specification 1.1; Docker's, which have the same members). Pure.

use std::{collections::BTreeMap, env::consts::ARCH};

use serde::Deserialize;

use super::OciError;
use contract::Digest;

/// The accepted types of manifests.
pub(super) const MANIFEST_MEDIA_TYPES: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";
/// The most layers of an image; Docker's limit is 127.
const MAX_LAYERS: usize = 500;

/// A layer of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OciLayer {
    pub digest: Digest,
    /// Its bytes in the registry.
    pub size: u64,
    /// The name that says its format, or one without.
    pub name: String,
}

/// What a manifest leads to.
#[derive(Debug)]
pub(super) enum ManifestContent {
    Layers(Vec<OciLayer>),
    Index(Vec<OciContentDescriptor>),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct OciContentManifest {
    #[serde(default)]
    layers: Option<Vec<OciContentDescriptor>>,
    #[serde(default)]
    manifests: Option<Vec<OciContentDescriptor>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OciContentDescriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    platform: Option<OciPlatform>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
struct OciPlatform {
    architecture: String,
    os: String,
}

impl ManifestContent {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, OciError> {
        let manifest: OciContentManifest =
            serde_json::from_slice(bytes).map_err(|error| OciError::Unsupported(error.to_string()))?;
        let OciContentManifest { layers, manifests } = manifest;
        match (layers, manifests) {
            (Some(layers), None) if layers.len() <= MAX_LAYERS => {
                Ok(Self::Layers(layers.iter().map(OciContentDescriptor::layer).collect::<Result<_, _>>()?))
            }
            (None, Some(manifests)) => Ok(Self::Index(manifests)),
            (Some(layers), None) => {
                Err(OciError::Unsupported(format!("it has {} layers; the limit is {MAX_LAYERS}", layers.len())))
            }
            (Some(_), Some(_)) => Err(OciError::Unsupported("it is both a manifest and an index".to_owned())),
            (None, None) => Err(OciError::Unsupported("it has no layers".to_owned())),
        }
    }
}

impl OciContentDescriptor {
    fn digest(&self) -> Result<Digest, OciError> {
        let digest = self.digest.strip_prefix("sha256:").and_then(|_| self.digest.parse().ok());
        digest.ok_or_else(|| OciError::Unsupported(format!("`{}` is not a SHA-256 digest", self.digest)))
    }

    fn layer(&self) -> Result<OciLayer, OciError> {
        if self.media_type.contains("encrypted") {
            return Err(OciError::Unsupported(format!("a layer is encrypted ({})", self.media_type)));
        }
        let of_type = match self.media_type.rsplit(['.', '+']).next() {
            Some("gzip") => "layer.tar.gz",
            Some("zstd") => "layer.tar.zst",
            Some("tar") => "layer.tar",
            Some(_) | None => "layer",
        };
        let title = self.annotations.get("org.opencontainers.image.title");
        Ok(OciLayer {
            digest: self.digest()?,
            size: self.size,
            name: title.map_or_else(|| of_type.to_owned(), Clone::clone),
        })
    }
}

/// The manifest of an index that is for this machine: the one of its architecture, or the only one.
pub(super) fn for_this_machine(manifests: &[OciContentDescriptor]) -> Result<Digest, OciError> {
    let architecture = match ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    };
    let fits = |platform: &OciPlatform| platform.os == "linux" && platform.architecture == architecture;
    let found = manifests.iter().find(|manifest| manifest.platform.as_ref().is_some_and(fits));
    // What builders add about an image has an unknown platform.
    let is_content = |manifest: &&OciContentDescriptor| manifest.platform.as_ref().is_none_or(|it| it.os != "unknown");
    let contents: Vec<_> = manifests.iter().filter(is_content).collect();
    match (found, contents.as_slice()) {
        (Some(found), _) => found.digest(),
        (None, [only]) if only.platform.is_none() => only.digest(),
        (None, _) => Err(OciError::Unsupported(format!("its index has no image for linux/{architecture}"))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn digest(digit: char) -> String {
        format!("sha256:{}", String::from(digit).repeat(64))
    }

    #[test]
    fn layers_have_names_that_say_their_format() {
        let layer = |kind: &str| json!({"mediaType": kind, "digest": digest('a'), "size": 7});
        let mut titled = layer("application/vnd.acme.release");
        titled["annotations"] = json!({"org.opencontainers.image.title": "shop-r1.tar.zst"});
        let manifest = json!({"schemaVersion": 2, "layers": [
            layer("application/vnd.oci.image.layer.v1.tar+gzip"), layer("application/vnd.oci.image.layer.v1.tar+zstd"),
            layer("application/vnd.oci.image.layer.v1.tar"), layer("application/vnd.docker.image.rootfs.diff.tar.gzip"),
            layer("application/octet-stream"), titled,
        ]});
        let Ok(ManifestContent::Layers(layers)) = ManifestContent::parse(manifest.to_string().as_bytes()) else {
            panic!("{manifest}")
        };
        let names: Vec<_> = layers.iter().map(|layer| layer.name.as_str()).collect();
        let expected = ["layer.tar.gz", "layer.tar.zst", "layer.tar", "layer.tar.gz", "layer", "shop-r1.tar.zst"];
        assert_eq!(names, expected);
    }

    #[test]
    fn other_manifests_are_refused() {
        for (manifest, why) in [
            (json!({"layers": [{"mediaType": "x", "digest": "sha512:00", "size": 1}]}), "not a SHA-256 digest"),
            (json!({"layers": [{"mediaType": "x+encrypted", "digest": digest('a'), "size": 1}]}), "encrypted"),
            (json!({"layers": [], "manifests": []}), "both"),
            (json!({"schemaVersion": 1, "fsLayers": []}), "no layers"),
            (json!("x"), "invalid type"),
        ] {
            let error = ManifestContent::parse(manifest.to_string().as_bytes()).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn index_leads_to_the_image_of_this_machine() {
        let image = |digit: char, os: &str, architecture: &str| json!({"digest": digest(digit), "platform": {"os": os, "architecture": architecture}});
        let chosen = |manifests: serde_json::Value| {
            let text = json!({"manifests": manifests}).to_string();
            let Ok(ManifestContent::Index(manifests)) = ManifestContent::parse(text.as_bytes()) else {
                panic!("{text}")
            };
            for_this_machine(&manifests).map(|digest| digest.to_string())
        };
        let own = [image('a', "linux", "amd64"), image('a', "linux", "arm64"), image('a', "linux", "riscv64")];
        let rest = [image('b', "windows", "amd64"), image('c', "linux", "s390x"), image('d', "unknown", "unknown")];
        assert_eq!(chosen(rest.iter().chain(&own).cloned().collect()), Ok(digest('a')));
        assert!(chosen(rest.to_vec().into()).unwrap_err().to_string().contains("no image for linux/"));
        assert_eq!(chosen(json!([{"digest": digest('e')}])), Ok(digest('e')));
    }
}
