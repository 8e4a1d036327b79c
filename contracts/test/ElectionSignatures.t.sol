// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IDstackClusterNFT} from "../src/interfaces/IDstackClusterNFT.sol";
import {ILeaderElection} from "../src/interfaces/ILeaderElection.sol";
import {VM} from "./Vm.sol";
import {ElectionTest} from "./support/ElectionTest.sol";
import {Vote} from "./support/Signing.sol";

/// Votes that a relayer hands in: each counts as if its member had cast it, and no second time.
contract ElectionSignaturesTest is ElectionTest {
    function setUp() public override {
        super.setUp();
        elected(5);
    }

    function test_a_relayed_vote_is_its_members() public {
        uint64 epoch = cluster.epoch();
        Vote memory vote = voteOf(2);
        VM.expectEmit(address(cluster));
        emit ILeaderElection.VoteCast(2, addressOfMember(2), addressOfMember(1), true, 1, 1, epoch + 1);
        relay(vote, signed(vote, 2));
        castExpecting(2, addressOfMember(1), true, alreadyVoted(2, 1));
        vote.isNoConfidence = false;
        relay(vote, signed(vote, 2));
        mustCountVotes(0);
        castExpecting(2, addressOfMember(1), false, voteSpent(2, 1));
    }

    function test_relayed_votes_depose() public {
        for (uint256 i = 3; i <= 5; ++i) {
            relay(voteOf(i), signed(voteOf(i), i));
        }
        mustLead(2, addressOfMember(2));
    }

    function test_both_spellings_of_v_are_read() public {
        Vote memory vote = voteOf(2);
        bytes memory signature = signed(vote, 2); // v = 27 or 28
        signature[64] = bytes1(uint8(signature[64]) - 27);
        relay(vote, signature);
        mustCountVotes(1);
    }

    // ----------------------------------------------------------------------------------------------------- replays

    function test_replay_at_once() public {
        Vote memory vote = voteOf(2);
        bytes memory signature = signed(vote, 2);
        relay(vote, signature);
        relayExpecting(vote, signature, alreadyVoted(2, 1));
        mustCountVotes(1);
    }

    function test_replay_of_a_vote_cast_directly() public {
        Vote memory vote = voteOf(2);
        distrust(2);
        relayExpecting(vote, signed(vote, 2), alreadyVoted(2, 1));
    }

    function test_replay_after_the_withdrawal() public {
        Vote memory vote = voteOf(2);
        bytes memory signature = signed(vote, 2);
        relay(vote, signature);
        Vote memory withdrawal = voteOf(2);
        withdrawal.isNoConfidence = false;
        relay(withdrawal, signed(withdrawal, 2));
        relayExpecting(vote, signature, voteSpent(2, 1));
        relayExpecting(withdrawal, signed(withdrawal, 2), voteSpent(2, 1));
        mustCountVotes(0);
    }

    function test_a_withdrawal_handed_in_before_its_vote() public {
        Vote memory withdrawal = voteOf(2);
        withdrawal.isNoConfidence = false;
        relayExpecting(withdrawal, signed(withdrawal, 2), noVote(2, 1));
    }

    function test_replay_after_leaving_and_coming_back() public {
        Vote memory vote = voteOf(2);
        bytes memory signature = signed(vote, 2);
        relay(vote, signature);
        departAndComeBack(2, 2);
        relayExpecting(vote, signature, voteSpent(2, 1));
        mustCountVotes(0);
    }

    function test_replay_after_burning_and_minting_anew() public {
        Vote memory vote = voteOf(2);
        bytes memory signature = signed(vote, 2);
        relay(vote, signature);
        depart(2, 1);
        relayExpecting(vote, signature, notActive(2));
        uint256 id = mint(ALICE, instance(2));
        submit(registration(id, actor(2)), actor(2));
        relayExpecting(vote, signature, voteSpent(2, 1));
    }

    function test_replay_in_a_later_term() public {
        Vote memory vote = voteOf(2);
        bytes memory signature = signed(vote, 2);
        for (uint256 i = 1; i <= 3; ++i) {
            distrust(i);
        }
        mustLead(2, addressOfMember(2));
        relayExpecting(vote, signature, wrongTerm(2, 1));
        // Also when the same leader leads again.
        for (uint256 round = 2; round <= 5; ++round) {
            for (uint256 i = 1; i <= 3; ++i) {
                distrust(i);
            }
        }
        mustLead(1, addressOfMember(1));
        relayExpecting(vote, signature, wrongTerm(6, 1));
    }

    /// A term that votes lapsed in is a later one too.
    function test_replay_after_votes_lapsed() public {
        addRoot(1);
        joinUnder(6, secret("root", 1), address(cluster));
        Vote memory vote = voteOf(2);
        bytes memory signature = signed(vote, 2);
        relay(vote, signature);
        VM.prank(OWNER);
        cluster.removeKmsRoot(VM.addr(secret("root", 1)));
        mustLead(1, addressOfMember(1));
        relayExpecting(vote, signature, wrongTerm(2, 1));
    }

    function test_a_vote_for_a_term_to_come() public {
        Vote memory vote = voteOf(2);
        vote.term = 2;
        relayExpecting(vote, signed(vote, 2), wrongTerm(1, 2));
    }

    /// A vote that was not submitted does not count yet, and stays valid.
    function test_an_unsubmitted_vote_survives_a_leaving_of_the_same_node_and_no_other() public {
        Vote memory vote = voteOf(2);
        bytes memory signature = signed(vote, 2);
        depart(2, 2); // to BOB
        relayExpecting(vote, signature, notActive(2));
        VM.prank(BOB);
        cluster.bind(2, instance(8), address(0));
        submit(registration(2, actor(8)), actor(8));
        relayExpecting(vote, signature, signerMismatch(addressOfMember(2), addressOfMember(8)));
        VM.prank(BOB);
        cluster.deactivate(2);
        VM.prank(BOB);
        cluster.bind(2, instance(2), address(0));
        submit(registration(2, actor(2)), actor(2));
        relay(vote, signature);
        mustCountVotes(1);
    }

    // --------------------------------------------------------------------------------------------------- forgeries

    function test_of_another_contract_or_chain() public {
        Vote memory vote = voteOf(2);
        bytes memory elsewhere = signFor(vote, actor(2).memberKey, address(0xC0FFEE), block.chainid);
        VM.expectPartialRevert(IDstackClusterNFT.MemberSignatureMismatch.selector);
        relay(vote, elsewhere);
        elsewhere = signFor(vote, actor(2).memberKey, address(cluster), block.chainid + 1);
        VM.expectPartialRevert(IDstackClusterNFT.MemberSignatureMismatch.selector);
        relay(vote, elsewhere);
        bytes memory here = signed(vote, 2);
        VM.chainId(block.chainid + 1);
        VM.expectPartialRevert(IDstackClusterNFT.MemberSignatureMismatch.selector);
        relay(vote, here);
    }

    function test_with_anything_changed() public {
        Vote memory vote = voteOf(2);
        bytes memory signature = signed(vote, 2);
        bytes4 mismatch = IDstackClusterNFT.MemberSignatureMismatch.selector;

        vote.tokenId = 3;
        VM.expectPartialRevert(mismatch);
        relay(vote, signature);
        vote = voteOf(2);
        vote.target = addressOfMember(3);
        VM.expectPartialRevert(mismatch);
        relay(vote, signature);
        vote = voteOf(2);
        vote.isNoConfidence = false;
        VM.expectPartialRevert(mismatch);
        relay(vote, signature);
        vote = voteOf(2);
        vote.deadline += 1;
        VM.expectPartialRevert(mismatch);
        relay(vote, signature);
        vote = voteOf(2);
        vote.term = 2;
        relayExpecting(vote, signature, wrongTerm(1, 2));
    }

    function test_about_a_member_that_does_not_lead() public {
        Vote memory vote = voteOf(2);
        vote.target = addressOfMember(3);
        relayExpecting(vote, signed(vote, 2), notLeader(addressOfMember(3), addressOfMember(1)));
        vote.target = address(0);
        relayExpecting(vote, signed(vote, 2), notLeader(address(0), addressOfMember(1)));
    }

    function test_without_a_leader() public {
        Vote memory vote = voteOf(2);
        depart(1, 0);
        relayExpecting(vote, signed(vote, 2), notLeader(addressOfMember(1), address(0)));
    }

    function testFuzz_signed_by_another_key(uint256 key) public {
        key = within(key, 1, CURVE_ORDER - 1);
        Vote memory vote = voteOf(2);
        bytes memory signature = signFor(vote, key, address(cluster), block.chainid);
        relayExpecting(vote, signature, signerMismatch(VM.addr(key), addressOfMember(2)));
    }

    /// The wallet that owns the token does not vote for its node, nor does the contract owner.
    function test_signed_by_the_tokens_owner() public {
        uint256 wallet = secret("wallet", 1);
        VM.prank(ALICE);
        token.transferFrom(ALICE, VM.addr(wallet), 2);
        VM.prank(VM.addr(wallet));
        cluster.bind(2, instance(2), address(0));
        submit(registration(2, actor(2)), actor(2));
        Vote memory vote = voteOf(2);
        bytes memory signature = signFor(vote, wallet, address(cluster), block.chainid);
        relayExpecting(vote, signature, signerMismatch(VM.addr(wallet), addressOfMember(2)));
    }

    function test_malleated_or_without_a_signer() public {
        Vote memory vote = voteOf(2);
        bytes memory invalid = abi.encodeWithSelector(IDstackClusterNFT.InvalidSignature.selector);
        relayExpecting(vote, malleated(signed(vote, 2)), invalid);
        relayExpecting(vote, abi.encodePacked(bytes32(0), bytes32(uint256(1)), uint8(27)), invalid);
        relayExpecting(vote, "", invalid);
        relayExpecting(vote, bytes.concat(signed(vote, 2), hex"00"), invalid);
    }

    /// A member address of zero, as a token without a peer has it, can never vote.
    function testFuzz_for_a_token_without_a_peer(uint256 tokenId) public {
        tokenId = tokenId <= 5 ? 0 : tokenId;
        mint(ALICE, instance(6)); // token 6, bound and not registered
        Vote memory vote = voteOf(tokenId);
        relayExpecting(vote, signed(vote, 6), notActive(tokenId));
        vote.tokenId = 6;
        relayExpecting(vote, signed(vote, 6), notActive(6));
    }

    // --------------------------------------------------------------------------------------------------- deadlines

    function testFuzz_until_the_deadline_and_no_second_later(uint64 ahead, uint64 late) public {
        Vote memory vote = voteOf(2);
        vote.deadline = uint64(block.timestamp + within(ahead, 0, 1 days));
        bytes memory signature = signed(vote, 2);
        uint256 start = block.timestamp;
        VM.warp(uint256(vote.deadline) + within(late, 1, 365 days));
        relayExpecting(
            vote, signature, abi.encodeWithSelector(IDstackClusterNFT.DeadlineExpired.selector, vote.deadline)
        );
        VM.warp(within(late, start, vote.deadline));
        relay(vote, signature);
        mustCountVotes(1);
    }

    function testFuzz_no_deadline_more_than_a_day_ahead(uint64 deadline) public {
        Vote memory vote = voteOf(2);
        uint64 latest = uint64(block.timestamp + 1 days);
        vote.deadline = uint64(within(deadline, uint256(latest) + 1, type(uint64).max));
        relayExpecting(
            vote,
            signed(vote, 2),
            abi.encodeWithSelector(IDstackClusterNFT.DeadlineTooFar.selector, vote.deadline, latest)
        );
    }

    /// Changing any one bit of the call that is signed, or of the signature, is refused.
    function testFuzz_one_changed_bit_is_refused(uint256 bit) public {
        Vote memory vote = voteOf(2);
        bytes memory call = abi.encodeCall(
            ILeaderElection.castVoteBySig,
            (vote.tokenId, vote.term, vote.target, vote.isNoConfidence, vote.deadline, signed(vote, 2))
        );
        // Five signed words, then offset and length, which are not signed, then r and s; v has two spellings.
        bit = within(bit, 0, 7 * 256 - 1);
        if (bit >= 5 * 256) bit += 2 * 256;
        call[4 + bit / 8] ^= bytes1(uint8(1 << (bit % 8)));
        (bool accepted,) = address(cluster).call(call);
        yes(!accepted, "refused");
    }

    function wrongTerm(uint32 expected, uint32 given) private pure returns (bytes memory) {
        return abi.encodeWithSelector(ILeaderElection.WrongTerm.selector, expected, given);
    }

    function signerMismatch(address signer, address node) private pure returns (bytes memory) {
        return abi.encodeWithSelector(IDstackClusterNFT.MemberSignatureMismatch.selector, signer, node);
    }
}
