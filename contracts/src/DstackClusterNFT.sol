// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {ERC721Upgradeable} from "@openzeppelin/contracts-upgradeable/token/ERC721/ERC721Upgradeable.sol";
import {Ownable2StepUpgradeable} from "@openzeppelin/contracts-upgradeable/access/Ownable2StepUpgradeable.sol";
import {UUPSUpgradeable} from "@openzeppelin/contracts-upgradeable/proxy/utils/UUPSUpgradeable.sol";
import {IAppAuth, IAppAuthBasicManagement, IDstackApp} from "./interfaces/IAppAuth.sol";
import {IClusterPolicy} from "./interfaces/IClusterPolicy.sol";
import {IDstackClusterNFT} from "./interfaces/IDstackClusterNFT.sol";
import {ClusterStorage} from "./ClusterStorage.sol";
import {DstackAppStorage} from "./DstackAppStorage.sol";
import {History} from "./History.sol";
import {PeerTable} from "./PeerTable.sol";
import {Registrar} from "./Registrar.sol";
import {TrustList} from "./TrustList.sol";
import {WalletTokens} from "./WalletTokens.sol";
import {ClusterExtension} from "./extension/ClusterExtension.sol";
import {IdSet} from "./lib/IdSet.sol";
import {InstanceId} from "./lib/InstanceId.sol";
import {MeshNetwork} from "./lib/MeshNetwork.sol";
import {SignatureChainVerifier} from "./lib/SignatureChainVerifier.sol";
import {Switches} from "./lib/Switches.sol";

/// @title  DstackClusterNFT: the member list of one dstack mesh, and the dstack app contract of its nodes.
/// @notice IDstackClusterNFT says what every call means; use its ABI at the proxy's address.
/// @dev    UUPS implementation behind an ERC-1967 proxy; this contract itself can never be initialized. Here are initialization,
///         upgrade, the life of a token and the limits of minting; PeerTable decides who is a peer, Registrar what a node must show,
///         History tells of it. The boot gate, governance and reads are a second piece of code (ClusterExtension), because one
///         contract may not exceed 24,576 bytes: calls that are not found here are delegated to it.
///         Two functions call a contract that the caller chose, each after every effect: an ERC-721 receiver is called by
///         OpenZeppelin's safeTransferFrom, and the payee by `withdraw`. Minting calls no contract.
contract DstackClusterNFT is ERC721Upgradeable, Ownable2StepUpgradeable, UUPSUpgradeable {
    using IdSet for IdSet.Set;
    using Switches for Switches.Byte;

    /// Code of the other half; part of this implementation, replaced by an upgrade together with it.
    address public immutable EXTENSION;

    constructor() {
        EXTENSION = address(new ClusterExtension());
        _disableInitializers();
    }

    /// Runs what is not found here in the extension, on this contract's state.
    fallback() external {
        address extension = EXTENSION;
        assembly ("memory-safe") {
            let free := mload(0x40)
            calldatacopy(free, 0, calldatasize())
            let success := delegatecall(gas(), extension, free, calldatasize(), 0, 0)
            returndatacopy(free, 0, returndatasize())
            switch success
            case 0 { revert(free, returndatasize()) }
            default { return(free, returndatasize()) }
        }
    }

    // ------------------------------------------------------------------------------------- the two routes to here

    /// See IDstackClusterNFT.
    function initialize(IDstackClusterNFT.ClusterParams calldata params) external initializer {
        __Ownable_init(params.owner);
        _found(params);
    }

    /// See IDstackClusterNFT.
    function initializeFromDstackApp(IDstackClusterNFT.ClusterParams calldata params)
        external
        onlyOwner
        reinitializer(2)
    {
        if (ClusterStorage.members().network.prefixLength != 0) revert InvalidInitialization();
        if (params.owner != owner()) revert IClusterPolicy.OwnerMismatch(owner(), params.owner);
        _found(params);
    }

    // ---------------------------------------------------------------------------------------------------- members

    /// See IDstackClusterNFT.
    function mint(address to, bytes20 instanceId, address appId) external onlyOwner returns (uint256 tokenId) {
        return _mintNode(to, instanceId, appId);
    }

    /// See IClusterPolicy.
    function mintNodeAccess(address to, string calldata instanceId) external payable returns (uint256 tokenId) {
        uint256 price = 0;
        if (_msgSender() != owner()) {
            bool isPublic = ClusterStorage.members().totals.switches.isOn(Switches.PUBLIC_MINTING);
            if (!isPublic) revert IClusterPolicy.MintingNotPublic(_msgSender());
            price = ClusterStorage.policy().mintPrice;
        }
        if (msg.value != price) revert IClusterPolicy.WrongPayment(price, msg.value);
        return _mintNode(to, InstanceId.parse(instanceId), address(0));
    }

    /// See IDstackClusterNFT.
    function bind(uint256 tokenId, bytes20 instanceId, address appId) external {
        _requireTokenOwner(tokenId);
        _bind(tokenId, instanceId, appId);
    }

    /// See IClusterPolicy.
    function registerInstance(string calldata instanceId) external {
        uint256 tokenId = WalletTokens.onlyTokenOf(_msgSender());
        if (tokenId == 0) revert IClusterPolicy.NoToken(_msgSender());
        _bind(tokenId, InstanceId.parse(instanceId), address(0));
    }

    /// See IDstackClusterNFT.
    function registerPeer(
        IDstackClusterNFT.Registration calldata registration,
        IDstackClusterNFT.SignatureChain calldata chain,
        bytes calldata nodeSignature,
        bytes calldata memberSignature
    ) external {
        ClusterStorage.NodeRecord storage node = ClusterStorage.members().nodes[registration.tokenId];
        if (node.revoked) revert IDstackClusterNFT.NodeRevoked(registration.tokenId);
        // What is bound is minted: burning clears the binding.
        if (node.instanceId == 0 && _requireOwned(registration.tokenId) != _msgSender()) {
            revert IDstackClusterNFT.NodeUnbound(registration.tokenId);
        }
        Registrar.register(registration, chain, nodeSignature, memberSignature);
    }

    /// See IDstackClusterNFT.
    function updateEndpoint(IDstackClusterNFT.EndpointUpdate calldata update, bytes calldata memberSignature) external {
        Registrar.updateEndpoint(update, memberSignature);
    }

    /// See IDstackClusterNFT.
    function deactivate(uint256 tokenId) external {
        _requireTokenOwner(tokenId);
        if (ClusterStorage.members().nodes[tokenId].instanceId == 0) revert IDstackClusterNFT.NodeUnbound(tokenId);
        _clear(tokenId, IDstackClusterNFT.LeaveReason.DEACTIVATED);
    }

    /// See IDstackClusterNFT.
    function burn(uint256 tokenId) external {
        // A revoked token is minted; without a caller to authorize it is burned as it is.
        bool byContractOwner = ClusterStorage.members().nodes[tokenId].revoked && _msgSender() == owner();
        _update(address(0), tokenId, byContractOwner ? address(0) : _msgSender());
    }

    /// See IDstackClusterNFT.
    function revoke(uint256 tokenId) external onlyOwner {
        _requireOwned(tokenId);
        ClusterStorage.NodeRecord storage node = ClusterStorage.members().nodes[tokenId];
        if (node.revoked) revert IDstackClusterNFT.NodeRevoked(tokenId);
        node.revoked = true;
        _clear(tokenId, IDstackClusterNFT.LeaveReason.REVOKED);
    }

    /// See IDstackClusterNFT.
    function reinstate(uint256 tokenId) external onlyOwner {
        _requireOwned(tokenId);
        ClusterStorage.NodeRecord storage node = ClusterStorage.members().nodes[tokenId];
        if (!node.revoked) revert IDstackClusterNFT.NodeNotRevoked(tokenId);
        node.revoked = false;
        History.nodeReinstated(tokenId);
    }

    // ------------------------------------------------------------------------------------------ who holds what
    // Reads, but what they ask is what registering asks: here they add next to no code.

    /// See IDstackClusterNFT.
    function tokenOfInstance(bytes20 instanceId) external view returns (uint256) {
        return PeerTable.holderOfInstance(instanceId);
    }

    /// See IDstackClusterNFT.
    function tokenOfWireguardKey(bytes32 wireguardKey) external view returns (uint256) {
        return PeerTable.holderOfWireguardKey(wireguardKey);
    }

    /// See IDstackClusterNFT.
    function tokenOfTlsKey(bytes32 tlsKey) external view returns (uint256) {
        return PeerTable.holderOfTlsKey(tlsKey);
    }

    // --------------------------------------------------------------------------------------------------- limits

    /// See IClusterPolicy. What minting and registering ask for; among the other governance it would cost 2,700 gas more.
    function setClusterConfig(uint256 nodeLimit, IClusterPolicy.NetworkPolicy networkType) external onlyOwner {
        ClusterStorage.Members storage members = ClusterStorage.members();
        uint256 capacity = MeshNetwork.capacity(members.network.prefixLength);
        if (nodeLimit == 0 || nodeLimit > capacity) revert IClusterPolicy.InvalidMaxNodes(nodeLimit, capacity);
        // forge-lint: disable-next-line(unsafe-typecast): a capacity is below 2^16
        members.network.maxNodes = uint16(nodeLimit);
        members.totals.switches = members.totals.switches.withNetworkPolicy(networkType);
        History.clusterConfigUpdated(nodeLimit, networkType);
    }

    // ------------------------------------------------------------------------------------------------- inside

    /// Makes this proxy a cluster, on either route; what a DstackApp left in its slots is not touched.
    function _found(IDstackClusterNFT.ClusterParams calldata params) private {
        if (!MeshNetwork.isValid(params.networkBase, params.prefixLength)) {
            revert IDstackClusterNFT.InvalidNetwork(params.networkBase, params.prefixLength);
        }
        __ERC721_init(params.name, params.symbol);
        ClusterStorage.Members storage members = ClusterStorage.members();
        // forge-lint: disable-next-line(unsafe-typecast): a capacity is below 2^16
        uint16 maxNodes = uint16(MeshNetwork.capacity(params.prefixLength));
        ClusterStorage.Network storage network = members.network;
        (network.base, network.prefixLength, network.maxNodes) = (params.networkBase, params.prefixLength, maxNodes);
        ClusterStorage.Totals storage totals = members.totals;
        totals.switches = totals.switches.withNetworkPolicy(IClusterPolicy.NetworkPolicy.ANY);
        History.meshNetworkFixed(params.networkBase, params.prefixLength);

        TrustList.addAppId(address(this), uint48(block.timestamp));
        for (uint256 i = 0; i < params.appIds.length; ++i) {
            TrustList.addAppId(params.appIds[i], uint48(block.timestamp));
        }
        for (uint256 i = 0; i < params.kmsRoots.length; ++i) {
            TrustList.addKmsRoot(params.kmsRoots[i], uint48(block.timestamp));
        }
    }

    /// Mints the lowest free id. The key epoch is spent: an id's next life begins with one that no signature names, and the join
    /// that follows finds the slot in use.
    function _mintNode(address to, bytes20 instanceId, address appId) private returns (uint256 tokenId) {
        tokenId = _takeLowestFreeId();
        ClusterStorage.NodeRecord storage node = ClusterStorage.members().nodes[tokenId];
        node.instanceId = instanceId;
        if (appId != address(0)) _pinApp(node, tokenId, appId); // a free id has no pin
        ++node.keyEpoch;
        _mint(to, tokenId);
        History.nodeMinted(tokenId, to, instanceId, appId);
    }

    /// Binds an inactive token.
    function _bind(uint256 tokenId, bytes20 instanceId, address appId) private {
        if (instanceId == 0) revert IDstackClusterNFT.ZeroInstanceId();
        ClusterStorage.NodeRecord storage node = ClusterStorage.members().nodes[tokenId];
        if (node.revoked) revert IDstackClusterNFT.NodeRevoked(tokenId);
        if (PeerTable.isActive(node)) revert IDstackClusterNFT.NodeActive(tokenId);
        PeerTable.drop(tokenId); // a stale registration, if there is one
        node.instanceId = instanceId;
        node.memberAddress = address(0);
        node.devRound = 0;
        _pinApp(node, tokenId, appId);
        History.nodeBound(tokenId, instanceId, appId);
    }

    /// Lets instances of one app alone register for the binding; `appId` zero lets those of any allowed app.
    function _pinApp(ClusterStorage.NodeRecord storage node, uint256 tokenId, address appId) private {
        node.appPinned = appId != address(0);
        if (appId != address(0)) ClusterStorage.members().boundApp[tokenId] = appId;
    }

    /// Every mint, transfer and burn of OpenZeppelin's ERC-721 comes through here: what leaves its owner stops being a peer.
    function _update(address to, uint256 tokenId, address auth) internal override returns (address from) {
        from = super._update(to, tokenId, auth);
        WalletTokens.move(from, to, tokenId);
        if (from == address(0)) return from; // a mint
        if (to != address(0)) {
            _clear(tokenId, IDstackClusterNFT.LeaveReason.TRANSFERRED);
            return from;
        }
        ClusterStorage.Members storage members = ClusterStorage.members();
        members.free.add(tokenId);
        ClusterStorage.Totals storage totals = members.totals;
        totals.switches = totals.switches.with(Switches.HAS_BURNED, true);
        --totals.supply;
        members.nodes[tokenId].revoked = false;
        _clear(tokenId, IDstackClusterNFT.LeaveReason.BURNED);
    }

    /// The peer leaves, and says why.
    function _clear(uint256 tokenId, IDstackClusterNFT.LeaveReason reason) private {
        History.nodeCleared(tokenId, reason, PeerTable.clear(tokenId));
    }

    function _takeLowestFreeId() private returns (uint256 tokenId) {
        ClusterStorage.Members storage members = ClusterStorage.members();
        ClusterStorage.Totals storage totals = members.totals;
        (uint256 supply, Switches.Byte switches) = (uint256(totals.supply) + 1, totals.switches);
        if (switches.isOn(Switches.HAS_BURNED)) {
            bool last;
            (tokenId, last) = members.free.takeLowest();
            if (last) switches = switches.with(Switches.HAS_BURNED, false);
        } else {
            tokenId = supply; // all ids below are minted
            uint256 capacity = MeshNetwork.capacity(members.network.prefixLength);
            if (tokenId > capacity) revert IDstackClusterNFT.NetworkFull(capacity);
        }
        uint256 maxNodes = members.network.maxNodes;
        if (supply > maxNodes) revert IClusterPolicy.MaxNodesReached(maxNodes);
        // forge-lint: disable-next-line(unsafe-typecast): at most maxNodes
        (totals.supply, totals.switches) = (uint16(supply), switches);
    }

    function _requireTokenOwner(uint256 tokenId) private view {
        if (_requireOwned(tokenId) != _msgSender()) revert IDstackClusterNFT.NotTokenOwner(tokenId, _msgSender());
    }

    // ------------------------------------------------------------------------------------- what is inherited here

    /// ERC-721, with the count freed of what rides beside it (WalletTokens).
    function balanceOf(address owner) public view override returns (uint256) {
        return uint128(super.balanceOf(owner));
    }

    /// ERC-165: ERC-721, its metadata, dstack's two interfaces of an app's contract, and that node keys of guest API v1 are taken.
    function supportsInterface(bytes4 interfaceId) public view override returns (bool) {
        return interfaceId == type(IAppAuth).interfaceId || interfaceId == type(IAppAuthBasicManagement).interfaceId
            || interfaceId == SignatureChainVerifier.TAKES_V1_CLAIMS || super.supportsInterface(interfaceId);
    }

    /// A cluster without an owner could neither revoke a node nor distrust a KMS root: ownership is passed on, never given up.
    function renounceOwnership() public pure override {
        revert OwnableInvalidOwner(address(0));
    }

    /// The owner decides on the code, until `disableUpgrades`; `upgradeToAndCall` is the only way in.
    function _authorizeUpgrade(address next) internal override onlyOwner {
        if (DstackAppStorage.app().upgradesDisabled) revert IDstackApp.UpgradesAreDisabled();
        emit IDstackApp.PolicyChanged(
            _msgSender(), keccak256("implementation-upgrade"), bytes32(uint256(uint160(next))), true
        );
    }
}
