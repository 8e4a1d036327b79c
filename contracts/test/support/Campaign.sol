// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IDstackClusterNFT} from "../../src/interfaces/IDstackClusterNFT.sol";
import {ILeaderElection} from "../../src/interfaces/ILeaderElection.sol";
import {VM, Vm} from "../Vm.sol";
import {ClusterTest} from "./ClusterTest.sol";
import {Ledger} from "./Ledger.sol";
import {Replica} from "./Replica.sol";

/// @title  One small cluster, a replica and a ledger that follow its events, and the choice of accounts for the next transaction.
/// @dev    Few tokens, instances, keys, roots and apps, so that they collide. Calls that the contract refuses are part of it:
///         they must leave no trace.
abstract contract Campaign is ClusterTest {
    Replica public immutable replica = new Replica();
    Ledger public immutable ledger = new Ledger();
    mapping(string name => uint256) public done;
    uint256 public refused;
    uint256 public till; // wei that were paid and not withdrawn

    uint256 internal constant ACTORS = 6;
    uint256 internal constant TOKENS = 8;

    bytes[] internal sentCalls; // registrations and signed votes submitted so far, for replays

    /// The logs of one transaction, ABI-encoded, and the number and time of its block.
    struct Kept {
        bytes logs;
        uint256 number;
        uint256 time;
    }

    bool internal immutable KEEPS; // on request: it takes time
    Kept[] internal kept;

    constructor(bool keeps) {
        KEEPS = keeps;
        VM.warp(1_800_000_000);
        VM.roll(1000);
        IDstackClusterNFT.ClusterParams memory params = defaultParams();
        params.prefixLength = 28;
        params.networkBase = 0x0a000110;
        VM.recordLogs();
        address code = implementation();
        cluster = IDstackClusterNFT(proxy(code, abi.encodeCall(IDstackClusterNFT.initialize, (params))));
        follow();
    }

    /// The campaign calls every public function: nothing is set up again.
    function setUp() public pure override {}

    function theCluster() external view returns (IDstackClusterNFT) {
        return cluster;
    }

    // ------------------------------------------------------------------------------------------------ transactions

    /// One transaction that members can see; the replica sees what was accepted, and later that the rest left no trace.
    function send(string memory name, address from, bytes memory call) internal {
        uint64 before = cluster.epoch();
        bool accepted = transact(name, from, 0, call);
        yes((cluster.epoch() > before) == accepted, "the epoch advances with what is accepted");
    }

    /// One transaction, whatever it changes.
    function transact(string memory name, address from, uint256 value, bytes memory call)
        internal
        returns (bool accepted)
    {
        (uint64 before, bytes20 past) = (cluster.epoch(), cluster.history());
        if (value != 0) VM.deal(from, value);
        VM.recordLogs();
        VM.prank(from);
        (accepted,) = address(cluster).call{value: value}(call);
        if (accepted) {
            follow();
            ++done[name];
            till += value;
        } else {
            VM.getRecordedLogs(); // forge records what reverted too
            ++refused;
            eq(cluster.epoch(), before, "a refused call changes nothing");
        }
        yes((cluster.epoch() > before) == (cluster.history() != past), "no change without a place in the history");
    }

    function follow() private {
        Vm.Log[] memory logs = VM.getRecordedLogs();
        replica.follow(logs, address(cluster), block.number, block.timestamp);
        ledger.follow(logs, address(cluster), block.number);
        ledger.mustEqual(cluster);
        if (KEEPS) {
            kept.push(Kept(abi.encode(logs), block.number, block.timestamp));
        }
    }

    /// What was kept from the `from`th transaction on.
    function history(uint256 from) external view returns (Kept[] memory since) {
        since = new Kept[](kept.length - from);
        for (uint256 i = 0; i < since.length; ++i) {
            since[i] = kept[from + i];
        }
    }

    // --------------------------------------------------------------------------------------------------- whom

    function anyToken(uint256 id) internal pure returns (uint256) {
        return 1 + id % TOKENS;
    }

    /// A peer, if there is any.
    function anyPeer(uint256 id) internal view returns (uint256) {
        id = anyToken(id);
        (IDstackClusterNFT.Peer[] memory next,) = cluster.peers(id, TOKENS);
        if (next.length == 0) (next,) = cluster.peers(0, TOKENS);
        return next.length == 0 ? id : next[0].tokenId;
    }

    /// The key of the token's member, mostly.
    function memberKeyOf(uint256 id, uint256 who) internal view returns (uint256 memberKey) {
        memberKey = actor(who % ACTORS).memberKey;
        address member = cluster.getNode(id).memberAddress;
        for (uint256 i = 0; who % 4 != 0 && i < ACTORS; ++i) {
            if (VM.addr(actor(i).memberKey) == member) memberKey = actor(i).memberKey;
        }
    }

    /// The leader, mostly.
    function voteTarget(uint256 target) internal view returns (address) {
        return
            target % 8 == 0
                ? VM.addr(actor(target % ACTORS).memberKey)
                : ILeaderElection(address(cluster)).currentLeader();
    }

    /// Two wallets with many tokens and one with few.
    function wallets() public pure returns (address[3] memory) {
        return [ALICE, BOB, address(0xCA201)];
    }

    function owner(uint256 i) internal pure returns (address) {
        return wallets()[i % 8 == 7 ? 2 : i % 2];
    }

    function ownerOf(uint256 id) internal view returns (address) {
        address found = cluster.getNode(id).owner;
        return found == address(0) ? STRANGER : found;
    }

    function app(uint256 i) internal view returns (address) {
        return i == 0 ? address(cluster) : address(0xABBA);
    }
}
