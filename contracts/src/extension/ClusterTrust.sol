// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {OwnableUpgradeable} from "@openzeppelin/contracts-upgradeable/access/OwnableUpgradeable.sol";
import {Arrays} from "@openzeppelin/contracts/utils/Arrays.sol";
import {IDstackClusterNFT} from "../interfaces/IDstackClusterNFT.sol";
import {ClusterStorage} from "../ClusterStorage.sol";
import {History} from "../History.sol";
import {Registrar} from "../Registrar.sol";
import {TrustList} from "../TrustList.sol";
import {AnchorSet} from "../lib/AnchorSet.sol";
import {BaseDomain} from "../lib/BaseDomain.sol";

/// @title  Whom the cluster trusts: KMS roots, app ids, gateway base domains. All writes are the contract owner's.
abstract contract ClusterTrust is OwnableUpgradeable {
    using AnchorSet for AnchorSet.Set;

    /// Seconds between adding a KMS root and its first use: a new root can admit any peer, so members get time to leave. One more
    /// than a signature lasts, so that of those that could be submitted when the root was removed none is good when it is back.
    uint48 public constant KMS_ROOT_DELAY = uint48(Registrar.MAX_SIGNATURE_VALIDITY) + 1;
    /// Seconds between adding an app id and its first use, for the same reasons.
    uint48 public constant APP_ID_DELAY = KMS_ROOT_DELAY;

    /// See IDstackClusterNFT.
    function addKmsRoot(address root) external onlyOwner {
        TrustList.addKmsRoot(root, uint48(block.timestamp) + KMS_ROOT_DELAY);
    }

    /// See IDstackClusterNFT.
    function removeKmsRoot(address root) external onlyOwner {
        TrustList.removeKmsRoot(root);
    }

    /// See IDstackClusterNFT.
    function addAppId(address appId) external onlyOwner {
        TrustList.addAppId(appId, uint48(block.timestamp) + APP_ID_DELAY);
    }

    /// See IDstackClusterNFT.
    function removeAppId(address appId) external onlyOwner {
        TrustList.removeAppId(appId);
    }

    /// See IDstackClusterNFT.
    function addBaseDomain(string calldata domain) external onlyOwner returns (uint16 index) {
        if (!BaseDomain.isValid(domain)) revert IDstackClusterNFT.InvalidBaseDomain(domain);
        ClusterStorage.Trust storage trust = ClusterStorage.trust();
        bytes32 hash = keccak256(bytes(domain));
        if (trust.domainIndex[hash] != 0) revert IDstackClusterNFT.AlreadyAdded();
        uint256 count = trust.baseDomains.length;
        if (count == type(uint16).max) revert IDstackClusterNFT.TooMany(type(uint16).max);
        trust.baseDomains.push(domain);
        // forge-lint: disable-next-line(unsafe-typecast): at most the largest index
        index = uint16(count + 1);
        trust.domainIndex[hash] = index;
        History.baseDomainAdded(index, domain, hash);
    }

    /// See IDstackClusterNFT.
    function removeBaseDomain(uint16 index) external onlyOwner {
        ClusterStorage.Trust storage trust = ClusterStorage.trust();
        if (index == 0 || index > trust.baseDomains.length) revert IDstackClusterNFT.UnknownBaseDomain(index);
        string memory domain = trust.baseDomains[index - 1];
        if (bytes(domain).length == 0) revert IDstackClusterNFT.UnknownBaseDomain(index);
        delete Arrays.unsafeAccess(trust.baseDomains, index - 1).value; // the index was checked above
        bytes32 hash = keccak256(bytes(domain));
        delete trust.domainIndex[hash];
        History.baseDomainRemoved(index, domain, hash);
    }

    /// See IDstackClusterNFT.
    function kmsRoots() external view returns (address[] memory roots, uint64[] memory effectiveAt) {
        return ClusterStorage.trust().kmsRoots.list();
    }

    /// See IDstackClusterNFT.
    function appIds() external view returns (address[] memory accounts, uint64[] memory effectiveAt) {
        return ClusterStorage.trust().appIds.list();
    }

    /// See IDstackClusterNFT.
    function baseDomains() external view returns (string[] memory) {
        return ClusterStorage.trust().baseDomains;
    }
}
