// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

/// @title  The policy of a cluster: how many nodes, of which kind, who may mint and for how much; and the calls by instance id
///         that operators know from the first documents of this system.
/// @notice Instance ids are text here: 40 hexadecimal digits in either case, not all zero, with or without `0x`; anything else
///         reverts with InvalidInstanceId. The empty string is no instance: `mintNodeAccess` leaves the token unbound,
///         `registerInstance` reverts with ZeroInstanceId, `instanceIsRegistered` says no and `getInstanceInfo` reverts with
///         InstanceNotActive. Gas figures are whole transactions at the proxy, rounded up.
interface IClusterPolicy {
    /// Which network types `registerPeer` takes.
    enum NetworkPolicy {
        TLS_GATEWAY_ONLY,
        WIREGUARD_ONLY,
        ANY
    }

    /// A new cluster has maxNodes = the network's capacity, ANY, price 0, and everything else false.
    struct ClusterConfig {
        uint256 maxNodes;
        NetworkPolicy networkType;
        uint256 mintPrice; // wei
        bool publicMinting;
        bool registrationsPaused;
        bool devMode;
        bool upgradesDisabled; // the boot gate's, as UpgradesDisabled reports it: its change moves no epoch
    }

    // ------------------------------------------------------------------------------------------------------ events
    // Each carries the whole new value and, but for Withdrawn, the cluster epoch after the change. An owner can call all but
    // `setClusterConfig` on a proxy that is no cluster yet (the upgrade route): such events come before MeshNetworkFixed.

    event ClusterConfigUpdated(uint256 maxNodes, NetworkPolicy networkType, uint64 epoch);
    event MintingPolicyUpdated(uint256 price, bool publicMinting, uint64 epoch);
    event RegistrationsPaused(bool paused, uint64 epoch);
    /// When devMode ends, or begins again, all development URLs are void.
    event DevModeSet(bool devMode, uint64 epoch);
    event DevUrlSet(uint256 indexed tokenId, string url, uint64 epoch);
    event Withdrawn(address indexed to, uint256 amount);

    // ------------------------------------------------------------------------------------------------------ errors

    error InvalidMaxNodes(uint256 given, uint256 capacity);
    error MaxNodesReached(uint256 maxNodes);
    error MintingNotPublic(address caller);
    error WrongPayment(uint256 expected, uint256 given);
    error WithdrawalFailed(address to, uint256 amount);
    error RegistrationsArePaused();
    error NetworkTypeNotAllowed(NetworkPolicy allowed);
    error InvalidInstanceId(string given); // 40 hexadecimal digits, not all zero, optionally after 0x
    error InstanceNotActive(bytes20 instanceId);
    error NoToken(address wallet);
    error SeveralTokens(address wallet, uint256 count);
    error DevModeOff();
    error InvalidDevUrl(); // longer than 256 bytes, or other than visible ASCII
    error OwnerMismatch(address owner, address given);

    // -------------------------------------------------------------------------------------------------- the owner's

    /// How many tokens may exist (1 to the network's capacity) and which network types may register. Contract owner only; reverts
    /// with InvalidMaxNodes. A lower number than there are tokens stops minting and takes no token away; the network type
    /// concerns `registerPeer` alone: peers that are registered stay. A network type that does not exist reverts without data. Emits
    /// ClusterConfigUpdated. 43,000 gas.
    function setClusterConfig(uint256 nodeLimit, NetworkPolicy networkType) external;
    /// What `mintNodeAccess` costs, in wei, and whether anyone may call it. Contract owner only. Emits MintingPolicyUpdated. 63,000
    /// gas. Where anyone may, the price is what keeps one buyer from taking all tokens and from out-voting the members, and each
    /// node is best given its token id: a stranger's token can be bound to any instance id, which reserves nothing. What guards the
    /// network itself is maxNodes (`setClusterConfig`): keep it at what the cluster needs, so that strangers cannot fill it; tokens
    /// that they hold are taken away by `revoke` and then `burn`.
    function setMintingPolicy(uint256 price, bool toAnybody) external;
    /// Sends all that was paid for tokens to `to`. Contract owner only; reverts with ZeroAddress or, when `to` does not take it,
    /// WithdrawalFailed. Emits Withdrawn. 41,000 gas, 25,000 more for a new account, and what `to` does.
    function withdraw(address payable to) external;
    /// `registerPeer` reverts until it is unpaused; endpoint updates, leaving, minting and voting go on. Contract owner only. Emits
    /// RegistrationsPaused. 39,000 gas.
    function pauseRegistrations() external;
    /// Contract owner only. Emits RegistrationsPaused. 40,000 gas.
    function unpauseRegistrations() external;
    /// Whether free-form URLs for local development are taken and shown. Never on a chain that others read: nothing is checked
    /// about such a URL. Turning off what is on voids all URLs; turning on what is on voids none. Contract owner only. Emits
    /// DevModeSet. 63,000 gas.
    function setDevMode(bool enabled) external;

    // ---------------------------------------------------------------------------------------------- a token owner's

    /// Mints the lowest free token id, bound to an instance id or, with the empty string, unbound. The contract owner pays nothing;
    /// anyone else pays exactly the price, and only while minting is public. `to` is not called. Reverts with MintingNotPublic,
    /// WrongPayment, MaxNodesReached, NetworkFull, InvalidInstanceId. Emits Transfer and NodeMinted. 144,000 gas for the first token
    /// of a wallet.
    function mintNodeAccess(address to, string calldata instanceId) external payable returns (uint256 tokenId);
    /// `bind` for a wallet that holds one token. Reverts with NoToken or SeveralTokens, and as `bind` does: anyone can send a
    /// wallet a second token and so close this call and `walletToTokenId` to it, which `bind` does not mind. Emits NodeBound.
    /// 52,000 gas, 17,100 more for an unbound token.
    function registerInstance(string calldata instanceId) external;
    /// The URL that `getPeerEndpoints` shows for this token's peer while devMode lasts; the empty string takes it back. Token owner
    /// only. At most 256 bytes of visible ASCII. Void when the token is transferred, burned, deactivated, revoked or bound again, and
    /// when devMode ends. Reverts with DevModeOff or InvalidDevUrl. Emits DevUrlSet. 77,000 gas for up to 31 bytes, 311,000 for 256;
    /// 17,100 more for an unbound token.
    function setDevUrl(uint256 tokenId, string calldata url) external;

    // ------------------------------------------------------------------------------------------------------- reads

    /// All of the policy.
    function clusterConfig() external view returns (ClusterConfig memory);
    /// Tokens that may exist; no mint beyond.
    function maxNodes() external view returns (uint256);
    /// What `mintNodeAccess` costs anyone but the contract owner, in wei.
    function mintPrice() external view returns (uint256);
    /// Whether anyone may call `mintNodeAccess`.
    function publicMinting() external view returns (bool);
    /// Whether development URLs are taken and shown.
    function devMode() external view returns (bool);
    /// The token of a wallet that holds exactly one, zero for none; several: SeveralTokens, which anyone can bring about by sending
    /// it one.
    function walletToTokenId(address wallet) external view returns (uint256);
    /// Whether an active peer has this instance id.
    function instanceIsRegistered(string calldata instanceId) external view returns (bool);
    /// Instance ids of active peers in the order of their token ids; cursor, limit and `next` as in `peers`. About 8,000 gas each.
    function getActiveInstances(uint256 cursor, uint256 limit)
        external
        view
        returns (bytes20[] memory page, uint256 next);
}
