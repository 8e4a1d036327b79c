//! The network interface, seen from the side that is not the kernel's.

mod home;
mod queue;
mod superpacket;

use std::io;
use std::num::NonZeroU8;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use crate::config::Offloads;
use crate::error::Error;
use home::Home;

pub(crate) use queue::Queue;

/// The largest packet an interface can hand over.
pub(crate) const MAX_PACKET: usize = 65_535;

/// A TUN interface that exists as long as this value (or until somebody deletes it).
#[derive(Debug)]
pub(crate) struct Tun {
    queues: Vec<Queue>,
    offloads: Offloads,
    /// Its number in the namespace where it was made.
    index: u32,
    home: Mutex<Home>,
}

impl Tun {
    /// Makes the interface `name` in the caller's network namespace, with `queues` queues. What `offloads` does not allow
    /// is not used, and neither is what the kernel refuses ([`Self::offloads_in_use`]).
    pub(crate) fn create(name: &str, mtu: u16, queues: NonZeroU8, offloads: Offloads) -> Result<Self, Error> {
        check_name(name)?;
        let queues = Queue::open_all(name, queues, offloads.tun_tso || offloads.tun_uso)?;
        let offloads = queues[0].set_offloads(offloads);
        let mut home = Home::find(name).map_err(Error::io(format!("find the interface `{name}`")))?;
        home.set_mtu(mtu).map_err(Error::io(format!("set the MTU of `{name}` to {mtu}")))?;
        let tun = Self { queues, offloads, index: home.index(), home: Mutex::new(home) };
        tun.fit_superpackets(&mut tun.lock_home(), mtu);
        Ok(tun)
    }

    /// One of the queues, counted from 0.
    pub(crate) fn queue(&self, queue: usize) -> &Queue {
        &self.queues[queue]
    }

    /// The interface's number in the namespace where it was made, and where the sockets are. Nothing else gets that number
    /// there, even where the interface was moved away.
    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    /// What is used of the interface's offloads; those of UDP are not ours to know (false).
    pub(crate) fn offloads_in_use(&self) -> Offloads {
        self.offloads
    }

    /// The length in bytes at which the kernel ends a superpacket, so that it goes out with one send; `None` where there
    /// are none, or the kernel could not be told. It may take as long as [`Self::mtu`].
    pub(crate) fn gso_max_size(&self) -> Option<u32> {
        self.lock_home().gso_max_size()
    }

    /// The interface's MTU now, wherever it was moved and whatever it is called. Not to be called while holding anything
    /// that another thread waits for: after a move it may take as long as [`Home`] says.
    pub(crate) fn mtu(&self) -> io::Result<u16> {
        self.at_home(|home| home.mtu())
    }

    /// As [`Self::mtu`]; `None` where another thread is asking or telling the interface something now.
    pub(crate) fn mtu_if_free(&self) -> Option<io::Result<u16>> {
        match self.home.try_lock() {
            Ok(home) => Some(self.at(home, |home| home.mtu())),
            Err(TryLockError::Poisoned(home)) => Some(self.at(home.into_inner(), |home| home.mtu())),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Changes the interface's MTU. Not to be called while holding anything that another thread waits for: it always waits
    /// for the lock that [`Home`] tells of.
    pub(crate) fn set_mtu(&self, mtu: u16) -> io::Result<()> {
        self.at_home(|home| home.set_mtu(mtu))?;
        self.fit_superpackets(&mut self.lock_home(), mtu);
        Ok(())
    }

    fn fit_superpackets(&self, home: &mut Home, mtu: u16) {
        if !self.offloads.tun_tso && !self.offloads.tun_uso {
            return;
        }
        if let Err(error) = home.set_gso_max_size(superpacket::max_size(mtu)) {
            tracing::debug!(%error, "the kernel takes no length for superpackets: some will need two sends");
        }
    }

    /// Asks where the interface was, and where it is not there, where it went.
    fn at_home<R>(&self, ask: impl Fn(&mut Home) -> io::Result<R>) -> io::Result<R> {
        self.at(self.lock_home(), ask)
    }

    fn at<R>(&self, mut home: MutexGuard<'_, Home>, ask: impl Fn(&mut Home) -> io::Result<R>) -> io::Result<R> {
        match ask(&mut home) {
            Err(_) => {
                home.follow(&self.queues[0])?;
                ask(&mut home)
            }
            known => known,
        }
    }

    fn lock_home(&self) -> MutexGuard<'_, Home> {
        self.home.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes whoever asks for the MTU wait, as a machine does that is busy with its network's configuration.
    #[cfg(test)]
    pub(crate) fn delay_mtu(&self) -> impl Drop {
        self.lock_home()
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
