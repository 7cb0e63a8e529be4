//! Journals on their way to the artifacts of a CI run, and back on the next machine.
//!
//! A thread of its own brings up what the journals hold, whenever a record was written that the next attempt needs; records
//! that come meanwhile go up together. What must be there before an effect ([`Checkpoints::confirm`]) goes up at once, beside
//! what is on its way already. What is superseded is deleted. Invariant: when `confirm` returns, everything that the journals
//! held when it was called can be listed and downloaded. Deliberately absent: what is in a checkpoint ([`super::bundle`]),
//! and how artifacts are stored ([`super::artifacts`]).

use std::{
    collections::BTreeSet,
    fmt, io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use tokio::{
    sync::{
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
        oneshot,
    },
    task::JoinSet,
};

use super::{
    StateError,
    artifacts::{Access, ArtifactError, Artifacts, Listed},
    bundle::{self, Beside, BundleError, Identity, Kept, Key, Snapshot},
    error::reasons,
    journals_in,
};
use contract::step::Phase;
use journal::{
    Event, Loaded, Place,
    event::{Decision, Entry},
};

/// How the journals of this job are kept.
#[derive(Clone, Debug)]
pub struct Job {
    pub identity: Identity,
    /// The attempt of the workflow run. From the second on, there is something to resume from.
    pub attempt: u32,
    /// The page of the workflow run, as headers of journals have it.
    pub url: Option<String>,
    pub commit: Option<String>,
    pub key: Option<Key>,
    pub access: Access,
}

/// After an upload that failed for good, so long until the next, if no record calls for one before.
const LATER: Duration = Duration::from_secs(20);

/// When they must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Duty {
    /// Before every effect of the commit phase: they are all that the next machine has.
    Each,
    /// At the end, as far as that can be: the state's place has them, these are for people.
    End,
}

/// What has become of them.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// The newest checkpoint that is there.
    pub newest: Option<String>,
    /// The one that this attempt goes on from.
    pub resumed_from: Option<String>,
    /// There should have been one, and was not.
    pub is_missing: bool,
    /// Newer ones that were passed over, and why.
    pub passed_over: Vec<String>,
    /// Why something is not there that should be.
    pub trouble: Option<String>,
}

type Answer<T> = oneshot::Sender<Result<T, StateError>>;

enum Command {
    Fetch(Answer<()>),
    Survey(Answer<()>),
    Nudge,
    Confirm(Answer<()>),
    /// Everything up; answered when it is there, or with `true` when what is superseded is gone as well.
    Close(bool, Answer<()>),
}

/// The checkpoints of a job.
pub struct Checkpoints {
    commands: UnboundedSender<Command>,
    shown: Arc<Mutex<Shown>>,
    /// Steps that only look: nobody needs to know how far they got.
    checks: Mutex<BTreeSet<Place>>,
    duty: Duty,
    attempt: u32,
}

impl fmt::Debug for Checkpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpoints").field("duty", &self.duty).finish_non_exhaustive()
    }
}

impl Checkpoints {
    /// Starts the thread. Nothing is asked yet.
    pub(super) fn start(job: Job, folder: PathBuf, duty: Duty) -> io::Result<Arc<Self>> {
        let (commands, orders) = unbounded_channel();
        let shown = Arc::new(Mutex::new(Shown::default()));
        let attempt = job.attempt;
        let worker = Worker {
            job: Arc::new(job),
            folder,
            shown: Arc::clone(&shown),
            acknowledged: 0,
            kept: Vec::new(),
            on_the_way: Vec::new(),
            waiting: Vec::new(),
            is_behind: false,
            is_owed: false,
        };
        let runtime = super::runtime()?;
        thread::Builder::new()
            .name("pawl-checkpoints".to_owned())
            .spawn(move || runtime.block_on(worker.serve(orders)))?;
        Ok(Arc::new(Self { commands, shown, checks: Mutex::default(), duty, attempt }))
    }

    /// What has become of them so far.
    #[must_use]
    pub fn shown(&self) -> Shown {
        lock(&self.shown).clone()
    }

    /// Brings what earlier attempts of the workflow run left to this machine, if this is not the first one.
    pub(super) async fn fetch(&self) -> Result<(), StateError> {
        if self.attempt < 2 || self.duty == Duty::End {
            return Ok(());
        }
        self.ask(Command::Fetch).await
    }

    /// A record was written: what the next attempt needs of it goes up in the background.
    pub fn observe(&self, entry: &Entry) {
        let mut checks = lock(&self.checks);
        let place = match &entry.event {
            Event::Plan { steps, .. } => {
                checks.extend(steps.iter().filter(|step| step.phase == Phase::Check).map(|step| step.place.clone()));
                return;
            }
            Event::Intent { place, .. }
            | Event::Outcome { place, .. }
            | Event::UndoIntent { place }
            | Event::UndoOutcome { place, .. }
            | Event::Decision { place, decision: Decision::Adopt { .. } } => place,
            Event::Decision {
                decision: Decision::Skip { .. } | Decision::Run { .. } | Decision::Stop { .. }, ..
            }
            | Event::Started(_)
            | Event::Lock { .. }
            | Event::Torn { .. }
            | Event::Progress { .. }
            | Event::Probe { .. }
            | Event::Override { .. }
            | Event::Ended { .. }
            | Event::Unrecognized => return,
        };
        if self.duty == Duty::Each && !checks.contains(place) {
            // A thread that has ended says so when it is asked.
            let _ = self.commands.send(Command::Nudge);
        }
    }

    /// Returns when everything that the journals hold now is there, if it must be.
    pub(super) async fn confirm(&self) -> Result<(), StateError> {
        match self.duty {
            Duty::Each => self.ask(Command::Confirm).await,
            Duty::End => Ok(()),
        }
    }

    /// Brings up what is left, in so much time. What could not be is told by [`shown`](Self::shown).
    pub(super) async fn close(&self, within: Duration) {
        self.end(within, false).await;
    }

    async fn end(&self, within: Duration, tidies: bool) {
        let closed = self.ask(|answer| Command::Close(tidies, answer));
        let trouble = match tokio::time::timeout(within, closed).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.why(),
            Err(_) => format!("it took longer than {} s", within.as_secs()),
        };
        lock(&self.shown).trouble = Some(trouble);
    }

    /// Brings up what the artifacts do not have yet, of this attempt or a later one, after the process that wrote it ended.
    pub async fn finish(&self, within: Duration) {
        let trouble = match tokio::time::timeout(within, self.ask(Command::Survey)).await {
            Ok(Ok(())) => return self.end(within, true).await,
            Ok(Err(error)) => error.why(),
            Err(_) => format!("it took longer than {} s", within.as_secs()),
        };
        lock(&self.shown).trouble = Some(trouble);
    }

    async fn ask(&self, command: impl FnOnce(Answer<()>) -> Command) -> Result<(), StateError> {
        let gone = || StateError::Unsaved { why: "the thread that brings it there has ended".to_owned() };
        let (answer, answered) = oneshot::channel();
        self.commands.send(command(answer)).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

/// What the thread has.
struct Worker {
    job: Arc<Job>,
    folder: PathBuf,
    shown: Arc<Mutex<Shown>>,
    /// So many lines are there.
    acknowledged: u64,
    /// Checkpoints that are there, the newest last.
    kept: Vec<Listed>,
    /// How many lines the uploads have that are under way.
    on_the_way: Vec<u64>,
    /// Who waits until so many lines are there.
    waiting: Vec<(u64, Answer<()>)>,
    /// Something was written since the last upload began.
    is_behind: bool,
    /// An upload failed, and is tried again later.
    is_owed: bool,
}

type Uploaded = (u64, Result<Listed, ArtifactError>);

impl Worker {
    async fn serve(mut self, mut orders: UnboundedReceiver<Command>) {
        let artifacts = match Artifacts::new(self.job.access.clone()) {
            Ok(artifacts) => Arc::new(artifacts),
            Err(error) => return refuse(orders, &error).await,
        };
        let (mut uploads, mut removals) = (JoinSet::<Uploaded>::new(), JoinSet::<()>::new());
        let mut closing = None;
        loop {
            tokio::select! {
                biased;
                Some(Ok(done)) = uploads.join_next(), if !uploads.is_empty() => self.uploaded(done),
                Some(_) = removals.join_next(), if !removals.is_empty() => {}
                order = orders.recv(), if closing.is_none() => match order {
                    Some(Command::Fetch(answer)) => drop(answer.send(self.fetch(&artifacts).await)),
                    Some(Command::Survey(answer)) => drop(answer.send(self.survey(&artifacts).await)),
                    Some(Command::Nudge) => self.is_behind = true,
                    Some(Command::Confirm(answer)) => self.want(answer, &artifacts, &mut uploads),
                    Some(Command::Close(tidies, answer)) => {
                        let (last, there) = oneshot::channel();
                        self.want(last, &artifacts, &mut uploads);
                        closing = Some((tidies, there, answer));
                    }
                    None => return,
                },
                () = tokio::time::sleep(LATER), if self.is_owed && closing.is_none() => (self.is_owed, self.is_behind) = (false, true),
                else => {}
            }
            if self.is_behind && self.on_the_way.is_empty() && closing.is_none() {
                self.begin(&artifacts, &mut uploads);
            }
            while self.kept.len() > 1 {
                let (artifacts, superseded) = (Arc::clone(&artifacts), self.kept.remove(0));
                // One that stays takes room until it expires, no more.
                removals.spawn(async move { drop(artifacts.delete(&superseded).await) });
            }
            let is_over =
                uploads.is_empty() && closing.as_ref().is_some_and(|(tidies, ..)| removals.is_empty() || !tidies);
            if is_over && let Some((_, mut there, answer)) = closing.take() {
                let result = there.try_recv().unwrap_or_else(|_| Err(unsaved("it was given up")));
                let _ = answer.send(result);
                // What is superseded goes as long as this process has other things to do; `post` removes the rest.
                while removals.join_next().await.is_some() {}
                return;
            }
        }
    }

    /// What is written goes up, unless it is there or on its way.
    fn begin(&mut self, artifacts: &Arc<Artifacts>, uploads: &mut JoinSet<Uploaded>) -> Option<u64> {
        self.is_behind = false;
        let snapshot = match Snapshot::of(&self.folder) {
            Ok(snapshot) => snapshot,
            Err(error) => {
                lock(&self.shown).trouble = Some(error.why());
                return None;
            }
        };
        let lines = snapshot.lines;
        if lines > self.acknowledged && self.on_the_way.iter().all(|other| *other < lines) {
            self.on_the_way.push(lines);
            let (artifacts, job) = (Arc::clone(artifacts), Arc::clone(&self.job));
            uploads.spawn(async move {
                let Job { identity, attempt, commit, key, .. } = &*job;
                let zip = snapshot.pack(identity, *attempt, commit.clone(), key.as_ref());
                (lines, artifacts.upload(&identity.stem(*attempt, lines), zip.into()).await)
            });
        }
        Some(lines)
    }

    fn want(&mut self, answer: Answer<()>, artifacts: &Arc<Artifacts>, uploads: &mut JoinSet<Uploaded>) {
        match self.begin(artifacts, uploads) {
            None => drop(answer.send(Err(unsaved("the journals here can't be read")))),
            Some(lines) if lines <= self.acknowledged => drop(answer.send(Ok(()))),
            Some(lines) => self.waiting.push((lines, answer)),
        }
    }

    fn uploaded(&mut self, (lines, result): Uploaded) {
        self.on_the_way.retain(|other| *other != lines);
        let mut shown = lock(&self.shown);
        match result {
            Ok(stored) => {
                shown.trouble = None;
                if lines > self.acknowledged {
                    self.acknowledged = lines;
                    shown.newest = Some(stored.name.clone());
                    self.kept.push(stored);
                } else {
                    self.kept.insert(0, stored);
                }
                for (needed, answer) in std::mem::take(&mut self.waiting) {
                    if needed <= self.acknowledged {
                        let _ = answer.send(Ok(()));
                    } else {
                        self.waiting.push((needed, answer));
                    }
                }
            }
            Err(error) => {
                let why = reasons(&error);
                for (needed, answer) in std::mem::take(&mut self.waiting) {
                    if self.on_the_way.iter().any(|other| *other >= needed) {
                        self.waiting.push((needed, answer));
                    } else {
                        let _ = answer.send(Err(unsaved(&why)));
                    }
                }
                shown.trouble = Some(why);
                self.is_owed = true;
            }
        }
    }

    /// What another process of this job has brought there. Nothing goes up that would hide something which is not here.
    async fn survey(&mut self, artifacts: &Artifacts) -> Result<(), StateError> {
        let job = Arc::clone(&self.job);
        let here = Snapshot::of(&self.folder)?;
        let found = self.found(artifacts).await?;
        let mut newest: Option<(Listed, Vec<Kept>)> = None;
        for (place, listed) in found {
            // What can't be read was not stored to its end, or by somebody else: at worst one is stored too many.
            let unpacked = match artifacts.download(&listed).await {
                Ok(content) => {
                    let unpacked = bundle::unpack(&content, place, &job.identity, job.key.as_ref());
                    unpacked.map_err(|error| error.to_string())
                }
                Err(error) => Err(error.to_string()),
            };
            match (unpacked, &newest) {
                (Err(why), _) => self.pass_over(&listed.name, &why),
                (Ok(kept), Some((_, newest))) if bundle::holds(newest, &kept) => self.kept.insert(0, listed),
                (Ok(_), Some(_)) => {}
                (Ok(kept), None) => match here.beside(&kept) {
                    Beside::Covered => {
                        self.acknowledged = here.lines;
                        lock(&self.shown).newest = Some(listed.name.clone());
                        newest = Some((listed, kept));
                    }
                    Beside::Ahead => break,
                    Beside::Apart => {
                        return Err(unsaved(&format!("artifact {} has what this machine has not", listed.name)));
                    }
                },
            }
        }
        match newest {
            Some((newest, _)) => self.kept.push(newest),
            None if self.is_begun()? => {}
            // Nothing of this workflow run is here.
            None => self.acknowledged = here.lines,
        }
        Ok(())
    }

    /// Whether an attempt of this workflow run is on record here.
    fn is_begun(&self) -> Result<bool, StateError> {
        let paths: Vec<PathBuf> = journals_in(&self.folder)?.into_iter().map(|(_, path)| path).collect();
        let loaded = Loaded::read(&paths, |_| ()).map_err(|error| unsaved(&reasons(&error)))?;
        Ok(loaded
            .state
            .attempts
            .iter()
            .any(|attempt| attempt.header.url.is_some() && attempt.header.url == self.job.url))
    }

    /// The checkpoints of this job, of this attempt and those before, as their names say; the newest first.
    async fn found(&self, artifacts: &Artifacts) -> Result<Vec<((u32, u64), Listed)>, StateError> {
        let Job { identity, attempt, .. } = &*self.job;
        let listed = artifacts.list(&identity.prefix()).await?;
        let of_this_job = |listed: Listed| Some((identity.place_of(&listed.name)?, listed));
        let mut found: Vec<_> =
            listed.into_iter().filter_map(of_this_job).filter(|((of, _), _)| of <= attempt).collect();
        found.sort_by(|(a, one), (b, other)| b.cmp(a).then_with(|| one.name.cmp(&other.name)));
        Ok(found)
    }

    /// The newest checkpoint of this job, brought to the folder. A read that fails is no checkpoint missing.
    async fn fetch(&mut self, artifacts: &Artifacts) -> Result<(), StateError> {
        let job = Arc::clone(&self.job);
        let Job { identity, key, .. } = &*job;
        let found = self.found(artifacts).await?;
        let mut refused = None;
        for (place, listed) in found {
            let content = artifacts.download(&listed).await?;
            let name = listed.name.clone();
            match bundle::unpack(&content, place, identity, key.as_ref()) {
                Ok(kept) => {
                    bundle::merge(&self.folder, &kept, &name)?;
                    lock(&self.shown).resumed_from = Some(name);
                    // All of it is in the next one.
                    self.kept.push(listed);
                    return Ok(());
                }
                // Its upload was not acknowledged to anybody: nothing hangs on it. One with a digest was.
                Err(BundleError::Cut) if listed.digest.is_none() => {
                    self.pass_over(&name, &BundleError::Cut.to_string())
                }
                // One of those before it may have the MAC, and be what its name says.
                Err(error @ (BundleError::Forged | BundleError::Misnamed | BundleError::Cut)) if key.is_some() => {
                    self.pass_over(&name, &error.to_string());
                    refused.get_or_insert(StateError::Checkpoint { name, source: error });
                }
                Err(source) => return Err(StateError::Checkpoint { name, source }),
            }
        }
        match refused {
            Some(refused) => Err(refused),
            None => {
                lock(&self.shown).is_missing = true;
                Ok(())
            }
        }
    }

    fn pass_over(&self, name: &str, why: &str) {
        lock(&self.shown).passed_over.push(format!("{name}: {why}"));
    }
}

/// Tells everybody that nothing can be brought anywhere.
async fn refuse(mut orders: UnboundedReceiver<Command>, error: &ArtifactError) {
    while let Some(order) = orders.recv().await {
        match order {
            Command::Fetch(answer) | Command::Survey(answer) | Command::Confirm(answer) | Command::Close(_, answer) => {
                let _ = answer.send(Err(unsaved(&reasons(error))));
            }
            Command::Nudge => {}
        }
    }
}

fn unsaved(why: &str) -> StateError {
    StateError::Unsaved { why: why.to_owned() }
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
