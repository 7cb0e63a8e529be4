//! Makes a release live: one symbolic link, replaced by one rename.
//!
//! Invariant: whatever instruction it is killed at, the link leads to the old release or the new one, and the next probe
//! tells which: see [`place`].
//!
//! Deliberately absent: knowledge of what serves the link. A server that must be told is a step of its own.

mod place;

use pawl_step::{
    Access, Action, Capability, CapabilityNeed, Change, Description, Failure, Finding, Input, Phase, ProbeSupport,
    Receipt, RerunSafety, Step, fs,
};
use serde::Deserialize;

use place::{Epoch, From, Live, Place};

/// The module.
#[derive(Debug)]
pub struct Switch;

/// The step's `with:`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How.
    #[serde(default)]
    pub strategy: Strategy,
    /// The granted directory.
    #[serde(rename = "in")]
    pub dir: Option<String>,
    /// The link, relative to the directory.
    pub link: String,
    /// The folder it shall lead to, relative to the directory.
    pub to: Option<String>,
}

/// How the release is made live.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// One rename of a symbolic link.
    #[default]
    Symlink,
}

impl Step for Switch {
    type Config = Config;

    fn describe() -> Description {
        Description {
            name: "switch",
            version: env!("CARGO_PKG_VERSION"),
            summary: "makes a release live by replacing one symbolic link",
            config: include_str!("../config.schema.json"),
            needs: vec![
                CapabilityNeed {
                    capability: Capability::Dirs(Access::Write),
                    config: Some("/in"),
                    reason: "holds the link and the releases",
                },
                // Also where the configuration leaves it to the only directory there is.
                CapabilityNeed {
                    capability: Capability::Dirs(Access::Write),
                    config: None,
                    reason: "holds the link and the releases",
                },
            ],
            phase: Phase::Commit,
            exposes: true,
            repeatable: RerunSafety::Always,
            probes: ProbeSupport::Always,
            reverts: true,
        }
    }

    fn preview(input: &Input<Config>) -> Result<Vec<Change>, Failure> {
        let (place, to) = resolve(input)?;
        let subject = place.path();
        let change = match place.live()? {
            Live::At(now) if now == to => return Ok(Vec::new()),
            Live::At(now) => Change::new(Action::Update, subject, format!("from {now} to {to}")),
            Live::Nothing => Change::new(Action::Create, subject, format!("to {to}")),
            Live::Outside => return Err(place.outside()),
            Live::NoLink => return Err(place.no_link()),
        };
        Ok(vec![change])
    }

    fn apply(input: &Input<Config>) -> Result<Receipt, Failure> {
        let (place, to) = resolve(input)?;
        place.target_exists(&to)?;
        let from = place.switch(&input.key, &to, is_live_already(input))?;
        Ok(receipt(&place, &to, &from))
    }

    fn probe(input: &Input<Config>) -> Result<Finding, Failure> {
        let (place, to) = resolve(input)?;
        Ok(match place.probe(&to)? {
            place::Seen::Held(from) => Finding::Held(receipt(&place, &to, &from)),
            place::Seen::Absent => Finding::Absent,
            place::Seen::Drifted(why) => Finding::Drifted(why),
        })
    }

    fn revert(input: &Input<Config>, receipt: &Receipt) -> Result<(), Failure> {
        let (place, to) = resolve(input)?;
        let back = match (verified(input, &place, &to)?, receipt.notes.get("from")) {
            (Some(path), _) => From::Path(path),
            (None, Some(serde_json::Value::String(path))) => From::Path(path.clone()),
            (None, Some(serde_json::Value::Null)) => From::Nothing,
            (None, Some(_) | None) => From::Unknown,
        };
        place.revert(&input.key, &to, &back)
    }
}

/// The place of the link, and the folder it shall lead to.
fn resolve(input: &Input<Config>) -> Result<(Place, String), Failure> {
    let Config { strategy: Strategy::Symlink, dir, link, to } = &input.config;
    let dir = input.dir("in", dir.as_deref(), &[])?;
    let link = fs::relative("link", link)?;
    let to = match to {
        Some(to) => fs::relative("to", to)?,
        None => fs::relative("to", upstream(input, &dir)?)?,
    };
    let epoch = Epoch { number: input.epoch, lineage: input.lineage.clone() };
    Ok((Place::new(dir, link, epoch), to))
}

/// The `path` that one earlier step returned for this directory.
fn upstream<'a>(input: &'a Input<Config>, dir: &str) -> Result<&'a str, Failure> {
    let mut paths = input
        .outputs
        .values()
        .filter(|outputs| outputs.get("dir").and_then(|value| value.as_str()) == Some(dir))
        .filter_map(|outputs| outputs.get("path")?.as_str());
    match (paths.next(), paths.next()) {
        (Some(path), None) => Ok(path),
        (None, _) => Err(Failure::invalid_config(format!(
            "no earlier step put a release into `{dir}`, so there is nothing to switch to"
        ))
        .hint(format!(
            "put a pull step with `into: {dir}` before `{}`, or name the folder: `to: releases/…`",
            input.step
        ))),
        (Some(one), Some(other)) => Err(Failure::invalid_config(format!(
            "earlier steps put `{one}` and `{other}` into `{dir}`; only one can be live"
        ))
        .hint("say which one: `to: ${{ steps.<name>.path }}`")),
    }
}

/// Whether the release is what was verified last: then nothing else was live before.
fn is_live_already(input: &Input<Config>) -> bool {
    input.release.digest.is_some() && input.live().is_some_and(|live| live.digest == input.release.digest)
}

/// The folder of the release that was verified last, if it is another one and lies where this one does. Undoing leads
/// there, since what was live just before may never have been verified.
fn verified(input: &Input<Config>, place: &Place, to: &str) -> Result<Option<String>, Failure> {
    let digests = (input.release.digest.as_ref(), input.live().and_then(|live| live.digest.as_ref()));
    let (Some(this), Some(live)) = digests else { return Ok(None) };
    if this == live || !to.contains(this.hex()) {
        return Ok(None);
    }
    let path = to.replace(this.hex(), live.hex());
    Ok(place.has_folder(&path)?.then_some(path))
}

fn receipt(place: &Place, to: &str, from: &From) -> Receipt {
    let receipt = Receipt::new().output("link", place.link()).output("to", to);
    match from {
        From::Path(path) => receipt.note("from", path.as_str()),
        From::Nothing => receipt.note("from", serde_json::Value::Null),
        From::Unknown => receipt,
    }
}

pawl_step::export!(Switch);

#[cfg(test)]
mod tests;
