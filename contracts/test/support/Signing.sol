// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IDstackClusterNFT} from "../../src/interfaces/IDstackClusterNFT.sol";
import {VM, Vm} from "../Vm.sol";
import {Hex} from "./Hex.sol";

/// One dstack instance as its signatures show it: who issued its app key, which node key it derives, what it is called, and which
/// member key it drew.
struct Actor {
    uint256 rootKey;
    uint256 appKey;
    uint256 nodeKey;
    address appId;
    bytes20 instanceId;
    uint256 memberKey;
}

/// What a member signs with its member key to vote.
struct Vote {
    uint256 tokenId;
    uint32 term;
    address target;
    bool isNoConfidence;
    uint64 deadline;
}

/// @title  What a dstack KMS, an app, a node and a member sign, written down a second time: nothing here is the contract's code.
abstract contract Signing is Hex {
    string internal constant PURPOSE = "dstack-mesh-node-v1";
    uint256 internal constant CURVE_ORDER = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141;

    /// The whole chain of an actor.
    function chainOf(Actor memory actor) internal returns (IDstackClusterNFT.SignatureChain memory) {
        return chainOf(actor, PURPOSE);
    }

    function chainOf(Actor memory actor, string memory purpose)
        internal
        returns (IDstackClusterNFT.SignatureChain memory chain)
    {
        Vm.Wallet memory app = VM.createWallet(actor.appKey);
        bytes memory message = abi.encodePacked("dstack-kms-issued:", actor.appId, compressed(app));
        return chainWith(actor, purpose, dstackSign(actor.rootKey, keccak256(message)));
    }

    /// The chain of an actor whose KMS signature is given.
    function chainWith(Actor memory actor, string memory purpose, bytes memory kmsSignature)
        internal
        returns (IDstackClusterNFT.SignatureChain memory chain)
    {
        Vm.Wallet memory node = VM.createWallet(actor.nodeKey);
        bytes memory message = abi.encodePacked(purpose, ":", hexOf(compressed(node)));
        return chainSaying(actor, message, kmsSignature);
    }

    /// The chain of an actor as guest API v1 gives it.
    function chainOfV1(Actor memory actor) internal returns (IDstackClusterNFT.SignatureChain memory) {
        bytes memory node = compressed(VM.createWallet(actor.nodeKey));
        return chainSaying(actor, claim("secp256k1", "dstack-mesh/node", node), chainOf(actor).kmsSignature);
    }

    /// What an app key signs in guest API v1.
    function claim(bytes memory algorithm, bytes memory domain, bytes memory key) internal pure returns (bytes memory) {
        return
            abi.encodePacked(
                prefixed("dstack-guest-v1-key-claim"), prefixed(algorithm), prefixed(domain), prefixed(key)
            );
    }

    function prefixed(bytes memory part) private pure returns (bytes memory) {
        return abi.encodePacked(uint32(part.length), part);
    }

    /// The chain of an actor whose app key signed `message` in the place of what it says about a node key.
    function chainSaying(Actor memory actor, bytes memory message, bytes memory kmsSignature)
        internal
        returns (IDstackClusterNFT.SignatureChain memory chain)
    {
        Vm.Wallet memory app = VM.createWallet(actor.appKey);
        Vm.Wallet memory node = VM.createWallet(actor.nodeKey);
        chain.nodeKeyX = bytes32(node.publicKeyX);
        chain.nodeKeyY = bytes32(node.publicKeyY);
        chain.appKeyX = bytes32(app.publicKeyX);
        chain.appKeyY = bytes32(app.publicKeyY);
        chain.appSignature = dstackSign(actor.appKey, keccak256(message));
        chain.kmsSignature = kmsSignature;
        chain.appId = actor.appId;
    }

    /// EIP-712 signature of a registration for `cluster` on this chain.
    function sign(IDstackClusterNFT.Registration memory r, uint256 key, address cluster)
        internal
        view
        returns (bytes memory)
    {
        return signFor(r, key, cluster, block.chainid);
    }

    function signFor(IDstackClusterNFT.Registration memory r, uint256 key, address cluster, uint256 chainId)
        internal
        pure
        returns (bytes memory)
    {
        return ethereumSign(key, digestOf(r, cluster, chainId));
    }

    /// EIP-712 digest of a registration for `cluster` on chain `chainId`.
    function digestOf(IDstackClusterNFT.Registration memory r, address cluster, uint256 chainId)
        internal
        pure
        returns (bytes32)
    {
        bytes32 typeHash = keccak256(
            "Registration(uint256 tokenId,bytes20 instanceId,address memberAddress,bytes32 wireguardKey,bytes32 tlsKey,uint32 keyEpoch,uint8 networkType,bytes16 endpointAddress,uint16 endpointPort,bytes32 gatewayDomain,uint16 gatewayPort,uint64 deadline)"
        );
        bytes memory head = abi.encode(
            typeHash,
            r.tokenId,
            r.instanceId,
            r.memberAddress,
            r.wireguardKey,
            r.tlsKey,
            uint256(r.keyEpoch),
            uint256(uint8(r.networkType))
        );
        bytes memory tail = abi.encode(
            r.endpointAddress, uint256(r.endpointPort), r.gatewayDomain, uint256(r.gatewayPort), uint256(r.deadline)
        );
        return typedDigest(keccak256(bytes.concat(head, tail)), cluster, chainId);
    }

    /// EIP-712 signature of an endpoint update for `cluster` on this chain.
    function sign(IDstackClusterNFT.EndpointUpdate memory u, uint256 key, address cluster)
        internal
        view
        returns (bytes memory)
    {
        return ethereumSign(key, digestOf(u, cluster, block.chainid));
    }

    /// EIP-712 digest of an endpoint update for `cluster` on chain `chainId`.
    function digestOf(IDstackClusterNFT.EndpointUpdate memory u, address cluster, uint256 chainId)
        internal
        pure
        returns (bytes32)
    {
        bytes32 typeHash = keccak256(
            "EndpointUpdate(uint256 tokenId,uint32 keyEpoch,uint32 endpointEpoch,bytes16 endpointAddress,uint16 endpointPort,bytes32 gatewayDomain,uint16 gatewayPort,uint64 deadline)"
        );
        bytes32 structHash = keccak256(
            abi.encode(
                typeHash,
                u.tokenId,
                uint256(u.keyEpoch),
                uint256(u.endpointEpoch),
                u.endpointAddress,
                uint256(u.endpointPort),
                u.gatewayDomain,
                uint256(u.gatewayPort),
                uint256(u.deadline)
            )
        );
        return typedDigest(structHash, cluster, chainId);
    }

    /// EIP-712 signature of a vote for `cluster` on chain `chainId`.
    function signFor(Vote memory vote, uint256 key, address cluster, uint256 chainId)
        internal
        pure
        returns (bytes memory)
    {
        bytes32 typeHash =
            keccak256("Vote(uint256 tokenId,uint32 term,address target,bool isNoConfidence,uint64 deadline)");
        bytes32 structHash = keccak256(
            abi.encode(
                typeHash,
                vote.tokenId,
                uint256(vote.term),
                vote.target,
                vote.isNoConfidence ? uint256(1) : uint256(0),
                uint256(vote.deadline)
            )
        );
        return ethereumSign(key, typedDigest(structHash, cluster, chainId));
    }

    function typedDigest(bytes32 structHash, address cluster, uint256 chainId) internal pure returns (bytes32) {
        bytes32 domain = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("DstackClusterNFT"),
                keccak256("1"),
                chainId,
                cluster
            )
        );
        return keccak256(abi.encodePacked(hex"1901", domain, structHash));
    }

    /// r ‖ s ‖ v with v = 0 or 1, as dstack writes it.
    function dstackSign(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = VM.sign(key, digest);
        return abi.encodePacked(r, s, v - 27);
    }

    /// r ‖ s ‖ v with v = 27 or 28, as Ethereum wallets write it.
    function ethereumSign(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = VM.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }

    /// The other valid signature of the same message: s -> n - s, v flipped.
    function malleated(bytes memory signature) internal pure returns (bytes memory) {
        (bytes32 r, bytes32 s, uint8 v) = split(signature);
        return abi.encodePacked(r, CURVE_ORDER - uint256(s), v ^ (v < 2 ? 1 : 7)); // 27 ^ 7 = 28
    }

    function split(bytes memory signature) internal pure returns (bytes32 r, bytes32 s, uint8 v) {
        assembly ("memory-safe") {
            r := mload(add(signature, 32))
            s := mload(add(signature, 64))
        }
        v = uint8(signature[64]);
    }

    /// SEC1 compressed form.
    function compressed(Vm.Wallet memory wallet) internal pure returns (bytes memory) {
        return abi.encodePacked(wallet.publicKeyY % 2 == 0 ? bytes1(0x02) : bytes1(0x03), wallet.publicKeyX);
    }

    /// A valid private key made from a name and a number.
    function secret(string memory name, uint256 number) internal pure returns (uint256) {
        return 1 + uint256(keccak256(abi.encode(name, number))) % (CURVE_ORDER - 1);
    }
}
