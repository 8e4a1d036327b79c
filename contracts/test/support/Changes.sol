// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IClusterPolicy} from "../../src/interfaces/IClusterPolicy.sol";
import {IDstackClusterNFT} from "../../src/interfaces/IDstackClusterNFT.sol";
import {ILeaderElection} from "../../src/interfaces/ILeaderElection.sol";
import {Vm} from "../Vm.sol";
import {Signing} from "./Signing.sol";

/// @title  What each event adds to the history, made of its log alone and written down a second time: nothing here is the contract's
///         code.
abstract contract Changes is Signing {
    /// All kinds of events that carry an epoch, by topic 0.
    function kinds() internal pure returns (bytes32[21] memory) {
        return [
            IDstackClusterNFT.MeshNetworkFixed.selector,
            IDstackClusterNFT.NodeMinted.selector,
            IDstackClusterNFT.NodeBound.selector,
            IDstackClusterNFT.NodeCleared.selector,
            IDstackClusterNFT.NodeReinstated.selector,
            IDstackClusterNFT.KmsRootAdded.selector,
            IDstackClusterNFT.KmsRootRemoved.selector,
            IDstackClusterNFT.AppIdAdded.selector,
            IDstackClusterNFT.AppIdRemoved.selector,
            IClusterPolicy.ClusterConfigUpdated.selector,
            IClusterPolicy.MintingPolicyUpdated.selector,
            IClusterPolicy.RegistrationsPaused.selector,
            IClusterPolicy.DevModeSet.selector,
            ILeaderElection.LeaderElected.selector,
            ILeaderElection.VoteCast.selector,
            ILeaderElection.VotesLapsed.selector,
            IDstackClusterNFT.BaseDomainAdded.selector,
            IDstackClusterNFT.BaseDomainRemoved.selector,
            IClusterPolicy.DevUrlSet.selector,
            IDstackClusterNFT.PeerRegistered.selector,
            IDstackClusterNFT.PeerEndpointUpdated.selector
        ];
    }

    /// The position of a log's event in `kinds`, `found` false for events that are no part of the history.
    function kindOf(Vm.Log memory log) internal pure returns (bool found, uint256 kind) {
        bytes32[21] memory all = kinds();
        while (kind < all.length && all[kind] != log.topics[0]) ++kind;
        found = kind < all.length;
    }

    /// Topic 0 and what the event says, a word each, of a log of `kind` in the block `number`; and the epoch in it.
    function wordsOf(Vm.Log memory log, uint256 kind, uint256 number)
        internal
        view
        returns (bytes32[] memory words, uint64 epoch)
    {
        if (kind < 16) return wordsOfValues(log);
        if (kind < 19) return wordsOfText(log);
        if (kind == 19) return wordsOfRegistration(log, number);
        return wordsOfUpdate(log);
    }

    /// With one event more.
    function after_(bytes20 before, uint64 epoch, bytes32[] memory words) internal pure returns (bytes20) {
        bytes32 change = keccak256(abi.encodePacked(words)); // elements of an array are padded to words
        return bytes20(keccak256(bytes.concat(bytes32(uint256(epoch)), bytes32(before), change)));
    }

    /// Every field has a fixed size, the indexed ones come first, and the epoch is last.
    function wordsOfValues(Vm.Log memory log) private pure returns (bytes32[] memory words, uint64 epoch) {
        uint256 inData = log.data.length / 32 - 1;
        words = new bytes32[](log.topics.length + inData);
        for (uint256 i = 0; i < log.topics.length; ++i) {
            words[i] = log.topics[i];
        }
        for (uint256 i = 0; i < inData; ++i) {
            words[log.topics.length + i] = wordAt(log.data, i);
        }
        epoch = uint64(uint256(wordAt(log.data, inData)));
    }

    function wordAt(bytes memory data, uint256 i) private pure returns (bytes32 word) {
        assembly ("memory-safe") {
            word := mload(add(data, mul(32, add(i, 1))))
        }
    }

    /// An indexed number and a text.
    function wordsOfText(Vm.Log memory log) private pure returns (bytes32[] memory words, uint64 epoch) {
        string memory text;
        (text, epoch) = abi.decode(log.data, (string, uint64));
        words = new bytes32[](3);
        (words[0], words[1], words[2]) = (log.topics[0], log.topics[1], keccak256(bytes(text)));
    }

    function wordsOfRegistration(Vm.Log memory log, uint256 number)
        private
        view
        returns (bytes32[] memory words, uint64 epoch)
    {
        IDstackClusterNFT.Registration memory r;
        IDstackClusterNFT.SignatureChain memory chain;
        address kmsRoot;
        (r, chain,,,, kmsRoot, epoch) = abi.decode(
            log.data,
            (IDstackClusterNFT.Registration, IDstackClusterNFT.SignatureChain, bytes, bytes, address, address, uint64)
        );
        words = new bytes32[](6);
        (words[0], words[1], words[2]) = (log.topics[0], log.topics[1], digestOf(r, log.emitter, block.chainid));
        words[3] = bytes32(uint256(uint160(kmsRoot)));
        words[4] = bytes32(uint256(uint160(chain.appId)));
        words[5] = bytes32(number);
    }

    function wordsOfUpdate(Vm.Log memory log) private view returns (bytes32[] memory words, uint64 epoch) {
        IDstackClusterNFT.EndpointUpdate memory u;
        (u,, epoch) = abi.decode(log.data, (IDstackClusterNFT.EndpointUpdate, bytes, uint64));
        words = new bytes32[](3);
        (words[0], words[1], words[2]) = (log.topics[0], log.topics[1], digestOf(u, log.emitter, block.chainid));
    }
}
