// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IDstackClusterNFT} from "../../src/interfaces/IDstackClusterNFT.sol";
import {ILeaderElection} from "../../src/interfaces/ILeaderElection.sol";

/// @title  The rules of the election, written down a second time with loops over all members and nothing remembered that can be
///         counted. Each call returns the error that the cluster must give, zero for none.
contract ElectionModel {
    uint256 internal constant TOKENS = 6;

    struct Member {
        bool active;
        uint256 node; // number of its member address
        uint256 root;
    }

    Member[TOKENS + 1] public members; // by token id
    mapping(uint256 node => uint256 tokenId) internal voterOf; // by direct vote
    mapping(uint256 tokenId => mapping(uint32 term => bool)) internal voted;
    mapping(uint256 tokenId => mapping(uint32 term => bool)) internal tookBack;
    uint32 public term;
    uint256 internal seat; // token, zero: empty
    uint256 internal last; // token that led last

    function join(uint256 id, uint256 node, uint256 root) external {
        uint256 voter = voterOf[node];
        if (!(members[voter].active && members[voter].node == node)) voterOf[node] = id;
        members[id] = Member(true, node, root);
    }

    function depart(uint256 id) public {
        if (voted[id][term]) tookBack[id][term] = true;
        if (seat == id) seat = 0;
        members[id].active = false;
    }

    function removeRoot(uint256 root) external {
        bool any = false;
        for (uint256 id = 1; id <= TOKENS; ++id) {
            if (!members[id].active || members[id].root != root) continue;
            depart(id);
            any = true;
        }
        if (any) ++term;
    }

    function elect() external returns (bytes4) {
        if (leader() != 0) return ILeaderElection.LeaderStands.selector;
        if (count() == 0) return ILeaderElection.NoMembers.selector;
        seatNext();
        return 0;
    }

    function vote(uint256 node, uint32 inTerm, uint256 target, bool isNoConfidence) external returns (bytes4) {
        if (inTerm != term) return ILeaderElection.WrongTerm.selector;
        uint256 id = voterOf[node];
        if (!members[id].active || members[id].node != node) return ILeaderElection.NotAMember.selector;
        return voteOf(id, target, isNoConfidence);
    }

    function voteSigned(uint256 id, uint32 inTerm, uint256 signer, uint256 target, bool isNoConfidence)
        external
        returns (bytes4)
    {
        if (inTerm != term) return ILeaderElection.WrongTerm.selector;
        if (!members[id].active) return IDstackClusterNFT.NodeNotActive.selector;
        if (members[id].node != signer) return IDstackClusterNFT.MemberSignatureMismatch.selector;
        return voteOf(id, target, isNoConfidence);
    }

    function voteOf(uint256 id, uint256 target, bool isNoConfidence) private returns (bytes4) {
        if (leader() == 0 || members[leader()].node != target) return ILeaderElection.NotLeader.selector;
        if (tookBack[id][term]) return ILeaderElection.VoteSpent.selector;
        if (voted[id][term] == isNoConfidence) {
            return isNoConfidence ? ILeaderElection.AlreadyVoted.selector : ILeaderElection.NoVote.selector;
        }
        if (isNoConfidence) voted[id][term] = true;
        else tookBack[id][term] = true;
        if (leader() == 0) seatNext();
        return 0;
    }

    /// The token that leads, zero for none.
    function leader() public view returns (uint256) {
        return 2 * votes() > count() ? 0 : seat;
    }

    /// Members that vote no confidence in this term.
    function votes() public view returns (uint256 sum) {
        for (uint256 id = 1; id <= TOKENS; ++id) {
            if (members[id].active && voted[id][term] && !tookBack[id][term]) ++sum;
        }
    }

    function count() public view returns (uint256 sum) {
        for (uint256 id = 1; id <= TOKENS; ++id) {
            if (members[id].active) ++sum;
        }
    }

    /// Whether a member holds the seat, distrusted or not.
    function seated() external view returns (uint256) {
        return seat;
    }

    function seatNext() private {
        for (uint256 step = 1; step <= TOKENS; ++step) {
            uint256 id = (last + step - 1) % TOKENS + 1;
            if (!members[id].active) continue;
            (seat, last) = (id, id);
            ++term;
            return;
        }
    }
}
