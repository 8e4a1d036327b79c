// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IERC721Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";
import {IERC721} from "@openzeppelin/contracts/token/ERC721/IERC721.sol";
import {IClusterPolicy} from "../src/interfaces/IClusterPolicy.sol";
import {IDstackClusterNFT} from "../src/interfaces/IDstackClusterNFT.sol";
import {VM} from "./Vm.sol";
import {ClusterTest} from "./support/ClusterTest.sol";
import {IClusterToken} from "./support/IClusterToken.sol";

/// Token ids and the addresses they stand for.
contract TokensTest is ClusterTest {
    function test_mint_tells_its_whole_news() public {
        uint64 epoch = cluster.epoch();
        VM.expectEmit(address(cluster));
        emit IERC721.Transfer(address(0), ALICE, 1);
        VM.expectEmit(address(cluster));
        emit IDstackClusterNFT.NodeMinted(1, ALICE, instance(1), address(0), epoch + 1);
        eq(mint(ALICE, instance(1)), 1, "ids start at 1");
        eq(token.ownerOf(1), ALICE, "owner");
        eq(cluster.totalSupply(), 1, "supply");
        eq(token.name(), "test mesh", "name");
        eq(token.symbol(), "NODE", "symbol");
    }

    function test_mint_to_the_zero_address_is_refused() public {
        VM.expectRevert(abi.encodeWithSelector(IERC721Errors.ERC721InvalidReceiver.selector, address(0)));
        mint(address(0), 0);
    }

    function test_the_lowest_free_id_is_minted() public {
        for (uint256 i = 1; i <= 6; ++i) {
            eq(mint(ALICE, 0), i, "ascending");
        }
        VM.startPrank(ALICE);
        cluster.burn(5);
        cluster.burn(2);
        cluster.burn(6);
        VM.stopPrank();
        eq(cluster.totalSupply(), 3, "supply");
        eq(mint(BOB, 0), 2, "lowest");
        eq(mint(BOB, 0), 5, "next");
        eq(mint(BOB, 0), 6, "next");
        eq(mint(BOB, 0), 7, "new");
        eq(cluster.totalSupply(), 7, "supply");
    }

    function test_a_network_can_be_full_and_have_room_again() public {
        IDstackClusterNFT.ClusterParams memory params = defaultParams();
        params.prefixLength = 29;
        params.networkBase = 0xc0a80108; // 192.168.1.8/29
        cluster = deploy(params);
        for (uint256 i = 1; i <= 6; ++i) {
            eq(mint(ALICE, 0), i, "six fit");
        }
        VM.expectRevert(abi.encodeWithSelector(IDstackClusterNFT.NetworkFull.selector, 6));
        mint(ALICE, 0);
        eq(bytes32(cluster.addressOf(6)), bytes32(bytes4(0xc0a8010e)), "192.168.1.14");
        VM.prank(ALICE);
        cluster.burn(3);
        eq(mint(ALICE, 0), 3, "room again");
    }

    /// Whatever is minted and burned, the id minted is the lowest that is free.
    function testFuzz_mint_and_burn(uint256 seed) public {
        bool[20] memory minted;
        for (uint256 step = 0; step < 40; ++step) {
            seed = uint256(keccak256(abi.encode(seed)));
            uint256 burned = 1 + seed % 18;
            if (seed & 256 == 0 && minted[burned]) {
                VM.prank(ALICE);
                cluster.burn(burned);
                minted[burned] = false;
                continue;
            }
            uint256 lowest = 1;
            while (minted[lowest]) ++lowest;
            if (lowest == 19) return;
            eq(mint(ALICE, 0), lowest, "lowest free");
            minted[lowest] = true;
        }
    }

    /// The rule as it was written first, with a mark at the highest id ever minted: the lowest burned id, or else the one above the
    /// mark; refused where that is outside the network, and then where there are as many tokens as there may be.
    /// forge-config: default.fuzz.runs = 128
    function testFuzz_ids_are_those_of_a_high_water_mark(uint256 seed) public {
        IDstackClusterNFT.ClusterParams memory params = defaultParams();
        (params.prefixLength, params.networkBase) = (28, 0x0a000110);
        cluster = deploy(params);
        token = IClusterToken(address(cluster));
        bool[16] memory minted;
        (uint256 highWater, uint256 supply, uint256 limit) = (0, 0, 14);
        for (uint256 step = 0; step < 60; ++step) {
            seed = uint256(keccak256(abi.encode(seed)));
            uint256 id = 1 + (seed >> 8) % 14;
            if (seed % 16 == 0) {
                limit = 1 + (seed >> 16) % 14;
                VM.prank(OWNER);
                cluster.setClusterConfig(limit, IClusterPolicy.NetworkPolicy.ANY);
            } else if (seed % 16 < 7 && minted[id]) {
                VM.prank(ALICE);
                cluster.burn(id);
                (minted[id], supply) = (false, supply - 1);
            } else {
                id = 1;
                while (id <= highWater && minted[id]) ++id;
                if (id > 14) {
                    VM.expectRevert(abi.encodeWithSelector(IDstackClusterNFT.NetworkFull.selector, 14));
                    mint(ALICE, 0);
                } else if (supply >= limit) {
                    VM.expectRevert(abi.encodeWithSelector(IClusterPolicy.MaxNodesReached.selector, limit));
                    mint(ALICE, 0);
                } else {
                    eq(mint(ALICE, 0), id, "the id");
                    (minted[id], supply) = (true, supply + 1);
                    if (id > highWater) highWater = id;
                }
            }
            mustHave(minted, highWater, supply);
        }
    }

    function mustHave(bool[16] memory minted, uint256 highWater, uint256 supply) private view {
        eq(cluster.totalSupply(), supply, "supply");
        bytes32 members = 0x7ce23fe83255e7461be7da9b7981d96c01c591fea44120fa317b073455816700;
        bool hasBurned = (uint256(VM.load(address(cluster), members)) >> 88) & 32 != 0;
        yes(hasBurned == (supply < highWater), "the switch says whether any is burned");
        // The last page ends at the highest id ever minted.
        (, uint256 next) = cluster.nodes(highWater, 1);
        eq(next, 0, "nothing beyond");
        if (highWater > 1) (, next) = cluster.nodes(highWater - 1, 1);
        eq(next, highWater > 1 ? highWater : 0, "nothing less");
        for (uint256 id = 1; id < 16; ++id) {
            yes(minted[id] == (cluster.getNode(id).owner != address(0)), "minted");
        }
    }

    function testFuzz_addresses_are_base_plus_id(uint8 prefix, uint32 base, uint256 id) public {
        prefix = uint8(within(prefix, 16, 29));
        uint256 size = 1 << (32 - prefix);
        base = uint32(within(base, 0x01000000, 0x7effffff) / size * size);
        IDstackClusterNFT.ClusterParams memory params = defaultParams();
        (params.prefixLength, params.networkBase) = (prefix, bytes4(base));
        cluster = deploy(params);
        (bytes4 network, uint8 length) = cluster.meshNetwork();
        eq(bytes32(network), bytes32(bytes4(base)), "base");
        eq(length, prefix, "prefix");
        uint256 inside = within(id, 1, size - 2);
        eq(uint32(cluster.addressOf(inside)), uint256(base) + inside, "address");
        uint256 outside = id % 3 == 0 ? 0 : within(id, size - 1, type(uint256).max);
        VM.expectRevert(abi.encodeWithSelector(IERC721Errors.ERC721NonexistentToken.selector, outside));
        cluster.addressOf(outside);
    }

    function test_the_last_address_is_the_one_before_broadcast() public {
        eq(bytes32(cluster.addressOf(254)), bytes32(bytes4(0x0a0001fe)), "10.0.1.254");
        VM.expectRevert(abi.encodeWithSelector(IERC721Errors.ERC721NonexistentToken.selector, 255));
        cluster.addressOf(255);
    }

    function testFuzz_odd_networks_are_refused(uint32 base, uint8 prefix) public {
        uint256 size = prefix <= 32 ? 1 << (32 - prefix) : 0;
        uint32 first = base >> 24;
        bool good = prefix >= 16 && prefix <= 29 && base % size == 0 && first != 0 && first != 127 && first < 224
            && base >> 16 != 0xa9fe;
        IDstackClusterNFT.ClusterParams memory params = defaultParams();
        (params.networkBase, params.prefixLength) = (bytes4(base), prefix);
        address code = implementation();
        bytes memory call = abi.encodeCall(IDstackClusterNFT.initialize, (params));
        if (!good) {
            VM.expectRevert(abi.encodeWithSelector(IDstackClusterNFT.InvalidNetwork.selector, bytes4(base), prefix));
        }
        this.proxyAt(code, call);
    }

    function test_each_kind_of_odd_network_is_refused() public {
        uint32[7] memory bases = [0x0a000101, 0x0a000080, 0x00000000, 0x7f000000, 0xe0000000, 0xf0000000, 0xffffff00];
        for (uint256 i = 0; i < bases.length; ++i) {
            testFuzz_odd_networks_are_refused(bases[i], 24);
        }
        testFuzz_odd_networks_are_refused(0xa9fe0000, 16); // 169.254.0.0, and below it where clouds serve instance secrets
        testFuzz_odd_networks_are_refused(0xa9fea900, 24);
        testFuzz_odd_networks_are_refused(0xa9fd0000, 16);
        testFuzz_odd_networks_are_refused(0xa9ff0000, 16);
        testFuzz_odd_networks_are_refused(0x0a000000, 15);
        testFuzz_odd_networks_are_refused(0x0a000000, 30);
        testFuzz_odd_networks_are_refused(0x0a000000, 0);
        testFuzz_odd_networks_are_refused(0x0a000000, 16);
        testFuzz_odd_networks_are_refused(0x0a000008, 29);
    }

    function proxyAt(address code, bytes calldata call) external returns (address) {
        return proxy(code, call);
    }
}
