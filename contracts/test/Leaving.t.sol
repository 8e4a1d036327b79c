// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IERC721Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";
import {OwnableUpgradeable} from "@openzeppelin/contracts-upgradeable/access/OwnableUpgradeable.sol";
import {IDstackClusterNFT} from "../src/interfaces/IDstackClusterNFT.sol";
import {VM} from "./Vm.sol";
import {ClusterTest} from "./support/ClusterTest.sol";
import {Actor} from "./support/Signing.sol";

/// Transfer, burn, deactivate, revoke: the peer is gone at once, and neither an old nor a new signature brings it back.
contract LeavingTest is ClusterTest {
    uint256 internal id;
    Actor internal who;
    IDstackClusterNFT.Registration internal old; // what it last registered with

    function setUp() public override {
        super.setUp();
        who = actor(1);
        id = mint(ALICE, who.instanceId);
        old = registration(id, who);
        submit(old, who);
    }

    function test_transfer() public {
        expectCleared(IDstackClusterNFT.LeaveReason.TRANSFERRED);
        VM.prank(ALICE);
        token.transferFrom(ALICE, BOB, id);
        mustStayOut(abi.encodeWithSelector(IDstackClusterNFT.NodeUnbound.selector, id));

        // The former owner's node cannot come back through the former owner either.
        IDstackClusterNFT.Registration memory r = registration(id, who);
        bytes memory signature = sign(r, who.nodeKey, address(cluster));
        IDstackClusterNFT.SignatureChain memory chain = chainOf(who);
        VM.expectRevert(abi.encodeWithSelector(IDstackClusterNFT.NodeUnbound.selector, id));
        VM.prank(ALICE);
        cluster.registerPeer(r, chain, signature, sign(r, who.memberKey, address(cluster)));

        // The new owner binds its own node; the old node's signatures name another instance.
        VM.prank(BOB);
        cluster.bind(id, instance(2), address(0));
        mustStayOut(
            abi.encodeWithSelector(IDstackClusterNFT.InstanceMismatch.selector, id, instance(2), who.instanceId)
        );
        submit(registration(id, actor(2)), actor(2));
        eq(cluster.getPeer(id).keyEpoch, 4, "the key epoch went on");
    }

    function test_a_transfer_to_its_own_owner_drops_it_too() public {
        VM.prank(ALICE);
        token.transferFrom(ALICE, ALICE, id);
        mustStayOut(abi.encodeWithSelector(IDstackClusterNFT.NodeUnbound.selector, id));
    }

    function test_burn_and_mint_again() public {
        expectCleared(IDstackClusterNFT.LeaveReason.BURNED);
        VM.prank(ALICE);
        cluster.burn(id);
        eq(cluster.totalSupply(), 0, "supply");
        mustStayOut(abi.encodeWithSelector(IERC721Errors.ERC721NonexistentToken.selector, id));

        // The id comes back to another owner, even for the same instance: the old signatures are still spent.
        eq(mint(BOB, who.instanceId), id, "lowest free id");
        eq(cluster.getNode(id).keyEpoch, 4, "the key epoch outlives the burn");
        submitExpecting(old, who, wrongKeyEpoch(5, 2));
    }

    function test_deactivate() public {
        expectCleared(IDstackClusterNFT.LeaveReason.DEACTIVATED);
        VM.prank(ALICE);
        cluster.deactivate(id);
        mustStayOut(abi.encodeWithSelector(IDstackClusterNFT.NodeUnbound.selector, id));

        // The owner may bring it back; only with a new signature.
        VM.prank(ALICE);
        cluster.bind(id, who.instanceId, address(0));
        submitExpecting(old, who, wrongKeyEpoch(4, 2));
        submit(registration(id, who), who);
        mustBePeer(id);
    }

    function test_revoke_bars_every_holder_until_reinstated() public {
        expectCleared(IDstackClusterNFT.LeaveReason.REVOKED);
        VM.prank(OWNER);
        cluster.revoke(id);
        bytes memory barred = abi.encodeWithSelector(IDstackClusterNFT.NodeRevoked.selector, id);
        mustStayOut(barred);

        VM.expectRevert(barred);
        VM.prank(ALICE);
        cluster.bind(id, who.instanceId, address(0));
        IDstackClusterNFT.Registration memory r = registration(id, who);
        IDstackClusterNFT.SignatureChain memory chain = chainOf(who);
        bytes memory signature = sign(r, who.nodeKey, address(cluster));
        VM.expectRevert(barred);
        VM.prank(ALICE);
        cluster.registerPeer(r, chain, signature, sign(r, who.memberKey, address(cluster)));

        // A transfer does not lift it.
        VM.prank(ALICE);
        token.transferFrom(ALICE, BOB, id);
        yes(cluster.getNode(id).revoked, "still revoked");
        VM.expectRevert(barred);
        VM.prank(BOB);
        cluster.bind(id, who.instanceId, address(0));
        VM.expectRevert(barred);
        VM.prank(OWNER);
        cluster.revoke(id);

        uint64 epoch = cluster.epoch();
        VM.expectEmit(address(cluster));
        emit IDstackClusterNFT.NodeReinstated(id, epoch + 1);
        VM.prank(OWNER);
        cluster.reinstate(id);
        mustStayOut(abi.encodeWithSelector(IDstackClusterNFT.NodeUnbound.selector, id));
        VM.prank(BOB);
        cluster.bind(id, who.instanceId, address(0));
        submit(registration(id, who), who);
        mustBePeer(id);
    }

    function test_a_burned_id_is_minted_unrevoked_with_its_key_epoch() public {
        VM.prank(OWNER);
        cluster.revoke(id);
        VM.prank(ALICE);
        cluster.burn(id);
        yes(!cluster.getNode(id).revoked, "nothing is left of it");
        eq(mint(BOB, instance(2)), id, "the same id");
        submit(registration(id, actor(2)), actor(2));
        eq(cluster.getPeer(id).keyEpoch, 6, "one for each mint, the peer, each leaving, and the new peer");
    }

    function test_what_is_signed_but_not_submitted_dies_with_a_deactivation() public {
        IDstackClusterNFT.Registration memory unsubmitted = registration(id, who);
        VM.prank(ALICE);
        cluster.deactivate(id);
        mustBeVoid(unsubmitted, ALICE);
    }

    function test_what_is_signed_but_not_submitted_dies_with_a_transfer() public {
        IDstackClusterNFT.Registration memory unsubmitted = registration(id, who);
        VM.prank(ALICE);
        token.transferFrom(ALICE, BOB, id);
        mustBeVoid(unsubmitted, BOB);
    }

    function test_what_is_signed_but_not_submitted_dies_with_a_revocation() public {
        IDstackClusterNFT.Registration memory unsubmitted = registration(id, who);
        VM.startPrank(OWNER);
        cluster.revoke(id);
        cluster.reinstate(id);
        VM.stopPrank();
        mustBeVoid(unsubmitted, ALICE);
    }

    function test_what_is_signed_but_not_submitted_dies_with_a_burn() public {
        IDstackClusterNFT.Registration memory unsubmitted = registration(id, who);
        VM.prank(ALICE);
        cluster.burn(id);
        eq(mint(BOB, 0), id, "the same id");
        mustBeVoid(unsubmitted, BOB);
    }

    function test_what_is_signed_but_not_submitted_dies_with_a_binding_that_never_had_a_peer() public {
        who = actor(2);
        id = mint(ALICE, who.instanceId);
        IDstackClusterNFT.Registration memory unsubmitted = registration(id, who);
        VM.prank(ALICE);
        cluster.deactivate(id);
        mustBeVoid(unsubmitted, ALICE);
    }

    function test_what_is_signed_but_not_submitted_for_an_unbound_token_dies_with_a_transfer() public {
        who = actor(2);
        id = mint(ALICE, 0);
        IDstackClusterNFT.Registration memory unsubmitted = registration(id, who);
        VM.prank(ALICE);
        token.transferFrom(ALICE, BOB, id);
        mustBeVoid(unsubmitted, BOB);
    }

    function test_an_endpoint_update_does_not_revive() public {
        IDstackClusterNFT.EndpointUpdate memory u = endpointUpdate(id);
        bytes memory signature = sign(u, who.memberKey, address(cluster));
        VM.prank(ALICE);
        cluster.deactivate(id);
        VM.expectRevert(abi.encodeWithSelector(IDstackClusterNFT.NodeNotActive.selector, id));
        cluster.updateEndpoint(u, signature);
    }

    function test_a_bound_but_inactive_token_is_unbound_by_deactivating_once() public {
        uint256 other = mint(ALICE, instance(2));
        VM.startPrank(ALICE);
        cluster.deactivate(other);
        eq(bytes32(cluster.getNode(other).instanceId), 0, "unbound");
        VM.expectRevert(abi.encodeWithSelector(IDstackClusterNFT.NodeUnbound.selector, other));
        cluster.deactivate(other);
        VM.stopPrank();
    }

    // ------------------------------------------------------------------------------------------------ who may

    function testFuzz_only_the_token_owner_binds_and_deactivates(address caller) public {
        if (caller == ALICE) return;
        bytes memory expected = abi.encodeWithSelector(IDstackClusterNFT.NotTokenOwner.selector, id, caller);
        VM.expectRevert(expected);
        VM.prank(caller);
        cluster.bind(id, instance(3), address(0));
        VM.expectRevert(expected);
        VM.prank(caller);
        cluster.deactivate(id);
    }

    function testFuzz_only_the_contract_owner_mints_revokes_and_reinstates(address caller) public {
        if (caller == OWNER) return;
        bytes memory expected = abi.encodeWithSelector(OwnableUpgradeable.OwnableUnauthorizedAccount.selector, caller);
        VM.startPrank(caller);
        VM.expectRevert(expected);
        cluster.mint(caller, instance(3), address(0));
        VM.expectRevert(expected);
        cluster.revoke(id);
        VM.expectRevert(expected);
        cluster.reinstate(id);
        VM.stopPrank();
    }

    function testFuzz_only_owner_or_approved_burns_and_transfers(address caller) public {
        if (caller == ALICE || caller == address(0)) return;
        bytes memory expected = abi.encodeWithSelector(IERC721Errors.ERC721InsufficientApproval.selector, caller, id);
        VM.startPrank(caller);
        VM.expectRevert(expected);
        cluster.burn(id);
        VM.expectRevert(expected);
        token.transferFrom(ALICE, caller, id);
        VM.stopPrank();
        VM.prank(ALICE);
        token.approve(caller, id);
        VM.prank(caller);
        cluster.burn(id);
        mustBeGone(id, who);
    }

    /// What strangers took while minting was public comes back: revoked, burned, and minted for another owner.
    function test_the_contract_owner_burns_what_it_revoked() public {
        VM.startPrank(OWNER);
        VM.expectRevert(abi.encodeWithSelector(IERC721Errors.ERC721InsufficientApproval.selector, OWNER, id));
        cluster.burn(id);
        cluster.revoke(id);
        cluster.burn(id);
        VM.expectRevert(abi.encodeWithSelector(IERC721Errors.ERC721NonexistentToken.selector, id));
        cluster.burn(id);
        VM.stopPrank();
        mustBeGone(id, who);
        eq(cluster.getNode(id).owner, address(0), "no owner");
        eq(token.balanceOf(ALICE), 0, "not ALICE's");
        eq(cluster.walletToTokenId(ALICE), 0, "in neither count");
        eq(cluster.totalSupply(), 0, "room again");
        eq(mint(BOB, instance(2)), id, "the same id");
        submit(registration(id, actor(2)), actor(2));
        mustBePeer(id);
        VM.prank(OWNER);
        VM.expectRevert(abi.encodeWithSelector(IERC721Errors.ERC721InsufficientApproval.selector, OWNER, id));
        cluster.burn(id);
    }

    function testFuzz_no_other_caller_burns_a_revoked_token(address caller) public {
        if (caller == ALICE || caller == OWNER || caller == address(0)) return;
        VM.prank(OWNER);
        cluster.revoke(id);
        VM.prank(caller);
        VM.expectRevert(abi.encodeWithSelector(IERC721Errors.ERC721InsufficientApproval.selector, caller, id));
        cluster.burn(id);
    }

    function test_the_contract_owner_does_not_burn_what_is_reinstated() public {
        VM.startPrank(OWNER);
        cluster.revoke(id);
        cluster.reinstate(id);
        VM.expectRevert(abi.encodeWithSelector(IERC721Errors.ERC721InsufficientApproval.selector, OWNER, id));
        cluster.burn(id);
        VM.stopPrank();
    }

    function test_an_approved_operator_is_not_the_owner_of_the_node() public {
        VM.prank(ALICE);
        token.setApprovalForAll(BOB, true);
        VM.expectRevert(abi.encodeWithSelector(IDstackClusterNFT.NotTokenOwner.selector, id, BOB));
        VM.prank(BOB);
        cluster.deactivate(id);
        VM.prank(BOB);
        token.transferFrom(ALICE, BOB, id); // that much an approval says
        mustBeGone(id, who);
    }

    function test_bind_refuses_zero_an_active_node_and_a_missing_token() public {
        VM.startPrank(ALICE);
        VM.expectRevert(IDstackClusterNFT.ZeroInstanceId.selector);
        cluster.bind(id, 0, address(0));
        VM.expectRevert(abi.encodeWithSelector(IDstackClusterNFT.NodeActive.selector, id));
        cluster.bind(id, instance(2), address(0));
        VM.expectRevert(abi.encodeWithSelector(IERC721Errors.ERC721NonexistentToken.selector, 77));
        cluster.bind(77, instance(2), address(0));
        VM.stopPrank();
    }

    function test_missing_tokens_cannot_be_revoked_or_reinstated() public {
        VM.startPrank(OWNER);
        VM.expectRevert(abi.encodeWithSelector(IERC721Errors.ERC721NonexistentToken.selector, 77));
        cluster.revoke(77);
        VM.expectRevert(abi.encodeWithSelector(IERC721Errors.ERC721NonexistentToken.selector, 77));
        cluster.reinstate(77);
        VM.expectRevert(abi.encodeWithSelector(IDstackClusterNFT.NodeNotRevoked.selector, id));
        cluster.reinstate(id);
        VM.stopPrank();
    }

    function testFuzz_bind(bytes20 first, bytes20 second) public {
        uint256 other = mint(BOB, first);
        eq(bytes32(cluster.getNode(other).instanceId), bytes32(first), "bound at mint");
        VM.startPrank(BOB);
        if (second == 0) {
            VM.expectRevert(IDstackClusterNFT.ZeroInstanceId.selector);
            cluster.bind(other, second, address(0));
        } else {
            uint64 epoch = cluster.epoch();
            VM.expectEmit(address(cluster));
            emit IDstackClusterNFT.NodeBound(other, second, address(0), epoch + 1);
            cluster.bind(other, second, address(0));
            eq(bytes32(cluster.getNode(other).instanceId), bytes32(second), "bound again");
            eq(cluster.tokenOfInstance(second), 0, "and nothing reserved");
        }
        VM.stopPrank();
    }

    // -------------------------------------------------------------------------------------------------- helpers

    /// What was signed before stays refused where its very instance is bound again; what is signed then is accepted.
    function mustBeVoid(IDstackClusterNFT.Registration memory unsubmitted, address owner) private {
        VM.prank(owner);
        cluster.bind(id, who.instanceId, address(0));
        uint32 next = registration(id, who).keyEpoch;
        yes(next > unsubmitted.keyEpoch, "what was signed before is spent");
        submitExpecting(unsubmitted, who, wrongKeyEpoch(next, unsubmitted.keyEpoch));
        submit(registration(id, who), who);
        mustBePeer(id);
    }

    function wrongKeyEpoch(uint32 expected, uint32 given) private view returns (bytes memory) {
        return abi.encodeWithSelector(IDstackClusterNFT.WrongKeyEpoch.selector, id, expected, given);
    }

    function expectCleared(IDstackClusterNFT.LeaveReason reason) private {
        (uint32 keyEpoch, uint64 epoch) = (cluster.getNode(id).keyEpoch, cluster.epoch());
        VM.expectEmit(address(cluster));
        emit IDstackClusterNFT.NodeCleared(id, reason, keyEpoch + 1, epoch + 1);
    }

    /// It is out, its key and instance are free, and what it signed before and signs now is refused alike.
    function mustStayOut(bytes memory revertData) private {
        mustBeGone(id, who);
        eq(cluster.tokenOfWireguardKey(old.wireguardKey), 0, "the key is free");
        eq(cluster.peerCount(), 0, "no peer is counted");
        (IDstackClusterNFT.Peer[] memory page, uint256 next) = cluster.peers(0, 10);
        eq(page.length + next, 0, "no peer is listed");
        eq(cluster.getPeerEndpoints().length, 0, "no endpoint is listed");
        IDstackClusterNFT.Node memory node = cluster.getNode(id);
        eq(node.memberAddress, address(0), "no member address");

        bytes memory spent = revertData;
        if (bytes4(revertData) == IDstackClusterNFT.InstanceMismatch.selector) {
            spent = wrongKeyEpoch(4, 2);
        }
        submitExpecting(old, who, spent);
        submitExpecting(registration(id, who), who, revertData);
    }
}
