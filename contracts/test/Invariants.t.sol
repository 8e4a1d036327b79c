// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IDstackClusterNFT} from "../src/interfaces/IDstackClusterNFT.sol";
import {Check} from "./support/Check.sol";
import {Handler} from "./support/Handler.sol";

/// What holds after any sequence of operations.
contract InvariantsTest is Check {
    event Happened(string operation, uint256 times);

    Handler internal handler;
    IDstackClusterNFT internal cluster;

    function setUp() public {
        handler = new Handler();
        cluster = handler.theCluster();
    }

    function targetContracts() public view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    /// All in one function: forge runs a whole campaign for each.
    function invariant_the_member_list_is_consistent() public view {
        mustBeConsistent();
    }

    /// One long life of a cluster, so that every operation is known to have happened, accepted and refused.
    function test_a_long_life_stays_consistent() public {
        uint256 seed = 7;
        for (uint256 step = 0; step < 3000; ++step) {
            seed = uint256(keccak256(abi.encode(seed)));
            act(seed % 36, uint256(keccak256(abi.encode(seed, 1))), uint256(keccak256(abi.encode(seed, 2))));
            if (step % 60 == 0) mustBeConsistent();
        }
        mustBeConsistent();
        string[19] memory operations = [
            "mint",
            "bind",
            "register",
            "updateEndpoint",
            "deactivate",
            "burn",
            "transfer",
            "revoke",
            "reinstate",
            "addKmsRoot",
            "removeKmsRoot",
            "addAppId",
            "removeAppId",
            "addBaseDomain",
            "removeBaseDomain",
            "electLeader",
            "castVote",
            "withdraw",
            "castVoteBySig"
        ];
        for (uint256 i = 0; i < operations.length; ++i) {
            emit Happened(operations[i], handler.done(operations[i]));
        }
        for (uint256 i = 0; i < operations.length; ++i) {
            yes(handler.done(operations[i]) >= 4, string.concat(operations[i], " happened"));
        }
        yes(handler.done("register") >= 40, "peers came");
        yes(handler.refused() >= 100, "and much was refused");
    }

    function act(uint256 what, uint256 a, uint256 b) private {
        if (what < 3) handler.mintOne(a, b);
        else if (what < 6) handler.bindOne(a, b);
        else if (what < 16) handler.register(a, b, a >> 8, b >> 8);
        else if (what < 17) handler.replay(a);
        else if (what < 19) handler.moveEndpoint(a, b, uint16(a >> 16));
        else if (what < 20) handler.deactivateOne(a);
        else if (what < 21) handler.burnOne(a);
        else if (what < 22) handler.transferOne(a, b);
        else if (what < 23) handler.revokeOne(a);
        else if (what < 24) handler.reinstateOne(a);
        else if (what < 25) handler.changeRoot(a, b % 2 == 0);
        else if (what < 26) handler.changeApp(a, b % 2 == 0);
        else if (what < 27) handler.changeDomain(uint16(b), (b >> 16) % 2 == 0);
        else if (what < 28) handler.electOne(a);
        else if (what < 31) handler.voteOne(a, b, true);
        else if (what < 32) handler.voteOne(a, b, false);
        else if (what < 34) handler.voteBySignature(a, b, a >> 8, b % 5 != 0);
        else handler.pass(a);
    }

    function mustBeConsistent() private view {
        handler.replica().mustEqual(cluster); // events alone rebuild the state, and epochs are consecutive
        (IDstackClusterNFT.Peer[] memory peers, uint256 next) = cluster.peers(0, 100);
        eq(next, 0, "one page");
        eq(peers.length, cluster.peerCount(), "counted as listed");
        eq(cluster.getPeerEndpoints().length, peers.length, "an endpoint each");
        (bytes4 base,) = cluster.meshNetwork();
        for (uint256 i = 0; i < peers.length; ++i) {
            IDstackClusterNFT.Peer memory peer = peers[i];
            IDstackClusterNFT.Node memory node = cluster.getNode(peer.tokenId);
            yes(node.owner != address(0) && node.active && !node.revoked, "minted, active, not revoked");
            yes(peer.instanceId != 0 && peer.nodeAddress != address(0), "bound to an instance and a node key");
            eq(bytes32(node.instanceId), bytes32(peer.instanceId), "to the token's own instance");
            eq(cluster.tokenOfInstance(peer.instanceId), peer.tokenId, "one token per instance");
            bool wireguard = peer.networkType == IDstackClusterNFT.NetworkType.WIREGUARD;
            yes(wireguard == (peer.wireguardKey != 0), "a key exactly where it is used");
            if (wireguard) eq(cluster.tokenOfWireguardKey(peer.wireguardKey), peer.tokenId, "one token per key");
            eq(uint32(cluster.addressOf(peer.tokenId)), uint32(base) + peer.tokenId, "base + token id");
            for (uint256 j = 0; j < i; ++j) {
                yes(peers[j].tokenId < peer.tokenId, "ascending, so every address once");
                yes(peers[j].instanceId != peer.instanceId, "every instance once");
                yes(!wireguard || peers[j].wireguardKey != peer.wireguardKey, "every key once");
            }
        }
    }
}
