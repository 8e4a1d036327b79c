// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IDstackApp} from "./IAppAuth.sol";
import {IClusterPolicy} from "./IClusterPolicy.sol";
import {ILeaderElection} from "./ILeaderElection.sol";

/// @title  The member list of one dstack mesh: 1 NFT = 1 authorized node.
/// @notice One deployment is one cluster. A token is the right to run one node; a node becomes a *peer* by registering a
///         WireGuard key, a TLS key or both, which a chain of signatures ties to the dstack KMS. Agents read the whole peer set at one block
///         hash; events carry whole new values, so that events alone rebuild the state.
///         Gas figures are whole transactions at the proxy (intrinsic gas and call data included), rounded up, and the same however
///         many members there are; snapshots/costs.json has them to the unit. Reads may be called by anyone; they cost gas only
///         inside a transaction.
/// @dev    With what it inherits (the boot gate, the policy, the election) this is every type, event, error and function that an agent
///         or an operator's tool needs. Times are Unix seconds, blocks are block numbers of this chain.
interface IDstackClusterNFT is IDstackApp, IClusterPolicy, ILeaderElection {
    // ------------------------------------------------------------------------------------------------------- types

    /// How a peer is reached. WIREGUARD peers have a nonzero WireGuard key and an address in the mesh network;
    /// TLS_GATEWAY peers have none, and an https URL below one of the base domains. A TLS_GATEWAY peer has a TLS key by which others
    /// know it, and which no two active peers share; a WIREGUARD peer may have one too.
    enum NetworkType {
        TLS_GATEWAY,
        WIREGUARD
    }

    /// What a node signs (EIP-712) to become a peer or to change its registration: with its node key, which the KMS vouches for and
    /// every instance of its app can derive, and with its member key, which it drew itself and no other node has.
    struct Registration {
        uint256 tokenId; // 1 ≤ tokenId < 2^(32 - prefix length) - 1
        bytes20 instanceId; // dstack instance id, nonzero
        address memberAddress; // of the member key; the one that the first registration of the binding named
        bytes32 wireguardKey; // X25519 public key; zero exactly when networkType is TLS_GATEWAY
        bytes32 tlsKey; // SHA-256 of the SubjectPublicKeyInfo (DER) of a TLS key; zero = none, which a TLS_GATEWAY node may not have
        uint32 keyEpoch; // exactly the token's stored value + 1
        NetworkType networkType;
        bytes16 endpointAddress; // IPv6, or IPv4 as ::ffff:a.b.c.d; zero = no direct endpoint
        uint16 endpointPort; // zero exactly when endpointAddress is zero
        // keccak256 of a base domain as `baseDomains` has it: the name is signed, so that no other one can take its place; zero = no
        // gateway. The record has its index.
        bytes32 gatewayDomain;
        uint16 gatewayPort; // zero exactly when gatewayDomain is zero
        uint64 deadline; // last second at which it may be submitted; at most MAX_SIGNATURE_VALIDITY ahead then
    }

    /// What a node signs (EIP-712) with its member key to change only where it is reached.
    struct EndpointUpdate {
        uint256 tokenId;
        uint32 keyEpoch; // exactly the token's stored value: that of the registration it changes
        uint32 endpointEpoch; // exactly the peer's stored value + 1
        bytes16 endpointAddress;
        uint16 endpointPort;
        bytes32 gatewayDomain; // as in Registration
        uint16 gatewayPort;
        uint64 deadline; // as in Registration
    }

    /// The dstack key chain: KMS root -> app key -> node key. Public keys as uncompressed coordinates; the compressed forms
    /// that were signed are computed on chain. Signatures are r ‖ s ‖ v with v in {0, 1, 27, 28} and low s.
    struct SignatureChain {
        bytes32 nodeKeyX;
        bytes32 nodeKeyY;
        bytes32 appKeyX;
        bytes32 appKeyY;
        // chain[0]: app key over the digest of either guest API (SignatureChainVerifier; ERC-165 0xbc5e8e5d: v1 is taken):
        // v0 keccak256("dstack-mesh-node-v1:" ‖ lowerhex(compressed node key))
        // v1 keccak256(LP("dstack-guest-v1-key-claim") ‖ LP("secp256k1") ‖ LP("dstack-mesh/node") ‖ LP(compressed node key)),
        // LP(x) = length of x in four bytes, big-endian ‖ x
        bytes appSignature;
        bytes kmsSignature; // chain[1]: KMS root over keccak256("dstack-kms-issued:" ‖ appId ‖ compressed app key)
        address appId;
    }

    /// An active peer, as agents read it.
    struct Peer {
        uint256 tokenId;
        bytes20 instanceId;
        address memberAddress; // signs for this peer, may hold funds
        bytes32 wireguardKey; // zero: TLS_GATEWAY
        bytes32 tlsKey; // zero: none, or TLS_GATEWAY and registered with code that knew no TLS keys
        uint32 keyEpoch; // exactly that of the registration which was signed
        uint32 endpointEpoch; // endpoint updates since that registration
        NetworkType networkType;
        bytes16 endpointAddress;
        uint16 endpointPort;
        uint16 gatewayDomain; // 1-based index of a base domain, which may have been removed since; zero = no gateway
        uint16 gatewayPort;
        address kmsRoot;
        address appId;
        // The block whose PeerRegistered log carries this peer's proof, by `block.number`. Chains where that is the number of
        // another chain's block (Arbitrum) are not supported: the log cannot be found there.
        uint64 registeredBlock;
    }

    /// A minted token, whether it is a peer or not.
    struct Node {
        uint256 tokenId;
        address owner;
        bytes20 instanceId; // bound instance id; zero = unbound
        address memberAddress; // fixed by the first registration of the binding; zero before
        address boundAppId; // the only app whose instances may register for the binding; zero = any allowed app
        uint32 keyEpoch; // last one spent by this token id, also under former owners: by a mint, a registration or by leaving
        uint32 endpointEpoch; // of the active peer: endpoint updates since its registration; zero where there is none
        bool active; // registered, under the current generation of its KMS root and app id
        bool revoked; // barred from bind and registerPeer until reinstated
    }

    /// What a cluster is born with.
    struct ClusterParams {
        string name; // ERC-721 name = name of the mesh
        string symbol;
        address owner;
        bytes4 networkBase; // e.g. 0x0a000100 for 10.0.1.0; host bits must be zero
        uint8 prefixLength; // 16..29
        address[] kmsRoots; // trusted at once
        address[] appIds; // further dstack apps, allowed at once; this contract's own address is always the first allowed app id
    }

    // ------------------------------------------------------------------------------------------------------ events
    // Each carries the cluster epoch after the change as its last field.

    /// The first event of a cluster; on the upgrade route the owner may have set policy and trust before.
    event MeshNetworkFixed(bytes4 base, uint8 prefixLength, uint64 epoch);
    /// The token's key epoch grew by one.
    event NodeMinted(uint256 indexed tokenId, address indexed to, bytes20 instanceId, address appId, uint64 epoch);
    event NodeBound(uint256 indexed tokenId, bytes20 instanceId, address appId, uint64 epoch);
    /// A registration was accepted. Carries everything a verifier needs: no other read proves the peer. Both signatures are over the
    /// registration's digest, so that the member's public key is recovered from its own. The peer's endpoint epoch is zero again.
    event PeerRegistered(
        uint256 indexed tokenId,
        Registration registration,
        SignatureChain chain,
        bytes nodeSignature,
        bytes memberSignature,
        address nodeAddress,
        address kmsRoot,
        uint64 epoch
    );
    event PeerEndpointUpdated(uint256 indexed tokenId, EndpointUpdate update, bytes memberSignature, uint64 epoch);
    /// The peer, if it was one, is gone and the token's binding is cleared. Follows a transfer, burn, deactivation or revocation.
    /// `keyEpoch` is the token's new one: leaving spends it, and with it what was signed for it and not yet submitted.
    event NodeCleared(uint256 indexed tokenId, LeaveReason reason, uint32 keyEpoch, uint64 epoch);
    event NodeReinstated(uint256 indexed tokenId, uint64 epoch);
    event KmsRootAdded(address indexed root, uint32 generation, uint64 effectiveAt, uint64 epoch);
    event KmsRootRemoved(address indexed root, uint32 generation, uint64 epoch);
    event AppIdAdded(address indexed appId, uint32 generation, uint64 effectiveAt, uint64 epoch);
    event AppIdRemoved(address indexed appId, uint32 generation, uint64 epoch);
    event BaseDomainAdded(uint16 indexed index, string domain, uint64 epoch);
    event BaseDomainRemoved(uint16 indexed index, string domain, uint64 epoch);

    enum LeaveReason {
        TRANSFERRED,
        BURNED,
        DEACTIVATED,
        REVOKED
    }

    // ------------------------------------------------------------------------------------------------------ errors

    error InvalidNetwork(bytes4 base, uint8 prefixLength); // also, with zeros: the cluster was never initialized
    error NetworkFull(uint256 capacity);
    error NotTokenOwner(uint256 tokenId, address caller);
    error NodeRevoked(uint256 tokenId);
    error NodeNotRevoked(uint256 tokenId);
    error NodeActive(uint256 tokenId); // leave first
    error NodeNotActive(uint256 tokenId);
    error NodeUnbound(uint256 tokenId); // only the token's owner may submit for an unbound token
    error ZeroInstanceId();
    error InstanceMismatch(uint256 tokenId, bytes20 bound, bytes20 given);
    error InstanceInUse(bytes20 instanceId, uint256 byTokenId);
    error WireguardKeyInUse(bytes32 wireguardKey, uint256 byTokenId);
    error TlsKeyInUse(bytes32 tlsKey, uint256 byTokenId);
    error InvalidWireguardKey(); // zero for WIREGUARD, nonzero for TLS_GATEWAY
    error InvalidTlsKey(); // zero for TLS_GATEWAY
    error InvalidEndpoint(); // address and port must both be zero or both nonzero
    error GatewayRequired(); // TLS_GATEWAY without a gateway
    error UnknownBaseDomain(uint16 index); // never added, or removed
    error UnknownGatewayDomain(bytes32 domain); // no base domain has this hash, or only one of it and the port is zero
    error DeadlineExpired(uint64 deadline);
    error DeadlineTooFar(uint64 deadline, uint64 latest);
    error WrongKeyEpoch(uint256 tokenId, uint32 expected, uint32 given);
    error WrongEndpointEpoch(uint256 tokenId, uint32 expected, uint32 given);
    error MemberAddressMismatch(uint256 tokenId, address expected, address given);
    error AppIdMismatch(uint256 tokenId, address bound, address given);
    error InvalidSignature(); // length, v, high s or a recovery to zero
    error InvalidPublicKey(); // not a point of secp256k1
    error AppSignatureMismatch(address recovered, address appKey); // recovered: of the digest of guest API v0
    error NodeSignatureMismatch(address recovered, address nodeKey);
    error MemberSignatureMismatch(address recovered, address member);
    error KmsRootNotTrusted(address root);
    error KmsRootNotYetEffective(address root, uint64 effectiveAt);
    error AppIdNotAllowed(address appId);
    error AppIdNotYetEffective(address appId, uint64 effectiveAt);
    error AlreadyAdded();
    error NotAdded();
    error TooMany(uint256 limit); // at most 16 KMS roots, 16 app ids, 65,535 base domains; 2^20 - 1 additions of each of the first two
    error ZeroAddress();
    error InvalidBaseDomain(string domain);

    // ---------------------------------------------------------------------------------------------------- members

    /// Gives a fresh proxy its owner, network, KMS roots and app ids. Once, by the first caller: so do it in the transaction that
    /// deploys the proxy. Every network type may register, as many tokens as the network has addresses may be minted, by the owner
    /// alone. Emits MeshNetworkFixed, AppIdAdded and KmsRootAdded. 286,000 gas with one root, and 72,000 for each further root or
    /// app id.
    function initialize(ClusterParams calldata params) external;
    /// Makes a cluster of a proxy that was deployed as a dstack DstackApp: the data of the `upgradeToAndCall` that gives it this code.
    /// Owner, compose hashes, devices and flags stay; the rest is as in `initialize`. Contract owner only, who must be
    /// `params.owner` (OwnerMismatch); once, and never where there is a network (InvalidInitialization). Emits and costs as
    /// `initialize`.
    function initializeFromDstackApp(ClusterParams calldata params) external;
    /// Mints the lowest free token id and spends a key epoch of it. `instanceId` zero leaves it unbound; `appId` nonzero lets only
    /// instances of that app register for it, until it is bound again or its node leaves. Contract owner only; free
    /// of charge, and within the limit of `setClusterConfig` (MaxNodesReached). Reverts with InvalidNetwork where there is no network
    /// yet: a proxy that became this contract by an upgrade has an owner before it is a cluster. `to` is not called. Emits Transfer
    /// and NodeMinted. 116,000 gas, 17,100 more for the first token of a wallet and 23,000 for an app id.
    function mint(address to, bytes20 instanceId, address appId) external returns (uint256 tokenId);
    /// Binds (or rebinds) an inactive token to an instance id and lets go of the member address that the first registration of the
    /// last binding fixed; reserves nothing. `appId` nonzero lets only instances of that app register for it; zero, of any allowed
    /// app. Token owner only. Emits NodeBound. 63,000 gas for an unbound token, and 23,000 more for an app id.
    function bind(uint256 tokenId, bytes20 instanceId, address appId) external;
    /// Makes the token's node a peer, or replaces its registration (key rotation). Anyone may submit; for an unbound token
    /// only its owner. Not while registrations are paused, and only for a network type that the policy allows. Emits PeerRegistered.
    /// 217,000 gas for a token that was bound when it was minted (PeerTable.admit says what for), 239,000 for an unbound one and for
    /// each 256th token, 273,000 for the first of a cluster, 126,000 for a rotation; 45,000 more with a TLS key
    /// beside a WireGuard key, 3,000 with a gateway, 3,000 where the binding names an app id, and 5,000 with a node key of guest API
    /// v1.
    ///
    /// The first registration of a binding fixes the member address, also beyond the removal of a KMS root or app id; every later one
    /// needs its key again (MemberAddressMismatch, MemberSignatureMismatch). A node that lost its member key comes back after its
    /// token's owner let go of it, by `deactivate` and `bind`. Both signatures are over the registration's digest.
    ///
    /// What the node key proves is "an approved instance of an allowed app", no more: every instance of an app can derive its
    /// siblings' node keys, and sign first for a token that is bound to another (`mint` and `bind` can keep other apps away). Then
    /// the rightful node is refused, which it reports to its operator; the remedy is `deactivate` and `bind`. It cannot touch a
    /// node that has registered. A token's owner may claim any instance id, or a key seen in a pending transaction, that
    /// is not in use yet; a thief of a node's secrets signs as that node, until `revoke`. Where minting is public, a revoked
    /// operator can buy another token: what keeps it out for good is the boot gate, or a price.
    function registerPeer(
        Registration calldata registration,
        SignatureChain calldata chain,
        bytes calldata nodeSignature,
        bytes calldata memberSignature
    ) external;
    /// Changes only where an active peer is reached, by its member key alone. Anyone may submit, also while registrations are
    /// paused. The key epoch stays. Emits PeerEndpointUpdated. 60,000 gas, 63,000 with a gateway.
    function updateEndpoint(EndpointUpdate calldata update, bytes calldata memberSignature) external;
    /// Drops the peer, clears the binding and spends the key epoch. Token owner only. Emits NodeCleared. 68,000 gas, 73,000 for a
    /// leader that voted.
    function deactivate(uint256 tokenId) external;
    /// Burns the token: leaves as in `deactivate`; the id becomes free and keeps its key epoch. A revocation ends with the token.
    /// Token owner or approved; a revoked token also the contract owner, who so gets back what strangers took while minting was
    /// public. Emits Transfer and NodeCleared. 115,000 gas, 125,000 for a leader that voted.
    function burn(uint256 tokenId) external;
    /// Leaves as in `deactivate` and bars the token until `reinstate`. A transfer does not lift it. Concerns the holder of the id
    /// when it lands: where the id was burned and minted again just before, that is another holder, whom `reinstate` helps.
    /// Contract owner only. Emits NodeCleared. 70,000 gas, 75,000 for a leader that voted.
    function revoke(uint256 tokenId) external;
    /// Lifts a revocation. Contract owner only. Emits NodeReinstated. 39,000 gas.
    function reinstate(uint256 tokenId) external;

    // ------------------------------------------------------------------------------------------------- governance

    /// Trusts a KMS root after `KMS_ROOT_DELAY` seconds; at most 16. Contract owner only. Emits KmsRootAdded. 93,000 gas.
    function addKmsRoot(address root) external;
    /// Distrusts a KMS root: its peers leave at once, and adding it again revives no peer by a signature from before. Contract
    /// owner only. Bindings stay, with their member addresses: a node comes back under another root by its member key. Emits
    /// KmsRootRemoved and, if it had peers, VotesLapsed. 46,000 gas; 51,000 if it had peers, 62,000 if it had the leader, and
    /// up to 70,000 for the fourth root or app id with peers in a row since the last election.
    function removeKmsRoot(address root) external;
    /// Lets nodes of another dstack app become peers after `APP_ID_DELAY` seconds; at most 16. Contract owner only. Emits AppIdAdded.
    /// 93,000 gas.
    function addAppId(address appId) external;
    /// Its peers leave at once, and adding it again revives no peer by a signature from before. Contract owner only. Emits
    /// AppIdRemoved and, if it had peers, VotesLapsed. 80,000 gas; 88,000 if it had peers, up to 129,000 if it had the leader and
    /// peers under sixteen KMS roots.
    function removeAppId(address appId) external;
    /// Registers a gateway base domain: a lower-case host name, with the gateway's port only where that is not 443 (see BaseDomain).
    /// URLs are made of it as it is. Contract owner only. Reverts with InvalidBaseDomain, AlreadyAdded or TooMany. Emits BaseDomainAdded. 120,000 gas for up to 31 characters.
    function addBaseDomain(string calldata domain) external returns (uint16 index);
    /// Takes a base domain away for good: its index is not given out again. Peers below it stay peers and lose their gateway path:
    /// their record names an index whose domain `baseDomains` shows as empty. Contract owner only. Emits BaseDomainRemoved. 45,000 gas.
    function removeBaseDomain(uint16 index) external;

    // ------------------------------------------------------------------------------------------------------ reads

    /// Grows by one with every visible change; the event of that change carries it.
    function epoch() external view returns (uint64);
    /// A hash over all visible changes so far (History says of what exactly): who has their events computes it.
    function history() external view returns (bytes20);
    /// Active peers.
    function peerCount() external view returns (uint256);
    /// Minted tokens.
    function totalSupply() external view returns (uint256);
    /// Base address and prefix length, fixed at deployment.
    function meshNetwork() external view returns (bytes4 base, uint8 prefixLength);
    /// base + tokenId, as an IPv4 address.
    function addressOf(uint256 tokenId) external view returns (bytes4);
    /// Active peers with tokenId ≥ cursor, ascending; `next` is the cursor of the next page, zero at the end. Looks at `limit`
    /// registrations at most, of which those under a removed root or app id are left out: a page may be shorter than `limit`, even
    /// empty, before the end. Read on until `next` is zero. About 15,000 gas a peer.
    function peers(uint256 cursor, uint256 limit) external view returns (Peer[] memory page, uint256 next);
    /// The active peer of a token; reverts with NodeNotActive otherwise.
    function getPeer(uint256 tokenId) external view returns (Peer memory);
    /// Minted tokens with tokenId ≥ cursor, ascending; `next` as in `peers`. Looks at `limit` ids at most, burned ones included.
    function nodes(uint256 cursor, uint256 limit) external view returns (Node[] memory page, uint256 next);
    /// As `nodes`, and of those only the tokens bound to `instanceId`; zero for the unbound ones. About 2,400 gas for each id that is
    /// looked at.
    function nodesOf(bytes20 instanceId, uint256 cursor, uint256 limit)
        external
        view
        returns (Node[] memory page, uint256 next);
    /// One token; a token that is not minted has a zero owner, and keeps its key epoch.
    function getNode(uint256 tokenId) external view returns (Node memory);
    /// The active token of an instance id in text (see IClusterPolicy); reverts with InstanceNotActive when there is none.
    function getInstanceInfo(string calldata instanceId) external view returns (Node memory);
    /// The active token of an instance id, zero for none.
    function tokenOfInstance(bytes20 instanceId) external view returns (uint256);
    /// The active token of a WireGuard key, zero for none.
    function tokenOfWireguardKey(bytes32 wireguardKey) external view returns (uint256);
    /// The active token of a TLS key, of either network type; zero for none.
    function tokenOfTlsKey(bytes32 tlsKey) external view returns (uint256);
    /// One entry per active peer: the mesh address of a WIREGUARD peer, the https URL of a TLS_GATEWAY peer (empty where its base
    /// domain was removed); in devMode the development URL of a peer that has one. All at once, without
    /// pages: in a large mesh more than a node's gas limit for calls may allow; agents read `peers`.
    function getPeerEndpoints() external view returns (string[] memory);
    /// Trusted KMS roots, each with the time from which it counts.
    function kmsRoots() external view returns (address[] memory roots, uint64[] memory effectiveAt);
    /// Allowed app ids, each with the time from which it counts; the cluster's own is the first unless it was removed.
    function appIds() external view returns (address[] memory accounts, uint64[] memory effectiveAt);
    /// The EIP-712 domain of what nodes sign (EIP-5267).
    function eip712Domain()
        external
        view
        returns (
            bytes1 fields,
            string memory name,
            string memory version,
            uint256 chainId,
            address verifyingContract,
            bytes32 salt,
            uint256[] memory extensions
        );
    /// Seconds between `addKmsRoot` and the root's first use: one more than `MAX_SIGNATURE_VALIDITY`. It does not bind an owner who
    /// can upgrade the contract: for that the owner must be a contract with a delay of its own, as OpenZeppelin's
    /// TimelockController.
    function KMS_ROOT_DELAY() external view returns (uint48);
    /// Seconds between `addAppId` and the app id's first use: as KMS_ROOT_DELAY.
    function APP_ID_DELAY() external view returns (uint48);
    /// Seconds by which a deadline may lie ahead of the block that takes it. A signature that was not submitted is worthless after
    /// that, whatever comes back in the meantime: its KMS root, its app id, its instance.
    function MAX_SIGNATURE_VALIDITY() external view returns (uint64);
    /// Base domains by index - 1; a removed one is the empty string.
    function baseDomains() external view returns (string[] memory);
}
