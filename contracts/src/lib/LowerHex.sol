// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

/// @title  Lower-case hexadecimal without a prefix, a word at a time.
library LowerHex {
    /// The 32 characters of 16 bytes.
    function encode16(bytes16 data) internal pure returns (bytes32) {
        uint256 x = uint128(data);
        // Spread the 32 nibbles so that each has a byte of its own.
        x = (x | (x << 64)) & 0x0000000000000000ffffffffffffffff0000000000000000ffffffffffffffff;
        x = (x | (x << 32)) & 0x00000000ffffffff00000000ffffffff00000000ffffffff00000000ffffffff;
        x = (x | (x << 16)) & 0x0000ffff0000ffff0000ffff0000ffff0000ffff0000ffff0000ffff0000ffff;
        x = (x | (x << 8)) & 0x00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff;
        x = (x | (x << 4)) & 0x0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f;
        // 1 in every byte whose nibble is 10 or more: those get 'a' - 10 = '0' + 39.
        uint256 letters = ((x + 0x0606060606060606060606060606060606060606060606060606060606060606) >> 4)
            & 0x0101010101010101010101010101010101010101010101010101010101010101;
        return bytes32(x + 0x3030303030303030303030303030303030303030303030303030303030303030 + letters * 39);
    }

    /// The 40 characters of 20 bytes.
    function encode20(bytes20 data) internal pure returns (bytes memory) {
        // forge-lint: disable-next-line(unsafe-typecast): the first 16 bytes, then the last 4
        return abi.encodePacked(encode16(bytes16(data)), bytes8(encode16(bytes16(bytes4(uint32(uint160(data)))))));
    }

    /// The 66 characters of a compressed secp256k1 public key: prefix byte (2 or 3) and x.
    function encodeCompressed(uint8 prefix, bytes32 x) internal pure returns (bytes memory) {
        bytes2 first = bytes2(uint16(0x3030) + prefix);
        // forge-lint: disable-next-line(unsafe-typecast): the first half, then the second
        return abi.encodePacked(first, encode16(bytes16(x)), encode16(bytes16(x << 128)));
    }
}
