//! Events of a model of the contract, and every way to lie about them: what comes of it is the truth, or nothing.

use alloy_primitives::{Address, Bytes, FixedBytes, LogData};
use mesh_core::id::{AppId, InstanceId};

use super::*;
use crate::proven::tests::model::{CONTRACT, Rng};

const DOMAIN: Domain = Domain { chain_id: 8453, contract: CONTRACT };
const OWN: u64 = 1;

fn reader() -> For {
    For { instance: InstanceId([OWN as u8; 20]), own_token: TokenId::new(OWN as u32), max_dev_peers: 1000 }
}

/// What an endpoint would have the reader believe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lie {
    /// Some events are missing.
    LeaveOut,
    /// None is there.
    LeaveOutAll,
    /// The last ones have not come yet.
    Lag,
    /// One comes twice.
    Repeat,
    /// Two have changed places.
    Reorder,
    /// One bit of an event is another.
    Alter,
    /// A registration is in another block.
    OtherBlock,
    /// A registration is in no block.
    NoBlock,
    /// It is about another token.
    OtherToken,
    /// It is an event of another kind.
    OtherKind,
    /// One that never happened is among them.
    Invent,
    /// What happened on another fork.
    OtherFork,
    /// Its data is cut off.
    CutOff,
    /// It has one more topic.
    Topic,
}

const LIES: [Lie; 14] = [
    Lie::LeaveOut,
    Lie::LeaveOutAll,
    Lie::Lag,
    Lie::Repeat,
    Lie::Reorder,
    Lie::Alter,
    Lie::OtherBlock,
    Lie::NoBlock,
    Lie::OtherToken,
    Lie::OtherKind,
    Lie::Invent,
    Lie::OtherFork,
    Lie::CutOff,
    Lie::Topic,
];

/// The only base domain.
const GATEWAY: &str = "gw.example";

/// The contract as far as its events tell, and these. Written apart from what is tested.
#[derive(Clone)]
struct Model {
    contents: Contents,
    block: u64,
    logs: Vec<Log>,
}

impl Model {
    fn new(rng: &mut Rng) -> Self {
        let hash = FixedBytes::from_slice(&keccak256(U256::from(rng.below(1 << 30)).to_be_bytes::<32>())[..20]);
        let contents = Contents {
            history: History { epoch: 40, hash },
            name: "mesh".to_owned(),
            network: (FixedBytes([10, 0, 1, 0]), 24),
            dev_mode: false,
            base_domains: vec![GATEWAY.to_owned()],
            peers: Vec::new(),
            dev_urls: Vec::new(),
            own_nodes: Vec::new(),
        };
        let mut model = Self { contents, block: 100, logs: Vec::new() };
        for _ in 0..8 {
            model.change(rng);
        }
        model.logs.clear();
        model
    }

    fn change(&mut self, rng: &mut Rng) {
        self.block += rng.below(3) as u64;
        let token = 2 + rng.below(9) as u64;
        let is_peer = self.contents.peers.iter().any(|peer| peer.tokenId == U256::from(token));
        match rng.below(8) {
            0 | 1 => self.register(token, rng),
            2 if is_peer => self.update(token, rng),
            3 | 4 => self.clear(token, rng),
            5 => {
                let (to, instance) = (Address::repeat_byte(rng.below(250) as u8), FixedBytes([token as u8; 20]));
                self.log_static(&events::NodeMinted {
                    tokenId: U256::from(token),
                    to,
                    instanceId: instance,
                    appId: Address::ZERO,
                    epoch: 0,
                });
            }
            6 => {
                let (voter, target) = (Address::repeat_byte(rng.below(250) as u8), Address::repeat_byte(7));
                let (votes, term) = (rng.below(5) as u32, 3);
                self.log_static(&events::VoteCast {
                    tokenId: U256::from(token),
                    voter,
                    target,
                    isNoConfidence: true,
                    votes,
                    term,
                    epoch: 0,
                });
            }
            _ => {
                let (from, to) = (Address::repeat_byte(1), Address::repeat_byte(2));
                let transfer = events::Transfer { from, to, tokenId: U256::from(token) };
                self.push(transfer.encode_log_data());
            }
        }
    }

    fn register(&mut self, token: u64, rng: &mut Rng) {
        let registration = contract::Registration {
            tokenId: U256::from(token),
            instanceId: FixedBytes([token as u8; 20]),
            memberAddress: Address::repeat_byte(token as u8),
            wireguardKey: keccak256([rng.below(256) as u8]),
            tlsKey: B256::from(U256::from(rng.below(3))),
            keyEpoch: rng.below(1000) as u32,
            networkType: 1,
            endpointAddress: FixedBytes::ZERO,
            endpointPort: 0,
            gatewayDomain: B256::ZERO,
            gatewayPort: 0,
            deadline: rng.below(1 << 30) as u64,
        };
        let chain = contract::SignatureChain {
            nodeKeyX: B256::repeat_byte(5),
            nodeKeyY: B256::repeat_byte(6),
            appKeyX: B256::repeat_byte(7),
            appKeyY: B256::repeat_byte(8),
            appSignature: Bytes::from(vec![1; 65]),
            kmsSignature: Bytes::from(vec![2; 65]),
            appId: Address::repeat_byte(0x11),
        };
        let (root, given) = (Address::repeat_byte(0xaa), registration.clone());
        let peer = contract::Peer {
            tokenId: given.tokenId,
            instanceId: given.instanceId,
            memberAddress: given.memberAddress,
            wireguardKey: given.wireguardKey,
            tlsKey: given.tlsKey,
            keyEpoch: given.keyEpoch,
            endpointEpoch: 0,
            networkType: given.networkType,
            endpointAddress: given.endpointAddress,
            endpointPort: given.endpointPort,
            gatewayDomain: 0,
            gatewayPort: 0,
            kmsRoot: root,
            appId: chain.appId,
            registeredBlock: self.block,
        };
        let digest = Registration::try_from(given).unwrap().digest(&DOMAIN);
        let fields = (U256::from(token), digest, root, chain.appId, U256::from(self.block)).abi_encode();
        self.remove(token);
        self.contents.peers.push(peer);
        self.contents.peers.sort_by_key(|peer| peer.tokenId);
        self.contents.dev_urls = vec![String::new(); self.contents.peers.len()];
        let event = events::PeerRegistered {
            tokenId: U256::from(token),
            registration,
            chain,
            nodeSignature: Bytes::from(vec![3; 65]),
            memberSignature: Bytes::from(vec![4; 65]),
            nodeAddress: Address::repeat_byte(9),
            kmsRoot: root,
            epoch: self.contents.history.epoch + 1,
        };
        self.advance(events::PeerRegistered::SIGNATURE_HASH, &fields);
        self.push(event.encode_log_data());
    }

    fn update(&mut self, token: u64, rng: &mut Rng) {
        let port = 1 + rng.below(60_000) as u16;
        let update = contract::EndpointUpdate {
            tokenId: U256::from(token),
            keyEpoch: 3,
            endpointEpoch: rng.below(100) as u32,
            endpointAddress: FixedBytes([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 7]),
            endpointPort: port,
            gatewayDomain: keccak256(GATEWAY),
            gatewayPort: port,
            deadline: 77,
        };
        let peer = self.contents.peers.iter_mut().find(|peer| peer.tokenId == U256::from(token)).unwrap();
        (peer.endpointEpoch, peer.endpointAddress) = (update.endpointEpoch, update.endpointAddress);
        (peer.endpointPort, peer.gatewayDomain, peer.gatewayPort) = (port, 1, port);
        let digest = EndpointUpdate::try_from(update.clone()).unwrap().digest(&DOMAIN);
        let epoch = self.contents.history.epoch + 1;
        let event = events::PeerEndpointUpdated {
            tokenId: U256::from(token),
            update,
            memberSignature: Bytes::from(vec![4; 65]),
            epoch,
        };
        self.advance(events::PeerEndpointUpdated::SIGNATURE_HASH, &(U256::from(token), digest).abi_encode());
        self.push(event.encode_log_data());
    }

    fn clear(&mut self, token: u64, rng: &mut Rng) {
        self.remove(token);
        let (reason, key_epoch) = (rng.below(4) as u8, rng.below(100) as u32);
        self.log_static(&events::NodeCleared { tokenId: U256::from(token), reason, keyEpoch: key_epoch, epoch: 0 });
    }

    fn remove(&mut self, token: u64) {
        self.contents.peers.retain(|peer| peer.tokenId != U256::from(token));
        self.contents.dev_urls = vec![String::new(); self.contents.peers.len()];
    }

    /// An event whose last field is the epoch.
    fn log_static(&mut self, event: &impl SolEvent) {
        let mut data = event.encode_log_data();
        let epoch = U256::from(self.contents.history.epoch + 1).to_be_bytes::<32>();
        let fields = &data.data[..data.data.len() - 32];
        data.data = [fields, &epoch].concat().into();
        let topics: Vec<u8> = data.topics()[1..].iter().flat_map(|topic| topic.0).collect();
        let fields = [&topics[..], &data.data[..data.data.len() - 32]].concat();
        self.advance(data.topics()[0], &fields);
        self.push(data);
    }

    fn advance(&mut self, topic: B256, fields: &[u8]) {
        let History { epoch, hash } = self.contents.history;
        let change = keccak256([&topic[..], fields].concat());
        let (number, mut padded) = (U256::from(epoch + 1).to_be_bytes::<32>(), [0; 32]);
        padded[..20].copy_from_slice(&hash[..]);
        let hash = keccak256([&number[..], &padded, &change[..]].concat());
        self.contents.history = History { epoch: epoch + 1, hash: FixedBytes::from_slice(&hash[..20]) };
    }

    fn push(&mut self, data: LogData) {
        let (address, topics) = (CONTRACT, data.topics().to_vec());
        self.logs.push(Log { address, topics, data: data.data, block_number: Some(self.block), removed: false });
    }
}

fn lie(lie: Lie, before: &Model, logs: &mut Vec<Log>, rng: &mut Rng) {
    let at = rng.below(logs.len());
    let one = &mut logs[at];
    match lie {
        Lie::LeaveOut => drop(logs.remove(at)),
        Lie::LeaveOutAll => logs.clear(),
        Lie::Lag => logs.truncate(at),
        Lie::Repeat => {
            let again = one.clone();
            logs.insert(at, again);
        }
        Lie::Reorder => {
            let other = rng.below(logs.len());
            logs.swap(at, other);
        }
        Lie::Alter => {
            let mut data = one.data.to_vec();
            let bit = rng.below(8 * (data.len() + 32 * one.topics.len()));
            match data.get_mut(bit / 8) {
                Some(byte) => *byte ^= 1 << (bit % 8),
                None => one.topics[(bit / 8 - data.len()) / 32][bit / 8 % 32] ^= 1 << (bit % 8),
            }
            one.data = data.into();
        }
        Lie::OtherBlock => one.block_number = one.block_number.map(|number| number + 1),
        Lie::NoBlock => one.block_number = None,
        Lie::OtherToken => {
            if let Some(token) = one.topics.get_mut(1) {
                token[31] ^= 1;
            }
        }
        Lie::OtherKind => one.topics[0] = events::NodeCleared::SIGNATURE_HASH,
        Lie::Invent => {
            let mut made_up = before.clone();
            made_up.logs.clear();
            made_up.register(3, rng);
            logs.splice(at..at, made_up.logs);
        }
        Lie::OtherFork => {
            let mut fork = before.clone();
            for _ in 0..logs.len() {
                fork.change(rng);
            }
            *logs = fork.logs;
        }
        Lie::CutOff => {
            let length = rng.below(one.data.len().max(1));
            one.data = one.data.slice(..length);
        }
        Lie::Topic => one.topics.push(B256::ZERO),
    }
}

fn storm(seeds: std::ops::Range<u64>) {
    let mut refused = [0_usize; LIES.len()];
    for seed in seeds {
        let mut rng = Rng::new(seed);
        let before = Model::new(&mut rng);
        let mut now = before.clone();
        for _ in 0..1 + rng.below(12) {
            now.change(&mut rng);
        }
        let goal = now.contents.history;
        let read = |logs: &[Log]| replay(&before.contents, &DOMAIN, reader(), logs, goal);
        assert_eq!(read(&now.logs).unwrap().contents, now.contents, "seed {seed}: the truth was not believed");
        for (kind, refused) in LIES.into_iter().zip(&mut refused) {
            let mut logs = now.logs.clone();
            lie(kind, &before, &mut logs, &mut rng);
            match read(&logs) {
                Err(_) => *refused += 1,
                // A lie about an event of no change, about a signature, or none.
                Ok(replayed) => assert_eq!(replayed.contents, now.contents, "seed {seed}: {kind:?} was believed"),
            }
        }
    }
    for (lie, refused) in LIES.into_iter().zip(refused) {
        println!("{lie:?}: refused {refused} times");
        assert!(refused > 0, "{lie:?} was never tried");
    }
}

#[test]
fn no_lie_about_events_is_believed() {
    storm(0..1000);
}

/// Of its own tokens, of what is trusted and of development a reader wants to know more than events say.
#[test]
fn other_changes_are_left_to_a_read_of_storage() {
    let mut rng = Rng::new(1);
    let before = Model::new(&mut rng);
    let refuses = |change: &dyn Fn(&mut Model)| {
        let mut now = before.clone();
        change(&mut now);
        let read = replay(&before.contents, &DOMAIN, reader(), &now.logs, now.contents.history);
        assert_eq!(read.unwrap_err(), NotReplayed::Other);
    };
    refuses(&|model| model.register(OWN, &mut Rng::new(2)));
    refuses(&|model| model.clear(OWN, &mut Rng::new(2)));
    let bound = |token: u64, instance| events::NodeBound {
        tokenId: U256::from(token),
        instanceId: FixedBytes(instance),
        appId: Address::ZERO,
        epoch: 0,
    };
    refuses(&|model| model.log_static(&bound(OWN, [9; 20])));
    refuses(&|model| model.log_static(&bound(5, reader().instance.0)));
    refuses(&|model| {
        model.log_static(&events::KmsRootRemoved { root: Address::repeat_byte(0xaa), generation: 1, epoch: 0 });
    });
    refuses(&|model| model.log_static(&events::DevModeSet { devMode: true, epoch: 0 }));
    let mut developing = before.clone();
    developing.contents.dev_mode = true;
    let mut now = developing.clone();
    now.clear(3, &mut rng);
    let read = replay(&developing.contents, &DOMAIN, reader(), &now.logs, now.contents.history);
    assert_eq!(read.unwrap_err(), NotReplayed::Other);
}

/// The history does not cover signatures: one that the endpoint altered changes no content, and proves nothing.
#[test]
fn a_registration_with_altered_signatures_is_not_handed_on() {
    let before = Model::new(&mut Rng::new(3));
    let mut now = before.clone();
    now.register(4, &mut Rng::new(4));
    let replayed = replay(&before.contents, &DOMAIN, reader(), &now.logs, now.contents.history).unwrap();
    assert_eq!(replayed.contents, now.contents);
    assert!(replayed.registrations.is_empty(), "made-up signatures");
    assert_eq!(AppId::from(now.contents.peers.last().unwrap().appId), AppId([0x11; 20]));
}

/// Events of a real life of the contract, as its own tests know them: what is replayed adds to the history what the contract added, and
/// what is not is left to a read of storage.
#[test]
fn the_contracts_vectors_lead_to_its_histories() {
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("../../../../../contracts/test/vectors/history.json")).unwrap();
    let domain = Domain {
        chain_id: vectors["chainId"].as_u64().unwrap(),
        contract: vectors["contract"].as_str().unwrap().parse().unwrap(),
    };
    // None of the tokens is its own.
    let reader = For { instance: InstanceId([0xee; 20]), own_token: None, ..reader() };
    let (mut replayed, mut left) = (Vec::new(), Vec::new());
    for vector in vectors["events"].as_array().unwrap() {
        let field = |name: &str| serde_json::from_value::<Bytes>(vector[name].clone()).unwrap();
        let history = |name: &str, epoch: u64| History { epoch, hash: FixedBytes::from_slice(&field(name)) };
        let (name, epoch) = (vector["name"].as_str().unwrap(), vector["epoch"].as_u64().unwrap());
        let log = Log {
            address: domain.contract,
            topics: serde_json::from_value(vector["topics"].clone()).unwrap(),
            data: field("data"),
            block_number: vector["block"].as_u64(),
            removed: false,
        };
        let mut contents = Model::new(&mut Rng::new(1)).contents;
        contents.history = history("before", epoch - 1);
        contents.base_domains = vec!["gw0.example.com".to_owned()];
        if name == "PeerEndpointUpdated" {
            let token = U256::from_be_bytes(log.topics[1].0);
            contents.peers = vec![contract::Peer { tokenId: token, ..contents.peers[0].clone() }];
        }
        match replay(&contents, &domain, reader, &[log], history("after", epoch)) {
            Ok(read) => {
                assert_eq!(read.contents.history, history("after", epoch), "{name}");
                replayed.push(name);
            }
            Err(NotReplayed::Other) => left.push(name),
            Err(NotReplayed::Differs) => panic!("{name} leads elsewhere"),
        }
    }
    assert_eq!((replayed.len(), left.len()), (11, 10), "{replayed:?}, and not {left:?}");
}
