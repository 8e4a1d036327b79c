// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {OwnableUpgradeable} from "@openzeppelin/contracts-upgradeable/access/OwnableUpgradeable.sol";
import {ClusterStorage} from "../ClusterStorage.sol";
import {DstackAppStorage} from "../DstackAppStorage.sol";
import {History} from "../History.sol";
import {WalletTokens} from "../WalletTokens.sol";
import {IClusterPolicy} from "../interfaces/IClusterPolicy.sol";
import {IDstackClusterNFT} from "../interfaces/IDstackClusterNFT.sol";
import {MeshNetwork} from "../lib/MeshNetwork.sol";
import {Switches} from "../lib/Switches.sol";

/// @title  The policy of a cluster: minting, payments, the pause, development URLs.
/// @dev    What it limits asks for it: minting in DstackClusterNFT, where setClusterConfig is too, registering in Registrar.
abstract contract ClusterPolicy is OwnableUpgradeable {
    using Switches for Switches.Byte;

    uint256 private constant MAX_DEV_URL = 256; // bytes

    // -------------------------------------------------------------------------------------------------- the owner's

    /// See IClusterPolicy.
    function setMintingPolicy(uint256 price, bool toAnybody) external onlyOwner {
        ClusterStorage.policy().mintPrice = price;
        History.mintingPolicyUpdated(price, toAnybody);
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
        History.registrationsPaused(true);
    }

    /// See IClusterPolicy.
    function unpauseRegistrations() external onlyOwner {
        History.registrationsPaused(false);
    }

    /// See IClusterPolicy.
    function setDevMode(bool enabled) external onlyOwner {
        if (enabled && !_isOn(Switches.DEV_MODE)) ++ClusterStorage.policy().devRound;
        History.devModeSet(enabled);
    }

    // ---------------------------------------------------------------------------------------------- a token owner's

    /// See IClusterPolicy.
    function setDevUrl(uint256 tokenId, string calldata url) external {
        ClusterStorage.Policy storage policy = ClusterStorage.policy();
        if (!_isOn(Switches.DEV_MODE)) revert IClusterPolicy.DevModeOff();
        if (WalletTokens.ownerOf(tokenId) != _msgSender()) {
            revert IDstackClusterNFT.NotTokenOwner(tokenId, _msgSender());
        }
        if (!_isPrintable(bytes(url))) revert IClusterPolicy.InvalidDevUrl();
        policy.devUrls[tokenId] = url;
        ClusterStorage.members().nodes[tokenId].devRound = bytes(url).length == 0 ? 0 : policy.devRound;
        History.devUrlSet(tokenId, url);
    }

    // ------------------------------------------------------------------------------------------------------- reads

    /// See IClusterPolicy.
    function clusterConfig() external view returns (IClusterPolicy.ClusterConfig memory) {
        ClusterStorage.Members storage members = ClusterStorage.members();
        Switches.Byte switches = members.totals.switches;
        return IClusterPolicy.ClusterConfig({
            maxNodes: members.network.maxNodes,
            networkType: switches.networkPolicy(),
            mintPrice: ClusterStorage.policy().mintPrice,
            publicMinting: switches.isOn(Switches.PUBLIC_MINTING),
            registrationsPaused: switches.isOn(Switches.REGISTRATIONS_PAUSED),
            devMode: switches.isOn(Switches.DEV_MODE),
            upgradesDisabled: DstackAppStorage.app().upgradesDisabled
        });
    }

    /// See IClusterPolicy.
    function maxNodes() external view returns (uint256) {
        return ClusterStorage.members().network.maxNodes;
    }

    /// See IClusterPolicy.
    function mintPrice() external view returns (uint256) {
        return ClusterStorage.policy().mintPrice;
    }

    /// See IClusterPolicy.
    function publicMinting() external view returns (bool) {
        return _isOn(Switches.PUBLIC_MINTING);
    }

    /// See IClusterPolicy.
    function devMode() external view returns (bool) {
        return _isOn(Switches.DEV_MODE);
    }

    function _isOn(uint8 which) private view returns (bool) {
        return ClusterStorage.members().totals.switches.isOn(which);
    }

    /// At most MAX_DEV_URL characters, all of them visible ASCII.
    function _isPrintable(bytes calldata text) private pure returns (bool) {
        if (text.length > MAX_DEV_URL) return false;
        for (uint256 i = 0; i < text.length; ++i) {
            bytes1 c = text[i];
            if (c <= 0x20 || c >= 0x7f) return false;
        }
        return true;
    }
}
