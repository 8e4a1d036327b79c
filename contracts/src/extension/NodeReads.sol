// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {IClusterPolicy} from "../interfaces/IClusterPolicy.sol";
import {IDstackClusterNFT} from "../interfaces/IDstackClusterNFT.sol";
import {ClusterStorage} from "../ClusterStorage.sol";
import {PeerTable} from "../PeerTable.sol";
import {WalletTokens} from "../WalletTokens.sol";
import {IdSet} from "../lib/IdSet.sol";
import {InstanceId} from "../lib/InstanceId.sol";
import {Switches} from "../lib/Switches.sol";

/// @title  Reads of tokens: all, one, a wallet's, an instance's.
abstract contract NodeReads {
    using IdSet for IdSet.Set;
    using Switches for Switches.Byte;

    /// See IDstackClusterNFT.
    function nodes(uint256 cursor, uint256 limit)
        external
        view
        returns (IDstackClusterNFT.Node[] memory page, uint256 next)
    {
        return _page(cursor, limit, true, 0);
    }

    /// See IDstackClusterNFT.
    function nodesOf(bytes20 instanceId, uint256 cursor, uint256 limit)
        external
        view
        returns (IDstackClusterNFT.Node[] memory page, uint256 next)
    {
        return _page(cursor, limit, false, instanceId);
    }

    /// See IDstackClusterNFT.
    function getNode(uint256 tokenId) external view returns (IDstackClusterNFT.Node memory) {
        return _node(tokenId);
    }

    /// See IDstackClusterNFT.
    function getInstanceInfo(string calldata instanceId) external view returns (IDstackClusterNFT.Node memory) {
        bytes20 id = InstanceId.parse(instanceId);
        uint256 tokenId = PeerTable.holderOfInstance(id);
        if (tokenId == 0) revert IClusterPolicy.InstanceNotActive(id);
        return _node(tokenId);
    }

    /// See IClusterPolicy.
    function instanceIsRegistered(string calldata instanceId) external view returns (bool) {
        return PeerTable.holderOfInstance(InstanceId.parse(instanceId)) != 0;
    }

    /// See IClusterPolicy.
    function getActiveInstances(uint256 cursor, uint256 limit)
        external
        view
        returns (bytes20[] memory page, uint256 next)
    {
        ClusterStorage.Members storage members = ClusterStorage.members();
        (bool found, uint256 id) = members.registered.next(cursor);
        page = new bytes20[](Math.min(limit, members.totals.peerCount));
        uint256 count = 0;
        for (uint256 seen = 0; found && seen < limit; ++seen) {
            ClusterStorage.NodeRecord storage node = members.nodes[id];
            if (PeerTable.isActive(node)) page[count++] = node.instanceId;
            (found, id) = members.registered.next(id + 1);
        }
        assembly ("memory-safe") {
            mstore(page, count)
        }
        next = found ? id : 0;
    }

    /// See IClusterPolicy.
    function walletToTokenId(address wallet) external view returns (uint256) {
        return WalletTokens.onlyTokenOf(wallet);
    }

    /// Of the `limit` ids from `cursor` on those that are minted and, unless `all`, bound to the instance. Counts them first, because
    /// they may be few.
    function _page(uint256 cursor, uint256 limit, bool all, bytes20 instanceId)
        private
        view
        returns (IDstackClusterNFT.Node[] memory page, uint256 next)
    {
        uint256 last = _highestId();
        uint256 first = Math.min(Math.max(cursor, 1), last + 1);
        unchecked {
            uint256 end = first + Math.min(limit, last + 1 - first);
            uint256 count = 0;
            for (uint256 id = first; id < end; ++id) {
                if (_isWanted(id, all, instanceId)) ++count;
            }
            page = new IDstackClusterNFT.Node[](count);
            for (uint256 id = end; count > 0;) {
                if (_isWanted(--id, all, instanceId)) page[--count] = _node(id);
            }
            next = end <= last ? end : 0;
        }
    }

    /// The highest id of those ever minted.
    function _highestId() private view returns (uint256) {
        ClusterStorage.Members storage members = ClusterStorage.members();
        uint256 burned = members.totals.switches.isOn(Switches.HAS_BURNED) ? members.free.count() : 0;
        return members.totals.supply + burned;
    }

    /// One read where the token is bound to another instance.
    function _isWanted(uint256 tokenId, bool all, bytes20 instanceId) private view returns (bool) {
        if (!all && ClusterStorage.members().nodes[tokenId].instanceId != instanceId) return false;
        return WalletTokens.ownerOf(tokenId) != address(0);
    }

    function _node(uint256 tokenId) private view returns (IDstackClusterNFT.Node memory node) {
        ClusterStorage.NodeRecord storage record = ClusterStorage.members().nodes[tokenId];
        node.tokenId = tokenId;
        node.owner = WalletTokens.ownerOf(tokenId);
        node.instanceId = record.instanceId;
        node.memberAddress = record.memberAddress;
        if (record.appPinned) node.boundAppId = ClusterStorage.members().boundApp[tokenId];
        node.keyEpoch = record.keyEpoch;
        node.active = PeerTable.isActive(record);
        if (node.active) node.endpointEpoch = record.endpointEpoch;
        node.revoked = record.revoked;
    }
}
