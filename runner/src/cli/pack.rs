//! `runner pack DIR --out FILE`: makes a release of a folder, with its digest and the list of its content beside it.
//!
//! With `--out -`, the archive is the standard output, and the answer goes to the standard error. The files beside the archive come
//! before it gets its name. Deliberately absent: the build of what is packed.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
};

use jiff::{Timestamp, tz::TimeZone};
use serde_json::json;

use super::{output::CommandOutput, source};
use crate::report::{self, OutputFormat, json};
use ::pack::{ArchiveLimits, PackError, PackRequest, PackedArchive, PackedEntryKind};
use contract::{
    Label,
    diagnostic::{Diagnostic, ErrorCode, ExitKind},
};
use hostio::atomic_file::{self, StagedFile};
use journal::clock;

/// The time of all entries if nothing says one: 2000-01-01.
const FIXED_TIME: u64 = 946_684_800;
/// What stands for the version in the name of the archive.
const VERSION_IN_NAME: &str = "{version}";

/// Arguments of `pack`.
#[derive(Debug, clap::Args)]
pub(super) struct PackArgs {
    /// The folder whose content becomes the release
    dir: PathBuf,
    /// The archive, such as `dist/shop-{version}.tar.zst`; `-` is the standard output
    #[arg(long, value_name = "FILE")]
    out: String,
    /// `git` (what `git describe` says), `calendar` (2026.11.30.1432, the time in UTC), or the version itself
    #[arg(long, value_name = "VERSION", default_value = "git")]
    version: String,
    /// A file of the folder in which the version takes the place of @VERSION@; repeatable
    #[arg(long, value_name = "PATH")]
    render: Vec<String>,
    /// The compression level of zstd
    #[arg(long, value_name = "LEVEL", default_value_t = 3, value_parser = clap::value_parser!(i32).range(1..=19))]
    level: i32,
    /// A limit as in the plan's `pull` step, such as `max-files=300000`; repeatable
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_limit)]
    limit: Vec<(LimitName, u64)>,
    /// Where the list of the content goes; by default beside the archive
    #[arg(long, value_name = "FILE")]
    listing: Option<PathBuf>,
    /// The time of all files in the archive, in seconds since 1970; by default that of the commit
    #[arg(long, value_name = "SECONDS", env = "SOURCE_DATE_EPOCH")]
    time: Option<u64>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum LimitName {
    #[value(name = "max-files")]
    Files,
    #[value(name = "max-bytes")]
    Bytes,
    #[value(name = "max-ratio")]
    Ratio,
    #[value(name = "max-path")]
    Path,
}

/// Packs the folder.
///
/// # Errors
/// P0236; P0206 and P0207 when there is no valid version; P0214.
pub(super) fn run(args: &PackArgs, screen: &CommandOutput, out: &mut dyn Write) -> Result<ExitKind, Diagnostic> {
    let version = version(args)?;
    let folder = args.dir.canonicalize().map_err(|source| PackError::Read { path: args.dir.clone(), source })?;
    let place = Destination::new(args, &version)?;
    let limits = limits(&args.limit);
    let request = PackRequest {
        folder: &folder,
        version: &version,
        rendered: &args.render,
        modified: args.time.or_else(|| commit_time(&folder)).unwrap_or(FIXED_TIME),
        level: args.level,
        limits: &limits,
        left_out: &place.own_files(),
    };
    let (packed, staged) = match &place.archive {
        None => (::pack::pack(&request, io::stdout().lock())?, None),
        Some(archive) => {
            if let Some(folder) = archive.parent() {
                std::fs::create_dir_all(folder).map_err(PackError::Output)?;
            }
            for own in [archive, &checksum(archive)].into_iter().chain(&place.listing) {
                atomic_file::remove_abandoned(own);
            }
            let (staged, packed) = StagedFile::fill(archive, |file| ::pack::pack(&request, file))?;
            (packed, Some(staged))
        }
    };
    place.finish(&packed, &version, staged).map_err(PackError::Output)?;
    let answer = answer(screen.format(), &packed, &version, &place);
    match place.archive {
        Some(_) => report::write_answer(out, &answer)?,
        None => report::write_answer(&mut io::stderr(), &answer)?,
    }
    Ok(ExitKind::Success)
}

/// Where everything goes.
struct Destination {
    /// None for the standard output.
    archive: Option<PathBuf>,
    /// Of the archive, in its listing.
    name: String,
    listing: Option<PathBuf>,
}

impl Destination {
    fn new(args: &PackArgs, version: &Label) -> Result<Self, Diagnostic> {
        if args.out == "-" {
            return Ok(Self { archive: None, name: "-".to_owned(), listing: args.listing.clone() });
        }
        let archive = PathBuf::from(args.out.replace(VERSION_IN_NAME, version.as_str()));
        let name = archive.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if ![".tar.zst", ".tzst"].iter().any(|ending| name.ends_with(ending)) {
            return Err(Diagnostic::new(ErrorCode::PackFailed, "can't pack the folder")
                .with_cause(format!("the archive is a tar.zst, but the name `{name}` does not end in `.tar.zst`"))
                .with_hint("end the name of `--out` in `.tar.zst`"));
        }
        let listing = args.listing.clone().unwrap_or_else(|| beside(&archive, ".cdx.json"));
        Ok(Self { archive: Some(archive), name, listing: Some(listing) })
    }

    /// Absolute paths of the files of this and earlier calls, which may lie in the folder.
    fn own_files(&self) -> Vec<PathBuf> {
        self.archive
            .iter()
            .chain(&self.listing)
            .filter_map(|path| {
                let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or_else(|| Path::new("."));
                Some(folder.canonicalize().ok()?.join(path.file_name()?))
            })
            .collect()
    }

    fn finish(&self, packed: &PackedArchive, version: &Label, staged: Option<StagedFile>) -> io::Result<()> {
        if let Some(listing) = &self.listing {
            atomic_file::replace_file(listing, ::pack::listing(packed, &self.name, version.as_str()).as_bytes())?;
        }
        if let (Some(staged), Some(archive)) = (staged, &self.archive) {
            atomic_file::replace_file(
                &checksum(archive),
                ::pack::checksum_line(&packed.digest, &self.name).as_bytes(),
            )?;
            staged.replace()?;
        }
        Ok(())
    }
}

fn checksum(archive: &Path) -> PathBuf {
    beside(archive, ".sha256")
}

fn beside(archive: &Path, ending: &str) -> PathBuf {
    let mut path = archive.as_os_str().to_owned();
    path.push(ending);
    path.into()
}

fn version(args: &PackArgs) -> Result<Label, Diagnostic> {
    let text = match args.version.as_str() {
        "git" => source::git_describe(&args.dir)
            .map_err(|error| error.with_hint("name it (`--version 1.4.2`), or use the date (`--version calendar`)"))?,
        "calendar" => calendar_version(args.time.and_then(at)),
        given => given.to_owned(),
    };
    text.parse().map_err(|error: contract::NameError| {
        Diagnostic::new(ErrorCode::InvalidRelease, error.to_string())
            .with_hint("use a version such as `--version 1.4.2`; it becomes part of paths and URLs")
    })
}

/// Year, month, day, and hour and minute, without leading zeros, as Python's indexes write them.
fn calendar_version(time: Option<Timestamp>) -> String {
    let now = time.unwrap_or_else(clock::now).to_zoned(TimeZone::UTC);
    let minute = i32::from(now.hour()) * 100 + i32::from(now.minute());
    format!("{}.{}.{}.{minute}", now.year(), now.month(), now.day())
}

fn at(seconds: u64) -> Option<Timestamp> {
    Timestamp::from_second(i64::try_from(seconds).ok()?).ok()
}

/// When the commit was made that is checked out in the folder; none without one.
fn commit_time(folder: &Path) -> Option<u64> {
    let git = Command::new("git").arg("-C").arg(folder).args(["log", "-1", "--format=%ct"]).output().ok()?;
    String::from_utf8(git.stdout).ok()?.trim().parse().ok()
}

fn parse_limit(text: &str) -> Result<(LimitName, u64), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    let name = <LimitName as clap::ValueEnum>::from_str(name, false)
        .map_err(|_| "the limits are max-files, max-bytes, max-ratio and max-path".to_owned())?;
    Ok((name, value.parse().map_err(|_| format!("`{value}` is not a number"))?))
}

fn limits(changes: &[(LimitName, u64)]) -> ArchiveLimits {
    let mut limits = ArchiveLimits::default();
    for (name, value) in changes {
        match name {
            LimitName::Files => limits.max_files = *value,
            LimitName::Bytes => limits.max_bytes = *value,
            LimitName::Ratio => limits.max_ratio = *value,
            LimitName::Path => limits.max_path_bytes = usize::try_from(*value).unwrap_or(usize::MAX),
        }
    }
    limits
}

fn answer(form: OutputFormat, packed: &PackedArchive, version: &Label, place: &Destination) -> String {
    let count = |is_counted: fn(&PackedEntryKind) -> bool| {
        packed.entries.iter().filter(|entry| is_counted(&entry.kind)).count()
    };
    let files = count(|kind| matches!(kind, PackedEntryKind::File { .. }));
    let links = count(|kind| matches!(kind, PackedEntryKind::Symlink { .. }));
    match form {
        OutputFormat::Json => {
            let object = json!({
                "archive": place.archive, "version": version, "digest": packed.digest, "files": files, "links": links,
                "bytes": packed.bytes, "archive-bytes": packed.archive_bytes, "listing": place.listing,
            });
            json::line(&object) + "\n"
        }
        OutputFormat::Text => {
            let to = place.archive.as_ref().map_or("standard output".into(), |archive| archive.display().to_string());
            format!(
                "packed {version} to {to}: {} files, {} bytes, {} compressed\n  {}\n",
                files + links,
                packed.bytes,
                packed.archive_bytes,
                packed.digest
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calendar_versions_have_no_leading_zeros() {
        let version = |seconds| calendar_version(at(seconds));
        assert_eq!(version(1_796_049_120), "2026.11.30.1432");
        assert_eq!(version(1_767_571_620), "2026.1.5.7");
    }
}
