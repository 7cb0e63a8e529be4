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
    bundle::{self, BundleError, Identity, Key, Snapshot},
};
use crate::journal::{
    Event, Place,
    event::{Decision, Entry, Phase},
};

/// How the journals of this job are kept.
#[derive(Clone, Debug)]
pub struct Job {
    pub identity: Identity,
    /// The attempt of the workflow run. From the second on, there is something to resume from.
    pub attempt: u32,
    pub commit: Option<String>,
    pub key: Option<Key>,
    pub access: Access,
}

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
                let why = chain(&error);
                for (needed, answer) in std::mem::take(&mut self.waiting) {
                    if self.on_the_way.iter().any(|other| *other >= needed) {
                        self.waiting.push((needed, answer));
                    } else {
                        let _ = answer.send(Err(unsaved(&why)));
                    }
                }
                shown.trouble = Some(why);
            }
        }
    }

    /// What another process of this job has brought there.
    async fn survey(&mut self, artifacts: &Artifacts) -> Result<(), StateError> {
        let job = Arc::clone(&self.job);
        let identity = &job.identity;
        let listed = artifacts.list(&identity.prefix()).await?;
        let of_this_job = |listed: Listed| Some((identity.place_of(&listed.name)?, listed));
        let mut found: Vec<((u32, u64), Listed)> = listed.into_iter().filter_map(of_this_job).collect();
        found.retain(|((of, _), _)| *of >= self.job.attempt);
        found.sort_by_key(|(place, _)| std::cmp::Reverse(*place));
        for ((_, lines), listed) in found {
            if self.acknowledged > 0 {
                // All of it is in the newest.
                self.kept.insert(0, listed);
                continue;
            }
            // What was not stored to its end, or by somebody else, is not ours.
            let content = artifacts.download(&listed).await?;
            match bundle::unpack(&content, identity, self.job.key.as_ref()) {
                Ok(_) => {
                    self.acknowledged = lines;
                    lock(&self.shown).newest = Some(listed.name.clone());
                    self.kept.push(listed);
                }
                Err(why) => self.pass_over(&listed.name, &why),
            }
        }
        Ok(())
    }

    /// The newest checkpoint of this job, brought to the folder. A read that fails is no checkpoint missing.
    async fn fetch(&mut self, artifacts: &Artifacts) -> Result<(), StateError> {
        let Job { identity, attempt, key, .. } = &*self.job;
        let listed = artifacts.list(&identity.prefix()).await?;
        let of_this_job = |listed: Listed| Some((identity.place_of(&listed.name)?, listed));
        let mut found: Vec<((u32, u64), Listed)> = listed.into_iter().filter_map(of_this_job).collect();
        found.retain(|((of, _), _)| of <= attempt);
        found.sort_by(|(a, one), (b, other)| b.cmp(a).then_with(|| one.name.cmp(&other.name)));
        let mut refused = None;
        for (_, listed) in found {
            let content = artifacts.download(&listed).await?;
            let name = listed.name.clone();
            match bundle::unpack(&content, identity, key.as_ref()) {
                Ok(kept) => {
                    bundle::merge(&self.folder, &kept, &name)?;
                    lock(&self.shown).resumed_from = Some(name);
                    // All of it is in the next one.
                    self.kept.push(listed);
                    return Ok(());
                }
                // Its upload was not acknowledged to anybody: nothing hangs on it. One with a digest was.
                Err(BundleError::Cut) if listed.digest.is_none() => self.pass_over(&name, &BundleError::Cut),
                // One of those before it may have the MAC.
                Err(error @ BundleError::Forged) => {
                    self.pass_over(&name, &error);
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

    fn pass_over(&self, name: &str, why: &BundleError) {
        lock(&self.shown).passed_over.push(format!("{name}: {why}"));
    }
}

/// Tells everybody that nothing can be brought anywhere.
async fn refuse(mut orders: UnboundedReceiver<Command>, error: &ArtifactError) {
    while let Some(order) = orders.recv().await {
        match order {
            Command::Fetch(answer) | Command::Survey(answer) | Command::Confirm(answer) | Command::Close(_, answer) => {
                let _ = answer.send(Err(unsaved(&chain(error))));
            }
            Command::Nudge => {}
        }
    }
}

fn unsaved(why: &str) -> StateError {
    StateError::Unsaved { why: why.to_owned() }
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
