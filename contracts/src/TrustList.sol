// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IDstackClusterNFT} from "./interfaces/IDstackClusterNFT.sol";
import {ClusterStorage} from "./ClusterStorage.sol";
import {Election} from "./Election.sol";
import {History} from "./History.sol";
import {PeerTable} from "./PeerTable.sol";
import {AnchorSet} from "./lib/AnchorSet.sol";

/// @title  The KMS roots and app ids of the cluster: coming, going, and being asked for.
library TrustList {
    using AnchorSet for AnchorSet.Set;
    using AnchorSet for AnchorSet.Ref;

    /// Trusts a KMS root from `effectiveAt` (Unix seconds) on.
    function addKmsRoot(address root, uint48 effectiveAt) internal {
        uint32 generation = ClusterStorage.trust().kmsRoots.add(root, effectiveAt);
        History.kmsRootAdded(root, generation, effectiveAt);
    }

    /// Distrusts a KMS root, and with it its peers and, if it had any, all votes of this term.
    function removeKmsRoot(address root) internal {
        AnchorSet.Ref ended = ClusterStorage.trust().kmsRoots.remove(root);
        uint256 gone = PeerTable.forgetRoot(ended.index());
        History.kmsRootRemoved(root, ended.generation());
        if (gone != 0) Election.lapse();
    }

    /// Allows an app id from `effectiveAt` (Unix seconds) on.
    function addAppId(address appId, uint48 effectiveAt) internal {
        uint32 generation = ClusterStorage.trust().appIds.add(appId, effectiveAt);
        History.appIdAdded(appId, generation, effectiveAt);
    }

    /// Disallows an app id, and with it its peers and, if it had any, all votes of this term.
    function removeAppId(address appId) internal {
        AnchorSet.Ref ended = ClusterStorage.trust().appIds.remove(appId);
        uint256 gone = PeerTable.forgetApp(ended.index());
        History.appIdRemoved(appId, ended.generation());
        if (gone != 0) Election.lapse();
    }

    /// The trusted root's slot (probably `hint`) and generation. Reverts with KmsRootNotTrusted or KmsRootNotYetEffective.
    function requireKmsRoot(address root, AnchorSet.Ref hint) internal view returns (AnchorSet.Ref) {
        (bool found, AnchorSet.Ref ref, uint48 effectiveAt) = ClusterStorage.trust().kmsRoots.find(root, hint);
        if (!found) revert IDstackClusterNFT.KmsRootNotTrusted(root);
        if (block.timestamp < effectiveAt) revert IDstackClusterNFT.KmsRootNotYetEffective(root, effectiveAt);
        return ref;
    }

    /// The allowed app id's slot (probably `hint`) and generation. Reverts with AppIdNotAllowed or AppIdNotYetEffective.
    function requireAppId(address appId, AnchorSet.Ref hint) internal view returns (AnchorSet.Ref) {
        (bool found, AnchorSet.Ref ref, uint48 effectiveAt) = ClusterStorage.trust().appIds.find(appId, hint);
        if (!found) revert IDstackClusterNFT.AppIdNotAllowed(appId);
        if (block.timestamp < effectiveAt) revert IDstackClusterNFT.AppIdNotYetEffective(appId, effectiveAt);
        return ref;
    }
}
