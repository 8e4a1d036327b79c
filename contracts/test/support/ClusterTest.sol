// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IClusterToken} from "./IClusterToken.sol";
import {IDstackClusterNFT} from "../../src/interfaces/IDstackClusterNFT.sol";
import {VM} from "../Vm.sol";
import {Check} from "./Check.sol";
import {Actor, Signing} from "./Signing.sol";

/// @title  A cluster behind its proxy, with one KMS root and its own app id, and what tests do to it.
abstract contract ClusterTest is Check, Signing {
    address internal constant OWNER = address(0x0111);
    address internal constant ALICE = address(0xA11CE);
    address internal constant BOB = address(0xB0B);
    address internal constant STRANGER = address(0x5778);

    IDstackClusterNFT internal cluster;
    IClusterToken internal token; // the same proxy, as ERC-721, Ownable2Step and UUPS

    function setUp() public virtual {
        VM.warp(1_800_000_000);
        VM.roll(1000);
        cluster = deploy(defaultParams());
        token = IClusterToken(address(cluster));
    }

    function defaultParams() internal pure returns (IDstackClusterNFT.ClusterParams memory params) {
        params.name = "test mesh";
        params.symbol = "NODE";
        params.owner = OWNER;
        params.networkBase = 0x0a000100;
        params.prefixLength = 24;
        params.kmsRoots = new address[](1);
        params.kmsRoots[0] = VM.addr(secret("root", 0));
    }

    function deploy(IDstackClusterNFT.ClusterParams memory params) internal returns (IDstackClusterNFT) {
        bytes memory call = abi.encodeCall(IDstackClusterNFT.initialize, (params));
        return IDstackClusterNFT(proxy(implementation(), call));
    }

    /// Deployed by name, so that tests are compiled apart from the contract. (A filtered run in a clean tree finds no artifact
    /// by that name: `forge build` first.)
    function implementation() internal returns (address) {
        return VM.deployCode("DstackClusterNFT.sol:DstackClusterNFT");
    }

    function proxy(address code, bytes memory call) internal returns (address) {
        return VM.deployCode("ERC1967Proxy.sol:ERC1967Proxy", abi.encode(code, call));
    }

    // ------------------------------------------------------------------------------------------------ the actors

    /// Instance number `i` of the cluster's own app, under the default root.
    function actor(uint256 i) internal view returns (Actor memory) {
        return Actor(
            secret("root", 0), secret("app", 0), secret("node", i), address(cluster), instance(i), secret("member", i)
        );
    }

    function instance(uint256 i) internal pure returns (bytes20) {
        return bytes20(keccak256(abi.encode("instance", i)));
    }

    function wireguardKey(uint256 i) internal pure returns (bytes32) {
        return keccak256(abi.encode("wireguard", i));
    }

    function tlsKey(uint256 i) internal pure returns (bytes32) {
        return sha256(abi.encode("tls", i));
    }

    /// A base domain as registrations name it.
    function named(string memory domain) internal pure returns (bytes32) {
        return keccak256(bytes(domain));
    }

    /// The registration, of a TLS_GATEWAY node behind this base domain.
    function behind(IDstackClusterNFT.Registration memory r, string memory domain)
        internal
        pure
        returns (IDstackClusterNFT.Registration memory)
    {
        r.networkType = IDstackClusterNFT.NetworkType.TLS_GATEWAY;
        (r.wireguardKey, r.tlsKey) = (0, sha256(abi.encode("tls of", r.instanceId, r.keyEpoch)));
        (r.gatewayDomain, r.gatewayPort) = (named(domain), 443);
        return r;
    }

    /// A WIREGUARD registration of `who` at the token's next epoch.
    function registration(uint256 tokenId, Actor memory who)
        internal
        view
        returns (IDstackClusterNFT.Registration memory r)
    {
        r.tokenId = tokenId;
        r.instanceId = who.instanceId;
        r.memberAddress = VM.addr(who.memberKey);
        r.keyEpoch = cluster.getNode(tokenId).keyEpoch + 1;
        r.wireguardKey = keccak256(abi.encode("wireguard of", who.instanceId, r.keyEpoch));
        r.networkType = IDstackClusterNFT.NetworkType.WIREGUARD;
        r.endpointAddress = 0x00000000000000000000ffffc0000201; // ::ffff:192.0.2.1
        r.endpointPort = 51_821;
        r.deadline = uint64(block.timestamp + 1 hours);
    }

    function endpointUpdate(uint256 tokenId) internal view returns (IDstackClusterNFT.EndpointUpdate memory u) {
        u.tokenId = tokenId;
        IDstackClusterNFT.Node memory node = cluster.getNode(tokenId);
        (u.keyEpoch, u.endpointEpoch) = (node.keyEpoch, node.endpointEpoch + 1);
        u.endpointAddress = 0x20010db8000000000000000000000007;
        u.endpointPort = 4000;
        u.deadline = uint64(block.timestamp + 1 hours);
    }

    // ------------------------------------------------------------------------------------------------- what they do

    function mint(address to, bytes20 instanceId) internal returns (uint256) {
        VM.prank(OWNER);
        return cluster.mint(to, instanceId, address(0));
    }

    /// Signs and submits as `who`, from the pranked account.
    function submit(IDstackClusterNFT.Registration memory r, Actor memory who) internal {
        IDstackClusterNFT.SignatureChain memory chain = chainOf(who);
        bytes memory nodeSignature = sign(r, who.nodeKey, address(cluster));
        bytes memory memberSignature = sign(r, who.memberKey, address(cluster));
        VM.prank(STRANGER);
        cluster.registerPeer(r, chain, nodeSignature, memberSignature);
    }

    function submitExpecting(IDstackClusterNFT.Registration memory r, Actor memory who, bytes memory revertData)
        internal
    {
        submitExpecting(r, who, chainOf(who), sign(r, who.nodeKey, address(cluster)), revertData);
    }

    /// With a chain and a node signature that are not quite those of `who`.
    function submitExpecting(
        IDstackClusterNFT.Registration memory r,
        Actor memory who,
        IDstackClusterNFT.SignatureChain memory chain,
        bytes memory nodeSignature,
        bytes memory revertData
    ) internal {
        bytes memory memberSignature = sign(r, who.memberKey, address(cluster));
        VM.expectRevert(revertData);
        VM.prank(STRANGER);
        cluster.registerPeer(r, chain, nodeSignature, memberSignature);
    }

    /// Changes where a peer is reached, by the member key of `who`.
    function move(IDstackClusterNFT.EndpointUpdate memory u, Actor memory who) internal {
        bytes memory signature = sign(u, who.memberKey, address(cluster));
        VM.prank(STRANGER);
        cluster.updateEndpoint(u, signature);
    }

    function moveExpecting(IDstackClusterNFT.EndpointUpdate memory u, Actor memory who, bytes memory revertData)
        internal
    {
        VM.expectRevert(revertData);
        move(u, who);
    }

    /// Mints a token for ALICE bound to instance `i` and makes it a peer.
    function join(uint256 i) internal returns (uint256 tokenId) {
        tokenId = mint(ALICE, instance(i));
        submit(registration(tokenId, actor(i)), actor(i));
    }

    /// As `join`, under a root and an app of its own.
    function joinUnder(uint256 i, uint256 rootKey, address appId) internal returns (uint256 tokenId) {
        Actor memory who = actor(i);
        (who.rootKey, who.appId) = (rootKey, appId);
        tokenId = mint(ALICE, who.instanceId);
        submit(registration(tokenId, who), who);
    }

    /// Trusts root number `i`, and lets the time pass until it counts.
    function addRoot(uint256 i) internal returns (address root) {
        root = VM.addr(secret("root", i));
        VM.prank(OWNER);
        cluster.addKmsRoot(root);
        VM.warp(block.timestamp + cluster.KMS_ROOT_DELAY());
    }

    /// Allows an app id, and lets the time pass until it counts.
    function addApp(address appId) internal {
        VM.prank(OWNER);
        cluster.addAppId(appId);
        VM.warp(block.timestamp + cluster.APP_ID_DELAY());
    }

    // -------------------------------------------------------------------------------------------- what they find

    function isPeer(uint256 tokenId) internal view returns (bool) {
        return cluster.getNode(tokenId).active;
    }

    function mustBePeer(uint256 tokenId) internal view {
        yes(isPeer(tokenId), "the node is active");
        eq(cluster.getPeer(tokenId).tokenId, tokenId, "getPeer");
    }

    function mustBeGone(uint256 tokenId, Actor memory who) internal {
        yes(!isPeer(tokenId), "the node is inactive");
        eq(cluster.tokenOfInstance(who.instanceId), 0, "the instance id is free");
        VM.expectRevert(abi.encodeWithSelector(IDstackClusterNFT.NodeNotActive.selector, tokenId));
        cluster.getPeer(tokenId);
    }
}
