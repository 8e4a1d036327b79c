// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IDstackClusterNFT} from "../../src/interfaces/IDstackClusterNFT.sol";
import {ILeaderElection} from "../../src/interfaces/ILeaderElection.sol";
import {VM} from "../Vm.sol";
import {ClusterTest} from "./ClusterTest.sol";
import {Vote} from "./Signing.sol";

/// @title  A cluster whose members vote. Member number `i` is actor `i`; in a fresh cluster its token id is `i` too.
abstract contract ElectionTest is ClusterTest {
    ILeaderElection internal election; // the same proxy

    function setUp() public virtual override {
        super.setUp();
        election = ILeaderElection(address(cluster));
    }

    /// Members 1 to `count`, and the first of them elected.
    function elected(uint256 count) internal {
        for (uint256 i = 1; i <= count; ++i) {
            join(i);
        }
        election.electLeader();
    }

    /// Leader 1, `count` stale registrations of `app` behind it, and two members more; in term 2 of a fresh cluster.
    function staleAhead(uint256 count, address app) internal {
        addApp(app);
        join(1);
        for (uint256 i = 2; i <= count + 1; ++i) {
            joinUnder(i, secret("root", 0), app);
        }
        join(count + 2);
        join(count + 3);
        election.electLeader();
        VM.prank(OWNER);
        cluster.removeAppId(app);
        mustLead(1, addressOfMember(1));
    }

    function addressOfMember(uint256 i) internal view returns (address) {
        return VM.addr(actor(i).memberKey);
    }

    /// Member `i` votes no confidence in the present leader.
    function distrust(uint256 i) internal {
        cast(i, election.currentLeader(), true);
    }

    function cast(uint256 i, address target, bool isNoConfidence) internal {
        uint32 term = election.term();
        VM.prank(addressOfMember(i));
        election.castVote(term, target, isNoConfidence);
    }

    function castExpecting(uint256 i, address target, bool isNoConfidence, bytes memory revertData) internal {
        uint32 term = election.term();
        VM.expectRevert(revertData);
        VM.prank(addressOfMember(i));
        election.castVote(term, target, isNoConfidence);
    }

    /// A vote of no confidence in the present leader, of the current term, good for an hour.
    function voteOf(uint256 tokenId) internal view returns (Vote memory) {
        return Vote(tokenId, election.term(), election.currentLeader(), true, uint64(block.timestamp + 1 hours));
    }

    function signed(Vote memory vote, uint256 i) internal view returns (bytes memory) {
        return signFor(vote, actor(i).memberKey, address(cluster), block.chainid);
    }

    /// A relayer hands it in.
    function relay(Vote memory vote, bytes memory signature) internal {
        VM.prank(STRANGER);
        election.castVoteBySig(vote.tokenId, vote.term, vote.target, vote.isNoConfidence, vote.deadline, signature);
    }

    function relayExpecting(Vote memory vote, bytes memory signature, bytes memory revertData) internal {
        VM.expectRevert(revertData);
        relay(vote, signature);
    }

    /// A TLS_GATEWAY registration of member `i` below "gw.example.com".
    function behindGateway(uint256 tokenId, uint256 i) internal view returns (IDstackClusterNFT.Registration memory r) {
        r = behind(registration(tokenId, actor(i)), "gw.example.com");
    }

    /// Token `id` of ALICE's stops being a peer, by one of four routes.
    function depart(uint256 id, uint256 route) internal {
        VM.prank(route % 4 == 3 ? OWNER : ALICE);
        if (route % 4 == 0) cluster.deactivate(id);
        else if (route % 4 == 1) cluster.burn(id);
        else if (route % 4 == 2) token.transferFrom(ALICE, BOB, id);
        else cluster.revoke(id);
        yes(!isPeer(id), "left");
    }

    /// As `depart` by `deactivate`, and back again with the same node.
    function departAndComeBack(uint256 id, uint256 i) internal {
        depart(id, 0);
        VM.prank(ALICE);
        cluster.bind(id, instance(i), address(0));
        submit(registration(id, actor(i)), actor(i));
    }

    function mustLead(uint256 tokenId, address leader) internal view {
        eq(election.currentLeader(), leader, "the leader");
        eq(election.leaderToken(), tokenId, "the leader's token");
    }

    function mustHaveNoLeader() internal view {
        mustLead(0, address(0));
    }

    function mustCountVotes(uint256 votes) internal view {
        eq(election.noConfidenceCount(election.currentLeader()), votes, "votes");
    }

    function notLeader(address target, address leader) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(ILeaderElection.NotLeader.selector, target, leader);
    }

    function notAMember(address caller) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(ILeaderElection.NotAMember.selector, caller);
    }

    function alreadyVoted(uint256 tokenId, uint32 term) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(ILeaderElection.AlreadyVoted.selector, tokenId, term);
    }

    function noVote(uint256 tokenId, uint32 term) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(ILeaderElection.NoVote.selector, tokenId, term);
    }

    function voteSpent(uint256 tokenId, uint32 term) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(ILeaderElection.VoteSpent.selector, tokenId, term);
    }

    function notActive(uint256 tokenId) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(IDstackClusterNFT.NodeNotActive.selector, tokenId);
    }
}
