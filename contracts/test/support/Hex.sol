// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

/// @title  Bytes as text.
abstract contract Hex {
    /// Lower-case hex, a digit at a time.
    function hexOf(bytes memory data) internal pure returns (string memory) {
        bytes memory digits = "0123456789abcdef";
        bytes memory text = new bytes(2 * data.length);
        for (uint256 i = 0; i < data.length; ++i) {
            text[2 * i] = digits[uint8(data[i]) >> 4];
            text[2 * i + 1] = digits[uint8(data[i]) & 15];
        }
        return string(text);
    }
}
