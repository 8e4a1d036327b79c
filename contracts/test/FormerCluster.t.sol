// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IDstackClusterNFT} from "../src/interfaces/IDstackClusterNFT.sol";
import {ILeaderElection} from "../src/interfaces/ILeaderElection.sol";
import {VM} from "./Vm.sol";
import {ClusterTest} from "./support/ClusterTest.sol";
import {IClusterToken} from "./support/IClusterToken.sol";
import {Actor} from "./support/Signing.sol";

/// @title  The cluster as it was before it took node keys of guest API v1: what its agents signed and read.
/// @dev    It belongs to the bytecode in vectors/former-cluster.json, which names its commit, and so never changes with the contract.
interface IFormerCluster {
    struct Registration {
        uint256 tokenId;
        bytes20 instanceId;
        address memberAddress;
        bytes32 wireguardKey;
        uint32 keyEpoch;
        uint8 networkType;
        bytes16 endpointAddress;
        uint16 endpointPort;
        uint16 gatewayDomain;
        uint16 gatewayPort;
        uint64 deadline;
    }

    struct SignatureChain {
        bytes32 nodeKeyX;
        bytes32 nodeKeyY;
        bytes32 appKeyX;
        bytes32 appKeyY;
        bytes appSignature;
        bytes kmsSignature;
        address appId;
    }

    struct Peer {
        uint256 tokenId;
        bytes20 instanceId;
        address memberAddress;
        bytes32 wireguardKey;
        uint32 keyEpoch;
        uint32 endpointEpoch;
        uint8 networkType;
        bytes16 endpointAddress;
        uint16 endpointPort;
        uint16 gatewayDomain;
        uint16 gatewayPort;
        address kmsRoot;
        address appId;
        uint64 registeredBlock;
    }

    struct Node {
        uint256 tokenId;
        address owner;
        bytes20 instanceId;
        address memberAddress;
        address boundAppId;
        uint32 keyEpoch;
        uint32 endpointEpoch;
        bool active;
        bool revoked;
    }

    error AppSignatureMismatch(address recovered, address appKey);

    function registerPeer(
        Registration calldata registration,
        SignatureChain calldata chain,
        bytes calldata nodeSignature,
        bytes calldata memberSignature
    ) external;
    function getPeer(uint256 tokenId) external view returns (Peer memory);
    function getNode(uint256 tokenId) external view returns (Node memory);
}

/// What a cluster of the former code says, and still says after its upgrade to this version's.
contract FormerClusterTest is ClusterTest {
    uint256 internal constant MEMBERS = 3;
    /// Minted after the members, bound and revoked.
    uint256 internal constant REVOKED = 4;

    IFormerCluster internal former; // the same proxy
    ILeaderElection internal election; // the same proxy

    /// A cluster of the former code: three members with v0's node keys, a leader that one of them distrusts, a revoked token.
    function setUp() public override {
        VM.warp(1_800_000_000);
        VM.roll(1000);
        cluster =
            IDstackClusterNFT(proxy(formerCode(), abi.encodeCall(IDstackClusterNFT.initialize, (defaultParams()))));
        token = IClusterToken(address(cluster));
        former = IFormerCluster(address(cluster));
        election = ILeaderElection(address(cluster));
        VM.prank(OWNER);
        cluster.addBaseDomain("gateway.example.com");
        for (uint256 id = 1; id <= REVOKED; ++id) {
            mint(id == 2 ? BOB : ALICE, instance(id));
        }
        for (uint256 id = 1; id <= MEMBERS; ++id) {
            VM.roll(1000 + id);
            submitAsFormer(id, chainOf(actor(id)));
        }
        VM.prank(OWNER);
        cluster.revoke(REVOKED);
        election.electLeader();
        distrust(2);
    }

    function test_an_upgrade_keeps_peers_owners_and_history() public {
        IFormerCluster.Peer[] memory peers = new IFormerCluster.Peer[](MEMBERS + 1);
        IFormerCluster.Node[] memory nodes = new IFormerCluster.Node[](REVOKED + 1);
        for (uint256 id = 1; id <= REVOKED; ++id) {
            nodes[id] = former.getNode(id);
            if (id <= MEMBERS) peers[id] = former.getPeer(id);
        }
        (uint64 epoch, bytes20 history, bytes memory lists) = (cluster.epoch(), cluster.history(), trusted());
        yes(epoch > 10 && history != 0, "there is a past");
        yes(peers[1].endpointPort != 0 && peers[2].gatewayDomain == 1, "peers of both kinds");

        upgrade();
        eq(cluster.epoch(), epoch, "epoch");
        eq(bytes32(cluster.history()), bytes32(history), "history");
        eq(trusted(), lists, "roots, apps, domains, name and network");
        eq(token.owner(), OWNER, "the contract's owner");
        eq(cluster.peerCount(), MEMBERS, "peers");
        eq(cluster.totalSupply(), REVOKED, "tokens");
        for (uint256 id = 1; id <= REVOKED; ++id) {
            sameNode(cluster.getNode(id), nodes[id]);
            eq(token.ownerOf(id), id == 2 ? BOB : ALICE, "a token's owner");
            if (id <= MEMBERS) samePeer(cluster.getPeer(id), peers[id]);
        }
        eq(token.balanceOf(ALICE), 3, "its tokens");
        eq(token.balanceOf(BOB), 1, "its token");
    }

    function test_votes_from_before_an_upgrade_count_after_it() public {
        address leader = election.currentLeader();
        uint32 term = election.term();
        eq(leader, addressOfMember(1), "the first member leads");
        upgrade();
        eq(election.currentLeader(), leader, "it leads");
        eq(election.leaderToken(), 1, "by its token");
        eq(election.term(), term, "in its term");
        eq(election.noConfidenceCount(leader), 1, "distrusted by one");
        eq(election.requiredVotes(), 2, "of two that are needed");
        address voter = addressOfMember(2);
        VM.expectRevert(abi.encodeWithSelector(ILeaderElection.AlreadyVoted.selector, 2, term));
        VM.prank(voter);
        election.castVote(term, leader, true);
        distrust(3);
        yes(election.currentLeader() != leader, "the second vote unseats it");
    }

    function test_only_after_an_upgrade_node_keys_of_v1_are_taken() public {
        yes(!token.supportsInterface(0xbc5e8e5d), "the former code does not say that it takes v1");
        IDstackClusterNFT.SignatureChain memory v1 = chainOfV1(actor(1));
        VM.expectPartialRevert(IFormerCluster.AppSignatureMismatch.selector);
        this.submitAsFormerFrom(1, v1);

        upgrade();
        yes(token.supportsInterface(0xbc5e8e5d), "this one does");
        submitNow(1, v1);
        uint256 id = mint(ALICE, instance(5));
        submitNow(id, chainOfV1(actor(5)));
        mustBePeer(id);
        // Those of v0 are taken as before, of old members and of new ones.
        submit(registration(2, actor(2)), actor(2));
        submit(registration(1, actor(1)), actor(1));
        id = join(6);
        eq(cluster.peerCount(), MEMBERS + 2, "two more peers");
        eq(cluster.getPeer(1).keyEpoch, 4, "a mint and three registrations");
        yes(cluster.getNode(REVOKED).revoked, "what was revoked stays that");
    }

    /// The first registration of a binding names the member key, before an upgrade or after it: no other key takes its place.
    function test_member_keys_stay_pinned() public {
        address pinned = former.getNode(1).memberAddress;
        upgrade();
        Actor memory sibling = actor(1);
        sibling.memberKey = secret("member", 99);
        submitExpecting(
            registration(1, sibling),
            sibling,
            abi.encodeWithSelector(
                IDstackClusterNFT.MemberAddressMismatch.selector, 1, pinned, VM.addr(sibling.memberKey)
            )
        );
    }

    // ------------------------------------------------------------------------------------------------ the former code

    function formerCode() private returns (address code) {
        bytes memory creation = VM.parseJsonBytes(VM.readFile("test/vectors/former-cluster.json"), ".bytecode");
        assembly ("memory-safe") {
            code := create(0, add(creation, 32), mload(creation))
        }
        yes(code.code.length > 20_000, "the former code is deployed");
    }

    function submitAsFormerFrom(uint256 id, IDstackClusterNFT.SignatureChain calldata chain) external {
        submitAsFormer(id, chain);
    }

    /// Signs and submits as an agent of that time.
    function submitAsFormer(uint256 id, IDstackClusterNFT.SignatureChain memory chain) private {
        Actor memory who = actor(id);
        IFormerCluster.Registration memory r;
        r.tokenId = id;
        r.instanceId = who.instanceId;
        r.memberAddress = VM.addr(who.memberKey);
        r.wireguardKey = wireguardKey(id);
        r.keyEpoch = former.getNode(id).keyEpoch + 1;
        r.networkType = 1; // WIREGUARD
        if (id == 2) (r.gatewayDomain, r.gatewayPort) = (1, 51_820);
        else (r.endpointAddress, r.endpointPort) = (0x00000000000000000000ffffc0000201, 51_821);
        r.deadline = uint64(block.timestamp + 1 hours);
        bytes32 digest = formerDigest(r);
        IFormerCluster.SignatureChain memory shown = IFormerCluster.SignatureChain({
            nodeKeyX: chain.nodeKeyX,
            nodeKeyY: chain.nodeKeyY,
            appKeyX: chain.appKeyX,
            appKeyY: chain.appKeyY,
            appSignature: chain.appSignature,
            kmsSignature: chain.kmsSignature,
            appId: chain.appId
        });
        former.registerPeer(r, shown, ethereumSign(who.nodeKey, digest), ethereumSign(who.memberKey, digest));
    }

    function formerDigest(IFormerCluster.Registration memory r) private view returns (bytes32) {
        bytes32 typeHash = keccak256(
            "Registration(uint256 tokenId,bytes20 instanceId,address memberAddress,bytes32 wireguardKey,uint32 keyEpoch,uint8 networkType,bytes16 endpointAddress,uint16 endpointPort,uint16 gatewayDomain,uint16 gatewayPort,uint64 deadline)"
        );
        bytes32 domain = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("DstackClusterNFT"),
                keccak256("1"),
                block.chainid,
                address(cluster)
            )
        );
        return keccak256(abi.encodePacked(hex"1901", domain, keccak256(abi.encode(typeHash, r))));
    }

    // -------------------------------------------------------------------------------------------------------- helpers

    function upgrade() private {
        address code = implementation();
        VM.prank(OWNER);
        token.upgradeToAndCall(code, "");
    }

    /// Signs and submits as an agent of today, with this chain.
    function submitNow(uint256 id, IDstackClusterNFT.SignatureChain memory chain) private {
        Actor memory who = actor(id);
        IDstackClusterNFT.Registration memory r = registration(id, who);
        bytes memory nodeSignature = sign(r, who.nodeKey, address(cluster));
        cluster.registerPeer(r, chain, nodeSignature, sign(r, who.memberKey, address(cluster)));
    }

    function addressOfMember(uint256 id) private view returns (address) {
        return VM.addr(actor(id).memberKey);
    }

    function distrust(uint256 id) private {
        (uint32 term, address leader, address voter) = (election.term(), election.currentLeader(), addressOfMember(id));
        VM.prank(voter);
        election.castVote(term, leader, true);
    }

    /// Every list and setting that agents read besides the peers.
    function trusted() private view returns (bytes memory) {
        (address[] memory roots, uint64[] memory rootsFrom) = cluster.kmsRoots();
        (address[] memory apps, uint64[] memory appsFrom) = cluster.appIds();
        (bytes4 base, uint8 prefixLength) = cluster.meshNetwork();
        bytes memory lists = abi.encode(roots, rootsFrom, apps, appsFrom, cluster.baseDomains());
        return abi.encode(lists, token.name(), token.symbol(), base, prefixLength);
    }

    function samePeer(IDstackClusterNFT.Peer memory now_, IFormerCluster.Peer memory before) private pure {
        eq(now_.tokenId, before.tokenId, "token");
        eq(bytes32(now_.instanceId), bytes32(before.instanceId), "instance");
        eq(now_.memberAddress, before.memberAddress, "member");
        eq(now_.wireguardKey, before.wireguardKey, "WireGuard key");
        eq(now_.keyEpoch, before.keyEpoch, "key epoch");
        eq(now_.endpointEpoch, before.endpointEpoch, "endpoint epoch");
        eq(uint256(uint8(now_.networkType)), before.networkType, "network type");
        eq(bytes32(now_.endpointAddress), bytes32(before.endpointAddress), "endpoint");
        eq(now_.endpointPort, before.endpointPort, "endpoint's port");
        eq(now_.gatewayDomain, before.gatewayDomain, "gateway");
        eq(now_.gatewayPort, before.gatewayPort, "gateway's port");
        eq(now_.kmsRoot, before.kmsRoot, "root");
        eq(now_.appId, before.appId, "app");
        eq(now_.registeredBlock, before.registeredBlock, "block");
    }

    function sameNode(IDstackClusterNFT.Node memory now_, IFormerCluster.Node memory before) private pure {
        eq(now_.tokenId, before.tokenId, "token");
        eq(now_.owner, before.owner, "owner");
        eq(bytes32(now_.instanceId), bytes32(before.instanceId), "instance");
        eq(now_.memberAddress, before.memberAddress, "member");
        eq(now_.boundAppId, before.boundAppId, "app");
        eq(now_.keyEpoch, before.keyEpoch, "key epoch");
        eq(now_.endpointEpoch, before.endpointEpoch, "endpoint epoch");
        eq(now_.active ? 1 : 0, before.active ? 1 : 0, "active");
        eq(now_.revoked ? 1 : 0, before.revoked ? 1 : 0, "revoked");
    }
}
