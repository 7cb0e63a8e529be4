//! Pulls a release: an archive becomes the folder `releases/<label>-<first digits of its digest>`, whole or not at all.
//!
//! Invariant: the folder appears by one rename, complete, verified, with its digest in it and its shared paths linked. A repair brings
//! back the release's own files and keeps what else is in the folder. A content has one folder: if there is one, under another label or
//! called by the digest alone as older runners did, it stays ([`pawl_step::releases`]).
//! Unfinished folders are called `releases/.tmp-…`, and the next pull removes them.
//!
//! Deliberately absent: unpacking and hashing, which the host does natively, and the clean-up of old releases.

mod mirrors;
mod ownership;
mod release_folder;
mod shared_paths;

use pawl_step::blobs::{self, UnpackLimits};
use pawl_step::{
    Capability, CapabilityNeed, Change, ChangeAction, DirectoryAccess, Failure, Finding, Input, ModuleBehavior,
    ModuleDescription, Phase, ProbeSupport, Receipt, RerunSafety, Step, fs, log, releases, time,
};
use serde::Deserialize;

use mirrors::SourceMirrors;
use ownership::ReleaseOwnership;
use release_folder::{ReleaseFolder, ReleaseFolderState};
use shared_paths::SharedPaths;

/// The `pull` module.
#[derive(Debug)]
pub struct PullStep;

/// The step's configuration, from `with:`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PullConfig {
    /// The source of the archive or image, or several mirrors.
    pub from: SourceMirrors,
    /// The granted directory.
    pub into: Option<String>,
    /// The archive's digest, which only the host reads: this step uses `release.digest`.
    #[serde(rename = "digest")]
    pub _digest: Option<String>,
    /// The version that the release must state.
    pub version: Option<String>,
    /// The file that states the version.
    pub version_file: Option<String>,
    /// The paths that outlive the release.
    #[serde(default)]
    pub shared: Vec<String>,
    /// Whether the source is an image whose layers are the release.
    #[serde(default)]
    pub rootfs: bool,
    /// The owner of everything in the release.
    pub owner: Option<String>,
    /// Its group.
    pub group: Option<String>,
    /// The mode of its files.
    pub mode: Option<String>,
    /// What the group may write.
    #[serde(default)]
    pub writable: Vec<String>,
    /// The limits for unpacking.
    #[serde(default)]
    pub limits: UnpackLimits,
}

impl Step for PullStep {
    type Config = PullConfig;

    fn describe() -> ModuleDescription {
        ModuleDescription {
            needs: vec![
                CapabilityNeed {
                    capability: Capability::Dirs(DirectoryAccess::Write),
                    config: Some("/into"),
                    reason: "stores releases/ and shared/",
                },
                // Without `into`, the step uses its only granted directory.
                CapabilityNeed {
                    capability: Capability::Dirs(DirectoryAccess::Write),
                    config: None,
                    reason: "stores releases/ and shared/",
                },
            ],
            phase: Phase::Prepare,
            repeatable: RerunSafety::Always,
            probes: ProbeSupport::Always,
            reverts: true,
            outputs: Some(&["path", "dir", "digest", "label"]),
            behaves: &[ModuleBehavior::InstallsReleases { into: "/into" }],
            ..ModuleDescription::new(
                "pull",
                env!("CARGO_PKG_VERSION"),
                "downloads or reads a release archive, verifies its digest, and unpacks it next to the live release",
                include_str!("../config.schema.json"),
            )
        }
    }

    fn preview(input: &Input<PullConfig>) -> Result<Vec<Change>, Failure> {
        let release = PullTarget::from_input(input)?;
        let subject = release.folder.to_string();
        let detail = match release.folder.inspect(&release.shared)? {
            ReleaseFolderState::Intact => match release.ownership.difference(&subject)? {
                Some(difference) => format!("change the owner: {difference}"),
                None => return Ok(Vec::new()),
            },
            ReleaseFolderState::Missing => return release.preview_creation(input, subject),
            ReleaseFolderState::Damaged(lines) => {
                format!("unpack again because it is damaged: {}", summarize_lines(&lines))
            }
            ReleaseFolderState::Unknown(why) => format!("unpack again because its state is unknown: {why}"),
        };
        Ok(vec![Change::new(ChangeAction::Update, subject, detail)])
    }

    fn apply(input: &Input<PullConfig>) -> Result<Receipt, Failure> {
        let started = time::monotonic();
        PullTarget::from_input(input)?.folder.remove_leftovers()?;
        // A repair that was finished may have brought the folder back.
        let release = PullTarget::from_input(input)?;
        match release.folder.inspect(&release.shared)? {
            ReleaseFolderState::Intact => {
                log::info(format!("{} already exists and is intact", release.folder));
                release.ownership.renew(release.folder.dir(), &release.folder.path(), &release.shared)?;
                return Ok(release.receipt(input));
            }
            ReleaseFolderState::Missing => {}
            ReleaseFolderState::Damaged(lines) => log::warn(format!(
                "{} is damaged and will be unpacked again: {}",
                release.folder,
                summarize_lines(&lines)
            )),
            ReleaseFolderState::Unknown(why) => {
                log::warn(format!("the state of {} is unknown, and it will be unpacked again: {why}", release.folder))
            }
        }
        release.shared.preserve_content(release.folder.dir(), &release.folder.path())?;
        let new = release.folder.new_path();
        let (source, unpacked) = release.unpack_and_link(input, &new).inspect_err(|_| {
            if let Err(failure) = blobs::remove(release.folder.dir(), &new) {
                log::warn(format!(
                    "cannot remove the unpacked files; the next pull will remove them: {}",
                    failure.message
                ));
            }
        })?;
        let kept = release.folder.install()?;
        if !kept.is_empty() {
            log::warn(format!(
                "kept files in {} that are not part of the release: {}",
                release.folder,
                summarize_lines(&kept)
            ));
        }
        let mut receipt = release.receipt(input);
        if input.config.from.sources().len() > 1 {
            receipt = receipt.note("mirror", source);
        }
        Ok(receipt
            .note("files", unpacked.files)
            .note("bytes", unpacked.bytes)
            .note("took_ms", time::elapsed_ms(started)))
    }

    fn probe(input: &Input<PullConfig>) -> Result<Finding, Failure> {
        let release = PullTarget::from_input(input)?;
        Ok(match release.folder.inspect(&release.shared)? {
            ReleaseFolderState::Intact => match release.ownership.difference(&release.folder.to_string())? {
                Some(difference) => Finding::Drifted(difference),
                None => Finding::Held(release.receipt(input)),
            },
            ReleaseFolderState::Missing => Finding::Absent,
            ReleaseFolderState::Damaged(lines) => {
                Finding::Drifted(format!("{} differs from its archive: {}", release.folder, summarize_lines(&lines)))
            }
            ReleaseFolderState::Unknown(why) => Finding::Unknown(why),
        })
    }

    fn revert(input: &Input<PullConfig>, _receipt: &Receipt) -> Result<(), Failure> {
        let release = PullTarget::from_input(input)?;
        if input.live().is_some_and(|live| live.digest.as_ref() == Some(release.folder.digest())) {
            log::info(format!("{} is the live release and is kept", release.folder));
            return Ok(());
        }
        release.folder.remove()
    }
}

/// The release to pull, in its folder.
struct PullTarget {
    folder: ReleaseFolder,
    shared: SharedPaths,
    ownership: ReleaseOwnership,
}

impl PullTarget {
    fn from_input(input: &Input<PullConfig>) -> Result<Self, Failure> {
        if input.config.from.sources().iter().all(String::is_empty) {
            return Err(Failure::invalid_config("`from` has no source").hint("name a source, or several mirrors"));
        }
        let Some(digest) = input.release.digest.clone() else {
            return Err(Failure::invalid_config(format!("no digest is known for `{}`, so its content cannot be verified", input.config.from.display()))
                .hint("publish it next to the archive (`sha256sum ARCHIVE > ARCHIVE.sha256`), or set it under `with:` as `digest: sha256:…`"));
        };
        let dir = input.dir("into", input.config.into.as_deref(), &input.config.from.dirs())?;
        let shared = SharedPaths::parse(&input.config.shared)?;
        let ownership = ReleaseOwnership::parse(&input.config)?;
        Ok(Self { folder: ReleaseFolder::locate(dir, &input.release.label, digest)?, shared, ownership })
    }

    /// Unpacks, checks and links the release in the temporary folder `new`: everything before the last rename.
    fn unpack_and_link<'i>(
        &self,
        input: &'i Input<PullConfig>,
        new: &str,
    ) -> Result<(&'i str, blobs::UnpackStats), Failure> {
        let dir = self.folder.dir();
        let PullConfig { from, limits, rootfs, .. } = &input.config;
        let unpacked = from.first(|source| {
            let blob = blobs::fetch(source, self.folder.digest())?;
            if *rootfs { blob.unpack_image(dir, new, limits) } else { blob.unpack(dir, new, limits) }
        })?;
        check_version(input, &format!("{dir}/{new}"))?;
        releases::write_digest(&format!("{dir}/{new}"), self.folder.name(), self.folder.digest())?;
        self.ownership.give(dir, new)?;
        let created = self.shared.missing_paths(dir)?;
        self.shared.link(dir, new)?;
        self.ownership.give_shared(&created)?;
        self.ownership.set_modes(dir, new, &self.shared)?;
        Ok(unpacked)
    }

    fn preview_creation(&self, input: &Input<PullConfig>, subject: String) -> Result<Vec<Change>, Failure> {
        let mut changes = vec![Change::new(
            ChangeAction::Create,
            subject,
            format!("release {} from {}", input.release.label, input.config.from.display()),
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
            .output("digest", self.folder.digest().as_str())
            .output("label", input.release.label.as_str())
    }
}

fn check_version(input: &Input<PullConfig>, folder: &str) -> Result<(), Failure> {
    let PullConfig { version, version_file, .. } = &input.config;
    if version.is_none() && version_file.is_none() {
        return Ok(());
    }
    let expected = version.as_ref().unwrap_or(&input.release.label);
    let file = fs::relative("version-file", version_file.as_deref().unwrap_or("VERSION"))?;
    let path = format!("{folder}/{file}");
    let Some(found) = fs::read_text_if_exists(&path)? else {
        return Err(Failure::bad_content(format!(
            "the release has no file `{file}`; expected one that says `{expected}`"
        ))
        .hint("add the file to the archive, or set another `version-file`"));
    };
    if found.trim() == expected { Ok(()) } else { Err(wrong_version_failure(&file, expected, found.trim())) }
}

fn wrong_version_failure(file: &str, expected: &str, found: &str) -> Failure {
    let found: String = found.chars().take(80).collect();
    Failure::bad_content(format!("the file `{file}` of the release says `{found}`, not `{expected}`"))
        .hint("the archive may contain another version: check what was built and packed under this name")
}

/// Returns the first lines and the number of further lines.
fn summarize_lines(lines: &[String]) -> String {
    const SHOWN: usize = 3;
    let shown = lines[..lines.len().min(SHOWN)].join("; ");
    if lines.len() > SHOWN { format!("{shown}; …and {} more", lines.len() - SHOWN) } else { shown }
}

pawl_step::export!(PullStep);

#[cfg(test)]
mod tests;
