// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IDstackClusterNFT} from "../src/interfaces/IDstackClusterNFT.sol";
import {ILeaderElection} from "../src/interfaces/ILeaderElection.sol";
import {VM} from "./Vm.sol";
import {ElectionTest} from "./support/ElectionTest.sol";
import {Actor} from "./support/Signing.sol";

/// What becomes of seat and votes when members leave, by themselves or with their KMS root or app id, and come back.
contract ElectionLeavingTest is ElectionTest {
    address internal constant APP = address(0xABBA);

    // ------------------------------------------------------------------------------------------------- the leader

    function testFuzz_a_leader_that_leaves_is_none_and_the_next_upward_follows(uint256 route, uint256 who) public {
        elected(3);
        who = within(who, 1, 3);
        for (uint256 i = 1; i < who; ++i) {
            distrust(1);
            distrust(3);
        }
        mustLead(who, addressOfMember(who));
        uint32 term = election.term();
        depart(who, route);
        mustHaveNoLeader();
        eq(election.noConfidenceCount(addressOfMember(who)), 0, "no votes against it");
        eq(election.term(), term, "the term ends with the next election");
        uint256 other = who == 1 ? 2 : 1;
        castExpecting(other, addressOfMember(who), true, notLeader(addressOfMember(who), address(0)));

        VM.prank(STRANGER);
        election.electLeader();
        uint256 next = who == 3 ? 1 : who + 1;
        mustLead(next, addressOfMember(next));
        eq(election.term(), term + 1, "a new term");
    }

    /// The votes of the term go on counting, and against no leader.
    function test_an_empty_seat_has_no_votes_against_it() public {
        elected(5);
        distrust(2);
        depart(1, 0);
        eq(election.noConfidenceCount(address(0)), 0, "against no leader");
        eq(election.noConfidenceCount(addressOfMember(1)), 0, "against who left");
    }

    function test_a_leader_that_comes_back_is_not_the_leader() public {
        elected(3);
        departAndComeBack(1, 1);
        mustBePeer(1);
        mustHaveNoLeader();
        election.electLeader();
        mustLead(2, addressOfMember(2));
        departAndComeBack(2, 2);
        mustHaveNoLeader();
        election.electLeader();
        mustLead(3, addressOfMember(3));
        departAndComeBack(3, 3);
        election.electLeader();
        mustLead(1, addressOfMember(1)); // its turn again
    }

    function test_a_leaders_token_with_another_node_is_not_the_leader() public {
        elected(2);
        depart(1, 2); // to BOB
        VM.prank(BOB);
        cluster.bind(1, instance(7), address(0));
        submit(registration(1, actor(7)), actor(7));
        mustHaveNoLeader();
        election.electLeader();
        mustLead(2, addressOfMember(2));
    }

    function test_the_last_member_leaves_and_another_comes() public {
        elected(1);
        depart(1, 1);
        mustHaveNoLeader();
        VM.expectRevert(ILeaderElection.NoMembers.selector);
        election.electLeader();
        eq(join(2), 1, "the burned id");
        election.electLeader();
        mustLead(1, addressOfMember(2));
        eq(election.term(), 2, "term");
    }

    // ----------------------------------------------------------------------------------------------------- votes

    function testFuzz_a_vote_goes_with_its_voter(uint256 route) public {
        elected(7);
        distrust(2);
        distrust(3);
        distrust(4);
        depart(3, route);
        mustCountVotes(2);
        castExpecting(3, addressOfMember(1), true, notAMember(addressOfMember(3)));
        castExpecting(3, addressOfMember(1), false, notAMember(addressOfMember(3)));
        mustLead(1, addressOfMember(1));
        distrust(5);
        mustLead(1, addressOfMember(1)); // 3 of 6
        distrust(6);
        mustLead(2, addressOfMember(2)); // 4 of 6
    }

    function testFuzz_leaving_without_a_vote_takes_none(uint256 route) public {
        elected(7);
        distrust(2);
        distrust(3);
        cast(3, addressOfMember(1), false);
        depart(3, route); // its vote is withdrawn already
        depart(4, route); // never had one
        mustCountVotes(1);
    }

    function test_a_vote_of_an_earlier_term_is_not_taken_from_a_later_one() public {
        elected(3);
        distrust(1);
        distrust(3);
        mustLead(2, addressOfMember(2));
        distrust(1);
        depart(3, 0); // voted in the first term
        mustCountVotes(1);
    }

    function test_who_voted_left_and_came_back_votes_again_in_the_next_term() public {
        elected(5);
        distrust(2);
        departAndComeBack(2, 2);
        mustCountVotes(0);
        castExpecting(2, addressOfMember(1), true, voteSpent(2, 1));
        castExpecting(2, addressOfMember(1), false, voteSpent(2, 1));
        for (uint256 i = 3; i <= 5; ++i) {
            distrust(i);
        }
        distrust(2);
        mustCountVotes(1);
    }

    function test_who_left_without_a_vote_and_came_back_has_one() public {
        elected(5);
        departAndComeBack(2, 2);
        distrust(2);
        mustCountVotes(1);
    }

    /// Burning and minting again gives no second vote in the same term.
    function test_a_burned_and_minted_token_has_no_second_vote() public {
        elected(5);
        distrust(2);
        depart(2, 1);
        eq(join(2), 2, "the same id");
        mustCountVotes(0);
        castExpecting(2, addressOfMember(1), true, voteSpent(2, 1));
    }

    // ------------------------------------------------------------------------------------------------ the majority

    function test_a_leaving_can_leave_the_leader_without_a_majority() public {
        elected(5);
        distrust(2);
        distrust(3);
        mustLead(1, addressOfMember(1)); // 2 votes of 3 required
        depart(4, 0);
        mustLead(1, addressOfMember(1)); // 2 of 3
        depart(5, 0);
        eq(election.requiredVotes(), 2, "of three members");
        mustHaveNoLeader();
        eq(election.noConfidenceCount(addressOfMember(1)), 2, "the votes say why");
        castExpecting(3, addressOfMember(1), false, notLeader(addressOfMember(1), address(0)));
        castExpecting(1, addressOfMember(1), true, notLeader(addressOfMember(1), address(0)));
        election.electLeader();
        mustLead(2, addressOfMember(2));
        castExpecting(3, addressOfMember(2), false, noVote(3, 2));
    }

    function test_a_join_gives_it_back_as_long_as_no_other_was_elected() public {
        elected(4);
        distrust(2);
        distrust(3);
        mustLead(1, addressOfMember(1)); // 2 votes of 3 required
        depart(4, 0);
        mustHaveNoLeader(); // 2 of 2
        join(5);
        mustLead(1, addressOfMember(1)); // 2 of 3 again
        depart(5, 0);
        election.electLeader();
        join(6);
        mustLead(2, addressOfMember(2)); // replaced is replaced
    }

    // ------------------------------------------------------------------------------------------- roots and app ids

    function test_a_leader_goes_with_its_root_and_does_not_come_back_with_it() public {
        addRoot(1);
        joinUnder(1, secret("root", 1), address(cluster));
        join(2);
        join(3);
        election.electLeader();
        distrust(2);
        removeRoot(1, 2);
        mustHaveNoLeader();
        eq(election.noConfidenceCount(addressOfMember(1)), 0, "no votes");

        addRoot(1);
        mustHaveNoLeader();
        Actor memory who = actor(1);
        who.rootKey = secret("root", 1);
        submit(registration(1, who), who);
        mustBePeer(1);
        mustHaveNoLeader();
        election.electLeader();
        mustLead(2, addressOfMember(2));
        eq(election.term(), 3, "one for the removal, one for the election");
    }

    function test_a_leader_goes_with_its_app_id() public {
        addApp(APP);
        joinUnder(1, secret("root", 0), APP);
        join(2);
        election.electLeader();
        uint64 epoch = cluster.epoch();
        VM.expectEmit(address(cluster));
        emit ILeaderElection.VotesLapsed(2, epoch + 2);
        VM.prank(OWNER);
        cluster.removeAppId(APP);
        eq(cluster.epoch(), epoch + 2, "the removal and the lapse");
        mustHaveNoLeader();
        VM.prank(ALICE);
        cluster.bind(1, instance(9), address(0)); // sweeps the former leader's record
        mustHaveNoLeader();
        election.electLeader();
        mustLead(2, addressOfMember(2));
    }

    function test_votes_lapse_with_a_root_and_the_leader_under_another_stays() public {
        addRoot(1);
        for (uint256 i = 1; i <= 4; ++i) {
            join(i);
        }
        joinUnder(5, secret("root", 1), address(cluster));
        election.electLeader();
        distrust(2);
        distrust(5);
        mustCountVotes(2);
        removeRoot(1, 2);
        mustLead(1, addressOfMember(1));
        mustCountVotes(0);
        castExpecting(5, addressOfMember(1), true, notAMember(addressOfMember(5)));
        distrust(2); // asked again
        distrust(3);
        mustLead(1, addressOfMember(1)); // 2 of 3
        VM.prank(ALICE);
        cluster.bind(5, instance(9), address(0)); // sweeping a voter of the lapsed term takes nothing
        mustCountVotes(2);
    }

    function test_removing_a_root_without_peers_moves_no_term() public {
        addRoot(1);
        elected(3);
        distrust(2);
        uint64 epoch = cluster.epoch();
        VM.prank(OWNER);
        cluster.removeKmsRoot(VM.addr(secret("root", 1)));
        eq(cluster.epoch(), epoch + 1, "nothing else happened");
        eq(election.term(), 1, "the same term");
        mustCountVotes(1);
    }

    function removeRoot(uint256 i, uint32 newTerm) private {
        uint64 epoch = cluster.epoch();
        VM.expectEmit(address(cluster));
        emit ILeaderElection.VotesLapsed(newTerm, epoch + 2);
        VM.prank(OWNER);
        cluster.removeKmsRoot(VM.addr(secret("root", i)));
    }

    // ------------------------------------------------------------------------------------------ stale registrations

    function test_more_stale_registrations_than_one_search_looks_at() public {
        join(1);
        addApp(APP);
        for (uint256 i = 2; i <= 71; ++i) {
            joinUnder(i, secret("root", 0), APP);
        }
        join(72);
        join(73);
        election.electLeader();
        VM.prank(OWNER);
        cluster.removeAppId(APP);
        mustLead(1, addressOfMember(1));

        // The leader is voted out, and 70 stale records lie before the next member.
        distrust(72);
        cast(73, addressOfMember(1), true);
        mustHaveNoLeader();
        eq(election.term(), 2, "no new leader, no new term");
        castExpecting(73, addressOfMember(1), false, notLeader(addressOfMember(1), address(0)));
        depart(73, 0); // its vote goes, the deposed one stays deposed
        mustHaveNoLeader();
        eq(election.electLeader(), address(0), "32 more");
        mustHaveNoLeader();
        eq(election.electLeader(), addressOfMember(72), "found");
        mustLead(72, addressOfMember(72));
        eq(election.term(), 3, "a new term");
    }

    function test_the_search_goes_on_through_members_that_came_in_between() public {
        join(1);
        addApp(APP);
        for (uint256 i = 2; i <= 61; ++i) {
            joinUnder(i, secret("root", 0), APP);
        }
        election.electLeader();
        VM.prank(OWNER);
        cluster.removeAppId(APP);
        depart(1, 0);
        join(62);
        eq(election.electLeader(), address(0), "32 stale ones");
        VM.prank(ALICE);
        cluster.bind(40, instance(40), address(0));
        submit(registration(40, actor(40)), actor(40));
        eq(election.electLeader(), addressOfMember(40), "the next upward from there");
    }

    // ---------------------------------------------------------------------------------------- one node, two tokens

    /// Who has a member key may register it for several tokens.
    function test_two_tokens_with_one_member_address() public {
        elected(2);
        uint256 second = mint(BOB, instance(3));
        Actor memory twin = actor(3);
        twin.memberKey = actor(1).memberKey;
        submit(registration(second, twin), twin);
        eq(election.requiredVotes(), 2, "three members");

        distrust(1); // the first token's vote
        castExpecting(1, addressOfMember(1), true, alreadyVoted(1, 1));
        mustCountVotes(1);
        relay(voteOf(second), signed(voteOf(second), 1)); // the second token's
        mustLead(2, addressOfMember(2));

        // When the first leaves, the address is no member's that votes directly; its other token still votes by signature.
        depart(1, 0);
        castExpecting(1, addressOfMember(2), true, notAMember(addressOfMember(1)));
        relay(voteOf(second), signed(voteOf(second), 1));
        mustCountVotes(1);
        // It casts votes again once that token registers again.
        VM.prank(BOB);
        cluster.deactivate(second);
        VM.prank(BOB);
        cluster.bind(second, instance(3), address(0));
        submit(registration(second, twin), twin);
        castExpecting(1, addressOfMember(2), true, voteSpent(second, 2));
    }

    function test_a_member_address_follows_its_node_to_another_token() public {
        elected(3);
        depart(3, 0);
        uint256 fourth = mint(ALICE, instance(3));
        submit(registration(fourth, actor(3)), actor(3));
        uint64 epoch = cluster.epoch();
        VM.expectEmit(address(cluster));
        emit ILeaderElection.VoteCast(fourth, addressOfMember(3), addressOfMember(1), true, 1, 1, epoch + 1);
        cast(3, addressOfMember(1), true);
    }
}
