// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IClusterPolicy} from "../interfaces/IClusterPolicy.sol";

/// @title  dstack instance ids in text: 40 hexadecimal digits in either case, not all zero, with or without `0x`.
library InstanceId {
    /// The instance id, zero for the empty text. Reverts with InvalidInstanceId. About 5,000 gas.
    function parse(string calldata given) internal pure returns (bytes20) {
        bytes calldata text = bytes(given);
        uint256 start = text.length == 42 && text[0] == "0" && text[1] == "x" ? 2 : 0;
        if (text.length == 0) return 0;
        if (text.length != start + 40) revert IClusterPolicy.InvalidInstanceId(given);
        uint256 value = 0;
        unchecked {
            for (uint256 i = start; i < start + 40; ++i) {
                uint256 digit = _digit(uint8(text[i]));
                if (digit > 15) revert IClusterPolicy.InvalidInstanceId(given);
                value = (value << 4) | digit;
            }
        }
        if (value == 0) revert IClusterPolicy.InvalidInstanceId(given); // "unbound" is written as the empty text alone
        // forge-lint: disable-next-line(unsafe-typecast): 40 digits are 160 bits
        return bytes20(uint160(value));
    }

    /// The value of a hexadecimal digit, above 15 for anything else.
    function _digit(uint256 c) private pure returns (uint256) {
        unchecked {
            // A character below the first of its kind wraps to a huge number.
            if (c <= 0x39) return c - 0x30; // 0-9
            uint256 letter = (c | 0x20) - 0x61; // a-f, A-F
            return letter < 6 ? letter + 10 : 16;
        }
    }
}
