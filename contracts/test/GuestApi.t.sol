// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IDstackClusterNFT} from "../src/interfaces/IDstackClusterNFT.sol";
import {SignatureChainVerifier} from "../src/lib/SignatureChainVerifier.sol";
import {VM, Vm} from "./Vm.sol";
import {ClusterTest} from "./support/ClusterTest.sol";
import {Actor} from "./support/Signing.sol";

/// An app key vouches for a node key in the form of guest API v0 or v1, and by nothing else.
contract GuestApiTest is ClusterTest {
    bytes internal constant DOMAIN = "dstack-mesh/node";

    string internal vectors = VM.readFile("test/vectors/claims.json");
    Actor internal who;
    uint256 internal id;

    function setUp() public override {
        super.setUp();
        who = actor(1);
        id = mint(ALICE, who.instanceId);
    }

    // ------------------------------------------------------------------------------------------------ known answers

    function test_published_claims_hash_alike_and_recover_to_their_app_keys() public view {
        for (uint256 i = 0; i < 4; ++i) {
            string memory path = string.concat(".secp256k1[", VM.toString(i), "]");
            bytes memory domain = bytes(VM.parseJsonString(vectors, string.concat(path, ".domain")));
            bytes32 digest = SignatureChainVerifier.claimDigest(domain, word(path, ".nodeX"), word(path, ".nodeY"));
            eq(digest, word(path, ".digest"), path);
            eq(digest, keccak256(text(path, ".claim")), "what is hashed");
            eq(this.recover(digest, text(path, ".appSignature")), account(path, ".appAddress"), "app key");
        }
    }

    /// It is about no secp256k1 key: with neither point of that x does it recover to the app key.
    function test_the_published_claim_about_an_ed25519_key_is_none_about_a_node_key() public view {
        string memory path = ".ed25519[0]";
        bytes memory signature = text(path, ".appSignature");
        address app = account(path, ".appAddress");
        bytes32 x = word(path, ".publicKey");
        eq(this.recover(keccak256(text(path, ".claim")), signature), app, "the app key signed it");
        for (uint256 y = 0; y < 2; ++y) {
            bytes32 digest = SignatureChainVerifier.claimDigest("test", x, bytes32(y));
            yes(this.recover(digest, signature) != app, "not about this key");
        }
    }

    /// dstack's own signatures lead from the published roots to an app key, which then vouches in the form of v1.
    function test_chains_of_published_roots_are_taken() public {
        string memory chains = VM.readFile("test/vectors/chains.json");
        string[3] memory names = [".fixtureA", ".fixtureB", ".synthetic"];
        for (uint256 i = 0; i < 3; ++i) {
            IDstackClusterNFT.ClusterParams memory params = defaultParams();
            params.kmsRoots[0] = VM.parseJsonAddress(chains, string.concat(names[i], ".kmsRoot"));
            params.appIds = new address[](1);
            params.appIds[0] = VM.parseJsonAddress(chains, string.concat(names[i], ".appId"));
            cluster = deploy(params);
            Actor memory node = who;
            node.appId = params.appIds[0];
            node.appKey = uint256(VM.parseJsonBytes32(chains, string.concat(names[i], ".appKey")));
            bytes memory kms = VM.parseJsonBytes(chains, string.concat(names[i], ".kmsSignature"));
            uint256 minted = mint(ALICE, node.instanceId);
            submitWith(registration(minted, node), node, chainSaying(node, rightClaim(node), kms));
            eq(cluster.getPeer(minted).kmsRoot, params.kmsRoots[0], names[i]);
        }
    }

    // ------------------------------------------------------------------------------------------------ what is taken

    /// A node key is remembered in neither form: a node may register in one and then in the other.
    function test_a_node_registers_in_either_form() public {
        submitWith(registration(id, who), who, chainOfV1(who));
        mustBePeer(id);
        submit(registration(id, who), who);
        submitWith(registration(id, who), who, chainOfV1(who));
        mustBePeer(id);
        IDstackClusterNFT.SignatureChain memory chain = chainOfV1(who);
        chain.appSignature[64] = bytes1(uint8(chain.appSignature[64]) + 27);
        submitWith(registration(id, who), who, chain);
        eq(cluster.getPeer(id).keyEpoch, 5, "a mint and four registrations");
    }

    function test_a_cluster_says_that_it_takes_v1() public view {
        yes(token.supportsInterface(0xbc5e8e5d), "the identifier that agents ask for");
        eq(bytes32(bytes4(keccak256("dstack-guest-v1-key-claim"))), bytes32(bytes4(0xbc5e8e5d)), "of v1's own name");
    }

    // ---------------------------------------------------------------------------------------------- what is refused

    function test_anything_else_that_the_app_key_signed_is_refused() public {
        bytes memory key = compressed(VM.createWallet(who.nodeKey));
        bytes memory right = rightClaim(who);
        bytes memory hexKey = bytes(hexOf(key));
        refused("another domain", claim("secp256k1", "dstack-mesh/nodes", key));
        refused("no domain", claim("secp256k1", "", key));
        refused("the purpose of v0 as a domain", claim("secp256k1", bytes(PURPOSE), key));
        refused("another algorithm", claim("ed25519", DOMAIN, key));
        refused("an ed25519 key with this x", claim("ed25519", DOMAIN, slice(key, 1, 33)));
        refused("another name of the algorithm", claim("k256", DOMAIN, key));
        refused("another key", claim("secp256k1", DOMAIN, compressed(VM.createWallet(secret("node", 2)))));
        refused("a key without its sign", claim("secp256k1", DOMAIN, slice(key, 1, 33)));
        refused("truncated", slice(right, 0, right.length - 1));
        refused("extended", abi.encodePacked(right, hex"00"));
        refused("no lengths", abi.encodePacked("dstack-guest-v1-key-claim", "secp256k1", DOMAIN, key));
        refused("the claim as a purpose", abi.encodePacked(right, ":", hexKey));
        refused("the domain as a purpose", abi.encodePacked(DOMAIN, ":", hexKey));
        refused("EIP-191", abi.encodePacked("\x19Ethereum Signed Message:\n", VM.toString(right.length), right));
        bytes memory otherSign = key;
        otherSign[0] ^= 0x01;
        refused("the other key with this x", claim("secp256k1", DOMAIN, otherSign));
    }

    /// Each of the four parts says how long it is; a wrong length is another message, even where the bytes are the same.
    function testFuzz_a_claim_with_any_byte_changed_is_refused(uint256 at, uint8 change) public {
        if (change == 0) return;
        bytes memory message = rightClaim(who);
        message[at % message.length] ^= bytes1(change);
        refused("changed", message);
    }

    function testFuzz_no_other_domain_is_taken(bytes memory domain) public {
        if (keccak256(domain) == keccak256(DOMAIN)) return;
        refused("domain", claim("secp256k1", domain, compressed(VM.createWallet(who.nodeKey))));
    }

    function test_another_signer_is_refused() public {
        IDstackClusterNFT.SignatureChain memory chain = chainOfV1(who);
        chain.appSignature = dstackSign(who.rootKey, keccak256(rightClaim(who)));
        refusedWith("the root", chain, IDstackClusterNFT.AppSignatureMismatch.selector);
        chain.appSignature = dstackSign(who.nodeKey, keccak256(rightClaim(who)));
        refusedWith("the node key itself", chain, IDstackClusterNFT.AppSignatureMismatch.selector);
    }

    function test_malleated_and_malformed_signatures_are_refused() public {
        bytes4 invalid = IDstackClusterNFT.InvalidSignature.selector;
        IDstackClusterNFT.SignatureChain memory chain = chainOfV1(who);
        bytes memory good = chain.appSignature;
        chain.appSignature = malleated(good);
        refusedWith("high s", chain, invalid);
        chain.appSignature = abi.encodePacked(good, hex"00");
        refusedWith("too long", chain, invalid);
        chain.appSignature = slice(good, 0, 64);
        refusedWith("too short", chain, invalid);
        uint8[5] memory wrong = [2, 3, 26, 29, 255];
        for (uint256 i = 0; i < wrong.length; ++i) {
            chain.appSignature = abi.encodePacked(slice(good, 0, 64), wrong[i]);
            refusedWith("v", chain, invalid);
        }
        chain.appSignature = abi.encodePacked(slice(good, 0, 64), uint8(good[64]) ^ 1);
        refusedWith("the other v", chain, IDstackClusterNFT.AppSignatureMismatch.selector);
    }

    /// Whatever the keys are: a signature recovers to its signer in the form that it was made for, and to another address in the other.
    function testFuzz_a_signature_of_one_form_is_none_of_the_other(uint256 appKey, uint256 nodeKey) public {
        appKey = within(appKey, 1, CURVE_ORDER - 1);
        Vm.Wallet memory node = VM.createWallet(within(nodeKey, 1, CURVE_ORDER - 1));
        (bytes32 x, bytes32 y) = (bytes32(node.publicKeyX), bytes32(node.publicKeyY));
        bytes32 v0 = SignatureChainVerifier.nodeKeyDigest(x, y);
        bytes32 v1 = SignatureChainVerifier.claimDigest(DOMAIN, x, y);
        yes(v0 != v1, "two digests");
        bytes memory signature = dstackSign(appKey, v0);
        eq(this.recover(v0, signature), VM.addr(appKey), "v0");
        yes(this.recover(v1, signature) != VM.addr(appKey), "v0 as v1");
        signature = dstackSign(appKey, v1);
        eq(this.recover(v1, signature), VM.addr(appKey), "v1");
        yes(this.recover(v0, signature) != VM.addr(appKey), "v1 as v0");
    }

    // ------------------------------------------------------------------------------------------------------ helpers

    function recover(bytes32 digest, bytes calldata signature) external pure returns (address) {
        return SignatureChainVerifier.recover(digest, signature);
    }

    function rightClaim(Actor memory node) private returns (bytes memory) {
        return claim("secp256k1", DOMAIN, compressed(VM.createWallet(node.nodeKey)));
    }

    function refused(string memory what, bytes memory message) private {
        bytes memory kms = chainOf(who).kmsSignature;
        refusedWith(what, chainSaying(who, message, kms), IDstackClusterNFT.AppSignatureMismatch.selector);
    }

    function refusedWith(string memory what, IDstackClusterNFT.SignatureChain memory chain, bytes4 selector) private {
        IDstackClusterNFT.Registration memory r = registration(id, who);
        bytes memory nodeSignature = sign(r, who.nodeKey, address(cluster));
        bytes memory memberSignature = sign(r, who.memberKey, address(cluster));
        (bool taken, bytes memory data) = address(cluster)
            .call(abi.encodeCall(IDstackClusterNFT.registerPeer, (r, chain, nodeSignature, memberSignature)));
        yes(!taken, what);
        eq(bytes32(bytes4(data)), bytes32(selector), what);
    }

    function submitWith(
        IDstackClusterNFT.Registration memory r,
        Actor memory node,
        IDstackClusterNFT.SignatureChain memory chain
    ) private {
        bytes memory nodeSignature = sign(r, node.nodeKey, address(cluster));
        cluster.registerPeer(r, chain, nodeSignature, sign(r, node.memberKey, address(cluster)));
    }

    function slice(bytes memory data, uint256 from, uint256 to) private pure returns (bytes memory part) {
        part = new bytes(to - from);
        for (uint256 i = from; i < to; ++i) {
            part[i - from] = data[i];
        }
    }

    function account(string memory path, string memory field) private view returns (address) {
        return VM.parseJsonAddress(vectors, string.concat(path, field));
    }

    function text(string memory path, string memory field) private view returns (bytes memory) {
        return VM.parseJsonBytes(vectors, string.concat(path, field));
    }

    function word(string memory path, string memory field) private view returns (bytes32) {
        return VM.parseJsonBytes32(vectors, string.concat(path, field));
    }
}
