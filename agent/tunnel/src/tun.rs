//! The TUN interface: its queues, its MTU and its offloads.

mod link;
mod queue;
mod superpacket;

use std::io;
use std::num::NonZeroU8;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use crate::config::Offloads;
use crate::error::Error;
use link::Link;

pub(crate) use queue::Queue;
pub(crate) use superpacket::max_size as longest_superpacket;

/// Packets that may wait in a queue of the interface. The kernel's 500 are less than 64 streams of small writes have under way between
/// two turns of the thread that reads: it threw 4 % of theirs away, and with none lost they cost a fifth less processor time.
const QUEUE_LENGTH: u32 = 2000;

/// A TUN interface that exists as long as this value, unless another program deletes it.
#[derive(Debug)]
pub(crate) struct Tun {
    queues: Vec<Queue>,
    offloads: Offloads,
    /// Its index in the namespace where it was made, when it was last looked for; 0 where it was in another.
    index_outside: AtomicU32,
    link: Mutex<Link>,
}

impl Tun {
    /// Makes the interface `name` in the caller's network namespace, with `queues` queues. Offloads are used where `offloads`
    /// allows them and the kernel has them ([`Self::offloads_in_use`]).
    pub(crate) fn create(name: &str, mtu: u16, queues: NonZeroU8, offloads: Offloads) -> Result<Self, Error> {
        check_name(name)?;
        let queues = Queue::open_all(name, queues, offloads.tun_tso || offloads.tun_uso)?;
        let offloads = queues[0].set_offloads(offloads);
        let mut link = Link::find(name).map_err(Error::io(format!("find the interface `{name}`")))?;
        link.set_mtu(mtu).map_err(Error::io(format!("set the MTU of `{name}` to {mtu}")))?;
        if let Err(error) = link.set_queue_length(QUEUE_LENGTH) {
            tracing::debug!(%error, "the interface has a short queue: many small streams at once may lose packets");
        }
        let index_outside = AtomicU32::new(link.index_at_home().unwrap_or(0));
        let tun = Self { queues, offloads, index_outside, link: Mutex::new(link) };
        tun.fit_superpackets(&mut tun.lock_link(), mtu);
        Ok(tun)
    }

    /// One of the queues, counted from 0.
    pub(crate) fn queue(&self, queue: usize) -> &Queue {
        &self.queues[queue]
    }

    /// The interface's index in the namespace where it was made, and where the sockets are, as old as the last look at the interface
    /// ([`Self::mtu`] and the like). 0, which no interface has, while it is in another namespace: what has its former index there
    /// may be the very link to the outside.
    pub(crate) fn index_outside(&self) -> u32 {
        self.index_outside.load(Ordering::Relaxed)
    }

    /// The interface's offloads in use; those of UDP are unknown here (false).
    pub(crate) fn offloads_in_use(&self) -> Offloads {
        self.offloads
    }

    /// The length in bytes at which the kernel ends a superpacket, so that it goes out with one send; `None` where there are no
    /// superpackets, or the kernel does not let it be set. May take as long as [`Self::mtu`].
    pub(crate) fn gso_max_size(&self) -> Option<u32> {
        self.lock_link().gso_max_size()
    }

    /// The interface's current MTU, even after it was moved or renamed. Not to be called while holding a lock that another thread
    /// waits for: after a move it may take as long as [`Link`] says.
    pub(crate) fn mtu(&self) -> io::Result<u16> {
        self.on_link(|link| link.mtu())
    }

    /// As [`Self::mtu`]; `None` while another thread reads or changes the interface's configuration.
    pub(crate) fn mtu_if_free(&self) -> Option<io::Result<u16>> {
        match self.link.try_lock() {
            Ok(link) => Some(self.at(link, |link| link.mtu())),
            Err(TryLockError::Poisoned(link)) => Some(self.at(link.into_inner(), |link| link.mtu())),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Changes the interface's MTU. Not to be called while holding a lock that another thread waits for: it always waits for the
    /// kernel lock that [`Link`] describes.
    pub(crate) fn set_mtu(&self, mtu: u16) -> io::Result<()> {
        self.on_link(|link| link.set_mtu(mtu))?;
        self.fit_superpackets(&mut self.lock_link(), mtu);
        Ok(())
    }

    fn fit_superpackets(&self, link: &mut Link, mtu: u16) {
        if !self.offloads.tun_tso && !self.offloads.tun_uso {
            return;
        }
        if let Err(error) = link.set_gso_max_size(superpacket::max_size(mtu)) {
            tracing::debug!(%error, "the kernel takes no length for superpackets: some will need two sends");
        }
    }

    /// Makes the request where the interface was last seen, and where it is not there any more, where it is now.
    fn on_link<R>(&self, ask: impl Fn(&mut Link) -> io::Result<R>) -> io::Result<R> {
        self.at(self.lock_link(), ask)
    }

    fn at<R>(&self, mut link: MutexGuard<'_, Link>, ask: impl Fn(&mut Link) -> io::Result<R>) -> io::Result<R> {
        match ask(&mut link) {
            Err(_) => {
                let followed = link.follow(&self.queues[0]);
                self.index_outside.store(link.index_at_home().unwrap_or(0), Ordering::Relaxed);
                followed?;
                ask(&mut link)
            }
            known => known,
        }
    }

    fn lock_link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes callers that ask for the MTU wait, as on a machine that is busy changing its network configuration.
    #[cfg(test)]
    pub(crate) fn delay_mtu(&self) -> impl Drop {
        self.lock_link()
    }
}

fn check_name(name: &str) -> Result<(), Error> {
    let odd = |c: char| matches!(c, '/' | '%' | ':') || c.is_whitespace() || c.is_control();
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || name == "." || name == ".." || name.contains(odd) {
        return Err(Error::NameInvalid { name: name.to_owned() });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
