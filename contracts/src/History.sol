// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {ClusterStorage} from "./ClusterStorage.sol";
import {IClusterPolicy} from "./interfaces/IClusterPolicy.sol";
import {IDstackClusterNFT} from "./interfaces/IDstackClusterNFT.sol";
import {ILeaderElection} from "./interfaces/ILeaderElection.sol";
import {Switches} from "./lib/Switches.sol";

/// @title  Every visible change of a cluster: its epoch, its place in the history, its event.
/// @notice The history is a hash over all changes so far. Who knows the state at one epoch and has the events since replays them and
///         compares one word of storage (ClusterStorage.Totals), which shows that none was left out, altered, moved or invented.
///         With one event more,
///
///             history = the first 20 bytes of keccak256(abi.encode(epoch, history before, change)), zero before the first event,
///             change  = keccak256(abi.encode(topic 0 of the event, its fields)),
///
///         where `epoch` (a number) is the one in the event, `history before` (bytes20) is left-aligned in its word, and the fields
///         are those of the event in the order of its declaration, indexed or not, each as one ABI word of its type, but for
///
///         - the epoch, which is left out;
///         - a string, of which the keccak256 of its bytes stands in its place;
///         - PeerRegistered, whose fields are tokenId, the EIP-712 digest of the registration, kmsRoot, chain.appId and the number of
///           the block: signatures are left out, and prove themselves over that digest;
///         - PeerEndpointUpdated, whose fields are tokenId and the EIP-712 digest of the update.
///
///         Events without an epoch are no part of it: those of ERC-721, of ownership and upgrades, of the boot gate, and Withdrawn.
/// @dev    A function for each event, by its name. Here, and nowhere else, are events with an epoch emitted, so that none says
///         anything but what is in the history. A switch that the event is about is turned here too: it is in the word that is
///         written.
library History {
    using Switches for Switches.Byte;

    // ---------------------------------------------------------------------------------------------------- members

    function meshNetworkFixed(bytes4 base, uint8 prefixLength) internal {
        bytes32 change = _hash(IDstackClusterNFT.MeshNetworkFixed.selector, bytes32(base), _word(prefixLength));
        emit IDstackClusterNFT.MeshNetworkFixed(base, prefixLength, _next(change));
    }

    function nodeMinted(uint256 tokenId, address to, bytes20 instanceId, address appId) internal {
        bytes32 change =
            _hash(IDstackClusterNFT.NodeMinted.selector, _word(tokenId), _word(to), bytes32(instanceId), _word(appId));
        emit IDstackClusterNFT.NodeMinted(tokenId, to, instanceId, appId, _next(change));
    }

    function nodeBound(uint256 tokenId, bytes20 instanceId, address appId) internal {
        bytes32 change = _hash(IDstackClusterNFT.NodeBound.selector, _word(tokenId), bytes32(instanceId), _word(appId));
        emit IDstackClusterNFT.NodeBound(tokenId, instanceId, appId, _next(change));
    }

    /// `digest` is what the signatures are over.
    function peerRegistered(
        IDstackClusterNFT.Registration calldata registration,
        bytes32 digest,
        IDstackClusterNFT.SignatureChain calldata chain,
        address appId,
        bytes calldata nodeSignature,
        bytes calldata memberSignature,
        address nodeAddress,
        address kmsRoot
    ) internal {
        uint256 tokenId = registration.tokenId;
        bytes32 change = _hash(
            IDstackClusterNFT.PeerRegistered.selector,
            _word(tokenId),
            digest,
            _word(kmsRoot),
            _word(appId),
            _word(block.number)
        );
        uint64 epoch = _next(change);
        emit IDstackClusterNFT.PeerRegistered(
            tokenId, registration, chain, nodeSignature, memberSignature, nodeAddress, kmsRoot, epoch
        );
    }

    /// `digest` is what the signature is over.
    function peerEndpointUpdated(
        IDstackClusterNFT.EndpointUpdate calldata update,
        bytes32 digest,
        bytes calldata memberSignature
    ) internal {
        uint256 tokenId = update.tokenId;
        bytes32 change = _hash(IDstackClusterNFT.PeerEndpointUpdated.selector, _word(tokenId), digest);
        emit IDstackClusterNFT.PeerEndpointUpdated(tokenId, update, memberSignature, _next(change));
    }

    function nodeCleared(uint256 tokenId, IDstackClusterNFT.LeaveReason reason, uint32 keyEpoch) internal {
        bytes32 change =
            _hash(IDstackClusterNFT.NodeCleared.selector, _word(tokenId), _word(uint256(reason)), _word(keyEpoch));
        emit IDstackClusterNFT.NodeCleared(tokenId, reason, keyEpoch, _next(change));
    }

    function nodeReinstated(uint256 tokenId) internal {
        bytes32 change = _hash(IDstackClusterNFT.NodeReinstated.selector, _word(tokenId));
        emit IDstackClusterNFT.NodeReinstated(tokenId, _next(change));
    }

    // ------------------------------------------------------------------------------------------------------ trust

    function kmsRootAdded(address root, uint32 generation, uint64 effectiveAt) internal {
        bytes32 change =
            _hash(IDstackClusterNFT.KmsRootAdded.selector, _word(root), _word(generation), _word(effectiveAt));
        emit IDstackClusterNFT.KmsRootAdded(root, generation, effectiveAt, _next(change));
    }

    function kmsRootRemoved(address root, uint32 generation) internal {
        bytes32 change = _hash(IDstackClusterNFT.KmsRootRemoved.selector, _word(root), _word(generation));
        emit IDstackClusterNFT.KmsRootRemoved(root, generation, _next(change));
    }

    function appIdAdded(address appId, uint32 generation, uint64 effectiveAt) internal {
        bytes32 change =
            _hash(IDstackClusterNFT.AppIdAdded.selector, _word(appId), _word(generation), _word(effectiveAt));
        emit IDstackClusterNFT.AppIdAdded(appId, generation, effectiveAt, _next(change));
    }

    function appIdRemoved(address appId, uint32 generation) internal {
        bytes32 change = _hash(IDstackClusterNFT.AppIdRemoved.selector, _word(appId), _word(generation));
        emit IDstackClusterNFT.AppIdRemoved(appId, generation, _next(change));
    }

    function baseDomainAdded(uint16 index, string calldata domain, bytes32 hash) internal {
        bytes32 change = _hash(IDstackClusterNFT.BaseDomainAdded.selector, _word(index), hash);
        emit IDstackClusterNFT.BaseDomainAdded(index, domain, _next(change));
    }

    function baseDomainRemoved(uint16 index, string memory domain, bytes32 hash) internal {
        bytes32 change = _hash(IDstackClusterNFT.BaseDomainRemoved.selector, _word(index), hash);
        emit IDstackClusterNFT.BaseDomainRemoved(index, domain, _next(change));
    }

    // ----------------------------------------------------------------------------------------------------- policy

    function clusterConfigUpdated(uint256 maxNodes, IClusterPolicy.NetworkPolicy networkType) internal {
        bytes32 change =
            _hash(IClusterPolicy.ClusterConfigUpdated.selector, _word(maxNodes), _word(uint256(networkType)));
        emit IClusterPolicy.ClusterConfigUpdated(maxNodes, networkType, _next(change));
    }

    function mintingPolicyUpdated(uint256 price, bool publicMinting) internal {
        bytes32 change = _hash(IClusterPolicy.MintingPolicyUpdated.selector, _word(price), _word(publicMinting));
        uint64 epoch = _next(change, Switches.PUBLIC_MINTING, publicMinting);
        emit IClusterPolicy.MintingPolicyUpdated(price, publicMinting, epoch);
    }

    function registrationsPaused(bool paused) internal {
        bytes32 change = _hash(IClusterPolicy.RegistrationsPaused.selector, _word(paused));
        emit IClusterPolicy.RegistrationsPaused(paused, _next(change, Switches.REGISTRATIONS_PAUSED, paused));
    }

    function devModeSet(bool devMode) internal {
        bytes32 change = _hash(IClusterPolicy.DevModeSet.selector, _word(devMode));
        emit IClusterPolicy.DevModeSet(devMode, _next(change, Switches.DEV_MODE, devMode));
    }

    function devUrlSet(uint256 tokenId, string calldata url) internal {
        bytes32 change = _hash(IClusterPolicy.DevUrlSet.selector, _word(tokenId), _hash(url));
        emit IClusterPolicy.DevUrlSet(tokenId, url, _next(change));
    }

    // --------------------------------------------------------------------------------------------------- election

    function leaderElected(uint256 tokenId, address leader, uint32 term) internal {
        bytes32 change = _hash(ILeaderElection.LeaderElected.selector, _word(tokenId), _word(leader), _word(term));
        emit ILeaderElection.LeaderElected(tokenId, leader, term, _next(change));
    }

    function voteCast(uint256 tokenId, address voter, address target, bool isNoConfidence, uint32 votes, uint32 term)
        internal
    {
        bytes32 change = _hash(
            ILeaderElection.VoteCast.selector,
            _word(tokenId),
            _word(voter),
            _word(target),
            _word(isNoConfidence),
            _word(votes),
            _word(term)
        );
        emit ILeaderElection.VoteCast(tokenId, voter, target, isNoConfidence, votes, term, _next(change));
    }

    function votesLapsed(uint32 term) internal {
        bytes32 change = _hash(ILeaderElection.VotesLapsed.selector, _word(term));
        emit ILeaderElection.VotesLapsed(term, _next(change));
    }

    // ----------------------------------------------------------------------------------------------------- inside

    /// Puts the change into the history, and gives back its epoch, which goes into its event.
    function _next(bytes32 change) private returns (uint64) {
        ClusterStorage.Totals storage totals = ClusterStorage.members().totals;
        uint40 epoch = totals.epoch + 1; // no chain makes 2^40 changes; if one did, this would revert
        (totals.epoch, totals.history) = (epoch, _after(totals.history, epoch, change));
        return epoch;
    }

    /// As above, and turns a switch, in the same write.
    function _next(bytes32 change, uint8 which, bool on) private returns (uint64) {
        ClusterStorage.Totals storage totals = ClusterStorage.members().totals;
        uint40 epoch = totals.epoch + 1;
        bytes20 history = _after(totals.history, epoch, change);
        (totals.epoch, totals.switches, totals.history) = (epoch, totals.switches.with(which, on), history);
        return epoch;
    }

    /// The history with one change more.
    function _after(bytes20 history, uint40 epoch, bytes32 change) private pure returns (bytes20) {
        // forge-lint: disable-next-line(unsafe-typecast): the first 20 bytes
        return bytes20(_hash(_word(epoch), bytes32(history), change));
    }

    function _word(uint256 value) private pure returns (bytes32) {
        return bytes32(value);
    }

    function _word(address value) private pure returns (bytes32) {
        return bytes32(uint256(uint160(value)));
    }

    function _word(bool value) private pure returns (bytes32) {
        return bytes32(uint256(value ? 1 : 0));
    }

    /// keccak256(bytes(text)), without a copy that stays.
    function _hash(string calldata text) private pure returns (bytes32 hash) {
        assembly ("memory-safe") {
            let free := mload(0x40)
            calldatacopy(free, text.offset, text.length)
            hash := keccak256(free, text.length)
        }
    }

    /// keccak256(abi.encode(topic, a)), as all below with more words. In free memory that stays free: abi.encode would reserve it,
    /// for some 100 gas an event.
    function _hash(bytes32 topic, bytes32 a) private pure returns (bytes32 hash) {
        assembly ("memory-safe") {
            let free := mload(0x40)
            mstore(free, topic)
            mstore(add(free, 0x20), a)
            hash := keccak256(free, 0x40)
        }
    }

    function _hash(bytes32 topic, bytes32 a, bytes32 b) private pure returns (bytes32 hash) {
        assembly ("memory-safe") {
            let free := mload(0x40)
            mstore(free, topic)
            mstore(add(free, 0x20), a)
            mstore(add(free, 0x40), b)
            hash := keccak256(free, 0x60)
        }
    }

    function _hash(bytes32 topic, bytes32 a, bytes32 b, bytes32 c) private pure returns (bytes32 hash) {
        assembly ("memory-safe") {
            let free := mload(0x40)
            mstore(free, topic)
            mstore(add(free, 0x20), a)
            mstore(add(free, 0x40), b)
            mstore(add(free, 0x60), c)
            hash := keccak256(free, 0x80)
        }
    }

    function _hash(bytes32 topic, bytes32 a, bytes32 b, bytes32 c, bytes32 d) private pure returns (bytes32 hash) {
        assembly ("memory-safe") {
            let free := mload(0x40)
            mstore(free, topic)
            mstore(add(free, 0x20), a)
            mstore(add(free, 0x40), b)
            mstore(add(free, 0x60), c)
            mstore(add(free, 0x80), d)
            hash := keccak256(free, 0xa0)
        }
    }

    function _hash(bytes32 topic, bytes32 a, bytes32 b, bytes32 c, bytes32 d, bytes32 e)
        private
        pure
        returns (bytes32 hash)
    {
        assembly ("memory-safe") {
            let free := mload(0x40)
            mstore(free, topic)
            mstore(add(free, 0x20), a)
            mstore(add(free, 0x40), b)
            mstore(add(free, 0x60), c)
            mstore(add(free, 0x80), d)
            mstore(add(free, 0xa0), e)
            hash := keccak256(free, 0xc0)
        }
    }

    function _hash(bytes32 topic, bytes32 a, bytes32 b, bytes32 c, bytes32 d, bytes32 e, bytes32 f)
        private
        pure
        returns (bytes32 hash)
    {
        assembly ("memory-safe") {
            let free := mload(0x40)
            mstore(free, topic)
            mstore(add(free, 0x20), a)
            mstore(add(free, 0x40), b)
            mstore(add(free, 0x60), c)
            mstore(add(free, 0x80), d)
            mstore(add(free, 0xa0), e)
            mstore(add(free, 0xc0), f)
            hash := keccak256(free, 0xe0)
        }
    }
}
