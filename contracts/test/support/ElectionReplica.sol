// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {ILeaderElection} from "../../src/interfaces/ILeaderElection.sol";
import {Vm} from "../Vm.sol";
import {Check} from "./Check.sol";

/// @title  The leader and the votes rebuilt from events: the part of a Replica that is about the election.
abstract contract ElectionReplica is Check {
    uint32 internal term;
    uint256 public votes;
    uint256 internal seat; // token of the leader, zero = none
    address internal leader;
    mapping(uint256 tokenId => uint32 term) internal countedIn; // zero = not counted

    /// Peers, and the member address of one, as the replica knows them.
    function peersNow() internal view virtual returns (uint256);
    function memberOf(uint256 tokenId) internal view virtual returns (address);

    /// Takes a log, if it is about the election, and says which epoch it names.
    function election(Vm.Log memory log) internal returns (bool known, uint64 epoch) {
        bytes32 topic = log.topics[0];
        uint32 newTerm;
        if (topic == ILeaderElection.LeaderElected.selector) {
            (newTerm, epoch) = abi.decode(log.data, (uint32, uint64));
            (seat, leader) = (uint256(log.topics[1]), address(uint160(uint256(log.topics[2]))));
            if (seat == 0) {
                eq(leader, address(0), "the seat is empty");
                eq(newTerm, term, "in the present term");
            } else {
                eq(leader, memberOf(seat), "a peer is elected, by its member address");
                beginTerm(newTerm);
            }
        } else if (topic == ILeaderElection.VoteCast.selector) {
            epoch = vote(log);
        } else if (topic == ILeaderElection.VotesLapsed.selector) {
            (newTerm, epoch) = abi.decode(log.data, (uint32, uint64));
            beginTerm(newTerm);
        } else {
            return (false, 0);
        }
        return (true, epoch);
    }

    /// A peer is none any more, for whatever reason.
    function left(uint256 tokenId) internal {
        if (countedIn[tokenId] == term && term != 0) --votes;
        delete countedIn[tokenId];
        if (seat == tokenId) (seat, leader) = (0, address(0));
    }

    function vote(Vm.Log memory log) private returns (uint64) {
        (bool isNoConfidence, uint32 count, uint32 inTerm, uint64 epoch) =
            abi.decode(log.data, (bool, uint32, uint32, uint64));
        uint256 tokenId = uint256(log.topics[1]);
        eq(inTerm, term, "a vote of this term");
        eq(address(uint160(uint256(log.topics[2]))), memberOf(tokenId), "a peer votes, by its member address");
        eq(address(uint160(uint256(log.topics[3]))), leader, "about the leader");
        yes(leader != address(0), "there is one");
        yes((countedIn[tokenId] == term) != isNoConfidence, "one vote, and its withdrawal after it");
        countedIn[tokenId] = isNoConfidence ? term : 0;
        votes = isNoConfidence ? votes + 1 : votes - 1;
        eq(count, votes, "votes");
        if (votes >= peersNow() / 2 + 1) (seat, leader) = (0, address(0));
        return epoch;
    }

    function beginTerm(uint32 newTerm) private {
        eq(newTerm, term + 1, "terms are consecutive");
        (term, votes) = (newTerm, 0);
    }

    function mustElectTheSame(ILeaderElection cluster) internal view {
        uint256 required = peersNow() / 2 + 1;
        eq(cluster.requiredVotes(), required, "required votes");
        eq(cluster.term(), term, "term");
        bool stands = votes < required;
        eq(cluster.currentLeader(), stands ? leader : address(0), "leader");
        eq(cluster.leaderToken(), stands ? seat : 0, "leader's token");
        if (seat != 0) eq(cluster.noConfidenceCount(leader), votes, "votes against the leader");
    }
}
