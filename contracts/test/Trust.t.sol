// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {OwnableUpgradeable} from "@openzeppelin/contracts-upgradeable/access/OwnableUpgradeable.sol";
import {IDstackClusterNFT} from "../src/interfaces/IDstackClusterNFT.sol";
import {VM} from "./Vm.sol";
import {ClusterTest} from "./support/ClusterTest.sol";
import {Actor} from "./support/Signing.sol";

/// KMS roots, app ids and base domains: coming, going, coming back.
contract TrustTest is ClusterTest {
    function test_removing_a_root_drops_its_peers_and_no_others() public {
        address second = addRoot(1);
        uint256 a = join(1);
        uint256 b = joinUnder(2, secret("root", 1), address(cluster));
        eq(cluster.peerCount(), 2, "both");
        uint64 epoch = cluster.epoch();
        VM.expectEmit(address(cluster));
        emit IDstackClusterNFT.KmsRootRemoved(second, 2, epoch + 1);
        VM.prank(OWNER);
        cluster.removeKmsRoot(second);
        mustBePeer(a);
        mustBeGone(b, actor(2));
        eq(cluster.peerCount(), 1, "one left");
        eq(cluster.getPeerEndpoints().length, 1, "one endpoint");
    }

    function test_a_root_added_again_revives_no_peer() public {
        address root = VM.addr(secret("root", 0));
        uint256 id = join(1);
        bytes32 wgKey = cluster.getPeer(id).wireguardKey;
        VM.startPrank(OWNER);
        cluster.removeKmsRoot(root);
        cluster.addKmsRoot(root);
        VM.stopPrank();
        VM.warp(block.timestamp + cluster.KMS_ROOT_DELAY());
        mustBeGone(id, actor(1));
        eq(cluster.tokenOfWireguardKey(wgKey), 0, "its key is free");
        // Its own new signature does bring it back.
        submit(registration(id, actor(1)), actor(1));
        mustBePeer(id);
        eq(cluster.peerCount(), 1, "counted once");
    }

    function test_a_root_in_another_slot_revives_no_peer() public {
        address root = VM.addr(secret("root", 0));
        uint256 id = join(1);
        VM.startPrank(OWNER);
        cluster.removeKmsRoot(root);
        cluster.addKmsRoot(address(0xAAAA)); // takes the free slot
        cluster.addKmsRoot(root);
        VM.stopPrank();
        mustBeGone(id, actor(1));
        VM.prank(OWNER);
        cluster.removeKmsRoot(address(0xAAAA));
        mustBeGone(id, actor(1));
        eq(cluster.peerCount(), 0, "no peer");
    }

    function test_removing_an_app_id_drops_its_peers_under_every_root() public {
        addRoot(1);
        addApp(address(0xABBA));
        uint256 a = join(1);
        uint256 b = joinUnder(2, secret("root", 0), address(0xABBA));
        uint256 c = joinUnder(3, secret("root", 1), address(0xABBA));
        uint256 d = joinUnder(4, secret("root", 1), address(cluster));
        uint64 epoch = cluster.epoch();
        VM.expectEmit(address(cluster));
        emit IDstackClusterNFT.AppIdRemoved(address(0xABBA), 2, epoch + 1);
        VM.prank(OWNER);
        cluster.removeAppId(address(0xABBA));
        mustBePeer(a);
        mustBePeer(d);
        mustBeGone(b, actor(2));
        mustBeGone(c, actor(3));
        eq(cluster.peerCount(), 2, "two left");
        addApp(address(0xABBA));
        mustBeGone(b, actor(2));
        eq(cluster.peerCount(), 2, "no peer is revived");
        VM.prank(OWNER);
        cluster.removeKmsRoot(VM.addr(secret("root", 1)));
        eq(cluster.peerCount(), 1, "and counts still agree");
        mustBePeer(a);
    }

    function test_what_a_stale_peer_held_can_be_taken_and_is_not_taken_back() public {
        addApp(address(0xABBA));
        uint256 stale = joinUnder(1, secret("root", 0), address(0xABBA));
        bytes32 wgKey = cluster.getPeer(stale).wireguardKey;
        VM.prank(OWNER);
        cluster.removeAppId(address(0xABBA));

        // Another token takes its instance id and its key.
        Actor memory who = actor(1);
        uint256 taker = mint(BOB, who.instanceId);
        IDstackClusterNFT.Registration memory r = registration(taker, who);
        r.wireguardKey = wgKey;
        submit(r, who);
        eq(cluster.tokenOfInstance(who.instanceId), taker, "instance");
        eq(cluster.tokenOfWireguardKey(wgKey), taker, "key");

        // The stale token's end does not touch what is no longer its own; nor can it have it back.
        submitExpecting(
            registration(stale, who),
            who,
            abi.encodeWithSelector(IDstackClusterNFT.InstanceInUse.selector, who.instanceId, taker)
        );
        VM.prank(ALICE);
        cluster.burn(stale);
        mustBePeer(taker);
        eq(cluster.tokenOfInstance(who.instanceId), taker, "still");
        eq(cluster.tokenOfWireguardKey(wgKey), taker, "still");
        eq(cluster.peerCount(), 1, "one");
    }

    function test_a_stale_token_can_be_bound_to_another_instance() public {
        address root = VM.addr(secret("root", 0));
        addRoot(1);
        uint256 id = join(1);
        VM.prank(OWNER);
        cluster.removeKmsRoot(root);
        VM.prank(ALICE);
        cluster.bind(id, instance(2), address(0));
        Actor memory who = actor(2);
        who.rootKey = secret("root", 1);
        submit(registration(id, who), who);
        eq(cluster.tokenOfInstance(instance(2)), id, "new instance");
        eq(cluster.tokenOfInstance(instance(1)), 0, "old instance");
        eq(cluster.peerCount(), 1, "one");
    }

    function test_a_peer_can_move_to_another_root_and_app() public {
        addRoot(1);
        addApp(address(0xABBA));
        uint256 id = join(1);
        Actor memory who = actor(1);
        (who.rootKey, who.appId, who.appKey) = (secret("root", 1), address(0xABBA), secret("app", 9));
        submit(registration(id, who), who);
        eq(cluster.getPeer(id).appId, address(0xABBA), "app");
        VM.prank(OWNER);
        cluster.removeKmsRoot(VM.addr(secret("root", 0)));
        mustBePeer(id);
        eq(cluster.peerCount(), 1, "it left with the other root's count");
        VM.prank(OWNER);
        cluster.removeAppId(address(0xABBA));
        mustBeGone(id, who);
        eq(cluster.peerCount(), 0, "no peer");
    }

    function test_sixteen_roots_and_sixteen_apps_are_the_limit() public {
        VM.startPrank(OWNER);
        for (uint160 i = 1; i < 16; ++i) {
            cluster.addKmsRoot(address(i));
            cluster.addAppId(address(i));
        }
        VM.expectRevert(abi.encodeWithSelector(IDstackClusterNFT.TooMany.selector, 16));
        cluster.addKmsRoot(address(99));
        VM.expectRevert(abi.encodeWithSelector(IDstackClusterNFT.TooMany.selector, 16));
        cluster.addAppId(address(99));
        cluster.removeKmsRoot(address(7));
        cluster.addKmsRoot(address(99));
        (address[] memory roots, uint64[] memory effectiveAt) = cluster.kmsRoots();
        eq(roots.length, 16, "full again");
        eq(effectiveAt[0], block.timestamp, "the first counts at once");
        eq(effectiveAt[7], block.timestamp + 1 days + 1, "a later one after more than a day");
        eq(roots[7], address(99), "in the freed slot");
        VM.stopPrank();
        address[] memory apps;
        (apps, effectiveAt) = cluster.appIds();
        eq(apps.length, 16, "apps");
        eq(apps[0], address(cluster), "its own app id comes first");
        eq(effectiveAt[0], block.timestamp, "and counts at once");
        eq(effectiveAt[15], block.timestamp + cluster.APP_ID_DELAY(), "the others after as long as a root");
    }

    /// A peer remembers twenty bits of the generation: an addition more would be taken for an earlier one.
    function test_two_to_the_twentieth_addition_is_refused() public {
        bytes32 slot = bytes32(uint256(keccak256("dstack.cluster.trust")) - 1);
        slot = bytes32(uint256(keccak256(abi.encode(slot))) & ~uint256(0xff));
        uint256[2] memory at = [uint256(17), 35]; // lastGeneration of either AnchorSet, which has eighteen slots
        for (uint256 i = 0; i < 2; ++i) {
            eq(VM.load(address(cluster), bytes32(uint256(slot) + at[i])), bytes32(uint256(1)), "that is the one");
            VM.store(address(cluster), bytes32(uint256(slot) + at[i]), bytes32(uint256(2 ** 20 - 2)));
        }
        bytes memory tooMany = abi.encodeWithSelector(IDstackClusterNFT.TooMany.selector, 2 ** 20 - 1);
        VM.startPrank(OWNER);
        cluster.addKmsRoot(VM.addr(secret("root", 1))); // the last of either
        cluster.addAppId(address(0xABBA));
        VM.expectRevert(tooMany);
        cluster.addKmsRoot(address(1));
        VM.expectRevert(tooMany);
        cluster.addAppId(address(1));
        VM.stopPrank();
        VM.warp(block.timestamp + cluster.KMS_ROOT_DELAY());
        uint256 id = joinUnder(1, secret("root", 1), address(0xABBA));
        eq(cluster.getPeer(id).kmsRoot, VM.addr(secret("root", 1)), "the last generation admits peers");
        eq(cluster.getPeer(id).appId, address(0xABBA), "of either");
    }

    function testFuzz_roots_and_apps_refuse_doubles_zero_and_strangers(address account) public {
        VM.startPrank(OWNER);
        VM.expectRevert(IDstackClusterNFT.ZeroAddress.selector);
        cluster.addAppId(address(0));
        VM.expectRevert(IDstackClusterNFT.NotAdded.selector);
        cluster.removeKmsRoot(account == VM.addr(secret("root", 0)) ? address(1) : account);
        VM.expectRevert(IDstackClusterNFT.NotAdded.selector);
        cluster.removeAppId(account == address(cluster) ? address(1) : account);
        if (account != address(0) && account != VM.addr(secret("root", 0)) && account != address(cluster)) {
            cluster.addKmsRoot(account);
            cluster.addAppId(account);
            VM.expectRevert(IDstackClusterNFT.AlreadyAdded.selector);
            cluster.addKmsRoot(account);
            VM.expectRevert(IDstackClusterNFT.AlreadyAdded.selector);
            cluster.addAppId(account);
        }
        VM.stopPrank();
    }

    function testFuzz_only_the_contract_owner_governs(address caller) public {
        if (caller == OWNER) return;
        bytes memory expected = abi.encodeWithSelector(OwnableUpgradeable.OwnableUnauthorizedAccount.selector, caller);
        VM.startPrank(caller);
        VM.expectRevert(expected);
        cluster.addKmsRoot(address(1));
        VM.expectRevert(expected);
        cluster.removeKmsRoot(address(1));
        VM.expectRevert(expected);
        cluster.addAppId(address(1));
        VM.expectRevert(expected);
        cluster.removeAppId(address(1));
        VM.expectRevert(expected);
        cluster.addBaseDomain("example.com");
        VM.expectRevert(expected);
        cluster.removeBaseDomain(1);
        VM.stopPrank();
    }

    function test_the_extension_called_directly_obeys_no_caller() public {
        IDstackClusterNFT extension = IDstackClusterNFT(token.EXTENSION());
        bytes memory expected = abi.encodeWithSelector(OwnableUpgradeable.OwnableUnauthorizedAccount.selector, OWNER);
        VM.expectRevert(expected);
        VM.prank(OWNER);
        extension.addKmsRoot(address(1));
        eq(extension.epoch(), 0, "an empty cluster");
    }

    // ------------------------------------------------------------------------------------------------ base domains

    function test_base_domains_keep_their_index() public {
        VM.startPrank(OWNER);
        eq(cluster.addBaseDomain("a.example.com"), 1, "first");
        uint64 epoch = cluster.epoch();
        VM.expectEmit(address(cluster));
        emit IDstackClusterNFT.BaseDomainAdded(2, "b.example.com", epoch + 1);
        eq(cluster.addBaseDomain("b.example.com"), 2, "second");
        VM.expectRevert(IDstackClusterNFT.AlreadyAdded.selector);
        cluster.addBaseDomain("a.example.com");
        VM.expectEmit(address(cluster));
        emit IDstackClusterNFT.BaseDomainRemoved(1, "a.example.com", epoch + 2);
        cluster.removeBaseDomain(1);
        eq(cluster.addBaseDomain("a.example.com"), 3, "a new index, the old one is spent");
        VM.expectRevert(abi.encodeWithSelector(IDstackClusterNFT.UnknownBaseDomain.selector, 1));
        cluster.removeBaseDomain(1);
        VM.expectRevert(abi.encodeWithSelector(IDstackClusterNFT.UnknownBaseDomain.selector, 0));
        cluster.removeBaseDomain(0);
        VM.expectRevert(abi.encodeWithSelector(IDstackClusterNFT.UnknownBaseDomain.selector, 4));
        cluster.removeBaseDomain(4);
        VM.stopPrank();
        string[] memory domains = cluster.baseDomains();
        eq(domains.length, 3, "three indices");
        eq(domains[0], "", "removed");
        eq(domains[1], "b.example.com", "second");
        eq(domains[2], "a.example.com", "third");
    }

    /// Any sequence of additions and removals: an index names one domain for ever, a name never two indices at a time.
    function testFuzz_removeBaseDomain(uint256 seed) public {
        string[3] memory names = ["a.example.com", "b.example.com", "c.example.com"];
        uint16[3] memory indexOf; // zero = not on the list
        uint16 last = 0;
        VM.startPrank(OWNER);
        for (uint256 step = 0; step < 24; ++step) {
            seed = uint256(keccak256(abi.encode(seed)));
            uint256 which = seed % 3;
            uint64 epoch = cluster.epoch();
            if (seed & 256 == 0) {
                if (indexOf[which] != 0) VM.expectRevert(IDstackClusterNFT.AlreadyAdded.selector);
                else indexOf[which] = ++last;
                cluster.addBaseDomain(names[which]);
            } else {
                uint16 index = uint16((seed >> 16) % (uint256(last) + 2));
                which = 3;
                for (uint256 i = 0; i < 3; ++i) {
                    if (index != 0 && indexOf[i] == index) which = i;
                }
                if (which == 3) {
                    VM.expectRevert(abi.encodeWithSelector(IDstackClusterNFT.UnknownBaseDomain.selector, index));
                } else {
                    VM.expectEmit(address(cluster));
                    emit IDstackClusterNFT.BaseDomainRemoved(index, names[which], epoch + 1);
                    indexOf[which] = 0;
                }
                cluster.removeBaseDomain(index);
            }
            string[] memory domains = cluster.baseDomains();
            eq(domains.length, last, "no index is given twice");
            uint256 live = 0;
            for (uint256 i = 0; i < domains.length; ++i) {
                if (bytes(domains[i]).length != 0) ++live;
            }
            for (uint256 i = 0; i < 3; ++i) {
                if (indexOf[i] == 0) continue;
                eq(domains[indexOf[i] - 1], names[i], "in its place");
                --live;
            }
            eq(live, 0, "and nothing else");
        }
        VM.stopPrank();
    }

    function test_65535_base_domains_are_the_limit() public {
        // The length of Trust.baseDomains: behind two AnchorSets of eighteen slots each.
        bytes32 slot = bytes32(uint256(keccak256("dstack.cluster.trust")) - 1);
        slot = bytes32(uint256(keccak256(abi.encode(slot))) & ~uint256(0xff));
        slot = bytes32(uint256(slot) + 36);
        VM.startPrank(OWNER);
        cluster.addBaseDomain("first.example.com");
        eq(VM.load(address(cluster), slot), bytes32(uint256(1)), "that is the length");
        VM.store(address(cluster), slot, bytes32(uint256(65_534)));
        eq(cluster.addBaseDomain("last.example.com"), 65_535, "the last index");
        VM.expectRevert(abi.encodeWithSelector(IDstackClusterNFT.TooMany.selector, 65_535));
        cluster.addBaseDomain("more.example.com");
        VM.stopPrank();
    }

    function test_removing_a_base_domain_takes_the_urls_and_not_the_peers() public {
        VM.prank(OWNER);
        cluster.addBaseDomain("gw.example.com");
        Actor memory who = actor(1);
        uint256 id = mint(ALICE, who.instanceId);
        submit(behind(registration(id, who), "gw.example.com"), who);
        VM.prank(OWNER);
        cluster.removeBaseDomain(1);
        mustBePeer(id);
        eq(cluster.getPeerEndpoints()[0], "", "no url");
        eq(cluster.getPeer(id).gatewayDomain, 1, "the index says why");
    }

    function test_bad_base_domains_are_refused() public {
        string[25] memory bad = [
            "",
            "localhost",
            "Example.com",
            "example.com.",
            ".example.com",
            "a..example.com",
            "-a.example.com",
            "a-.example.com",
            "a.example.com-",
            "example.com:443",
            "example.com:",
            "example.com:0",
            "example.com:08443",
            "example.com:65536",
            "example.com:8443/x",
            "example.com:8443:1",
            "[2001:db8::1]:8443",
            "example.com.:8443",
            "user@example.com",
            "https://example.com",
            "example.com/x",
            "*.example.com",
            "ex ample.com",
            unicode"exämple.com",
            "a_b.example.com"
        ];
        VM.startPrank(OWNER);
        for (uint256 i = 0; i < bad.length; ++i) {
            VM.expectRevert(abi.encodeWithSelector(IDstackClusterNFT.InvalidBaseDomain.selector, bad[i]));
            cluster.addBaseDomain(bad[i]);
        }
        cluster.addBaseDomain("1-a.2-b.xn--p1ai");
        cluster.addBaseDomain("example.com");
        eq(cluster.addBaseDomain("example.com:8443"), 3, "another gateway than that on 443");
        VM.stopPrank();
    }
}
