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
///         is registered but no longer active is stale, owns nothing, and is swept when its token is next used; `registered` of
///         Members may have lost it before, to a search for a leader.
library PeerTable {
    using AnchorSet for AnchorSet.Set;
    using AnchorSet for AnchorSet.Ref;
    using IdSet for IdSet.Set;

    /// Whether the record is an active peer.
    function isActive(ClusterStorage.NodeRecord storage node) internal view returns (bool) {
        return node.registered && _isCurrent(node.root, node.app);
    }

    /// Writes an accepted registration. Reverts with InstanceInUse or WireguardKeyInUse when another active peer has them.
    ///
    /// What a join writes, and why a slot each. New (22,100 gas): the WireGuard key; where it is reached, with its root and app
    /// id; the token of its instance id and the token of its key (exclusive use); the token its member address votes for. Written
    /// before, so cheaper (5,000): member address and key epoch (by the mint); the word of 256 ids that lists it; the count of its
    /// KMS root's peers; the totals. The first peer of such a word or root pays 17,100 more for each. The slot of the binding is
    /// read, and written only for a token that was unbound.
    function admit(IDstackClusterNFT.Registration calldata registration, AnchorSet.Ref root, AnchorSet.Ref app)
        internal
    {
        ClusterStorage.Members storage members = ClusterStorage.members();
        uint256 tokenId = registration.tokenId;
        ClusterStorage.NodeRecord storage node = members.nodes[tokenId];
        bytes32 oldKey = node.wireguardKey;
        bytes32 newKey = registration.wireguardKey;
        address memberAddress = registration.memberAddress;

        bool registered = node.registered;
        if (!registered || !_isCurrent(node.root, node.app)) {
            if (registered) drop(tokenId); // stale
            _claimInstance(registration.instanceId, tokenId);
            _claimKey(newKey, tokenId);
            _claimVote(memberAddress, tokenId);
            members.registered.add(tokenId);
            _countIn(root.index(), app.index());
        } else {
            if (oldKey != newKey) {
                if (oldKey != 0) delete members.tokenOfWireguardKey[oldKey];
                _claimKey(newKey, tokenId);
            }
            if (node.root.index() != root.index() || node.app.index() != app.index()) {
                _countOut(node.root.index(), node.app.index());
                _countIn(root.index(), app.index());
            }
        }

        node.wireguardKey = newKey;

        _writeNode(node, memberAddress, registration.keyEpoch, registration.networkType);
        setReach(
            node,
            0,
            registration.endpointAddress,
            registration.endpointPort,
            registration.gatewayDomain,
            registration.gatewayPort
        );
        (node.root, node.app) = (root, app);
        if (node.instanceId == 0) node.instanceId = registration.instanceId; // a binding is to this instance
    }

    /// Writes where a peer is reached, by its `endpointEpoch`th update. Nothing is checked between the fields, so that the compiler
    /// joins their writes.
    function setReach(
        ClusterStorage.NodeRecord storage node,
        uint32 endpointEpoch,
        bytes16 endpointAddress,
        uint16 endpointPort,
        uint16 gatewayDomain,
        uint16 gatewayPort
    ) internal {
        node.endpointAddress = endpointAddress;
        node.endpointPort = endpointPort;
        node.gatewayDomain = gatewayDomain;
        node.gatewayPort = gatewayPort;
        node.endpointEpoch = endpointEpoch;
    }

    /// Takes the token's registration away, if it has one, and with it its vote and the leader's seat; binding and key epoch stay.
    function drop(uint256 tokenId) internal {
        ClusterStorage.NodeRecord storage node = ClusterStorage.members().nodes[tokenId];
        if (!node.registered) return;
        _letGo(tokenId, node);
        _unregister(node);
    }

    /// As `drop`, and the binding goes too, and spends the key epoch, which it gives back: what was signed and not yet submitted is
    /// void, also where the same instance is bound again.
    function clear(uint256 tokenId) internal returns (uint32 keyEpoch) {
        ClusterStorage.NodeRecord storage node = ClusterStorage.members().nodes[tokenId];
        keyEpoch = node.keyEpoch + 1;
        if (node.registered) _letGo(tokenId, node);
        node.instanceId = 0;
        node.devRound = 0;
        node.appPinned = false;
        // The second slot, in one write.
        node.keyEpoch = keyEpoch;
        node.memberAddress = address(0);
        _unregister(node);
    }

    /// What a registered token has besides its own record's second and fourth slot: all of it goes.
    function _letGo(uint256 tokenId, ClusterStorage.NodeRecord storage node) private {
        ClusterStorage.Members storage members = ClusterStorage.members();
        Election.resign(node);
        (AnchorSet.Ref root, AnchorSet.Ref app) = (node.root, node.app);
        if (_isCurrent(root, app)) _countOut(root.index(), app.index());
        // Another peer may have taken over what a stale record held.
        bytes20 instanceId = node.instanceId;
        if (members.tokenOfInstance[instanceId] == tokenId) delete members.tokenOfInstance[instanceId];
        bytes32 key = node.wireguardKey;
        if (key != 0 && members.tokenOfWireguardKey[key] == tokenId) delete members.tokenOfWireguardKey[key];
        members.registered.remove(tokenId);

        node.wireguardKey = 0;
        node.endpointAddress = 0;
        node.endpointPort = 0;
        node.gatewayDomain = 0;
        node.gatewayPort = 0;
        (node.root, node.app) = (AnchorSet.Ref.wrap(0), AnchorSet.Ref.wrap(0));
        node.endpointEpoch = 0;
    }

    function _unregister(ClusterStorage.NodeRecord storage node) private {
        node.networkType = IDstackClusterNFT.NetworkType.TLS_GATEWAY;
        node.registeredBlock = 0;
        node.registered = false;
    }

    /// Forgets the peers of a KMS root that was just removed from its slot, and says how many: one storage slot, however many
    /// peers.
    function forgetRoot(uint256 rootIndex) internal returns (uint256 gone) {
        ClusterStorage.Members storage members = ClusterStorage.members();
        uint16[16] memory counts = members.peersOf[rootIndex];
        for (uint256 appIndex = 0; appIndex < AnchorSet.CAPACITY; ++appIndex) {
            gone += counts[appIndex];
        }
        if (gone != 0) delete members.peersOf[rootIndex];
        _countGone(gone);
    }

    /// Forgets the peers of an app id that was just removed from its slot, and says how many: at most sixteen storage slots.
    function forgetApp(uint256 appIndex) internal returns (uint256 gone) {
        ClusterStorage.Members storage members = ClusterStorage.members();
        for (uint256 rootIndex = 0; rootIndex < AnchorSet.CAPACITY; ++rootIndex) {
            uint256 count = members.peersOf[rootIndex][appIndex];
            if (count == 0) continue;
            members.peersOf[rootIndex][appIndex] = 0;
            gone += count;
        }
        _countGone(gone);
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

    function _isCurrent(AnchorSet.Ref root, AnchorSet.Ref app) private view returns (bool) {
        ClusterStorage.Trust storage trust = ClusterStorage.trust();
        return trust.kmsRoots.isCurrent(root) && trust.appIds.isCurrent(app);
    }

    /// The second slot of a record, in one write: nothing is checked between its fields.
    function _writeNode(
        ClusterStorage.NodeRecord storage node,
        address memberAddress,
        uint32 keyEpoch,
        IDstackClusterNFT.NetworkType networkType
    ) private {
        node.memberAddress = memberAddress;
        node.keyEpoch = keyEpoch;
        node.networkType = networkType;
        node.registeredBlock = uint48(block.number);
        node.registered = true;
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

    /// From now on the member address votes for this token; not while it votes for another active peer, where the holder of one
    /// member key registered two tokens with it.
    function _claimVote(address memberAddress, uint256 tokenId) private {
        mapping(address memberAddress => uint256 tokenId) storage voterToken = ClusterStorage.election().voterToken;
        uint256 holder = voterToken[memberAddress];
        if (holder == tokenId) return;
        if (holder != 0) {
            ClusterStorage.NodeRecord storage other = ClusterStorage.members().nodes[holder];
            if (other.memberAddress == memberAddress && isActive(other)) return;
        }
        voterToken[memberAddress] = tokenId;
    }

    function _countIn(uint256 rootIndex, uint256 appIndex) private {
        ClusterStorage.Members storage members = ClusterStorage.members();
        ++members.peersOf[rootIndex][appIndex];
        ++members.totals.peerCount;
    }

    function _countOut(uint256 rootIndex, uint256 appIndex) private {
        ClusterStorage.Members storage members = ClusterStorage.members();
        --members.peersOf[rootIndex][appIndex];
        --members.totals.peerCount;
    }

    function _countGone(uint256 gone) private {
        // forge-lint: disable-next-line(unsafe-typecast): at most all peers
        if (gone != 0) ClusterStorage.members().totals.peerCount -= uint16(gone);
    }
}
