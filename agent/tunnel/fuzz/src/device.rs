//! Two whole devices, and a network between them that does to their messages what the input says.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mesh_tunnel::{DeviceUpdate, Engine, EngineEvent, EngineTarget, Path, PeerUpdate, Route};

use super::engines::{address, engine, private};
use super::input::Input;

/// Steps of one input. Each may cost a handshake.
const STEPS: usize = 64;

/// The streams that there are.
const STREAMS: u64 = 3;

/// Messages that the network still has.
const REMEMBERED: usize = 64;

/// Packets, timers, changes, and messages that are altered, repeated, held back, redirected and invented. What a device hands to
/// its interface was given to the other, and is handed over once, or twice where it was sent to an endpoint in doubt
/// and waited for another path as well; what is due comes to an end; and the same input has the same
/// history, whatever keys were drawn.
pub fn device(input: &[u8]) {
    let (first, again) = (history(input), history(input));
    assert!(first == again, "{:?}", first.iter().zip(&again).find(|(one, other)| one != other));
}

struct Devices {
    now: Instant,
    engines: [Engine; 2],
    /// Which device sent it, where to, and the message.
    sent: Vec<(usize, EngineTarget, Vec<u8>)>,
    packets: u16,
    /// The numbers of the packets that were given to a device, and how often each may still arrive at the other.
    under_way: [BTreeMap<u16, u8>; 2],
    history: Vec<String>,
}

fn history(input: &[u8]) -> Vec<String> {
    let (mut input, now) = (Input::new(input), Instant::now());
    let engines = [0, 1].map(|at| engine(at, 1420, now));
    let (sent, history) = (Vec::new(), Vec::new());
    let mut devices = Devices { now, engines, sent, packets: 0, under_way: Default::default(), history };
    for at in [0, 1] {
        let (endpoint, persistent_keepalive) = (Some(address(1 - at as u8)), Some(25));
        devices.update(at, |peer| PeerUpdate { endpoint, persistent_keepalive, ..peer });
    }
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        devices.step(&mut input);
    }
    for engine in &devices.engines {
        devices.history.push(format!("{:?}", engine.drops()));
    }
    devices.history
}

impl Devices {
    fn step(&mut self, input: &mut Input<'_>) {
        let [choices, by] = input.array();
        let (at, now) = (usize::from(choices >> 7), self.now);
        let (peer, stream) = (private(2 - at as u8).public_key(), u64::from(by) % STREAMS);
        let path = if by & 1 == 0 { Path::Udp } else { Path::Stream };
        let engine = &mut self.engines[at];
        match choices & 15 {
            0..=4 => return self.carry(choices, by, input),
            5 => return self.pass(at, Duration::from_millis(u64::from(by) << (choices >> 4 & 7))),
            6 | 7 => {
                self.packets += 1;
                self.under_way[at].insert(self.packets, 2);
                engine.handle_packet(&packet(at, self.packets), now);
            }
            8 => _ = engine.send_inner(&peer, path, &packet(at, 0), now),
            9 => engine.set_stream(&peer, (by < 128).then_some(stream), now),
            10 => engine.initiate(&peer, stream, now),
            11 => engine.try_endpoint(&peer, address(by & 3), now),
            12 => engine.set_route(&peer, Route { udp: by & 1 != 0, stream: by & 2 != 0 }, now),
            13 => engine.handle_datagram(address(by & 3), &input.array::<40>(), now),
            14 => return self.update(at, |peer| changed(peer, by)),
            _ => engine.close_stream(stream),
        }
        self.collect(at);
    }

    /// The network does something to a message that it has.
    fn carry(&mut self, choices: u8, by: u8, input: &mut Input<'_>) {
        let Some(which) = self.sent.len().checked_sub(1 + usize::from(by)) else { return };
        let (from, to, mut message) = self.sent[which].clone();
        if choices & 15 < 4 {
            // Once; else it may come again.
            self.sent.remove(which);
        }
        if choices & 15 == 3 {
            let [position, mask] = input.array();
            let len = message.len();
            message[usize::from(position) % len] ^= mask;
        }
        let at = 1 - from;
        match to {
            EngineTarget::Udp(_) => {
                let source = if choices & 16 == 0 { address(from as u8) } else { address(2 + (choices >> 5 & 1)) };
                self.engines[at].handle_datagram(source, &message, self.now);
            }
            EngineTarget::Stream(stream) => {
                let stream = if choices & 16 == 0 { stream } else { (stream + 1) % STREAMS };
                self.engines[at].handle_stream(stream, &message, self.now);
            }
        }
        self.collect(at);
    }

    fn pass(&mut self, at: usize, time: Duration) {
        let end = self.now + time;
        for _ in 0..1000 {
            let Some(next) = self.engines[at].poll_timeout().filter(|next| *next <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(next);
            self.engines[at].handle_timeout(self.now);
            self.collect(at);
        }
        panic!("what is due within {time:?} never ends");
    }

    fn update(&mut self, at: usize, change: impl FnOnce(PeerUpdate) -> PeerUpdate) {
        let own = 1 + at as u8;
        let allowed_ips = vec![format!("10.0.1.{}/32", 3 - own).parse().unwrap_or_else(|_| unreachable!("a network"))];
        let peer = change(PeerUpdate { allowed_ips, ..PeerUpdate::new(private(3 - own).public_key()) });
        let update = DeviceUpdate { private_key: Some(private(own)), peers: vec![peer], ..DeviceUpdate::default() };
        self.engines[at].apply(update, self.now);
        self.collect(at);
    }

    fn collect(&mut self, at: usize) {
        let engine = &mut self.engines[at];
        while let Some(transmit) = engine.poll_transmit() {
            self.history.push(format!(
                "{at} sends {} bytes, ecn {}, to {:?}",
                transmit.bytes.len(),
                transmit.ecn,
                transmit.to
            ));
            self.sent.push((at, transmit.to, transmit.bytes));
        }
        self.sent.drain(..self.sent.len().saturating_sub(REMEMBERED));
        while let Some(delivered) = engine.poll_delivered() {
            let number = u16::from_be_bytes([delivered[30], delivered[31]]);
            assert_eq!(delivered, packet(1 - at, number));
            if number != 0 {
                let left =
                    self.under_way[1 - at].get_mut(&number).and_then(|left| left.checked_sub(1).map(|one| *left = one));
                assert!(left.is_some(), "{number} came too often, or from nowhere");
            }
            self.history.push(format!("{at} delivers {number}"));
        }
        while let Some(event) = engine.poll_event() {
            let is_known = |peer| peer == private(2 - at as u8).public_key();
            match &event {
                EngineEvent::Stun { .. } => {}
                EngineEvent::Probe { peer, .. }
                | EngineEvent::Sent { peer }
                | EngineEvent::Received { peer, .. }
                | EngineEvent::Endpoint { peer, .. }
                | EngineEvent::PathMtu { peer, .. }
                | EngineEvent::Proved { peer, .. } => assert!(is_known(*peer)),
            }
            self.history.push(format!("{at} reports {event:?}"));
        }
    }
}

fn changed(peer: PeerUpdate, by: u8) -> PeerUpdate {
    match by & 7 {
        0 => PeerUpdate { remove: true, ..peer },
        1 | 2 => PeerUpdate { endpoint: Some(address(by >> 3 & 3)), ..peer },
        3 => PeerUpdate { persistent_keepalive: Some((by >> 3).into()), ..peer },
        4 => PeerUpdate { replace_allowed_ips: true, allowed_ips: Vec::new(), ..peer },
        _ => peer,
    }
}

/// UDP over IPv4 from one device to the other, 32 bytes long, with this number at its end.
fn packet(from: usize, number: u16) -> [u8; 32] {
    let (from, mut packet) = (from as u8, [0; 32]);
    packet[..4].copy_from_slice(&[0x45, 0, 0, 32]);
    (packet[8], packet[9]) = (64, 17);
    packet[12..20].copy_from_slice(&[10, 0, 1, from + 1, 10, 0, 1, 2 - from]);
    packet[20..26].copy_from_slice(&[0, 9, 0, 9, 0, 12]);
    packet[30..].copy_from_slice(&number.to_be_bytes());
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_that_are_carried_in_order_bring_the_packet() {
        // A packet at the first, then always the last message: initiation, answer, confirmation, data.
        let history = history(&[6, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert!(history.iter().any(|line| line == "1 delivers 1"), "{history:#?}");
    }
}
