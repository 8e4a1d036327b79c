// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {OwnableUpgradeable} from "@openzeppelin/contracts-upgradeable/access/OwnableUpgradeable.sol";
import {ClusterStorage} from "../ClusterStorage.sol";
import {DstackAppStorage} from "../DstackAppStorage.sol";
import {WalletTokens} from "../WalletTokens.sol";
import {IClusterPolicy} from "../interfaces/IClusterPolicy.sol";
import {IDstackClusterNFT} from "../interfaces/IDstackClusterNFT.sol";
import {MeshNetwork} from "../lib/MeshNetwork.sol";

/// @title  The policy of a cluster: limits, minting, payments, the pause, development URLs.
/// @dev    What it limits asks for it: minting in DstackClusterNFT, registering in Registrar.
abstract contract ClusterPolicy is OwnableUpgradeable {
    uint256 private constant MAX_DEV_URL = 256; // bytes

    // -------------------------------------------------------------------------------------------------- the owner's

    /// See IClusterPolicy.
    function setClusterConfig(uint256 nodeLimit, IClusterPolicy.NetworkPolicy networkType) external onlyOwner {
        ClusterStorage.Totals storage totals = ClusterStorage.members().totals;
        uint256 capacity = MeshNetwork.capacity(totals.prefixLength);
        if (nodeLimit == 0 || nodeLimit > capacity) revert IClusterPolicy.InvalidMaxNodes(nodeLimit, capacity);
        // forge-lint: disable-next-line(unsafe-typecast): a capacity is below 2^16
        (totals.maxNodes, totals.networkPolicy) = (uint16(nodeLimit), networkType);
        emit IClusterPolicy.ClusterConfigUpdated(nodeLimit, networkType, ClusterStorage.nextEpoch());
    }

    /// See IClusterPolicy.
    function setMintingPolicy(uint256 price, bool toAnybody) external onlyOwner {
        ClusterStorage.policy().mintPrice = price;
        ClusterStorage.members().totals.publicMinting = toAnybody;
        emit IClusterPolicy.MintingPolicyUpdated(price, toAnybody, ClusterStorage.nextEpoch());
    }

    /// See IClusterPolicy.
    function withdraw(address payable to) external onlyOwner {
        if (to == address(0)) revert IDstackClusterNFT.ZeroAddress();
        uint256 amount = address(this).balance;
        emit IClusterPolicy.Withdrawn(to, amount);
        // The last effect; the payee may call back, and finds nothing left to take.
        (bool taken,) = to.call{value: amount}("");
        if (!taken) revert IClusterPolicy.WithdrawalFailed(to, amount);
    }

    /// See IClusterPolicy.
    function pauseRegistrations() external onlyOwner {
        _setPaused(true);
    }

    /// See IClusterPolicy.
    function unpauseRegistrations() external onlyOwner {
        _setPaused(false);
    }

    /// See IClusterPolicy.
    function setDevMode(bool enabled) external onlyOwner {
        ClusterStorage.Totals storage totals = ClusterStorage.members().totals;
        if (enabled && !totals.devMode) ++ClusterStorage.policy().devRound;
        totals.devMode = enabled;
        emit IClusterPolicy.DevModeSet(enabled, ClusterStorage.nextEpoch());
    }

    // ---------------------------------------------------------------------------------------------- a token owner's

    /// See IClusterPolicy.
    function setDevUrl(uint256 tokenId, string calldata url) external {
        ClusterStorage.Members storage members = ClusterStorage.members();
        ClusterStorage.Policy storage policy = ClusterStorage.policy();
        if (!members.totals.devMode) revert IClusterPolicy.DevModeOff();
        if (WalletTokens.ownerOf(tokenId) != _msgSender()) {
            revert IDstackClusterNFT.NotTokenOwner(tokenId, _msgSender());
        }
        if (!_isPrintable(bytes(url))) revert IClusterPolicy.InvalidDevUrl();
        policy.devUrls[tokenId] = url;
        members.nodes[tokenId].devRound = bytes(url).length == 0 ? 0 : policy.devRound;
        emit IClusterPolicy.DevUrlSet(tokenId, url, ClusterStorage.nextEpoch());
    }

    // ------------------------------------------------------------------------------------------------------- reads

    /// See IClusterPolicy.
    function clusterConfig() external view returns (IClusterPolicy.ClusterConfig memory) {
        ClusterStorage.Totals storage totals = ClusterStorage.members().totals;
        return IClusterPolicy.ClusterConfig({
            maxNodes: totals.maxNodes,
            networkType: totals.networkPolicy,
            mintPrice: ClusterStorage.policy().mintPrice,
            publicMinting: totals.publicMinting,
            registrationsPaused: totals.registrationsPaused,
            devMode: totals.devMode,
            upgradesDisabled: DstackAppStorage.app().upgradesDisabled
        });
    }

    /// See IClusterPolicy.
    function maxNodes() external view returns (uint256) {
        return ClusterStorage.members().totals.maxNodes;
    }

    /// See IClusterPolicy.
    function mintPrice() external view returns (uint256) {
        return ClusterStorage.policy().mintPrice;
    }

    /// See IClusterPolicy.
    function publicMinting() external view returns (bool) {
        return ClusterStorage.members().totals.publicMinting;
    }

    /// See IClusterPolicy.
    function devMode() external view returns (bool) {
        return ClusterStorage.members().totals.devMode;
    }

    function _setPaused(bool paused) private {
        ClusterStorage.members().totals.registrationsPaused = paused;
        emit IClusterPolicy.RegistrationsPaused(paused, ClusterStorage.nextEpoch());
    }

    /// At most MAX_DEV_URL characters, all of them visible ASCII.
    function _isPrintable(bytes calldata text) private pure returns (bool) {
        if (text.length > MAX_DEV_URL) return false;
        for (uint256 i = 0; i < text.length; ++i) {
            if (text[i] <= 0x20 || text[i] >= 0x7f) return false;
        }
        return true;
    }
}
