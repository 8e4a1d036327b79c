// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IClusterPolicy} from "../src/interfaces/IClusterPolicy.sol";
import {IDstackClusterNFT} from "../src/interfaces/IDstackClusterNFT.sol";
import {VM} from "./Vm.sol";
import {ClusterTest} from "./support/ClusterTest.sol";

/// Free-form URLs for development: off by default, and gone when they ought to be.
contract DevModeTest is ClusterTest {
    string internal constant URL = "http://localhost:8080/node?id=1";
    string internal constant ADDRESS = "10.0.1.1";

    uint256 internal id;

    function setUp() public override {
        super.setUp();
        id = join(1);
    }

    function test_off_by_default() public {
        yes(!cluster.devMode(), "off");
        VM.expectRevert(IClusterPolicy.DevModeOff.selector);
        VM.prank(ALICE);
        cluster.setDevUrl(id, URL);
    }

    function test_a_url_is_shown_and_told() public {
        uint64 epoch = cluster.epoch();
        VM.expectEmit(address(cluster));
        emit IClusterPolicy.DevModeSet(true, epoch + 1);
        dev(true);
        yes(cluster.devMode(), "on");
        mustShow(ADDRESS); // until it has one
        VM.expectEmit(address(cluster));
        emit IClusterPolicy.DevUrlSet(id, URL, epoch + 2);
        setUrl(URL);
        mustShow(URL);
        setUrl("http://localhost:9090");
        mustShow("http://localhost:9090");
        submit(registration(id, actor(1)), actor(1));
        mustShow("http://localhost:9090"); // a rotation is no reason
        setUrl("");
        mustShow(ADDRESS);
    }

    function test_the_end_of_devMode_voids_every_url() public {
        dev(true);
        setUrl(URL);
        dev(false);
        mustShow(ADDRESS);
        VM.expectRevert(IClusterPolicy.DevModeOff.selector);
        VM.prank(ALICE);
        cluster.setDevUrl(id, URL);
        dev(true);
        mustShow(ADDRESS); // it does not come back with devMode
        setUrl(URL);
        mustShow(URL);
    }

    function test_devMode_turned_on_again_while_on_voids_nothing() public {
        dev(true);
        setUrl(URL);
        dev(true);
        mustShow(URL);
        dev(false);
        dev(false);
        mustShow(ADDRESS);
    }

    /// Who names a URL for a token that is no peer yet, and binds it to another instance then, names it again.
    function test_binding_voids_a_url() public {
        dev(true);
        VM.prank(ALICE);
        cluster.deactivate(id);
        setUrl(URL);
        VM.prank(ALICE);
        cluster.bind(id, instance(2), address(0));
        submit(registration(id, actor(2)), actor(2));
        mustShow(ADDRESS);
    }

    function test_leaving_voids_a_url() public {
        dev(true);
        for (uint256 way = 0; way < 4; ++way) {
            setUrl(URL);
            mustShow(URL);
            if (way == 0) {
                VM.prank(ALICE);
                cluster.deactivate(id);
            } else if (way == 1) {
                VM.prank(ALICE);
                token.transferFrom(ALICE, BOB, id);
                VM.prank(BOB);
                token.transferFrom(BOB, ALICE, id);
            } else if (way == 2) {
                VM.startPrank(OWNER);
                cluster.revoke(id);
                cluster.reinstate(id);
                VM.stopPrank();
            } else {
                VM.prank(ALICE);
                cluster.burn(id);
                eq(mint(ALICE, 0), id, "the same id");
            }
            VM.prank(ALICE);
            cluster.bind(id, instance(1), address(0));
            submit(registration(id, actor(1)), actor(1));
            mustShow(ADDRESS);
        }
    }

    function testFuzz_only_the_tokens_owner_sets_it(address caller, uint256 tokenId) public {
        dev(true);
        // The zero address, which owns what is not minted, sends nothing.
        if (caller == ALICE && tokenId == id || caller == address(0)) return;
        VM.expectRevert(abi.encodeWithSelector(IDstackClusterNFT.NotTokenOwner.selector, tokenId, caller));
        VM.prank(caller);
        cluster.setDevUrl(tokenId, URL);
    }

    function testFuzz_only_visible_ascii_of_bounded_length(bytes memory raw, uint16 length, uint8 odd) public {
        dev(true);
        // Some random bytes, some long texts of visible characters, some with one odd byte in them.
        if (length % 3 != 0) {
            raw = new bytes(length % 300);
            for (uint256 i = 0; i < raw.length; ++i) {
                raw[i] = bytes1(uint8(0x21 + i % 94));
            }
            if (length % 3 == 2 && raw.length != 0) raw[length % raw.length] = bytes1(odd);
        }
        bool good = raw.length <= 256;
        for (uint256 i = 0; i < raw.length; ++i) {
            if (uint8(raw[i]) < 0x21 || uint8(raw[i]) > 0x7e) good = false;
        }
        if (!good) VM.expectRevert(IClusterPolicy.InvalidDevUrl.selector);
        setUrl(string(raw));
        mustShow(good && raw.length != 0 ? string(raw) : ADDRESS);
    }

    function test_a_url_has_at_most_256_bytes() public {
        dev(true);
        bytes memory longest = new bytes(256);
        for (uint256 i = 0; i < longest.length; ++i) {
            longest[i] = "x";
        }
        setUrl(string(longest));
        mustShow(string(longest));
        VM.expectRevert(IClusterPolicy.InvalidDevUrl.selector);
        setUrl(string.concat(string(longest), "x"));
        mustShow(string(longest));
    }

    function test_the_ends_of_visible_ascii() public {
        dev(true);
        setUrl("!~");
        mustShow("!~");
        bytes1[4] memory beyond = [bytes1(0x20), 0x7f, 0x00, 0x80];
        for (uint256 i = 0; i < beyond.length; ++i) {
            VM.expectRevert(IClusterPolicy.InvalidDevUrl.selector);
            setUrl(string(abi.encodePacked("a", beyond[i])));
        }
    }

    function dev(bool on) private {
        VM.prank(OWNER);
        cluster.setDevMode(on);
    }

    function setUrl(string memory url) private {
        VM.prank(ALICE);
        cluster.setDevUrl(id, url);
    }

    function mustShow(string memory endpoint) private view {
        string[] memory endpoints = cluster.getPeerEndpoints();
        eq(endpoints.length, 1, "one peer");
        eq(endpoints[0], endpoint, "endpoint");
    }
}
