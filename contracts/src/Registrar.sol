// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IClusterPolicy} from "./interfaces/IClusterPolicy.sol";
import {IDstackClusterNFT} from "./interfaces/IDstackClusterNFT.sol";
import {ClusterStorage} from "./ClusterStorage.sol";
import {History} from "./History.sol";
import {PeerTable} from "./PeerTable.sol";
import {TrustList} from "./TrustList.sol";
import {SignatureChainVerifier} from "./lib/SignatureChainVerifier.sol";
import {Switches} from "./lib/Switches.sol";
import {TypedData} from "./lib/TypedData.sol";

/// @title  What a node must show to become a peer or to move.
/// @dev    The submitter plays no part: everything that is checked is signed. Replay is excluded by the key epoch, which a
///         registration must name as the stored value plus one, which leaving spends too, and which a token id never loses; and, of
///         endpoint updates, by a count of their own within one key epoch.
library Registrar {
    using Switches for Switches.Byte;

    /// Seconds by which a deadline may lie ahead: longer than any honest relay takes, and shorter than a KMS root or app id that was
    /// removed and added again takes to count (ClusterTrust), so that no signature from before is good after.
    uint64 internal constant MAX_SIGNATURE_VALIDITY = 1 days;

    /// Checks a registration for a minted, unrevoked token and makes its node a peer.
    function register(
        IDstackClusterNFT.Registration calldata registration,
        IDstackClusterNFT.SignatureChain calldata chain,
        bytes calldata nodeSignature,
        bytes calldata memberSignature
    ) internal {
        _checkPolicy(registration.networkType);
        address appId = chain.appId;
        ClusterStorage.NodeRecord storage node = ClusterStorage.members().nodes[registration.tokenId];
        checkDeadline(registration.deadline);
        if (registration.keyEpoch != node.keyEpoch + 1) {
            revert IDstackClusterNFT.WrongKeyEpoch(registration.tokenId, node.keyEpoch + 1, registration.keyEpoch);
        }
        _checkBinding(registration, node, appId);
        bool wireguard = registration.networkType == IDstackClusterNFT.NetworkType.WIREGUARD;
        if (wireguard != (registration.wireguardKey != 0)) revert IDstackClusterNFT.InvalidWireguardKey();
        if (!wireguard && registration.tlsKey == 0) revert IDstackClusterNFT.InvalidTlsKey();
        uint16 gatewayIndex = _checkReachable(
            registration.networkType,
            registration.endpointAddress,
            registration.endpointPort,
            registration.gatewayDomain,
            registration.gatewayPort
        );

        bytes32 digest = TypedData.digest(registration);
        (address nodeAddress, address kmsRoot) = SignatureChainVerifier.verify(chain, digest, nodeSignature);
        checkMember(digest, memberSignature, registration.memberAddress);
        PeerTable.admit(
            registration,
            gatewayIndex,
            TrustList.requireKmsRoot(kmsRoot, node.root),
            TrustList.requireAppId(appId, node.app)
        );

        History.peerRegistered(registration, digest, chain, appId, nodeSignature, memberSignature, nodeAddress, kmsRoot);
    }

    /// Checks an endpoint update and writes it.
    function updateEndpoint(IDstackClusterNFT.EndpointUpdate calldata update, bytes calldata memberSignature) internal {
        ClusterStorage.NodeRecord storage node = ClusterStorage.members().nodes[update.tokenId];
        if (!PeerTable.isActive(node)) revert IDstackClusterNFT.NodeNotActive(update.tokenId);
        checkDeadline(update.deadline);
        if (update.keyEpoch != node.keyEpoch) {
            revert IDstackClusterNFT.WrongKeyEpoch(update.tokenId, node.keyEpoch, update.keyEpoch);
        }
        if (update.endpointEpoch != node.endpointEpoch + 1) {
            revert IDstackClusterNFT.WrongEndpointEpoch(update.tokenId, node.endpointEpoch + 1, update.endpointEpoch);
        }
        uint16 gatewayIndex = _checkReachable(
            node.networkType, update.endpointAddress, update.endpointPort, update.gatewayDomain, update.gatewayPort
        );
        bytes32 digest = TypedData.digest(update);
        checkMember(digest, memberSignature, node.memberAddress);

        PeerTable.setReach(
            node, update.endpointEpoch, update.endpointAddress, update.endpointPort, gatewayIndex, update.gatewayPort
        );

        History.peerEndpointUpdated(update, digest, memberSignature);
    }

    /// Refuses a signature that is late, or good for longer than any may be: DeadlineExpired, DeadlineTooFar.
    function checkDeadline(uint64 deadline) internal view {
        if (block.timestamp > deadline) revert IDstackClusterNFT.DeadlineExpired(deadline);
        uint64 latest = uint64(block.timestamp) + MAX_SIGNATURE_VALIDITY;
        if (deadline > latest) revert IDstackClusterNFT.DeadlineTooFar(deadline, latest);
    }

    /// Refuses what the key of `member` did not sign: MemberSignatureMismatch.
    function checkMember(bytes32 digest, bytes calldata signature, address member) internal pure {
        address signer = SignatureChainVerifier.recover(digest, signature);
        if (signer != member) revert IDstackClusterNFT.MemberSignatureMismatch(signer, member);
    }

    function _checkPolicy(IDstackClusterNFT.NetworkType networkType) private view {
        Switches.Byte switches = ClusterStorage.members().totals.switches;
        if (switches.isOn(Switches.REGISTRATIONS_PAUSED)) revert IClusterPolicy.RegistrationsArePaused();
        IClusterPolicy.NetworkPolicy allowed = switches.networkPolicy();
        // The policies of a single type have the number of that type.
        if (allowed != IClusterPolicy.NetworkPolicy.ANY && uint8(allowed) != uint8(networkType)) {
            revert IClusterPolicy.NetworkTypeNotAllowed(allowed);
        }
    }

    /// What the token's owner bound it to, and the member key that the first registration of the binding named.
    function _checkBinding(
        IDstackClusterNFT.Registration calldata registration,
        ClusterStorage.NodeRecord storage node,
        address appId
    ) private view {
        uint256 tokenId = registration.tokenId;
        bytes20 given = registration.instanceId;
        bytes20 bound = node.instanceId;
        if (given == 0) revert IDstackClusterNFT.ZeroInstanceId();
        if (bound != 0 && bound != given) revert IDstackClusterNFT.InstanceMismatch(tokenId, bound, given);
        if (node.appPinned) {
            address boundApp = ClusterStorage.members().boundApp[tokenId];
            if (boundApp != appId) revert IDstackClusterNFT.AppIdMismatch(tokenId, boundApp, appId);
        }
        address member = node.memberAddress;
        if (member != address(0) && member != registration.memberAddress) {
            revert IDstackClusterNFT.MemberAddressMismatch(tokenId, member, registration.memberAddress);
        }
    }

    /// The place in the list of the base domain that the node named, zero for none.
    function _checkReachable(
        IDstackClusterNFT.NetworkType networkType,
        bytes16 endpointAddress,
        uint16 endpointPort,
        bytes32 gatewayDomain,
        uint16 gatewayPort
    ) private view returns (uint16 gatewayIndex) {
        if ((endpointAddress == 0) != (endpointPort == 0)) {
            revert IDstackClusterNFT.InvalidEndpoint();
        }
        if ((gatewayDomain == 0) != (gatewayPort == 0)) revert IDstackClusterNFT.UnknownGatewayDomain(gatewayDomain);
        if (gatewayDomain == 0) {
            if (networkType == IDstackClusterNFT.NetworkType.TLS_GATEWAY) revert IDstackClusterNFT.GatewayRequired();
            return 0;
        }
        // forge-lint: disable-next-line(unsafe-typecast): there are at most 65,535
        gatewayIndex = uint16(ClusterStorage.trust().domainIndex[gatewayDomain]);
        if (gatewayIndex == 0) revert IDstackClusterNFT.UnknownGatewayDomain(gatewayDomain);
    }
}
