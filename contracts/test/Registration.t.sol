// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IERC721Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";
import {IDstackClusterNFT} from "../src/interfaces/IDstackClusterNFT.sol";
import {VM} from "./Vm.sol";
import {ClusterTest} from "./support/ClusterTest.sol";
import {Actor} from "./support/Signing.sol";

/// Becoming a peer, and staying one: registerPeer and updateEndpoint.
contract RegistrationTest is ClusterTest {
    function test_a_relayer_registers_a_bound_node() public {
        Actor memory who = actor(1);
        uint256 id = mint(ALICE, who.instanceId);
        VM.prank(OWNER);
        cluster.addBaseDomain("gw.example.com");
        IDstackClusterNFT.Registration memory r = registration(id, who);
        (r.gatewayDomain, r.gatewayPort) = (named("gw.example.com"), 8443);
        uint64 epoch = cluster.epoch();
        VM.expectEmit(address(cluster));
        emit IDstackClusterNFT.PeerRegistered(
            id,
            r,
            chainOf(who),
            sign(r, who.nodeKey, address(cluster)),
            sign(r, who.memberKey, address(cluster)),
            VM.addr(who.nodeKey),
            VM.addr(who.rootKey),
            epoch + 1
        );
        submit(r, who);

        IDstackClusterNFT.Peer memory peer = cluster.getPeer(id);
        eq(peer.tokenId, id, "token");
        eq(bytes32(peer.instanceId), bytes32(who.instanceId), "instance");
        eq(peer.memberAddress, VM.addr(who.memberKey), "member address");
        eq(peer.wireguardKey, r.wireguardKey, "key");
        eq(peer.keyEpoch, 2, "key epoch: the mint spent the first");
        eq(peer.endpointEpoch, 0, "endpoint epoch");
        eq(uint256(peer.networkType), uint256(r.networkType), "network type");
        eq(bytes32(peer.endpointAddress), bytes32(r.endpointAddress), "endpoint");
        eq(peer.endpointPort, r.endpointPort, "port");
        eq(peer.gatewayDomain, 1, "gateway domain");
        eq(peer.gatewayPort, 8443, "gateway port");
        eq(peer.kmsRoot, VM.addr(who.rootKey), "root");
        eq(peer.appId, who.appId, "app");
        eq(peer.registeredBlock, block.number, "block");
        eq(cluster.peerCount(), 1, "peer count");
        eq(cluster.epoch(), epoch + 1, "epoch");
        eq(cluster.tokenOfInstance(who.instanceId), id, "by instance");
        eq(cluster.tokenOfWireguardKey(r.wireguardKey), id, "by key");
        eq(bytes32(cluster.addressOf(id)), bytes32(bytes4(0x0a000101)), "10.0.1.1");
    }

    function test_both_spellings_of_v_are_read() public {
        Actor memory who = actor(1);
        uint256 id = mint(ALICE, who.instanceId);
        IDstackClusterNFT.Registration memory r = registration(id, who);
        IDstackClusterNFT.SignatureChain memory chain = chainOf(who); // v = 0 or 1
        bytes memory signature = sign(r, who.nodeKey, address(cluster)); // v = 27 or 28
        signature[64] = bytes1(uint8(signature[64]) - 27);
        chain.appSignature[64] = bytes1(uint8(chain.appSignature[64]) + 27);
        chain.kmsSignature[64] = bytes1(uint8(chain.kmsSignature[64]) + 27);
        cluster.registerPeer(r, chain, signature, sign(r, who.memberKey, address(cluster)));
        mustBePeer(id);
    }

    function test_an_unbound_token_registers_through_its_owner_alone() public {
        Actor memory who = actor(1);
        uint256 id = mint(ALICE, 0);
        IDstackClusterNFT.Registration memory r = registration(id, who);
        submitExpecting(r, who, abi.encodeWithSelector(IDstackClusterNFT.NodeUnbound.selector, id));
        IDstackClusterNFT.SignatureChain memory chain = chainOf(who);
        bytes memory signature = sign(r, who.nodeKey, address(cluster));
        VM.prank(ALICE);
        cluster.registerPeer(r, chain, signature, sign(r, who.memberKey, address(cluster)));
        mustBePeer(id);
        eq(bytes32(cluster.getNode(id).instanceId), bytes32(who.instanceId), "bound by registering");
        submit(registration(id, who), who); // from then on anyone may submit
    }

    function test_rotation_replaces_the_key_and_frees_the_old_one() public {
        Actor memory who = actor(1);
        uint256 id = join(1);
        bytes32 oldKey = cluster.getPeer(id).wireguardKey;
        VM.roll(block.number + 5);
        IDstackClusterNFT.Registration memory r = registration(id, who);
        submit(r, who);
        IDstackClusterNFT.Peer memory peer = cluster.getPeer(id);
        eq(peer.wireguardKey, r.wireguardKey, "new key");
        eq(peer.keyEpoch, 3, "key epoch");
        eq(peer.registeredBlock, block.number, "block of the new proof");
        eq(cluster.tokenOfWireguardKey(oldKey), 0, "the old key is free");
        eq(cluster.peerCount(), 1, "still one peer");
    }

    function test_the_same_key_may_be_registered_again() public {
        Actor memory who = actor(1);
        uint256 id = join(1);
        IDstackClusterNFT.Registration memory r = registration(id, who);
        r.wireguardKey = cluster.getPeer(id).wireguardKey;
        r.endpointPort = 7;
        submit(r, who);
        eq(cluster.tokenOfWireguardKey(r.wireguardKey), id, "still the holder");
        eq(cluster.getPeer(id).endpointPort, 7, "rest is new");
    }

    function test_a_peer_can_become_a_tls_peer_and_come_back() public {
        Actor memory who = actor(1);
        uint256 id = join(1);
        VM.prank(OWNER);
        cluster.addBaseDomain("gw.example.com");
        bytes32 oldKey = cluster.getPeer(id).wireguardKey;

        IDstackClusterNFT.Registration memory r = behind(registration(id, who), "gw.example.com");
        (r.endpointAddress, r.endpointPort, r.gatewayPort) = (0, 0, 8443);
        submit(r, who);
        eq(cluster.tokenOfWireguardKey(oldKey), 0, "its key is free");
        eq(cluster.tokenOfWireguardKey(r.tlsKey), 0, "a TLS key is no WireGuard key");
        eq(cluster.tokenOfTlsKey(r.tlsKey), id, "its TLS key is taken");
        eq(cluster.getPeer(id).tlsKey, r.tlsKey, "and listed");
        eq(cluster.getPeer(id).wireguardKey, 0, "alone");
        eq(cluster.tokenOfWireguardKey(0), 0, "the zero key belongs to no token");
        string[] memory urls = cluster.getPeerEndpoints();
        eq(urls.length, 1, "one endpoint");
        string memory expected =
            string.concat("https://", hexOf(abi.encodePacked(who.instanceId)), "-8443s.gw.example.com");
        eq(urls[0], expected, "url");

        submit(registration(id, who), who);
        eq(cluster.getPeerEndpoints()[0], "10.0.1.1", "mesh address");
        eq(cluster.tokenOfTlsKey(r.tlsKey), 0, "its TLS key is free");
        eq(cluster.getPeer(id).tlsKey, 0, "and gone");
        eq(cluster.peerCount(), 1, "one peer");
    }

    function test_a_token_that_is_not_minted_cannot_register() public {
        submitExpecting(
            registration(9, actor(1)),
            actor(1),
            abi.encodeWithSelector(IERC721Errors.ERC721NonexistentToken.selector, 9)
        );
    }

    function test_another_instance_than_the_bound_one_is_refused() public {
        uint256 id = mint(ALICE, instance(1));
        submitExpecting(
            registration(id, actor(2)),
            actor(2),
            abi.encodeWithSelector(IDstackClusterNFT.InstanceMismatch.selector, id, instance(1), instance(2))
        );
    }

    function test_a_zero_instance_is_refused() public {
        uint256 id = mint(ALICE, 0);
        Actor memory who = actor(1);
        who.instanceId = 0;
        IDstackClusterNFT.Registration memory r = registration(id, who);
        IDstackClusterNFT.SignatureChain memory chain = chainOf(who);
        bytes memory signature = sign(r, who.nodeKey, address(cluster));
        VM.expectRevert(IDstackClusterNFT.ZeroInstanceId.selector);
        VM.prank(ALICE);
        cluster.registerPeer(r, chain, signature, sign(r, who.memberKey, address(cluster)));
    }

    function test_an_expired_registration_is_refused_and_its_last_second_is_not() public {
        Actor memory who = actor(1);
        uint256 id = mint(ALICE, who.instanceId);
        IDstackClusterNFT.Registration memory r = registration(id, who);
        VM.warp(uint256(r.deadline) + 1);
        submitExpecting(r, who, abi.encodeWithSelector(IDstackClusterNFT.DeadlineExpired.selector, r.deadline));
        VM.warp(r.deadline);
        submit(r, who);
        mustBePeer(id);
    }

    function test_a_deadline_may_lie_a_day_ahead_and_no_second_more() public {
        eq(cluster.MAX_SIGNATURE_VALIDITY(), 1 days, "a day");
        Actor memory who = actor(1);
        uint256 id = mint(ALICE, who.instanceId);
        uint64 latest = uint64(block.timestamp + 1 days);
        IDstackClusterNFT.Registration memory r = registration(id, who);
        r.deadline = latest + 1;
        submitExpecting(r, who, tooFar(r.deadline, latest));
        r.deadline = type(uint64).max;
        submitExpecting(r, who, tooFar(r.deadline, latest));
        r.deadline = latest;
        submit(r, who);

        IDstackClusterNFT.EndpointUpdate memory u = endpointUpdate(id);
        u.deadline = latest + 1;
        bytes memory signature = sign(u, who.memberKey, address(cluster));
        VM.expectRevert(tooFar(u.deadline, latest));
        cluster.updateEndpoint(u, signature);
        u.deadline = latest;
        cluster.updateEndpoint(u, sign(u, who.memberKey, address(cluster)));
        eq(cluster.getPeer(id).endpointPort, u.endpointPort, "moved");
    }

    function tooFar(uint64 deadline, uint64 latest) private pure returns (bytes memory) {
        return abi.encodeWithSelector(IDstackClusterNFT.DeadlineTooFar.selector, deadline, latest);
    }

    function testFuzz_only_the_app_key_vouches_for_a_node_key(uint256 stranger) public {
        Actor memory who = actor(1);
        uint256 id = mint(ALICE, who.instanceId);
        stranger = within(stranger, 1, CURVE_ORDER - 1);
        IDstackClusterNFT.SignatureChain memory chain = chainOf(who);
        Actor memory other = actor(1);
        other.appKey = stranger;
        chain.appSignature = chainOf(other).appSignature; // over the very node key
        IDstackClusterNFT.Registration memory r = registration(id, who);
        submitExpecting(
            r,
            who,
            chain,
            sign(r, who.nodeKey, address(cluster)),
            abi.encodeWithSelector(
                IDstackClusterNFT.AppSignatureMismatch.selector, VM.addr(stranger), VM.addr(who.appKey)
            )
        );
    }

    function testFuzz_only_the_next_key_epoch_is_accepted(uint32 given) public {
        Actor memory who = actor(1);
        uint256 id = join(1);
        IDstackClusterNFT.Registration memory r = registration(id, who);
        if (given == r.keyEpoch) return;
        uint32 expected = r.keyEpoch;
        r.keyEpoch = given;
        submitExpecting(r, who, abi.encodeWithSelector(IDstackClusterNFT.WrongKeyEpoch.selector, id, expected, given));
    }

    function test_the_first_registration_fixes_the_member_key() public {
        uint256 id = join(1);
        Actor memory other = actor(1);
        other.memberKey = secret("other member", 1);
        address first = VM.addr(actor(1).memberKey);
        bytes memory expected = abi.encodeWithSelector(
            IDstackClusterNFT.MemberAddressMismatch.selector, id, first, VM.addr(other.memberKey)
        );
        submitExpecting(registration(id, other), other, expected);

        // The token's owner can clear the binding, and only then another key comes in.
        VM.prank(ALICE);
        cluster.deactivate(id);
        VM.prank(ALICE);
        cluster.bind(id, instance(1), address(0));
        submit(registration(id, other), other);
        eq(cluster.getPeer(id).memberAddress, VM.addr(other.memberKey), "the other key");
    }

    function test_an_instance_or_key_in_use_is_refused_and_free_again_after() public {
        uint256 first = join(1);
        uint256 second = mint(BOB, instance(1));
        Actor memory who = actor(1);
        submitExpecting(
            registration(second, who),
            who,
            abi.encodeWithSelector(IDstackClusterNFT.InstanceInUse.selector, who.instanceId, first)
        );

        uint256 third = mint(BOB, instance(3));
        IDstackClusterNFT.Registration memory r = registration(third, actor(3));
        r.wireguardKey = cluster.getPeer(first).wireguardKey;
        submitExpecting(
            r, actor(3), abi.encodeWithSelector(IDstackClusterNFT.WireguardKeyInUse.selector, r.wireguardKey, first)
        );

        VM.prank(ALICE);
        cluster.deactivate(first);
        submit(r, actor(3)); // with the key of the first
        r = registration(second, who);
        r.wireguardKey = wireguardKey(2);
        submit(r, who);
        eq(cluster.peerCount(), 2, "both are peers now");
    }

    // --------------------------------------------------------------------------------------- where it is reached

    function test_a_wireguard_peer_needs_a_key_and_a_tls_peer_must_not_have_one() public {
        Actor memory who = actor(1);
        uint256 id = mint(ALICE, who.instanceId);
        bytes memory expected = abi.encodeWithSelector(IDstackClusterNFT.InvalidWireguardKey.selector);
        IDstackClusterNFT.Registration memory r = registration(id, who);
        r.wireguardKey = 0;
        submitExpecting(r, who, expected);
        r = registration(id, who);
        (r.networkType, r.tlsKey) = (IDstackClusterNFT.NetworkType.TLS_GATEWAY, tlsKey(1));
        submitExpecting(r, who, expected);
    }

    function test_a_tls_peer_needs_a_tls_key() public {
        VM.prank(OWNER);
        cluster.addBaseDomain("gw.example.com");
        Actor memory who = actor(1);
        uint256 id = mint(ALICE, who.instanceId);
        IDstackClusterNFT.Registration memory r = behind(registration(id, who), "gw.example.com");
        r.tlsKey = 0;
        submitExpecting(r, who, abi.encodeWithSelector(IDstackClusterNFT.InvalidTlsKey.selector));
    }

    /// A key of one peer is refused to another of either kind, until its peer leaves or changes it.
    function test_a_tls_key_belongs_to_one_peer() public {
        VM.prank(OWNER);
        cluster.addBaseDomain("gw.example.com");
        uint256 first = mint(ALICE, instance(1));
        IDstackClusterNFT.Registration memory r = registration(first, actor(1));
        r.tlsKey = tlsKey(1);
        submit(r, actor(1));
        eq(cluster.getPeer(first).tlsKey, tlsKey(1), "beside");
        eq(cluster.getPeer(first).wireguardKey, r.wireguardKey, "its WireGuard key");
        bytes memory taken = abi.encodeWithSelector(IDstackClusterNFT.TlsKeyInUse.selector, tlsKey(1), first);

        uint256 second = mint(BOB, instance(2));
        r = registration(second, actor(2));
        r.tlsKey = tlsKey(1);
        submitExpecting(r, actor(2), taken);
        r = behind(r, "gw.example.com");
        r.tlsKey = tlsKey(1);
        submitExpecting(r, actor(2), taken);

        IDstackClusterNFT.Registration memory changed = registration(first, actor(1));
        changed.tlsKey = tlsKey(2);
        submit(changed, actor(1));
        eq(cluster.getPeer(first).tlsKey, tlsKey(2), "another one");
        submit(r, actor(2));
        eq(cluster.tokenOfTlsKey(tlsKey(1)), second, "taken over");

        submit(registration(first, actor(1)), actor(1));
        eq(cluster.getPeer(first).tlsKey, 0, "none any more");
        eq(cluster.tokenOfTlsKey(tlsKey(2)), 0, "and free");
    }

    function test_leaving_takes_both_keys_along() public {
        uint256 id = mint(ALICE, instance(1));
        IDstackClusterNFT.Registration memory r = registration(id, actor(1));
        r.tlsKey = tlsKey(1);
        submit(r, actor(1));
        VM.prank(ALICE);
        cluster.deactivate(id);
        eq(cluster.tokenOfTlsKey(tlsKey(1)), 0, "free");
        VM.prank(ALICE);
        cluster.bind(id, instance(1), address(0));
        submit(registration(id, actor(1)), actor(1));
        eq(cluster.getPeer(id).tlsKey, 0, "nothing of it is left");
    }

    /// What was signed for one domain is not taken for another, whatever index that has.
    function test_a_base_domain_is_signed_by_its_name() public {
        VM.startPrank(OWNER);
        cluster.addBaseDomain("a.example.com");
        cluster.removeBaseDomain(1);
        cluster.addBaseDomain("b.example.com");
        VM.stopPrank();
        Actor memory who = actor(1);
        uint256 id = mint(ALICE, who.instanceId);
        IDstackClusterNFT.Registration memory r = behind(registration(id, who), "a.example.com");
        submitExpecting(
            r, who, abi.encodeWithSelector(IDstackClusterNFT.UnknownGatewayDomain.selector, r.gatewayDomain)
        );
        bytes memory byNode = sign(r, who.nodeKey, address(cluster));
        bytes memory byMember = sign(r, who.memberKey, address(cluster));
        IDstackClusterNFT.SignatureChain memory chain = chainOf(who);
        r.gatewayDomain = named("b.example.com");
        VM.expectPartialRevert(IDstackClusterNFT.NodeSignatureMismatch.selector);
        cluster.registerPeer(r, chain, byNode, byMember);

        VM.prank(OWNER);
        eq(cluster.addBaseDomain("a.example.com"), 3, "back under another index");
        r.gatewayDomain = named("a.example.com");
        cluster.registerPeer(r, chain, byNode, byMember);
        eq(cluster.getPeer(id).gatewayDomain, 3, "which the record has");
    }

    /// The hash of the empty string is that of every domain that was removed, and names none.
    function test_no_gateway_is_named_by_the_empty_string() public {
        VM.startPrank(OWNER);
        cluster.addBaseDomain("a.example.com");
        cluster.removeBaseDomain(1);
        VM.stopPrank();
        uint256 id = join(1);
        IDstackClusterNFT.EndpointUpdate memory u = endpointUpdate(id);
        (u.gatewayDomain, u.gatewayPort) = (named(""), 443);
        bytes memory signature = sign(u, actor(1).memberKey, address(cluster));
        VM.expectRevert(abi.encodeWithSelector(IDstackClusterNFT.UnknownGatewayDomain.selector, named("")));
        cluster.updateEndpoint(u, signature);
    }

    function test_half_an_endpoint_or_half_a_gateway_is_refused() public {
        Actor memory who = actor(1);
        uint256 id = mint(ALICE, who.instanceId);
        IDstackClusterNFT.Registration memory r = registration(id, who);
        r.endpointPort = 0;
        submitExpecting(r, who, abi.encodeWithSelector(IDstackClusterNFT.InvalidEndpoint.selector));
        r = registration(id, who);
        r.endpointAddress = 0;
        submitExpecting(r, who, abi.encodeWithSelector(IDstackClusterNFT.InvalidEndpoint.selector));
        r = registration(id, who);
        r.gatewayPort = 443;
        submitExpecting(r, who, abi.encodeWithSelector(IDstackClusterNFT.UnknownGatewayDomain.selector, 0));
        r = registration(id, who);
        r.gatewayDomain = named("gw.example.com");
        submitExpecting(
            r, who, abi.encodeWithSelector(IDstackClusterNFT.UnknownGatewayDomain.selector, r.gatewayDomain)
        );
    }

    function test_a_peer_may_have_no_endpoint_at_all() public {
        Actor memory who = actor(1);
        uint256 id = mint(ALICE, who.instanceId);
        IDstackClusterNFT.Registration memory r = registration(id, who);
        (r.endpointAddress, r.endpointPort) = (0, 0);
        submit(r, who);
        mustBePeer(id);
    }

    function test_a_tls_peer_needs_a_gateway_that_exists() public {
        Actor memory who = actor(1);
        uint256 id = mint(ALICE, who.instanceId);
        IDstackClusterNFT.Registration memory r = behind(registration(id, who), "gw.example.com");
        bytes memory unknown = abi.encodeWithSelector(IDstackClusterNFT.UnknownGatewayDomain.selector, r.gatewayDomain);
        submitExpecting(r, who, unknown);
        (r.gatewayDomain, r.gatewayPort) = (0, 0);
        submitExpecting(r, who, abi.encodeWithSelector(IDstackClusterNFT.GatewayRequired.selector));
        (r.gatewayDomain, r.gatewayPort) = (named("gw.example.com"), 443);
        VM.startPrank(OWNER);
        cluster.addBaseDomain("gw.example.com");
        cluster.removeBaseDomain(1);
        VM.stopPrank();
        submitExpecting(r, who, unknown);
    }

    // --------------------------------------------------------------------------------------------- endpoint update

    function test_an_endpoint_update_changes_only_the_endpoint() public {
        uint256 id = join(1);
        IDstackClusterNFT.Peer memory before = cluster.getPeer(id);
        VM.roll(block.number + 9);
        IDstackClusterNFT.EndpointUpdate memory u = endpointUpdate(id);
        bytes memory signature = sign(u, actor(1).memberKey, address(cluster));
        uint64 epoch = cluster.epoch();
        VM.expectEmit(address(cluster));
        emit IDstackClusterNFT.PeerEndpointUpdated(id, u, signature, epoch + 1);
        VM.prank(STRANGER);
        cluster.updateEndpoint(u, signature);

        IDstackClusterNFT.Peer memory peer = cluster.getPeer(id);
        eq(bytes32(peer.endpointAddress), bytes32(u.endpointAddress), "address");
        eq(peer.endpointPort, u.endpointPort, "port");
        eq(peer.keyEpoch, before.keyEpoch, "the key epoch is the registration's");
        eq(peer.endpointEpoch, 1, "endpoint epoch");
        eq(peer.wireguardKey, before.wireguardKey, "key");
        eq(peer.registeredBlock, before.registeredBlock, "the proof stays where it was");
    }

    function test_an_endpoint_update_needs_the_stored_member_key() public {
        uint256 id = join(1);
        IDstackClusterNFT.EndpointUpdate memory u = endpointUpdate(id);
        bytes memory signature = sign(u, actor(2).memberKey, address(cluster));
        address expected = VM.addr(actor(1).memberKey);
        VM.expectRevert(
            abi.encodeWithSelector(
                IDstackClusterNFT.MemberSignatureMismatch.selector, VM.addr(actor(2).memberKey), expected
            )
        );
        cluster.updateEndpoint(u, signature);
    }

    function test_an_endpoint_update_cannot_be_replayed_or_come_late() public {
        uint256 id = join(1);
        IDstackClusterNFT.EndpointUpdate memory u = endpointUpdate(id);
        bytes memory signature = sign(u, actor(1).memberKey, address(cluster));
        VM.warp(uint256(u.deadline) + 1);
        VM.expectRevert(abi.encodeWithSelector(IDstackClusterNFT.DeadlineExpired.selector, u.deadline));
        cluster.updateEndpoint(u, signature);
        VM.warp(u.deadline);
        cluster.updateEndpoint(u, signature);
        VM.expectRevert(abi.encodeWithSelector(IDstackClusterNFT.WrongEndpointEpoch.selector, id, 2, 1));
        cluster.updateEndpoint(u, signature);
    }

    function test_an_inactive_token_has_no_endpoint_to_update() public {
        uint256 id = mint(ALICE, instance(1));
        IDstackClusterNFT.EndpointUpdate memory u = endpointUpdate(id);
        bytes memory signature = sign(u, actor(1).memberKey, address(cluster));
        VM.expectRevert(abi.encodeWithSelector(IDstackClusterNFT.NodeNotActive.selector, id));
        cluster.updateEndpoint(u, signature);
    }

    function test_an_endpoint_update_keeps_a_tls_peer_behind_a_gateway() public {
        VM.prank(OWNER);
        cluster.addBaseDomain("gw.example.com");
        Actor memory who = actor(1);
        uint256 id = mint(ALICE, who.instanceId);
        submit(behind(registration(id, who), "gw.example.com"), who);
        IDstackClusterNFT.EndpointUpdate memory u = endpointUpdate(id);
        bytes memory signature = sign(u, who.memberKey, address(cluster));
        VM.expectRevert(IDstackClusterNFT.GatewayRequired.selector);
        cluster.updateEndpoint(u, signature);
    }

    /// Whatever the endpoint and gateway, an update is accepted exactly when both are whole and the domain exists.
    function testFuzz_updateEndpoint(bytes16 ip, uint16 port, uint16 domain, uint16 gatewayPort) public {
        bytes32[4] memory names = [bytes32(0), named("a.example.com"), named("b.example.com"), named("c.example.com")];
        VM.startPrank(OWNER);
        cluster.addBaseDomain("a.example.com");
        cluster.addBaseDomain("b.example.com");
        VM.stopPrank();
        uint256 id = join(1);
        IDstackClusterNFT.EndpointUpdate memory u = endpointUpdate(id);
        domain = domain % 4;
        (u.endpointAddress, u.endpointPort, u.gatewayDomain, u.gatewayPort) = (ip, port, names[domain], gatewayPort);
        bool good = (ip == 0) == (port == 0) && (domain == 0) == (gatewayPort == 0) && domain < 3;
        try cluster.updateEndpoint(u, sign(u, actor(1).memberKey, address(cluster))) {
            yes(good, "refused when it should be");
            IDstackClusterNFT.Peer memory peer = cluster.getPeer(id);
            eq(bytes32(peer.endpointAddress), bytes32(ip), "address");
            eq(peer.endpointPort, port, "port");
            eq(peer.gatewayDomain, domain, "domain");
            eq(peer.gatewayPort, gatewayPort, "gateway port");
        } catch {
            yes(!good, "accepted when it should be");
        }
    }

    /// Any registration that its node signed and that keeps the rules is accepted, and read back as it was signed.
    function testFuzz_registerPeer(
        uint256 who,
        bytes32 wgKey,
        bytes32 key,
        bytes16 ip,
        uint16 port,
        uint64 deadline,
        bytes20 instanceId
    ) public {
        if (instanceId == 0) instanceId = bytes20(uint160(1));
        if (wgKey == 0) wgKey = bytes32(uint256(1));
        if ((ip == 0) != (port == 0)) (ip, port) = (0, 0);
        Actor memory node = actor(who);
        node.instanceId = instanceId;
        uint256 id = mint(BOB, instanceId);
        IDstackClusterNFT.Registration memory r = registration(id, node);
        (r.wireguardKey, r.tlsKey, r.endpointAddress, r.endpointPort) = (wgKey, key, ip, port);
        r.deadline = uint64(within(deadline, block.timestamp, block.timestamp + 1 days));
        submit(r, node);
        IDstackClusterNFT.Peer memory peer = cluster.getPeer(id);
        eq(peer.wireguardKey, wgKey, "key");
        eq(peer.tlsKey, key, "TLS key");
        eq(bytes32(peer.endpointAddress), bytes32(ip), "address");
        eq(peer.endpointPort, port, "port");
        eq(bytes32(peer.instanceId), bytes32(instanceId), "instance");
        eq(peer.memberAddress, VM.addr(node.memberKey), "member");
    }

    /// Changing any one bit of what was signed, or of a signature, is refused.
    function testFuzz_one_changed_bit_is_refused(uint256 bit) public {
        Actor memory who = actor(1);
        uint256 id = mint(ALICE, who.instanceId);
        IDstackClusterNFT.Registration memory r = registration(id, who);
        IDstackClusterNFT.SignatureChain memory chain = chainOf(who);
        bytes memory signature = sign(r, who.nodeKey, address(cluster));
        bytes memory byMember = sign(r, who.memberKey, address(cluster));
        bytes memory call = abi.encodeCall(IDstackClusterNFT.registerPeer, (r, chain, signature, byMember));

        // The first eleven words after the selector are the registration; offsets, lengths and padding are not signed.
        bit = within(bit, 0, 11 * 256 - 1);
        call[4 + bit / 8] ^= bytes1(uint8(1 << (bit % 8)));
        VM.prank(STRANGER);
        (bool accepted,) = address(cluster).call(call);
        yes(!accepted, "refused");

        bit = within(bit, 0, 64 * 8 - 1);
        chain.appSignature[bit / 8] ^= bytes1(uint8(1 << (bit % 8)));
        (accepted,) =
            address(cluster).call(abi.encodeCall(IDstackClusterNFT.registerPeer, (r, chain, signature, byMember)));
        yes(!accepted, "changed app signature");
        chain = chainOf(who);
        chain.kmsSignature[bit / 8] ^= bytes1(uint8(1 << (bit % 8)));
        (accepted,) =
            address(cluster).call(abi.encodeCall(IDstackClusterNFT.registerPeer, (r, chain, signature, byMember)));
        yes(!accepted, "changed KMS signature");
        chain = chainOf(who);
        signature[bit / 8] ^= bytes1(uint8(1 << (bit % 8)));
        (accepted,) =
            address(cluster).call(abi.encodeCall(IDstackClusterNFT.registerPeer, (r, chain, signature, byMember)));
        yes(!accepted, "changed node signature");
        signature[bit / 8] ^= bytes1(uint8(1 << (bit % 8)));
        byMember[bit / 8] ^= bytes1(uint8(1 << (bit % 8)));
        (accepted,) =
            address(cluster).call(abi.encodeCall(IDstackClusterNFT.registerPeer, (r, chain, signature, byMember)));
        yes(!accepted, "changed member signature");
        byMember[bit / 8] ^= bytes1(uint8(1 << (bit % 8)));
        submit(r, who); // nothing else was wrong
    }
}
