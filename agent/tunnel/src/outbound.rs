//! From the interface to the network. This thread also notices that the interface is gone, which ends the device.

use std::io;
use std::time::{Duration, Instant};

use crate::config::DEFAULT_MTU;
use crate::device::{Counter, Shared};
use crate::noise::OVERHEAD;
use crate::packet;
use crate::peer::Wire;
use crate::sys;
use crate::tun::MAX_PACKET;

/// Packets taken before looking whether the device should end.
const BATCH: usize = 64;

/// How old the MTU that bounds the padding may be. A packet is at most 15 bytes longer than it had to be for so long.
const MTU_AGE: Duration = Duration::from_secs(1);

/// Runs until the device ends.
pub(crate) fn run(shared: &Shared) {
    // Room for the padding behind the largest packet, and for an initiation.
    let mut packet = vec![0; MAX_PACKET + 16];
    let mut buffer = vec![0; MAX_PACKET + 16 + OVERHEAD];
    let mut mtu = Mtu { bytes: DEFAULT_MTU, read: None };
    while !shared.is_stopping() {
        let mut watched = [
            sys::watch(&std::os::fd::AsFd::as_fd(&shared.wake_outbound), libc::POLLIN),
            sys::watch(shared.tun.queue(0), libc::POLLIN),
        ];
        if let Err(error) = sys::wait(&mut watched) {
            tracing::error!(%error, "could not wait for packets");
            return;
        }
        if watched[0].revents != 0 {
            shared.wake_outbound.clear();
            continue;
        }
        // Here, where nothing is held that another thread may wait for.
        let mtu = mtu.now(shared);
        for _ in 0..BATCH {
            match shared.tun.queue(0).read(&mut packet[..MAX_PACKET]) {
                Ok(len) => send(shared, &mut packet, len, mtu, &mut buffer),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::info!(%error, "the interface gives no packets any more (was it deleted?): the device ends");
                    return;
                }
            }
        }
    }
}

fn send(shared: &Shared, packet: &mut [u8], len: usize, mtu: usize, buffer: &mut [u8]) {
    let table = shared.table();
    let peer = packet::destination(&packet[..len]).and_then(|address| table.by_address(address));
    let (Some(peer), Some(identity)) = (peer, table.identity.as_ref()) else {
        shared.counters.add(Counter::NoPeer);
        return;
    };
    let sockets = shared.sockets();
    let wire =
        Wire { identity, sockets: &sockets, counters: &shared.counters, control: &shared.control, now: Instant::now() };
    let padded = packet::padded_len(len, mtu);
    packet[len..padded].fill(0);
    peer.send(&wire, &packet[..padded], buffer);
}

/// The interface's MTU, read again when it is old and needed.
struct Mtu {
    bytes: u16,
    read: Option<Instant>,
}

impl Mtu {
    fn now(&mut self, shared: &Shared) -> usize {
        let now = Instant::now();
        if self.read.is_none_or(|read| now >= read + MTU_AGE) {
            self.read = Some(now);
            match shared.tun.mtu() {
                Ok(bytes) => self.bytes = bytes,
                Err(error) => tracing::debug!(%error, "could not read the MTU"),
            }
        }
        self.bytes.into()
    }
}
