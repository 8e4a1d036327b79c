// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IDstackClusterNFT} from "../interfaces/IDstackClusterNFT.sol";

/// @title  Up to sixteen trusted addresses (KMS roots, app ids), each in a numbered slot with a generation.
/// @dev    A peer remembers slot and generation of what it was admitted under. No two additions to a set have the same
///         generation, so what was removed stays removed: adding the same address again, in whatever slot, revives no peer.
library AnchorSet {
    /// One storage slot.
    struct Anchor {
        address account; // zero = the slot is free
        uint32 generation; // of this addition, at most MAX_GENERATION; zero = the slot is free
        uint48 effectiveAt; // Unix second from which it counts
    }

    struct Set {
        Anchor[16] anchors;
        mapping(address account => uint256 indexPlusOne) position;
        uint32 lastGeneration;
    }

    /// Slot (upper 4 bits) and generation (lower 20) under which a peer was admitted: a number, because a struct would begin a
    /// storage slot of its own.
    type Ref is uint24;

    uint256 internal constant CAPACITY = 16;
    uint32 internal constant MAX_GENERATION = 2 ** 20 - 1;

    /// Puts `account` into the lowest free slot. Reverts with ZeroAddress, AlreadyAdded or TooMany: of members at a time, or of
    /// additions ever.
    function add(Set storage set, address account, uint48 effectiveAt) internal returns (uint32 ofGeneration) {
        if (account == address(0)) revert IDstackClusterNFT.ZeroAddress();
        if (set.position[account] != 0) revert IDstackClusterNFT.AlreadyAdded();
        for (uint256 i = 0; i < CAPACITY; ++i) {
            if (set.anchors[i].account != address(0)) continue;
            if (set.lastGeneration == MAX_GENERATION) revert IDstackClusterNFT.TooMany(MAX_GENERATION);
            ofGeneration = ++set.lastGeneration;
            Anchor storage anchor = set.anchors[i]; // in one write: field by field, with nothing between them
            (anchor.account, anchor.generation, anchor.effectiveAt) = (account, ofGeneration, effectiveAt);
            set.position[account] = i + 1;
            return ofGeneration;
        }
        revert IDstackClusterNFT.TooMany(CAPACITY);
    }

    /// Frees the slot of `account`; its generation ends here. Reverts with NotAdded.
    function remove(Set storage set, address account) internal returns (Ref ended) {
        uint256 position = set.position[account];
        if (position == 0) revert IDstackClusterNFT.NotAdded();
        delete set.position[account];
        ended = _ref(position - 1, set.anchors[position - 1].generation);
        delete set.anchors[position - 1];
    }

    /// Slot, generation and start of `account`; `found` is false when it is not in the set. Looks first
    /// into the slot that `hint` names: a right guess saves a storage read, a wrong one costs one.
    function find(Set storage set, address account, Ref hint)
        internal
        view
        returns (bool found, Ref ref, uint48 effectiveAt)
    {
        uint256 slot = index(hint);
        Anchor memory anchor = set.anchors[slot];
        if (anchor.account != account || account == address(0)) {
            uint256 position = set.position[account];
            if (position == 0) return (false, ref, 0);
            slot = position - 1;
            anchor = set.anchors[slot];
        }
        return (true, _ref(slot, anchor.generation), anchor.effectiveAt);
    }

    /// Whether what `find` once gave as `ref` is still in the set.
    function isCurrent(Set storage set, Ref ref) internal view returns (bool) {
        return set.anchors[index(ref)].generation == generation(ref);
    }

    /// Below CAPACITY.
    function index(Ref ref) internal pure returns (uint256) {
        return Ref.unwrap(ref) >> 20;
    }

    function generation(Ref ref) internal pure returns (uint32) {
        return Ref.unwrap(ref) & MAX_GENERATION;
    }

    /// All members in slot order.
    function list(Set storage set) internal view returns (address[] memory accounts, uint64[] memory effectiveAt) {
        accounts = new address[](CAPACITY);
        effectiveAt = new uint64[](CAPACITY);
        uint256 count = 0;
        for (uint256 i = 0; i < CAPACITY; ++i) {
            Anchor storage anchor = set.anchors[i];
            if (anchor.account == address(0)) continue;
            (accounts[count], effectiveAt[count]) = (anchor.account, anchor.effectiveAt);
            ++count;
        }
        assembly ("memory-safe") {
            mstore(accounts, count)
            mstore(effectiveAt, count)
        }
    }

    function _ref(uint256 slot, uint32 ofGeneration) private pure returns (Ref) {
        // forge-lint: disable-next-line(unsafe-typecast): a slot is below CAPACITY, a generation at most MAX_GENERATION
        return Ref.wrap(uint24((slot << 20) | ofGeneration));
    }
}
