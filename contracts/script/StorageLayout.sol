// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {OwnableUpgradeable} from "@openzeppelin/contracts-upgradeable/access/OwnableUpgradeable.sol";
import {Ownable2StepUpgradeable} from "@openzeppelin/contracts-upgradeable/access/Ownable2StepUpgradeable.sol";
import {ERC721Upgradeable} from "@openzeppelin/contracts-upgradeable/token/ERC721/ERC721Upgradeable.sol";
import {Initializable} from "@openzeppelin/contracts/proxy/utils/Initializable.sol";
import {ClusterStorage} from "../src/ClusterStorage.sol";
import {DstackAppStorage} from "../src/DstackAppStorage.sol";
import {WalletTokens} from "../src/WalletTokens.sol";

/// @title  Every storage namespace of a cluster as a variable, so that the compiler says how it lays them out.
/// @dev    artifacts.mjs writes that to snapshots/storage-layout.json, a namespace's slots counted from its own first, and its check
///         fails when they differ: what an upgraded cluster finds in its storage must mean what it meant.
contract StorageLayout {
    DstackAppStorage.Layout internal dstackApp; // slot 0 of the proxy
    ClusterStorage.Members internal members;
    ClusterStorage.Trust internal trust;
    ClusterStorage.Policy internal policy;
    ClusterStorage.Election internal election;
    ERC721Upgradeable.ERC721Storage internal erc721;
    WalletTokens.Erc721 internal erc721AsReadHere;
    OwnableUpgradeable.OwnableStorage internal ownable;
    Ownable2StepUpgradeable.Ownable2StepStorage internal ownable2Step;
    Initializable.InitializableStorage internal initializable;
}
