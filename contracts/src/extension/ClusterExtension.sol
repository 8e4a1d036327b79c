// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {ClusterReads} from "./ClusterReads.sol";
import {ClusterTrust} from "./ClusterTrust.sol";

/// @title  The second half of DstackClusterNFT's code: governance and reads of peers.
/// @dev    Runs by delegatecall from DstackClusterNFT on the cluster's state, and is deployed by its constructor. Called
///         directly it sees an empty cluster without an owner, so its writes revert.
contract ClusterExtension is ClusterTrust, ClusterReads {}
