//! Brings a release: an archive becomes the folder `releases/<digest>`, whole or not at all.
//!
//! Invariant: `releases/<digest>` appears by one rename, complete, checked, and with its shared paths linked. Whatever is
//! unfinished is called `releases/.tmp-…`, and the next pull removes it.
//!
//! Deliberately absent: unpacking and hashing, which the host does natively; clean-up of old releases.

mod release_folder;
mod shared_paths;

use pawl_step::blobs::{self, UnpackLimits};
use pawl_step::{
    Capability, CapabilityNeed, Change, ChangeAction, Digest, DirectoryAccess, Failure, Finding, Input,
    ModuleDescription, Phase, ProbeSupport, Receipt, RerunSafety, Step, fs, log, time,
};
use serde::Deserialize;

use release_folder::{ReleaseFolder, ReleaseFolderState};
use shared_paths::SharedPaths;

/// The module.
#[derive(Debug)]
pub struct PullStep;

/// The step's `with:`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PullConfig {
    /// The archive.
    pub from: String,
    /// The granted directory.
    pub into: Option<String>,
    /// The archive's digest. The host has read it already: `release.digest` is what counts.
    #[serde(rename = "digest")]
    pub _digest: Option<String>,
    /// What the release must say it is.
    pub version: Option<String>,
    /// Where it says so.
    pub version_file: Option<String>,
    /// Paths that outlive the release.
    #[serde(default)]
    pub shared: Vec<String>,
    /// What the archive may grow to.
    #[serde(default)]
    pub limits: UnpackLimits,
}

impl Step for PullStep {
    type Config = PullConfig;

    fn describe() -> ModuleDescription {
        ModuleDescription {
            name: "pull",
            version: env!("CARGO_PKG_VERSION"),
            summary: "brings a release: downloads or reads an archive, checks its digest, unpacks it beside the live one",
            config: include_str!("../config.schema.json"),
            needs: vec![
                CapabilityNeed {
                    capability: Capability::Dirs(DirectoryAccess::Write),
                    config: Some("/into"),
                    reason: "gets releases/ and shared/",
                },
                // Also where the configuration leaves it to the only directory there is.
                CapabilityNeed {
                    capability: Capability::Dirs(DirectoryAccess::Write),
                    config: None,
                    reason: "gets releases/ and shared/",
                },
            ],
            phase: Phase::Prepare,
            exposes: false,
            repeatable: RerunSafety::Always,
            probes: ProbeSupport::Always,
            reverts: true,
        }
    }

    fn preview(input: &Input<PullConfig>) -> Result<Vec<Change>, Failure> {
        let release = PullTarget::from_input(input)?;
        let subject = release.folder.to_string();
        let detail = match release.folder.inspect(&release.shared)? {
            ReleaseFolderState::Intact => return Ok(Vec::new()),
            ReleaseFolderState::Missing => return release.preview_creation(input, subject),
            ReleaseFolderState::Damaged(lines) => {
                format!("unpack it again, since it is damaged: {}", summarize_lines(&lines))
            }
            ReleaseFolderState::Unknown(why) => format!("unpack it again, since {why}"),
        };
        Ok(vec![Change::new(ChangeAction::Update, subject, detail)])
    }

    fn apply(input: &Input<PullConfig>) -> Result<Receipt, Failure> {
        let started = time::monotonic();
        let release = PullTarget::from_input(input)?;
        release.folder.remove_leftovers()?;
        match release.folder.inspect(&release.shared)? {
            ReleaseFolderState::Intact => {
                log::info(format!("{} is there already, and holds", release.folder));
                return Ok(release.receipt(input));
            }
            ReleaseFolderState::Missing => {}
            ReleaseFolderState::Damaged(lines) => {
                log::warn(format!("{} is damaged, and is unpacked again: {}", release.folder, summarize_lines(&lines)))
            }
            ReleaseFolderState::Unknown(why) => log::warn(format!("{} is unpacked again: {why}", release.folder)),
        }
        let new = release.folder.temporary_path(&input.key, "new");
        let unpacked = release.unpack_and_link(input, &new).inspect_err(|_| {
            if let Err(failure) = blobs::remove(release.folder.dir(), &new) {
                log::warn(format!("what was unpacked is left behind until the next pull: {}", failure.message));
            }
        })?;
        release.folder.install(&input.key, &new)?;
        Ok(release
            .receipt(input)
            .note("files", unpacked.files)
            .note("bytes", unpacked.bytes)
            .note("took_ms", time::elapsed_ms(started)))
    }

    fn probe(input: &Input<PullConfig>) -> Result<Finding, Failure> {
        let release = PullTarget::from_input(input)?;
        Ok(match release.folder.inspect(&release.shared)? {
            ReleaseFolderState::Intact => Finding::Held(release.receipt(input)),
            ReleaseFolderState::Missing => Finding::Absent,
            ReleaseFolderState::Damaged(lines) => {
                Finding::Drifted(format!("{} is not as it was unpacked: {}", release.folder, summarize_lines(&lines)))
            }
            ReleaseFolderState::Unknown(why) => Finding::Unknown(why),
        })
    }

    fn revert(input: &Input<PullConfig>, _receipt: &Receipt) -> Result<(), Failure> {
        let release = PullTarget::from_input(input)?;
        if input.live().is_some_and(|live| live.digest.as_ref() == Some(&release.digest)) {
            log::info(format!("{} is the live release, and stays", release.folder));
            return Ok(());
        }
        release.folder.remove(&input.key)
    }
}

/// The release that an input asks for, and where it goes.
struct PullTarget {
    digest: Digest,
    folder: ReleaseFolder,
    shared: SharedPaths,
}

impl PullTarget {
    fn from_input(input: &Input<PullConfig>) -> Result<Self, Failure> {
        let Some(digest) = input.release.digest.clone() else {
            return Err(Failure::invalid_config(format!("no digest is known for `{}`, so what comes could be anything", input.config.from))
                .hint("publish it beside the archive (`sha256sum ARCHIVE > ARCHIVE.sha256`), or write it under `with:`, as `digest: sha256:…`"));
        };
        let source = source_dir(&input.config.from);
        let dir = input.dir("into", input.config.into.as_deref(), source.as_slice())?;
        let shared = SharedPaths::parse(&input.config.shared)?;
        Ok(Self { folder: ReleaseFolder::new(dir, &digest), digest, shared })
    }

    /// Everything up to the last rename, in the folder `new`.
    fn unpack_and_link(&self, input: &Input<PullConfig>, new: &str) -> Result<blobs::UnpackStats, Failure> {
        let dir = self.folder.dir();
        let unpacked = blobs::fetch(&input.config.from, &self.digest)?.unpack(dir, new, &input.config.limits)?;
        check_version(input, &format!("{dir}/{new}"))?;
        self.shared.link(dir, new)?;
        Ok(unpacked)
    }

    fn preview_creation(&self, input: &Input<PullConfig>, subject: String) -> Result<Vec<Change>, Failure> {
        let mut changes = vec![Change::new(
            ChangeAction::Create,
            subject,
            format!("release {} from {}", input.release.label, input.config.from),
        )];
        for path in self.shared.missing_paths(self.folder.dir())? {
            changes.push(Change::new(ChangeAction::Create, path, "kept across releases"));
        }
        Ok(changes)
    }

    fn receipt(&self, input: &Input<PullConfig>) -> Receipt {
        Receipt::new()
            .output("path", self.folder.path())
            .output("dir", self.folder.dir())
            .output("digest", self.digest.as_str())
            .output("label", input.release.label.as_str())
    }
}

/// The grant that a `file:` source lies in.
fn source_dir(from: &str) -> Option<&str> {
    let path = from.strip_prefix("file:")?;
    path.trim_start_matches('/').split('/').next()
}

fn check_version(input: &Input<PullConfig>, folder: &str) -> Result<(), Failure> {
    let PullConfig { version, version_file, .. } = &input.config;
    if version.is_none() && version_file.is_none() {
        return Ok(());
    }
    let expected = version.as_ref().unwrap_or(&input.release.label);
    let file = fs::relative("version-file", version_file.as_deref().unwrap_or("VERSION"))?;
    let path = format!("{folder}/{file}");
    if !fs::exists(&path)? {
        return Err(Failure::bad_content(format!("the release has no file `{file}`, which should say `{expected}`"))
            .hint("put it into the archive, or name another `version-file`"));
    }
    let found = fs::read_text(&path)?;
    if found.trim() == expected { Ok(()) } else { Err(wrong_version_failure(&file, expected, found.trim())) }
}

fn wrong_version_failure(file: &str, expected: &str, found: &str) -> Failure {
    let found: String = found.chars().take(80).collect();
    Failure::bad_content(format!("the release says in `{file}` that it is `{found}`, not `{expected}`"))
        .hint("the archive may be another version's: check what was built and packed under this name")
}

/// The first lines, and how many more there are.
fn summarize_lines(lines: &[String]) -> String {
    const SHOWN: usize = 3;
    let shown = lines[..lines.len().min(SHOWN)].join("; ");
    if lines.len() > SHOWN { format!("{shown}; …and {} more", lines.len() - SHOWN) } else { shown }
}

pawl_step::export!(PullStep);

#[cfg(test)]
mod tests;
