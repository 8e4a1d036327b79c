// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

// What dstack expects of an app's contract: names, types, order and events are dstack's own (its KMS, its command line and Phala
// Cloud call these), the words are ours. ERC-165: a contract answers with `type(IAppAuth).interfaceId` and
// `type(IAppAuthBasicManagement).interfaceId`.

/// @title  The boot gate: dstack's KMS asks it before it hands an app its keys.
interface IAppAuth {
    /// What the KMS has verified about a CVM that wants to boot.
    struct AppBootInfo {
        address appId; // the app's contract
        bytes32 composeHash; // SHA-256 of app-compose.json
        address instanceId; // zero when the app has none
        bytes32 deviceId; // SHA-256 of the PPID (TDX) or of the chip id (SEV-SNP)
        bytes32 mrAggregated;
        bytes32 mrSystem;
        bytes32 osImageHash; // DstackKms checks it before it asks here
        string tcbStatus; // "UpToDate" and others
        string[] advisoryIds;
    }

    /// Whether a CVM may boot as this app, and if not, why (empty when it may). Asked through DstackKms at every boot and for every
    /// certificate, by `eth_call`; anyone may ask. A key that was handed out cannot be taken back: a refusal stops the next boot.
    ///
    /// Reasons, in this order: `App id is not this contract`; and dstack's own: `TCB status is not up to date` (only while
    /// `requireTcbUpToDate`), `Compose hash not allowed`, `Device not allowed` (unless `allowAnyDevice`). Whether the instance is
    /// registered is never asked: it can register only after it has booted.
    function isAppAllowed(AppBootInfo calldata bootInfo) external view returns (bool isAllowed, string memory reason);
}

/// @title  The lists of the boot gate. All writes are the contract owner's and take effect at once.
/// @dev    Boot policy is not what agents read: nothing here advances the cluster epoch. Adding what is there and removing what is
///         not succeeds and emits, as dstack's own contract does.
interface IAppAuthBasicManagement {
    event ComposeHashAdded(bytes32 composeHash);
    event ComposeHashRemoved(bytes32 composeHash);
    event DeviceAdded(bytes32 deviceId);
    event DeviceRemoved(bytes32 deviceId);

    /// Lets CVMs of this app-compose.json boot. Contract owner only; reverts with ZeroComposeHash. Emits ComposeHashAdded and
    /// PolicyChanged. 60,000 gas.
    function addComposeHash(bytes32 composeHash) external;
    /// Stops the next boot of this app-compose.json; a CVM that has booted keeps its keys and, as a peer, its membership. Contract
    /// owner only. Emits ComposeHashRemoved and PolicyChanged. 37,000 gas.
    function removeComposeHash(bytes32 composeHash) external;
    /// Lets CVMs boot on this device. Contract owner only; reverts with ZeroDeviceId. Emits DeviceAdded and PolicyChanged. 59,000
    /// gas.
    function addDevice(bytes32 deviceId) external;
    /// Stops the next boot on this device. Contract owner only. Emits DeviceRemoved and PolicyChanged. 37,000 gas.
    function removeDevice(bytes32 deviceId) external;
}

/// @title  The rest of dstack's DstackApp that its tools read and set.
interface IDstackApp is IAppAuth, IAppAuthBasicManagement {
    event AllowAnyDeviceSet(bool allowAny);
    event RequireTcbUpToDateSet(bool requireUpToDate);
    event UpgradesDisabled();
    /// Beside each event of the boot gate. `policy` is keccak256 of one of "compose-hash", "device", "allow-any-device",
    /// "require-tcb-up-to-date", "upgrades-disabled" and "implementation-upgrade"; `value` is the hash, the device, the new
    /// implementation's address or zero.
    event PolicyChanged(address indexed actor, bytes32 indexed policy, bytes32 indexed value, bool enabled);

    error ZeroComposeHash();
    error ZeroDeviceId();
    error UpgradesAreDisabled();

    /// Whether the list of devices is not asked. Contract owner only; takes effect at once. Emits AllowAnyDeviceSet and
    /// PolicyChanged. 59,000 gas.
    function setAllowAnyDevice(bool allowAny) external;
    /// Whether only CVMs whose TCB status is "UpToDate" boot. Contract owner only; takes effect at once. Emits
    /// RequireTcbUpToDateSet and PolicyChanged. 59,000 gas.
    function setRequireTcbUpToDate(bool requireUpToDate) external;
    /// No code but the present one, for ever: this cannot be undone. Contract owner only. Emits UpgradesDisabled and PolicyChanged.
    /// 59,000 gas.
    function disableUpgrades() external;

    /// Whether CVMs of this app-compose.json may boot.
    function allowedComposeHashes(bytes32 composeHash) external view returns (bool);
    /// Whether this device is listed; asked only while `allowAnyDevice` is false.
    function allowedDeviceIds(bytes32 deviceId) external view returns (bool);
    /// Whether the list of devices is not asked.
    function allowAnyDevice() external view returns (bool);
    /// Whether only CVMs whose TCB status is "UpToDate" boot.
    function requireTcbUpToDate() external view returns (bool);
    /// Of the DstackApp interface that is implemented here, as its tools know it: 2.
    function version() external pure returns (uint256);
}
