//! The world of the model: what its machines and its remote do in one step, and what must hold after each.

use super::*;

impl RemoteWorld {
    fn clock(&self) -> MonotonicTime {
        Duration::from_secs(self.now.into())
    }

    /// The remote's part of a write.
    pub(super) fn swap(&mut self, swap: &Swap) -> Result<bool, String> {
        if self.remote != swap.expected {
            return Ok(false);
        }
        self.remote = swap.new.clone();
        check_chain(&self.remote.journals)?;
        Ok(true)
    }

    pub(super) fn begin(&mut self, machine: usize) {
        let now = self.clock();
        let state = &mut self.machines[machine];
        state.attempts_left -= 1;
        state.tries += 1;
        let holder = LockHolder { who: machine.to_string(), url: None, purpose: None };
        let name = format!("{machine}-{}", state.tries);
        let nonces = HoldingNonces { release: format!("end-{name}"), holding: name };
        let wait = LockWait::For(Duration::from_secs(100));
        let acquirer = LockAcquirer::new(now, holder, nonces, TTL, wait, Timestamp::UNIX_EPOCH);
        state.phase = MachinePhase::Acquiring(Box::new(acquirer), Call::Read);
    }

    /// The newest epoch that a machine knows without asking.
    fn local_epoch(&self, machine: usize) -> u64 {
        newest(&self.machines[machine].journals).map_or(0, |(epoch, _)| epoch)
    }

    pub(super) fn call(&mut self, machine: usize, answer: Answer, protocol: RemoteProtocol) -> Result<(), String> {
        match std::mem::replace(&mut self.machines[machine].phase, MachinePhase::Idle) {
            MachinePhase::Idle => unreachable!("it calls nobody"),
            MachinePhase::Acquiring(acquirer, call) => self.call_acquiring(machine, *acquirer, call, answer, protocol),
            MachinePhase::Holding(holding) => self.call_holding(machine, *holding, answer, protocol),
        }
    }

    fn call_acquiring(
        &mut self,
        machine: usize,
        mut acquirer: LockAcquirer,
        call: Call,
        answer: Answer,
        protocol: RemoteProtocol,
    ) -> Result<(), String> {
        let now = self.clock();
        let again = |acquirer| MachinePhase::Acquiring(Box::new(acquirer), Call::Read);
        let next = match (call, answer) {
            (Call::Read, Answer::Arrives) => {
                let newest = self.local_epoch(machine).max(newest(&self.remote.journals).map_or(0, |(epoch, _)| epoch));
                match acquirer.on_read(now, &self.remote.lock.clone(), newest) {
                    AcquireAction::Write(lock) => {
                        acquirer.on_write_sent(now, &lock);
                        let expected = self.remote.clone();
                        let new = Manifest { lock, ..expected.clone() };
                        MachinePhase::Acquiring(Box::new(acquirer), Call::Write(Box::new(Swap { expected, new })))
                    }
                    AcquireAction::ReadAt(_) => again(acquirer),
                    AcquireAction::Acquired(lease) => self.acquired(machine, *lease, self.remote.clone(), protocol)?,
                    AcquireAction::GiveUp(_) => MachinePhase::Idle,
                }
            }
            (Call::Read, Answer::Lost | Answer::Late) => again(acquirer),
            (Call::Write(swap), Answer::Arrives) => {
                let is_swapped = self.swap(&swap)?;
                match acquirer.on_write_confirmed().filter(|_| is_swapped) {
                    Some(lease) => self.acquired(machine, lease, swap.new, protocol)?,
                    None => again(acquirer),
                }
            }
            (Call::Write(swap), Answer::Lost) => {
                self.swap(&swap)?;
                again(acquirer)
            }
            (Call::Write(swap), Answer::Late) => {
                self.machines[machine].late = Some(swap);
                again(acquirer)
            }
        };
        self.machines[machine].phase = next;
        Ok(())
    }

    fn acquired(
        &mut self,
        machine: usize,
        lease: Lease,
        known: Manifest,
        protocol: RemoteProtocol,
    ) -> Result<MachinePhase, String> {
        self.machines[machine].pull(&known.journals, protocol)?;
        Ok(MachinePhase::Holding(Box::new(Holding { lease, known, next: Next::Start })))
    }

    /// The manifest that a holder writes: everything that its machine has, and the lock.
    fn manifest_to_write(&self, machine: usize, lock: LockRecord, known: &Manifest) -> Manifest {
        let mut journals = known.journals.clone();
        for (epoch, lines) in &self.machines[machine].journals {
            let kept = journals.entry(*epoch).or_default();
            if kept.len() < lines.len() {
                lines.clone_into(kept);
            }
        }
        Manifest { lock, journals }
    }

    fn call_holding(
        &mut self,
        machine: usize,
        mut holding: Holding,
        answer: Answer,
        protocol: RemoteProtocol,
    ) -> Result<(), String> {
        let now = self.clock();
        let Next::Call(purpose, is_reading) = holding.next else { unreachable!("it calls nobody") };
        let confirmed = if is_reading {
            match answer {
                Answer::Arrives => {
                    let read = holding.lease.on_read_back(now, Some(&self.remote.lock));
                    holding.known = self.remote.clone();
                    read.map(|result| result == ReadBackResult::Confirmed)
                }
                Answer::Lost | Answer::Late => holding.lease.check(now).map(|()| false),
            }
            .map(|is_confirmed| (is_confirmed, answer == Answer::Arrives))
        } else {
            let mut lock = match purpose {
                Purpose::Release => holding.lease.released_record(Timestamp::UNIX_EPOCH),
                Purpose::Publish | Purpose::Confirm => holding.lease.next_record(),
            };
            if protocol == RemoteProtocol::AlikeTombstones && purpose == Purpose::Release {
                lock.nonce = "released".to_owned();
            }
            match holding.lease.on_write_sent(now, lock.clone()) {
                Err(lost) => Err(lost),
                Ok(()) => {
                    let new = self.manifest_to_write(machine, lock, &holding.known);
                    let swap = Box::new(Swap { expected: holding.known.clone(), new });
                    match answer {
                        Answer::Arrives if self.swap(&swap)? => {
                            holding.known = swap.new;
                            holding.lease.on_write_confirmed(now).map(|()| (true, false))
                        }
                        Answer::Arrives => Ok((false, false)),
                        Answer::Lost => self.swap(&swap).map(|_| Ok((false, false)))?,
                        Answer::Late => {
                            self.machines[machine].late = Some(swap);
                            Ok((false, false))
                        }
                    }
                }
            }
        };
        match confirmed {
            Err(_) => self.lose(machine, &holding, purpose, protocol),
            Ok((true, _)) => self.confirmed(machine, holding, purpose),
            // A rejected or unanswered write is read back; what was read is written upon.
            Ok((false, was_read)) => {
                holding.next = Next::Call(purpose, !was_read);
                self.machines[machine].phase = MachinePhase::Holding(Box::new(holding));
            }
        }
        Ok(())
    }

    /// The remote has what the machine had when it wrote.
    fn confirmed(&mut self, machine: usize, mut holding: Holding, purpose: Purpose) {
        for (epoch, lines) in &self.machines[machine].journals {
            let known = self.acknowledged.entry(*epoch).or_default();
            if known.len() < lines.len() {
                lines.clone_into(known);
            }
        }
        holding.next = match purpose {
            Purpose::Publish => Next::Prepare,
            Purpose::Confirm => Next::Commit,
            Purpose::Release => {
                self.machines[machine].phase = MachinePhase::Idle;
                return;
            }
        };
        self.machines[machine].phase = MachinePhase::Holding(Box::new(holding));
    }

    /// A holder learns that it has lost the lock. That of 0.1.0 writes how the attempt ended.
    fn lose(&mut self, machine: usize, holding: &Holding, purpose: Purpose, protocol: RemoteProtocol) {
        let state = &mut self.machines[machine];
        if protocol == RemoteProtocol::NoFence && purpose != Purpose::Release {
            let epoch = holding.lease.record().epoch;
            if purpose == Purpose::Confirm {
                state.append(epoch, RemoteLine::NotBegun(ModelStep::Commit));
            }
            state.append(epoch, RemoteLine::Ended);
        }
        state.phase = MachinePhase::Idle;
    }

    pub(super) fn step(&mut self, machine: usize, next: Next) -> Result<(), String> {
        let now = self.clock();
        let state = &mut self.machines[machine];
        let MachinePhase::Holding(holding) = &mut state.phase else { unreachable!("it holds the lock") };
        let epoch = holding.lease.record().epoch;
        let continues = newest(&state.journals);
        let (then, lines): (_, &[RemoteLine]) = match next {
            Next::Start => (Next::Call(Purpose::Publish, false), &[RemoteLine::Started(machine, continues)]),
            // Without asking the remote.
            Next::Prepare => {
                (Next::IntendCommit, &[RemoteLine::Intent(ModelStep::Prepare), RemoteLine::Outcome(ModelStep::Prepare)])
            }
            Next::IntendCommit => (Next::Call(Purpose::Confirm, false), &[RemoteLine::Intent(ModelStep::Commit)]),
            Next::Commit => (Next::End, &[RemoteLine::Outcome(ModelStep::Commit)]),
            Next::End => (Next::Call(Purpose::Release, false), &[RemoteLine::Ended]),
            Next::Call(..) => unreachable!("it waits for an answer"),
        };
        holding.next = then;
        lines.iter().for_each(|line| state.append(epoch, *line));
        if next == Next::Prepare {
            self.prepared.insert((machine, epoch));
        }
        let MachinePhase::Holding(holding) = &mut self.machines[machine].phase else {
            unreachable!("it holds the lock")
        };
        if next == Next::Commit && holding.lease.check(now).is_ok() {
            let recorded = self.remote.journals.get(&epoch).map_or(&[][..], Vec::as_slice);
            if !recorded.contains(&RemoteLine::Intent(ModelStep::Commit)) {
                return Err(format!("an effect without a record: machine {machine}, epoch {epoch}"));
            }
        }
        Ok(())
    }

    pub(super) fn force_release(&mut self, protocol: RemoteProtocol) {
        let lock = &self.remote.lock;
        let nonce = if protocol == RemoteProtocol::AlikeTombstones { "released" } else { "operator" };
        self.remote.lock = lock.tombstone(nonce.to_owned(), ReleasedBy::Operator, Timestamp::UNIX_EPOCH);
        self.forced_releases_left -= 1;
    }

    /// What the remote acknowledged is there.
    pub(super) fn check_acknowledged(&self) -> Result<(), String> {
        for (epoch, lines) in &self.acknowledged {
            if !self.remote.journals.get(epoch).is_some_and(|kept| kept.starts_with(lines)) {
                return Err(format!("an acknowledged record of epoch {epoch} is lost"));
            }
        }
        Ok(())
    }

    /// Each machine can go on, and knows of every step that acted.
    pub(super) fn check_machines(&self, protocol: RemoteProtocol) -> Result<(), String> {
        for (index, machine) in self.machines.iter().enumerate() {
            // A holder has pulled, and its journal is ahead of the remote's.
            if matches!(machine.phase, MachinePhase::Holding(_)) {
                continue;
            }
            let mut next = machine.clone();
            next.pull(&self.remote.journals, protocol).map_err(|why| format!("machine {index}: {why}"))?;
            let target = step_target(ModelStep::Prepare);
            for (_, epoch) in self.prepared.iter().filter(|(of, _)| *of == index) {
                let is_recorded = next
                    .journals
                    .get(epoch)
                    .is_some_and(|lines| lines.contains(&RemoteLine::Intent(ModelStep::Prepare)));
                if !is_recorded && !next.begun.contains(&(*epoch, target.clone())) {
                    return Err(format!("an effect without a record: machine {index}, epoch {epoch}, prepare"));
                }
            }
        }
        Ok(())
    }

    /// Who waits for two leases gets the lock.
    pub(super) fn check_lock_becomes_free(&self) -> Result<(), String> {
        let holder = LockHolder { who: "last".to_owned(), url: None, purpose: None };
        let nonces = HoldingNonces { holding: "last".to_owned(), release: "end".to_owned() };
        let mut now = self.clock();
        let mut acquirer = LockAcquirer::new(now, holder, nonces, TTL, LockWait::For(2 * TTL), Timestamp::UNIX_EPOCH);
        loop {
            match acquirer.on_read(now, &self.remote.lock, 0) {
                AcquireAction::ReadAt(at) => now = at,
                AcquireAction::Write(_) => return Ok(()),
                AcquireAction::Acquired(_) | AcquireAction::GiveUp(_) => {
                    return Err("stuck: the lock is held".to_owned());
                }
            }
        }
    }
}
