// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IDstackClusterNFT} from "../src/interfaces/IDstackClusterNFT.sol";
import {VM} from "./Vm.sol";
import {ClusterTest} from "./support/ClusterTest.sol";
import {Actor} from "./support/Signing.sol";

/// Leaving from every state a token can be in: unbound, bound, a peer after any number of rotations, stale.
contract LeavingStatesTest is ClusterTest {
    uint256 internal neighbour;

    function setUp() public override {
        super.setUp();
        neighbour = join(1000);
    }

    function testFuzz_deactivate(uint256 state, uint256 i, uint256 rotations) public {
        (uint256 id, Actor memory who) = tokenIn(state, i, rotations);
        IDstackClusterNFT.Node memory before = cluster.getNode(id);
        if (before.instanceId == 0) {
            VM.expectRevert(abi.encodeWithSelector(IDstackClusterNFT.NodeUnbound.selector, id));
        } else {
            expectCleared(before, IDstackClusterNFT.LeaveReason.DEACTIVATED);
        }
        VM.prank(ALICE);
        cluster.deactivate(id);
        if (before.instanceId != 0) ++before.keyEpoch;
        mustBeCleared(before, who);
    }

    function testFuzz_revoke(uint256 state, uint256 i, uint256 rotations) public {
        (uint256 id, Actor memory who) = tokenIn(state, i, rotations);
        IDstackClusterNFT.Node memory before = cluster.getNode(id);
        expectCleared(before, IDstackClusterNFT.LeaveReason.REVOKED);
        VM.prank(OWNER);
        cluster.revoke(id);
        ++before.keyEpoch;
        before.revoked = true;
        mustBeCleared(before, who);

        bytes memory refusal = abi.encodeWithSelector(IDstackClusterNFT.NodeRevoked.selector, id);
        VM.expectRevert(refusal);
        VM.prank(OWNER);
        cluster.revoke(id);
        submitExpecting(registration(id, who), who, refusal);
    }

    function testFuzz_reinstate(uint256 state, uint256 i, uint256 rotations, bool revoked) public {
        (uint256 id, Actor memory who) = tokenIn(state, i, rotations);
        if (!revoked) {
            bytes32 before = keccak256(abi.encode(cluster.getNode(id), cluster.epoch()));
            VM.expectRevert(abi.encodeWithSelector(IDstackClusterNFT.NodeNotRevoked.selector, id));
            VM.prank(OWNER);
            cluster.reinstate(id);
            eq(keccak256(abi.encode(cluster.getNode(id), cluster.epoch())), before, "nothing changed");
            return;
        }
        VM.prank(OWNER);
        cluster.revoke(id);
        IDstackClusterNFT.Node memory expected = cluster.getNode(id);
        expected.revoked = false;
        uint64 epoch = cluster.epoch();
        VM.expectEmit(address(cluster));
        emit IDstackClusterNFT.NodeReinstated(id, epoch + 1);
        VM.prank(OWNER);
        cluster.reinstate(id);
        mustBeCleared(expected, who); // it revives no peer

        VM.prank(ALICE);
        cluster.bind(id, who.instanceId, address(0));
        who.appId = address(cluster);
        submit(registration(id, who), who);
        mustBePeer(id);
        eq(cluster.peerCount(), 2, "both");
    }

    /// The owner of an unbound token may bring any node: nothing of the last one prevents that.
    function testFuzz_after_leaving_another_node_may_come_through_the_owner(uint256 state, uint256 i) public {
        (uint256 id,) = tokenIn(state, i, 0);
        VM.prank(ALICE);
        token.transferFrom(ALICE, BOB, id);
        Actor memory other = actor(2000);
        IDstackClusterNFT.Registration memory r = registration(id, other);
        IDstackClusterNFT.SignatureChain memory chain = chainOf(other);
        bytes memory signature = sign(r, other.nodeKey, address(cluster));
        VM.prank(BOB);
        cluster.registerPeer(r, chain, signature, sign(r, other.memberKey, address(cluster)));
        eq(cluster.getPeer(id).memberAddress, VM.addr(other.memberKey), "the other node");
    }

    /// ALICE's token in any of the four states, and the node it is or would be for.
    function tokenIn(uint256 state, uint256 i, uint256 rotations) private returns (uint256 id, Actor memory who) {
        state %= 4;
        who = actor(within(i, 1, 900));
        id = mint(ALICE, state == 0 ? bytes20(0) : who.instanceId);
        if (state < 2) return (id, who);
        addApp(address(0xABBA));
        if (state == 3) who.appId = address(0xABBA);
        for (uint256 round = 0; round <= rotations % 3; ++round) {
            submit(registration(id, who), who);
        }
        VM.prank(OWNER);
        cluster.removeAppId(address(0xABBA));
        eq(isPeer(id) ? 1 : 0, state == 2 ? 1 : 0, "a peer or stale");
    }

    function expectCleared(IDstackClusterNFT.Node memory before, IDstackClusterNFT.LeaveReason reason) private {
        uint64 epoch = cluster.epoch();
        VM.expectEmit(address(cluster));
        emit IDstackClusterNFT.NodeCleared(before.tokenId, reason, before.keyEpoch + 1, epoch + 1);
    }

    /// The token is what it was, without binding, member address and peer; and no other member is affected.
    function mustBeCleared(IDstackClusterNFT.Node memory expected, Actor memory who) private {
        (expected.instanceId, expected.memberAddress, expected.active) = (0, address(0), false);
        eq(abi.encode(cluster.getNode(expected.tokenId)), abi.encode(expected), "the token");
        mustBeGone(expected.tokenId, who);
        (IDstackClusterNFT.Peer[] memory page, uint256 next) = cluster.peers(0, 1);
        eq(page.length, 1, "one peer");
        eq(page[0].tokenId, neighbour, "the neighbour");
        eq(next, 0, "and no record besides");
        eq(cluster.peerCount(), 1, "counted");
    }
}
