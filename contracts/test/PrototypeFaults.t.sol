// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IDstackClusterNFT} from "../src/interfaces/IDstackClusterNFT.sol";
import {VM} from "./Vm.sol";
import {ClusterTest} from "./support/ClusterTest.sol";
import {Actor} from "./support/Signing.sol";

/// The faults found in the prototype of this contract, each tried here.
contract PrototypeFaultsTest is ClusterTest {
    /// 1: the recovered app key was not compared with the one given, so any signature passed.
    function test_01_an_app_signature_by_a_stranger() public {
        (uint256 id, Actor memory who) = bound(1);
        IDstackClusterNFT.Registration memory r = registration(id, who);
        IDstackClusterNFT.SignatureChain memory chain = chainOf(who);
        Actor memory stranger = actor(1);
        stranger.appKey = secret("stranger", 1);
        chain.appSignature = chainOf(stranger).appSignature;
        submitExpecting(
            r,
            who,
            chain,
            sign(r, who.nodeKey, address(cluster)),
            abi.encodeWithSelector(
                IDstackClusterNFT.AppSignatureMismatch.selector, VM.addr(stranger.appKey), VM.addr(who.appKey)
            )
        );
    }

    /// 1, from the other end: the app key swapped too; the KMS then never issued it.
    function test_01_an_app_key_the_kms_never_issued() public {
        (uint256 id, Actor memory who) = bound(1);
        who.rootKey = secret("stranger root", 1);
        submitExpecting(
            registration(id, who),
            who,
            abi.encodeWithSelector(IDstackClusterNFT.KmsRootNotTrusted.selector, VM.addr(who.rootKey))
        );
        // With the true KMS signature over another app key, recovery yields some address that is not trusted.
        Actor memory stranger = actor(1);
        stranger.appKey = secret("stranger", 1);
        IDstackClusterNFT.Registration memory r = registration(id, stranger);
        IDstackClusterNFT.SignatureChain memory chain = chainWith(stranger, PURPOSE, chainOf(actor(1)).kmsSignature);
        VM.expectPartialRevert(IDstackClusterNFT.KmsRootNotTrusted.selector);
        cluster.registerPeer(
            r, chain, sign(r, stranger.nodeKey, address(cluster)), sign(r, stranger.memberKey, address(cluster))
        );
    }

    /// 2: app id and purpose were the caller's choice.
    function test_02_another_app_of_the_same_kms() public {
        (uint256 id, Actor memory who) = bound(1);
        who.appId = address(0xBAD);
        who.appKey = secret("other app", 1);
        submitExpecting(
            registration(id, who),
            who,
            abi.encodeWithSelector(IDstackClusterNFT.AppIdNotAllowed.selector, address(0xBAD))
        );
    }

    function test_02_another_apps_chain_under_our_app_id() public {
        (uint256 id, Actor memory who) = bound(1);
        Actor memory other = actor(1);
        other.appId = address(0xBAD);
        IDstackClusterNFT.SignatureChain memory chain = chainOf(other);
        chain.appId = address(cluster);
        IDstackClusterNFT.Registration memory r = registration(id, who);
        VM.expectPartialRevert(IDstackClusterNFT.KmsRootNotTrusted.selector);
        cluster.registerPeer(r, chain, sign(r, who.nodeKey, address(cluster)), sign(r, who.memberKey, address(cluster)));
    }

    function test_02_a_key_derived_for_another_purpose() public {
        (uint256 id, Actor memory who) = bound(1);
        IDstackClusterNFT.Registration memory r = registration(id, who);
        IDstackClusterNFT.SignatureChain memory chain = chainOf(who, "ethereum");
        VM.expectPartialRevert(IDstackClusterNFT.AppSignatureMismatch.selector);
        cluster.registerPeer(r, chain, sign(r, who.nodeKey, address(cluster)), sign(r, who.memberKey, address(cluster)));
    }

    /// 3: anyone could overwrite the address of an active instance with public call data.
    function test_03_an_outsider_moves_a_peer() public {
        uint256 id = join(1);
        Actor memory who = actor(1);
        IDstackClusterNFT.Registration memory r = registration(id, who);
        bytes memory published = sign(r, who.nodeKey, address(cluster));
        r.endpointAddress = 0x00000000000000000000ffffcb007166;
        VM.expectPartialRevert(IDstackClusterNFT.NodeSignatureMismatch.selector);
        VM.prank(STRANGER);
        cluster.registerPeer(r, chainOf(who), published, sign(r, who.memberKey, address(cluster)));

        IDstackClusterNFT.EndpointUpdate memory u = endpointUpdate(id);
        bytes memory signature = sign(u, secret("stranger", 1), address(cluster));
        VM.expectPartialRevert(IDstackClusterNFT.MemberSignatureMismatch.selector);
        VM.prank(STRANGER);
        cluster.updateEndpoint(u, signature);
    }

    /// 4: what was signed named no instance, contract, chain or time.
    function test_04_replay_for_another_instance_or_token() public {
        uint256 other = mint(BOB, instance(2));
        uint256 id = join(1);
        Actor memory who = actor(1);
        IDstackClusterNFT.Registration memory r = registration(id, who);
        bytes memory published = sign(r, who.nodeKey, address(cluster));
        (r.tokenId, r.keyEpoch, r.instanceId) = (other, 2, instance(2));
        VM.expectPartialRevert(IDstackClusterNFT.NodeSignatureMismatch.selector);
        cluster.registerPeer(r, chainOf(who), published, sign(r, who.memberKey, address(cluster)));
    }

    function test_04_replay_on_another_contract() public {
        (uint256 id, Actor memory who) = bound(1);
        IDstackClusterNFT.Registration memory r = registration(id, who);
        bytes memory elsewhere = sign(r, who.nodeKey, address(0xC0FFEE));
        VM.expectPartialRevert(IDstackClusterNFT.NodeSignatureMismatch.selector);
        cluster.registerPeer(r, chainOf(who), elsewhere, sign(r, who.memberKey, address(cluster)));
    }

    function test_04_replay_on_another_chain() public {
        (uint256 id, Actor memory who) = bound(1);
        IDstackClusterNFT.Registration memory r = registration(id, who);
        bytes memory elsewhere = signFor(r, who.nodeKey, address(cluster), block.chainid + 1);
        VM.expectPartialRevert(IDstackClusterNFT.NodeSignatureMismatch.selector);
        cluster.registerPeer(r, chainOf(who), elsewhere, sign(r, who.memberKey, address(cluster)));
        bytes memory here = sign(r, who.nodeKey, address(cluster));
        VM.chainId(block.chainid + 1);
        VM.expectPartialRevert(IDstackClusterNFT.NodeSignatureMismatch.selector);
        cluster.registerPeer(r, chainOf(who), here, sign(r, who.memberKey, address(cluster)));
    }

    function test_04_replay_at_another_time() public {
        (uint256 id, Actor memory who) = bound(1);
        IDstackClusterNFT.Registration memory r = registration(id, who);
        submit(r, who);
        submitExpecting(r, who, abi.encodeWithSelector(IDstackClusterNFT.WrongKeyEpoch.selector, id, 3, 2));
        VM.warp(uint256(r.deadline) + 1);
        submitExpecting(r, who, abi.encodeWithSelector(IDstackClusterNFT.DeadlineExpired.selector, r.deadline));
    }

    /// 5: a caller did not have to possess the derived key.
    function test_05_a_public_chain_without_its_node_key() public {
        (uint256 id, Actor memory who) = bound(1);
        IDstackClusterNFT.Registration memory r = registration(id, who);
        uint256 thief = secret("thief", 1);
        submitExpecting(
            r,
            who,
            chainOf(who),
            sign(r, thief, address(cluster)),
            abi.encodeWithSelector(
                IDstackClusterNFT.NodeSignatureMismatch.selector, VM.addr(thief), VM.addr(who.nodeKey)
            )
        );
    }

    /// 6: a token holder could squat any instance id.
    function test_06_binding_to_anothers_instance_reserves_nothing() public {
        uint256 squatter = mint(BOB, 0);
        VM.prank(BOB);
        cluster.bind(squatter, instance(1), address(0));
        uint256 id = join(1);
        mustBePeer(id);
        eq(cluster.tokenOfInstance(instance(1)), id, "the instance's own token");
    }

    /// 7: a transfer left the old node running, and a second token of a wallet broke the first.
    function test_07_a_transfer_drops_the_node_and_wallets_hold_many() public {
        uint256 first = join(1);
        uint256 second = join(2);
        VM.prank(ALICE);
        token.transferFrom(ALICE, BOB, second);
        mustBeGone(second, actor(2));
        mustBePeer(first);
        eq(token.balanceOf(ALICE), 1, "one left");
        VM.prank(ALICE);
        cluster.deactivate(first);
        mustBeGone(first, actor(1));
    }

    /// 8: no removal by the administrator, no burn, ether kept for ever.
    function test_08_the_contract_owner_removes_a_peer_and_ether_stays_out() public {
        uint256 id = join(1);
        VM.prank(OWNER);
        cluster.revoke(id);
        mustBeGone(id, actor(1));
        VM.prank(ALICE);
        cluster.burn(id);
        VM.deal(address(this), 1 ether);
        (bool accepted,) = address(cluster).call{value: 1}("");
        yes(!accepted, "plain ether is refused");
        (accepted,) = address(cluster).call{value: 1}(abi.encodeCall(IDstackClusterNFT.burn, (1)));
        yes(!accepted, "ether with a call is refused");
        (accepted,) = address(cluster).call{value: 1}(abi.encodeCall(IDstackClusterNFT.addAppId, (ALICE)));
        yes(!accepted, "ether with a delegated call is refused");
    }

    /// 9: reads copied every token ever minted.
    function test_09_a_page_costs_no_more_with_more_members() public {
        for (uint256 i = 1; i <= 30; ++i) {
            join(i);
        }
        (IDstackClusterNFT.Peer[] memory page, uint256 next) = cluster.peers(5, 3);
        eq(page.length, 3, "three peers");
        eq(page[0].tokenId, 5, "from the cursor");
        eq(next, 8, "and on");
    }

    /// 10: strings as keys and values cost three slots and more each.
    function test_10_a_registration_writes_few_slots() public {
        join(1);
        (uint256 id, Actor memory who) = bound(2);
        IDstackClusterNFT.Registration memory r = registration(id, who);
        IDstackClusterNFT.SignatureChain memory chain = chainOf(who);
        bytes memory signature = sign(r, who.nodeKey, address(cluster));
        VM.record();
        cluster.registerPeer(r, chain, signature, sign(r, who.memberKey, address(cluster)));
        (, bytes32[] memory writes) = VM.accesses(address(cluster));
        uint256 distinct = 0;
        for (uint256 i = 0; i < writes.length; ++i) {
            bool seen = false;
            for (uint256 j = 0; j < i; ++j) {
                seen = seen || writes[j] == writes[i];
            }
            if (!seen) ++distinct;
        }
        // Three of the record's four; instance, key, member address; the set's leaf; counts of the root; totals.
        eq(distinct, 9, "slots written");
    }

    /// 11: the check of base domains was always true.
    function test_11_only_registered_domains_make_urls() public {
        (uint256 id, Actor memory who) = bound(1);
        IDstackClusterNFT.Registration memory r = registration(id, who);
        (r.gatewayDomain, r.gatewayPort) = (named("gw.example.com"), 443);
        submitExpecting(
            r, who, abi.encodeWithSelector(IDstackClusterNFT.UnknownGatewayDomain.selector, r.gatewayDomain)
        );
    }

    /// 12: the only root could be set to zero, and a zero root accepts every malformed signature.
    function test_12_a_zero_root_and_a_recovery_to_zero() public {
        VM.prank(OWNER);
        VM.expectRevert(IDstackClusterNFT.ZeroAddress.selector);
        cluster.addKmsRoot(address(0));
        IDstackClusterNFT.ClusterParams memory params = defaultParams();
        params.kmsRoots[0] = address(0);
        address code = implementation();
        bytes memory call = abi.encodeCall(IDstackClusterNFT.initialize, (params));
        VM.expectRevert(IDstackClusterNFT.ZeroAddress.selector);
        this.proxyAt(code, call);

        (uint256 id, Actor memory who) = bound(1);
        IDstackClusterNFT.Registration memory r = registration(id, who);
        IDstackClusterNFT.SignatureChain memory chain = chainOf(who);
        // r = 0 recovers to no signer, whatever s and v.
        chain.kmsSignature = abi.encodePacked(bytes32(0), bytes32(uint256(1)), uint8(0));
        submitExpecting(
            r,
            who,
            chain,
            sign(r, who.nodeKey, address(cluster)),
            abi.encodeWithSelector(IDstackClusterNFT.InvalidSignature.selector)
        );
    }

    function test_12_a_new_root_waits_a_day() public {
        uint256 newRoot = secret("root", 1);
        VM.prank(OWNER);
        cluster.addKmsRoot(VM.addr(newRoot));
        (uint256 id, Actor memory who) = bound(1);
        who.rootKey = newRoot;
        uint256 effectiveAt = block.timestamp + cluster.KMS_ROOT_DELAY();
        VM.warp(effectiveAt - 1);
        submitExpecting(
            registration(id, who),
            who,
            abi.encodeWithSelector(IDstackClusterNFT.KmsRootNotYetEffective.selector, VM.addr(newRoot), effectiveAt)
        );
        VM.warp(effectiveAt);
        submit(registration(id, who), who);
        eq(cluster.getPeer(id).kmsRoot, VM.addr(newRoot), "under the new root");
    }

    /// 13: malleable signatures and any v.
    function test_13_every_signature_in_its_other_form() public {
        (uint256 id, Actor memory who) = bound(1);
        IDstackClusterNFT.Registration memory r = registration(id, who);
        bytes memory signature = sign(r, who.nodeKey, address(cluster));
        bytes memory expected = abi.encodeWithSelector(IDstackClusterNFT.InvalidSignature.selector);
        IDstackClusterNFT.SignatureChain memory chain = chainOf(who);
        submitExpecting(r, who, chain, malleated(signature), expected);
        chain.appSignature = malleated(chain.appSignature);
        submitExpecting(r, who, chain, signature, expected);
        chain = chainOf(who);
        chain.kmsSignature = malleated(chain.kmsSignature);
        submitExpecting(r, who, chain, signature, expected);
    }

    function testFuzz_13_only_four_values_of_v(uint8 v) public {
        (uint256 id, Actor memory who) = bound(1);
        IDstackClusterNFT.Registration memory r = registration(id, who);
        bytes memory signature = sign(r, who.nodeKey, address(cluster));
        if (v < 2 || v == 27 || v == 28) return;
        signature[64] = bytes1(v);
        submitExpecting(
            r, who, chainOf(who), signature, abi.encodeWithSelector(IDstackClusterNFT.InvalidSignature.selector)
        );
    }

    function testFuzz_13_only_65_bytes(uint8 length) public {
        (uint256 id, Actor memory who) = bound(1);
        IDstackClusterNFT.Registration memory r = registration(id, who);
        bytes memory signature = new bytes(length);
        bytes memory whole = sign(r, who.nodeKey, address(cluster));
        for (uint256 i = 0; i < length; ++i) {
            signature[i] = i < 65 ? whole[i] : bytes1(0);
        }
        if (length == 65) return;
        submitExpecting(
            r, who, chainOf(who), signature, abi.encodeWithSelector(IDstackClusterNFT.InvalidSignature.selector)
        );
    }

    /// 14: a boot gate with an ABI that no KMS calls. There is none here yet, and the wrong one is not answered.
    function test_14_the_prototypes_boot_gate_is_not_answered() public view {
        (bool answered,) = address(cluster).staticcall(abi.encodePacked(bytes4(0xfa706ea3), new bytes(256)));
        yes(!answered, "0xfa706ea3 reverts");
    }

    /// External, so that a test can expect its revert.
    function proxyAt(address code, bytes calldata call) external returns (address) {
        return proxy(code, call);
    }

    function bound(uint256 i) private returns (uint256 id, Actor memory who) {
        who = actor(i);
        id = mint(ALICE, who.instanceId);
    }
}
