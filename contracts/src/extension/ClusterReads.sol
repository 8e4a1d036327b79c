// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IERC721Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";
import {Strings} from "@openzeppelin/contracts/utils/Strings.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {IDstackClusterNFT} from "../interfaces/IDstackClusterNFT.sol";
import {ClusterStorage} from "../ClusterStorage.sol";
import {PeerTable} from "../PeerTable.sol";
import {Registrar} from "../Registrar.sol";
import {AnchorSet} from "../lib/AnchorSet.sol";
import {IdSet} from "../lib/IdSet.sol";
import {LowerHex} from "../lib/LowerHex.sol";
import {MeshNetwork} from "../lib/MeshNetwork.sol";
import {Switches} from "../lib/Switches.sol";
import {TypedData} from "../lib/TypedData.sol";

/// @title  What agents and operators read. None of these costs gas outside a transaction.
abstract contract ClusterReads {
    using AnchorSet for AnchorSet.Ref;
    using IdSet for IdSet.Set;
    using Strings for uint256;
    using Switches for Switches.Byte;

    /// See IDstackClusterNFT.
    uint64 public constant MAX_SIGNATURE_VALIDITY = Registrar.MAX_SIGNATURE_VALIDITY;

    /// See IDstackClusterNFT.
    function epoch() external view returns (uint64) {
        return ClusterStorage.members().totals.epoch;
    }

    /// See IDstackClusterNFT.
    function history() external view returns (bytes20) {
        return ClusterStorage.members().totals.history;
    }

    /// See IDstackClusterNFT.
    function peerCount() external view returns (uint256) {
        return ClusterStorage.members().totals.peerCount;
    }

    /// See IDstackClusterNFT.
    function totalSupply() external view returns (uint256) {
        return ClusterStorage.members().totals.supply;
    }

    /// See IDstackClusterNFT.
    function meshNetwork() external view returns (bytes4 base, uint8 prefixLength) {
        ClusterStorage.Network storage network = ClusterStorage.members().network;
        return (network.base, network.prefixLength);
    }

    /// See IDstackClusterNFT.
    function addressOf(uint256 tokenId) external view returns (bytes4) {
        ClusterStorage.Network storage network = ClusterStorage.members().network;
        if (tokenId == 0 || tokenId > MeshNetwork.capacity(network.prefixLength)) {
            revert IERC721Errors.ERC721NonexistentToken(tokenId);
        }
        return MeshNetwork.addressAt(network.base, tokenId);
    }

    /// See IDstackClusterNFT.
    function peers(uint256 cursor, uint256 limit)
        external
        view
        returns (IDstackClusterNFT.Peer[] memory page, uint256 next)
    {
        ClusterStorage.Members storage members = ClusterStorage.members();
        IdSet.Set storage registered = members.registered;
        (bool found, uint256 id) = registered.next(cursor);
        page = new IDstackClusterNFT.Peer[](Math.min(limit, members.totals.peerCount));
        uint256 count = 0;
        for (uint256 seen = 0; found && seen < limit; ++seen) {
            ClusterStorage.NodeRecord storage node = members.nodes[id];
            if (PeerTable.isActive(node)) page[count++] = _peer(id, node);
            (found, id) = registered.next(id + 1);
        }
        assembly ("memory-safe") {
            mstore(page, count)
        }
        next = found ? id : 0;
    }

    /// See IDstackClusterNFT.
    function getPeer(uint256 tokenId) external view returns (IDstackClusterNFT.Peer memory) {
        ClusterStorage.NodeRecord storage node = ClusterStorage.members().nodes[tokenId];
        if (!PeerTable.isActive(node)) revert IDstackClusterNFT.NodeNotActive(tokenId);
        return _peer(tokenId, node);
    }

    /// See IDstackClusterNFT.
    function getPeerEndpoints() external view returns (string[] memory endpoints) {
        ClusterStorage.Members storage members = ClusterStorage.members();
        endpoints = new string[](members.totals.peerCount);
        uint256 count = 0;
        (bool found, uint256 id) = members.registered.next(0);
        while (found) {
            ClusterStorage.NodeRecord storage node = members.nodes[id];
            if (PeerTable.isActive(node)) endpoints[count++] = _endpoint(id, node);
            (found, id) = members.registered.next(id + 1);
        }
    }

    /// See IDstackClusterNFT.
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
        )
    {
        return (
            hex"0f", // name, version, chainId, verifyingContract (EIP-5267)
            TypedData.DOMAIN_NAME,
            TypedData.DOMAIN_VERSION,
            block.chainid,
            address(this),
            0,
            new uint256[](0)
        );
    }

    function _peer(uint256 tokenId, ClusterStorage.NodeRecord storage node)
        private
        view
        returns (IDstackClusterNFT.Peer memory peer)
    {
        ClusterStorage.Trust storage trust = ClusterStorage.trust();
        peer.tokenId = tokenId;
        peer.instanceId = node.instanceId;
        peer.memberAddress = node.memberAddress;
        (peer.wireguardKey, peer.tlsKey) = PeerTable.keysOf(node);
        peer.keyEpoch = node.keyEpoch;
        peer.endpointEpoch = node.endpointEpoch;
        peer.networkType = node.networkType;
        peer.endpointAddress = node.endpointAddress;
        peer.endpointPort = node.endpointPort;
        peer.gatewayDomain = node.gatewayDomain;
        peer.gatewayPort = node.gatewayPort;
        peer.kmsRoot = trust.kmsRoots.anchors[node.root.index()].account;
        peer.appId = trust.appIds.anchors[node.app.index()].account;
        peer.registeredBlock = node.registeredBlock;
    }

    /// The mesh address of a WIREGUARD peer; the URL of a TLS_GATEWAY peer, empty where its base domain was removed; in devMode
    /// the development URL of a peer that has one.
    function _endpoint(uint256 tokenId, ClusterStorage.NodeRecord storage node) private view returns (string memory) {
        ClusterStorage.Policy storage policy = ClusterStorage.policy();
        if (ClusterStorage.members().totals.switches.isOn(Switches.DEV_MODE) && node.devRound == policy.devRound) {
            return policy.devUrls[tokenId];
        }
        if (node.networkType == IDstackClusterNFT.NetworkType.WIREGUARD) {
            return MeshNetwork.toText(MeshNetwork.addressAt(ClusterStorage.members().network.base, tokenId));
        }
        string memory domain = ClusterStorage.trust().baseDomains[node.gatewayDomain - 1];
        if (bytes(domain).length == 0) return "";
        // dstack's gateway: "<instance id>-<port>s.<domain>", s = TLS goes through to the instance.
        return string.concat(
            "https://",
            string(LowerHex.encode20(node.instanceId)),
            "-",
            uint256(node.gatewayPort).toString(),
            "s.",
            domain
        );
    }
}
