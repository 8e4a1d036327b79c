// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IDstackClusterNFT} from "../src/interfaces/IDstackClusterNFT.sol";
import {VM} from "./Vm.sol";
import {ClusterTest} from "./support/ClusterTest.sol";
import {Actor, Vote} from "./support/Signing.sol";

/// An app with a real dstack KMS behind it, or a sibling instance of an allowed app, goes for a token that is bound to a victim, and
/// for the victim once it is a peer. What one instance of an app can do to another is said in `registerPeer`; the tests that end
/// in `until_it_is_revoked` show it.
contract MaliciousAppTest is ClusterTest {
    address internal constant EVIL = address(0xBAD);

    Actor internal victim;
    uint256 internal id; // bound to the victim's instance

    function setUp() public override {
        super.setUp();
        victim = actor(1);
        id = mint(ALICE, victim.instanceId);
    }

    // --------------------------------------------------------------------------- another app of the same KMS root

    function testFuzz_another_app_under_its_own_id(address appId, uint256 appKey) public {
        if (appId == address(cluster)) return;
        Actor memory evil = as_(appId, appKey);
        refused(evil, abi.encodeWithSelector(IDstackClusterNFT.AppIdNotAllowed.selector, appId));
    }

    /// The KMS signed for another app id, so under ours its signature is somebody else's.
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
            chainOf(victim),
            sign(r, actor(2).nodeKey, address(cluster)),
            abi.encodeWithSelector(IDstackClusterNFT.NodeSignatureMismatch.selector, signer, VM.addr(victim.nodeKey))
        );
    }

    function test_a_sibling_after_the_victim_registered() public {
        submit(registration(id, victim), victim);
        Actor memory sibling = actor(2);
        sibling.instanceId = victim.instanceId;
        address node = VM.addr(victim.nodeKey);
        submitExpecting(
            registration(id, sibling),
            sibling,
            abi.encodeWithSelector(IDstackClusterNFT.NodeAddressMismatch.selector, id, node, VM.addr(sibling.nodeKey))
        );
        // With a token of its own it takes neither the victim's instance id nor its WireGuard key.
        uint256 own = mint(BOB, sibling.instanceId);
        submitExpecting(
            registration(own, sibling),
            sibling,
            abi.encodeWithSelector(IDstackClusterNFT.InstanceInUse.selector, victim.instanceId, id)
        );
        own = mint(BOB, actor(2).instanceId);
        IDstackClusterNFT.Registration memory r = registration(own, actor(2));
        r.wireguardKey = cluster.getPeer(id).wireguardKey;
        submitExpecting(
            r, actor(2), abi.encodeWithSelector(IDstackClusterNFT.WireguardKeyInUse.selector, r.wireguardKey, id)
        );
    }

    /// Before the victim registered, the two cannot be told apart.
    function test_a_sibling_that_is_first_stays_until_it_is_revoked() public {
        Actor memory sibling = actor(2);
        sibling.instanceId = victim.instanceId;
        submit(registration(id, sibling), sibling);
        VM.prank(OWNER);
        cluster.revoke(id);
        mustBeGone(id, sibling);
        submitExpecting(
            registration(id, sibling), sibling, abi.encodeWithSelector(IDstackClusterNFT.NodeRevoked.selector, id)
        );
    }

    /// A sibling derives the victim's node key (dstack gives every instance of an app the same keys), and so is the victim.
    function test_a_sibling_with_the_victims_node_key_moves_it_until_it_is_revoked() public {
        submit(registration(id, victim), victim);
        IDstackClusterNFT.EndpointUpdate memory u = endpointUpdate(id);
        cluster.updateEndpoint(u, sign(u, victim.nodeKey, address(cluster)));
        eq(cluster.getPeer(id).endpointPort, u.endpointPort, "moved");
        VM.prank(OWNER);
        cluster.revoke(id);
        u = endpointUpdate(id);
        bytes memory signature = sign(u, victim.nodeKey, address(cluster));
        VM.expectRevert(abi.encodeWithSelector(IDstackClusterNFT.NodeNotActive.selector, id));
        cluster.updateEndpoint(u, signature);
    }

    // --------------------------------------------------------------------------------- signatures out of their place

    function test_an_update_signed_for_another_contract_or_chain() public {
        submit(registration(id, victim), victim);
        IDstackClusterNFT.EndpointUpdate memory u = endpointUpdate(id);
        bytes memory elsewhere = sign(u, victim.nodeKey, address(0xC0FFEE));
        VM.expectPartialRevert(IDstackClusterNFT.NodeSignatureMismatch.selector);
        cluster.updateEndpoint(u, elsewhere);
        bytes memory here = sign(u, victim.nodeKey, address(cluster));
        VM.chainId(block.chainid + 1);
        VM.expectPartialRevert(IDstackClusterNFT.NodeSignatureMismatch.selector);
        cluster.updateEndpoint(u, here);
    }

    /// What was signed as one thing is not taken for another.
    function test_one_kind_of_signature_for_another() public {
        submit(registration(id, victim), victim);
        IDstackClusterNFT.Registration memory r = registration(id, victim);
        IDstackClusterNFT.EndpointUpdate memory u = endpointUpdate(id);
        Vote memory vote = Vote(id, 0, VM.addr(victim.nodeKey), true, u.deadline);
        bytes memory ofRegistration = sign(r, victim.nodeKey, address(cluster));
        bytes memory ofUpdate = sign(u, victim.nodeKey, address(cluster));
        bytes memory ofVote = signFor(vote, victim.nodeKey, address(cluster), block.chainid);

        bytes4 mismatch = IDstackClusterNFT.NodeSignatureMismatch.selector;
        VM.expectPartialRevert(mismatch);
        cluster.updateEndpoint(u, ofRegistration);
        VM.expectPartialRevert(mismatch);
        cluster.updateEndpoint(u, ofVote);
        IDstackClusterNFT.SignatureChain memory chain = chainOf(victim);
        VM.expectPartialRevert(mismatch);
        cluster.registerPeer(r, chain, ofUpdate);
        VM.expectPartialRevert(mismatch);
        cluster.registerPeer(r, chain, ofVote);
        VM.expectPartialRevert(mismatch);
        cluster.castVoteBySig(id, 0, vote.target, true, vote.deadline, ofUpdate);
        // A plain EIP-191 message of the same hash is no EIP-712 signature either.
        bytes32 digest = keccak256(abi.encodePacked("\x19Ethereum Signed Message:\n32", keccak256(abi.encode(u))));
        bytes memory personal = ethereumSign(victim.nodeKey, digest);
        VM.expectPartialRevert(mismatch);
        cluster.updateEndpoint(u, personal);
    }

    // -------------------------------------------------------------------------------------------------- key epochs

    function testFuzz_an_update_that_jumps_the_epoch(uint32 given) public {
        submit(registration(id, victim), victim);
        IDstackClusterNFT.EndpointUpdate memory u = endpointUpdate(id);
        if (given == u.keyEpoch) return;
        uint32 expected = u.keyEpoch;
        u.keyEpoch = given;
        bytes memory signature = sign(u, victim.nodeKey, address(cluster));
        VM.expectRevert(abi.encodeWithSelector(IDstackClusterNFT.WrongKeyEpoch.selector, id, expected, given));
        cluster.updateEndpoint(u, signature);
    }

    /// Two signatures of one epoch: whichever comes second is old, of whatever kind.
    function test_a_registration_and_an_update_of_one_epoch() public {
        submit(registration(id, victim), victim);
        IDstackClusterNFT.Registration memory r = registration(id, victim);
        IDstackClusterNFT.EndpointUpdate memory u = endpointUpdate(id);
        cluster.updateEndpoint(u, sign(u, victim.nodeKey, address(cluster)));
        submitExpecting(
            r, victim, abi.encodeWithSelector(IDstackClusterNFT.WrongKeyEpoch.selector, id, r.keyEpoch + 1, r.keyEpoch)
        );
    }

    function test_an_update_after_burn_and_mint_of_the_same_node() public {
        submit(registration(id, victim), victim);
        IDstackClusterNFT.EndpointUpdate memory u = endpointUpdate(id);
        bytes memory signature = sign(u, victim.nodeKey, address(cluster));
        VM.prank(ALICE);
        cluster.burn(id);
        eq(mint(ALICE, victim.instanceId), id, "the same id");
        submit(registration(id, victim), victim);
        uint32 next = cluster.getNode(id).keyEpoch + 1;
        VM.expectRevert(abi.encodeWithSelector(IDstackClusterNFT.WrongKeyEpoch.selector, id, next, u.keyEpoch));
        cluster.updateEndpoint(u, signature);
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
        submitExpecting(
            registration(id, victim),
            victim,
            abi.encodeWithSelector(IDstackClusterNFT.KmsRootNotYetEffective.selector, root, effectiveAt)
        );
        VM.warp(effectiveAt); // the very last second of the signature
        submitExpecting(
            r, victim, abi.encodeWithSelector(IDstackClusterNFT.WrongKeyEpoch.selector, id, r.keyEpoch + 1, r.keyEpoch)
        );
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
        bytes memory signature = sign(u, victim.nodeKey, address(cluster));
        VM.expectRevert(abi.encodeWithSelector(IDstackClusterNFT.NodeNotActive.selector, id));
        cluster.updateEndpoint(u, signature);
        mustBeGone(id, victim);
    }

    function test_an_app_that_was_taken_off_the_list() public {
        VM.prank(OWNER);
        cluster.addAppId(EVIL);
        Actor memory evil = as_(EVIL, 7);
        submit(registration(id, evil), evil);
        VM.prank(OWNER);
        cluster.removeAppId(EVIL);
        mustBeGone(id, evil);
        refused(evil, abi.encodeWithSelector(IDstackClusterNFT.AppIdNotAllowed.selector, EVIL));
    }

    // -------------------------------------------------------------------------------- keys and signatures of nobody

    function test_public_keys_off_the_curve() public {
        IDstackClusterNFT.Registration memory r = registration(id, victim);
        bytes memory signature = sign(r, victim.nodeKey, address(cluster));
        bytes memory expected = abi.encodeWithSelector(IDstackClusterNFT.InvalidPublicKey.selector);
        bytes32 p = 0xfffffffffffffffffffffffffffffffffffffffffffffffffffffffefffffc2f;

        IDstackClusterNFT.SignatureChain memory chain = chainOf(victim);
        (chain.nodeKeyX, chain.nodeKeyY) = (0, 0);
        submitExpecting(r, chain, signature, expected);
        chain = chainOf(victim);
        (chain.appKeyX, chain.appKeyY) = (0, 0);
        submitExpecting(r, chain, signature, expected);
        chain = chainOf(victim);
        chain.nodeKeyY = bytes32(uint256(chain.nodeKeyY) + 2); // same parity, so the app key's signature still fits
        submitExpecting(r, chain, signature, expected);
        chain = chainOf(victim);
        chain.appKeyY = bytes32(uint256(chain.appKeyY) ^ 2);
        submitExpecting(r, chain, signature, expected);
        chain = chainOf(victim);
        chain.nodeKeyX = p;
        submitExpecting(r, chain, signature, expected);
        chain = chainOf(victim);
        chain.appKeyY = p;
        submitExpecting(r, chain, signature, expected);
    }

    /// ecrecover answers zero for each of these, whatever was signed.
    function testFuzz_signatures_that_recover_to_nobody(bytes32 s, uint8 kind) public {
        s = bytes32(within(uint256(s), 1, CURVE_ORDER / 2));
        bytes32 r = kind % 3 == 0 ? bytes32(0) : kind % 3 == 1 ? bytes32(CURVE_ORDER) : bytes32(type(uint256).max);
        bytes memory nobodys = abi.encodePacked(r, s, uint8(27 + kind % 2));
        bytes memory expected = abi.encodeWithSelector(IDstackClusterNFT.InvalidSignature.selector);
        everySignatureAs(nobodys, expected);
        everySignatureAs(abi.encodePacked(s, bytes32(0), uint8(27)), expected);
    }

    function test_a_malleated_update() public {
        submit(registration(id, victim), victim);
        IDstackClusterNFT.EndpointUpdate memory u = endpointUpdate(id);
        bytes memory signature = malleated(sign(u, victim.nodeKey, address(cluster)));
        VM.expectRevert(IDstackClusterNFT.InvalidSignature.selector);
        cluster.updateEndpoint(u, signature);
    }

    /// In each of the three places of a registration, and in an update of a peer.
    function everySignatureAs(bytes memory signature, bytes memory expected) private {
        IDstackClusterNFT.Registration memory r = registration(id, victim);
        submitExpecting(r, chainOf(victim), signature, expected);
        bytes memory good = sign(r, victim.nodeKey, address(cluster));
        IDstackClusterNFT.SignatureChain memory chain = chainOf(victim);
        chain.appSignature = signature;
        submitExpecting(r, chain, good, expected);
        chain = chainOf(victim);
        chain.kmsSignature = signature;
        submitExpecting(r, chain, good, expected);
        uint256 peer = isPeer(2) ? 2 : join(2);
        IDstackClusterNFT.EndpointUpdate memory u = endpointUpdate(peer);
        VM.expectRevert(expected);
        cluster.updateEndpoint(u, signature);
    }

    // ----------------------------------------------------------------------------------------------------- helpers

    /// An app of the trusted KMS with a key of its own, whose instance calls itself the victim.
    function as_(address appId, uint256 appKey) private view returns (Actor memory evil) {
        evil = victim;
        evil.appId = appId;
        evil.appKey = within(appKey, 1, CURVE_ORDER - 1);
        if (evil.appKey == victim.appKey) evil.appKey = 1;
        evil.nodeKey = secret("evil node", 1);
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
        cluster.registerPeer(r, chain, signature);
    }
}
