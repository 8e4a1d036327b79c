//! Where the contract keeps what agents read: `contracts/snapshots/storage-layout.json` in numbers.

use alloy_primitives::{Address, B256, U256, b256, keccak256};
use mesh_core::id::TokenId;

/// `ClusterStorage.MEMBERS_SLOT`: the totals, then what follows.
pub(super) const MEMBERS: B256 = b256!("7ce23fe83255e7461be7da9b7981d96c01c591fea44120fa317b073455816700");
/// Of the totals: where the number of tokens is, in bytes, and the bit that says whether there are development URLs.
pub(super) const SUPPLY: usize = 7;
pub(super) const DEV_MODE: usize = 8 * 11 + 4;
const NODES: u64 = 1;
/// The sets of token ids: all that are registered, and burned ones.
pub(super) const REGISTERED: u64 = 20;
pub(super) const FREE: u64 = 22;
const BOUND_APP: u64 = 24;
const NETWORK: u64 = 25;

/// `ClusterStorage.TRUST_SLOT`: the slots of KMS roots, then of app ids.
const TRUST: B256 = b256!("2e7e2e8fd300645a32e4b9d5a8389da73c77f7b0ae49484f6c188312d1e04000");
const APP_IDS: u64 = 18;
const BASE_DOMAINS: u64 = 36;

/// `ClusterStorage.POLICY_SLOT`.
const POLICY: B256 = b256!("9cbd46ca39395e690f458d0c6ecaaf491e3f5c8491baf8719cdfd19fff7aea00");
const DEV_ROUND: u64 = 1;
const DEV_URLS: u64 = 2;

/// OpenZeppelin's `openzeppelin.storage.ERC721`: the name is first.
pub(super) const NAME: B256 = b256!("80bb2b638cc20bc4d0a60d66940f3ab4a00c1d7b313497ca82fb0b4ab0079300");
const OWNERS: u64 = 2;

/// Of KMS roots, and of app ids.
pub(super) const ANCHORS: u64 = 16;

/// The n-th word after a slot.
pub(super) fn after(slot: B256, n: u64) -> B256 {
    U256::from_be_bytes(slot.0).wrapping_add(U256::from(n)).into()
}

/// Where a dynamic array or a long string has its content.
pub(super) fn content(slot: B256) -> B256 {
    keccak256(slot)
}

/// The n-th word of a token's record.
pub(super) fn record(token: TokenId, n: u64) -> B256 {
    after(of_token(token, after(MEMBERS, NODES)), n)
}

/// The app that a token is pinned to.
pub(super) fn bound_app(token: TokenId) -> B256 {
    of_token(token, after(MEMBERS, BOUND_APP))
}

/// Which words of 256 ids of a set have any.
pub(super) fn summary(set: u64) -> B256 {
    after(MEMBERS, set)
}

/// A word of 256 ids of a set.
pub(super) fn leaf(set: u64, index: u64) -> B256 {
    entry(U256::from(index).into(), after(MEMBERS, set + 1))
}

/// The mesh network.
pub(super) fn network() -> B256 {
    after(MEMBERS, NETWORK)
}

/// A trusted KMS root.
pub(super) fn kms_root(index: u64) -> B256 {
    after(TRUST, index)
}

/// An allowed app id.
pub(super) fn app_id(index: u64) -> B256 {
    after(TRUST, APP_IDS + index)
}

/// How many base domains there are; they follow at its [`content`].
pub(super) fn base_domains() -> B256 {
    after(TRUST, BASE_DOMAINS)
}

/// The round of development URLs.
pub(super) fn dev_round() -> B256 {
    after(POLICY, DEV_ROUND)
}

/// A token's development URL.
pub(super) fn dev_url(token: TokenId) -> B256 {
    of_token(token, after(POLICY, DEV_URLS))
}

/// A token's owner.
pub(super) fn owner(token: TokenId) -> B256 {
    of_token(token, after(NAME, OWNERS))
}

/// The code that an implementation made in its constructor: its first creation (EIP-161 begins nonces with 1).
pub(crate) fn extension(implementation: Address) -> Address {
    implementation.create(1)
}

fn of_token(token: TokenId, mapping: B256) -> B256 {
    entry(U256::from(token.get()).into(), mapping)
}

fn entry(key: B256, mapping: B256) -> B256 {
    keccak256([key, mapping].concat())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// The contract's side of it is checked by `npm run artifacts -- --check`.
    #[test]
    fn it_is_the_layout_that_the_compiler_says() {
        let layout: Value =
            serde_json::from_str(include_str!("../../../../contracts/snapshots/storage-layout.json")).unwrap();
        let at = |name: &str, place: &str, field: &str| {
            let fields = layout["structs"][format!("struct {name}")].as_array().unwrap();
            let wanted = format!("{place}: ");
            let found =
                fields.iter().map(|field| field.as_str().unwrap()).find_map(|field| field.strip_prefix(&wanted));
            assert!(found.is_some_and(|found| found.ends_with(&format!(" {field}"))), "{name} {place}: {found:?}");
        };
        for (place, field) in [
            ("0+0", "totals"),
            (&*format!("{NODES}+0"), "nodes"),
            (&*format!("{REGISTERED}+0"), "registered"),
            (&*format!("{FREE}+0"), "free"),
            (&*format!("{BOUND_APP}+0"), "boundApp"),
            (&*format!("{NETWORK}+0"), "network"),
        ] {
            at("ClusterStorage.Members", place, field);
        }
        at("ClusterStorage.Trust", "0+0", "kmsRoots");
        at("ClusterStorage.Trust", &format!("{APP_IDS}+0"), "appIds");
        at("ClusterStorage.Trust", &format!("{BASE_DOMAINS}+0"), "baseDomains");
        at("ClusterStorage.Policy", &format!("{DEV_ROUND}+0"), "devRound");
        at("ClusterStorage.Policy", &format!("{DEV_URLS}+0"), "devUrls");
        at("ERC721Upgradeable.ERC721Storage", "0+0", "_name");
        at("ERC721Upgradeable.ERC721Storage", &format!("{OWNERS}+0"), "_owners");
        at("AnchorSet.Set", "0+0", "anchors");
        at("AnchorSet.Anchor", "0+0", "account");
        at("AnchorSet.Anchor", "0+20", "generation");
        at("IdSet.Set", "0+0", "summary");
        at("IdSet.Set", "1+0", "leaves");
        for (place, field) in [
            ("0+0", "epoch"),
            (&*format!("0+{SUPPLY}"), "supply"),
            (&*format!("0+{}", DEV_MODE / 8), "switches"),
            ("0+12", "history"),
        ] {
            at("ClusterStorage.Totals", place, field);
        }
        at("ClusterStorage.Network", "0+0", "base");
        at("ClusterStorage.Network", "0+4", "prefixLength");
        for (place, field) in [
            ("0+0", "key"),
            ("1+0", "memberAddress"),
            ("1+20", "keyEpoch"),
            ("1+24", "networkType"),
            ("1+25", "registeredBlock"),
            ("1+31", "registered"),
            ("2+0", "endpointAddress"),
            ("2+16", "endpointPort"),
            ("2+18", "gatewayDomain"),
            ("2+20", "gatewayPort"),
            ("2+22", "root"),
            ("2+25", "app"),
            ("2+28", "endpointEpoch"),
            ("3+0", "instanceId"),
            ("3+20", "revoked"),
            ("3+27", "devRound"),
            ("3+31", "appPinned"),
            ("4+0", "tlsKey"),
        ] {
            at("ClusterStorage.NodeRecord", place, field);
        }
        for (name, slot) in [
            ("dstack.cluster.members", MEMBERS),
            ("dstack.cluster.trust", TRUST),
            ("dstack.cluster.policy", POLICY),
            ("openzeppelin.storage.ERC721", NAME),
        ] {
            assert_eq!(slot, erc7201(name), "{name}");
        }
    }

    fn before(slot: B256) -> B256 {
        (U256::from_be_bytes(slot.0) - U256::ONE).into()
    }

    fn erc7201(name: &str) -> B256 {
        let mut slot = keccak256(before(keccak256(name)));
        slot[31] = 0;
        slot
    }
}
