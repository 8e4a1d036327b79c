// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {OwnableUpgradeable} from "@openzeppelin/contracts-upgradeable/access/OwnableUpgradeable.sol";
import {DstackAppStorage} from "../DstackAppStorage.sol";
import {IDstackApp} from "../interfaces/IAppAuth.sol";

/// @title  The boot gate: which CVMs dstack's KMS may give the keys of this app.
/// @dev    Behaves as dstack's DstackApp, but for three things: it answers only for its own app id, it refuses by custom errors, and
///         its owner cannot be given up (DstackClusterNFT).
abstract contract AppAuth is OwnableUpgradeable, IDstackApp {
    bytes32 private constant UP_TO_DATE = keccak256("UpToDate");

    /// See IAppAuth.
    function isAppAllowed(AppBootInfo calldata bootInfo) external view returns (bool isAllowed, string memory reason) {
        DstackAppStorage.Layout storage app = DstackAppStorage.app();
        if (bootInfo.appId != address(this)) return (false, "App id is not this contract");
        if (app.requireTcbUpToDate && keccak256(bytes(bootInfo.tcbStatus)) != UP_TO_DATE) {
            return (false, "TCB status is not up to date");
        }
        if (!app.allowedComposeHashes[bootInfo.composeHash]) return (false, "Compose hash not allowed");
        if (!app.allowAnyDevice && !app.allowedDeviceIds[bootInfo.deviceId]) return (false, "Device not allowed");
        return (true, "");
    }

    /// See IAppAuthBasicManagement.
    function addComposeHash(bytes32 composeHash) external onlyOwner {
        if (composeHash == 0) revert ZeroComposeHash();
        DstackAppStorage.app().allowedComposeHashes[composeHash] = true;
        emit ComposeHashAdded(composeHash);
        _policyChanged("compose-hash", composeHash, true);
    }

    /// See IAppAuthBasicManagement.
    function removeComposeHash(bytes32 composeHash) external onlyOwner {
        DstackAppStorage.app().allowedComposeHashes[composeHash] = false;
        emit ComposeHashRemoved(composeHash);
        _policyChanged("compose-hash", composeHash, false);
    }

    /// See IAppAuthBasicManagement.
    function addDevice(bytes32 deviceId) external onlyOwner {
        if (deviceId == 0) revert ZeroDeviceId();
        DstackAppStorage.app().allowedDeviceIds[deviceId] = true;
        emit DeviceAdded(deviceId);
        _policyChanged("device", deviceId, true);
    }

    /// See IAppAuthBasicManagement.
    function removeDevice(bytes32 deviceId) external onlyOwner {
        DstackAppStorage.app().allowedDeviceIds[deviceId] = false;
        emit DeviceRemoved(deviceId);
        _policyChanged("device", deviceId, false);
    }

    /// See IDstackApp.
    function setAllowAnyDevice(bool allowAny) external onlyOwner {
        DstackAppStorage.app().allowAnyDevice = allowAny;
        emit AllowAnyDeviceSet(allowAny);
        _policyChanged("allow-any-device", 0, allowAny);
    }

    /// See IDstackApp.
    function setRequireTcbUpToDate(bool requireUpToDate) external onlyOwner {
        DstackAppStorage.app().requireTcbUpToDate = requireUpToDate;
        emit RequireTcbUpToDateSet(requireUpToDate);
        _policyChanged("require-tcb-up-to-date", 0, requireUpToDate);
    }

    /// See IDstackApp.
    function disableUpgrades() external onlyOwner {
        DstackAppStorage.app().upgradesDisabled = true;
        emit UpgradesDisabled();
        _policyChanged("upgrades-disabled", 0, true);
    }

    /// See IDstackApp.
    function allowedComposeHashes(bytes32 composeHash) external view returns (bool) {
        return DstackAppStorage.app().allowedComposeHashes[composeHash];
    }

    /// See IDstackApp.
    function allowedDeviceIds(bytes32 deviceId) external view returns (bool) {
        return DstackAppStorage.app().allowedDeviceIds[deviceId];
    }

    /// See IDstackApp.
    function allowAnyDevice() external view returns (bool) {
        return DstackAppStorage.app().allowAnyDevice;
    }

    /// See IDstackApp.
    function requireTcbUpToDate() external view returns (bool) {
        return DstackAppStorage.app().requireTcbUpToDate;
    }

    /// See IDstackApp.
    function version() external pure returns (uint256) {
        return 2;
    }

    function _policyChanged(string memory policy, bytes32 value, bool enabled) private {
        emit PolicyChanged(_msgSender(), keccak256(bytes(policy)), value, enabled);
    }
}
