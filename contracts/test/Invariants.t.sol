// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IDstackClusterNFT} from "../src/interfaces/IDstackClusterNFT.sol";
import {IClusterPolicy} from "../src/interfaces/IClusterPolicy.sol";
import {ILeaderElection} from "../src/interfaces/ILeaderElection.sol";
import {VM} from "./Vm.sol";
import {Handler} from "./support/Handler.sol";
import {IClusterToken} from "./support/IClusterToken.sol";
import {Lives} from "./support/Lives.sol";

/// What holds after any sequence of operations.
contract InvariantsTest is Lives {
    event Happened(string operation, uint256 times);

    bytes32 private constant MEMBERS_SLOT = 0x7ce23fe83255e7461be7da9b7981d96c01c591fea44120fa317b073455816700;
    bytes32 private constant ELECTION_SLOT = 0x96c5ec147f964505ea06db19736b5b280d4afb5e68e28264adccc3209ce2e500;

    IDstackClusterNFT internal cluster;
    IClusterToken internal token; // the same proxy

    function setUp() public {
        handler = new Handler(false);
        cluster = handler.theCluster();
        token = IClusterToken(address(cluster));
        // Four members and a leader: few steps from anything that can happen.
        uint256[4] memory instances = [uint256(1), 2, 4, 5];
        for (uint256 i = 0; i < instances.length; ++i) {
            handler.mintOne(i, instances[i]);
            handler.register(i, 1, 1, i);
        }
        handler.electOne(0);
        eq(cluster.peerCount(), 4, "members");
        eq(ILeaderElection(address(cluster)).leaderToken(), 1, "leader");
    }

    function targetContracts() public view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    /// All in one function: forge runs a whole campaign for each.
    function invariant_the_member_list_is_consistent() public {
        mustBeConsistent();
    }

    /// One long life of a cluster, so that every operation is known to have happened, accepted and refused.
    function test_a_long_life_stays_consistent() public {
        for (uint256 year = 0; year < 70; ++year) {
            live(year, 60);
            mustBeConsistent();
        }
        string[29] memory operations = [
            "mint",
            "mintNodeAccess",
            "bind",
            "registerInstance",
            "register",
            "updateEndpoint",
            "deactivate",
            "burn",
            "transfer",
            "revoke",
            "reinstate",
            "setDevUrl",
            "electLeader",
            "castVote",
            "withdrawVote",
            "castVoteBySig",
            "addKmsRoot",
            "removeKmsRoot",
            "addAppId",
            "removeAppId",
            "addBaseDomain",
            "removeBaseDomain",
            "setClusterConfig",
            "setMintingPolicy",
            "pause",
            "unpause",
            "setDevMode",
            "withdraw",
            "boot gate"
        ];
        for (uint256 i = 0; i < operations.length; ++i) {
            emit Happened(operations[i], handler.done(operations[i]));
        }
        for (uint256 i = 0; i < operations.length; ++i) {
            yes(handler.done(operations[i]) >= 4, string.concat(operations[i], " happened"));
        }
        yes(handler.done("register") >= 40, "peers came");
        yes(ILeaderElection(address(cluster)).term() >= 20, "so did leaders");
        yes(handler.refused() >= 100, "and much was refused");
    }

    function mustBeConsistent() private {
        handler.replica().mustEqual(cluster); // events alone rebuild the state, and epochs are consecutive
        handler.ledger().mustEqual(cluster); // and they are the history
        mustHoldItsWords();
        (IDstackClusterNFT.Peer[] memory peers, uint256 next) = cluster.peers(0, 100);
        eq(next, 0, "one page");
        eq(peers.length, cluster.peerCount(), "counted as listed");
        mustKnowWallets();
        eq(address(cluster).balance, handler.till(), "what was paid is there until it is withdrawn");
        (bytes4 base,) = cluster.meshNetwork();
        for (uint256 i = 0; i < peers.length; ++i) {
            IDstackClusterNFT.Peer memory peer = peers[i];
            IDstackClusterNFT.Node memory node = cluster.getNode(peer.tokenId);
            yes(node.owner != address(0) && node.active && !node.revoked, "minted, active, not revoked");
            yes(peer.instanceId != 0 && peer.memberAddress != address(0), "bound to an instance and a member key");
            eq(bytes32(node.instanceId), bytes32(peer.instanceId), "to the token's own instance");
            eq(cluster.tokenOfInstance(peer.instanceId), peer.tokenId, "one token per instance");
            bool wireguard = peer.networkType == IDstackClusterNFT.NetworkType.WIREGUARD;
            yes(wireguard == (peer.wireguardKey != 0), "a key exactly where it is used");
            if (wireguard) eq(cluster.tokenOfWireguardKey(peer.wireguardKey), peer.tokenId, "one token per key");
            yes(wireguard || peer.tlsKey != 0, "and a TLS key wherever there is no other");
            if (peer.tlsKey != 0) eq(cluster.tokenOfTlsKey(peer.tlsKey), peer.tokenId, "one token per TLS key");
            eq(uint32(cluster.addressOf(peer.tokenId)), uint32(base) + peer.tokenId, "base + token id");
            for (uint256 j = 0; j < i; ++j) {
                yes(peers[j].tokenId < peer.tokenId, "ascending, so every address once");
                yes(peers[j].instanceId != peer.instanceId, "every instance once");
                yes(!wireguard || peers[j].wireguardKey != peer.wireguardKey, "every key once");
                yes(peer.tlsKey == 0 || peers[j].tlsKey != peer.tlsKey, "every TLS key once");
            }
        }
    }

    /// The words that agents read of storage say what the views say, where they are documented to say it.
    function mustHoldItsWords() private view {
        IClusterPolicy.ClusterConfig memory config = cluster.clusterConfig();
        ILeaderElection election = ILeaderElection(address(cluster));
        uint256 word = uint256(VM.load(address(cluster), MEMBERS_SLOT));
        (IDstackClusterNFT.Node[] memory nodes,) = cluster.nodes(0, 100);
        eq(uint40(word), cluster.epoch(), "epoch");
        eq(uint16(word >> 40), cluster.peerCount(), "peers");
        eq(uint16(word >> 56), cluster.totalSupply(), "supply");
        eq(uint16(word >> 72), handler.replica().votes(), "votes");
        eq((word >> 88) & 3, uint8(config.networkType), "network policy");
        yes((word >> 90) & 1 == (config.registrationsPaused ? 1 : 0), "paused");
        yes((word >> 91) & 1 == (config.publicMinting ? 1 : 0), "public minting");
        yes((word >> 92) & 1 == (config.devMode ? 1 : 0), "devMode");
        yes((word >> 93) & 1 == (handler.replica().highest() > nodes.length ? 1 : 0), "some are burned");
        eq(bytes32(bytes20(bytes32(word))), bytes32(cluster.history()), "history");
        uint256 seat = uint256(VM.load(address(cluster), ELECTION_SLOT));
        eq((seat >> 192) + ((word >> 94) & 3), election.term(), "term");
        word = uint256(VM.load(address(cluster), bytes32(uint256(MEMBERS_SLOT) + 25)));
        (bytes4 base, uint8 prefixLength) = cluster.meshNetwork();
        eq(word, uint32(base) | (uint256(prefixLength) << 32) | (config.maxNodes << 40), "network");
    }

    /// What rides in OpenZeppelin's balances says which token a wallet with one token holds, and disturbs none of them.
    function mustKnowWallets() private {
        address[3] memory wallets = handler.wallets();
        uint256 sum = 0;
        for (uint256 i = 0; i < wallets.length; ++i) {
            (uint256 count, uint256 held) = (0, 0);
            (IDstackClusterNFT.Node[] memory nodes,) = cluster.nodes(0, 100);
            for (uint256 j = 0; j < nodes.length; ++j) {
                if (nodes[j].owner == wallets[i]) (count, held) = (count + 1, nodes[j].tokenId);
            }
            eq(token.balanceOf(wallets[i]), count, "balance");
            sum += count;
            if (count > 1) {
                VM.expectRevert(abi.encodeWithSelector(IClusterPolicy.SeveralTokens.selector, wallets[i], count));
                cluster.walletToTokenId(wallets[i]);
            } else {
                eq(cluster.walletToTokenId(wallets[i]), held, "the wallet's token");
            }
        }
        eq(cluster.totalSupply(), sum, "every token has an owner");
    }
}
