// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Strings} from "@openzeppelin/contracts/utils/Strings.sol";
import {IDstackClusterNFT} from "../interfaces/IDstackClusterNFT.sol";

/// @title  The IPv4 network of the mesh: a token's address is base + token id.
library MeshNetwork {
    using Strings for uint256;

    uint8 internal constant MIN_PREFIX = 16;
    uint8 internal constant MAX_PREFIX = 29;

    /// Whether (base, prefixLength) is a unicast network of a size we serve: /16 to /29, no host bits, and not in 0/8 ("this
    /// network"), 127/8 (loopback), 169.254/16 (link-local, where clouds serve instance secrets) or from 224/8 upward (multicast,
    /// reserved).
    function isValid(bytes4 base, uint8 prefixLength) internal pure returns (bool) {
        if (prefixLength < MIN_PREFIX || prefixLength > MAX_PREFIX) return false;
        if (uint32(base) & uint32(_size(prefixLength) - 1) != 0) return false;
        uint8 first = uint8(base[0]);
        // forge-lint: disable-next-line(unsafe-typecast): the first two octets
        return first != 0 && first != 127 && first < 224 && bytes2(base) != 0xa9fe;
    }

    /// The highest token id: all addresses but the network's own and its broadcast address. Reverts with InvalidNetwork when there
    /// is no network.
    function capacity(uint8 prefixLength) internal pure returns (uint256) {
        if (prefixLength == 0) revert IDstackClusterNFT.InvalidNetwork(0, 0);
        return _size(prefixLength) - 2;
    }

    /// The address of `tokenId`, which is at most `capacity`.
    function addressAt(bytes4 base, uint256 tokenId) internal pure returns (bytes4) {
        // forge-lint: disable-next-line(unsafe-typecast): a capacity is below 2^16
        return bytes4(uint32(base) + uint32(tokenId));
    }

    /// Dotted decimal.
    function toText(bytes4 ip) internal pure returns (string memory) {
        return string.concat(_octet(ip[0]), ".", _octet(ip[1]), ".", _octet(ip[2]), ".", _octet(ip[3]));
    }

    function _octet(bytes1 value) private pure returns (string memory) {
        return uint256(uint8(value)).toString();
    }

    function _size(uint8 prefixLength) private pure returns (uint256) {
        return 1 << (32 - prefixLength);
    }
}
