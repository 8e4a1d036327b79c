// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {ILeaderElection} from "../src/interfaces/ILeaderElection.sol";
import {VM} from "./Vm.sol";
import {ElectionTest} from "./support/ElectionTest.sol";

/// Electing a leader, voting it out by a majority, and who votes.
///
/// The faults of the prototype's election, and where each is tried: the first caller wins (`any_caller`); withdrawing a vote that
/// was none of no confidence takes one away (`one_vote_and_one_withdrawal`); counts outlive their leader
/// (`a_vote_for_the_former_leader`); votes of members that left go on counting (ElectionLeaving: `a_vote_goes_with_its_voter`); who
/// was voted out never leads again (`the_seat_goes_round`, `a_single_member`); a vote loops over all tokens (`costs_no_more`).
contract ElectionVotesTest is ElectionTest {
    function test_before_the_first_election_there_is_no_leader_and_nothing_to_vote_on() public {
        mustHaveNoLeader();
        eq(election.term(), 0, "term");
        eq(election.requiredVotes(), 1, "required");
        eq(election.noConfidenceCount(address(0)), 0, "votes against the zero address");
        join(1);
        castExpecting(1, addressOfMember(1), true, notLeader(addressOfMember(1), address(0)));
        castExpecting(1, address(0), true, notLeader(address(0), address(0)));
        mustHaveNoLeader();
    }

    function test_electing_needs_members_and_an_empty_seat() public {
        VM.expectRevert(ILeaderElection.NoMembers.selector);
        election.electLeader();
        mint(ALICE, instance(1)); // a token is not a member
        VM.expectRevert(ILeaderElection.NoMembers.selector);
        election.electLeader();
        join(2);
        election.electLeader();
        VM.expectRevert(abi.encodeWithSelector(ILeaderElection.LeaderStands.selector, addressOfMember(2)));
        election.electLeader();
    }

    function testFuzz_any_caller_elects_the_lowest_member_first(address caller) public {
        join(1);
        join(2);
        depart(1, 0);
        join(3);
        uint64 epoch = cluster.epoch();
        VM.expectEmit(address(cluster));
        emit ILeaderElection.LeaderElected(2, addressOfMember(2), 1, epoch + 1);
        VM.prank(caller);
        eq(election.electLeader(), addressOfMember(2), "returned");
        mustLead(2, addressOfMember(2));
        eq(election.term(), 1, "term");
        eq(cluster.epoch(), epoch + 1, "one change");
    }

    function test_more_than_half_are_required_whatever_the_number() public {
        for (uint256 n = 1; n <= 9; ++n) {
            join(n);
            eq(election.requiredVotes(), n / 2 + 1, "after a join");
        }
        for (uint256 n = 9; n >= 1; --n) {
            depart(n, n);
            eq(election.requiredVotes(), (n - 1) / 2 + 1, "after a leaving");
        }
    }

    /// f of 2f + 1 members cannot depose, f + 1 do, and the next one upward leads in that very transaction.
    function testFuzz_the_last_vote_required_deposes_at_once(uint256 f, uint256 first) public {
        f = within(f, 0, 4);
        uint256 n = 2 * f + 1;
        elected(n);
        for (uint256 i = 0; i < f; ++i) {
            distrust(1 + (first % n + i) % n);
            mustLead(1, addressOfMember(1));
            mustCountVotes(i + 1);
        }
        uint256 last = 1 + (first % n + f) % n;
        uint64 epoch = cluster.epoch();
        uint256 next = n == 1 ? 1 : 2;
        VM.expectEmit(address(cluster));
        emit ILeaderElection.VoteCast(
            last, addressOfMember(last), addressOfMember(1), true, uint32(f + 1), 1, epoch + 1
        );
        VM.expectEmit(address(cluster));
        emit ILeaderElection.LeaderElected(next, addressOfMember(next), 2, epoch + 2);
        distrust(last);
        mustLead(next, addressOfMember(next));
        mustCountVotes(0);
        eq(election.term(), 2, "a new term");
    }

    function test_the_seat_goes_round() public {
        elected(3);
        for (uint256 round = 0; round < 7; ++round) {
            uint256 leader = 1 + round % 3;
            mustLead(leader, addressOfMember(leader));
            eq(election.term(), round + 1, "term");
            distrust(1);
            distrust(2);
        }
    }

    function test_gaps_between_token_ids_are_skipped() public {
        elected(6);
        depart(2, 0);
        depart(3, 1);
        depart(5, 3);
        distrust(4);
        distrust(6);
        mustLead(4, addressOfMember(4));
        distrust(1);
        distrust(6);
        mustLead(6, addressOfMember(6));
        distrust(1);
        distrust(4);
        mustLead(1, addressOfMember(1));
    }

    function test_a_single_member_that_distrusts_itself_leads_again() public {
        elected(1);
        distrust(1);
        mustLead(1, addressOfMember(1));
        eq(election.term(), 2, "a new term");
    }

    // ------------------------------------------------------------------------------------------------------- votes

    function test_a_vote_tells_its_whole_news_and_so_does_its_withdrawal() public {
        elected(4);
        uint64 epoch = cluster.epoch();
        VM.expectEmit(address(cluster));
        emit ILeaderElection.VoteCast(3, addressOfMember(3), addressOfMember(1), true, 1, 1, epoch + 1);
        distrust(3);
        VM.expectEmit(address(cluster));
        emit ILeaderElection.VoteCast(3, addressOfMember(3), addressOfMember(1), false, 0, 1, epoch + 2);
        cast(3, addressOfMember(1), false);
        eq(cluster.epoch(), epoch + 2, "two changes");
    }

    function test_one_vote_and_one_withdrawal_in_a_term() public {
        elected(5);
        address leader = addressOfMember(1);
        castExpecting(2, leader, false, noVote(2, 1));
        distrust(2);
        castExpecting(2, leader, true, alreadyVoted(2, 1));
        mustCountVotes(1);
        cast(2, leader, false);
        mustCountVotes(0);
        castExpecting(2, leader, false, voteSpent(2, 1));
        castExpecting(2, leader, true, voteSpent(2, 1));
        mustCountVotes(0);

        // The next term asks every member again.
        for (uint256 i = 3; i <= 5; ++i) {
            distrust(i);
        }
        eq(election.term(), 2, "the next term");
        castExpecting(2, addressOfMember(2), false, noVote(2, 2));
        castExpecting(3, addressOfMember(2), false, noVote(3, 2));
        distrust(2); // against itself
        distrust(3);
        mustCountVotes(2);
    }

    function testFuzz_votes_concern_the_leader_alone(address target, bool isNoConfidence) public {
        elected(3);
        if (target == addressOfMember(1)) return;
        castExpecting(2, target, isNoConfidence, notLeader(target, addressOfMember(1)));
        eq(election.noConfidenceCount(target), 0, "nothing is counted against others");
    }

    function test_a_vote_for_the_former_leader_is_not_one_for_the_next() public {
        elected(3);
        distrust(1);
        distrust(3);
        mustLead(2, addressOfMember(2));
        castExpecting(3, addressOfMember(1), true, notLeader(addressOfMember(1), addressOfMember(2)));
        eq(election.noConfidenceCount(addressOfMember(1)), 0, "the former leader's votes are gone");
    }

    function testFuzz_only_members_vote(address caller, bool isNoConfidence) public {
        elected(2);
        if (caller == addressOfMember(1) || caller == addressOfMember(2)) return;
        VM.expectRevert(notAMember(caller));
        VM.prank(caller);
        election.castVote(1, addressOfMember(1), isNoConfidence);
    }

    /// A vote that was sent in one term and lands in another concerns no leader that its sender had not seen, and not the same one
    /// again either.
    function test_a_vote_for_another_term_is_refused() public {
        elected(5);
        uint32[3] memory others = [0, 2, type(uint32).max];
        for (uint256 i = 0; i < others.length; ++i) {
            VM.expectRevert(abi.encodeWithSelector(ILeaderElection.WrongTerm.selector, 1, others[i]));
            VM.prank(addressOfMember(2));
            election.castVote(others[i], addressOfMember(1), true);
        }
        depart(1, 0);
        for (uint256 i = 2; i <= 5; ++i) {
            election.electLeader(); // round to member 2 by way of the others
            depart(i, 0);
            VM.prank(ALICE);
            cluster.bind(i, instance(i), address(0));
            submit(registration(i, actor(i)), actor(i));
        }
        election.electLeader();
        mustLead(2, addressOfMember(2));
        VM.expectRevert(abi.encodeWithSelector(ILeaderElection.WrongTerm.selector, 6, 2));
        VM.prank(addressOfMember(3));
        election.castVote(2, addressOfMember(2), true); // sent when it led for the first time
        mustCountVotes(0);
    }

    /// Both votes are required of two members, and a leader that died has none to give. What helps: its token's owner or the contract
    /// owner takes it out, or a third member comes.
    function test_a_cluster_of_two_cannot_depose_a_dead_leader() public {
        elected(2);
        eq(election.requiredVotes(), 2, "both");
        distrust(2);
        mustLead(1, addressOfMember(1));
        castExpecting(2, addressOfMember(1), true, alreadyVoted(2, 1));
        VM.expectRevert(abi.encodeWithSelector(ILeaderElection.LeaderStands.selector, addressOfMember(1)));
        election.electLeader();
        uint256 stuck = VM.snapshotState();

        depart(1, 0); // its token's owner
        election.electLeader();
        mustLead(2, addressOfMember(2));
        yes(VM.revertToState(stuck), "back");

        depart(1, 3); // the contract owner
        election.electLeader();
        mustLead(2, addressOfMember(2));
        yes(VM.revertToState(stuck), "back");

        join(3);
        distrust(3);
        mustLead(2, addressOfMember(2));
    }

    function test_neither_a_tokens_owner_nor_the_contract_owner_is_a_member() public {
        elected(1);
        address leader = addressOfMember(1);
        address[3] memory others = [ALICE, OWNER, address(cluster)];
        for (uint256 i = 0; i < others.length; ++i) {
            VM.expectRevert(notAMember(others[i]));
            VM.prank(others[i]);
            election.castVote(1, leader, true);
        }
    }

    function test_members_behind_a_gateway_vote_and_lead() public {
        VM.prank(OWNER);
        cluster.addBaseDomain("gw.example.com");
        for (uint256 i = 1; i <= 3; ++i) {
            uint256 id = mint(ALICE, instance(i));
            submit(behindGateway(id, i), actor(i));
        }
        election.electLeader();
        mustLead(1, addressOfMember(1));
        distrust(2);
        distrust(3);
        mustLead(2, addressOfMember(2));
        // Becoming a WIREGUARD peer is no leaving.
        distrust(3);
        submit(registration(2, actor(2)), actor(2));
        submit(registration(3, actor(3)), actor(3));
        mustLead(2, addressOfMember(2));
        mustCountVotes(1);
    }

    function test_rotating_a_key_or_moving_keeps_seat_and_vote() public {
        elected(3);
        distrust(2);
        submit(registration(1, actor(1)), actor(1));
        submit(registration(2, actor(2)), actor(2));
        cluster.updateEndpoint(endpointUpdate(2), sign(endpointUpdate(2), actor(2).memberKey, address(cluster)));
        mustLead(1, addressOfMember(1));
        mustCountVotes(1);
        castExpecting(2, addressOfMember(1), true, alreadyVoted(2, 1));
    }

    /// ERC-7201: the seat is the first slot of the election's namespace.
    function test_the_seat_is_where_it_is_said_to_be() public {
        elected(2);
        uint256 seat = seatWord();
        eq(address(uint160(seat)), addressOfMember(1), "leader");
        eq(uint16(seat >> 160), 1, "token");
        eq(uint16(seat >> 176), 2, "the search goes on behind it");
        eq(seat >> 192, 1, "term");
    }

    function seatWord() private view returns (uint256) {
        bytes32 hash = keccak256("dstack.cluster.election");
        bytes32 slot = keccak256(abi.encode(uint256(hash) - 1)) & ~bytes32(uint256(0xff));
        return uint256(VM.load(address(cluster), slot));
    }

    /// Terms that begin one after the other because peers were dropped: the leader stays, and no vote outlives its term. Every fourth
    /// is written into the seat's word.
    function test_terms_that_lapse_in_a_row() public {
        elected(5);
        for (uint32 lapsed = 1; lapsed < 10; ++lapsed) {
            distrust(2);
            distrust(3);
            mustCountVotes(2);
            lapse(100 + lapsed);
            eq(election.term(), 1 + lapsed, "another term");
            eq(seatWord() >> 192, 1 + lapsed - lapsed % 4, "as the seat knows it");
            mustLead(1, addressOfMember(1));
            mustCountVotes(0);
            VM.expectRevert(abi.encodeWithSelector(ILeaderElection.WrongTerm.selector, 1 + lapsed, lapsed));
            VM.prank(addressOfMember(4));
            election.castVote(lapsed, addressOfMember(1), true);
        }
        // A vote of an earlier term is not taken along by who cast it.
        departAndComeBack(2, 2);
        mustCountVotes(0);
        distrust(2);
        distrust(4);
        mustCountVotes(2);
        depart(2, 0);
        mustCountVotes(1);
        distrust(5);
        distrust(3);
        mustLead(3, addressOfMember(3));
        eq(election.term(), 11, "an election begins a term as ever");
        eq(seatWord() >> 192, 11, "and tells the seat");
        lapse(200);
        eq(election.term(), 12, "and on");
    }

    /// A peer of an app id that is removed at once.
    function lapse(uint256 i) private {
        addApp(address(0xABBA));
        joinUnder(i, secret("root", 0), address(0xABBA));
        VM.prank(OWNER);
        cluster.removeAppId(address(0xABBA));
    }

    /// The same storage is read and written, whatever the number of members.
    function test_a_vote_costs_no_more_with_more_members() public {
        elected(3);
        uint256 few = slotsTouchedBy(2);
        for (uint256 i = 4; i <= 60; ++i) {
            join(i);
        }
        eq(slotsTouchedBy(3), few, "slots");
    }

    function slotsTouchedBy(uint256 i) private returns (uint256) {
        address leader = election.currentLeader();
        VM.record();
        cast(i, leader, true);
        (bytes32[] memory reads,) = VM.accesses(address(cluster));
        return reads.length;
    }
}
