// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IDstackClusterNFT} from "../src/interfaces/IDstackClusterNFT.sol";
import {VM} from "./Vm.sol";
import {ClusterTest} from "./support/ClusterTest.sol";
import {Actor} from "./support/Signing.sol";

/// Pages, and what they promise.
contract ReadsTest is ClusterTest {
    /// Walking with any page size from any cursor meets every active peer from there on once, in ascending order.
    /// forge-config: default.fuzz.runs = 64
    function testFuzz_pages_of_peers(uint256 seed, uint256 limit, uint256 cursor) public {
        limit = within(limit, 1, 9);
        cursor = within(cursor, 0, 16);
        bool[15] memory active = population(seed);
        uint256 expected = cursor;
        uint256 next = cursor;
        do {
            IDstackClusterNFT.Peer[] memory page;
            uint256 before = next;
            (page, next) = cluster.peers(next, limit);
            yes(page.length <= limit, "no longer than asked");
            yes(next == 0 || next > before, "forward");
            for (uint256 i = 0; i < page.length; ++i) {
                while (expected < 15 && !active[expected]) ++expected;
                eq(page[i].tokenId, expected, "the next active one");
                eq(keccak256(abi.encode(page[i])), keccak256(abi.encode(cluster.getPeer(expected))), "as getPeer");
                ++expected;
            }
        } while (next != 0);
        while (expected < 15) {
            yes(!active[expected], "none left out");
            ++expected;
        }
    }

    /// forge-config: default.fuzz.runs = 64
    function testFuzz_pages_of_nodes(uint256 seed, uint256 limit, uint256 cursor) public {
        limit = within(limit, 1, 9);
        cursor = within(cursor, 0, 16);
        population(seed);
        uint256 expected = cursor == 0 ? 1 : cursor;
        uint256 next = cursor;
        do {
            IDstackClusterNFT.Node[] memory page;
            (page, next) = cluster.nodes(next, limit);
            yes(page.length <= limit, "no longer than asked");
            for (uint256 i = 0; i < page.length; ++i) {
                while (cluster.getNode(expected).owner == address(0)) ++expected;
                eq(page[i].tokenId, expected, "the next minted one");
                eq(page[i].owner, token.ownerOf(expected), "owner");
                ++expected;
            }
        } while (next != 0);
        for (; expected < 20; ++expected) {
            eq(cluster.getNode(expected).owner, address(0), "none left out");
        }
    }

    /// The pages of one instance are those of all tokens, without the others: from any cursor, with any limit, burned and revoked
    /// ones among them, and some that are bound to the instance without being its peer.
    /// forge-config: default.fuzz.runs = 64
    function testFuzz_pages_of_the_nodes_of_an_instance(uint256 seed, uint256 limit, uint256 cursor, bool unbound)
        public
    {
        limit = within(limit, 0, 9);
        cursor = within(cursor, 0, 24);
        population(seed);
        bytes20 wanted = unbound ? bytes20(0) : instance(1);
        for (uint256 i = 0; i < 6; ++i) {
            seed = uint256(keccak256(abi.encode(seed)));
            mint(ALICE, seed % 3 == 0 ? bytes20(0) : seed % 3 == 1 ? instance(1) : instance(2));
        }
        for (uint256 id = 1; id <= 20; ++id) {
            seed = uint256(keccak256(abi.encode(seed)));
            if (seed % 4 != 0 || cluster.getNode(id).owner == address(0)) continue;
            VM.prank(ALICE);
            cluster.burn(id);
        }
        (IDstackClusterNFT.Node[] memory all, uint256 nextOfAll) = cluster.nodes(cursor, limit);
        (IDstackClusterNFT.Node[] memory page, uint256 next) = cluster.nodesOf(wanted, cursor, limit);
        eq(next, nextOfAll, "the same ids were looked at");
        uint256 count = 0;
        for (uint256 i = 0; i < all.length; ++i) {
            if (all[i].instanceId != wanted) continue;
            yes(count < page.length, "none left out");
            eq(abi.encode(page[count]), abi.encode(all[i]), "as in the page of all");
            ++count;
        }
        eq(page.length, count, "and no other");
    }

    function test_the_nodes_of_an_instance_are_minted_and_bound_to_it() public {
        uint256 peer = join(1);
        uint256 waiting = mint(BOB, instance(1));
        uint256 other = join(2);
        uint256 unbound = mint(ALICE, 0);
        eq(idsOf(instance(1)), abi.encodePacked(peer, waiting), "a peer, and one that is none");
        eq(idsOf(instance(2)), abi.encodePacked(other), "another's");
        eq(idsOf(0), abi.encodePacked(unbound), "bound to none");
        eq(idsOf(instance(3)), "", "none");
        VM.prank(OWNER);
        cluster.revoke(peer);
        eq(idsOf(instance(1)), abi.encodePacked(waiting), "revoking clears the binding");
        eq(idsOf(0), abi.encodePacked(peer, unbound), "of a token that is still there");
        VM.prank(BOB);
        cluster.burn(waiting);
        eq(idsOf(instance(1)), "", "and burning it takes the token too");
        eq(idsOf(0), abi.encodePacked(peer, unbound), "which no instance has");
        VM.prank(ALICE);
        cluster.bind(unbound, instance(1), address(0));
        eq(idsOf(instance(1)), abi.encodePacked(unbound), "bound later");
    }

    /// All pages of an instance, three ids at a time.
    function idsOf(bytes20 instanceId) private view returns (bytes memory ids) {
        uint256 next = 0;
        do {
            IDstackClusterNFT.Node[] memory page;
            (page, next) = cluster.nodesOf(instanceId, next, 3);
            for (uint256 i = 0; i < page.length; ++i) {
                ids = abi.encodePacked(ids, page[i].tokenId);
                eq(abi.encode(page[i]), abi.encode(cluster.getNode(page[i].tokenId)), "as getNode");
            }
        } while (next != 0);
    }

    /// Whatever the mix of WIREGUARD, TLS_GATEWAY and stale peers: one entry each of the active ones, in the order of their ids.
    /// forge-config: default.fuzz.runs = 64
    function testFuzz_getPeerEndpoints(uint256 seed) public {
        string[3] memory domains = ["", "a.example.com", "b.example.com"];
        VM.startPrank(OWNER);
        cluster.addBaseDomain(domains[1]);
        cluster.addBaseDomain(domains[2]);
        VM.stopPrank();
        bool[15] memory active = population(seed);
        string[15] memory expected;
        uint256 count = 0;
        for (uint256 id = 1; id < 15; ++id) {
            if (!active[id]) continue;
            seed = uint256(keccak256(abi.encode(seed)));
            uint256 domain = seed % 3;
            if (domain == 0) {
                expected[count++] = string.concat("10.0.1.", VM.toString(id));
                continue;
            }
            Actor memory who = actor(id);
            IDstackClusterNFT.Registration memory r = behind(registration(id, who), domains[domain]);
            r.gatewayPort = uint16(within(seed >> 8, 1, 65_535));
            submit(r, who);
            string memory host =
                string.concat(hexOf(abi.encodePacked(who.instanceId)), "-", VM.toString(r.gatewayPort), "s.");
            expected[count++] = string.concat("https://", host, domains[domain]);
        }
        string[] memory endpoints = cluster.getPeerEndpoints();
        eq(endpoints.length, count, "one each");
        for (uint256 i = 0; i < count; ++i) {
            eq(endpoints[i], expected[i], "endpoint");
        }
    }

    function test_a_huge_limit_is_no_more_than_the_network() public {
        join(1);
        (IDstackClusterNFT.Peer[] memory page, uint256 next) = cluster.peers(0, type(uint256).max);
        eq(page.length, 1, "one");
        eq(next, 0, "the end");
        (page, next) = cluster.peers(type(uint256).max, type(uint256).max);
        eq(page.length + next, 0, "nothing beyond");
        IDstackClusterNFT.Node[] memory nodes;
        (nodes, next) = cluster.nodes(type(uint256).max, type(uint256).max);
        eq(nodes.length + next, 0, "nothing beyond");
        (nodes, next) = cluster.nodesOf(instance(1), 0, type(uint256).max);
        eq(nodes.length, 1, "one");
        eq(next, 0, "the end");
        (nodes, next) = cluster.nodesOf(instance(1), type(uint256).max, type(uint256).max);
        eq(nodes.length + next, 0, "nothing beyond");
    }

    function test_a_limit_of_zero_moves_nowhere() public {
        join(1);
        (IDstackClusterNFT.Peer[] memory page, uint256 next) = cluster.peers(0, 0);
        eq(page.length, 0, "nothing");
        eq(next, 1, "but there is more");
        IDstackClusterNFT.Node[] memory nodes;
        (nodes, next) = cluster.nodesOf(instance(1), 0, 0);
        eq(nodes.length, 0, "nothing");
        eq(next, 1, "but there is more");
    }

    function test_a_token_that_was_never_minted_reads_as_nothing() public view {
        IDstackClusterNFT.Node memory node = cluster.getNode(999);
        eq(node.tokenId, 999, "id");
        eq(node.owner, address(0), "owner");
        yes(!node.active && !node.revoked && node.keyEpoch == 0, "nothing");
    }

    function test_five_hundred_peers_read_within_fifteen_million_gas() public {
        IDstackClusterNFT.ClusterParams memory params = defaultParams();
        (params.networkBase, params.prefixLength) = (0x0a000000, 16);
        cluster = deploy(params);
        for (uint256 i = 1; i <= 500; ++i) {
            join(i);
        }
        (IDstackClusterNFT.Peer[] memory page, uint256 next) = cluster.peers(0, 500);
        uint256 gas = VM.lastCallGas().gasTotalUsed;
        eq(page.length, 500, "one page");
        eq(next, 0, "the end");
        yes(gas < 15_000_000, "gas");
    }

    /// Fourteen tokens in all states: peer, revoked, burned, unbound, and stale under a removed app id.
    function population(uint256 seed) private returns (bool[15] memory active) {
        addApp(address(0xABBA));
        for (uint256 i = 1; i < 15; ++i) {
            seed = uint256(keccak256(abi.encode(seed)));
            uint256 kind = seed % 6;
            if (kind == 4) {
                mint(ALICE, 0);
                continue;
            }
            Actor memory who = actor(i);
            if (kind == 3) who.appId = address(0xABBA);
            uint256 id = mint(ALICE, who.instanceId);
            submit(registration(id, who), who);
            active[id] = kind != 3;
        }
        VM.prank(OWNER);
        cluster.removeAppId(address(0xABBA));
        for (uint256 id = 1; id < 15; ++id) {
            seed = uint256(keccak256(abi.encode(seed)));
            if (seed % 5 == 0) {
                VM.prank(ALICE);
                cluster.burn(id);
                active[id] = false;
            } else if (seed % 5 == 1) {
                VM.prank(OWNER);
                cluster.revoke(id);
                active[id] = false;
            }
        }
    }
}
