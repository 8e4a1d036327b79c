// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {ERC721Upgradeable} from "@openzeppelin/contracts-upgradeable/token/ERC721/ERC721Upgradeable.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {IDstackClusterNFT} from "./interfaces/IDstackClusterNFT.sol";
import {ClusterStorage} from "./ClusterStorage.sol";
import {PeerTable} from "./PeerTable.sol";

/// @title  Reads of tokens, which need ERC-721's owners.
abstract contract NodeReads is ERC721Upgradeable {
    /// See IDstackClusterNFT.
    function nodes(uint256 cursor, uint256 limit)
        external
        view
        returns (IDstackClusterNFT.Node[] memory page, uint256 next)
    {
        ClusterStorage.Totals storage totals = ClusterStorage.members().totals;
        uint256 last = totals.highWater;
        uint256 id = cursor == 0 ? 1 : cursor;
        page = new IDstackClusterNFT.Node[](Math.min(limit, totals.supply));
        uint256 count = 0;
        for (uint256 seen = 0; id <= last && seen < limit; ++seen) {
            if (_ownerOf(id) != address(0)) page[count++] = _node(id);
            ++id;
        }
        assembly ("memory-safe") {
            mstore(page, count)
        }
        next = id <= last ? id : 0;
    }

    /// See IDstackClusterNFT.
    function getNode(uint256 tokenId) external view returns (IDstackClusterNFT.Node memory) {
        return _node(tokenId);
    }

    function _node(uint256 tokenId) private view returns (IDstackClusterNFT.Node memory node) {
        ClusterStorage.NodeRecord storage record = ClusterStorage.members().nodes[tokenId];
        node.tokenId = tokenId;
        node.owner = _ownerOf(tokenId);
        node.instanceId = record.instanceId;
        node.nodeAddress = record.nodeAddress;
        node.keyEpoch = record.keyEpoch;
        node.active = PeerTable.isActive(record);
        node.revoked = record.revoked;
    }
}
