//! Brings images into a container engine before anything is changed.
//!
//! Invariant: an image is named by its digest, so it is the same everywhere and can't change. When `apply` fails, no image is in the engine
//! that was not there before.
//!
//! Deliberately absent: removing images that nothing needs any more, which the engine's own `prune` does.

use pawl_engine::{Engine, Image, digest_of, parse_reference};
use pawl_step::secrets::Secret;
use pawl_step::{
    Capability, CapabilityNeed, Change, ChangeAction, DirectoryAccess, Failure, FailureKind, Finding, Input,
    ModuleDescription, Phase, ProbeSupport, Receipt, RerunSafety, Step, fs, log, time,
};
use serde::Deserialize;
use serde_json::{Map, Value};

/// The module `images`.
#[derive(Debug)]
pub struct ImagesStep;

/// The step's configuration, from `with:`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImagesConfig {
    /// The image.
    pub image: Option<String>,
    /// A file with images.
    pub file: Option<String>,
    /// The granted socket of the engine.
    pub engine: String,
    /// Labels that the images must have.
    #[serde(default)]
    pub label: Map<String, Value>,
    /// The granted secret for the registry.
    pub auth: Option<String>,
}

impl ImagesConfig {
    /// The images, in order.
    fn references(&self) -> Result<Vec<String>, Failure> {
        if let Some(image) = &self.image {
            return Ok(vec![parse_pinned(image)?]);
        }
        let file = self.file.as_deref().unwrap_or_default();
        let text = fs::read_text(file)?;
        let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
        let mut found: Vec<String> = Vec::new();
        for line in lines.filter(|line| !line.is_empty()) {
            let reference = parse_pinned(line).map_err(|failure| failure.context(file))?;
            if !found.contains(&reference) {
                found.push(reference);
            }
        }
        if found.is_empty() {
            return Err(Failure::bad_content(format!("{file} does not name an image")));
        }
        Ok(found)
    }

    fn engine(&self) -> Engine<'_> {
        Engine::new(&self.engine)
    }

    /// Why an image is not the one that was asked for; nothing if it is.
    fn difference(&self, reference: &str, image: &Image) -> Option<String> {
        let digest = digest_of(reference).unwrap_or_default();
        if !image.has_digest(digest) {
            return Some(format!("the engine has another content for {reference}: {}", image.digests.join(", ")));
        }
        let differs = |(name, wanted): (&String, &Value)| {
            let found = image.labels.get(name);
            let found_text = || found.and_then(Value::as_str).map_or("none".to_owned(), |found| format!("`{found}`"));
            (found != Some(wanted)).then(|| {
                let wanted = wanted.as_str().unwrap_or_default();
                format!("label `{name}` of {reference} must be `{wanted}`, but is {}", found_text())
            })
        };
        self.label.iter().find_map(differs)
    }

    /// The images that the engine does not have.
    fn missing(&self) -> Result<Vec<String>, Failure> {
        let engine = self.engine();
        let mut missing = Vec::new();
        for reference in self.references()? {
            match engine.image(&reference)? {
                Some(image) if self.difference(&reference, &image).is_none() => {}
                Some(_) | None => missing.push(reference),
            }
        }
        Ok(missing)
    }

    /// Brings one image into the engine. Returns whether it was not there before; `new` has each such one, also after a failure.
    fn bring(&self, reference: &str, new: &mut Vec<String>) -> Result<(), Failure> {
        let engine = self.engine();
        let mut found = engine.image(reference)?;
        if found.is_none() {
            log::info(format!("pulling {reference}"));
            new.push(reference.to_owned());
            engine.pull(reference, self.auth.as_deref().map(Secret::open).transpose()?)?;
            found = engine.image(reference)?;
        }
        let Some(image) = found else {
            return Err(Failure::permanent(format!("the engine has pulled {reference}, but does not list it")));
        };
        match self.difference(reference, &image) {
            None => Ok(()),
            Some(why) => Err(Failure::bad_content(why)
                .hint("build the image with this label, or correct `label`; check that the digest is the release's")),
        }
    }

    fn receipt(&self) -> Result<Receipt, Failure> {
        let references: Vec<Value> = self.references()?.into_iter().map(Value::from).collect();
        let only = if let [only] = references.as_slice() { only.clone() } else { Value::Null };
        Ok(Receipt::new().output("image", only).output("images", references))
    }
}

fn parse_pinned(text: &str) -> Result<String, Failure> {
    let reference = parse_reference(text)?;
    if digest_of(&reference).is_none() {
        return Err(Failure::invalid_config(format!("`{text}` has no digest, so it may become another image"))
            .hint("name it with the digest that the push has printed: `registry.example.com/shop@sha256:…`"));
    }
    Ok(reference)
}

impl Step for ImagesStep {
    type Config = ImagesConfig;

    fn describe() -> ModuleDescription {
        ModuleDescription {
            needs: vec![
                CapabilityNeed {
                    capability: Capability::Sockets,
                    config: Some("/engine"),
                    reason: "is the socket of the container engine",
                },
                CapabilityNeed {
                    capability: Capability::Dirs(DirectoryAccess::Read),
                    config: Some("/file"),
                    reason: "holds the list of images",
                },
                CapabilityNeed { capability: Capability::Secrets, config: Some("/auth"), reason: "opens the registry" },
            ],
            phase: Phase::Prepare,
            repeatable: RerunSafety::Always,
            probes: ProbeSupport::Always,
            outputs: Some(&["image", "images"]),
            ..ModuleDescription::new(
                "images",
                env!("CARGO_PKG_VERSION"),
                "pulls images into a container engine, by their digests",
                include_str!("../config.schema.json"),
            )
        }
    }

    fn preview(input: &Input<ImagesConfig>) -> Result<Vec<Change>, Failure> {
        let missing = input.config.missing()?;
        Ok(missing.into_iter().map(|image| Change::new(ChangeAction::Create, image, "")).collect())
    }

    fn apply(input: &Input<ImagesConfig>) -> Result<Receipt, Failure> {
        let (config, began) = (&input.config, time::monotonic());
        let references = config.references()?;
        config.engine().check()?;
        let mut new = Vec::new();
        for (done, reference) in references.iter().enumerate() {
            log::progress("images", done as u64, Some(references.len() as u64), "images");
            if let Err(failure) = config.bring(reference, &mut new) {
                return Err(without_new(config.engine(), new, failure));
            }
        }
        Ok(config.receipt()?.note("pulled", new).note("ms", time::elapsed_ms(began)))
    }

    fn probe(input: &Input<ImagesConfig>) -> Result<Finding, Failure> {
        match input.config.missing() {
            Ok(missing) if missing.is_empty() => Ok(Finding::Held(input.config.receipt()?)),
            Ok(_) => Ok(Finding::Absent),
            Err(failure) if failure.kind == FailureKind::NotFound => Ok(Finding::Absent),
            Err(failure) => Err(failure),
        }
    }
}

/// Removes what was pulled before a failure.
fn without_new(engine: Engine<'_>, new: Vec<String>, failure: Failure) -> Failure {
    for reference in new {
        if let Err(left) = engine.remove_image(&reference) {
            log::warn(format!("{reference} stays in the engine: {}", left.message));
        }
    }
    failure
}

pawl_step::export!(ImagesStep);

#[cfg(test)]
mod tests {
    use super::*;
    use pawl_step::testing::{TestSandbox, assert_described};
    use serde_json::json;

    #[test]
    fn images_description_is_valid() {
        assert_described::<ImagesStep>();
    }

    fn config(value: Value) -> ImagesConfig {
        ImagesConfig::deserialize(value).unwrap()
    }

    #[test]
    fn images_are_read_from_a_file() {
        let sandbox = TestSandbox::new();
        let folder = sandbox.grant("app", DirectoryAccess::Read);
        let digest = format!("sha256:{:064}", 7);
        let write = |text: &str| std::fs::write(folder.join("images.txt"), text).unwrap();
        let file = config(json!({ "file": "app/images.txt", "engine": "podman" }));
        write(&format!(
            "# of v1\nr.example.com/shop:v1@{digest} # web\n\nr.example.com/job@{digest}\nr.example.com/shop@{digest}\n"
        ));
        let names = ["shop", "job"].map(|name| format!("r.example.com/{name}@{digest}"));
        assert_eq!(file.references().unwrap(), names);
        write("r.example.com/shop:v1\n");
        let refused = file.references().unwrap_err().message;
        assert_eq!(refused, "app/images.txt: `r.example.com/shop:v1` has no digest, so it may become another image");
        write("# none\n");
        assert!(file.references().unwrap_err().message.contains("does not name an image"));
    }

    #[test]
    fn digest_and_labels_are_compared() {
        let digest = format!("sha256:{:064}", 7);
        let reference = format!("r.example.com/shop@{digest}");
        let image = |digests: Vec<String>| Image {
            id: "sha256:1".to_owned(),
            digests,
            labels: json!({ "version": "v1" }).as_object().unwrap().clone(),
        };
        let wants = |label: Value| config(json!({ "image": reference, "engine": "podman", "label": label }));
        assert_eq!(wants(json!({ "version": "v1" })).difference(&reference, &image(vec![reference.clone()])), None);
        let other = wants(json!({ "version": "v2" })).difference(&reference, &image(vec![reference.clone()]));
        assert!(other.unwrap().ends_with("must be `v2`, but is `v1`"));
        let none = wants(json!({ "commit": "c" })).difference(&reference, &image(vec![reference.clone()]));
        assert!(none.unwrap().ends_with("must be `c`, but is none"));
        assert!(wants(json!({})).difference(&reference, &image(Vec::new())).unwrap().contains("another content"));
    }
}
