//! What comes out of an engine, in order, until its caller asks for it.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{EngineEvent, EngineTarget, EngineTransmit};
use crate::counters::Counters;
use crate::output::{Event, Output};
use crate::path::Carrier;
use crate::schedule::Schedule;
use crate::send_batch::SendBatch;

#[derive(Default)]
pub(super) struct Queues {
    transmits: Arc<Transmits>,
    pub(super) delivered: VecDeque<Vec<u8>>,
    pub(super) events: VecDeque<EngineEvent>,
}

/// One queue for sockets and streams, so that the order between them is kept.
#[derive(Debug, Default)]
struct Transmits(Mutex<VecDeque<EngineTransmit>>);

/// A stream, as peers know it.
#[derive(Debug)]
pub(super) struct StreamEnd {
    number: u64,
    is_over: AtomicBool,
    transmits: Arc<Transmits>,
}

impl Transmits {
    fn lock(&self) -> MutexGuard<'_, VecDeque<EngineTransmit>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, to: EngineTarget, bytes: &[u8], ecn: u8, may_fragment: bool) {
        self.lock().push_back(EngineTransmit { to, bytes: bytes.to_vec(), ecn, may_fragment });
    }
}

impl StreamEnd {
    pub(super) fn close(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

impl Carrier for StreamEnd {
    fn send(&self, datagrams: &[u8], segment: usize) -> bool {
        let is_over = self.is_over.load(Ordering::Relaxed);
        if !is_over {
            for datagram in datagrams.chunks(segment) {
                self.transmits.push(EngineTarget::Stream(self.number), datagram, 0, false);
            }
        }
        !is_over
    }
}

impl Queues {
    pub(super) fn next_transmit(&mut self) -> Option<EngineTransmit> {
        self.transmits.lock().pop_front()
    }

    pub(super) fn stream_end(&self, number: u64) -> Arc<StreamEnd> {
        let transmits = Arc::clone(&self.transmits);
        Arc::new(StreamEnd { number, is_over: AtomicBool::new(false), transmits })
    }

    /// Takes a packet for the interface, whose first slice is the header of one that is complete.
    pub(super) fn deliver(&mut self, packet: &[IoSlice<'_>]) {
        let mut bytes = Vec::with_capacity(packet[1..].iter().map(|slice| slice.len()).sum());
        packet[1..].iter().for_each(|slice| bytes.extend_from_slice(slice));
        self.delivered.push_back(bytes);
    }

    /// Carries out what peers decided and clears it; `from` is the stream that was read. True where the first message left by
    /// one of its paths, at least.
    pub(super) fn carry_out(
        &mut self,
        output: &mut Output,
        schedule: &mut Schedule,
        counters: &Counters,
        from: Option<u64>,
    ) -> bool {
        let mut first = None;
        for (message, bytes) in output.messages() {
            let mut taken = false;
            for endpoint in message.paths.udp.iter().chain(&message.paths.candidate) {
                self.transmits.push(EngineTarget::Udp(endpoint.address), bytes, 0, message.paths.may_fragment);
                message.peer.iter().for_each(|peer| peer.count_sent(bytes.len() as u64));
                taken = true;
            }
            taken |= message.send_by_stream(bytes, counters);
            first.get_or_insert(taken);
        }
        output.wakes().iter().for_each(|wake| schedule.wake(*wake));
        self.events.extend(output.events().filter_map(|event| reported(&event, from)));
        output.clear();
        first == Some(true)
    }

    /// Sends what was sealed and clears it.
    pub(super) fn send(&self, batch: &mut SendBatch, counters: &Counters) {
        let (runs, buffer) = batch.runs();
        for run in runs {
            run.send_by_stream(buffer, counters);
            for endpoint in run.paths.udp.iter().chain(&run.paths.candidate) {
                for datagram in buffer[run.bytes.clone()].chunks(run.segment) {
                    self.transmits.push(EngineTarget::Udp(endpoint.address), datagram, run.ecn, run.paths.may_fragment);
                }
            }
        }
        batch.clear();
    }
}

fn reported(event: &Event<&[u8]>, from: Option<u64>) -> Option<EngineEvent> {
    Some(match *event {
        Event::Probe { peer, path, packet } => EngineEvent::Probe { peer, path, packet: packet.to_vec() },
        Event::Sent { peer } => EngineEvent::Sent { peer },
        Event::Received { peer, path } => EngineEvent::Received { peer, path },
        Event::Endpoint { peer, endpoint } => EngineEvent::Endpoint { peer, endpoint },
        Event::PathMtu { peer, mtu } => EngineEvent::PathMtu { peer, mtu },
        Event::Stun { from, datagram } => EngineEvent::Stun { from, datagram: datagram.to_vec() },
        Event::Proved { peer, proof } => EngineEvent::Proved { stream: from?, peer, proof },
    })
}
