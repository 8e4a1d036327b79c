// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IDstackClusterNFT} from "../src/interfaces/IDstackClusterNFT.sol";
import {VM, Vm} from "./Vm.sol";
import {Campaign} from "./support/Campaign.sol";
import {Handler} from "./support/Handler.sol";
import {Lives} from "./support/Lives.sol";
import {Replica} from "./support/Replica.sol";

/// A chain that takes blocks back: who follows events returns to the fork and follows the other branch, and who misses the fork
/// notices it by the epochs.
contract ReorgTest is Lives {
    IDstackClusterNFT internal cluster;

    function setUp() public {
        handler = new Handler(true);
        cluster = handler.theCluster();
    }

    /// forge-config: default.fuzz.runs = 32
    /// forge-config: ci.fuzz.runs = 1000
    function testFuzz_events_rebuild_the_state_across_a_reorg(uint256 seed) public {
        live(seed, 80);
        Campaign.Kept[] memory common = handler.history(0);
        uint64 forkEpoch = cluster.epoch();
        uint256 fork = VM.snapshotState();

        live(uint256(keccak256(abi.encode(seed, "one branch"))), 40);
        handler.replica().mustEqual(cluster);
        Campaign.Kept[] memory abandoned = handler.history(common.length);
        yes(cluster.epoch() > forkEpoch, "something happened");

        yes(VM.revertToState(fork), "back to the fork");
        eq(cluster.epoch(), forkEpoch, "the epoch went back");
        live(uint256(keccak256(abi.encode(seed, "the other"))), 40);
        handler.replica().mustEqual(cluster); // it went back to the fork with the chain
        Campaign.Kept[] memory rest = handler.history(common.length);
        yes(cluster.epoch() > forkEpoch, "something else happened");

        Replica fresh = new Replica();
        follow(fresh, common);
        follow(fresh, rest);
        fresh.mustEqual(cluster);

        Replica unaware = new Replica();
        follow(unaware, common);
        follow(unaware, abandoned);
        try this.followAll(unaware, rest) {
            revert Untrue("a missed fork is noticed");
        } catch {}
    }

    /// External, so that a test can catch its revert.
    function followAll(Replica replica, Campaign.Kept[] memory history) external {
        follow(replica, history);
    }

    function follow(Replica replica, Campaign.Kept[] memory history) private {
        for (uint256 i = 0; i < history.length; ++i) {
            Vm.Log[] memory logs = abi.decode(history[i].logs, (Vm.Log[]));
            replica.follow(logs, address(cluster), history[i].number, history[i].time);
        }
    }
}
