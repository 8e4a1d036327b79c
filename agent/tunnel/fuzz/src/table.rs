//! Updates of a device's key, its peers and their allowed IPs, against a list.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use mesh_tunnel::{DeviceUpdate, Drops, Engine, EngineTarget, PeerUpdate, PrivateKey, PublicKey};
use zeroize::Zeroizing;

use super::engines::{address, engine, private};
use super::input::Input;

/// Updates of one input. Each may cost four handshakes. With [`STEP`] they end before a session is renewed.
const STEPS: usize = 200;

/// Virtual time from one update to the next.
const STEP: Duration = Duration::from_millis(250);

/// The machines that may be peers.
const MACHINES: usize = 4;

/// The host that the device is.
const DEVICE: u8 = 100;

/// The MTU of all: no packet here is as long.
const MTU: u16 = 1420;

/// A sequence of updates to a device's key and few peers over few networks. After each, the device has the peers, networks and
/// endpoints of a list, a packet to an address goes to the peer whose network is the longest that holds it, and a packet from an
/// address is taken from that peer alone.
pub fn table(input: &[u8]) {
    let mut input = Input::new(input);
    let mut world = World::new();
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        world.pass();
        world.update(&mut input);
        world.compare();
    }
}

struct World {
    now: Instant,
    device: Engine,
    machines: [Engine; MACHINES],
    /// Which of them have a session with the device's key, whether or not the device still has it.
    met: [bool; MACHINES],
    list: List,
}

/// What the device should be.
struct List {
    /// The keys of the machines.
    keys: [PublicKey; MACHINES],
    key: Option<PublicKey>,
    peers: BTreeSet<usize>,
    owners: Vec<(IpNetwork, usize)>,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let machines = std::array::from_fn(|number| engine(number as u64, MTU, now));
        let list = List {
            keys: std::array::from_fn(|number| private(machine(number)).public_key()),
            key: None,
            peers: BTreeSet::new(),
            owners: Vec::new(),
        };
        let mut world = Self { now, device: engine(MACHINES as u64, MTU, now), machines, met: [false; MACHINES], list };
        world.apply(DeviceUpdate { private_key: Some(private(1)), ..DeviceUpdate::default() });
        world
    }

    fn pass(&mut self) {
        self.now += STEP;
        self.device.handle_timeout(self.now);
        for machine in &mut self.machines {
            machine.handle_timeout(self.now);
        }
        self.exchange();
    }

    fn update(&mut self, input: &mut Input<'_>) {
        let [choices, counts] = input.array();
        let mut peer = PeerUpdate::new(self.list.keys[usize::from(choices & 3)]);
        peer.endpoint = Some(address(choices & 3));
        // It is asked for a session at once; the next keepalive comes after the last update.
        peer.persistent_keepalive = Some(3600);
        peer.remove = choices & 0b1_1100 == 0b1_1100;
        peer.update_only = choices & 0b0010_0000 != 0;
        peer.replace_allowed_ips = choices & 0b0100_0000 != 0;
        peer.allowed_ips = (0..counts & 3).map(|_| network(input)).collect();
        peer.removed_allowed_ips = (0..counts >> 2 & 3).map(|_| network(input)).collect();
        let mut update = DeviceUpdate { peers: vec![peer], ..DeviceUpdate::default() };
        if choices & 0b1000_0000 != 0 {
            update.replace_peers = counts & 0b0001_0000 != 0;
            update.private_key = match counts >> 5 {
                0 => Some(PrivateKey::from_bytes(Zeroizing::new([0; 32]))),
                1 => Some(private(1)),
                2 => Some(private(2)),
                3 => Some(private(machine(0))),
                _ => None,
            };
        }
        self.apply(update);
    }

    fn apply(&mut self, update: DeviceUpdate) {
        let before = self.list.key;
        self.list.apply(&update);
        if self.list.key != before {
            self.met = [false; MACHINES];
            for (number, machine) in self.machines.iter_mut().enumerate() {
                let networks = ["0.0.0.0/0", "::/0"].map(|all| all.parse().unwrap_or_else(|_| unreachable!("{all}")));
                let device =
                    self.list.key.map(|key| PeerUpdate { allowed_ips: networks.into(), ..PeerUpdate::new(key) });
                let private_key = Some(private(self::machine(number)));
                let peers = device.into_iter().collect();
                machine.apply(
                    DeviceUpdate { private_key, replace_peers: true, peers, ..DeviceUpdate::default() },
                    self.now,
                );
            }
        }
        self.device.apply(update, self.now);
        self.exchange();
        if self.list.key.is_some() {
            self.list.peers.iter().for_each(|number| self.met[*number] = true);
        }
    }

    /// Carries what all have to send, until none has anything. No packet is among it.
    fn exchange(&mut self) {
        loop {
            let sent = self.sent();
            let is_quiet = sent.is_empty();
            for (number, message) in sent {
                self.machines[number].handle_datagram(address(DEVICE), &message, self.now);
            }
            let answers = (0..MACHINES).map(|number| self.carry_to_device(number)).sum::<usize>();
            if is_quiet && answers == 0 {
                break;
            }
        }
        for engine in self.machines.iter_mut().chain([&mut self.device]) {
            assert_eq!(engine.poll_delivered(), None);
            while engine.poll_event().is_some() {}
        }
    }

    /// What the device has to send, and the machines that it goes to.
    fn sent(&mut self) -> Vec<(usize, Vec<u8>)> {
        let transmits = std::iter::from_fn(|| self.device.poll_transmit());
        let number = |to| (0..MACHINES).find(|number| to == EngineTarget::Udp(address(*number as u8)));
        let addressed = |to| number(to).unwrap_or_else(|| panic!("sent to {to:?}"));
        transmits.map(|transmit| (addressed(transmit.to), transmit.bytes)).collect()
    }

    /// Gives the device what this machine has to send; how many messages that were.
    fn carry_to_device(&mut self, number: usize) -> usize {
        let transmits = std::iter::from_fn(|| self.machines[number].poll_transmit());
        let carried =
            transmits.inspect(|sent| self.device.handle_datagram(address(number as u8), &sent.bytes, self.now));
        carried.count()
    }

    fn compare(&mut self) {
        self.compare_peers();
        let ends = |network: &IpNetwork| [network.network(), network.broadcast()];
        let addresses: BTreeSet<IpAddr> = self.list.owners.iter().flat_map(|(network, _)| ends(network)).collect();
        for (count, address) in addresses.into_iter().enumerate() {
            let owner = self.list.longest(address);
            self.send_to(address, owner);
            for number in owner.into_iter().chain([count % MACHINES]) {
                self.receive_from(number, address, owner);
            }
        }
        if self.list.owners.is_empty() {
            self.send_to(Ipv4Addr::new(10, 0, 0, 1).into(), None);
        }
    }

    fn compare_peers(&self) {
        assert_eq!(self.device.public_key(), self.list.key);
        let mut listed: Vec<_> = self.list.peers.iter().map(|number| (self.list.keys[*number], *number)).collect();
        listed.sort_unstable();
        let shown = self.device.peers(self.now);
        assert!(shown.iter().map(|peer| peer.public_key).eq(listed.iter().map(|(key, _)| *key)));
        for (peer, (_, number)) in shown.iter().zip(listed) {
            let networks = self.list.owners.iter().filter(|(_, owner)| *owner == number);
            let networks: BTreeSet<IpNetwork> = networks.map(|(network, _)| *network).collect();
            assert!(peer.allowed_ips.iter().eq(&networks), "{:?} and not {networks:?}", peer.allowed_ips);
            assert_eq!(peer.endpoint, Some(address(number as u8)));
        }
    }

    /// A packet of the device's interface goes to the owner of its destination, or nowhere.
    fn send_to(&mut self, destination: IpAddr, owner: Option<usize>) {
        let (packet, before) = (packet(unspecified(destination), destination), self.device.drops());
        self.device.handle_packet(&packet, self.now);
        let sent = self.sent();
        let Some(owner) = owner.filter(|_| self.list.key.is_some()) else {
            assert!(sent.is_empty(), "sent to {destination}, which no peer has");
            return assert_eq!(self.device.drops(), Drops { no_peer: before.no_peer + 1, ..before });
        };
        let [(number, message)] = &sent[..] else { panic!("{} datagrams for one packet", sent.len()) };
        assert_eq!((*number, self.device.drops()), (owner, before), "{destination}");
        self.machines[owner].handle_datagram(address(DEVICE), message, self.now);
        assert_eq!(self.machines[owner].poll_delivered().as_ref(), Some(&packet));
    }

    /// A packet from this machine is taken where the machine is the owner of its source.
    fn receive_from(&mut self, number: usize, source: IpAddr, owner: Option<usize>) {
        if !self.met[number] {
            return;
        }
        let (packet, before) = (packet(source, unspecified(source)), self.device.drops());
        self.machines[number].handle_packet(&packet, self.now);
        assert_eq!(self.carry_to_device(number), 1, "datagrams for one packet");
        let is_peer = self.list.peers.contains(&number);
        let (delivered, drops) = if owner == Some(number) {
            (Some(packet), before)
        } else if is_peer {
            (None, Drops { source_refused: before.source_refused + 1, ..before })
        } else {
            (None, Drops { unauthenticated: before.unauthenticated + 1, ..before })
        };
        assert_eq!((self.device.poll_delivered(), self.device.drops()), (delivered, drops), "{source} from {number}");
    }
}

impl List {
    fn apply(&mut self, update: &DeviceUpdate) {
        if let Some(private) = &update.private_key {
            self.key = (*private.bytes() != [0; 32]).then(|| private.public_key());
            if let Some(own) = self.keys.iter().position(|key| self.key == Some(*key)) {
                self.remove(own);
            }
        }
        if update.replace_peers {
            (0..MACHINES).for_each(|number| self.remove(number));
        }
        for peer in &update.peers {
            let Some(number) = self.keys.iter().position(|key| *key == peer.public_key) else { continue };
            let is_there = self.peers.contains(&number);
            if peer.remove {
                self.remove(number);
            } else if self.key != Some(peer.public_key) && (is_there || !peer.update_only) {
                self.peers.insert(number);
                if peer.replace_allowed_ips {
                    self.owners.retain(|(_, owner)| *owner != number);
                }
                for network in peer.removed_allowed_ips.iter().copied().map(canonical) {
                    self.owners.retain(|owned| *owned != (network, number));
                }
                for network in peer.allowed_ips.iter().copied().map(canonical) {
                    self.owners.retain(|(other, _)| *other != network);
                    self.owners.push((network, number));
                }
            }
        }
    }

    fn remove(&mut self, number: usize) {
        self.peers.remove(&number);
        self.owners.retain(|(_, owner)| *owner != number);
    }

    fn longest(&self, address: IpAddr) -> Option<usize> {
        let holding = self.owners.iter().filter(|(network, _)| network.contains(address));
        holding.max_by_key(|(network, _)| network.prefix()).map(|(_, owner)| *owner)
    }
}

/// The byte that a machine's key is made of.
const fn machine(number: usize) -> u8 {
    9 + number as u8
}

/// Few of them, so that they meet; host bits may be set.
fn network(input: &mut Input<'_>) -> IpNetwork {
    let [len, low] = input.array();
    let network = if len & 1 == 0 {
        IpNetwork::new(Ipv4Addr::new(10, 0, 0, low).into(), len >> 1 & 31)
    } else {
        IpNetwork::new(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, low.into()).into(), len >> 1)
    };
    network.unwrap_or_else(|_| unreachable!("a length of at most 31 or 127"))
}

/// The network without host bits.
fn canonical(network: IpNetwork) -> IpNetwork {
    IpNetwork::new(network.network(), network.prefix()).unwrap_or_else(|_| unreachable!("its own length"))
}

const fn unspecified(of: IpAddr) -> IpAddr {
    match of {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// A packet with 16 bytes of content in a protocol that no device reads.
fn packet(source: IpAddr, destination: IpAddr) -> Vec<u8> {
    let addresses = |head: &[u8], source: &[u8], destination: &[u8]| [head, source, destination, &[7; 16]].concat();
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let head = [0x45, 0, 0, 36, 0, 0, 0, 0, 64, 253, 0, 0];
            addresses(&head, &source.octets(), &destination.octets())
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let head = [0x60, 0, 0, 0, 0, 16, 253, 64];
            addresses(&head, &source.octets(), &destination.octets())
        }
        _ => unreachable!("addresses of one family"),
    }
}
