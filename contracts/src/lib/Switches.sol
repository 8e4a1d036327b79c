// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IClusterPolicy} from "../interfaces/IClusterPolicy.sol";

/// @title  The switches of a cluster, in one byte of the word that every visible change writes.
/// @dev    From the lowest bit: the network policy (two bits), the four switches below, and a count up to three (two bits).
library Switches {
    type Byte is uint8;

    uint8 internal constant REGISTRATIONS_PAUSED = 1 << 2;
    uint8 internal constant PUBLIC_MINTING = 1 << 3;
    uint8 internal constant DEV_MODE = 1 << 4;
    /// The set of burned ids (ClusterStorage.Members.free) is not empty: where it is, it need not be read.
    uint8 internal constant HAS_BURNED = 1 << 5;

    /// The highest value of `lapses`.
    uint8 internal constant MAX_LAPSES = 3;

    uint8 private constant POLICY_MASK = 3;
    uint8 private constant LAPSES_SHIFT = 6;
    uint8 private constant LAPSES_MASK = MAX_LAPSES << LAPSES_SHIFT;

    /// Whether `which`, one of the constants above, is on.
    function isOn(Byte self, uint8 which) internal pure returns (bool) {
        return Byte.unwrap(self) & which != 0;
    }

    /// With `which`, one of the constants above, on or off.
    function with(Byte self, uint8 which, bool on) internal pure returns (Byte) {
        return Byte.wrap(on ? Byte.unwrap(self) | which : Byte.unwrap(self) & ~which);
    }

    /// Which network types may register.
    function networkPolicy(Byte self) internal pure returns (IClusterPolicy.NetworkPolicy) {
        return IClusterPolicy.NetworkPolicy(Byte.unwrap(self) & POLICY_MASK);
    }

    function withNetworkPolicy(Byte self, IClusterPolicy.NetworkPolicy policy) internal pure returns (Byte) {
        return Byte.wrap((Byte.unwrap(self) & ~POLICY_MASK) | uint8(policy));
    }

    /// Terms of the election that began since the seat was last written (Election.term).
    function lapses(Byte self) internal pure returns (uint8) {
        return Byte.unwrap(self) >> LAPSES_SHIFT;
    }

    /// With `count` of them, at most MAX_LAPSES.
    function withLapses(Byte self, uint8 count) internal pure returns (Byte) {
        return Byte.wrap((Byte.unwrap(self) & ~LAPSES_MASK) | (count << LAPSES_SHIFT));
    }
}
