// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IDstackClusterNFT} from "../src/interfaces/IDstackClusterNFT.sol";
import {ILeaderElection} from "../src/interfaces/ILeaderElection.sol";
import {VM} from "./Vm.sol";
import {ClusterTest} from "./support/ClusterTest.sol";
import {Actor, Vote} from "./support/Signing.sol";

/// An app with a real dstack KMS behind it, or a sibling instance of an allowed app, goes for a token that is bound to a victim, and
/// for the victim once it is a peer. A sibling derives the victim's node key: what that is good for, and what not, is said in
/// `registerPeer`; a sibling's own tests show it with a node key of its own and with the right one.
contract MaliciousAppTest is ClusterTest {
    address internal constant EVIL = address(0xBAD);

    Actor internal victim;
    address internal MEMBER; // the victim's
    uint256 internal id; // bound to the victim's instance

    function setUp() public override {
        super.setUp();
        victim = actor(1);
        MEMBER = VM.addr(victim.memberKey);
        id = mint(ALICE, victim.instanceId);
    }

    // --------------------------------------------------------------------------- another app of the same KMS root

    function testFuzz_another_app_under_its_own_id(address appId, uint256 appKey) public {
        if (appId == address(cluster)) return;
        Actor memory evil = as_(appId, appKey);
        refused(evil, abi.encodeWithSelector(IDstackClusterNFT.AppIdNotAllowed.selector, appId));
    }

    /// The KMS signed for another app id, so under ours its signature recovers to another key.
    function testFuzz_another_app_under_our_id(uint256 appKey) public {
        Actor memory evil = as_(EVIL, appKey);
        IDstackClusterNFT.SignatureChain memory chain = chainOf(evil);
        chain.appId = address(cluster);
        refusedPartially(evil, chain, IDstackClusterNFT.KmsRootNotTrusted.selector);
    }

    /// Our app's key and the KMS signature over it are public once a peer registered; what they vouch for is not.
    function testFuzz_another_app_with_our_kms_signature(uint256 appKey) public {
        Actor memory evil = as_(address(cluster), appKey);
        IDstackClusterNFT.SignatureChain memory ours = chainOf(victim);
        IDstackClusterNFT.SignatureChain memory chain = chainWith(evil, PURPOSE, ours.kmsSignature);
        refusedPartially(evil, chain, IDstackClusterNFT.KmsRootNotTrusted.selector);

        (chain.appKeyX, chain.appKeyY) = (ours.appKeyX, ours.appKeyY);
        IDstackClusterNFT.Registration memory r = registration(id, evil);
        submitExpecting(
            r,
            evil,
            chain,
            sign(r, evil.nodeKey, address(cluster)),
            abi.encodeWithSelector(
                IDstackClusterNFT.AppSignatureMismatch.selector, VM.addr(evil.appKey), VM.addr(victim.appKey)
            )
        );
    }

    function testFuzz_a_kms_of_its_own(uint256 rootKey) public {
        Actor memory evil = victim;
        evil.rootKey = within(rootKey, 1, CURVE_ORDER - 1);
        if (evil.rootKey == secret("root", 0)) return;
        refused(evil, abi.encodeWithSelector(IDstackClusterNFT.KmsRootNotTrusted.selector, VM.addr(evil.rootKey)));
    }

    /// Keys that our app hands its containers for other purposes sign no registrations.
    function test_a_key_of_our_app_for_another_purpose() public {
        string[4] memory purposes = ["", "dstack-mesh-node-v2", "dstack-mesh-node-v1:", "ethereum"];
        for (uint256 i = 0; i < purposes.length; ++i) {
            refusedPartially(victim, chainOf(victim, purposes[i]), IDstackClusterNFT.AppSignatureMismatch.selector);
        }
    }

    // --------------------------------------------------------------------------------- another instance of our app

    function test_another_instances_whole_registration() public {
        submitExpecting(
            registration(id, actor(2)),
            actor(2),
            abi.encodeWithSelector(
                IDstackClusterNFT.InstanceMismatch.selector, id, victim.instanceId, actor(2).instanceId
            )
        );
    }

    function test_another_instances_signature_under_the_victims_registration() public {
        IDstackClusterNFT.Registration memory r = registration(id, victim);
        address signer = VM.addr(actor(2).nodeKey);
        submitExpecting(
            r,
            victim,
            chainOf(victim),
            sign(r, actor(2).nodeKey, address(cluster)),
            abi.encodeWithSelector(IDstackClusterNFT.NodeSignatureMismatch.selector, signer, VM.addr(victim.nodeKey))
        );
    }

    /// With a node key of its own, or with the victim's, which every instance of the app can derive: it rotates nothing, whether it
    /// names its own member key, the victim's, or none.
    function test_a_sibling_does_not_rotate_a_registered_node() public {
        submit(registration(id, victim), victim);
        bytes32 peer = keccak256(abi.encode(cluster.getPeer(id)));
        for (uint256 kind = 0; kind < 2; ++kind) {
            Actor memory evil = sibling(kind);
            address own = VM.addr(evil.memberKey);
            IDstackClusterNFT.Registration memory r = registration(id, evil);
            submitExpecting(r, evil, mismatch(MEMBER, own));
            r.memberAddress = MEMBER;
            submitExpecting(r, evil, unsigned(own));
            r.memberAddress = address(0);
            submitExpecting(r, evil, mismatch(MEMBER, address(0)));
        }
        eq(keccak256(abi.encode(cluster.getPeer(id))), peer, "as it was");
    }

    /// Not even with the victim's own member signature of another registration, or of what it signed before.
    function test_a_sibling_does_not_reuse_a_member_signature() public {
        IDstackClusterNFT.Registration memory first = registration(id, victim);
        bytes memory spent = sign(first, victim.memberKey, address(cluster));
        submit(first, victim);
        Actor memory evil = sibling(1);
        evil.memberKey = victim.memberKey;
        IDstackClusterNFT.Registration memory r = registration(id, evil); // a WireGuard key of its own
        IDstackClusterNFT.SignatureChain memory chain = chainOf(evil);
        bytes memory byNode = sign(r, evil.nodeKey, address(cluster));
        VM.expectPartialRevert(IDstackClusterNFT.MemberSignatureMismatch.selector);
        cluster.registerPeer(r, chain, byNode, spent);
    }

    function test_a_sibling_does_not_move_a_registered_node() public {
        submit(registration(id, victim), victim);
        IDstackClusterNFT.EndpointUpdate memory u = endpointUpdate(id);
        uint256[3] memory keys = [victim.nodeKey, actor(2).nodeKey, actor(2).memberKey];
        for (uint256 i = 0; i < keys.length; ++i) {
            bytes memory signature = sign(u, keys[i], address(cluster));
            VM.expectRevert(unsigned(VM.addr(keys[i])));
            cluster.updateEndpoint(u, signature);
        }
        move(u, victim);
        eq(cluster.getPeer(id).endpointPort, u.endpointPort, "the victim does");
    }

    /// One instance of an app that derives every sibling's node key has one vote: f + 1 votes need f + 1 members.
    function test_a_sibling_casts_no_vote_but_its_own() public {
        submit(registration(id, victim), victim);
        for (uint256 i = 2; i <= 5; ++i) {
            join(i);
        }
        eq(cluster.electLeader(), MEMBER, "the victim leads");
        eq(cluster.requiredVotes(), 3, "three depose");
        Actor memory evil = actor(2);
        for (uint256 i = 3; i <= 5; ++i) {
            address member = VM.addr(actor(i).memberKey);
            address node = VM.addr(actor(i).nodeKey);
            Vote memory vote = Vote(i, 1, MEMBER, true, uint64(block.timestamp + 1 hours));
            bytes memory signature = signFor(vote, actor(i).nodeKey, address(cluster), block.chainid);
            VM.expectRevert(abi.encodeWithSelector(IDstackClusterNFT.MemberSignatureMismatch.selector, node, member));
            cluster.castVoteBySig(i, 1, MEMBER, true, vote.deadline, signature);
            signature = signFor(vote, evil.memberKey, address(cluster), block.chainid);
            VM.expectPartialRevert(IDstackClusterNFT.MemberSignatureMismatch.selector);
            cluster.castVoteBySig(i, 1, MEMBER, true, vote.deadline, signature);
            VM.expectRevert(abi.encodeWithSelector(ILeaderElection.NotAMember.selector, node));
            VM.prank(node);
            cluster.castVote(1, MEMBER, true);
        }
        VM.prank(VM.addr(evil.memberKey));
        cluster.castVote(1, MEMBER, true);
        eq(cluster.noConfidenceCount(MEMBER), 1, "one instance, one vote");
        eq(cluster.currentLeader(), MEMBER, "and the leader stands");
    }

    /// With a token of its own it takes neither the victim's instance id, nor its WireGuard key, nor its member key.
    function test_a_sibling_with_a_token_of_its_own() public {
        submit(registration(id, victim), victim);
        Actor memory evil = sibling(1);
        uint256 own = mint(BOB, evil.instanceId);
        submitExpecting(
            registration(own, evil),
            evil,
            abi.encodeWithSelector(IDstackClusterNFT.InstanceInUse.selector, victim.instanceId, id)
        );
        own = mint(BOB, actor(2).instanceId);
        IDstackClusterNFT.Registration memory r = registration(own, actor(2));
        r.wireguardKey = cluster.getPeer(id).wireguardKey;
        submitExpecting(
            r, actor(2), abi.encodeWithSelector(IDstackClusterNFT.WireguardKeyInUse.selector, r.wireguardKey, id)
        );
        r = registration(own, actor(2));
        r.memberAddress = MEMBER;
        submitExpecting(r, actor(2), unsigned(VM.addr(actor(2).memberKey)));
    }

    /// What is left to it: before the victim registered, the two cannot be distinguished. Then the victim is refused, and says so, and
    /// its token's owner takes the token back; once the victim is there it stays.
    function test_a_sibling_that_is_first_stays_until_the_owner_takes_the_token_back() public {
        Actor memory evil = sibling(1);
        submit(registration(id, evil), evil);
        mustBePeer(id);
        submitExpecting(registration(id, victim), victim, mismatch(VM.addr(evil.memberKey), MEMBER));

        VM.startPrank(ALICE);
        cluster.deactivate(id);
        cluster.bind(id, victim.instanceId, address(0));
        VM.stopPrank();
        submit(registration(id, victim), victim);
        eq(cluster.getPeer(id).memberAddress, MEMBER, "the victim");
        submitExpecting(registration(id, evil), evil, mismatch(MEMBER, VM.addr(evil.memberKey)));
    }

    function test_a_sibling_that_is_first_is_revoked() public {
        Actor memory evil = sibling(0);
        submit(registration(id, evil), evil);
        VM.prank(OWNER);
        cluster.revoke(id);
        mustBeGone(id, evil);
        submitExpecting(
            registration(id, evil), evil, abi.encodeWithSelector(IDstackClusterNFT.NodeRevoked.selector, id)
        );
    }

    /// Who reads a node's member key is that node, until it is revoked.
    function test_a_stolen_member_key_moves_its_node_until_it_is_revoked() public {
        submit(registration(id, victim), victim);
        move(endpointUpdate(id), victim);
        eq(cluster.getPeer(id).endpointEpoch, 1, "moved");
        VM.prank(OWNER);
        cluster.revoke(id);
        moveExpecting(endpointUpdate(id), victim, abi.encodeWithSelector(IDstackClusterNFT.NodeNotActive.selector, id));
    }

    // ------------------------------------------------------------------------------- an instance of another allowed app

    /// Of a token that is bound for one app alone, by mint or by bind.
    function test_another_allowed_app_takes_no_token_that_is_bound_for_ours() public {
        addApp(EVIL);
        Actor memory evil = as_(EVIL, 7);
        bytes memory refusal = abi.encodeWithSelector(IDstackClusterNFT.AppIdMismatch.selector, 2, cluster, EVIL);
        VM.prank(OWNER);
        eq(cluster.mint(ALICE, victim.instanceId, address(cluster)), 2, "for our app");
        eq(cluster.getNode(2).boundAppId, address(cluster), "and it says so");
        submitExpecting(registration(2, evil), evil, refusal);
        submit(registration(2, victim), victim);
        VM.prank(ALICE);
        cluster.deactivate(2);
        eq(cluster.getNode(2).boundAppId, address(0), "cleared with the binding");

        VM.startPrank(ALICE);
        cluster.bind(2, victim.instanceId, address(0));
        cluster.bind(2, victim.instanceId, address(cluster));
        VM.stopPrank();
        submitExpecting(registration(2, evil), evil, refusal);

        // Bound for the other one, it is refused to ours; for any, first come, first served.
        VM.prank(ALICE);
        cluster.bind(2, victim.instanceId, EVIL);
        eq(cluster.getNode(2).boundAppId, EVIL, "replaced");
        submitExpecting(
            registration(2, victim),
            victim,
            abi.encodeWithSelector(IDstackClusterNFT.AppIdMismatch.selector, 2, EVIL, cluster)
        );
        VM.prank(ALICE);
        cluster.bind(2, victim.instanceId, address(0));
        eq(cluster.getNode(2).boundAppId, address(0), "any allowed app");
        submit(registration(2, evil), evil);
        mustBePeer(2);
    }

    /// The pin holds for every later registration of the binding too, and ends with the token's id.
    function test_a_pinned_peer_does_not_move_to_another_app() public {
        addApp(EVIL);
        VM.prank(OWNER);
        cluster.mint(ALICE, victim.instanceId, address(cluster));
        submit(registration(2, victim), victim);
        Actor memory moved = victim;
        moved.appId = EVIL;
        submitExpecting(
            registration(2, moved),
            moved,
            abi.encodeWithSelector(IDstackClusterNFT.AppIdMismatch.selector, 2, cluster, EVIL)
        );
        VM.prank(ALICE);
        cluster.burn(2);
        eq(mint(BOB, victim.instanceId), 2, "the same id");
        eq(cluster.getNode(2).boundAppId, address(0), "for any app");
        submit(registration(2, moved), moved);
    }

    // --------------------------------------------------------------------------------- signatures out of their place

    function test_an_update_signed_for_another_contract_or_chain() public {
        submit(registration(id, victim), victim);
        IDstackClusterNFT.EndpointUpdate memory u = endpointUpdate(id);
        bytes memory elsewhere = sign(u, victim.memberKey, address(0xC0FFEE));
        VM.expectPartialRevert(IDstackClusterNFT.MemberSignatureMismatch.selector);
        cluster.updateEndpoint(u, elsewhere);
        bytes memory here = sign(u, victim.memberKey, address(cluster));
        VM.chainId(block.chainid + 1);
        VM.expectPartialRevert(IDstackClusterNFT.MemberSignatureMismatch.selector);
        cluster.updateEndpoint(u, here);
    }

    /// What was signed as one thing is not taken for another.
    function test_one_kind_of_signature_for_another() public {
        submit(registration(id, victim), victim);
        IDstackClusterNFT.Registration memory r = registration(id, victim);
        IDstackClusterNFT.EndpointUpdate memory u = endpointUpdate(id);
        Vote memory vote = Vote(id, 0, MEMBER, true, u.deadline);
        bytes memory ofRegistration = sign(r, victim.memberKey, address(cluster));
        bytes memory ofUpdate = sign(u, victim.memberKey, address(cluster));
        bytes memory ofVote = signFor(vote, victim.memberKey, address(cluster), block.chainid);

        bytes4 refusal = IDstackClusterNFT.MemberSignatureMismatch.selector;
        VM.expectPartialRevert(refusal);
        cluster.updateEndpoint(u, ofRegistration);
        VM.expectPartialRevert(refusal);
        cluster.updateEndpoint(u, ofVote);
        IDstackClusterNFT.SignatureChain memory chain = chainOf(victim);
        bytes memory byNode = sign(r, victim.nodeKey, address(cluster));
        VM.expectPartialRevert(refusal);
        cluster.registerPeer(r, chain, byNode, ofUpdate);
        VM.expectPartialRevert(refusal);
        cluster.registerPeer(r, chain, byNode, ofVote);
        VM.expectPartialRevert(refusal);
        cluster.registerPeer(r, chain, byNode, byNode); // of the right words, by the wrong key
        VM.expectPartialRevert(IDstackClusterNFT.NodeSignatureMismatch.selector);
        cluster.registerPeer(r, chain, ofRegistration, ofRegistration);
        VM.expectPartialRevert(refusal);
        cluster.castVoteBySig(id, 0, vote.target, true, vote.deadline, ofUpdate);
        // A plain EIP-191 message of the same hash is no EIP-712 signature either.
        bytes32 digest = keccak256(abi.encodePacked("\x19Ethereum Signed Message:\n32", keccak256(abi.encode(u))));
        bytes memory personal = ethereumSign(victim.memberKey, digest);
        VM.expectPartialRevert(refusal);
        cluster.updateEndpoint(u, personal);
    }

    // ------------------------------------------------------------------------------------------- key and endpoint epochs

    function testFuzz_an_update_of_another_key_epoch(uint32 given) public {
        submit(registration(id, victim), victim);
        IDstackClusterNFT.EndpointUpdate memory u = endpointUpdate(id);
        if (given == u.keyEpoch) return;
        uint32 expected = u.keyEpoch;
        u.keyEpoch = given;
        moveExpecting(u, victim, wrongKeyEpoch(expected, given));
    }

    function testFuzz_an_update_that_jumps_the_endpoint_epoch(uint32 given) public {
        submit(registration(id, victim), victim);
        move(endpointUpdate(id), victim);
        IDstackClusterNFT.EndpointUpdate memory u = endpointUpdate(id);
        eq(u.endpointEpoch, 2, "the second");
        if (given == 2) return;
        u.endpointEpoch = given;
        moveExpecting(u, victim, abi.encodeWithSelector(IDstackClusterNFT.WrongEndpointEpoch.selector, id, 2, given));
    }

    /// An update spends nothing of the key epoch, so that a record's key epoch is the one its registration was signed with; a
    /// registration ends the updates of the one before.
    function test_a_registration_after_an_update_and_an_update_after_a_registration() public {
        submit(registration(id, victim), victim);
        IDstackClusterNFT.Registration memory r = registration(id, victim);
        IDstackClusterNFT.EndpointUpdate memory u = endpointUpdate(id);
        move(u, victim);
        IDstackClusterNFT.EndpointUpdate memory late = endpointUpdate(id);
        submit(r, victim);
        eq(cluster.getPeer(id).keyEpoch, r.keyEpoch, "as signed");
        eq(cluster.getPeer(id).endpointEpoch, 0, "counted from here");
        moveExpecting(u, victim, wrongKeyEpoch(r.keyEpoch, u.keyEpoch));
        moveExpecting(late, victim, wrongKeyEpoch(r.keyEpoch, late.keyEpoch));
    }

    function test_an_update_after_burn_and_mint_of_the_same_node() public {
        submit(registration(id, victim), victim);
        IDstackClusterNFT.EndpointUpdate memory u = endpointUpdate(id);
        VM.prank(ALICE);
        cluster.burn(id);
        eq(mint(ALICE, victim.instanceId), id, "the same id");
        submit(registration(id, victim), victim);
        moveExpecting(u, victim, wrongKeyEpoch(cluster.getNode(id).keyEpoch, u.keyEpoch));
    }

    // --------------------------------------------------------------------------------------- roots and apps re-added

    function test_a_spent_registration_under_a_root_that_came_back() public {
        IDstackClusterNFT.Registration memory r = registration(id, victim);
        r.deadline = uint64(block.timestamp + 1 days);
        submit(r, victim);
        address root = VM.addr(victim.rootKey);
        VM.startPrank(OWNER);
        cluster.removeKmsRoot(root);
        cluster.addKmsRoot(root);
        VM.stopPrank();
        uint256 effectiveAt = block.timestamp + cluster.KMS_ROOT_DELAY();
        VM.warp(effectiveAt - 1); // the very last second of the signature
        submitExpecting(
            registration(id, victim),
            victim,
            abi.encodeWithSelector(IDstackClusterNFT.KmsRootNotYetEffective.selector, root, effectiveAt)
        );
        submitExpecting(r, victim, wrongKeyEpoch(r.keyEpoch + 1, r.keyEpoch));
        mustBeGone(id, victim);
    }

    function test_spent_signatures_under_an_app_that_came_back() public {
        IDstackClusterNFT.Registration memory r = registration(id, victim);
        submit(r, victim);
        IDstackClusterNFT.EndpointUpdate memory u = endpointUpdate(id);
        VM.startPrank(OWNER);
        cluster.removeAppId(address(cluster));
        cluster.addAppId(address(cluster));
        VM.stopPrank();
        submitExpecting(
            r, victim, abi.encodeWithSelector(IDstackClusterNFT.WrongKeyEpoch.selector, id, r.keyEpoch + 1, r.keyEpoch)
        );
        moveExpecting(u, victim, abi.encodeWithSelector(IDstackClusterNFT.NodeNotActive.selector, id));
        mustBeGone(id, victim);
    }

    function test_an_app_that_was_taken_off_the_list() public {
        addApp(EVIL);
        Actor memory evil = as_(EVIL, 7);
        submit(registration(id, evil), evil);
        VM.prank(OWNER);
        cluster.removeAppId(EVIL);
        mustBeGone(id, evil);
        refused(evil, abi.encodeWithSelector(IDstackClusterNFT.AppIdNotAllowed.selector, EVIL));
    }

    // ------------------------------------------------------------------------ keys and signatures without a signer

    function test_public_keys_off_the_curve() public {
        IDstackClusterNFT.Registration memory r = registration(id, victim);
        bytes memory signature = sign(r, victim.nodeKey, address(cluster));
        bytes memory expected = abi.encodeWithSelector(IDstackClusterNFT.InvalidPublicKey.selector);
        bytes32 p = 0xfffffffffffffffffffffffffffffffffffffffffffffffffffffffefffffc2f;

        IDstackClusterNFT.SignatureChain memory chain = chainOf(victim);
        (chain.nodeKeyX, chain.nodeKeyY) = (0, 0);
        submitExpecting(r, victim, chain, signature, expected);
        chain = chainOf(victim);
        (chain.appKeyX, chain.appKeyY) = (0, 0);
        submitExpecting(r, victim, chain, signature, expected);
        chain = chainOf(victim);
        chain.nodeKeyY = bytes32(uint256(chain.nodeKeyY) + 2); // same parity, so the app key's signature still fits
        submitExpecting(r, victim, chain, signature, expected);
        chain = chainOf(victim);
        chain.appKeyY = bytes32(uint256(chain.appKeyY) ^ 2);
        submitExpecting(r, victim, chain, signature, expected);
        chain = chainOf(victim);
        chain.nodeKeyX = p;
        submitExpecting(r, victim, chain, signature, expected);
        chain = chainOf(victim);
        chain.appKeyY = p;
        submitExpecting(r, victim, chain, signature, expected);
    }

    /// ecrecover answers zero for each of these, whatever was signed.
    function testFuzz_signatures_that_recover_to_no_signer(bytes32 s, uint8 kind) public {
        s = bytes32(within(uint256(s), 1, CURVE_ORDER / 2));
        bytes32 r = kind % 3 == 0 ? bytes32(0) : kind % 3 == 1 ? bytes32(CURVE_ORDER) : bytes32(type(uint256).max);
        bytes memory unrecoverable = abi.encodePacked(r, s, uint8(27 + kind % 2));
        bytes memory expected = abi.encodeWithSelector(IDstackClusterNFT.InvalidSignature.selector);
        everySignatureAs(unrecoverable, expected);
        everySignatureAs(abi.encodePacked(s, bytes32(0), uint8(27)), expected);
    }

    function test_a_malleated_update() public {
        submit(registration(id, victim), victim);
        IDstackClusterNFT.EndpointUpdate memory u = endpointUpdate(id);
        bytes memory signature = malleated(sign(u, victim.memberKey, address(cluster)));
        VM.expectRevert(IDstackClusterNFT.InvalidSignature.selector);
        cluster.updateEndpoint(u, signature);
    }

    /// In each of the four places of a registration, and in an update of a peer.
    function everySignatureAs(bytes memory signature, bytes memory expected) private {
        IDstackClusterNFT.Registration memory r = registration(id, victim);
        submitExpecting(r, victim, chainOf(victim), signature, expected);
        bytes memory good = sign(r, victim.nodeKey, address(cluster));
        IDstackClusterNFT.SignatureChain memory chain = chainOf(victim);
        chain.appSignature = signature;
        submitExpecting(r, victim, chain, good, expected);
        chain = chainOf(victim);
        chain.kmsSignature = signature;
        submitExpecting(r, victim, chain, good, expected);
        chain = chainOf(victim);
        VM.expectRevert(expected);
        cluster.registerPeer(r, chain, good, signature);
        uint256 peer = isPeer(2) ? 2 : join(2);
        IDstackClusterNFT.EndpointUpdate memory u = endpointUpdate(peer);
        VM.expectRevert(expected);
        cluster.updateEndpoint(u, signature);
    }

    // ----------------------------------------------------------------------------------------------------- helpers

    /// Another instance of the victim's app that calls itself the victim: with a node key of its own (0) or the victim's (1).
    function sibling(uint256 kind) private view returns (Actor memory evil) {
        evil = actor(2);
        evil.instanceId = victim.instanceId;
        if (kind == 1) evil.nodeKey = victim.nodeKey;
    }

    /// Another member address than the one that the binding has.
    function mismatch(address expected, address given) private view returns (bytes memory) {
        return abi.encodeWithSelector(IDstackClusterNFT.MemberAddressMismatch.selector, id, expected, given);
    }

    /// Signed by `signer` instead of the victim's member key.
    function unsigned(address signer) private view returns (bytes memory) {
        return abi.encodeWithSelector(IDstackClusterNFT.MemberSignatureMismatch.selector, signer, MEMBER);
    }

    function wrongKeyEpoch(uint32 expected, uint32 given) private view returns (bytes memory) {
        return abi.encodeWithSelector(IDstackClusterNFT.WrongKeyEpoch.selector, id, expected, given);
    }

    /// An app of the trusted KMS with a key of its own, whose instance calls itself the victim.
    function as_(address appId, uint256 appKey) private view returns (Actor memory evil) {
        evil = victim;
        evil.appId = appId;
        evil.appKey = within(appKey, 1, CURVE_ORDER - 1);
        if (evil.appKey == victim.appKey) evil.appKey = 1;
        evil.nodeKey = secret("evil node", 1);
        evil.memberKey = secret("evil member", 1);
    }

    function refused(Actor memory evil, bytes memory revertData) private {
        submitExpecting(registration(id, evil), evil, revertData);
    }

    function refusedPartially(Actor memory evil, IDstackClusterNFT.SignatureChain memory chain, bytes4 selector)
        private
    {
        IDstackClusterNFT.Registration memory r = registration(id, evil);
        bytes memory signature = sign(r, evil.nodeKey, address(cluster));
        VM.expectPartialRevert(selector);
        cluster.registerPeer(r, chain, signature, sign(r, evil.memberKey, address(cluster)));
    }
}
