//! A device whose peer is another implementation, boringtun: it seals any bytes, whether or not they are a packet.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use boringtun::noise::{Tunn, TunnResult};
use mesh_tunnel::{DeviceUpdate, Engine, PeerUpdate, PublicKey};

use super::engines::{address, engine, private};
use super::pair::{MTU, PSK, data, key, packet, peer, sent};

/// The networks of the device's other peer, which are within those of the counterpart.
const OF_ANOTHER: [&str; 2] = ["128.0.0.0/2", "8000::/2"];

/// Whether an inner address belongs to the device's other peer.
pub(super) const fn is_of_another(address: IpAddr) -> bool {
    let first = match address {
        IpAddr::V4(address) => address.octets()[0],
        IpAddr::V6(address) => address.octets()[0],
    };
    first >> 6 == 2
}

/// A device and its peer, which has every address but those of another.
pub(super) struct Counterpart {
    pub(super) now: Instant,
    pub(super) device: Engine,
    tunn: Tunn,
}

impl Counterpart {
    /// Its public key.
    pub(super) fn key() -> PublicKey {
        key(1)
    }

    /// Its UDP port.
    pub(super) fn address() -> SocketAddr {
        address(1)
    }

    /// Both with a session, after a handshake that the peer began.
    pub(super) fn with_session() -> Self {
        let now = Instant::now();
        let of =
            |networks: [&str; 2]| networks.map(|text| text.parse().unwrap_or_else(|_| unreachable!("{text}"))).into();
        let counterpart = PeerUpdate { allowed_ips: of(["0.0.0.0/0", "::/0"]), ..peer(Self::key()) };
        let another = PeerUpdate { allowed_ips: of(OF_ANOTHER), ..peer(key(2)) };
        let (private_key, mut device) = (Some(private(1)), engine(0, MTU, now));
        device.apply(DeviceUpdate { private_key, peers: vec![counterpart, another], ..DeviceUpdate::default() }, now);
        let tunn = Tunn::new((*private(2).bytes()).into(), (*key(0).as_bytes()).into(), Some([PSK; 32]), None, 9, None);
        let mut new = Self { now, device, tunn };
        new.shake_hands();
        new
    }

    fn shake_hands(&mut self) {
        let mut buffer = [0; 256];
        let initiation = network(self.tunn.format_handshake_initiation(&mut buffer, false));
        self.device.handle_datagram(Self::address(), &initiation, self.now);
        let [answer] = &sent(&mut self.device)[..] else { panic!("a genuine initiation was refused") };
        let confirmation = network(self.tunn.decapsulate(None, &answer.bytes, &mut buffer));
        self.device.handle_datagram(Self::address(), &confirmation, self.now);
        self.check();
    }

    /// A message of the peer with this content.
    pub(super) fn seal(&mut self, content: &[u8]) -> Vec<u8> {
        network(self.tunn.encapsulate(content, &mut [0; 1024]))
    }

    /// Sends a packet each way: there is a session.
    pub(super) fn check(&mut self) {
        let (there, back) = (packet([10, 0, 1, 2], [10, 0, 1, 1]), packet([10, 0, 1, 1], [10, 0, 1, 2]));
        let message = self.seal(&there);
        self.device.handle_datagram(Self::address(), &message, self.now);
        assert_eq!(self.device.poll_delivered(), Some(there), "the session is gone");
        self.device.handle_packet(&back, self.now);
        let (message, mut buffer) = (data(&sent(&mut self.device)), [0; 256]);
        let opened = self.tunn.decapsulate(None, &message, &mut buffer);
        assert!(matches!(opened, TunnResult::WriteToTunnelV4(ref packet, _) if **packet == back[..]), "{opened:?}");
    }
}

/// The message for the network that boringtun made.
fn network(result: TunnResult<'_>) -> Vec<u8> {
    let TunnResult::WriteToNetwork(message) = result else { panic!("nothing for the network: {result:?}") };
    message.to_vec()
}
