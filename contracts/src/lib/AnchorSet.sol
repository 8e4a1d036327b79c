// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IDstackClusterNFT} from "../interfaces/IDstackClusterNFT.sol";

/// @title  Up to sixteen trusted addresses (KMS roots, app ids), each in a numbered slot with a generation.
/// @dev    A peer remembers slot and generation of what it was admitted under. No two additions to a set have the same
///         generation, so what was removed stays removed: adding the same address again, in whatever slot, revives nobody.
library AnchorSet {
    /// One storage slot.
    struct Anchor {
        address account; // zero = the slot is free
        uint32 generation; // of this addition; zero = the slot is free
        uint48 effectiveAt; // Unix second from which it counts
    }

    struct Set {
        Anchor[16] anchors;
        mapping(address account => uint256 indexPlusOne) position;
        uint32 lastGeneration;
    }

    /// Slot and generation under which a peer was admitted.
    struct Ref {
        uint8 index;
        uint32 generation;
    }

    uint256 internal constant CAPACITY = 16;

    /// Puts `account` into the lowest free slot. Reverts with ZeroAddress, AlreadyAdded or TooMany.
    function add(Set storage set, address account, uint48 effectiveAt) internal returns (uint32 generation) {
        if (account == address(0)) revert IDstackClusterNFT.ZeroAddress();
        if (set.position[account] != 0) revert IDstackClusterNFT.AlreadyAdded();
        for (uint256 i = 0; i < CAPACITY; ++i) {
            if (set.anchors[i].account != address(0)) continue;
            generation = ++set.lastGeneration;
            set.anchors[i] = Anchor(account, generation, effectiveAt);
            set.position[account] = i + 1;
            return generation;
        }
        revert IDstackClusterNFT.TooMany(CAPACITY);
    }

    /// Frees the slot of `account`; its generation ends here. Reverts with NotAdded.
    function remove(Set storage set, address account) internal returns (Ref memory ended) {
        uint256 position = set.position[account];
        if (position == 0) revert IDstackClusterNFT.NotAdded();
        delete set.position[account];
        // forge-lint: disable-next-line(unsafe-typecast): a position is at most CAPACITY
        ended = Ref(uint8(position - 1), set.anchors[position - 1].generation);
        delete set.anchors[position - 1];
    }

    /// Slot, generation and start of `account`; `found` is false when it is not in the set. Looks into slot `hint` first: a right
    /// guess saves a storage read, a wrong one costs one.
    function find(Set storage set, address account, uint8 hint)
        internal
        view
        returns (bool found, Ref memory ref, uint48 effectiveAt)
    {
        Anchor memory anchor = set.anchors[hint];
        if (anchor.account != account || account == address(0)) {
            uint256 position = set.position[account];
            if (position == 0) return (false, ref, 0);
            // forge-lint: disable-next-line(unsafe-typecast): a position is at most CAPACITY
            hint = uint8(position - 1);
            anchor = set.anchors[hint];
        }
        return (true, Ref(hint, anchor.generation), anchor.effectiveAt);
    }

    /// Whether what was added as (`index`, `generation`), as `add` and `find` gave them, is still in the set.
    function isCurrent(Set storage set, uint8 index, uint32 generation) internal view returns (bool) {
        return set.anchors[index].generation == generation;
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
}
