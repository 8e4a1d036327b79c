// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IERC721Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";
import {OwnableUpgradeable} from "@openzeppelin/contracts-upgradeable/access/OwnableUpgradeable.sol";
import {IClusterPolicy} from "../src/interfaces/IClusterPolicy.sol";
import {IDstackClusterNFT} from "../src/interfaces/IDstackClusterNFT.sol";
import {ILeaderElection} from "../src/interfaces/ILeaderElection.sol";
import {VM} from "./Vm.sol";
import {ElectionTest} from "./support/ElectionTest.sol";
import {Actor} from "./support/Signing.sol";

/// BOB, who holds tokens and runs real nodes, attacks ALICE's node, a token that BOB sold, one that was revoked, and the
/// leader.
contract MaliciousHolderTest is ElectionTest {
    uint256 internal alices; // a peer: node 1
    uint256 internal bobs; // a peer: node 2

    function setUp() public override {
        super.setUp();
        alices = join(1);
        bobs = mint(BOB, instance(2));
        submit(registration(bobs, actor(2)), actor(2));
    }

    // ------------------------------------------------------------------------------------------ ALICE's token and node

    function test_bob_registers_a_node_for_alices_token() public {
        uint256 bound = mint(ALICE, instance(3));
        asBobExpecting(
            registration(bound, actor(2)),
            actor(2),
            abi.encodeWithSelector(IDstackClusterNFT.InstanceMismatch.selector, bound, instance(3), instance(2))
        );
        uint256 unbound = mint(ALICE, 0);
        asBobExpecting(
            registration(unbound, actor(2)),
            actor(2),
            abi.encodeWithSelector(IDstackClusterNFT.NodeUnbound.selector, unbound)
        );
    }

    /// The registration of ALICE's node for ALICE's unbound token, seen before it is mined, is valid only when ALICE sends it.
    function test_bob_submits_what_alices_node_signed_for_an_unbound_token() public {
        uint256 unbound = mint(ALICE, 0);
        asBobExpecting(
            registration(unbound, actor(3)),
            actor(3),
            abi.encodeWithSelector(IDstackClusterNFT.NodeUnbound.selector, unbound)
        );
    }

    /// The same fields with BOB's token are another message.
    function test_bob_puts_bobs_token_into_alices_registration() public {
        IDstackClusterNFT.Registration memory r = registration(alices, actor(1));
        bytes memory alicesSignature = sign(r, actor(1).nodeKey, address(cluster));
        uint256 unbound = mint(BOB, 0);
        (r.tokenId, r.keyEpoch) = (unbound, cluster.getNode(unbound).keyEpoch + 1);
        IDstackClusterNFT.SignatureChain memory chain = chainOf(actor(1));
        VM.expectPartialRevert(IDstackClusterNFT.NodeSignatureMismatch.selector);
        VM.prank(BOB);
        cluster.registerPeer(r, chain, alicesSignature, sign(r, actor(1).memberKey, address(cluster)));
    }

    function test_bob_claims_alices_instance_id_and_wireguard_key() public {
        uint256 own = mint(BOB, instance(1));
        Actor memory bobsNode = actor(3);
        bobsNode.instanceId = instance(1);
        asBobExpecting(
            registration(own, bobsNode),
            bobsNode,
            abi.encodeWithSelector(IDstackClusterNFT.InstanceInUse.selector, instance(1), alices)
        );
        IDstackClusterNFT.Registration memory r = registration(bobs, actor(2));
        r.wireguardKey = cluster.getPeer(alices).wireguardKey;
        asBobExpecting(
            r, actor(2), abi.encodeWithSelector(IDstackClusterNFT.WireguardKeyInUse.selector, r.wireguardKey, alices)
        );
    }

    function test_bob_manages_alices_token() public {
        VM.startPrank(BOB);
        bytes memory notOwner = abi.encodeWithSelector(IDstackClusterNFT.NotTokenOwner.selector, alices, BOB);
        VM.expectRevert(notOwner);
        cluster.bind(alices, instance(9), address(0));
        VM.expectRevert(notOwner);
        cluster.deactivate(alices);
        bytes memory notApproved =
            abi.encodeWithSelector(IERC721Errors.ERC721InsufficientApproval.selector, BOB, alices);
        VM.expectRevert(notApproved);
        cluster.burn(alices);
        VM.expectRevert(notApproved);
        token.transferFrom(ALICE, BOB, alices);
        VM.expectRevert(notApproved);
        token.safeTransferFrom(ALICE, BOB, alices);
        bytes memory notContractOwner =
            abi.encodeWithSelector(OwnableUpgradeable.OwnableUnauthorizedAccount.selector, BOB);
        VM.expectRevert(notContractOwner);
        cluster.revoke(alices);
        VM.expectRevert(notContractOwner);
        cluster.reinstate(alices);
        VM.stopPrank();
        mustBePeer(alices);
    }

    // --------------------------------------------------------------------------------------- a token that BOB sold

    /// BOB keeps the node, its keys and what it signed, and has neither a membership nor a vote.
    function test_bob_sells_a_token_and_keeps_the_node_running() public {
        election.electLeader();
        IDstackClusterNFT.Registration memory withheld = registration(bobs, actor(2));
        IDstackClusterNFT.EndpointUpdate memory u = endpointUpdate(bobs);
        bytes memory move = sign(u, actor(2).memberKey, address(cluster));
        bytes memory ballot = signed(voteOf(bobs), 2);
        VM.prank(BOB);
        token.transferFrom(BOB, STRANGER, bobs);

        mustBeGone(bobs, actor(2));
        asBobExpecting(withheld, actor(2), abi.encodeWithSelector(IDstackClusterNFT.NodeUnbound.selector, bobs));
        VM.prank(STRANGER); // the buyer even binds the same instance
        cluster.bind(bobs, instance(2), address(0));
        asBobExpecting(
            withheld,
            actor(2),
            abi.encodeWithSelector(
                IDstackClusterNFT.WrongKeyEpoch.selector, bobs, withheld.keyEpoch + 1, withheld.keyEpoch
            )
        );
        VM.expectRevert(notActive(bobs));
        cluster.updateEndpoint(u, move);
        castExpecting(2, addressOfMember(1), true, notAMember(addressOfMember(2)));
        relayExpecting(voteOf(bobs), ballot, notActive(bobs));
        VM.expectRevert(abi.encodeWithSelector(IDstackClusterNFT.NotTokenOwner.selector, bobs, BOB));
        VM.prank(BOB);
        cluster.deactivate(bobs);
    }

    function test_bob_keeps_an_approval_on_a_sold_token() public {
        VM.startPrank(BOB);
        token.approve(address(0xB0B2), bobs);
        token.transferFrom(BOB, STRANGER, bobs);
        VM.stopPrank();
        VM.expectRevert(abi.encodeWithSelector(IERC721Errors.ERC721InsufficientApproval.selector, 0xB0B2, bobs));
        VM.prank(address(0xB0B2));
        cluster.burn(bobs);
    }

    // ------------------------------------------------------------------------------------------- what was revoked

    function testFuzz_bob_was_revoked_and_tries_every_call(uint256 attempt) public {
        VM.prank(OWNER);
        cluster.revoke(bobs);
        bytes memory barred = abi.encodeWithSelector(IDstackClusterNFT.NodeRevoked.selector, bobs);
        attempt %= 5;
        address holder = BOB;
        if (attempt == 1) {
            // to another wallet of BOB's and there
            VM.prank(BOB);
            token.transferFrom(BOB, holder = address(0xB0B2), bobs);
        }
        if (attempt == 2) {
            // deactivating what is revoked
            VM.expectRevert(abi.encodeWithSelector(IDstackClusterNFT.NodeUnbound.selector, bobs));
            VM.prank(BOB);
            cluster.deactivate(bobs);
        }
        if (attempt == 3) {
            // by instance id
            VM.expectRevert(barred);
            VM.prank(BOB);
            cluster.registerInstance(hexOf(abi.encodePacked(instance(2))));
        }
        if (attempt == 4) {
            // with the root that admitted BOB's node gone and back
            address root = VM.addr(secret("root", 0));
            VM.startPrank(OWNER);
            cluster.removeKmsRoot(root);
            cluster.addKmsRoot(root);
            VM.stopPrank();
            VM.warp(block.timestamp + cluster.KMS_ROOT_DELAY());
        }
        VM.expectRevert(barred);
        VM.prank(holder);
        cluster.bind(bobs, instance(2), address(0));
        IDstackClusterNFT.Registration memory r = registration(bobs, actor(2));
        IDstackClusterNFT.SignatureChain memory chain = chainOf(actor(2));
        bytes memory signature = sign(r, actor(2).nodeKey, address(cluster));
        VM.expectRevert(barred);
        VM.prank(holder);
        cluster.registerPeer(r, chain, signature, sign(r, actor(2).memberKey, address(cluster)));
        mustBeGone(bobs, actor(2));
    }

    /// A burned id comes back clean, to the account that the contract owner gives or sells it to.
    function test_bob_was_revoked_and_burns() public {
        VM.prank(OWNER);
        cluster.revoke(bobs);
        VM.startPrank(BOB);
        cluster.burn(bobs);
        VM.expectRevert(abi.encodeWithSelector(IClusterPolicy.MintingNotPublic.selector, BOB));
        cluster.mintNodeAccess(BOB, "");
        VM.stopPrank();
        submitExpecting(
            registration(bobs, actor(2)),
            actor(2),
            abi.encodeWithSelector(IERC721Errors.ERC721NonexistentToken.selector, bobs)
        );
        VM.prank(OWNER);
        cluster.setMintingPolicy(0, true);
        VM.prank(BOB);
        eq(cluster.mintNodeAccess(BOB, ""), bobs, "who may buy, may buy again");
    }

    // ------------------------------------------------------------------------------------------------- the leader

    /// One vote a token and term: neither a transfer to BOB again, nor leaving, nor another wallet, nor a new mint makes a second.
    function testFuzz_bob_votes_and_comes_back_to_vote_again(uint256 route) public {
        for (uint256 i = 3; i <= 6; ++i) {
            join(i);
        }
        election.electLeader();
        distrust(2);
        VM.startPrank(BOB);
        if (route % 3 == 0) token.transferFrom(BOB, BOB, bobs);
        else if (route % 3 == 1) cluster.deactivate(bobs);
        else cluster.burn(bobs);
        VM.stopPrank();
        mustCountVotes(0);
        if (route % 3 == 2) {
            eq(mint(BOB, instance(2)), bobs, "the same id");
        } else {
            VM.prank(BOB);
            cluster.bind(bobs, instance(2), address(0));
        }
        submit(registration(bobs, actor(2)), actor(2));
        castExpecting(2, addressOfMember(1), true, voteSpent(bobs, 1));
        castExpecting(2, addressOfMember(1), false, voteSpent(bobs, 1));
        mustCountVotes(0);
    }

    /// A sibling knows the node key of ALICE's node. That gives it a membership of its own, for which it needs a token, and no part
    /// of ALICE's.
    function test_bob_registers_alices_node_key_to_vote_for_alice() public {
        election.electLeader();
        uint256 own = mint(BOB, instance(3));
        Actor memory bobsNode = actor(3);
        bobsNode.nodeKey = actor(1).nodeKey;
        submit(registration(own, bobsNode), bobsNode);
        // BOB cannot name the member address of ALICE's node: its member key would have to sign it.
        IDstackClusterNFT.Registration memory r = registration(own, bobsNode);
        r.memberAddress = addressOfMember(1);
        asBobExpecting(
            r,
            bobsNode,
            abi.encodeWithSelector(
                IDstackClusterNFT.MemberAddressMismatch.selector, own, addressOfMember(3), addressOfMember(1)
            )
        );
        uint64 epoch = cluster.epoch();
        VM.expectEmit(address(cluster));
        emit ILeaderElection.VoteCast(alices, addressOfMember(1), addressOfMember(1), true, 1, 1, epoch + 1);
        distrust(1); // ALICE's node
    }

    function test_bob_elects_bobs_node() public {
        election.electLeader();
        VM.expectRevert(abi.encodeWithSelector(ILeaderElection.LeaderStands.selector, addressOfMember(1)));
        VM.prank(addressOfMember(2));
        election.electLeader();
        castExpecting(2, addressOfMember(2), true, notLeader(addressOfMember(2), addressOfMember(1)));
        VM.expectRevert(notAMember(BOB));
        VM.prank(BOB);
        election.castVote(1, addressOfMember(1), true);
    }

    /// Called past the proxy there is no cluster: no member, no leader, nothing to decide.
    function test_bob_votes_past_the_proxy() public {
        ILeaderElection extension = ILeaderElection(token.EXTENSION());
        VM.expectRevert(notAMember(addressOfMember(2)));
        VM.prank(addressOfMember(2));
        extension.castVote(0, addressOfMember(1), true);
        VM.expectRevert(ILeaderElection.NoMembers.selector);
        extension.electLeader();
        ILeaderElection code = ILeaderElection(implementation());
        VM.expectRevert(ILeaderElection.NoMembers.selector);
        code.electLeader();
    }

    // ----------------------------------------------------------------------------------------------------- helpers

    function asBobExpecting(IDstackClusterNFT.Registration memory r, Actor memory who, bytes memory revertData)
        private
    {
        IDstackClusterNFT.SignatureChain memory chain = chainOf(who);
        bytes memory signature = sign(r, who.nodeKey, address(cluster));
        VM.expectRevert(revertData);
        VM.prank(BOB);
        cluster.registerPeer(r, chain, signature, sign(r, who.memberKey, address(cluster)));
    }
}
