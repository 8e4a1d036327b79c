// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IClusterPolicy} from "../../src/interfaces/IClusterPolicy.sol";
import {IDstackClusterNFT} from "../../src/interfaces/IDstackClusterNFT.sol";
import {ILeaderElection} from "../../src/interfaces/ILeaderElection.sol";
import {VM} from "../Vm.sol";
import {Campaign} from "./Campaign.sol";
import {Governance} from "./Governance.sol";
import {Actor, Vote} from "./Signing.sol";

/// @title  Random token owners, nodes and relayers under that contract owner.
contract Handler is Governance {
    constructor(bool keeps) Campaign(keeps) {}

    // ----------------------------------------------------------------------------------------------------- tokens

    function mintOne(uint256 to, uint256 who) external {
        bytes20 instanceId = who % 3 == 0 ? bytes20(0) : instance(who % ACTORS);
        send("mint", OWNER, abi.encodeCall(IDstackClusterNFT.mint, (owner(to), instanceId, anyPin(who >> 8))));
    }

    /// Buys a token, or tries to.
    function buy(uint256 to, uint256 who, uint256 paid) external {
        string memory text = who % 3 == 0 ? "" : hexOf(abi.encodePacked(instance(who % ACTORS)));
        bytes memory call = abi.encodeCall(IClusterPolicy.mintNodeAccess, (owner(to), text));
        uint64 before = cluster.epoch();
        bool accepted = transact("mintNodeAccess", paid % 5 == 0 ? OWNER : owner(paid), (paid >> 8) % 3, call);
        yes((cluster.epoch() > before) == accepted, "the epoch advances with what is accepted");
    }

    function registerInstanceOne(uint256 wallet, uint256 who) external {
        string memory text = string.concat("0x", hexOf(abi.encodePacked(instance(who % ACTORS))));
        address from = wallet % 2 == 0 ? wallets()[2] : owner(wallet);
        send("registerInstance", from, abi.encodeCall(IClusterPolicy.registerInstance, (text)));
    }

    function bindOne(uint256 id, uint256 who) external {
        id = anyToken(id);
        send(
            "bind", ownerOf(id), abi.encodeCall(IDstackClusterNFT.bind, (id, instance(who % ACTORS), anyPin(who >> 8)))
        );
    }

    /// Mostly no app id.
    function anyPin(uint256 seed) private view returns (address) {
        return seed % 4 == 0 ? app((seed >> 8) % 2) : address(0);
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
        if (under % 4 == 0) r.tlsKey = tlsKey(wgKey % 7);
        if (under % 11 == 0) {
            (r.gatewayDomain, r.gatewayPort) = (named(string.concat("gw", VM.toString(under % 4), ".example.com")), 443);
        }
        if (under % 7 == 0) {
            (r.networkType, r.wireguardKey) = (IDstackClusterNFT.NetworkType.TLS_GATEWAY, bytes32(0));
        }
        bytes memory byNode = sign(r, node.nodeKey, address(cluster));
        bytes memory byMember = sign(r, node.memberKey, address(cluster));
        bytes memory call = abi.encodeCall(IDstackClusterNFT.registerPeer, (r, chainOf(node), byNode, byMember));
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
        uint256 memberKey = memberKeyOf(id, who);
        IDstackClusterNFT.EndpointUpdate memory u = endpointUpdate(id);
        u.endpointPort = port;
        bytes memory call = abi.encodeCall(IDstackClusterNFT.updateEndpoint, (u, sign(u, memberKey, address(cluster))));
        send("updateEndpoint", STRANGER, call);
    }

    function deactivateOne(uint256 id) external {
        id = anyToken(id);
        send("deactivate", ownerOf(id), abi.encodeCall(IDstackClusterNFT.deactivate, (id)));
    }

    /// Mostly by its owner; a revoked one also by the contract owner.
    function burnOne(uint256 id) external {
        address from = (id >> 8) % 4 == 0 ? OWNER : ownerOf(anyToken(id));
        send("burn", from, abi.encodeCall(IDstackClusterNFT.burn, (anyToken(id))));
    }

    function transferOne(uint256 id, uint256 to) external {
        id = anyToken(id);
        address from = ownerOf(id);
        send("transfer", from, abi.encodeWithSignature("transferFrom(address,address,uint256)", from, owner(to), id));
    }

    function nameUrl(uint256 id, uint256 url) external {
        id = anyPeer(id);
        string memory text = url % 4 == 0 ? "" : string.concat("http://localhost:", VM.toString(url % 1000));
        send("setDevUrl", ownerOf(id), abi.encodeCall(IClusterPolicy.setDevUrl, (id, text)));
    }

    // ------------------------------------------------------------------------------------------------------ voting

    function electOne(uint256 who) external {
        send("electLeader", owner(who), abi.encodeCall(ILeaderElection.electLeader, ()));
    }

    /// Votes, or withdraws, mostly as a member and about the leader.
    function voteOne(uint256 id, uint256 target, bool isNoConfidence) external {
        uint32 term = ILeaderElection(address(cluster)).term();
        if (target % 9 == 0) ++term;
        bytes memory call = abi.encodeCall(ILeaderElection.castVote, (term, voteTarget(target), isNoConfidence));
        send(isNoConfidence ? "castVote" : "withdrawVote", cluster.getNode(anyPeer(id)).memberAddress, call);
    }

    function voteBySignature(uint256 id, uint256 who, uint256 target, bool isNoConfidence) external {
        id = anyPeer(id);
        uint32 term = ILeaderElection(address(cluster)).term();
        if (target % 9 == 0) ++term;
        Vote memory v = Vote(id, term, voteTarget(target), isNoConfidence, uint64(block.timestamp + 20 hours));
        bytes memory signature = signFor(v, memberKeyOf(id, who), address(cluster), block.chainid);
        bytes memory call =
            abi.encodeCall(ILeaderElection.castVoteBySig, (id, term, v.target, isNoConfidence, v.deadline, signature));
        if (sentCalls.length < 64) sentCalls.push(call);
        send("castVoteBySig", STRANGER, call);
    }

    function pass(uint256 time) external {
        VM.warp(block.timestamp + time % 30 hours);
        VM.roll(block.number + 1 + time % 100);
    }
}
