// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IDstackClusterNFT} from "../src/interfaces/IDstackClusterNFT.sol";
import {VM} from "./Vm.sol";
import {ClusterTest} from "./support/ClusterTest.sol";
import {Actor} from "./support/Signing.sol";

/// Records that outlived their KMS root or app id: no peers any more, swept when their token is next used, in any slot.
contract StaleTest is ClusterTest {
    address internal constant APP = address(0xABBA);

    function test_a_stale_peer_that_registers_a_new_key_lets_the_old_one_go() public {
        (uint256 id, Actor memory who) = stale(1);
        bytes32 oldKey = keyOfEpoch(who, 1);
        addApp(APP);
        submit(registration(id, who), who);
        yes(cluster.getPeer(id).wireguardKey != oldKey, "a new key");
        eq(cluster.tokenOfWireguardKey(oldKey), 0, "the old one belongs to no token");

        uint256 other = mint(BOB, instance(2));
        IDstackClusterNFT.Registration memory r = registration(other, actor(2));
        r.wireguardKey = oldKey;
        submit(r, actor(2));
        eq(cluster.tokenOfWireguardKey(oldKey), other, "and may be taken");
    }

    function test_binding_a_stale_token_sweeps_it() public {
        (uint256 id, Actor memory who) = stale(1);
        uint256 peer = join(2);
        (IDstackClusterNFT.Peer[] memory page, uint256 next) = cluster.peers(0, 1);
        eq(page.length, 0, "the stale record takes a look of its own");
        eq(next, peer, "before the peer");

        VM.prank(ALICE);
        cluster.bind(id, instance(3), address(0));
        (page, next) = cluster.peers(0, 1);
        eq(page.length, 1, "the first look meets the peer");
        eq(page[0].tokenId, peer, "the peer");
        eq(cluster.tokenOfWireguardKey(keyOfEpoch(who, 1)), 0, "the key is free");
        eq(cluster.peerCount(), 1, "one peer");
    }

    /// Its node key is another under another root; its member key is its own.
    function test_a_node_comes_back_under_another_root_by_its_member_key() public {
        uint256 id = join(1);
        address fixedAddress = cluster.getNode(id).memberAddress;
        addRoot(1);
        VM.prank(OWNER);
        cluster.removeKmsRoot(VM.addr(secret("root", 0)));
        Actor memory who = actor(1);
        (who.rootKey, who.appKey, who.nodeKey) = (secret("root", 1), secret("app", 1), secret("node", 99));
        Actor memory other = who;
        who = actor(1);
        (who.rootKey, who.appKey, who.nodeKey) = (other.rootKey, other.appKey, other.nodeKey);
        other.memberKey = secret("member", 99);
        submitExpecting(
            registration(id, other),
            other,
            abi.encodeWithSelector(
                IDstackClusterNFT.MemberAddressMismatch.selector, id, fixedAddress, VM.addr(other.memberKey)
            )
        );
        uint256 before = VM.snapshotState();
        submit(registration(id, who), who);
        eq(cluster.getPeer(id).memberAddress, fixedAddress, "the member key is the old one");

        // A node that lost it comes back when its token's owner binds again.
        yes(VM.revertToState(before), "back");
        VM.prank(ALICE);
        cluster.bind(id, other.instanceId, address(0));
        eq(cluster.getNode(id).memberAddress, address(0), "no member address");
        submit(registration(id, other), other);
        eq(cluster.getPeer(id).memberAddress, VM.addr(other.memberKey), "the new key");
    }

    function test_a_stale_peer_has_no_endpoint_to_update() public {
        (uint256 id, Actor memory who) = stale(1);
        IDstackClusterNFT.EndpointUpdate memory u = endpointUpdate(id);
        bytes memory signature = sign(u, who.memberKey, address(cluster));
        VM.expectRevert(abi.encodeWithSelector(IDstackClusterNFT.NodeNotActive.selector, id));
        cluster.updateEndpoint(u, signature);
    }

    /// The slot of the removed app id is free, and so holds address zero under generation zero.
    function test_app_id_zero_is_not_allowed_where_a_slot_is_free() public {
        Actor memory who = actor(1);
        uint256 id = mint(ALICE, who.instanceId);
        VM.prank(OWNER);
        cluster.removeAppId(address(cluster));
        who.appId = address(0); // a trusted root does sign that
        submitExpecting(
            registration(id, who), who, abi.encodeWithSelector(IDstackClusterNFT.AppIdNotAllowed.selector, address(0))
        );
        who = actor(1); // nor does the removed one count
        submitExpecting(
            registration(id, who), who, abi.encodeWithSelector(IDstackClusterNFT.AppIdNotAllowed.selector, cluster)
        );
    }

    /// Signed for as long as the contract takes, when the root or app id is removed and added again in the very block: no second of the
    /// signature is one in which what was added counts.
    function test_a_withheld_signature_revives_no_peer_when_its_root_comes_back() public {
        yes(cluster.KMS_ROOT_DELAY() > cluster.MAX_SIGNATURE_VALIDITY(), "longer than any signature");
        uint256 id = join(1);
        IDstackClusterNFT.Registration memory withheld = longest(id);
        address root = VM.addr(secret("root", 0));
        VM.startPrank(OWNER);
        cluster.removeKmsRoot(root);
        cluster.addKmsRoot(root);
        VM.stopPrank();
        uint64 effectiveAt = withheld.deadline + 1;
        mustReviveNobody(
            withheld, abi.encodeWithSelector(IDstackClusterNFT.KmsRootNotYetEffective.selector, root, effectiveAt)
        );
    }

    function test_a_withheld_signature_revives_no_peer_when_its_app_id_comes_back() public {
        yes(cluster.APP_ID_DELAY() > cluster.MAX_SIGNATURE_VALIDITY(), "longer than any signature");
        uint256 id = join(1);
        IDstackClusterNFT.Registration memory withheld = longest(id);
        VM.startPrank(OWNER);
        cluster.removeAppId(address(cluster));
        cluster.addAppId(address(cluster));
        VM.stopPrank();
        uint64 effectiveAt = withheld.deadline + 1;
        mustReviveNobody(
            withheld, abi.encodeWithSelector(IDstackClusterNFT.AppIdNotYetEffective.selector, cluster, effectiveAt)
        );
    }

    /// The last one that is taken when it is signed.
    function longest(uint256 id) private view returns (IDstackClusterNFT.Registration memory r) {
        r = registration(id, actor(1));
        r.deadline = uint64(block.timestamp) + cluster.MAX_SIGNATURE_VALIDITY();
    }

    function mustReviveNobody(IDstackClusterNFT.Registration memory withheld, bytes memory notYet) private {
        submitExpecting(withheld, actor(1), notYet);
        VM.warp(withheld.deadline); // its last second
        submitExpecting(withheld, actor(1), notYet);
        VM.warp(uint256(withheld.deadline) + 1); // the first second that counts
        submitExpecting(
            withheld, actor(1), abi.encodeWithSelector(IDstackClusterNFT.DeadlineExpired.selector, withheld.deadline)
        );
        mustBeGone(withheld.tokenId, actor(1));
        submit(registration(withheld.tokenId, actor(1)), actor(1)); // what is signed again is taken
        mustBePeer(withheld.tokenId);
    }

    // ------------------------------------------------------------------------------------------------------ counts

    /// Peers under all corners of the table of counts: removing any root or app forgets exactly its own.
    function test_every_slot_of_roots_and_apps_is_counted_and_forgotten() public {
        uint8[4] memory slots = [0, 2, 9, 15];
        fillSlots();
        uint256 i = 0;
        for (uint256 root = 0; root < 4; ++root) {
            for (uint256 appSlot = 0; appSlot < 4; ++appSlot) {
                joinUnder(++i, secret("root", slots[root]), appOf(slots[appSlot]));
            }
        }
        eq(cluster.peerCount(), 16, "all");
        VM.startPrank(OWNER);
        cluster.removeKmsRoot(VM.addr(secret("root", 9)));
        mustCount(12);
        cluster.removeAppId(appOf(15));
        mustCount(9);
        cluster.removeKmsRoot(VM.addr(secret("root", 0)));
        mustCount(6);
        cluster.removeAppId(appOf(2));
        mustCount(4);
        cluster.removeKmsRoot(VM.addr(secret("root", 15)));
        mustCount(2);
        cluster.removeAppId(appOf(0));
        mustCount(1);
        cluster.removeAppId(appOf(9));
        mustCount(0);
        VM.stopPrank();
    }

    function test_a_peer_that_changes_only_its_app_is_counted_under_the_new_one() public {
        addApp(APP);
        uint256 id = join(1);
        Actor memory who = actor(1);
        who.appId = APP;
        submit(registration(id, who), who);
        VM.startPrank(OWNER);
        cluster.removeAppId(address(cluster));
        mustBePeer(id);
        mustCount(1);
        cluster.removeAppId(APP);
        mustCount(0);
        VM.stopPrank();
    }

    function test_a_peer_that_changes_only_its_root_is_counted_under_the_new_one() public {
        addRoot(1);
        uint256 id = join(1);
        Actor memory who = actor(1);
        who.rootKey = secret("root", 1);
        submit(registration(id, who), who);
        VM.startPrank(OWNER);
        cluster.removeKmsRoot(VM.addr(secret("root", 0)));
        mustBePeer(id);
        mustCount(1);
        cluster.removeKmsRoot(VM.addr(secret("root", 1)));
        mustCount(0);
        VM.stopPrank();
    }

    // ----------------------------------------------------------------------------------------------------- helpers

    /// Token and node of a peer whose app id was removed.
    function stale(uint256 i) private returns (uint256 id, Actor memory who) {
        addApp(APP);
        id = joinUnder(i, secret("root", 0), APP);
        who = actor(i);
        who.appId = APP;
        VM.prank(OWNER);
        cluster.removeAppId(APP);
        mustBeGone(id, who);
    }

    /// As ClusterTest's registrations choose it.
    function keyOfEpoch(Actor memory who, uint32 keyEpoch) private pure returns (bytes32) {
        return keccak256(abi.encode("wireguard of", who.instanceId, keyEpoch));
    }

    /// Sixteen roots, all effective, and sixteen apps, in the order of their numbers.
    function fillSlots() private {
        VM.startPrank(OWNER);
        for (uint256 i = 1; i < 16; ++i) {
            cluster.addKmsRoot(VM.addr(secret("root", i)));
            cluster.addAppId(appOf(i));
        }
        VM.stopPrank();
        VM.warp(block.timestamp + cluster.KMS_ROOT_DELAY());
    }

    function appOf(uint256 slot) private view returns (address) {
        return slot == 0 ? address(cluster) : address(uint160(0xA000 + slot));
    }

    function mustCount(uint256 expected) private view {
        eq(cluster.peerCount(), expected, "counted");
        (IDstackClusterNFT.Peer[] memory page,) = cluster.peers(0, 100);
        eq(page.length, expected, "listed");
    }
}
