//! What the shell of the paths does: it tells the machine what the device and the streams report, and does what the machine wants.

use std::time::Duration;

use mesh_core::agent::Input;
use mesh_paths::{Action, Input as PathsInput, Sources, stream::StreamEvent};

use super::{Event, World};
use crate::{
    device::Reported,
    network::{Destination, STUN_SERVER},
    packet::stun_response,
};

/// How long a name takes to be resolved.
const RESOLVE: Duration = Duration::from_millis(5);

impl World {
    /// One fact for the paths.
    pub(super) fn feed_paths(&mut self, node: usize, input: PathsInput) {
        let now = self.now;
        let Some((process, clock)) = self.nodes[node].running(now) else { return };
        process.paths.handle(input, clock.since_start);
        self.advance(node);
    }

    /// Tells a node what its host is like now.
    pub(super) fn tell_host_change(&mut self, node: usize) {
        let is_without = self.network.is_without_address(node);
        let addresses: Vec<_> = Some(self.network.local(node)).filter(|_| !is_without).into_iter().collect();
        let Some(process) = &mut self.nodes[node].process else { return };
        let sources = Sources([addresses.first().map(|address| address.ip()), None]);
        let is_other = process.addresses != addresses;
        process.addresses.clone_from(&addresses);
        self.feed_paths(node, PathsInput::HostChanged { sources });
        if is_other {
            self.feed_paths(node, PathsInput::LocalAddresses { addresses, sources });
        }
    }

    /// Does everything that paths and device want now; true where there was anything.
    pub(super) fn advance_paths(&mut self, node: usize) -> bool {
        let mut is_busy = false;
        while let Some(action) = self.nodes[node].process.as_mut().and_then(|process| process.paths.poll_action()) {
            is_busy = true;
            self.act(node, action);
        }
        is_busy |= self.transmit(node);
        is_busy |= self.deliver(node);
        is_busy | self.report_device(node)
    }

    fn act(&mut self, node: usize, action: Action) {
        let now = self.now;
        let generation = self.nodes[node].generation;
        let Some(process) = &mut self.nodes[node].process else { return };
        match action {
            Action::SendInner { peer, path, packet } => process.device.send_inner(peer, path, &packet, now),
            Action::SetRoute { peer, route } => process.device.set_route(peer, route, now),
            Action::SetStream { peer, stream } => process.device.set_stream(peer, stream, now),
            Action::Initiate { peer, stream } => process.device.initiate(peer, stream, now),
            Action::TryEndpoint { peer, endpoint } => process.device.try_endpoint(peer, endpoint, now),
            // Hosts here have one address.
            Action::ForgetSources => {}
            Action::SendStun { to, request } => self.send_stun(node, to, &request),
            Action::ExpectStun(_) => {}
            Action::Resolve { server, name: _ } => {
                let found = Ok(vec![STUN_SERVER]);
                let resolved = PathsInput::Resolved { server, found };
                self.events.add(now + RESOLVE, Event::Paths(node, generation, Box::new(resolved)));
            }
            Action::Dial { stream, place } => self.dial(node, stream, &place),
            Action::Finish(stream) => self.finish_stream(node, stream),
            Action::Close { stream, error: _ } => self.close_stream(node, stream),
            Action::PeersTold => {
                let told = super::Done::Input(Box::new(Input::PeersTold));
                self.events.add(now, Event::Done(node, generation, told));
            }
            Action::Report(seen) => {
                self.note_report(node, &seen);
                self.check_counters(node);
                // By way of a channel: the agent takes it in its next turn.
                let input = Box::new(Input::Paths(seen));
                self.events.add(now, Event::Done(node, generation, super::Done::Input(input)));
            }
        }
    }

    fn send_stun(&mut self, node: usize, to: std::net::SocketAddr, request: &[u8]) {
        let sent = self.network.send(node, to, request.len(), self.now);
        for arrival in sent.into_iter().flatten().filter(|arrival| arrival.to == Destination::Stun) {
            if let Some(response) = stun_response(request, arrival.from) {
                self.events.add(arrival.at, Event::StunAsked { node, seen: arrival.from, response });
            }
        }
    }

    /// The STUN server answers.
    pub(super) fn answer_stun(&mut self, node: usize, seen: std::net::SocketAddr, response: Vec<u8>) {
        if let Some(at) = self.network.answer(node, seen, self.now) {
            let datagram = Event::Datagram { node, from: STUN_SERVER, bytes: response };
            self.events.add(at, datagram);
        }
    }

    /// Hands over what the device wants to send; true where there was anything.
    fn transmit(&mut self, node: usize) -> bool {
        let mut is_busy = false;
        while let Some(transmit) = self.nodes[node].process.as_mut().and_then(|process| process.device.poll_transmit())
        {
            is_busy = true;
            self.check_transmit(node, &transmit);
            match transmit.to {
                crate::device::Carrier::Udp(to) => {
                    let arrivals = self.network.send(node, to, transmit.bytes.len(), self.now);
                    let to_node = |arrival: crate::network::Arrival| match arrival.to {
                        Destination::Node(other) => Some((arrival, other)),
                        Destination::Stun => None,
                    };
                    for (arrival, other) in arrivals.into_iter().flatten().filter_map(to_node) {
                        let mut bytes = transmit.bytes.clone();
                        if let Some(bit) = arrival.altered {
                            bytes[bit / 8] ^= 1 << (bit % 8);
                        }
                        let datagram = Event::Datagram { node: other, from: arrival.from, bytes };
                        self.events.add(arrival.at, datagram);
                    }
                }
                crate::device::Carrier::Stream(stream) => self.send_by_stream(node, stream, transmit.bytes),
            }
        }
        is_busy
    }

    /// A datagram comes to a node's UDP port. Where there is no device it is lost.
    pub(super) fn receive(&mut self, node: usize, from: std::net::SocketAddr, bytes: &[u8]) {
        let now = self.now;
        if let Some(process) = &mut self.nodes[node].process {
            process.device.handle_datagram(from, bytes, now);
            self.advance(node);
        }
    }

    /// Hands over the packets that the device lets in; true where there were any.
    fn deliver(&mut self, node: usize) -> bool {
        let mut is_busy = false;
        while let Some(packet) = self.nodes[node].process.as_mut().and_then(|process| process.device.poll_delivered()) {
            is_busy = true;
            self.note_delivered(node, &packet);
        }
        is_busy
    }

    /// Tells the paths what the device has to report; true where there was anything.
    fn report_device(&mut self, node: usize) -> bool {
        let now = self.now;
        let Some((process, clock)) = self.nodes[node].running(now) else { return false };
        let Reported { events, proofs } = process.device.take_reports();
        let is_busy = events.is_some() || !proofs.is_empty();
        if let Some(events) = events {
            process.paths.handle(PathsInput::Device(events), clock.since_start);
        }
        let mut proved = Vec::new();
        for (stream, key, proof) in proofs {
            if let Some(peer) = process.paths.token(key) {
                let event = StreamEvent::Proved { peer, proof };
                process.paths.handle(PathsInput::Stream { stream, event }, clock.since_start);
                proved.push(stream);
            }
        }
        proved.into_iter().for_each(|stream| self.prove_stream(node, stream));
        is_busy
    }
}
