// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";
import {IDstackClusterNFT} from "../interfaces/IDstackClusterNFT.sol";

/// @title  What a node signs (EIP-712) with its node key and its member key, bound to this chain and this contract.
/// @dev    The domain is computed at every use: it follows a chain split and costs less than reading a stored one.
library TypedData {
    string internal constant DOMAIN_NAME = "DstackClusterNFT";
    string internal constant DOMAIN_VERSION = "1";

    bytes32 internal constant DOMAIN_TYPEHASH =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");
    bytes32 internal constant REGISTRATION_TYPEHASH = keccak256(
        "Registration(uint256 tokenId,bytes20 instanceId,address memberAddress,bytes32 wireguardKey,bytes32 tlsKey,uint32 keyEpoch,uint8 networkType,bytes16 endpointAddress,uint16 endpointPort,bytes32 gatewayDomain,uint16 gatewayPort,uint64 deadline)"
    );
    bytes32 internal constant ENDPOINT_UPDATE_TYPEHASH = keccak256(
        "EndpointUpdate(uint256 tokenId,uint32 keyEpoch,uint32 endpointEpoch,bytes16 endpointAddress,uint16 endpointPort,bytes32 gatewayDomain,uint16 gatewayPort,uint64 deadline)"
    );
    bytes32 internal constant VOTE_TYPEHASH =
        keccak256("Vote(uint256 tokenId,uint32 term,address target,bool isNoConfidence,uint64 deadline)");

    function digest(IDstackClusterNFT.Registration calldata registration) internal view returns (bytes32) {
        // A struct of value types is ABI-encoded as EIP-712 encodes it: twelve words of call data. Copied as they are; bits beyond a
        // type's width make every later use of that field revert.
        bytes32 typeHash = REGISTRATION_TYPEHASH;
        bytes32 structHash;
        assembly ("memory-safe") {
            let free := mload(0x40)
            mstore(free, typeHash)
            calldatacopy(add(free, 0x20), registration, 0x180)
            structHash := keccak256(free, 0x1a0)
        }
        return _digest(structHash);
    }

    function digest(IDstackClusterNFT.EndpointUpdate calldata update) internal view returns (bytes32) {
        return _digest(keccak256(abi.encode(ENDPOINT_UPDATE_TYPEHASH, update)));
    }

    /// Of a vote, as ILeaderElection.castVoteBySig takes it.
    function digest(uint256 tokenId, uint32 term, address target, bool isNoConfidence, uint64 deadline)
        internal
        view
        returns (bytes32)
    {
        return _digest(keccak256(abi.encode(VOTE_TYPEHASH, tokenId, term, target, isNoConfidence, deadline)));
    }

    function domainSeparator() internal view returns (bytes32) {
        return keccak256(
            abi.encode(
                DOMAIN_TYPEHASH,
                keccak256(bytes(DOMAIN_NAME)),
                keccak256(bytes(DOMAIN_VERSION)),
                block.chainid,
                address(this)
            )
        );
    }

    function _digest(bytes32 structHash) private view returns (bytes32) {
        return MessageHashUtils.toTypedDataHash(domainSeparator(), structHash);
    }
}
