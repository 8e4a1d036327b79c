// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IDstackClusterNFT} from "./interfaces/IDstackClusterNFT.sol";
import {ClusterStorage} from "./ClusterStorage.sol";
import {Election} from "./Election.sol";
import {AnchorSet} from "./lib/AnchorSet.sol";
import {IdSet} from "./lib/IdSet.sol";

/// @title  Who is a peer: admitting, dropping, counting, and the exclusive use of instance ids and keys.
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
        return isRegistered(node) && _isCurrent(node.root, node.app);
    }

    /// Whether an accepted registration stands, be it stale.
    function isRegistered(ClusterStorage.NodeRecord storage node) internal view returns (bool) {
        return node.registered != ClusterStorage.Registered.NO;
    }

    /// The keys of a registered record; zero: it has none of that kind.
    function keysOf(ClusterStorage.NodeRecord storage node)
        internal
        view
        returns (bytes32 wireguardKey, bytes32 tlsKey)
    {
        if (node.networkType == IDstackClusterNFT.NetworkType.TLS_GATEWAY) return (0, node.key);
        return (node.key, node.registered == ClusterStorage.Registered.WITH_TLS_KEY ? node.tlsKey : bytes32(0));
    }

    /// Writes an accepted registration. Reverts with InstanceInUse, WireguardKeyInUse or TlsKeyInUse when another active peer has them.
    ///
    /// What a join writes, and why a slot each. New (22,100 gas): the key; where it is reached, with its root and app
    /// id; the token of its instance id and the token of its key (exclusive use); the token its member address votes for. Written
    /// before, so cheaper (5,000): member address and key epoch (by the mint); the word of 256 ids that lists it; the count of its
    /// KMS root's peers; the totals. The first peer of such a word or root pays 17,100 more for each. The slot of the binding is
    /// read, and written only for a token that was unbound. A TLS key beside a WireGuard key takes two new slots more: itself, and
    /// its token.
    function admit(
        IDstackClusterNFT.Registration calldata registration,
        uint16 gatewayIndex,
        AnchorSet.Ref root,
        AnchorSet.Ref app
    ) internal {
        ClusterStorage.Members storage members = ClusterStorage.members();
        uint256 tokenId = registration.tokenId;
        ClusterStorage.NodeRecord storage node = members.nodes[tokenId];
        address memberAddress = registration.memberAddress;

        bool registered = isRegistered(node);
        bool joins = !registered || !_isCurrent(node.root, node.app);
        if (joins) {
            if (registered) drop(tokenId); // stale
            _claimInstance(registration.instanceId, tokenId);
            _claimVote(memberAddress, tokenId);
            members.registered.add(tokenId);
            _countIn(root.index(), app.index());
        } else if (node.root.index() != root.index() || node.app.index() != app.index()) {
            _countOut(node.root.index(), node.app.index());
            _countIn(root.index(), app.index());
        }
        ClusterStorage.Registered state =
            _changeKeys(node, tokenId, joins, registration.wireguardKey, registration.tlsKey);

        _writeNode(node, memberAddress, registration.keyEpoch, registration.networkType, state);
        setReach(
            node, 0, registration.endpointAddress, registration.endpointPort, gatewayIndex, registration.gatewayPort
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
        uint16 gatewayIndex,
        uint16 gatewayPort
    ) internal {
        node.endpointAddress = endpointAddress;
        node.endpointPort = endpointPort;
        node.gatewayDomain = gatewayIndex;
        node.gatewayPort = gatewayPort;
        node.endpointEpoch = endpointEpoch;
    }

    /// Takes the token's registration away, if it has one, and with it its vote and the leader's seat; binding and key epoch stay.
    function drop(uint256 tokenId) internal {
        ClusterStorage.NodeRecord storage node = ClusterStorage.members().nodes[tokenId];
        if (!isRegistered(node)) return;
        _letGo(tokenId, node);
        _unregister(node);
    }

    /// As `drop`, and the binding goes too, and spends the key epoch, which it gives back: what was signed and not yet submitted is
    /// void, also where the same instance is bound again.
    function clear(uint256 tokenId) internal returns (uint32 keyEpoch) {
        ClusterStorage.NodeRecord storage node = ClusterStorage.members().nodes[tokenId];
        keyEpoch = node.keyEpoch + 1;
        if (isRegistered(node)) _letGo(tokenId, node);
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
        (bytes32 wireguardKey, bytes32 tlsKey) = keysOf(node);
        _releaseKey(members.tokenOfWireguardKey, wireguardKey, tokenId);
        _releaseKey(members.tokenOfTlsKey, tlsKey, tokenId);
        members.registered.remove(tokenId);

        node.key = 0;
        if (node.registered == ClusterStorage.Registered.WITH_TLS_KEY) node.tlsKey = 0;
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
        node.registered = ClusterStorage.Registered.NO;
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
    function holderOfInstance(bytes20 instanceId) internal view returns (uint256) {
        return _holder(ClusterStorage.members().tokenOfInstance[instanceId]);
    }

    /// The active token of a WireGuard key, zero for none.
    function holderOfWireguardKey(bytes32 key) internal view returns (uint256) {
        return _holder(ClusterStorage.members().tokenOfWireguardKey[key]);
    }

    /// The active token of a TLS key, zero for none.
    function holderOfTlsKey(bytes32 key) internal view returns (uint256) {
        return _holder(ClusterStorage.members().tokenOfTlsKey[key]);
    }

    /// The token, where it is active.
    function _holder(uint256 tokenId) private view returns (uint256) {
        return tokenId != 0 && isActive(ClusterStorage.members().nodes[tokenId]) ? tokenId : 0;
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
        IDstackClusterNFT.NetworkType networkType,
        ClusterStorage.Registered state
    ) private {
        node.memberAddress = memberAddress;
        node.keyEpoch = keyEpoch;
        node.networkType = networkType;
        node.registeredBlock = uint48(block.number);
        node.registered = state;
    }

    function _claimInstance(bytes20 instanceId, uint256 tokenId) private {
        uint256 holder = holderOfInstance(instanceId);
        if (holder != 0) revert IDstackClusterNFT.InstanceInUse(instanceId, holder);
        ClusterStorage.members().tokenOfInstance[instanceId] = tokenId;
    }

    /// Gives a record the keys of its new registration, claims those that it did not have and lets go of the others. One that
    /// joins has none.
    function _changeKeys(
        ClusterStorage.NodeRecord storage node,
        uint256 tokenId,
        bool joins,
        bytes32 wireguardKey,
        bytes32 tlsKey
    ) private returns (ClusterStorage.Registered state) {
        ClusterStorage.Members storage members = ClusterStorage.members();
        (bytes32 oldWireguardKey, bytes32 oldTlsKey) = joins ? (bytes32(0), bytes32(0)) : keysOf(node);
        if (oldWireguardKey != wireguardKey) {
            _releaseKey(members.tokenOfWireguardKey, oldWireguardKey, tokenId);
            if (wireguardKey != 0) {
                uint256 holder = holderOfWireguardKey(wireguardKey);
                if (holder != 0) revert IDstackClusterNFT.WireguardKeyInUse(wireguardKey, holder);
                members.tokenOfWireguardKey[wireguardKey] = tokenId;
            }
        }
        if (oldTlsKey != tlsKey) {
            _releaseKey(members.tokenOfTlsKey, oldTlsKey, tokenId);
            if (tlsKey != 0) {
                uint256 holder = holderOfTlsKey(tlsKey);
                if (holder != 0) revert IDstackClusterNFT.TlsKeyInUse(tlsKey, holder);
                members.tokenOfTlsKey[tlsKey] = tokenId;
            }
        }

        bool wireguard = wireguardKey != 0;
        bool both = wireguard && tlsKey != 0;
        if (both) node.tlsKey = tlsKey;
        else if (!joins && node.registered == ClusterStorage.Registered.WITH_TLS_KEY) node.tlsKey = 0;
        node.key = wireguard ? wireguardKey : tlsKey;
        return both ? ClusterStorage.Registered.WITH_TLS_KEY : ClusterStorage.Registered.YES;
    }

    /// Ends the exclusive use of a key, unless another peer has taken over what a stale record held.
    function _releaseKey(mapping(bytes32 key => uint256 tokenId) storage tokenOf, bytes32 key, uint256 tokenId)
        private
    {
        if (key != 0 && tokenOf[key] == tokenId) delete tokenOf[key];
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
