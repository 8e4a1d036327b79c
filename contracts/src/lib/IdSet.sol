// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

/// @title  A set of ids below 65,536 that finds "the next id from here" by reading at most three words.
/// @dev    Two levels of 256-bit words: bit `id` of its leaf says that the id is in the set, bit `leaf` of the summary that
///         the leaf is not empty. 65,536 is the size of the largest mesh network (a /16), so two levels are enough.
library IdSet {
    struct Set {
        uint256 summary;
        mapping(uint256 leaf => uint256 bits) leaves;
    }

    uint256 internal constant CAPACITY = 65_536;

    /// Adds `id` (below `CAPACITY`); no effect when it is in the set.
    function add(Set storage set, uint256 id) internal {
        uint256 leaf = id >> 8;
        uint256 bits = set.leaves[leaf];
        if (bits == 0) set.summary |= 1 << leaf;
        set.leaves[leaf] = bits | (1 << (id & 0xff));
    }

    /// Removes `id` (below `CAPACITY`); no effect when it is not in the set.
    function remove(Set storage set, uint256 id) internal {
        uint256 leaf = id >> 8;
        uint256 bits = set.leaves[leaf];
        uint256 rest = bits & ~(1 << (id & 0xff));
        if (rest == bits) return;
        set.leaves[leaf] = rest;
        if (rest == 0) set.summary &= ~(1 << leaf);
    }

    /// Removes the lowest id of a set that has any, and says whether it was the last. Reads the summary only where the first word is
    /// empty, before or after.
    function takeLowest(Set storage set) internal returns (uint256 id, bool last) {
        uint256 leaf = 0;
        uint256 bits = set.leaves[0];
        if (bits == 0) {
            leaf = _lowestBit(set.summary);
            bits = set.leaves[leaf];
        }
        id = (leaf << 8) | _lowestBit(bits);
        bits &= bits - 1;
        set.leaves[leaf] = bits;
        if (bits != 0) return (id, false);
        uint256 summary = set.summary & ~(1 << leaf);
        set.summary = summary;
        last = summary == 0;
    }

    /// How many ids the set has: one read for each word of 256 ids that is not empty.
    function count(Set storage set) internal view returns (uint256 total) {
        unchecked {
            for (uint256 leaves = set.summary; leaves != 0; leaves &= leaves - 1) {
                for (uint256 bits = set.leaves[_lowestBit(leaves)]; bits != 0; bits &= bits - 1) {
                    ++total;
                }
            }
        }
    }

    function contains(Set storage set, uint256 id) internal view returns (bool) {
        return id < CAPACITY && (set.leaves[id >> 8] >> (id & 0xff)) & 1 == 1;
    }

    /// The smallest id of the set that is at least `from`.
    function next(Set storage set, uint256 from) internal view returns (bool found, uint256 id) {
        if (from >= CAPACITY) return (false, 0);
        uint256 leaf = from >> 8;
        uint256 bits = _atLeast(set.leaves[leaf], from & 0xff);
        if (bits == 0) {
            if (leaf == 0xff) return (false, 0);
            uint256 later = _atLeast(set.summary, leaf + 1);
            if (later == 0) return (false, 0);
            leaf = _lowestBit(later);
            bits = set.leaves[leaf];
        }
        return (true, (leaf << 8) | _lowestBit(bits));
    }

    /// `word` without the bits below `bit` (0..255).
    function _atLeast(uint256 word, uint256 bit) private pure returns (uint256) {
        return (word >> bit) << bit;
    }

    /// The position of the lowest set bit of a nonzero word.
    function _lowestBit(uint256 word) private pure returns (uint256) {
        unchecked {
            return Math.log2(word & (0 - word));
        }
    }
}
