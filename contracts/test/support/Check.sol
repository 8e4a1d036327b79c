// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {VM} from "../Vm.sol";

/// @title  Assertions: each says what was compared and what it found.
abstract contract Check {
    error Unequal(string what, uint256 found, uint256 expected);
    error UnequalBytes(string what, bytes found, bytes expected);
    error Untrue(string what);

    function eq(uint256 found, uint256 expected, string memory what) internal pure {
        if (found != expected) revert Unequal(what, found, expected);
    }

    function eq(address found, address expected, string memory what) internal pure {
        if (found != expected) revert UnequalBytes(what, abi.encodePacked(found), abi.encodePacked(expected));
    }

    function eq(bytes32 found, bytes32 expected, string memory what) internal pure {
        if (found != expected) revert UnequalBytes(what, abi.encodePacked(found), abi.encodePacked(expected));
    }

    function eq(bytes memory found, bytes memory expected, string memory what) internal pure {
        if (keccak256(found) != keccak256(expected)) revert UnequalBytes(what, found, expected);
    }

    function eq(string memory found, string memory expected, string memory what) internal pure {
        eq(bytes(found), bytes(expected), what);
    }

    function yes(bool condition, string memory what) internal pure {
        if (!condition) revert Untrue(what);
    }

    /// `value` folded into [low, high].
    function within(uint256 value, uint256 low, uint256 high) internal pure returns (uint256) {
        return high - low == type(uint256).max ? value : low + (value % (high - low + 1));
    }
}
