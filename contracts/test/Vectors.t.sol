// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IDstackClusterNFT} from "../src/interfaces/IDstackClusterNFT.sol";
import {LowerHex} from "../src/lib/LowerHex.sol";
import {SignatureChainVerifier} from "../src/lib/SignatureChainVerifier.sol";
import {TypedData} from "../src/lib/TypedData.sol";
import {VM} from "./Vm.sol";
import {ClusterTest} from "./support/ClusterTest.sol";
import {Actor, Vote} from "./support/Signing.sol";

/// The libraries by call data, and at the address that the vectors were made for.
contract Libraries {
    function registrationDigest(IDstackClusterNFT.Registration calldata r) external view returns (bytes32) {
        return TypedData.digest(r);
    }

    function updateDigest(IDstackClusterNFT.EndpointUpdate calldata u) external view returns (bytes32) {
        return TypedData.digest(u);
    }

    function voteDigest(Vote calldata v) external view returns (bytes32) {
        return TypedData.digest(v.tokenId, v.term, v.target, v.isNoConfidence, v.deadline);
    }

    function domainSeparator() external view returns (bytes32) {
        return TypedData.domainSeparator();
    }

    function recover(bytes32 digest, bytes calldata signature) external pure returns (address) {
        return SignatureChainVerifier.recover(digest, signature);
    }
}

/// Known answers: dstack's own fixtures, and EIP-712 hashes made by another implementation. The same files are read by the
/// Rust bindings' tests.
contract VectorsTest is ClusterTest {
    string internal chains = VM.readFile("test/vectors/chains.json");
    string internal typed = VM.readFile("test/vectors/typed-data.json");

    function test_chain_of_fixture_A() public {
        checkChain(".fixtureA");
    }

    function test_chain_of_fixture_B() public {
        checkChain(".fixtureB");
    }

    function test_chain_of_the_synthetic_root() public {
        checkChain(".synthetic");
        eq(VM.parseJsonAddress(chains, ".synthetic.kmsRoot"), VM.addr(rootKeyOf01()), "root key 01..01");
    }

    function rootKeyOf01() private pure returns (uint256) {
        return uint256(0x0101010101010101010101010101010101010101010101010101010101010101);
    }

    /// Every hash, address and signature of the vector, and then a registration with its KMS signature as it stands.
    function checkChain(string memory name) private {
        checkKmsSignature(name);
        checkAppSignature(name);
        checkRegistration(name);
    }

    function checkKmsSignature(string memory name) private {
        (bytes32 x, bytes32 y) = (word(name, ".appX"), word(name, ".appY"));
        eq(SignatureChainVerifier.keyAddress(x, y), account(name, ".appAddress"), "app address");
        bytes32 digest = SignatureChainVerifier.appKeyDigest(account(name, ".appId"), x, y);
        eq(digest, word(name, ".kmsDigest"), "what the KMS signed");
        eq(new Libraries().recover(digest, text(name, ".kmsSignature")), account(name, ".kmsRoot"), "KMS root");
    }

    function checkAppSignature(string memory name) private {
        (bytes32 x, bytes32 y) = (word(name, ".nodeX"), word(name, ".nodeY"));
        bytes memory hexKey = LowerHex.encodeCompressed(uint256(y) % 2 == 0 ? 2 : 3, x);
        // The vector's purpose is "test"; the contract's own goes through the same function.
        bytes32 digest = keccak256(abi.encodePacked("test:", hexKey));
        eq(digest, word(name, ".nodeDigest"), "what the app key signed");
        eq(new Libraries().recover(digest, text(name, ".appSignature")), account(name, ".appAddress"), "app key");
        bytes32 own = keccak256(abi.encodePacked("dstack-mesh-node-v1:", hexKey));
        eq(SignatureChainVerifier.nodeKeyDigest(x, y), own, "the contract's purpose");
    }

    function checkRegistration(string memory name) private {
        IDstackClusterNFT.ClusterParams memory params = defaultParams();
        params.kmsRoots[0] = account(name, ".kmsRoot");
        params.appIds = new address[](1);
        params.appIds[0] = account(name, ".appId");
        cluster = deploy(params);
        Actor memory who = Actor(
            0, uint256(word(name, ".appKey")), secret("node", 1), params.appIds[0], instance(1), secret("member", 1)
        );
        uint256 id = mint(ALICE, who.instanceId);
        IDstackClusterNFT.Registration memory r = registration(id, who);
        bytes memory signature = sign(r, who.nodeKey, address(cluster));
        cluster.registerPeer(
            r, chainWith(who, PURPOSE, text(name, ".kmsSignature")), signature, sign(r, who.memberKey, address(cluster))
        );
        eq(cluster.getPeer(id).kmsRoot, params.kmsRoots[0], "the fixture's root admitted it");
    }

    function account(string memory name, string memory field) private view returns (address) {
        return VM.parseJsonAddress(chains, string.concat(name, field));
    }

    function text(string memory name, string memory field) private view returns (bytes memory) {
        return VM.parseJsonBytes(chains, string.concat(name, field));
    }

    function word(string memory name, string memory field) private view returns (bytes32) {
        return VM.parseJsonBytes32(chains, string.concat(name, field));
    }

    // ------------------------------------------------------------------------------------------------- typed data

    function test_typed_data_hashes_as_another_implementation_does() public {
        Libraries libraries = atVectorAddress();
        eq(libraries.domainSeparator(), VM.parseJsonBytes32(typed, ".domain.separator"), "domain separator");
        address node = VM.parseJsonAddress(chains, ".synthetic.nodeAddress");
        address member = VM.parseJsonAddress(typed, ".member.address");
        eq(VM.addr(uint256(VM.parseJsonBytes32(typed, ".member.key"))), member, "the member's key");
        for (uint256 i = 0; i < 3; ++i) {
            string memory path = string.concat(".registrations[", VM.toString(i), "]");
            bytes32 digest = libraries.registrationDigest(registrationAt(path));
            eq(digest, VM.parseJsonBytes32(typed, string.concat(path, ".digest")), path);
            bytes memory signature = VM.parseJsonBytes(typed, string.concat(path, ".nodeSignature"));
            eq(libraries.recover(digest, signature), node, "node");
            mustBeSignedBy(member, libraries, digest, path);
        }
        for (uint256 i = 0; i < 2; ++i) {
            string memory path = string.concat(".endpointUpdates[", VM.toString(i), "]");
            bytes32 digest = libraries.updateDigest(updateAt(path));
            eq(digest, VM.parseJsonBytes32(typed, string.concat(path, ".digest")), path);
            mustBeSignedBy(member, libraries, digest, path);
        }
        for (uint256 i = 0; i < 2; ++i) {
            string memory path = string.concat(".votes[", VM.toString(i), "]");
            bytes32 digest = libraries.voteDigest(voteAt(path));
            eq(digest, VM.parseJsonBytes32(typed, string.concat(path, ".digest")), path);
            mustBeSignedBy(member, libraries, digest, path);
        }
    }

    function mustBeSignedBy(address member, Libraries libraries, bytes32 digest, string memory path) private view {
        bytes memory signature = VM.parseJsonBytes(typed, string.concat(path, ".memberSignature"));
        eq(libraries.recover(digest, signature), member, "member");
    }

    function test_eip712Domain_says_what_is_signed() public view {
        (
            bytes1 fields,
            string memory name,
            string memory version,
            uint256 chainId,
            address verifyingContract,
            bytes32 salt,
            uint256[] memory extensions
        ) = cluster.eip712Domain();
        eq(bytes32(fields), bytes32(bytes1(0x0f)), "fields");
        eq(name, "DstackClusterNFT", "name");
        eq(version, "1", "version");
        eq(chainId, block.chainid, "chain");
        eq(verifyingContract, address(cluster), "contract");
        eq(salt, 0, "salt");
        eq(extensions.length, 0, "extensions");
    }

    function atVectorAddress() private returns (Libraries) {
        address where = VM.parseJsonAddress(typed, ".domain.contract");
        VM.etch(where, address(new Libraries()).code);
        VM.chainId(VM.parseJsonUint(typed, ".domain.chainId"));
        return Libraries(where);
    }

    function number(string memory path, string memory field) private view returns (uint256) {
        return VM.parseJsonUint(typed, string.concat(path, field));
    }

    function registrationAt(string memory path) private view returns (IDstackClusterNFT.Registration memory r) {
        r.tokenId = number(path, ".tokenId");
        r.instanceId = bytes20(VM.parseJsonBytes(typed, string.concat(path, ".instanceId")));
        r.memberAddress = VM.parseJsonAddress(typed, string.concat(path, ".memberAddress"));
        r.wireguardKey = VM.parseJsonBytes32(typed, string.concat(path, ".wireguardKey"));
        r.tlsKey = VM.parseJsonBytes32(typed, string.concat(path, ".tlsKey"));
        r.keyEpoch = uint32(number(path, ".keyEpoch"));
        r.networkType = IDstackClusterNFT.NetworkType(number(path, ".networkType"));
        r.endpointAddress = bytes16(VM.parseJsonBytes(typed, string.concat(path, ".endpointAddress")));
        r.endpointPort = uint16(number(path, ".endpointPort"));
        r.gatewayDomain = VM.parseJsonBytes32(typed, string.concat(path, ".gatewayDomain"));
        r.gatewayPort = uint16(number(path, ".gatewayPort"));
        r.deadline = uint64(number(path, ".deadline"));
    }

    function voteAt(string memory path) private view returns (Vote memory vote) {
        vote.tokenId = number(path, ".tokenId");
        vote.term = uint32(number(path, ".term"));
        vote.target = VM.parseJsonAddress(typed, string.concat(path, ".target"));
        vote.isNoConfidence = VM.parseJsonBool(typed, string.concat(path, ".isNoConfidence"));
        vote.deadline = uint64(number(path, ".deadline"));
    }

    function updateAt(string memory path) private view returns (IDstackClusterNFT.EndpointUpdate memory u) {
        u.tokenId = number(path, ".tokenId");
        u.keyEpoch = uint32(number(path, ".keyEpoch"));
        u.endpointEpoch = uint32(number(path, ".endpointEpoch"));
        u.endpointAddress = bytes16(VM.parseJsonBytes(typed, string.concat(path, ".endpointAddress")));
        u.endpointPort = uint16(number(path, ".endpointPort"));
        u.gatewayDomain = VM.parseJsonBytes32(typed, string.concat(path, ".gatewayDomain"));
        u.gatewayPort = uint16(number(path, ".gatewayPort"));
        u.deadline = uint64(number(path, ".deadline"));
    }
}
