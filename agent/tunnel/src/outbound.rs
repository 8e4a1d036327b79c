//! From the interface to the network. This thread also notices that the interface is gone, which ends the device.

use std::io::{self, IoSlice};
use std::os::fd::AsFd as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use mesh_offload::packet::MAX_PACKET;
use mesh_offload::{VNET_LEN, VnetHeader};

use crate::control::Request;
use crate::device::Shared;
use crate::inbound::write;
use crate::mtu::Look;
use crate::outgoing::OutgoingBatch;
use crate::output::Output;
use crate::send_batch::SendBatch;
use crate::sys;
use crate::table::Table;
use crate::transmit::flush;

/// Bytes read, or of datagrams, after which these are sent, even if the interface has more: up to three superpackets' worth, so that the
/// other side is woken for each three, and works on them while this one goes on. With one, a stream is a sixteenth slower and takes a
/// twentieth more processor time.
const ENOUGH: usize = 180_000;

/// Batches sent before others are let go first: what comes back, and the threads that work on what was sent. Where both ends have two
/// processors between them, a packet beside a stream waits for up to 7 ms without it and for up to 5.5 with it, and the stream is as
/// fast. With half as many nothing more is saved, and the stream loses a tenth.
const TURN: usize = 6;

/// How often the control thread is asked, at most, to look at the links outside.
const FIT_AFTER: Duration = Duration::from_secs(1);

/// Runs until the device ends. `own` is of this thread's queue.
pub(crate) fn run(shared: &Shared, own: &Mutex<Outbound>) {
    let queue = lock(own).queue;
    let (tun, wake) = (shared.inner.queue(queue), &shared.wakes[queue].outbound);
    while !shared.is_stopping() {
        let mut watched = [sys::watch(&wake.as_fd(), libc::POLLIN), sys::watch(&tun, libc::POLLIN)];
        if let Err(error) = sys::wait(&mut watched) {
            tracing::error!(%error, "could not wait for packets");
            return;
        }
        if watched[0].revents != 0 {
            wake.clear();
            continue;
        }
        let mut outbound = lock(own);
        if let Err(error) = outbound.take_batch(shared) {
            tracing::info!(%error, "the interface gives no packets any more (was it deleted?): the device ends");
            return;
        }
        let is_over = outbound.is_turn_over();
        drop(outbound);
        if is_over {
            // With fewer processors than threads, what comes back would wait for as long as there is something to send.
            thread::yield_now();
        }
    }
}

/// What answers a packet at once (an echo, an acknowledgement) is sent by the thread that handed the packet over, which is awake. Called
/// by that thread, where it has nothing else to do; without effect where the other one is sending.
pub(crate) fn take_answers(shared: &Shared, outbound: &Mutex<Outbound>) {
    let Ok(mut outbound) = outbound.try_lock() else { return };
    // That the interface is gone, the other thread notices as well.
    let _ = outbound.take_batch(shared);
}

/// Where a thread panicked that held it, the device ends; what it had not sealed yet must not leave meanwhile.
fn lock(outbound: &Mutex<Outbound>) -> MutexGuard<'_, Outbound> {
    outbound.lock().unwrap_or_else(|poisoned| {
        let mut outbound = PoisonError::into_inner(poisoned);
        outbound.batch.clear();
        outbound
    })
}

/// What it takes to send the packets of one queue of the interface. Held from reading packets until they are sent, so that none overtakes
/// another.
pub(crate) struct Outbound {
    queue: usize,
    read: Vec<u8>,
    batch: SendBatch,
    output: Output,
    look: Look,
    /// Batches sent since others were let go first.
    sent_in_a_row: usize,
    /// A datagram was too long for the link it would have left by.
    too_long: bool,
    /// When the control thread was last asked to look.
    asked: Option<Instant>,
}

impl Outbound {
    /// `queue` is the number of the interface queue and sockets it uses.
    pub(crate) fn new(shared: &Shared, queue: usize) -> Self {
        Self {
            queue,
            read: vec![0; VNET_LEN + MAX_PACKET],
            batch: SendBatch::new(shared.threads),
            output: Output::default(),
            look: Look::default(),
            sent_in_a_row: 0,
            too_long: false,
            asked: None,
        }
    }

    /// Takes what the interface has, or enough of it, and sends it. The table is held for as long, so that an update that
    /// removed a peer returns after the last datagram to it was sent. What cannot be sent counts as well: a program that
    /// floods the interface with packets for no peer must not keep the table from an update, and all other threads with it.
    fn take_batch(&mut self, shared: &Shared) -> io::Result<()> {
        let mtu = self.look.mtu(shared);
        let (tun, table) = (shared.inner.queue(self.queue), shared.table());
        let mut bytes_read = 0;
        let result = loop {
            // Where the interface gives no header, the zeros in front are one, which says nothing.
            let skipped = if tun.has_vnet_header() { 0 } else { VNET_LEN };
            match tun.read(&mut self.read[skipped..]) {
                Ok(len) => {
                    bytes_read += len;
                    self.take(shared, &table, skipped + len, mtu);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
            if bytes_read.max(self.batch.used()) >= ENOUGH {
                self.sent_in_a_row += 1;
                break Ok(());
            }
        };
        self.send(shared);
        drop(table);
        result
    }

    /// Whether so much was sent that others are to be let go first. The next turn begins.
    fn is_turn_over(&mut self) -> bool {
        let is_over = self.sent_in_a_row >= TURN;
        if is_over {
            self.sent_in_a_row = 0;
        }
        is_over
    }

    /// Takes the first `len` bytes of what was read: one packet or superpacket.
    fn take(&mut self, shared: &Shared, table: &Table, len: usize, mtu: u16) {
        let Self { queue, batch, output, .. } = self;
        let (tap, counters) = (shared.watch.as_ref().map(|watch| watch.tap), &shared.counters);
        let Some(outgoing) = OutgoingBatch::parse(&mut self.read[..len], table, tap, mtu, counters) else { return };
        let Some(identity) = &table.identity else { return };
        let mut next = 0;
        while next < outgoing.count() {
            let packets = outgoing.fitting(next, batch);
            if packets.is_empty() {
                self.too_long |= flush(batch, &shared.sockets(), *queue, counters);
                continue;
            }
            next = packets.end;
            let tell = |message: &[u8]| {
                let header = VnetHeader::PLAIN.encode();
                write(shared.inner.queue(*queue), &[IoSlice::new(&header), IoSlice::new(message)], counters);
            };
            outgoing.send(&mut shared.context(identity, output), packets, batch, tell);
            shared.carry_out(output);
        }
    }

    fn send(&mut self, shared: &Shared) {
        if self.batch.used() > 0 {
            self.too_long |= flush(&mut self.batch, &shared.sockets(), self.queue, &shared.counters);
        }
        if std::mem::take(&mut self.too_long) {
            self.ask_to_fit(shared);
        }
    }

    /// The MTU may have to be another. It is the link itself that says so, not a host on the path.
    fn ask_to_fit(&mut self, shared: &Shared) {
        let now = Instant::now();
        if self.asked.is_none_or(|asked| now >= asked + FIT_AFTER) {
            self.asked = Some(now);
            // Without a control thread the device is ending.
            let _ = shared.control.send(Request::Fit);
        }
    }
}
