// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IClusterPolicy} from "../src/interfaces/IClusterPolicy.sol";
import {IDstackClusterNFT} from "../src/interfaces/IDstackClusterNFT.sol";
import {VM} from "./Vm.sol";
import {ClusterTest} from "./support/ClusterTest.sol";

/// The calls by wallet and by instance id in text.
contract InstancesTest is ClusterTest {
    // ------------------------------------------------------------------------------------------------- instance ids

    function testFuzz_instance_ids_are_read_in_every_spelling(bytes20 id, uint256 upper, bool prefixed) public {
        if (id == 0) return;
        uint256 token_ = mint(ALICE, 0);
        VM.prank(ALICE);
        cluster.registerInstance(spelled(id, upper, prefixed));
        eq(bytes32(cluster.getNode(token_).instanceId), bytes32(id), "bound");
    }

    /// Anything but 40 digits is refused, wherever an instance id is taken.
    function testFuzz_what_is_no_instance_id_is_refused(bytes20 id, bool prefixed, uint8 where, uint8 what) public {
        bytes memory raw = bytes(spelled(id, 0, prefixed));
        uint256 first = prefixed ? 2 : 0;
        uint256 odd = first + where % 40;
        if (isDigit(what)) what = 0x67; // g
        raw[odd] = bytes1(what);
        mustBeNoInstanceId(string(raw));
    }

    function testFuzz_other_lengths_are_refused(bytes memory raw) public {
        if (raw.length == 0 || raw.length == 40 || raw.length == 42) return;
        mustBeNoInstanceId(string(raw));
    }

    function test_near_instance_ids_are_refused() public {
        string memory digits = hexOf(abi.encodePacked(instance(1)));
        mustBeNoInstanceId(string.concat("0X", digits));
        mustBeNoInstanceId(string.concat("x0", digits));
        mustBeNoInstanceId(string.concat(digits, "00"));
        mustBeNoInstanceId(string.concat(" ", digits));
        mustBeNoInstanceId(string.concat(digits, "\n"));
        mustBeNoInstanceId("0x");
        mustBeNoInstanceId("0");
        mustBeNoInstanceId("0x00000000000000000000000000000000000000");
        mustBeNoInstanceId("0x0000000000000000000000000000000000000000"); // the empty text alone is no instance
        mustBeNoInstanceId("0000000000000000000000000000000000000000");
        // The neighbours of the digits, one by one.
        bytes memory neighbours = "/:@G`g";
        for (uint256 i = 0; i < neighbours.length; ++i) {
            bytes memory raw = bytes(digits);
            raw[i] = neighbours[i];
            mustBeNoInstanceId(string(raw));
        }
    }

    // ---------------------------------------------------------------------------------------------- registerInstance

    function test_registerInstance_is_bind_for_a_single_token() public {
        uint256 id = mint(ALICE, 0);
        uint64 epoch = cluster.epoch();
        VM.expectEmit(address(cluster));
        emit IDstackClusterNFT.NodeBound(id, instance(1), address(0), epoch + 1);
        registerInstance(ALICE, instance(1));
        submit(registration(id, actor(1)), actor(1));
        mustBePeer(id);

        VM.expectRevert(abi.encodeWithSelector(IDstackClusterNFT.NodeActive.selector, id));
        registerInstance(ALICE, instance(2));
        VM.expectRevert(abi.encodeWithSelector(IClusterPolicy.NoToken.selector, BOB));
        registerInstance(BOB, instance(2));
        mint(ALICE, 0);
        VM.expectRevert(abi.encodeWithSelector(IClusterPolicy.SeveralTokens.selector, ALICE, 2));
        registerInstance(ALICE, instance(2));
        VM.prank(ALICE);
        token.transferFrom(ALICE, BOB, id);
        VM.prank(OWNER);
        cluster.revoke(id);
        VM.expectRevert(abi.encodeWithSelector(IDstackClusterNFT.NodeRevoked.selector, id));
        registerInstance(BOB, instance(2));
        VM.expectRevert(IDstackClusterNFT.ZeroInstanceId.selector);
        VM.prank(ALICE);
        cluster.registerInstance("");
    }

    function test_the_empty_text_is_no_instance() public {
        join(1);
        yes(!cluster.instanceIsRegistered(""), "not in use");
        VM.expectRevert(abi.encodeWithSelector(IClusterPolicy.InstanceNotActive.selector, bytes20(0)));
        cluster.getInstanceInfo("");
        VM.prank(OWNER);
        uint256 id = cluster.mintNodeAccess(BOB, "");
        eq(bytes32(cluster.getNode(id).instanceId), 0, "unbound");
    }

    /// Naming an instance takes it from no other token.
    function test_registerInstance_reserves_nothing() public {
        mint(BOB, 0);
        registerInstance(BOB, instance(1)); // a squatter
        uint256 id = join(1);
        mustBePeer(id);
        eq(cluster.getInstanceInfo(text(instance(1))).tokenId, id, "whose it is");
    }

    // -------------------------------------------------------------------------------------------------------- reads

    function test_instances_are_found_while_they_are_peers() public {
        uint256 id = mint(ALICE, instance(1));
        string memory name = text(instance(1));
        bytes memory missing = abi.encodeWithSelector(IClusterPolicy.InstanceNotActive.selector, instance(1));
        yes(!cluster.instanceIsRegistered(name), "bound only");
        VM.expectRevert(missing);
        cluster.getInstanceInfo(name);

        submit(registration(id, actor(1)), actor(1));
        yes(cluster.instanceIsRegistered(name), "a peer's");
        eq(abi.encode(cluster.getInstanceInfo(name)), abi.encode(cluster.getNode(id)), "the token's record");

        VM.prank(OWNER);
        cluster.removeKmsRoot(VM.addr(secret("root", 0)));
        yes(!cluster.instanceIsRegistered(name), "gone with its root");
        VM.expectRevert(missing);
        cluster.getInstanceInfo(name);

        yes(!cluster.instanceIsRegistered(""), "not in use");
        VM.expectRevert(abi.encodeWithSelector(IClusterPolicy.InstanceNotActive.selector, bytes20(0)));
        cluster.getInstanceInfo("");
    }

    function testFuzz_active_instances_are_those_of_the_peers(uint256 seed, uint256 limit) public {
        address secondRoot = addRoot(1);
        limit = within(limit, 1, 12);
        for (uint256 i = 1; i <= 10; ++i) {
            seed = uint256(keccak256(abi.encode(seed)));
            if (seed % 4 == 0) mint(ALICE, instance(i));
            else if (seed % 4 == 1) joinUnder(i, secret("root", 1), address(cluster));
            else join(i);
        }
        if (seed % 2 == 0) {
            VM.prank(OWNER);
            cluster.removeKmsRoot(secondRoot); // its peers are stale from here on
        }
        (IDstackClusterNFT.Peer[] memory all,) = cluster.peers(0, 100);
        uint256 seen = 0;
        uint256 cursor = 0;
        do {
            bytes20[] memory page;
            (page, cursor) = cluster.getActiveInstances(cursor, limit);
            yes(page.length <= limit, "within the limit");
            for (uint256 i = 0; i < page.length; ++i) {
                eq(bytes32(page[i]), bytes32(all[seen++].instanceId), "in the order of tokens");
            }
        } while (cursor != 0);
        eq(seen, all.length, "all");
        (bytes20[] memory none,) = cluster.getActiveInstances(0, 0);
        eq(none.length, 0, "no limit, no page");
    }

    // ---------------------------------------------------------------------------------------------- walletToTokenId

    /// Whatever is minted, moved and burned: counts and single tokens are those of a list of owners.
    function testFuzz_wallets_and_their_tokens(uint256 seed) public {
        address[4] memory wallets = [ALICE, BOB, STRANGER, OWNER];
        address[6] memory ownerOf; // few tokens, so that many wallets hold one or none
        for (uint256 step = 0; step < 60; ++step) {
            seed = uint256(keccak256(abi.encode(seed)));
            uint256 id = 1 + (seed >> 8) % 5;
            address to = wallets[(seed >> 16) % 4];
            if (ownerOf[id] == address(0)) {
                uint256 minted = mint(to, 0);
                if (minted > 5) {
                    VM.prank(to);
                    cluster.burn(minted);
                } else {
                    ownerOf[minted] = to;
                }
            } else if (seed % 3 == 0) {
                VM.prank(ownerOf[id]);
                cluster.burn(id);
                ownerOf[id] = address(0);
            } else {
                VM.prank(ownerOf[id]);
                token.transferFrom(ownerOf[id], to, id); // often to itself
                ownerOf[id] = to;
            }
            mustHold(wallets[seed % 4], ownerOf);
        }
        for (uint256 i = 0; i < 4; ++i) {
            mustHold(wallets[i], ownerOf);
        }
    }

    function mustHold(address wallet, address[6] memory ownerOf) private {
        uint256 count = 0;
        uint256 last = 0;
        for (uint256 id = 1; id < 6; ++id) {
            if (ownerOf[id] == wallet) (count, last) = (count + 1, id);
        }
        eq(token.balanceOf(wallet), count, "count");
        if (count > 1) {
            VM.expectRevert(abi.encodeWithSelector(IClusterPolicy.SeveralTokens.selector, wallet, count));
            cluster.walletToTokenId(wallet);
        } else {
            eq(cluster.walletToTokenId(wallet), last, "the only one");
        }
    }

    function test_a_refused_transfer_moves_no_sum() public {
        uint256 id = mint(ALICE, 0);
        VM.expectRevert(abi.encodeWithSignature("ERC721InsufficientApproval(address,uint256)", BOB, id));
        VM.prank(BOB);
        token.transferFrom(ALICE, BOB, id);
        eq(cluster.walletToTokenId(ALICE), id, "hers");
        eq(cluster.walletToTokenId(BOB), 0, "none");
        eq(cluster.walletToTokenId(address(0)), 0, "not in use");
        VM.expectRevert(abi.encodeWithSignature("ERC721InvalidOwner(address)", address(0)));
        token.balanceOf(address(0));
    }

    // ------------------------------------------------------------------------------------------------------ helpers

    function registerInstance(address caller, bytes20 id) private {
        VM.prank(caller);
        cluster.registerInstance(text(id));
    }

    function mustBeNoInstanceId(string memory given) private {
        bytes memory refusal = abi.encodeWithSelector(IClusterPolicy.InvalidInstanceId.selector, given);
        VM.startPrank(OWNER);
        VM.expectRevert(refusal);
        cluster.mintNodeAccess(ALICE, given);
        VM.stopPrank();
        VM.expectRevert(refusal);
        cluster.instanceIsRegistered(given);
        VM.expectRevert(refusal);
        cluster.getInstanceInfo(given);
        if (token.balanceOf(ALICE) == 0) mint(ALICE, 0);
        VM.expectRevert(refusal);
        VM.prank(ALICE);
        cluster.registerInstance(given);
    }

    function text(bytes20 id) private pure returns (string memory) {
        return hexOf(abi.encodePacked(id));
    }

    /// Each digit in the case that a bit of `upper` says.
    function spelled(bytes20 id, uint256 upper, bool prefixed) private pure returns (string memory) {
        bytes memory digits = bytes(text(id));
        for (uint256 i = 0; i < 40; ++i) {
            if (digits[i] > "9" && (upper >> i) & 1 == 1) digits[i] = bytes1(uint8(digits[i]) - 32);
        }
        return prefixed ? string.concat("0x", string(digits)) : string(digits);
    }

    function isDigit(uint8 c) private pure returns (bool) {
        return (c >= 0x30 && c <= 0x39) || (c >= 0x41 && c <= 0x46) || (c >= 0x61 && c <= 0x66);
    }
}
