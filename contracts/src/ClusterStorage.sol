// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IDstackClusterNFT} from "./interfaces/IDstackClusterNFT.sol";
import {AnchorSet} from "./lib/AnchorSet.sol";
import {IdSet} from "./lib/IdSet.sol";
import {Switches} from "./lib/Switches.sol";

/// @title  Where the cluster keeps its state: ERC-7201 namespaces, no sequential slots.
/// @dev    Slots 0 to 3 of the proxy belong to dstack's DstackApp layout (DstackAppStorage), because a proxy deployed as a
///         DstackApp can be upgraded to this implementation. Nothing else may ever be declared as an ordinary state variable.
///         snapshots/storage-layout.json has every slot; a test fails when it changes unseen.
library ClusterStorage {
    /// One slot, filled to the last bit, which every visible change writes anyway. Token ids and counts of tokens are below 2^16, the
    /// size of a /16.
    struct Totals {
        uint40 epoch; // grows with every visible change
        uint16 peerCount; // active peers
        uint16 supply; // minted tokens
        uint16 votes; // of no confidence that count: active peers whose record says COUNTED in this term
        Switches.Byte switches;
        bytes20 history; // a hash over all changes (History), as long as the addresses that everything here rests on
    }

    /// One slot, written when the cluster is founded, and then only for another `maxNodes`.
    struct Network {
        bytes4 base;
        uint8 prefixLength; // zero = not initialized
        uint16 maxNodes; // no mint beyond; at most the network's capacity
    }

    /// One token: four slots, in the order of the fields, and a fifth one for a TLS key beside a WireGuard key. Burning keeps
    /// `keyEpoch`, `voteTerm` and `vote`, and clears the rest.
    struct NodeRecord {
        bytes32 key; // by networkType: of WIREGUARD the WireGuard key, of TLS_GATEWAY the TLS key
        //
        address memberAddress; // of the binding
        uint32 keyEpoch; // of the token id, for ever; spent by each mint, each accepted registration and each leaving
        IDstackClusterNFT.NetworkType networkType;
        uint48 registeredBlock; // by block.number, as in IDstackClusterNFT.Peer
        Registered registered; // a peer only while, besides, its root and app id are current
        //
        bytes16 endpointAddress;
        uint16 endpointPort;
        uint16 gatewayDomain;
        uint16 gatewayPort;
        AnchorSet.Ref root; // under which KMS root
        AnchorSet.Ref app; // and app id it was admitted
        uint32 endpointEpoch; // endpoint updates since the registration
        //
        bytes20 instanceId; // of the binding
        bool revoked;
        uint32 voteTerm; // the last term in which this token id voted
        VoteState vote; // in that term; burning keeps both, so that no vote can be cast a second time
        bool leads; // holds the seat
        uint32 devRound; // the round of devMode in which a development URL was set; zero = none
        bool appPinned; // the binding is for one app id only: that in Members.boundApp
        //
        bytes32 tlsKey; // of a WIREGUARD peer; read and written only where `registered` is WITH_TLS_KEY
    }

    /// Whether an accepted registration stands, and whether it has a TLS key beside its WireGuard key: so that a leaving does not pay
    /// for reading a fifth slot that is empty.
    enum Registered {
        NO,
        YES,
        WITH_TLS_KEY
    }

    /// Of a token in a term. A vote can be taken back once, by its voter or by leaving, and not be cast again.
    enum VoteState {
        NONE,
        COUNTED,
        SPENT
    }

    /// One slot.
    struct Seat {
        address leader; // member address of the peer that holds the seat; zero: the seat is empty
        uint16 tokenId; // its token
        uint16 cursor; // where the search for the next leader begins
        uint32 term; // zero at first; a few that began without an election since are counted in Totals (Election.term)
    }

    /// @custom:storage-location erc7201:dstack.cluster.election
    struct Election {
        Seat seat;
        // Whose vote a member address casts. Means something only while the token named is an active peer with that address.
        mapping(address memberAddress => uint256 tokenId) voterToken;
    }

    /// @custom:storage-location erc7201:dstack.cluster.members
    struct Members {
        Totals totals;
        mapping(uint256 tokenId => NodeRecord) nodes;
        // Exclusive only while the token named is an active peer; an entry of one that is not may be taken over.
        mapping(bytes20 instanceId => uint256 tokenId) tokenOfInstance;
        mapping(bytes32 wireguardKey => uint256 tokenId) tokenOfWireguardKey;
        uint16[16][16] peersOf; // active peers by slot of the KMS root, then of the app id: one storage slot a root
        IdSet.Set registered; // all active peers; of stale records those that no search for a leader has met
        IdSet.Set free; // burned ids; with the minted ones, all from 1 to the highest ever minted
        mapping(uint256 tokenId => address appId) boundApp; // means something only where the record says appPinned
        Network network;
        mapping(bytes32 tlsKey => uint256 tokenId) tokenOfTlsKey; // as tokenOfWireguardKey
    }

    /// @custom:storage-location erc7201:dstack.cluster.trust
    struct Trust {
        AnchorSet.Set kmsRoots;
        AnchorSet.Set appIds;
        string[] baseDomains; // by index - 1; a removed one is empty and its index is not given out again
        mapping(bytes32 domainHash => uint256 index) domainIndex;
    }

    /// @custom:storage-location erc7201:dstack.cluster.policy
    struct Policy {
        uint256 mintPrice; // wei
        uint32 devRound; // grows with every start of devMode; URLs of earlier rounds are void
        mapping(uint256 tokenId => string url) devUrls; // valid where the record's devRound is the present one
    }

    // keccak256(abi.encode(uint256(keccak256("dstack.cluster.members")) - 1)) & ~bytes32(uint256(0xff))
    bytes32 internal constant MEMBERS_SLOT = 0x7ce23fe83255e7461be7da9b7981d96c01c591fea44120fa317b073455816700;
    // keccak256(abi.encode(uint256(keccak256("dstack.cluster.trust")) - 1)) & ~bytes32(uint256(0xff))
    bytes32 internal constant TRUST_SLOT = 0x2e7e2e8fd300645a32e4b9d5a8389da73c77f7b0ae49484f6c188312d1e04000;

    // keccak256(abi.encode(uint256(keccak256("dstack.cluster.election")) - 1)) & ~bytes32(uint256(0xff))
    bytes32 internal constant ELECTION_SLOT = 0x96c5ec147f964505ea06db19736b5b280d4afb5e68e28264adccc3209ce2e500;
    // keccak256(abi.encode(uint256(keccak256("dstack.cluster.policy")) - 1)) & ~bytes32(uint256(0xff))
    bytes32 internal constant POLICY_SLOT = 0x9cbd46ca39395e690f458d0c6ecaaf491e3f5c8491baf8719cdfd19fff7aea00;

    function members() internal pure returns (Members storage $) {
        assembly ("memory-safe") {
            $.slot := MEMBERS_SLOT
        }
    }

    function trust() internal pure returns (Trust storage $) {
        assembly ("memory-safe") {
            $.slot := TRUST_SLOT
        }
    }

    function election() internal pure returns (Election storage $) {
        assembly ("memory-safe") {
            $.slot := ELECTION_SLOT
        }
    }

    function policy() internal pure returns (Policy storage $) {
        assembly ("memory-safe") {
            $.slot := POLICY_SLOT
        }
    }
}
