// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IDstackClusterNFT} from "../src/interfaces/IDstackClusterNFT.sol";
import {ILeaderElection} from "../src/interfaces/ILeaderElection.sol";
import {VM, Vm} from "./Vm.sol";
import {ElectionTest} from "./support/ElectionTest.sol";
import {IClusterToken} from "./support/IClusterToken.sol";
import {Replica} from "./support/Replica.sol";
import {Actor} from "./support/Signing.sol";

/// The search for a leader among registrations that outlived their KMS root or app id: how far it goes, what it emits, and that
/// the same one is paid for only once.
contract ElectionStaleTest is ElectionTest {
    address internal constant APP = address(0xABBA);

    // ---------------------------------------------------------------------------------------------- how far it goes

    function test_thirty_one_stale_registrations_are_passed_in_one_search() public {
        staleAhead(31, APP);
        distrust(33);
        distrust(34);
        mustLead(33, addressOfMember(33));
        eq(election.term(), 3, "a new term");
    }

    function test_thirty_two_are_not() public {
        staleAhead(32, APP);
        distrust(34);
        uint64 epoch = cluster.epoch();
        VM.expectEmit(address(cluster));
        emit ILeaderElection.VoteCast(35, addressOfMember(35), addressOfMember(1), true, 2, 2, epoch + 1);
        VM.expectEmit(address(cluster));
        emit ILeaderElection.LeaderElected(0, address(0), 2, epoch + 2);
        distrust(35);
        eq(cluster.epoch(), epoch + 2, "the vote, and the seat it empties");
        mustHaveNoLeader();
        eq(election.noConfidenceCount(address(0)), 0, "no votes against the zero address, though two are counted");
        eq(election.electLeader(), addressOfMember(34), "the next call meets a member");
        mustLead(34, addressOfMember(34));
        eq(election.term(), 3, "a new term");
    }

    /// Three hundred stale registrations are walked through once in the life of the cluster, not once for each leader.
    function test_a_stale_registration_is_looked_at_once() public {
        spacious();
        staleAhead(320, APP);
        distrust(322);
        distrust(323);
        uint64 epoch = cluster.epoch();
        for (uint256 i = 0; i < 9; ++i) {
            eq(election.electLeader(), address(0), "32 more");
        }
        eq(cluster.epoch(), epoch, "an empty seat that stays empty is no news");
        eq(election.electLeader(), addressOfMember(322), "all are passed");

        // Two rounds of the seat, wherever the stale ones lie: each leader falls and is replaced in one transaction.
        uint16[6] memory leaders = [323, 1, 322, 323, 1, 322];
        for (uint256 i = 0; i < leaders.length; ++i) {
            distrust(1);
            distrust(322);
            mustLead(leaders[i], addressOfMember(leaders[i]));
        }
        mustList([uint256(1), 322, 323, 0]);

        // A node that registers again is listed and found again; binding, transferring, deactivating or burning does no harm.
        comeBack(7);
        mustList([uint256(1), 7, 322, 323]);
        depart(8, 0);
        depart(9, 1);
        depart(10, 2);
        depart(11, 3);
        mustList([uint256(1), 7, 322, 323]);
        distrust(1);
        distrust(322);
        distrust(7);
        mustLead(323, addressOfMember(323));
        distrust(1);
        distrust(322);
        distrust(7);
        mustLead(1, addressOfMember(1));
        distrust(1);
        distrust(322);
        distrust(7);
        mustLead(7, addressOfMember(7));
    }

    // ------------------------------------------------------------------------------------------------ what it emits

    /// A leader that enough members distrust, because others left, stands again when a member joins; unless a search took the seat
    /// in between. The events show which of both happened.
    function test_a_seat_that_a_search_empties_is_reported() public {
        VM.recordLogs();
        cluster = deploy(defaultParams());
        (token, election) = (IClusterToken(address(cluster)), cluster);
        address root = addRoot(1);
        join(1);
        for (uint256 i = 2; i <= 34; ++i) {
            joinUnder(i, secret("root", 1), address(cluster));
        }
        for (uint256 i = 35; i <= 40; ++i) {
            join(i);
        }
        election.electLeader();
        VM.prank(OWNER);
        cluster.removeKmsRoot(root);
        distrust(35);
        distrust(36);
        distrust(37);
        mustLead(1, addressOfMember(1)); // 3 votes of 4
        depart(38, 0);
        depart(39, 0);
        mustHaveNoLeader(); // 3 of 3
        Replica replica = new Replica();
        follow(replica);

        bytes32[2] memory states;
        address[2] memory leaders;
        for (uint256 i = 0; i < 2; ++i) {
            uint256 fork = VM.snapshotState();
            if (i == 1) {
                VM.prank(STRANGER);
                eq(election.electLeader(), address(0), "33 stale registrations lie ahead");
            }
            join(41); // 4 are required again
            leaders[i] = election.currentLeader();
            states[i] = follow(replica);
            yes(VM.revertToState(fork), "back to the fork");
        }
        eq(leaders[0], addressOfMember(1), "it stands again");
        eq(leaders[1], address(0), "or it does not, where a search took its seat");
        yes(states[0] != states[1], "and the events say which");
    }

    // ----------------------------------------------------------------------------------------------- votes and terms

    function test_a_member_address_whose_first_token_is_stale_votes_for_its_second() public {
        addApp(APP);
        joinUnder(1, secret("root", 0), APP);
        join(2);
        join(3);
        VM.prank(OWNER);
        cluster.removeAppId(APP);
        eq(cluster.getNode(1).memberAddress, addressOfMember(1), "a stale record keeps its member address");
        Actor memory who = actor(4);
        who.memberKey = actor(1).memberKey;
        uint256 second = mint(ALICE, who.instanceId);
        submit(registration(second, who), who);

        eq(election.electLeader(), addressOfMember(2), "the first member");
        uint64 epoch = cluster.epoch();
        VM.expectEmit(address(cluster));
        emit ILeaderElection.VoteCast(second, addressOfMember(1), addressOfMember(2), true, 1, 2, epoch + 1);
        distrust(1);
    }

    function test_removing_an_app_id_without_peers_moves_no_term() public {
        addApp(APP);
        elected(3);
        distrust(2);
        uint64 epoch = cluster.epoch();
        VM.prank(OWNER);
        cluster.removeAppId(APP);
        eq(cluster.epoch(), epoch + 1, "nothing else happened");
        eq(election.term(), 1, "the same term");
        mustCountVotes(1);
    }

    // ------------------------------------------------------------------------------------------------------ helpers

    /// Room for more than 254 tokens.
    function spacious() private {
        IDstackClusterNFT.ClusterParams memory params = defaultParams();
        (params.networkBase, params.prefixLength) = (0x0a000000, 16);
        cluster = deploy(params);
        (token, election) = (IClusterToken(address(cluster)), cluster);
    }

    /// The stale token `i` registers again, under the cluster's own app id.
    function comeBack(uint256 i) private {
        yes(!isPeer(i), "stale");
        submit(registration(i, actor(i)), actor(i));
        mustBePeer(i);
    }

    /// The tokens of all peers, ascending; zero = no more.
    function mustList(uint256[4] memory ids) private view {
        (IDstackClusterNFT.Peer[] memory page, uint256 next) = cluster.peers(0, 1000);
        (bytes20[] memory instances, uint256 nextInstance) = cluster.getActiveInstances(0, 1000);
        eq(next + nextInstance, 0, "one page");
        uint256 count = 0;
        for (; count < 4 && ids[count] != 0; ++count) {
            eq(page[count].tokenId, ids[count], "peer");
            eq(bytes32(instances[count]), bytes32(instance(ids[count])), "instance");
        }
        eq(page.length, count, "peers");
        eq(instances.length, count, "instances");
        eq(cluster.getPeerEndpoints().length, count, "endpoints");
    }

    /// Shows the replica what was logged, demands that it knows what the cluster says, and gives a digest of the logs.
    function follow(Replica replica) private returns (bytes32) {
        Vm.Log[] memory logs = VM.getRecordedLogs();
        replica.follow(logs, address(cluster), block.number, block.timestamp);
        replica.mustEqual(cluster);
        return keccak256(abi.encode(logs));
    }
}
