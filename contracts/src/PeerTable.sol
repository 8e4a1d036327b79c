// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IDstackClusterNFT} from "./interfaces/IDstackClusterNFT.sol";
import {ClusterStorage} from "./ClusterStorage.sol";
import {Election} from "./Election.sol";
import {AnchorSet} from "./lib/AnchorSet.sol";
import {IdSet} from "./lib/IdSet.sol";

/// @title  Who is a peer: admitting, dropping, counting, and the exclusive use of instance ids and WireGuard keys.
/// @dev    A record is *registered* from its registration until it is dropped, and *active* while, besides, its KMS root and app
///         id are still the generation it was admitted under. Removing a root or an app id touches counts, never records: what
///         is registered but no longer active is stale, owns nothing, and is swept when its token is next used.
library PeerTable {
    using AnchorSet for AnchorSet.Set;
    using IdSet for IdSet.Set;

    /// Whether the record is an active peer.
    function isActive(ClusterStorage.NodeRecord storage node) internal view returns (bool) {
        if (!node.registered) return false;
        ClusterStorage.Trust storage trust = ClusterStorage.trust();
        return trust.kmsRoots.isCurrent(node.rootIndex, node.rootGeneration)
            && trust.appIds.isCurrent(node.appIndex, node.appGeneration);
    }

    /// Writes an accepted registration. Reverts with InstanceInUse or WireguardKeyInUse when another active peer has them.
    function admit(
        IDstackClusterNFT.Registration calldata registration,
        address nodeAddress,
        AnchorSet.Ref memory root,
        AnchorSet.Ref memory app
    ) internal {
        ClusterStorage.Members storage members = ClusterStorage.members();
        uint256 tokenId = registration.tokenId;
        ClusterStorage.NodeRecord storage node = members.nodes[tokenId];
        bytes32 oldKey = node.wireguardKey;
        bytes32 newKey = registration.wireguardKey;

        if (!isActive(node)) {
            if (node.registered) drop(tokenId); // stale
            _claimInstance(registration.instanceId, tokenId);
            _claimKey(newKey, tokenId);
            _claimVote(nodeAddress, tokenId);
            members.registered.add(tokenId);
            _countIn(root.index, app.index);
        } else {
            if (oldKey != newKey) {
                if (oldKey != 0) delete members.tokenOfWireguardKey[oldKey];
                _claimKey(newKey, tokenId);
            }
            if (node.rootIndex != root.index || node.appIndex != app.index) {
                _countOut(node.rootIndex, node.appIndex);
                _countIn(root.index, app.index);
            }
        }

        node.wireguardKey = newKey;

        node.nodeAddress = nodeAddress;
        node.keyEpoch = registration.keyEpoch;
        node.networkType = registration.networkType;
        node.registeredBlock = uint48(block.number);

        node.endpointAddress = registration.endpointAddress;
        node.endpointPort = registration.endpointPort;
        node.gatewayDomain = registration.gatewayDomain;
        node.gatewayPort = registration.gatewayPort;
        (node.rootIndex, node.rootGeneration) = (root.index, root.generation);
        (node.appIndex, node.appGeneration) = (app.index, app.generation);

        node.instanceId = registration.instanceId;
        node.registered = true;
    }

    /// Takes the token's registration away, if it has one, and with it its vote and the leader's seat; binding and key epoch stay.
    function drop(uint256 tokenId) internal {
        ClusterStorage.Members storage members = ClusterStorage.members();
        ClusterStorage.NodeRecord storage node = members.nodes[tokenId];
        if (!node.registered) return;

        Election.resign(node);
        if (isActive(node)) _countOut(node.rootIndex, node.appIndex);
        // Another peer may have taken over what a stale record held.
        bytes20 instanceId = node.instanceId;
        if (members.tokenOfInstance[instanceId] == tokenId) delete members.tokenOfInstance[instanceId];
        bytes32 key = node.wireguardKey;
        if (key != 0 && members.tokenOfWireguardKey[key] == tokenId) delete members.tokenOfWireguardKey[key];
        members.registered.remove(tokenId);

        node.wireguardKey = 0;
        node.networkType = IDstackClusterNFT.NetworkType.TLS_GATEWAY;
        node.registeredBlock = 0;
        node.endpointAddress = 0;
        node.endpointPort = 0;
        node.gatewayDomain = 0;
        node.gatewayPort = 0;
        (node.rootIndex, node.rootGeneration, node.appIndex, node.appGeneration) = (0, 0, 0, 0);
        node.registered = false;
    }

    /// Forgets the peers of a KMS root that was just removed from its slot, and says how many: one storage slot, however many
    /// peers.
    function forgetRoot(uint8 rootIndex) internal returns (uint256 gone) {
        for (uint8 appIndex = 0; appIndex < AnchorSet.CAPACITY; ++appIndex) {
            gone += _forget(rootIndex, appIndex);
        }
    }

    /// Forgets the peers of an app id that was just removed from its slot, and says how many: at most sixteen storage slots.
    function forgetApp(uint8 appIndex) internal returns (uint256 gone) {
        for (uint8 rootIndex = 0; rootIndex < AnchorSet.CAPACITY; ++rootIndex) {
            gone += _forget(rootIndex, appIndex);
        }
    }

    /// The active token of an instance id, zero for none.
    function holderOfInstance(bytes20 instanceId) internal view returns (uint256 tokenId) {
        tokenId = ClusterStorage.members().tokenOfInstance[instanceId];
        if (tokenId != 0 && !isActive(ClusterStorage.members().nodes[tokenId])) return 0;
    }

    /// The active token of a WireGuard key, zero for none.
    function holderOfKey(bytes32 key) internal view returns (uint256 tokenId) {
        tokenId = ClusterStorage.members().tokenOfWireguardKey[key];
        if (tokenId != 0 && !isActive(ClusterStorage.members().nodes[tokenId])) return 0;
    }

    function _forget(uint8 rootIndex, uint8 appIndex) private returns (uint16 gone) {
        ClusterStorage.Members storage members = ClusterStorage.members();
        gone = members.peersOf[rootIndex][appIndex];
        if (gone == 0) return 0;
        members.peersOf[rootIndex][appIndex] = 0;
        members.totals.peerCount -= gone;
    }

    function _claimInstance(bytes20 instanceId, uint256 tokenId) private {
        uint256 holder = holderOfInstance(instanceId);
        if (holder != 0) revert IDstackClusterNFT.InstanceInUse(instanceId, holder);
        ClusterStorage.members().tokenOfInstance[instanceId] = tokenId;
    }

    function _claimKey(bytes32 key, uint256 tokenId) private {
        if (key == 0) return; // TLS_GATEWAY
        uint256 holder = holderOfKey(key);
        if (holder != 0) revert IDstackClusterNFT.WireguardKeyInUse(key, holder);
        ClusterStorage.members().tokenOfWireguardKey[key] = tokenId;
    }

    /// From now on the node address votes for this token; not while it votes for another active peer with the same node address,
    /// which a sibling of the same app can make: neither takes the other's vote away.
    function _claimVote(address nodeAddress, uint256 tokenId) private {
        mapping(address nodeAddress => uint256 tokenId) storage voterToken = ClusterStorage.election().voterToken;
        uint256 holder = voterToken[nodeAddress];
        if (holder == tokenId) return;
        if (holder != 0) {
            ClusterStorage.NodeRecord storage other = ClusterStorage.members().nodes[holder];
            if (other.nodeAddress == nodeAddress && isActive(other)) return;
        }
        voterToken[nodeAddress] = tokenId;
    }

    function _countIn(uint8 rootIndex, uint8 appIndex) private {
        ClusterStorage.Members storage members = ClusterStorage.members();
        ++members.peersOf[rootIndex][appIndex];
        ++members.totals.peerCount;
    }

    function _countOut(uint8 rootIndex, uint8 appIndex) private {
        ClusterStorage.Members storage members = ClusterStorage.members();
        --members.peersOf[rootIndex][appIndex];
        --members.totals.peerCount;
    }
}
