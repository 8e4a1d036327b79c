// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {AppAuth} from "./AppAuth.sol";
import {ClusterPolicy} from "./ClusterPolicy.sol";
import {ClusterReads} from "./ClusterReads.sol";
import {ClusterTrust} from "./ClusterTrust.sol";
import {LeaderElection} from "./LeaderElection.sol";
import {NodeReads} from "./NodeReads.sol";

/// @title  The second half of DstackClusterNFT's code: boot gate, governance, election and reads.
/// @dev    Runs by delegatecall from DstackClusterNFT on the cluster's state, and is deployed by its constructor. Called
///         directly it sees an empty cluster without an owner, so its writes revert.
contract ClusterExtension is AppAuth, ClusterTrust, ClusterPolicy, ClusterReads, NodeReads, LeaderElection {}
