// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

/// @title  The state that dstack's DstackApp keeps in the first four storage slots of a proxy.
/// @dev    A proxy that was deployed as a DstackApp and upgraded to the cluster finds its compose hashes, devices and flags where
///         it left them; a cluster that was deployed as one keeps them in the same place. Slot numbers and packing are DstackApp's
///         (its gap of 49 slots follows and stays empty); owner and initialization are OpenZeppelin's, elsewhere.
library DstackAppStorage {
    struct Layout {
        mapping(bytes32 composeHash => bool) allowedComposeHashes; // slot 0
        bool upgradesDisabled; // slot 1, byte 0
        bool allowAnyDevice; // slot 1, byte 1
        mapping(bytes32 deviceId => bool) allowedDeviceIds; // slot 2
        bool requireTcbUpToDate; // slot 3, byte 0; never written, so false, in proxies of before it existed
    }

    function app() internal pure returns (Layout storage $) {
        assembly ("memory-safe") {
            $.slot := 0
        }
    }
}
