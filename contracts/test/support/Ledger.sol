// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IDstackClusterNFT} from "../../src/interfaces/IDstackClusterNFT.sol";
import {Vm} from "../Vm.sol";
import {Changes} from "./Changes.sol";
import {Check} from "./Check.sol";

/// @title  The history of a cluster made of its events and nothing else.
contract Ledger is Changes, Check {
    uint64 public epoch;
    bytes20 public history;

    /// Takes the logs of one transaction in the block `number`.
    function follow(Vm.Log[] memory logs, address cluster, uint256 number) external {
        for (uint256 i = 0; i < logs.length; ++i) {
            if (logs[i].emitter != cluster) continue;
            (bool found, uint256 kind) = kindOf(logs[i]);
            if (!found) continue;
            (bytes32[] memory words, uint64 next) = wordsOf(logs[i], kind, number);
            eq(next, epoch + 1, "epochs are consecutive");
            (epoch, history) = (next, after_(history, next, words));
        }
    }

    /// Reverts unless the cluster says the same.
    function mustEqual(IDstackClusterNFT cluster) external view {
        eq(cluster.epoch(), epoch, "epoch");
        eq(bytes32(cluster.history()), bytes32(history), "history");
    }
}
