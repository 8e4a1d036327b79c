// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Ownable2StepUpgradeable} from "@openzeppelin/contracts-upgradeable/access/Ownable2StepUpgradeable.sol";
import {UUPSUpgradeable} from "@openzeppelin/contracts-upgradeable/proxy/utils/UUPSUpgradeable.sol";
import {IAppAuth} from "../../src/interfaces/IAppAuth.sol";

/// @title  What dstack's KMS contract does with a boot request: its own checks, in its order, then the app's contract.
contract DstackKmsStandIn {
    mapping(address appId => bool) public registeredApps;
    mapping(bytes32 osImageHash => bool) public allowedOsImages;

    /// Open to anyone, as the real one.
    function registerApp(address appId) external {
        registeredApps[appId] = true;
    }

    function addOsImageHash(bytes32 osImageHash) external {
        allowedOsImages[osImageHash] = true;
    }

    function isAppAllowed(IAppAuth.AppBootInfo calldata bootInfo)
        external
        view
        returns (bool isAllowed, string memory reason)
    {
        if (!registeredApps[bootInfo.appId]) return (false, "App not registered");
        if (!allowedOsImages[bootInfo.osImageHash]) return (false, "OS image is not allowed");
        if (bootInfo.appId.code.length == 0) return (false, "App not deployed or invalid address");
        return IAppAuth(bootInfo.appId).isAppAllowed(bootInfo);
    }
}

/// @title  A proxy's life before it became a cluster: dstack's DstackApp, as far as its storage and its initializer go.
/// @dev    State variables in DstackApp's order, with its gap; the initializer has its arguments and writes what it writes.
contract DstackAppStandIn is Ownable2StepUpgradeable, UUPSUpgradeable {
    mapping(bytes32 composeHash => bool) public allowedComposeHashes;
    bool private _upgradesDisabled;
    bool public allowAnyDevice;
    mapping(bytes32 deviceId => bool) public allowedDeviceIds;
    bool public requireTcbUpToDate;

    constructor() {
        _disableInitializers();
    }

    function initialize(
        address owner,
        bool upgradesDisabled,
        bool tcbRequired,
        bool anyDevice,
        bytes32 deviceId,
        bytes32 composeHash
    ) external initializer {
        __Ownable_init(owner);
        (_upgradesDisabled, allowAnyDevice, requireTcbUpToDate) = (upgradesDisabled, anyDevice, tcbRequired);
        if (deviceId != 0) allowedDeviceIds[deviceId] = true;
        if (composeHash != 0) allowedComposeHashes[composeHash] = true;
    }

    function addComposeHash(bytes32 composeHash) external onlyOwner {
        allowedComposeHashes[composeHash] = true;
    }

    function addDevice(bytes32 deviceId) external onlyOwner {
        allowedDeviceIds[deviceId] = true;
    }

    function _authorizeUpgrade(address) internal view override onlyOwner {
        require(!_upgradesDisabled, "upgrades disabled");
    }

    uint256[49] private __gap;
}
