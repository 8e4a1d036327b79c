// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Arrays} from "@openzeppelin/contracts/utils/Arrays.sol";
import {IClusterPolicy} from "./interfaces/IClusterPolicy.sol";
import {IDstackClusterNFT} from "./interfaces/IDstackClusterNFT.sol";
import {ClusterStorage} from "./ClusterStorage.sol";
import {PeerTable} from "./PeerTable.sol";
import {TrustList} from "./TrustList.sol";
import {SignatureChainVerifier} from "./lib/SignatureChainVerifier.sol";
import {TypedData} from "./lib/TypedData.sol";

/// @title  What a node must show to become a peer or to move.
/// @dev    The submitter plays no part: everything that is checked is signed. Replay is excluded by the key epoch, which a
///         registration or update must name as the stored value plus one, which leaving spends too, and which a token id never
///         loses.
library Registrar {
    /// Seconds by which a deadline may lie ahead: longer than any honest relay takes, too short for a withheld signature to see its
    /// KMS root or app id removed and added again unnoticed.
    uint64 internal constant MAX_SIGNATURE_VALIDITY = 1 days;

    /// Checks a registration for a minted, unrevoked token and makes its node a peer.
    function register(
        IDstackClusterNFT.Registration calldata registration,
        IDstackClusterNFT.SignatureChain calldata chain,
        bytes calldata nodeSignature
    ) internal {
        _checkPolicy(registration.networkType);
        ClusterStorage.NodeRecord storage node = ClusterStorage.members().nodes[registration.tokenId];
        _checkFresh(registration.tokenId, node.keyEpoch, registration.keyEpoch, registration.deadline);
        _checkInstance(registration.tokenId, node.instanceId, registration.instanceId);
        bool wireguard = registration.networkType == IDstackClusterNFT.NetworkType.WIREGUARD;
        if (wireguard != (registration.wireguardKey != 0)) revert IDstackClusterNFT.InvalidWireguardKey();
        _checkReachable(
            registration.networkType,
            registration.endpointAddress,
            registration.endpointPort,
            registration.gatewayDomain,
            registration.gatewayPort
        );

        (address nodeAddress, address kmsRoot) =
            SignatureChainVerifier.verify(chain, TypedData.digest(registration), nodeSignature);
        if (node.nodeAddress != address(0) && node.nodeAddress != nodeAddress) {
            revert IDstackClusterNFT.NodeAddressMismatch(registration.tokenId, node.nodeAddress, nodeAddress);
        }
        PeerTable.admit(
            registration,
            nodeAddress,
            TrustList.requireKmsRoot(kmsRoot, node.root),
            TrustList.requireAppId(chain.appId, node.app)
        );

        emit IDstackClusterNFT.PeerRegistered(
            registration.tokenId, registration, chain, nodeSignature, nodeAddress, kmsRoot, ClusterStorage.nextEpoch()
        );
    }

    /// Checks an endpoint update and writes it.
    function updateEndpoint(IDstackClusterNFT.EndpointUpdate calldata update, bytes calldata nodeSignature) internal {
        ClusterStorage.NodeRecord storage node = ClusterStorage.members().nodes[update.tokenId];
        if (!PeerTable.isActive(node)) revert IDstackClusterNFT.NodeNotActive(update.tokenId);
        _checkFresh(update.tokenId, node.keyEpoch, update.keyEpoch, update.deadline);
        _checkReachable(
            node.networkType, update.endpointAddress, update.endpointPort, update.gatewayDomain, update.gatewayPort
        );
        address signer = SignatureChainVerifier.recover(TypedData.digest(update), nodeSignature);
        if (signer != node.nodeAddress) revert IDstackClusterNFT.NodeSignatureMismatch(signer, node.nodeAddress);

        node.keyEpoch = update.keyEpoch;
        node.endpointAddress = update.endpointAddress;
        node.endpointPort = update.endpointPort;
        node.gatewayDomain = update.gatewayDomain;
        node.gatewayPort = update.gatewayPort;

        emit IDstackClusterNFT.PeerEndpointUpdated(update.tokenId, update, nodeSignature, ClusterStorage.nextEpoch());
    }

    /// Refuses a signature that is late, or good for longer than any may be: DeadlineExpired, DeadlineTooFar.
    function checkDeadline(uint64 deadline) internal view {
        if (block.timestamp > deadline) revert IDstackClusterNFT.DeadlineExpired(deadline);
        uint64 latest = uint64(block.timestamp) + MAX_SIGNATURE_VALIDITY;
        if (deadline > latest) revert IDstackClusterNFT.DeadlineTooFar(deadline, latest);
    }

    function _checkPolicy(IDstackClusterNFT.NetworkType networkType) private view {
        ClusterStorage.Totals storage totals = ClusterStorage.members().totals;
        if (totals.registrationsPaused) revert IClusterPolicy.RegistrationsArePaused();
        IClusterPolicy.NetworkPolicy allowed = totals.networkPolicy;
        // The policies of a single type have the number of that type.
        if (allowed != IClusterPolicy.NetworkPolicy.ANY && uint8(allowed) != uint8(networkType)) {
            revert IClusterPolicy.NetworkTypeNotAllowed(allowed);
        }
    }

    function _checkFresh(uint256 tokenId, uint32 stored, uint32 given, uint64 deadline) private view {
        checkDeadline(deadline);
        if (given != stored + 1) revert IDstackClusterNFT.WrongKeyEpoch(tokenId, stored + 1, given);
    }

    function _checkInstance(uint256 tokenId, bytes20 bound, bytes20 given) private pure {
        if (given == 0) revert IDstackClusterNFT.ZeroInstanceId();
        if (bound != 0 && bound != given) revert IDstackClusterNFT.InstanceMismatch(tokenId, bound, given);
    }

    function _checkReachable(
        IDstackClusterNFT.NetworkType networkType,
        bytes16 endpointAddress,
        uint16 endpointPort,
        uint16 gatewayDomain,
        uint16 gatewayPort
    ) private view {
        if ((endpointAddress == 0) != (endpointPort == 0)) {
            revert IDstackClusterNFT.InvalidEndpoint();
        }
        if ((gatewayDomain == 0) != (gatewayPort == 0)) revert IDstackClusterNFT.UnknownBaseDomain(gatewayDomain);
        if (gatewayDomain == 0) {
            if (networkType == IDstackClusterNFT.NetworkType.TLS_GATEWAY) revert IDstackClusterNFT.GatewayRequired();
            return;
        }
        // The list never shrinks, so what was never added is as empty as what was removed, and its length need not be read.
        string storage domain = Arrays.unsafeAccess(ClusterStorage.trust().baseDomains, gatewayDomain - 1).value;
        if (bytes(domain).length == 0) revert IDstackClusterNFT.UnknownBaseDomain(gatewayDomain);
    }
}
