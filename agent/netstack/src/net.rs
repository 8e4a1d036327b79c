//! The stack as tasks use it, and the thread that serves it.

use std::future::poll_fn;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mesh_tunnel::PacketLink;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::error::NetError;
use crate::listener::Listener;
use crate::stack::{Place, Stack};
use crate::stream::{Opening, Stream};
use crate::udp::UdpPort;

/// While the thread sleeps for no longer than this, it need not be woken for what a task has sent: no acknowledgement is overdue sooner.
const TICK: Duration = Duration::from_millis(100);

/// When the thread's next deadline is nearer than this, packets are under way, and it looks again every [`TICK`].
const BUSY: Duration = Duration::from_secs(1);

/// The thread sleeps for at least so long, unless something comes.
const LEAST: Duration = Duration::from_millis(1);

/// The network in this process. The clones are the same one; it ends with the last.
#[derive(Clone)]
pub struct Netstack(Arc<Owner>);

struct Owner {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the tasks and the thread share.
pub(crate) struct Shared {
    link: PacketLink,
    start: Instant,
    served: Mutex<Served>,
}

struct Served {
    stack: Stack<PacketLink>,
    /// When the thread will look again by itself; `None`: it will not.
    wakes_at: Option<Duration>,
}

impl Netstack {
    /// Starts the thread that serves this link. There is no address yet, and so no connection.
    ///
    /// # Errors
    /// The system has no more threads.
    pub fn start(link: PacketLink) -> io::Result<Self> {
        let stack = Stack::new(link.clone(), random);
        let served = Mutex::new(Served { stack, wakes_at: None });
        let shared = Arc::new(Shared { link, start: Instant::now(), served });
        let same = Arc::clone(&shared);
        let thread = thread::Builder::new().name("netstack".to_owned()).spawn(move || serve(&same))?;
        Ok(Self(Arc::new(Owner { shared, thread: Mutex::new(Some(thread)) })))
    }

    /// This node's mesh address from now on, in this network; `None`: it has none, and nothing is sent. Connections of another address
    /// end, listeners and UDP ports stay.
    pub fn set_address(&self, address: Option<(Ipv4Addr, Ipv4Addr, u8)>) {
        let place = address.map(|(address, base, prefix)| Place { address, base, prefix });
        self.0.shared.with(|stack, now| stack.set_place(place, now));
    }

    /// This node's mesh address, while it has one.
    #[must_use]
    pub fn address(&self) -> Option<Ipv4Addr> {
        self.0.shared.with(|stack, _| stack.place()).map(|place| place.address)
    }

    /// Connects to a port of a peer's mesh address. Given up when dropped.
    ///
    /// # Errors
    /// [`NetError`] says why; within ten seconds.
    pub async fn connect(&self, to: SocketAddrV4) -> Result<Stream, NetError> {
        let shared = &self.0.shared;
        let handle = shared.with(|stack, now| stack.connect(to, now))?;
        let mut opening = Opening::new(Arc::clone(shared), handle);
        poll_fn(|context| {
            shared.with(|stack, now| match stack.opened(handle, to, now) {
                Some(opened) => Poll::Ready(opened),
                None => {
                    stack.socket(handle).register_send_waker(context.waker());
                    Poll::Pending
                }
            })
        })
        .await?;
        Ok(opening.take_stream(to))
    }

    /// Listens at a port of this node's mesh address, also of one that it gets later.
    ///
    /// # Errors
    /// [`NetError::PortTaken`], [`NetError::Stopped`].
    pub fn listen(&self, port: u16) -> Result<Listener, NetError> {
        self.0.shared.with(|stack, _| stack.listen(port))?;
        Ok(Listener::new(Arc::clone(&self.0.shared), port))
    }

    /// A UDP port of this node's mesh address, also of one that it gets later.
    ///
    /// # Errors
    /// [`NetError::PortTaken`].
    pub fn bind_udp(&self, port: u16) -> Result<UdpPort, NetError> {
        let handle = self.0.shared.with(|stack, _| stack.bind_udp(port))?;
        Ok(UdpPort::new(Arc::clone(&self.0.shared), port, handle))
    }
}

impl std::fmt::Debug for Netstack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Netstack").finish_non_exhaustive()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.with(Stack::stop);
        self.shared.link.wake();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of the network in this process has panicked");
        }
    }
}

impl Shared {
    /// Does something that takes microseconds, at this moment of the stack's clock.
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut Stack<PacketLink>, Duration) -> R) -> R {
        let mut served = self.lock();
        let now = self.start.elapsed();
        let result = work(&mut served.stack, now);
        if served.wakes_at.is_none_or(|at| at > now + TICK) {
            // Once until the thread has looked.
            served.wakes_at = Some(now);
            self.link.wake();
        }
        result
    }

    fn lock(&self) -> MutexGuard<'_, Served> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes what the device has, and does what is due, until the stack is stopped.
fn serve(shared: &Shared) {
    loop {
        shared.link.clear();
        let wait = {
            let mut served = shared.lock();
            let now = shared.start.elapsed();
            if served.stack.is_stopped() {
                return;
            }
            let has_more = served.stack.turn(now);
            // What is due was done in this turn: where the stack says that it is due again, it cannot be done yet.
            let later = |at: Duration| at.max(now + LEAST);
            let deadline = if has_more { Some(now) } else { served.stack.deadline(now).map(later) };
            let wakes_at = deadline.map(|at| if at < now + BUSY { at.min(now + TICK) } else { at });
            served.wakes_at = wakes_at;
            wakes_at.map(|at| at.saturating_sub(now))
        };
        if wait == Some(Duration::ZERO) {
            continue;
        }
        let wait =
            wait.map(|wait| Timespec { tv_sec: wait.as_secs().cast_signed(), tv_nsec: wait.subsec_nanos().into() });
        let mut watched = [PollFd::from_borrowed_fd(shared.link.as_fd(), PollFlags::IN)];
        match poll(&mut watched, wait.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                tracing::error!(%error, "could not wait for packets: the network in this process ends");
                return shared.with(Stack::stop);
            }
        }
    }
}

fn random() -> u64 {
    // What the standard library draws for its own maps.
    RandomState::new().hash_one(())
}
