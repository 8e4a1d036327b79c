// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IDstackClusterNFT} from "../../src/interfaces/IDstackClusterNFT.sol";
import {ILeaderElection} from "../../src/interfaces/ILeaderElection.sol";
import {VM} from "../Vm.sol";
import {ClusterTest} from "./ClusterTest.sol";
import {Replica} from "./Replica.sol";
import {Actor, Vote} from "./Signing.sol";

/// @title  Random owners, operators, nodes and relayers on one small cluster.
/// @dev    Few tokens, instances, keys, roots and apps, so that they collide. Calls that the contract refuses are part of it:
///         they must leave no trace, which the replica would see.
contract Handler is ClusterTest {
    Replica public immutable replica = new Replica();
    mapping(string name => uint256) public done;
    uint256 public refused;

    uint256 internal constant ACTORS = 6;
    uint256 internal constant TOKENS = 8;

    bytes[] internal sentCalls; // registrations and signed votes submitted so far, for replays

    constructor() {
        VM.warp(1_800_000_000);
        VM.roll(1000);
        IDstackClusterNFT.ClusterParams memory params = defaultParams();
        params.prefixLength = 28;
        params.networkBase = 0x0a000110;
        VM.recordLogs();
        address code = implementation();
        cluster = IDstackClusterNFT(proxy(code, abi.encodeCall(IDstackClusterNFT.initialize, (params))));
        replica.follow(VM.getRecordedLogs(), address(cluster), block.number);
    }

    /// The campaign calls every public function: nothing is set up anew.
    function setUp() public pure override {}

    function theCluster() external view returns (IDstackClusterNFT) {
        return cluster;
    }

    // ------------------------------------------------------------------------------------------------- operations

    function mintOne(uint256 to, uint256 who) external {
        bytes20 instanceId = who % 3 == 0 ? bytes20(0) : instance(who % ACTORS);
        send("mint", OWNER, abi.encodeCall(IDstackClusterNFT.mint, (owner(to), instanceId)));
    }

    function bindOne(uint256 id, uint256 who) external {
        id = anyToken(id);
        send("bind", ownerOf(id), abi.encodeCall(IDstackClusterNFT.bind, (id, instance(who % ACTORS))));
    }

    /// Registers, mostly for an instance that the token is bound to.
    function register(uint256 id, uint256 who, uint256 under, uint256 wgKey) external {
        id = anyToken(id);
        Actor memory node = actor(who % ACTORS);
        bytes20 bound = cluster.getNode(id).instanceId;
        for (uint256 i = 0; who % 4 != 0 && i < ACTORS; ++i) {
            if (instance(i) == bound) node = actor(i);
        }
        if (under % 3 == 0) node.rootKey = secret("root", under % 2);
        if (under % 5 == 0) node.appId = app(under % 2);
        IDstackClusterNFT.Registration memory r = registration(id, node);
        r.wireguardKey = wireguardKey(wgKey % 10);
        if (under % 11 == 0) (r.gatewayDomain, r.gatewayPort) = (uint16(under % 3), 443);
        if (under % 7 == 0) {
            (r.networkType, r.wireguardKey) = (IDstackClusterNFT.NetworkType.TLS_GATEWAY, bytes32(0));
        }
        bytes memory call =
            abi.encodeCall(IDstackClusterNFT.registerPeer, (r, chainOf(node), sign(r, node.nodeKey, address(cluster))));
        if (sentCalls.length < 64) sentCalls.push(call);
        send("register", ownerOf(id), call);
    }

    /// Anything ever submitted, again: an accepted one never, a refused one perhaps.
    function replay(uint256 which) external {
        if (sentCalls.length == 0) return;
        send("replay", STRANGER, sentCalls[which % sentCalls.length]);
    }

    function moveEndpoint(uint256 id, uint256 who, uint16 port) external {
        id = anyPeer(id);
        uint256 nodeKey = nodeKeyOf(id, who);
        IDstackClusterNFT.EndpointUpdate memory u = endpointUpdate(id);
        u.endpointPort = port;
        bytes memory call = abi.encodeCall(IDstackClusterNFT.updateEndpoint, (u, sign(u, nodeKey, address(cluster))));
        send("updateEndpoint", STRANGER, call);
    }

    function deactivateOne(uint256 id) external {
        id = anyToken(id);
        send("deactivate", ownerOf(id), abi.encodeCall(IDstackClusterNFT.deactivate, (id)));
    }

    function burnOne(uint256 id) external {
        id = anyToken(id);
        send("burn", ownerOf(id), abi.encodeCall(IDstackClusterNFT.burn, (id)));
    }

    function transferOne(uint256 id, uint256 to) external {
        id = anyToken(id);
        address from = ownerOf(id);
        send("transfer", from, abi.encodeWithSignature("transferFrom(address,address,uint256)", from, owner(to), id));
    }

    function revokeOne(uint256 id) external {
        if (id % 3 != 0) return; // not so often
        send("revoke", OWNER, abi.encodeCall(IDstackClusterNFT.revoke, (anyToken(id))));
    }

    function reinstateOne(uint256 id) external {
        send("reinstate", OWNER, abi.encodeCall(IDstackClusterNFT.reinstate, (anyToken(id))));
    }

    function changeRoot(uint256 which, bool add) external {
        if (!add && (which >> 8) % 5 != 0) return; // not so often
        address root = VM.addr(secret("root", which % 2));
        bytes memory call = add
            ? abi.encodeCall(IDstackClusterNFT.addKmsRoot, (root))
            : abi.encodeCall(IDstackClusterNFT.removeKmsRoot, (root));
        send(add ? "addKmsRoot" : "removeKmsRoot", OWNER, call);
    }

    function changeApp(uint256 which, bool add) external {
        if (!add && (which >> 8) % 5 != 0) return; // not so often
        address appId = app(which % 2);
        bytes memory call = add
            ? abi.encodeCall(IDstackClusterNFT.addAppId, (appId))
            : abi.encodeCall(IDstackClusterNFT.removeAppId, (appId));
        send(add ? "addAppId" : "removeAppId", OWNER, call);
    }

    function changeDomain(uint16 index, bool add) external {
        string memory name = string.concat("gw", VM.toString(index % 4), ".example.com");
        bytes memory call = add
            ? abi.encodeCall(IDstackClusterNFT.addBaseDomain, (name))
            : abi.encodeCall(IDstackClusterNFT.removeBaseDomain, (index % 12));
        send(add ? "addBaseDomain" : "removeBaseDomain", OWNER, call);
    }

    function electOne(uint256 who) external {
        send("electLeader", owner(who), abi.encodeCall(ILeaderElection.electLeader, ()));
    }

    /// Votes, or withdraws, mostly as a member and about the leader.
    function voteOne(uint256 id, uint256 target, bool isNoConfidence) external {
        bytes memory call = abi.encodeCall(ILeaderElection.castVote, (voteTarget(target), isNoConfidence));
        send(isNoConfidence ? "castVote" : "withdraw", cluster.getNode(anyPeer(id)).nodeAddress, call);
    }

    function voteBySignature(uint256 id, uint256 who, uint256 target, bool isNoConfidence) external {
        id = anyPeer(id);
        uint32 term = ILeaderElection(address(cluster)).term();
        if (target % 9 == 0) ++term;
        Vote memory v = Vote(id, term, voteTarget(target), isNoConfidence, uint64(block.timestamp + 20 hours));
        bytes memory signature = signFor(v, nodeKeyOf(id, who), address(cluster), block.chainid);
        bytes memory call =
            abi.encodeCall(ILeaderElection.castVoteBySig, (id, term, v.target, isNoConfidence, v.deadline, signature));
        if (sentCalls.length < 64) sentCalls.push(call);
        send("castVoteBySig", STRANGER, call);
    }

    function pass(uint256 time) external {
        VM.warp(block.timestamp + time % 30 hours);
        VM.roll(block.number + 1 + time % 100);
    }

    // --------------------------------------------------------------------------------------------------- helpers

    /// One transaction; the replica sees the logs of what was accepted, and that refused ones left none.
    function send(string memory name, address from, bytes memory call) private {
        uint64 before = cluster.epoch();
        VM.recordLogs();
        VM.prank(from);
        (bool accepted,) = address(cluster).call(call);
        replica.follow(VM.getRecordedLogs(), address(cluster), block.number);
        if (accepted) {
            ++done[name];
            yes(cluster.epoch() > before, "a visible change advances the epoch");
        } else {
            ++refused;
            eq(cluster.epoch(), before, "a refused call changes nothing");
        }
    }

    function anyToken(uint256 id) private pure returns (uint256) {
        return 1 + id % TOKENS;
    }

    /// A peer, if there is any.
    function anyPeer(uint256 id) private view returns (uint256) {
        id = anyToken(id);
        (IDstackClusterNFT.Peer[] memory next,) = cluster.peers(id, TOKENS);
        if (next.length == 0) (next,) = cluster.peers(0, TOKENS);
        return next.length == 0 ? id : next[0].tokenId;
    }

    /// The key of the token's node, mostly.
    function nodeKeyOf(uint256 id, uint256 who) private view returns (uint256 nodeKey) {
        nodeKey = actor(who % ACTORS).nodeKey;
        address node = cluster.getNode(id).nodeAddress;
        for (uint256 i = 0; who % 4 != 0 && i < ACTORS; ++i) {
            if (VM.addr(actor(i).nodeKey) == node) nodeKey = actor(i).nodeKey;
        }
    }

    /// The leader, mostly.
    function voteTarget(uint256 target) private view returns (address) {
        return
            target % 8 == 0
                ? VM.addr(actor(target % ACTORS).nodeKey)
                : ILeaderElection(address(cluster)).currentLeader();
    }

    function owner(uint256 i) private pure returns (address) {
        return i % 2 == 0 ? ALICE : BOB;
    }

    function ownerOf(uint256 id) private view returns (address) {
        address found = cluster.getNode(id).owner;
        return found == address(0) ? STRANGER : found;
    }

    function app(uint256 i) private view returns (address) {
        return i == 0 ? address(cluster) : address(0xABBA);
    }
}
