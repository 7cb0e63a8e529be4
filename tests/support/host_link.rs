//! The network between this machine and one host: it can fail after so many bytes, and be down.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

/// Where bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkDirection {
    ToHost,
    FromHost,
}

/// What becomes of the connections on a link that was held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkEnd {
    /// Both ends are told that they are closed.
    Closed,
    /// Nothing arrives on them any more, and nobody is told.
    Silent,
    /// They go on.
    Restored,
}

/// Forwards connections to a host until it is dropped.
pub struct HostLink {
    port: u16,
    shared: Arc<SharedLink>,
}

#[derive(Default)]
struct SharedLink {
    state: Mutex<LinkState>,
    changed: Condvar,
}

#[derive(Default)]
struct LinkState {
    /// The bytes so far, to and from the host.
    passed: [u64; 2],
    /// Holds everything once so many bytes have passed in a direction.
    hold_at: Option<(LinkDirection, u64)>,
    is_held: bool,
    /// Connections of an earlier generation are silent.
    generation: u64,
    is_down: bool,
    is_over: bool,
    open: Vec<TcpStream>,
}

impl HostLink {
    /// A link to a port of this machine.
    pub fn to_port(upstream: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(SharedLink::default());
        let serving = Arc::clone(&shared);
        thread::spawn(move || serving.serve(listener, address, upstream));
        Self { port: address.port(), shared }
    }

    /// The port of this machine that leads to the host.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many bytes have passed since the last call, to and from the host.
    pub fn take_passed(&self) -> [u64; 2] {
        std::mem::take(&mut self.shared.state().passed)
    }

    /// Holds everything as soon as so many bytes have passed from now on.
    pub fn hold_after(&self, direction: LinkDirection, bytes: u64) {
        let mut state = self.shared.state();
        state.passed = [0, 0];
        state.hold_at = Some((direction, bytes));
    }

    /// Waits until it holds everything; `false` if that has not come after `timeout`.
    pub fn wait_until_held(&self, timeout: Duration) -> bool {
        let state = self.shared.state();
        let waited = self.shared.changed.wait_timeout_while(state, timeout, |state| !state.is_held);
        waited.unwrap_or_else(PoisonError::into_inner).0.is_held
    }

    /// Says what becomes of the connections that are held. New ones are forwarded, unless the link is down.
    pub fn end(&self, end: LinkEnd) {
        let mut state = self.shared.state();
        match end {
            LinkEnd::Closed => {
                state.generation += 1;
                for stream in state.open.drain(..) {
                    let _ = stream.shutdown(Shutdown::Both);
                }
            }
            LinkEnd::Silent => state.generation += 1,
            LinkEnd::Restored => {}
        }
        (state.is_held, state.hold_at) = (false, None);
        self.shared.changed.notify_all();
    }

    /// Refuses new connections, or takes them again.
    pub fn set_down(&self, is_down: bool) {
        self.shared.state().is_down = is_down;
        if is_down {
            // Wakes who accepts connections.
            let _ = TcpStream::connect(("127.0.0.1", self.port));
        }
        self.shared.changed.notify_all();
        let is_open = || TcpStream::connect(("127.0.0.1", self.port)).is_ok();
        super::wait_until("the link is as it should be", || is_open() != is_down);
    }
}

impl Drop for HostLink {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.is_over = true;
        state.generation += 1;
        for stream in state.open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.shared.changed.notify_all();
        drop(state);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl SharedLink {
    fn state(&self) -> MutexGuard<'_, LinkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(self: &Arc<Self>, mut listener: TcpListener, address: SocketAddr, upstream: u16) {
        loop {
            let client = listener.accept();
            let mut state = self.state();
            if state.is_over {
                return;
            }
            if state.is_down {
                drop((client, listener));
                state = self.changed.wait_while(state, |state| state.is_down && !state.is_over).unwrap();
                if state.is_over {
                    return;
                }
                listener = TcpListener::bind(address).unwrap();
                continue;
            }
            let (Ok((client, _)), Ok(server)) = (client, TcpStream::connect(("127.0.0.1", upstream))) else { continue };
            let generation = state.generation;
            state.open.extend([client.try_clone().unwrap(), server.try_clone().unwrap()]);
            drop(state);
            let back = (server.try_clone().unwrap(), client.try_clone().unwrap());
            for (direction, (from, to)) in [(LinkDirection::ToHost, (client, server)), (LinkDirection::FromHost, back)]
            {
                let link = Arc::clone(self);
                thread::spawn(move || link.forward(direction, generation, from, to));
            }
        }
    }

    fn forward(&self, direction: LinkDirection, generation: u64, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = [0; 16 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            let mut rest = &buffer[..length];
            while !rest.is_empty() {
                let allowed = self.wait_for_room(direction, generation, rest.len());
                if allowed > 0 && to.write_all(&rest[..allowed]).is_err() {
                    return;
                }
                // What is not allowed now is lost, if the connection has become silent meanwhile.
                rest = if allowed == 0 { &[] } else { &rest[allowed..] };
            }
        }
        if self.state().generation == generation {
            let _ = to.shutdown(Shutdown::Write);
        }
    }

    /// How many of these bytes may pass, once any may; none on a connection that is silent.
    fn wait_for_room(&self, direction: LinkDirection, generation: u64, length: usize) -> usize {
        let state = self.state();
        let is_held = |state: &mut LinkState| state.is_held && state.generation == generation;
        let mut state = self.changed.wait_while(state, is_held).unwrap_or_else(PoisonError::into_inner);
        if state.generation != generation {
            return 0;
        }
        let mut allowed = length;
        if let Some((holding, at)) = state.hold_at.filter(|(holding, _)| *holding == direction) {
            let left = at.saturating_sub(state.passed[holding as usize]);
            if left <= length as u64 {
                state.is_held = true;
                self.changed.notify_all();
                allowed = usize::try_from(left).unwrap_or(length);
            }
        }
        state.passed[direction as usize] += allowed as u64;
        if allowed == 0 {
            // Held at exactly this byte.
            drop(state);
            return self.wait_for_room(direction, generation, length);
        }
        allowed
    }
}
