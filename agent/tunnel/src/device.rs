//! The device as its owner sees it, and what its threads share.

use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;
use std::num::NonZeroU8;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use mesh_aead::Method;

use crate::clock::{self, Resumptions};
use crate::config::{DeviceOptions, DeviceState, DeviceUpdate, Offloads};
use crate::control::{self, Request};
use crate::counters::Counters;
use crate::environment::Environment;
use crate::error::Error;
use crate::flood::Flood;
use crate::handle::{DeviceHandle, Revocable};
use crate::handshake_limiter::HandshakeLimiter;
use crate::handshakes;
use crate::inbound;
use crate::indices::Indices;
use crate::inner::Inner;
use crate::mtu::Mtu;
use crate::noise::Identity;
use crate::outbound::{self, Outbound};
use crate::output::Output;
use crate::path::Watch;
use crate::peer::Context;
use crate::sys::{self, Event};
use crate::table::Table;
use crate::transmit::Outside;
use crate::uapi::Server;
use crate::udp::Sockets;
use crate::underlay;

/// A running device. Dropping it stops it.
pub struct Device {
    shared: Arc<Shared>,
    revocable: Arc<Revocable>,
    threads: Vec<JoinHandle<()>>,
}

/// What the device's threads share. Locks are taken in the order of the fields, and a peer's own after `table`. Every
/// packet needs `table`: no thread asks the system for anything that may take its time while holding it.
pub(crate) struct Shared {
    name: String,
    pub(crate) threads: NonZeroU8,
    /// What may be used.
    pub(crate) offloads: Offloads,
    pub(crate) watch: Option<Watch>,
    table: RwLock<Table>,
    sockets: RwLock<Arc<Sockets>>,
    pub(crate) inner: Inner,
    pub(crate) counters: Counters,
    pub(crate) limiter: HandshakeLimiter,
    pub(crate) control: Sender<Request>,
    /// Those of each pair of threads.
    pub(crate) wakes: Vec<Wakes>,
    pub(crate) wake_handshakes: Event,
    pub(crate) wake_uapi: Event,
    /// `None` where the system has no such thing: then what is due after the machine was suspended may come late.
    pub(crate) resumptions: Option<Resumptions>,
    flood: Mutex<Flood>,
    /// The interface's MTU when it was last looked at.
    mtu: AtomicU16,
    stopping: AtomicBool,
    running: Mutex<usize>,
    ended: Condvar,
}

/// What wakes a pair of threads.
pub(crate) struct Wakes {
    pub(crate) inbound: Event,
    pub(crate) outbound: Event,
}

impl Device {
    /// Makes the interface, opens a UDP port that the system chooses, and starts the device's threads. The interface is
    /// down, without addresses, and the device has no key and no peers.
    ///
    /// The UDP sockets, now and after every change of the port, belong to the network namespace of the thread that calls
    /// this; the interface may be moved elsewhere.
    ///
    /// # Errors
    /// [`Error::TunMissing`], [`Error::PermissionDenied`], [`Error::NameInvalid`], [`Error::NameTaken`],
    /// [`Error::UapiBusy`], [`Error::Io`]. Nothing is left behind.
    pub fn create(options: DeviceOptions) -> Result<Self, Error> {
        let (threads, offloads) = (options.threads, options.offloads);
        let mtu = options.mtu.unwrap_or_else(underlay::derived_mtu);
        let inner = Inner::create(&options, mtu)?;
        let mut sockets = Sockets::bind(0, 0, threads, offloads)?;
        sockets.take_handshakes_apart();
        let server = options.uapi.then(|| Server::bind(&options.name)).transpose()?;
        let indices = Indices::random().map_err(Error::io("draw a random number"))?;
        let event = || Event::new().map_err(Error::io("make an event descriptor"));
        let wakes = (0..threads.get()).map(|_| Ok(Wakes { inbound: event()?, outbound: event()? }));
        let wakes = wakes.collect::<Result<_, Error>>()?;
        let (control, requests) = mpsc::channel();
        let mut table = Table::new(indices);
        table.aead = if offloads.batch_aead { Method::best() } else { Method::Single };
        let shared = Arc::new(Shared {
            name: options.name,
            threads,
            offloads,
            watch: options.watch,
            table: RwLock::new(table),
            sockets: RwLock::new(Arc::new(sockets)),
            inner,
            counters: Counters::default(),
            limiter: HandshakeLimiter::new(),
            control,
            wakes,
            wake_handshakes: event()?,
            wake_uapi: event()?,
            resumptions: Resumptions::watch()
                .inspect_err(|error| tracing::debug!(%error, "no notice when the machine resumes"))
                .ok(),
            flood: Mutex::new(Flood::default()),
            mtu: AtomicU16::new(mtu),
            stopping: AtomicBool::new(false),
            running: Mutex::new(0),
            ended: Condvar::new(),
        });
        let mut device = Self { revocable: Revocable::new(&shared), shared, threads: Vec::new() };
        device.start(requests, Mtu::new(options.mtu.is_none().then_some(mtu)), server)?;
        Ok(device)
    }

    /// Where this fails half way, dropping the device ends the threads that did start.
    fn start(&mut self, requests: Receiver<Request>, mtu: Mtu, server: Option<Server>) -> Result<(), Error> {
        self.spawn("wg-control", move |shared| control::run(shared, &requests, mtu))?;
        for queue in 0..self.shared.wakes.len() {
            let outbound = Arc::new(Mutex::new(Outbound::new(&self.shared, queue)));
            let same = Arc::clone(&outbound);
            self.spawn(&format!("wg-inbound{queue}"), move |shared| inbound::run(shared, queue, &same))?;
            self.spawn(&format!("wg-outbound{queue}"), move |shared| outbound::run(shared, &outbound))?;
        }
        self.spawn("wg-handshakes", handshakes::run)?;
        if let Some(server) = server {
            self.spawn("wg-uapi", move |shared| server.run(shared))?;
        }
        Ok(())
    }

    fn spawn(&mut self, name: &str, body: impl FnOnce(&Shared) + Send + 'static) -> Result<(), Error> {
        let running = Running::begin(Arc::clone(&self.shared));
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || body(&running.0))
            .map_err(Error::io(format!("start the thread `{name}`")))?;
        self.threads.push(thread);
        Ok(())
    }

    /// The interface's name when it was made.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Applies an update as a whole and returns when it is in force: a removed peer's packets are not let in any more.
    ///
    /// # Errors
    /// [`Error::PortTaken`], [`Error::PermissionDenied`] or [`Error::Io`] where the port or the mark cannot be set:
    /// nothing was changed. [`Error::Stopped`] where the device has ended.
    pub fn apply(&self, update: DeviceUpdate) -> Result<(), Error> {
        self.shared.apply(update)
    }

    /// The device as it is now.
    #[must_use]
    pub fn snapshot(&self) -> DeviceState {
        self.shared.snapshot()
    }

    /// The device for those who do not own it: they change the paths to its peers while it runs.
    #[must_use]
    pub fn handle(&self) -> DeviceHandle {
        DeviceHandle(Arc::clone(&self.revocable))
    }

    /// Stops the device: when this returns, interface, UAPI socket and UDP sockets are gone.
    ///
    /// # Errors
    /// [`Error::Io`] where one of its threads had panicked.
    pub fn stop(mut self) -> Result<(), Error> {
        self.end()
    }

    /// False once the device has ended: it was stopped or its interface deleted. Only making a new one helps then.
    #[must_use]
    pub fn is_running(&self) -> bool {
        !self.shared.is_stopping()
    }

    /// Waits until the device has ended: it was stopped or its interface deleted.
    pub fn wait(&self) {
        let mut running = self.shared.running.lock().unwrap_or_else(PoisonError::into_inner);
        while *running > 0 {
            running = self.shared.ended.wait(running).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What another thread needs to make [`Self::wait`] return.
    pub(crate) fn stopper(&self) -> impl FnOnce() + Send + 'static {
        let shared = Arc::clone(&self.shared);
        move || shared.begin_stop()
    }

    fn end(&mut self) -> Result<(), Error> {
        self.shared.begin_stop();
        // Calls that are inside end first.
        self.revocable.revoke();
        let panicked = self.threads.drain(..).filter_map(|thread| thread.join().err()).count();
        if panicked > 0 {
            let source = std::io::Error::other(format!("{panicked} of the device's threads panicked"));
            return Err(Error::Io { what: format!("end the device `{}` in order", self.shared.name), source });
        }
        Ok(())
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::error!(%error);
        }
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device").field("name", &self.shared.name).finish_non_exhaustive()
    }
}

/// One of the device's threads. When the first ends, for whatever reason, the others are asked to.
struct Running(Arc<Shared>);

impl Running {
    fn begin(shared: Arc<Shared>) -> Self {
        *shared.running.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Self(shared)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.begin_stop();
        *self.0.running.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.ended.notify_all();
    }
}

/// The real machine.
pub(crate) struct Machine;

impl Environment for Machine {
    fn wall_clock(&self) -> SystemTime {
        SystemTime::now()
    }

    fn worked(&self) -> Duration {
        sys::thread_time()
    }

    fn random(&self) -> u64 {
        // What the standard library draws for its own maps.
        RandomState::new().hash_one(())
    }
}

impl Shared {
    pub(crate) fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the control thread alone.
    pub(crate) fn table_mut(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sockets in use. Do not hold on to them while waiting: they are closed when the last holder lets go.
    pub(crate) fn sockets(&self) -> Arc<Sockets> {
        Arc::clone(&self.sockets.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What a peer needs to work on a packet or timer now.
    pub(crate) fn context<'a>(&'a self, identity: &'a Identity, output: &'a mut Output) -> Context<'a> {
        let Self { counters, limiter, flood, watch, .. } = self;
        let tap = watch.as_ref().map(|watch| watch.tap);
        Context { identity, counters, limiter, flood, tap, environment: &Machine, now: clock::now(), output }
    }

    /// As [`Outside::carry_out`], where no stream is read. No peer may be locked, and the table is still held under which the
    /// peers decided, so that an update that removed one returns after the last datagram to it.
    pub(crate) fn carry_out(&self, output: &mut Output) -> bool {
        !output.is_empty() && self.outside(&self.sockets()).carry_out(output, |_, _| {})
    }

    /// Where what peers decide goes.
    pub(crate) fn outside<'a>(&'a self, sockets: &'a Sockets) -> Outside<'a> {
        Outside { sockets, counters: &self.counters, control: &self.control, watch: self.watch.as_ref() }
    }

    /// For the control thread alone.
    pub(crate) fn replace_sockets(&self, sockets: Sockets) {
        *self.sockets.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(sockets);
        for wakes in &self.wakes {
            wakes.inbound.signal();
        }
        self.wake_handshakes.signal();
    }

    /// The interface's MTU, as old as the last packet that was sent, and a second.
    pub(crate) fn mtu(&self) -> u16 {
        self.mtu.load(Ordering::Relaxed)
    }

    /// Looks at the interface's MTU. See [`crate::tun::Tun::mtu`] for who must not call this.
    pub(crate) fn read_mtu(&self) -> std::io::Result<u16> {
        let mtu = self.inner.mtu()?;
        self.mtu.store(mtu, Ordering::Relaxed);
        Ok(mtu)
    }

    /// As [`Self::read_mtu`], for those who must not wait; `None` where they would have to.
    pub(crate) fn read_mtu_if_free(&self) -> Option<std::io::Result<u16>> {
        let mtu = self.inner.mtu_if_free();
        if let Some(Ok(mtu)) = mtu {
            self.mtu.store(mtu, Ordering::Relaxed);
        }
        mtu
    }

    /// Changes the interface's MTU. See [`crate::tun::Tun::set_mtu`] for who must not call this.
    pub(crate) fn set_mtu(&self, mtu: u16) -> std::io::Result<()> {
        self.inner.set_mtu(mtu)?;
        self.mtu.store(mtu, Ordering::Relaxed);
        Ok(())
    }

    /// Where the peers are.
    pub(crate) fn endpoints(&self) -> Vec<SocketAddr> {
        let (table, now) = (self.table(), clock::now());
        table.members().filter_map(|member| member.peer.view(now).endpoint).collect()
    }

    pub(crate) fn begin_stop(&self) {
        if !self.stopping.swap(true, Ordering::SeqCst) {
            // Without a receiver the control thread has ended already.
            let _ = self.control.send(Request::Stop);
            for wakes in &self.wakes {
                wakes.inbound.signal();
                wakes.outbound.signal();
            }
            self.wake_handshakes.signal();
            self.wake_uapi.signal();
        }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    pub(crate) fn apply(&self, update: DeviceUpdate) -> Result<(), Error> {
        let (reply, answer) = mpsc::channel();
        self.control.send(Request::Apply { update, reply }).map_err(|_| Error::Stopped)?;
        answer.recv().map_err(|_| Error::Stopped)?
    }

    /// What works on many packets at once now.
    fn offloads_in_use(&self) -> Offloads {
        let (tun, udp) = (self.inner.offloads_in_use(), self.sockets().offloads_in_use());
        Offloads {
            tun_tso: tun.tun_tso,
            tun_uso: tun.tun_uso,
            udp_gso: udp.udp_gso,
            udp_gro: udp.udp_gro,
            batch_aead: self.table().aead != Method::Single,
        }
    }

    fn snapshot(&self) -> DeviceState {
        // Before the table is held. An interface that was just deleted has none; the device is about to end.
        let (mtu, gso_max_size) = (self.read_mtu().unwrap_or(0), self.inner.gso_max_size());
        let (table, now) = (self.table(), clock::now());
        DeviceState {
            public_key: table.identity.as_ref().map(|identity| identity.public()),
            listen_port: self.sockets().port(),
            fwmark: table.fwmark,
            mtu,
            threads: self.threads,
            offloads: self.offloads_in_use(),
            gso_max_size,
            peers: table.peers(now),
            drops: self.counters.read(),
        }
    }
}

#[cfg(test)]
mod tests;
