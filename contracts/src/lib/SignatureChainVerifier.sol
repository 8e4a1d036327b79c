// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {IDstackClusterNFT} from "../interfaces/IDstackClusterNFT.sol";
import {LowerHex} from "./LowerHex.sol";

/// @title  The dstack key chain: KMS root -> app key -> node key -> what the node signs.
/// @dev    Every registration is verified from the root down; no app key is remembered. A repeat costs one ecrecover (3,000 gas)
///         that a remembered key would save, less the storage read that finds it; and a remembered key would let a relayer put
///         a worthless KMS signature into the event, so that agents, which verify the event, refuse a peer the contract accepted.
///
///         What the chain proves is "an approved instance of this app", not which instance: every instance of an app can derive the
///         app key's children and so another instance's node key. So each registration shows it again, and the
///         contract remembers none. The member key proves which instance it is, once the first registration of a binding named it.
///
///         The app key vouches for a node key in the form of either of dstack's guest APIs. Which one a signature has need not be said:
///         no bytes are of both forms (what v0 signs ends in hexadecimal digits, where a claim of v1 has the length and the first
///         byte of a key), and a key's signature is valid for one digest alone.
library SignatureChainVerifier {
    /// The purpose of the node key in GetKey of guest API v0: what the app key signs begins with it.
    string internal constant NODE_PURPOSE = "dstack-mesh-node-v1:";
    /// The domain of the node key in GetKey of guest API v1.
    bytes internal constant NODE_DOMAIN = "dstack-mesh/node";
    /// What a claim of v1 about a secp256k1 key begins with: its name and the algorithm, each behind its length.
    bytes internal constant CLAIM_HEAD = "\x00\x00\x00\x19dstack-guest-v1-key-claim\x00\x00\x00\x09secp256k1";
    /// ERC-165 identifier of a cluster that takes claims of v1.
    bytes4 internal constant TAKES_V1_CLAIMS = bytes4(keccak256("dstack-guest-v1-key-claim"));
    string internal constant KMS_PREFIX = "dstack-kms-issued:";

    /// Order of the field of secp256k1 (SEC 2, 2.4.1).
    uint256 private constant P = 0xfffffffffffffffffffffffffffffffffffffffffffffffffffffffefffffc2f;

    /// Verifies the chain down to `digest`, which the node key signed. Returns the node key's address and the KMS root, which
    /// the caller must find trusted, as it must find `chain.appId` allowed.
    function verify(IDstackClusterNFT.SignatureChain calldata chain, bytes32 digest, bytes calldata nodeSignature)
        internal
        pure
        returns (address nodeAddress, address kmsRoot)
    {
        nodeAddress = keyAddress(chain.nodeKeyX, chain.nodeKeyY);
        address appAddress = keyAddress(chain.appKeyX, chain.appKeyY);

        address signer = recover(digest, nodeSignature);
        if (signer != nodeAddress) revert IDstackClusterNFT.NodeSignatureMismatch(signer, nodeAddress);

        signer = recover(nodeKeyDigest(chain.nodeKeyX, chain.nodeKeyY), chain.appSignature);
        if (signer != appAddress) {
            bytes32 claim = claimDigest(NODE_DOMAIN, chain.nodeKeyX, chain.nodeKeyY);
            if (recover(claim, chain.appSignature) != appAddress) {
                revert IDstackClusterNFT.AppSignatureMismatch(signer, appAddress);
            }
        }

        kmsRoot = recover(appKeyDigest(chain.appId, chain.appKeyX, chain.appKeyY), chain.kmsSignature);
    }

    /// What the app key signs in guest API v0: keccak256(purpose ‖ ":" ‖ lower-case hex of the compressed node key).
    function nodeKeyDigest(bytes32 x, bytes32 y) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(NODE_PURPOSE, LowerHex.encodeCompressed(_prefix(y), x)));
    }

    /// What the app key signs in guest API v1: keccak256(LP("dstack-guest-v1-key-claim") ‖ LP("secp256k1") ‖ LP(domain) ‖
    /// LP(compressed node key)), where LP(x) is the length of x in four bytes, big-endian, and x.
    function claimDigest(bytes memory domain, bytes32 x, bytes32 y) internal pure returns (bytes32) {
        // forge-lint: disable-next-line(unsafe-typecast): a domain of ours
        uint32 length = uint32(domain.length);
        return keccak256(abi.encodePacked(CLAIM_HEAD, length, domain, uint32(33), _prefix(y), x));
    }

    /// What the KMS root signs: keccak256("dstack-kms-issued:" ‖ app id ‖ compressed app key).
    function appKeyDigest(address appId, bytes32 x, bytes32 y) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(KMS_PREFIX, appId, _prefix(y), x));
    }

    /// The Ethereum address of a public key. Reverts with InvalidPublicKey unless (x, y) is a point of secp256k1.
    function keyAddress(bytes32 x, bytes32 y) internal pure returns (address) {
        (uint256 px, uint256 py) = (uint256(x), uint256(y));
        if (px >= P || py >= P) revert IDstackClusterNFT.InvalidPublicKey();
        if (mulmod(py, py, P) != addmod(mulmod(px, mulmod(px, px, P), P), 7, P)) {
            revert IDstackClusterNFT.InvalidPublicKey();
        }
        return address(uint160(uint256(keccak256(abi.encodePacked(x, y)))));
    }

    /// The signer of `digest`. dstack writes v as 0 or 1, Ethereum as 27 or 28: both are read. Reverts with InvalidSignature on
    /// another length or v, on a high s, and where ecrecover finds no signer.
    function recover(bytes32 digest, bytes calldata signature) internal pure returns (address) {
        if (signature.length != 65) revert IDstackClusterNFT.InvalidSignature();
        uint8 v = uint8(signature[64]);
        if (v < 2) v += 27;
        if (v != 27 && v != 28) revert IDstackClusterNFT.InvalidSignature();
        (address signer, ECDSA.RecoverError failure,) =
            ECDSA.tryRecover(digest, v, bytes32(signature[:32]), bytes32(signature[32:64]));
        if (failure != ECDSA.RecoverError.NoError) revert IDstackClusterNFT.InvalidSignature();
        return signer;
    }

    /// First byte of the compressed form (SEC 1, 2.3.3).
    function _prefix(bytes32 y) private pure returns (uint8) {
        return 2 + uint8(uint256(y) & 1);
    }
}
