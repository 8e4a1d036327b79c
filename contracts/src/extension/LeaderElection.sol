// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {ClusterStorage} from "../ClusterStorage.sol";
import {Election} from "../Election.sol";
import {History} from "../History.sol";
import {PeerTable} from "../PeerTable.sol";
import {Registrar} from "../Registrar.sol";
import {IDstackClusterNFT} from "../interfaces/IDstackClusterNFT.sol";
import {ILeaderElection} from "../interfaces/ILeaderElection.sol";
import {TypedData} from "../lib/TypedData.sol";

/// @title  Votes of the members, and what they decide.
abstract contract LeaderElection is ILeaderElection {
    /// See ILeaderElection.
    function castVote(uint32 inTerm, address target, bool isNoConfidence) external {
        _checkTerm(inTerm);
        uint256 tokenId = ClusterStorage.election().voterToken[msg.sender];
        ClusterStorage.NodeRecord storage node = ClusterStorage.members().nodes[tokenId];
        if (node.memberAddress != msg.sender || !PeerTable.isActive(node)) revert NotAMember(msg.sender);
        _vote(tokenId, node, inTerm, target, isNoConfidence);
    }

    /// See ILeaderElection.
    function castVoteBySig(
        uint256 tokenId,
        uint32 inTerm,
        address target,
        bool isNoConfidence,
        uint64 deadline,
        bytes calldata memberSignature
    ) external {
        Registrar.checkDeadline(deadline);
        _checkTerm(inTerm);
        ClusterStorage.NodeRecord storage node = ClusterStorage.members().nodes[tokenId];
        if (!PeerTable.isActive(node)) revert IDstackClusterNFT.NodeNotActive(tokenId);
        bytes32 digest = TypedData.digest(tokenId, inTerm, target, isNoConfidence, deadline);
        Registrar.checkMember(digest, memberSignature, node.memberAddress);
        _vote(tokenId, node, inTerm, target, isNoConfidence);
    }

    /// See ILeaderElection.
    function electLeader() external returns (address leader) {
        (leader,,,) = Election.standing();
        if (leader != address(0)) revert LeaderStands(leader);
        if (ClusterStorage.members().totals.peerCount == 0) revert NoMembers();
        return Election.elect();
    }

    /// See ILeaderElection.
    function currentLeader() external view returns (address leader) {
        (leader,,,) = Election.standing();
    }

    /// See ILeaderElection.
    function leaderToken() external view returns (uint256 tokenId) {
        (, tokenId,,) = Election.standing();
    }

    /// See ILeaderElection.
    function noConfidenceCount(address target) external view returns (uint256) {
        if (target == address(0) || target != ClusterStorage.election().seat.leader) return 0;
        return ClusterStorage.members().totals.votes;
    }

    /// See ILeaderElection.
    function requiredVotes() external view returns (uint256) {
        return Election.majority(ClusterStorage.members().totals.peerCount);
    }

    /// See ILeaderElection.
    function term() external view returns (uint32) {
        return Election.term();
    }

    function _checkTerm(uint32 inTerm) private view {
        uint32 current = Election.term();
        if (inTerm != current) revert WrongTerm(current, inTerm);
    }

    /// `node` is the record of `tokenId`, an active peer, `current` the term, and the vote is its own.
    function _vote(
        uint256 tokenId,
        ClusterStorage.NodeRecord storage node,
        uint32 current,
        address target,
        bool isNoConfidence
    ) private {
        (address leader,, uint256 votes, uint256 required) = Election.standing();
        if (leader == address(0) || target != leader) revert NotLeader(target, leader);

        ClusterStorage.VoteState state = node.voteTerm == current ? node.vote : ClusterStorage.VoteState.NONE;
        if (state == ClusterStorage.VoteState.SPENT) revert VoteSpent(tokenId, current);
        if (isNoConfidence) {
            if (state == ClusterStorage.VoteState.COUNTED) revert AlreadyVoted(tokenId, current);
            (node.voteTerm, node.vote) = (current, ClusterStorage.VoteState.COUNTED);
            ++votes;
        } else {
            if (state == ClusterStorage.VoteState.NONE) revert NoVote(tokenId, current);
            node.vote = ClusterStorage.VoteState.SPENT;
            --votes;
        }
        // forge-lint: disable-next-line(unsafe-typecast): at most one of each peer
        ClusterStorage.members().totals.votes = uint16(votes);
        // forge-lint: disable-next-line(unsafe-typecast): at most one of each peer
        History.voteCast(tokenId, node.memberAddress, leader, isNoConfidence, uint32(votes), current);
        if (votes >= required) Election.elect();
    }
}
