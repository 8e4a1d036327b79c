// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IDstackClusterNFT} from "../src/interfaces/IDstackClusterNFT.sol";
import {VM} from "./Vm.sol";
import {ClusterTest} from "./support/ClusterTest.sol";
import {Actor} from "./support/Signing.sol";

/// Fields with bits beyond their type's width, signed as they are: a second spelling of the same registration. No encoder makes
/// them, and those made by hand are refused, before or after the signature.
contract DirtyCallDataTest is ClusterTest {
    uint256 internal constant REGISTRATION_WORDS = 12;
    uint256 internal constant UPDATE_WORDS = 8;

    /// Width of each field in bits, and whether it fills its word from the left.
    function registrationField(uint256 i) private pure returns (uint256 bits, bool left) {
        uint16[REGISTRATION_WORDS] memory widths = [256, 160, 160, 256, 256, 32, 8, 128, 16, 256, 16, 64];
        return (widths[i], i == 1 || i == 7);
    }

    function updateField(uint256 i) private pure returns (uint256 bits, bool left) {
        uint16[UPDATE_WORDS] memory widths = [256, 32, 32, 128, 16, 256, 16, 64];
        return (widths[i], i == 3);
    }

    function testFuzz_a_registration_has_one_spelling(uint256 field, uint256 bit) public {
        uint256 id = mint(ALICE, instance(1));
        Actor memory who = actor(1);
        IDstackClusterNFT.Registration memory r = registration(id, who);
        bytes memory words = abi.encode(r);
        mustBeTaken(id, who, words); // as it is: what follows is refused for nothing else
        VM.prank(ALICE);
        cluster.deactivate(id);
        VM.prank(ALICE);
        cluster.bind(id, instance(1), address(0));

        words = abi.encode(registration(id, who));
        (uint256 bits, bool left) = registrationField(field % REGISTRATION_WORDS);
        if (bits == 256) return;
        flip(words, field % REGISTRATION_WORDS, dirty(bits, left, bit));
        (bool ok, bytes memory data) = register(who, words);
        yes(!ok && data.length == 0, "refused by the decoder");
        yes(!isPeer(id), "no peer");
    }

    function testFuzz_an_endpoint_update_has_one_spelling(uint256 field, uint256 bit) public {
        uint256 id = join(1);
        bytes memory words = abi.encode(endpointUpdate(id));
        (uint256 bits, bool left) = updateField(field % UPDATE_WORDS);
        if (bits == 256) return;
        flip(words, field % UPDATE_WORDS, dirty(bits, left, bit));
        (bool ok, bytes memory data) = update(actor(1), words);
        yes(!ok && data.length == 0, "refused by the decoder");

        (ok,) = update(actor(1), abi.encode(endpointUpdate(id)));
        yes(ok, "taken as it is");
    }

    // -------------------------------------------------------------------------------------------------- helpers

    function mustBeTaken(uint256 id, Actor memory who, bytes memory words) private {
        (bool ok,) = register(who, words);
        yes(ok, "taken as it is");
        mustBePeer(id);
    }

    function register(Actor memory who, bytes memory words) private returns (bool, bytes memory) {
        string memory kind =
            "Registration(uint256 tokenId,bytes20 instanceId,address memberAddress,bytes32 wireguardKey,bytes32 tlsKey,uint32 keyEpoch,uint8 networkType,bytes16 endpointAddress,uint16 endpointPort,bytes32 gatewayDomain,uint16 gatewayPort,uint64 deadline)";
        bytes memory byNode = signRaw(kind, words, who.nodeKey);
        bytes memory byMember = signRaw(kind, words, who.memberKey);
        IDstackClusterNFT.Registration memory clean;
        bytes memory call = abi.encodeCall(IDstackClusterNFT.registerPeer, (clean, chainOf(who), byNode, byMember));
        return address(cluster).call(withWords(call, words));
    }

    function update(Actor memory who, bytes memory words) private returns (bool, bytes memory) {
        bytes memory signature = signRaw(
            "EndpointUpdate(uint256 tokenId,uint32 keyEpoch,uint32 endpointEpoch,bytes16 endpointAddress,uint16 endpointPort,bytes32 gatewayDomain,uint16 gatewayPort,uint64 deadline)",
            words,
            who.memberKey
        );
        IDstackClusterNFT.EndpointUpdate memory clean;
        bytes memory call = abi.encodeCall(IDstackClusterNFT.updateEndpoint, (clean, signature));
        return address(cluster).call(withWords(call, words));
    }

    /// The EIP-712 signature over the words as they are.
    function signRaw(string memory kind, bytes memory words, uint256 key) private view returns (bytes memory) {
        bytes32 structHash = keccak256(bytes.concat(keccak256(bytes(kind)), words));
        return ethereumSign(key, typedDigest(structHash, address(cluster), block.chainid));
    }

    /// `call` with `words` after its selector.
    function withWords(bytes memory call, bytes memory words) private pure returns (bytes memory) {
        for (uint256 i = 0; i < words.length; ++i) {
            call[4 + i] = words[i];
        }
        return call;
    }

    /// One bit outside of a field of `bits` bits.
    function dirty(uint256 bits, bool left, uint256 which) private pure returns (uint256) {
        uint256 outside = which % (256 - bits);
        return left ? 1 << outside : 1 << (bits + outside);
    }

    function flip(bytes memory words, uint256 i, uint256 mask) private pure {
        assembly ("memory-safe") {
            let word := add(add(words, 0x20), mul(i, 0x20))
            mstore(word, xor(mload(word), mask))
        }
    }
}
