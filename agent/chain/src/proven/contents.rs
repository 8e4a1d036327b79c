//! What the contract's views say, made of proved words: for each view of `IDstackClusterNFT` that agents read, the same answer.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{Address, B256, FixedBytes, U256};
use mesh_contract::IDstackClusterNFT as contract;
use mesh_core::id::{InstanceId, TokenId};

use super::{history::History, layout};

/// Bytes of a name that are read: its first 128 characters.
const MAX_NAME: u64 = 512;
/// Longest host name (`HostName`), and longest development URL (`ClusterPolicy.MAX_DEV_URL`).
const MAX_TEXT: u64 = 256;
/// Tokens that the largest network has room for.
const MAX_TOKENS: u64 = 65_534;
/// Ids in a word of `IdSet`.
const LEAF: u64 = 256;

/// All that a read needs, as the contract's views would return it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Contents {
    pub(crate) history: History,
    pub(crate) name: String,
    /// Base and prefix length.
    pub(crate) network: (FixedBytes<4>, u8),
    pub(crate) dev_mode: bool,
    /// By index - 1; a removed one is empty.
    pub(crate) base_domains: Vec<String>,
    /// Ascending by token.
    pub(crate) peers: Vec<contract::Peer>,
    /// One for each peer, empty where it has none.
    pub(crate) dev_urls: Vec<String>,
    /// Ascending by token: those bound to the reader's instance, and its own one.
    pub(crate) own_nodes: Vec<contract::Node>,
}

/// Whose read it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct For {
    /// Its tokens are wanted.
    pub(crate) instance: InstanceId,
    /// Wanted whatever it is bound to.
    pub(crate) own_token: Option<TokenId>,
    /// A larger mesh has no development URLs.
    pub(crate) max_dev_peers: usize,
}

/// Tokens that the contract can have, more than any read takes word by word; nothing else can fail of what is proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{slots} words of storage are too many to be proved one by one")]
pub(crate) struct TooLarge {
    /// So many are wanted next.
    slots: usize,
}

/// Slots whose words are needed, each with the hash of the first node that is missing on its way.
#[derive(Debug)]
pub(crate) struct Needed(BTreeMap<B256, B256>);

impl Needed {
    /// All of them.
    ///
    /// # Errors
    /// There are more than `max`.
    pub(crate) fn all(self, max: usize) -> Result<Vec<B256>, TooLarge> {
        let slots = self.0.len();
        if slots > max { Err(TooLarge { slots }) } else { Ok(self.0.into_keys().collect()) }
    }

    /// One for each node that is missing: where most of a trie is known, its proof shows which of the others changed.
    pub(crate) fn one_of_each(self) -> Vec<B256> {
        let by_node: BTreeMap<B256, B256> = self.0.into_iter().map(|(slot, node)| (node, slot)).collect();
        by_node.into_values().collect()
    }
}

/// Makes the contents of these words, or says which ones are needed before: to be called again with them, until all are there. Few calls
/// suffice: which tokens there are, what they are, long texts.
pub(crate) fn read(word: impl FnMut(B256) -> Result<U256, B256>, reader: For) -> Result<Contents, Needed> {
    let mut read = Read { source: word, missing: BTreeMap::new() };
    let contents = read.contents(reader);
    if read.missing.is_empty() { Ok(contents) } else { Err(Needed(read.missing)) }
}

/// What the first word says of it.
pub(crate) fn history(totals: U256) -> History {
    let totals = Word(totals);
    History { epoch: totals.field(0, 5), hash: FixedBytes(totals.bytes(12)) }
}

/// Reads on with zeros where words are missing, to find out what else is.
struct Read<W> {
    source: W,
    missing: BTreeMap<B256, B256>,
}

impl<W: FnMut(B256) -> Result<U256, B256>> Read<W> {
    fn contents(&mut self, reader: For) -> Contents {
        let totals = self.word(layout::MEMBERS);
        let dev_mode = totals.0.bit(layout::DEV_MODE);
        let dev_round = if dev_mode { self.word(layout::dev_round()).field(0, 4) } else { 0 };
        let network = self.word(layout::network());
        let registered = self.ids(layout::REGISTERED);
        // An id that was minted once is minted now, or free.
        let highest = (totals.field(layout::SUPPLY, 2) + self.ids(layout::FREE).len() as u64).min(MAX_TOKENS);
        let (roots, apps) = (self.anchors(layout::kms_root), self.anchors(layout::app_id));
        let (mut peers, mut rounds) = (Vec::new(), Vec::new());
        for token in registered.iter().copied() {
            let record = self.record(token);
            if let Some(peer) = record.peer(token, &roots, &apps) {
                peers.push(peer);
                rounds.push((token, record.words[3].field(27, 4)));
            }
        }
        let has_url = dev_mode && peers.len() <= reader.max_dev_peers;
        let rounds = rounds.into_iter();
        let dev_urls = rounds.map(|(token, round)| {
            if has_url && round == dev_round { self.text(layout::dev_url(token), MAX_TEXT) } else { String::new() }
        });
        let dev_urls = dev_urls.collect();
        Contents {
            history: history(totals.0),
            name: self.text(layout::NAME, MAX_NAME),
            network: (FixedBytes(network.bytes(0)), network.field(4, 1) as u8),
            dev_mode,
            base_domains: self.base_domains(),
            peers,
            dev_urls,
            own_nodes: self.own_nodes(reader, highest, &roots, &apps),
        }
    }

    fn word(&mut self, slot: B256) -> Word {
        Word((self.source)(slot).unwrap_or_else(|node| {
            self.missing.insert(slot, node);
            U256::ZERO
        }))
    }

    /// The ids of a set, ascending. Of those that are registered some may be under a removed root or app id.
    fn ids(&mut self, set: u64) -> Vec<TokenId> {
        let summary = self.word(layout::summary(set)).0;
        let mut tokens = Vec::new();
        for index in (0..LEAF).filter(|index| summary.bit(*index as usize)) {
            let leaf = self.word(layout::leaf(set, index)).0;
            let ids = (0..LEAF).filter(|bit| leaf.bit(*bit as usize)).map(|bit| index * LEAF + bit);
            tokens.extend(ids.filter_map(|id| TokenId::new(id as u32)));
        }
        tokens
    }

    /// Account and generation, by slot.
    fn anchors(&mut self, slot: impl Fn(u64) -> B256) -> Vec<(Address, u64)> {
        let mut anchor = |index| {
            let word = self.word(slot(index));
            (Address::from(word.bytes::<20>(0)), word.field(20, 4))
        };
        (0..layout::ANCHORS).map(&mut anchor).collect()
    }

    fn record(&mut self, token: TokenId) -> Record {
        let words = [0, 1, 2, 3].map(|n| self.word(layout::record(token, n)));
        let mut record = Record { words, tls_key: B256::ZERO };
        if record.registered() == WITH_TLS_KEY {
            record.tls_key = self.word(layout::record(token, 4)).0.into();
        }
        record
    }

    fn base_domains(&mut self) -> Vec<String> {
        let count = u64::try_from(self.word(layout::base_domains()).0).unwrap_or(u64::MAX).min(u64::from(u16::MAX));
        let first = layout::content(layout::base_domains());
        (0..count).map(|index| self.text(layout::after(first, index), MAX_TEXT)).collect()
    }

    fn own_nodes(
        &mut self,
        reader: For,
        highest: u64,
        roots: &[(Address, u64)],
        apps: &[(Address, u64)],
    ) -> Vec<contract::Node> {
        let all = (1..=highest).filter_map(|id| TokenId::new(id as u32));
        let bound = all.filter(|token| self.word(layout::record(*token, 3)).bytes(0) == reader.instance.0);
        let own: BTreeSet<TokenId> = bound.collect::<Vec<_>>().into_iter().chain(reader.own_token).collect();
        own.into_iter().map(|token| self.node(token, roots, apps)).collect()
    }

    fn node(&mut self, token: TokenId, roots: &[(Address, u64)], apps: &[(Address, u64)]) -> contract::Node {
        let record = self.record(token);
        let [_, member, reach, binding] = record.words;
        let active = record.is_active(roots, apps);
        let pinned = binding.field(31, 1) != 0;
        contract::Node {
            tokenId: U256::from(token.get()),
            owner: self.word(layout::owner(token)).bytes(0).into(),
            instanceId: FixedBytes(binding.bytes(0)),
            memberAddress: member.bytes(0).into(),
            boundAppId: if pinned { self.word(layout::bound_app(token)).bytes(0).into() } else { Address::ZERO },
            keyEpoch: member.field(20, 4) as u32,
            endpointEpoch: if active { reach.field(28, 4) as u32 } else { 0 },
            active,
            revoked: binding.field(20, 1) != 0,
        }
    }

    /// A string: with up to 31 bytes in its slot, or a longer one beside it. Of that `limit` bytes are read.
    fn text(&mut self, slot: B256, limit: u64) -> String {
        let word = self.word(slot).0;
        let bytes = if word.bit(0) {
            let length = u64::try_from(word >> 1).unwrap_or(u64::MAX).min(limit);
            let words = (0..length.div_ceil(32))
                .map(|n| self.word(layout::after(layout::content(slot), n)).0.to_be_bytes::<32>());
            let mut bytes = words.collect::<Vec<_>>().concat();
            bytes.truncate(length as usize);
            bytes
        } else {
            let length = word.byte(0) as usize / 2;
            word.to_be_bytes::<32>()[..length.min(31)].to_vec()
        };
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// A token's record: `ClusterStorage.NodeRecord`.
struct Record {
    words: [Word; 4],
    /// The fifth word, which only a record that says so has.
    tls_key: B256,
}

/// `ClusterStorage.Registered`, which was a bit before there were TLS keys.
const WITH_TLS_KEY: u64 = 2;
/// `NetworkType.TLS_GATEWAY`.
const TLS_GATEWAY: u8 = 0;

impl Record {
    /// Whether it is registered, and with what.
    fn registered(&self) -> u64 {
        self.words[1].field(31, 1)
    }

    /// `PeerTable.keysOf`: the WireGuard key, and the TLS key.
    fn keys(&self) -> (B256, B256) {
        let [key, member, ..] = self.words;
        let key = key.0.into();
        if member.field(24, 1) as u8 == TLS_GATEWAY { (B256::ZERO, key) } else { (key, self.tls_key) }
    }

    /// `PeerTable.isActive`.
    fn is_active(&self, roots: &[(Address, u64)], apps: &[(Address, u64)]) -> bool {
        let [_, _, reach, _] = self.words;
        let is_current = |anchors: &[(Address, u64)], (slot, generation): (usize, u64)| anchors[slot].1 == generation;
        self.registered() != 0 && is_current(roots, reach.anchor(22)) && is_current(apps, reach.anchor(25))
    }

    /// `ClusterReads._peer`, of one that is active.
    fn peer(&self, token: TokenId, roots: &[(Address, u64)], apps: &[(Address, u64)]) -> Option<contract::Peer> {
        let [_, member, reach, binding] = self.words;
        let (wireguard_key, tls_key) = self.keys();
        self.is_active(roots, apps).then(|| contract::Peer {
            tokenId: U256::from(token.get()),
            instanceId: FixedBytes(binding.bytes(0)),
            memberAddress: member.bytes(0).into(),
            wireguardKey: wireguard_key,
            tlsKey: tls_key,
            keyEpoch: member.field(20, 4) as u32,
            endpointEpoch: reach.field(28, 4) as u32,
            networkType: member.field(24, 1) as u8,
            endpointAddress: FixedBytes(reach.bytes(0)),
            endpointPort: reach.field(16, 2) as u16,
            gatewayDomain: reach.field(18, 2) as u16,
            gatewayPort: reach.field(20, 2) as u16,
            kmsRoot: roots[reach.anchor(22).0].0,
            appId: apps[reach.anchor(25).0].0,
            registeredBlock: member.field(25, 6),
        })
    }
}

/// A word with several fields in it, the first one in its lowest bytes.
#[derive(Clone, Copy)]
struct Word(U256);

impl Word {
    /// A number of up to 8 bytes.
    fn field(self, offset: usize, length: usize) -> u64 {
        (0..length).map(|n| u64::from(self.0.byte(offset + n)) << (8 * n)).sum()
    }

    /// `bytesN` or an address.
    fn bytes<const N: usize>(self, offset: usize) -> [u8; N] {
        std::array::from_fn(|n| self.0.byte(offset + N - 1 - n))
    }

    /// `AnchorSet.Ref`: slot and generation.
    fn anchor(self, offset: usize) -> (usize, u64) {
        let anchor = self.field(offset, 3);
        ((anchor >> 20) as usize, anchor & 0xf_ffff)
    }
}
