//! Carries out what peers decided: sends, sets alarms, reports. No peer may be locked meanwhile.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::mpsc::Sender;

use crate::control::Request;
use crate::counters::{Counter, Counters};
use crate::endpoint::Endpoint;
use crate::key::PublicKey;
use crate::output::{Event, Message, Output};
use crate::path::{Proof, Watch};
use crate::peer::{PathSet, Peer};
use crate::send_batch::{Run, SendBatch};
use crate::udp::{Message as Datagrams, Sockets};

/// Messages handed to the kernel in one call.
const MESSAGES: usize = 16;

/// Stands where there is no message.
const UNSPECIFIED: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));

/// Where a device's decisions go.
pub(crate) struct Outside<'a> {
    pub(crate) sockets: &'a Sockets,
    pub(crate) counters: &'a Counters,
    pub(crate) control: &'a Sender<Request>,
    pub(crate) watch: Option<&'a Watch>,
}

impl Outside<'_> {
    /// Carries out everything and clears it. `proved` hears of what proves a stream. True where the first message left by one of
    /// its paths, at least.
    pub(crate) fn carry_out(&self, output: &mut Output, mut proved: impl FnMut(PublicKey, Proof)) -> bool {
        let mut first = None;
        for (message, bytes) in output.messages() {
            let taken = self.send(message, bytes);
            first.get_or_insert(taken);
        }
        for wake in output.wakes() {
            // Without a control thread the device is ending, and nothing is due any more.
            let _ = self.control.send(Request::Wake(*wake));
        }
        for event in output.events() {
            self.report(&event, &mut proved);
        }
        output.clear();
        first == Some(true)
    }

    /// Sends one datagram by all of its paths; true where one of them took it.
    fn send(&self, message: &Message, datagram: &[u8]) -> bool {
        let Message { paths, peer, .. } = message;
        let may_fragment = paths.may_fragment;
        let send =
            |to, source| self.sockets.send(&Datagrams { may_fragment, ..Datagrams::single(datagram, to, source) });
        let mut taken = false;
        if let Some(Endpoint { address, source }) = paths.udp {
            let mut sent = send(address, source);
            if let Some(source) = source
                && sent.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock)
            {
                peer.iter().for_each(|peer| peer.forget_source(source));
                sent = send(address, None);
            }
            taken |= self.count(peer.as_ref(), datagram, address, sent);
        }
        if let Some(Endpoint { address, source }) = paths.candidate {
            taken |= self.count(peer.as_ref(), datagram, address, send(address, source));
        }
        taken | message.send_by_stream(datagram, self.counters)
    }

    fn count(&self, peer: Option<&Arc<Peer>>, datagram: &[u8], to: SocketAddr, sent: io::Result<()>) -> bool {
        match (peer, &sent) {
            (Some(peer), Ok(())) => peer.count_sent(datagram.len() as u64),
            (Some(_), Err(error)) => {
                tracing::trace!(endpoint = %to, %error, "datagram not sent");
                self.counters.add(Counter::IoFailed);
            }
            (None, _) => {}
        }
        sent.is_ok()
    }

    fn report(&self, event: &Event<&[u8]>, proved: &mut impl FnMut(PublicKey, Proof)) {
        if let Event::Proved { peer, proof } = *event {
            return proved(peer, proof);
        }
        let Some(Watch { watcher, .. }) = self.watch else { return };
        match *event {
            Event::Probe { peer, path, packet } => watcher.probe(peer, path, packet),
            Event::Sent { peer } => watcher.sent(peer),
            Event::Received { peer, path } => watcher.received(peer, path),
            Event::Endpoint { peer, endpoint } => watcher.endpoint(peer, endpoint),
            Event::PathMtu { peer, mtu } => watcher.path_mtu(peer, mtu),
            Event::Stun { from, datagram } => watcher.stun(from, datagram),
            Event::Proved { .. } => {}
        }
    }
}

/// Sends everything. No peer may be locked. What the system refuses is lost, as datagrams are; it is counted. True
/// where a datagram was too long for the link it would have left by.
pub(crate) fn flush(batch: &mut SendBatch, sockets: &Sockets, queue: usize, counters: &Counters) -> bool {
    let mut too_long = false;
    let (runs, buffer) = batch.runs();
    for run in runs {
        run.send_by_stream(buffer, counters);
    }
    for runs in runs.chunks(MESSAGES) {
        let failed = |run: &Run, error: io::Error| {
            too_long |= error.raw_os_error() == Some(libc::EMSGSIZE);
            run.refused(buffer, sockets, queue, counters, &error);
        };
        post(runs, buffer, sockets, queue, failed);
    }
    for run in runs {
        let Some(candidate) = run.paths.candidate else { continue };
        // It is a guess, whose failure says nothing.
        sockets.send_batch(queue, &[run.message(buffer, candidate)], |_, _| run.peer.not_sent(run.bytes.len() as u64));
    }
    batch.clear();
    too_long
}

/// Sends those that go to an endpoint, at most [`MESSAGES`].
fn post(runs: &[Run], buffer: &[u8], sockets: &Sockets, queue: usize, mut failed: impl FnMut(&Run, io::Error)) {
    if let [run @ Run { paths: PathSet { udp: Some(endpoint), .. }, .. }] = runs {
        return sockets.send_batch(queue, &[run.message(buffer, *endpoint)], |_, error| failed(run, error));
    }
    let mut messages = [Datagrams::single(&[], UNSPECIFIED, None); MESSAGES];
    let mut whose = [0; MESSAGES];
    let mut count = 0;
    for (at, run) in runs.iter().enumerate() {
        if let Some(endpoint) = run.paths.udp {
            (messages[count], whose[count]) = (run.message(buffer, endpoint), at);
            count += 1;
        }
    }
    if count > 0 {
        sockets.send_batch(queue, &messages[..count], |at, error| failed(&runs[whose[at]], error));
    }
}

impl Run {
    fn message<'a>(&self, buffer: &'a [u8], to: Endpoint) -> Datagrams<'a> {
        let Endpoint { address, source } = to;
        let (bytes, may_fragment) = (&buffer[self.bytes.clone()], self.paths.may_fragment);
        Datagrams { bytes, segment: self.segment, to: address, source, ecn: self.ecn, may_fragment }
    }

    /// The system did not take it. Where that may be because of the address it was to leave from, it is tried once
    /// more without: addresses come and go.
    fn refused(&self, buffer: &[u8], sockets: &Sockets, queue: usize, counters: &Counters, error: &io::Error) {
        let Some(endpoint) = self.paths.udp else { return };
        let mut lost = self.count;
        if error.raw_os_error() == Some(libc::EMSGSIZE) {
            // Too long for the link, which says nothing of the address, nor of the last where it is shorter.
            if self.closed {
                let last = &buffer[self.bytes.clone()][(self.count - 1) * self.segment..];
                let message = Datagrams { bytes: last, ..self.message(buffer, endpoint) };
                lost -= 1;
                sockets.send_batch(queue, &[message], |_, _| lost += 1);
            }
        } else if let Some(source) = endpoint.source
            && error.kind() != io::ErrorKind::WouldBlock
        {
            self.peer.forget_source(source);
            lost = 0;
            let message = Datagrams { source: None, ..self.message(buffer, endpoint) };
            sockets.send_batch(queue, &[message], |_, _| lost = self.count);
        }
        if lost > 0 {
            tracing::trace!(endpoint = %endpoint.address, %error, "datagrams not sent");
            counters.add_many(Counter::IoFailed, lost as u64);
            self.peer.not_sent(self.bytes.len().min(lost * self.segment) as u64);
        }
    }
}
