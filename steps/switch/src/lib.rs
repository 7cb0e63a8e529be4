//! Switches to a release: replaces one symbolic link by one rename.
//!
//! Invariant: after a kill at any instruction, the link points to the old release or the new one, and the next probe
//! determines which; see [`managed_link`].
//!
//! The server in front looks where the link leads at each request, so nothing is reloaded. With `check`, the step asks it whether the release
//! answers, and switches back if not; with `wired`, it is asked beforehand whether it follows the link.
//!
//! Deliberately absent: a reload of the server. One that needs it is a separate step.

mod haproxy;
mod managed_link;
mod traffic;
mod wiring;

use pawl_step::slots::SlotRecord;
use pawl_step::{
    Capability, CapabilityNeed, Change, ChangeAction, DirectoryAccess, Failure, Finding, Input, ModuleDescription,
    ProbeSupport, Receipt, RerunSafety, Step, fs, releases, slots,
};
use serde::Deserialize;

use traffic::TrafficCheck;
use wiring::Wiring;

use haproxy::HaproxyMap;
use managed_link::{AttemptEpoch, LinkProbe, LinkTarget, ManagedLink, PreviousTarget};

/// The `switch` module.
#[derive(Debug)]
pub struct SwitchStep;

/// The step's configuration, from `with:`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwitchConfig {
    /// The way in which the release is made live.
    #[serde(default)]
    pub strategy: SwitchStrategy,
    /// The granted directory.
    #[serde(rename = "in")]
    pub dir: Option<String>,
    /// The link, relative to the directory.
    pub link: String,
    /// The folder that the link must point to, relative to the directory.
    pub to: Option<String>,
    /// What must answer after the switch.
    pub check: Option<TrafficCheck>,
    /// Where to find out beforehand whether the server follows the link.
    pub wired: Option<Wiring>,
    /// A map of HAProxy that follows the link.
    pub haproxy: Option<HaproxyMap>,
}

/// The way in which a release is made live.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SwitchStrategy {
    /// One rename of a symbolic link.
    #[default]
    Symlink,
}

impl Step for SwitchStep {
    type Config = SwitchConfig;

    fn describe() -> ModuleDescription {
        ModuleDescription {
            needs: vec![
                CapabilityNeed {
                    capability: Capability::Dirs(DirectoryAccess::Write),
                    config: Some("/in"),
                    reason: "holds the link and the releases",
                },
                // Without `in`, the step uses its only granted directory.
                CapabilityNeed {
                    capability: Capability::Dirs(DirectoryAccess::Write),
                    config: None,
                    reason: "holds the link and the releases",
                },
            ],
            exposes: true,
            rehearses: true,
            repeatable: RerunSafety::Always,
            probes: ProbeSupport::Always,
            reverts: true,
            outputs: Some(&["link", "to"]),
            ..ModuleDescription::new(
                "switch",
                env!("CARGO_PKG_VERSION"),
                "makes a release live by replacing one symbolic link",
                include_str!("../config.schema.json"),
            )
        }
    }

    fn preview(input: &Input<SwitchConfig>) -> Result<Vec<Change>, Failure> {
        let (managed_link, to) = resolve_link(input)?;
        let subject = managed_link.path();
        let change = match managed_link.current_target()? {
            LinkTarget::At(now) if now == to => return Ok(Vec::new()),
            LinkTarget::At(now) => Change::new(ChangeAction::Update, subject, format!("from {now} to {to}")),
            LinkTarget::Missing => Change::new(ChangeAction::Create, subject, format!("to {to}")),
            LinkTarget::Outside => return Err(managed_link.outside_failure()),
            LinkTarget::NotALink => return Err(managed_link.not_a_link_failure()),
        };
        Ok(vec![change])
    }

    fn rehearse(input: &Input<SwitchConfig>) -> Result<(), Failure> {
        let managed_link = managed_link(input)?;
        managed_link.refuse_unmovable()?;
        if let Some(haproxy) = &input.config.haproxy {
            haproxy.check()?;
        }
        input.config.wired.as_ref().map_or(Ok(()), |wired| wired.check(&managed_link.path()))
    }

    fn apply(input: &Input<SwitchConfig>) -> Result<Receipt, Failure> {
        let (managed_link, to) = resolve_link(input)?;
        managed_link.ensure_target_exists(&to)?;
        if let Some(other) = other_release(input, &to)? {
            return Err(Failure::conflict(format!("`{}` can't point to `{to}`: {other}", managed_link.path()))
                .hint("let the step that starts the release return the folder: `to: ${{ steps.<name>.to }}`"));
        }
        let from = managed_link.switch(&input.key, &to, is_already_verified(input))?;
        let moved = move_traffic(&input.config, &to);
        if let Err(failure) = moved {
            managed_link.revert(&input.key, &to, &from)?;
            if let (Some(haproxy), PreviousTarget::Path(back)) = (&input.config.haproxy, &from) {
                haproxy.set(slot_name(back))?;
            }
            let back = match &from {
                PreviousTarget::Path(back) => format!("switched back to `{back}`"),
                PreviousTarget::NoLink | PreviousTarget::Unknown => "the link is as before".to_owned(),
            };
            return Err(Failure { message: format!("{}; {back}", failure.message), ..failure });
        }
        Ok(receipt(&managed_link, &to, &from))
    }

    fn probe(input: &Input<SwitchConfig>) -> Result<Finding, Failure> {
        let (managed_link, to) = resolve_link(input)?;
        let found = managed_link.probe(&to)?;
        if let (LinkProbe::Held(_), Some(other)) = (&found, other_release(input, &to)?) {
            return Ok(Finding::Drifted(format!("`{}` points to `{to}`, but {other}", managed_link.path())));
        }
        Ok(match found {
            LinkProbe::Held(_) if !follows(&input.config, &to)? => Finding::Absent,
            LinkProbe::Held(from) => Finding::Held(receipt(&managed_link, &to, &from)),
            LinkProbe::Absent => Finding::Absent,
            LinkProbe::Drifted(why) => Finding::Drifted(why),
        })
    }

    fn revert(input: &Input<SwitchConfig>, receipt: &Receipt) -> Result<(), Failure> {
        let (managed_link, to) = resolve_link(input)?;
        let back = match (verified_release(input, &managed_link, &to)?, receipt.notes.get("from")) {
            (VerifiedRelease::At(path), _) => PreviousTarget::Path(path),
            (VerifiedRelease::NotHere(label), _) => return Err(managed_link.missing_release_failure(&label)),
            (VerifiedRelease::Unknown, Some(serde_json::Value::String(path))) => PreviousTarget::Path(path.clone()),
            (VerifiedRelease::Unknown, Some(serde_json::Value::Null)) => PreviousTarget::NoLink,
            (VerifiedRelease::Unknown, Some(_) | None) => PreviousTarget::Unknown,
        };
        managed_link.revert(&input.key, &to, &back)?;
        match (&input.config.haproxy, managed_link.current_target()?) {
            (Some(haproxy), LinkTarget::At(now)) => haproxy.set(slot_name(&now)),
            _ => Ok(()),
        }
    }
}

/// Lets HAProxy follow, and waits until the release answers.
fn move_traffic(config: &SwitchConfig, to: &str) -> Result<(), Failure> {
    if let Some(haproxy) = &config.haproxy {
        haproxy.set(slot_name(to))?;
    }
    config.check.as_ref().map_or(Ok(()), TrafficCheck::wait)
}

/// Whether HAProxy follows, if it is asked to.
fn follows(config: &SwitchConfig, to: &str) -> Result<bool, Failure> {
    config.haproxy.as_ref().map_or(Ok(true), |haproxy| haproxy.is_set(slot_name(to)))
}

/// The name of the slot in a folder such as `slots/b`.
fn slot_name(to: &str) -> &str {
    to.rsplit('/').next().unwrap_or(to)
}

/// Which other release the slot holds that the link must point to, in words: a program may have been replaced behind the link.
fn other_release(input: &Input<SwitchConfig>, to: &str) -> Result<Option<String>, Failure> {
    let is_slot = to.rsplit('/').nth(1) == Some(slots::FOLDER);
    if !is_slot {
        return Ok(None);
    }
    let dir = input.dir("in", input.config.dir.as_deref(), &[])?;
    let record = SlotRecord::read(&format!("{dir}/{to}"))?.filter(|record| !record.holds_release(input));
    Ok(record.map(|SlotRecord { app, environment, label, .. }| {
        let is_of_app = app == input.app && environment == input.environment;
        let whose = if is_of_app { String::new() } else { format!(" of {app} in {environment}") };
        format!("the slot holds {label}{whose}, not {}", input.release.label)
    }))
}

/// Returns the managed link.
fn managed_link(input: &Input<SwitchConfig>) -> Result<ManagedLink, Failure> {
    let SwitchConfig { strategy: SwitchStrategy::Symlink, dir, link, .. } = &input.config;
    let dir = input.dir("in", dir.as_deref(), &[])?;
    let link = fs::relative("link", link)?;
    let epoch = AttemptEpoch { number: input.epoch, lineage: input.lineage.clone() };
    Ok(ManagedLink::new(dir, link, epoch))
}

/// Returns the managed link, and the folder that it must point to.
fn resolve_link(input: &Input<SwitchConfig>) -> Result<(ManagedLink, String), Failure> {
    let managed_link = managed_link(input)?;
    let to = match &input.config.to {
        Some(to) => fs::relative("to", to)?,
        None => fs::relative("to", upstream_path(input, managed_link.dir())?)?,
    };
    Ok((managed_link, to))
}

/// Returns the `path` that one earlier step returned for this directory.
fn upstream_path<'a>(input: &'a Input<SwitchConfig>, dir: &str) -> Result<&'a str, Failure> {
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
            "add a pull step with `into: {dir}` before `{}`, or set the folder: `to: releases/…`",
            input.step
        ))),
        (Some(one), Some(other)) => Err(Failure::invalid_config(format!(
            "earlier steps put `{one}` and `{other}` into `{dir}`; only one can be live"
        ))
        .hint("choose one: `to: ${{ steps.<name>.path }}`")),
    }
}

/// Returns whether the release is the last verified one: then nothing else was live before.
fn is_already_verified(input: &Input<SwitchConfig>) -> bool {
    input.release.digest.is_some() && input.live().is_some_and(|live| live.digest == input.release.digest)
}

/// The last verified release, which a revert goes back to: the one that was live just before may never have been verified.
enum VerifiedRelease {
    /// Another release, and its folder in the directory.
    At(String),
    /// Another release, by its label. It is in the same place on another machine, or was removed.
    NotHere(String),
    /// There is none, it is this one, or the target does not tell where it is.
    Unknown,
}

fn verified_release(
    input: &Input<SwitchConfig>,
    managed_link: &ManagedLink,
    to: &str,
) -> Result<VerifiedRelease, Failure> {
    let live = input.live().and_then(|live| Some((live, live.digest.as_ref()?)));
    let (Some(this), Some((live, digest))) = (input.release.digest.as_ref(), live) else {
        return Ok(VerifiedRelease::Unknown);
    };
    if this == digest {
        return Ok(VerifiedRelease::Unknown);
    }
    let names: Vec<&str> = to.split('/').collect();
    let of_this = names.iter().position(|name| releases::is_name_for(name, this));
    let Some((above, [_, below @ ..])) = of_this.map(|at| names.split_at(at)) else {
        return Ok(VerifiedRelease::Unknown);
    };
    let Some(of_live) = managed_link.find_release(&above.join("/"), digest)? else {
        return Ok(VerifiedRelease::NotHere(live.label.clone()));
    };
    let path = [above, &[of_live.as_str()], below].concat().join("/");
    Ok(if managed_link.has_folder(&path)? { VerifiedRelease::At(path) } else { VerifiedRelease::Unknown })
}

fn receipt(managed_link: &ManagedLink, to: &str, from: &PreviousTarget) -> Receipt {
    let receipt = Receipt::new().output("link", managed_link.link()).output("to", to);
    match from {
        PreviousTarget::Path(path) => receipt.note("from", path.as_str()),
        PreviousTarget::NoLink => receipt.note("from", serde_json::Value::Null),
        PreviousTarget::Unknown => receipt,
    }
}

pawl_step::export!(SwitchStep);

#[cfg(test)]
mod tests;
