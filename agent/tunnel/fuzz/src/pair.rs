//! Two devices that are each other's peer, and what they do with single datagrams.

use std::net::SocketAddr;
use std::time::Instant;

use mesh_offload::packet::may_be_stun;
use mesh_tunnel::{
    DeviceUpdate, Drops, Engine, EngineEvent, EngineTarget, EngineTransmit, PeerState, PeerUpdate, PresharedKey,
    PublicKey,
};
use zeroize::Zeroizing;

use super::engines::{address, engine, private};

/// The interface's MTU.
pub(super) const MTU: u16 = 1420;

/// The byte that the preshared key is made of.
pub(super) const PSK: u8 = 3;

/// The devices 0 and 1. Only the first knows where the other is.
pub(super) struct Pair {
    pub(super) now: Instant,
    pub(super) devices: [Engine; 2],
}

impl Pair {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        let devices = [0, 1].map(|at: u8| {
            let mut device = engine(at.into(), MTU, now);
            let allowed_ips =
                vec![format!("10.0.1.{}/32", 2 - at).parse().unwrap_or_else(|_| unreachable!("a network"))];
            let endpoint = (at == 0).then(|| address(1));
            // It asks for a session at once, and again.
            let persistent_keepalive = (at == 0).then_some(25);
            let peer = PeerUpdate { allowed_ips, endpoint, persistent_keepalive, ..peer(key(1 - at)) };
            let private_key = Some(private(1 + at));
            device.apply(DeviceUpdate { private_key, peers: vec![peer], ..DeviceUpdate::default() }, now);
            device
        });
        Self { now, devices }
    }

    /// The next initiation of the first device. What it sent before is lost.
    pub(super) fn ask(&mut self) -> Vec<u8> {
        for _ in 0..100 {
            let sent = sent(&mut self.devices[0]).into_iter().find(|sent| sent.bytes[0] == 1);
            if let Some(EngineTransmit { to, bytes, .. }) = sent {
                assert_eq!(to, EngineTarget::Udp(address(1)));
                return bytes;
            }
            let Some(next) = self.devices[0].poll_timeout() else { break };
            self.now = self.now.max(next);
            self.devices[0].handle_timeout(self.now);
        }
        panic!("no other initiation")
    }

    /// The second device's answer to a genuine initiation, wherever that came from.
    pub(super) fn answer(&mut self, from: SocketAddr, initiation: &[u8]) -> Vec<u8> {
        let before = self.devices[1].drops();
        self.devices[1].handle_datagram(from, initiation, self.now);
        let sent = sent(&mut self.devices[1]);
        assert_eq!(self.devices[1].drops(), before, "a genuine initiation was refused");
        match sent.into_iter().find(|sent| sent.to == EngineTarget::Udp(from)) {
            Some(answer) => answer.bytes,
            None => panic!("not answered where it came from"),
        }
    }

    /// Gives the first device an answer that is genuine; the message that shows the other that it has come.
    pub(super) fn complete(&mut self, from: SocketAddr, answer: &[u8]) -> Vec<u8> {
        let device = &mut self.devices[0];
        let before = device.drops();
        device.handle_datagram(from, answer, self.now);
        assert_eq!((device.drops(), device.poll_delivered()), (before, None), "a genuine response was refused");
        assert!(state(device, key(1), self.now).last_handshake.is_some(), "a session without a handshake");
        assert_eq!(state(device, key(1), self.now).endpoint, Some(address(1)), "a response moved the endpoint");
        data(&sent(device))
    }

    /// The rest of the handshake that this genuine initiation began, and a packet each way.
    pub(super) fn finish(&mut self, initiation: &[u8]) {
        let answer = self.answer(address(0), initiation);
        let confirmation = self.complete(address(1), &answer);
        self.confirm(&confirmation);
    }

    /// Shows the second device that the first has the session, and sends a packet each way.
    pub(super) fn confirm(&mut self, confirmation: &[u8]) {
        self.devices[1].handle_datagram(address(0), confirmation, self.now);
        assert_eq!(
            state(&self.devices[1], key(0), self.now).endpoint,
            Some(address(0)),
            "not where the round trip was"
        );
        self.check();
    }

    /// Sends a packet each way: there is a session.
    pub(super) fn check(&mut self) {
        for at in [0, 1] {
            let (packet, other) = (packet([10, 0, 1, at + 1], [10, 0, 1, 2 - at]), usize::from(1 - at));
            let device = &mut self.devices[usize::from(at)];
            device.handle_packet(&packet, self.now);
            let message = data(&sent(device));
            self.devices[other].handle_datagram(address(at), &message, self.now);
            assert_eq!(self.devices[other].poll_delivered().as_deref(), Some(&packet[..]), "the session is gone");
        }
        for device in &mut self.devices {
            let _ = sent(device);
        }
    }

    pub(super) fn refuse(&mut self, at: usize, from: SocketAddr, datagram: &[u8]) {
        refuse(&mut self.devices[at], from, datagram, self.now);
    }
}

/// Gives a device a datagram that is not authentic: all that happens is that it is counted, or reported as STUN.
pub(super) fn refuse(device: &mut Engine, from: SocketAddr, datagram: &[u8], now: Instant) {
    let (shown, drops) = (format!("{:?}", device.peers(now)), device.drops());
    let _ = sent(device);
    device.handle_datagram(from, datagram, now);
    assert_eq!((device.poll_transmit(), device.poll_delivered()), (None, None));
    assert_eq!(format!("{:?}", device.peers(now)), shown, "it changed the peer");
    match device.poll_event() {
        Some(event) => {
            assert_eq!(event, EngineEvent::Stun { from, datagram: datagram.to_vec() });
            assert!(may_be_stun(datagram));
            assert_eq!((device.drops(), device.poll_event()), (drops, None));
        }
        None => assert_eq!(device.drops(), Drops { unauthenticated: drops.unauthenticated + 1, ..drops }),
    }
}

/// What the device has to send. Its reports up to now are forgotten.
pub(super) fn sent(device: &mut Engine) -> Vec<EngineTransmit> {
    while device.poll_event().is_some() {}
    std::iter::from_fn(|| device.poll_transmit()).collect()
}

/// The first data message among these.
pub(super) fn data(sent: &[EngineTransmit]) -> Vec<u8> {
    match sent.iter().find(|sent| sent.bytes[0] == 4) {
        Some(message) => message.bytes.clone(),
        None => panic!("a session that seals nothing"),
    }
}

/// What the device shows of this peer.
pub(super) fn state(device: &Engine, key: PublicKey, now: Instant) -> PeerState {
    match device.peers(now).into_iter().find(|peer| peer.public_key == key) {
        Some(peer) => peer,
        None => panic!("the peer is gone"),
    }
}

/// A peer with the preshared key.
pub(super) fn peer(key: PublicKey) -> PeerUpdate {
    PeerUpdate { preshared_key: Some(PresharedKey::from_bytes(Zeroizing::new([PSK; 32]))), ..PeerUpdate::new(key) }
}

/// The public key of a device.
pub(super) fn key(at: u8) -> PublicKey {
    private(1 + at).public_key()
}

/// UDP over IPv4, 32 bytes long.
pub(super) fn packet(source: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
    [&[0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0][..], &source, &destination, &[0, 9, 0, 9, 0, 12, 0, 0, 1, 2, 3, 4]]
        .concat()
}
