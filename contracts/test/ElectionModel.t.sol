// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {ILeaderElection} from "../src/interfaces/ILeaderElection.sol";
import {VM} from "./Vm.sol";
import {ElectionModel} from "./support/ElectionModel.sol";
import {ElectionTest} from "./support/ElectionTest.sol";
import {Actor, Vote} from "./support/Signing.sol";

/// The cluster against a second, dumber writing of the rules, through random lives of six tokens, four node keys and two roots.
contract ElectionModelTest is ElectionTest {
    uint256 internal constant TOKENS = 6;
    uint256 internal constant NODES = 4;
    uint256 internal constant STEPS = 60;

    event Happened(string what, uint256 times);

    ElectionModel internal model;
    mapping(bytes4 outcome => uint256) internal seen;
    uint256 internal rng;

    function setUp() public override {
        super.setUp();
        model = new ElectionModel();
        addRoot(1);
        for (uint256 id = 1; id <= TOKENS; ++id) {
            mint(ALICE, 0);
        }
    }

    /// forge-config: default.fuzz.runs = 64
    /// forge-config: ci.fuzz.runs = 2000
    function testFuzz_the_cluster_does_what_the_model_does(uint256 seed) public {
        live(seed);
    }

    /// Enough lives that every outcome is known to have been met.
    function test_every_outcome_is_met() public {
        for (uint256 life = 0; life < 20; ++life) {
            live(life);
        }
        bytes4[8] memory outcomes = [
            bytes4(0),
            ILeaderElection.NotAMember.selector,
            ILeaderElection.NotLeader.selector,
            ILeaderElection.AlreadyVoted.selector,
            ILeaderElection.NoVote.selector,
            ILeaderElection.VoteSpent.selector,
            ILeaderElection.WrongTerm.selector,
            ILeaderElection.LeaderStands.selector
        ];
        for (uint256 i = 0; i < outcomes.length; ++i) {
            yes(seen[outcomes[i]] >= 10, string.concat("outcome ", VM.toString(i), " was met"));
        }
        yes(model.term() > 50, "and leaders came and went");
    }

    function live(uint256 seed) private {
        rng = seed;
        for (uint256 step = 0; step < STEPS; ++step) {
            uint256 what = random(16);
            uint256 id = 1 + random(TOKENS);
            if (what < 5) joinOrLeave(id);
            else if (what < 6) loseRoot();
            else if (what < 8) elect();
            else if (what < 13) vote();
            else voteSigned(id);
            compare();
        }
    }

    // -------------------------------------------------------------------------------------------------- operations

    function joinOrLeave(uint256 id) private {
        (bool active,,) = model.members(id);
        if (active) {
            if (random(3) != 0) return; // stay for a while
            VM.prank(ALICE);
            cluster.deactivate(id);
            model.depart(id);
            return;
        }
        (uint256 node, uint256 root) = (random(NODES), random(8) == 0 ? 1 : 0);
        VM.prank(ALICE);
        cluster.bind(id, instance(id), address(0));
        Actor memory who = actor(node);
        (who.instanceId, who.rootKey) = (instance(id), secret("root", root));
        submit(registration(id, who), who);
        model.join(id, node, root);
    }

    function loseRoot() private {
        address root = VM.addr(secret("root", 1));
        VM.prank(OWNER);
        cluster.removeKmsRoot(root);
        model.removeRoot(1);
        addRoot(1);
    }

    function elect() private {
        mustEnd(STRANGER, abi.encodeCall(ILeaderElection.electLeader, ()), model.elect());
    }

    function vote() private {
        (uint256 node, uint256 target, bool isNoConfidence) = (random(NODES + 1), anyTarget(), random(4) != 0);
        uint32 term = model.term();
        if (random(8) == 0) term += 1;
        bytes4 expected = model.vote(node, term, target, isNoConfidence);
        bytes memory call = abi.encodeCall(ILeaderElection.castVote, (term, addressOfMember(target), isNoConfidence));
        mustEnd(addressOfMember(node), call, expected);
    }

    function voteSigned(uint256 id) private {
        (, uint256 node,) = model.members(id);
        if (random(8) == 0) node = random(NODES);
        uint32 term = model.term();
        if (random(8) == 0) term += 1;
        (uint256 target, bool isNoConfidence) = (anyTarget(), random(4) != 0);
        Vote memory v = Vote(id, term, addressOfMember(target), isNoConfidence, uint64(block.timestamp));
        bytes memory signature = signed(v, node);
        bytes4 expected = model.voteSigned(id, term, node, target, isNoConfidence);
        bytes memory call =
            abi.encodeCall(ILeaderElection.castVoteBySig, (id, term, v.target, isNoConfidence, v.deadline, signature));
        mustEnd(STRANGER, call, expected);
    }

    /// Calls, and compares the error with the model's.
    function mustEnd(address from, bytes memory call, bytes4 expected) private {
        VM.prank(from);
        (bool accepted, bytes memory result) = address(cluster).call(call);
        bytes4 outcome = accepted ? bytes4(0) : bytes4(result);
        eq(bytes32(outcome), bytes32(expected), "the outcome");
        ++seen[outcome];
    }

    function compare() private view {
        uint256 leader = model.leader();
        eq(election.leaderToken(), leader, "the leader's token");
        (, uint256 node,) = model.members(leader);
        eq(election.currentLeader(), leader == 0 ? address(0) : addressOfMember(node), "the leader");
        eq(election.term(), model.term(), "the term");
        eq(election.requiredVotes(), model.count() / 2 + 1, "required");
        uint256 seated = model.seated();
        if (seated == 0) return;
        (, node,) = model.members(seated);
        eq(election.noConfidenceCount(addressOfMember(node)), model.votes(), "votes");
    }

    /// The node of the leader, mostly.
    function anyTarget() private returns (uint256 node) {
        (, node,) = model.members(model.leader());
        if (random(6) == 0) node = random(NODES);
    }

    function random(uint256 n) private returns (uint256) {
        rng = uint256(keccak256(abi.encode(rng)));
        return rng % n;
    }
}
