// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IERC721Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";
import {IClusterPolicy} from "../src/interfaces/IClusterPolicy.sol";
import {IDstackClusterNFT} from "../src/interfaces/IDstackClusterNFT.sol";
import {VM} from "./Vm.sol";
import {ClusterTest} from "./support/ClusterTest.sol";
import {Actor} from "./support/Signing.sol";

/// Limits, minting for money, the pause: what each stops, and what goes on.
contract PolicyTest is ClusterTest {
    // ---------------------------------------------------------------------------------------------- setClusterConfig

    function testFuzz_limits_are_those_of_the_network(uint256 limit, uint8 kind) public {
        IClusterPolicy.NetworkPolicy policy = IClusterPolicy.NetworkPolicy(kind % 3);
        uint64 epoch = cluster.epoch();
        if (limit % 3 != 0) limit = limit % 600;
        if (limit == 0 || limit > 254) {
            VM.expectRevert(abi.encodeWithSelector(IClusterPolicy.InvalidMaxNodes.selector, limit, 254));
        } else {
            VM.expectEmit(address(cluster));
            emit IClusterPolicy.ClusterConfigUpdated(limit, policy, epoch + 1);
        }
        VM.prank(OWNER);
        cluster.setClusterConfig(limit, policy);
        if (limit == 0 || limit > 254) {
            eq(cluster.maxNodes(), 254, "as before");
            return;
        }
        eq(cluster.maxNodes(), limit, "limit");
        yes(cluster.clusterConfig().networkType == policy, "network type");
        eq(cluster.epoch(), epoch + 1, "epoch");
    }

    /// The call as the first documents have it: (uint256,uint8).
    function test_the_abi_of_setClusterConfig() public {
        VM.startPrank(OWNER);
        (bool ok,) = address(cluster).call(abi.encodeWithSignature("setClusterConfig(uint256,uint8)", 10, 1));
        yes(ok, "accepted");
        yes(cluster.clusterConfig().networkType == IClusterPolicy.NetworkPolicy.WIREGUARD_ONLY, "1 is WIREGUARD");
        (ok,) = address(cluster).call(abi.encodeWithSignature("setClusterConfig(uint256,uint8)", 10, 3));
        yes(!ok, "there are three");
        VM.stopPrank();
    }

    function testFuzz_no_mint_beyond_the_limit_and_no_peer_leaves(uint256 limit, uint256 members) public {
        limit = within(limit, 1, 6);
        members = within(members, 1, 6);
        for (uint256 i = 1; i <= members; ++i) {
            join(i);
        }
        configure(limit, IClusterPolicy.NetworkPolicy.ANY);
        eq(cluster.totalSupply(), members, "no token was lost");
        eq(cluster.peerCount(), members, "no peer left");
        submit(registration(1, actor(1)), actor(1)); // and all go on

        for (uint256 i = members; i < limit; ++i) {
            mint(ALICE, 0);
        }
        bytes memory full = abi.encodeWithSelector(IClusterPolicy.MaxNodesReached.selector, limit);
        VM.expectRevert(full);
        mint(ALICE, 0);
        VM.expectRevert(full);
        VM.prank(OWNER);
        cluster.mintNodeAccess(ALICE, "");

        // Room comes back below the limit, not before.
        uint256 supply = cluster.totalSupply();
        VM.prank(ALICE);
        cluster.burn(1);
        if (supply - 1 < limit) {
            eq(mint(BOB, 0), 1, "the freed id");
        } else {
            VM.expectRevert(full);
            mint(BOB, 0);
        }
    }

    function test_a_proxy_that_is_no_cluster_has_no_limits_to_set() public {
        IDstackClusterNFT code = IDstackClusterNFT(implementation());
        VM.store(address(code), ownerSlot(), bytes32(uint256(uint160(OWNER))));
        VM.expectRevert(abi.encodeWithSelector(IDstackClusterNFT.InvalidNetwork.selector, bytes4(0), 0));
        VM.prank(OWNER);
        code.setClusterConfig(1, IClusterPolicy.NetworkPolicy.ANY);
    }

    function testFuzz_network_types_register_as_allowed(uint8 kind, bool wireguard) public {
        IClusterPolicy.NetworkPolicy policy = IClusterPolicy.NetworkPolicy(kind % 3);
        domain("a.example.com");
        uint256 id = mint(ALICE, instance(1));
        IDstackClusterNFT.Registration memory r =
            wireguard ? registration(id, actor(1)) : gatewayRegistration(id, actor(1));
        configure(254, policy);
        bool allowed = policy == IClusterPolicy.NetworkPolicy.ANY
            || (policy == IClusterPolicy.NetworkPolicy.WIREGUARD_ONLY) == wireguard;
        if (!allowed) {
            submitExpecting(r, actor(1), abi.encodeWithSelector(IClusterPolicy.NetworkTypeNotAllowed.selector, policy));
        } else {
            submit(r, actor(1));
        }
        yes(isPeer(id) == allowed, "a peer exactly where it is allowed");
    }

    function test_a_new_policy_leaves_peers_alone_until_they_register_again() public {
        domain("a.example.com");
        uint256 id = join(1);
        configure(254, IClusterPolicy.NetworkPolicy.TLS_GATEWAY_ONLY);
        mustBePeer(id);
        IDstackClusterNFT.EndpointUpdate memory u = endpointUpdate(id);
        cluster.updateEndpoint(u, sign(u, actor(1).memberKey, address(cluster)));
        submitExpecting(
            registration(id, actor(1)),
            actor(1),
            abi.encodeWithSelector(
                IClusterPolicy.NetworkTypeNotAllowed.selector, IClusterPolicy.NetworkPolicy.TLS_GATEWAY_ONLY
            )
        );
        mustBePeer(id);
        submit(gatewayRegistration(id, actor(1)), actor(1));
        mustBePeer(id);
    }

    // ------------------------------------------------------------------------------------------------------ minting

    function testFuzz_the_public_pays_exactly_the_price(uint96 price, uint96 paid, address payer) public {
        if (payer == OWNER) return;
        if (price % 2 == 0) paid = price;
        open(price);
        VM.deal(payer, uint256(paid) + 1);
        uint256 before = address(cluster).balance;
        if (paid != price) {
            VM.expectRevert(abi.encodeWithSelector(IClusterPolicy.WrongPayment.selector, price, paid));
        }
        VM.prank(payer);
        cluster.mintNodeAccess{value: paid}(ALICE, "");
        eq(address(cluster).balance - before, paid == price ? paid : 0, "the cluster's");
        eq(cluster.totalSupply(), paid == price ? 1 : 0, "minted");
        if (paid == price) eq(token.ownerOf(1), ALICE, "to the account that the payer named");
    }

    function testFuzz_the_contract_owner_pays_nothing(uint96 price, bool toAnybody, uint96 paid) public {
        setMinting(price, toAnybody);
        VM.deal(OWNER, paid);
        if (paid != 0) VM.expectRevert(abi.encodeWithSelector(IClusterPolicy.WrongPayment.selector, 0, paid));
        VM.prank(OWNER);
        cluster.mintNodeAccess{value: paid}(ALICE, "");
    }

    function testFuzz_without_public_minting_only_the_owner_mints(address caller, uint96 price) public {
        if (caller == OWNER) return;
        setMinting(price, false);
        VM.deal(caller, price);
        VM.expectRevert(abi.encodeWithSelector(IClusterPolicy.MintingNotPublic.selector, caller));
        VM.prank(caller);
        cluster.mintNodeAccess{value: price}(caller, "");
        // The typed call is the owner's alone, also where minting is public.
        setMinting(0, true);
        VM.expectPartialRevert(bytes4(keccak256("OwnableUnauthorizedAccount(address)")));
        VM.prank(caller);
        cluster.mint(caller, 0, address(0));
    }

    function testFuzz_minting_policy_is_told_whole(uint256 price, bool toAnybody) public {
        uint64 epoch = cluster.epoch();
        VM.expectEmit(address(cluster));
        emit IClusterPolicy.MintingPolicyUpdated(price, toAnybody, epoch + 1);
        setMinting(price, toAnybody);
        eq(cluster.mintPrice(), price, "price");
        yes(cluster.publicMinting() == toAnybody, "public");
        eq(cluster.clusterConfig().mintPrice, price, "in the whole, too");
    }

    function test_a_public_mint_binds_and_tells_it() public {
        open(1 ether);
        VM.deal(BOB, 1 ether);
        uint64 epoch = cluster.epoch();
        VM.expectEmit(address(cluster));
        emit IDstackClusterNFT.NodeMinted(1, BOB, instance(1), address(0), epoch + 1);
        VM.prank(BOB);
        uint256 id = cluster.mintNodeAccess{value: 1 ether}(BOB, text(instance(1)));
        submit(registration(id, actor(1)), actor(1));
        mustBePeer(id);
    }

    function test_nothing_is_minted_to_the_zero_address_or_for_no_instance() public {
        open(1 ether);
        VM.deal(BOB, 2 ether);
        VM.startPrank(BOB);
        VM.expectRevert(abi.encodeWithSelector(IERC721Errors.ERC721InvalidReceiver.selector, address(0)));
        cluster.mintNodeAccess{value: 1 ether}(address(0), "");
        VM.expectRevert(abi.encodeWithSelector(IClusterPolicy.InvalidInstanceId.selector, "abc"));
        cluster.mintNodeAccess{value: 1 ether}(BOB, "abc");
        VM.stopPrank();
        eq(BOB.balance, 2 ether, "nothing paid");
        eq(cluster.totalSupply(), 0, "nothing minted");
    }

    /// Only minting takes money: every other call refuses it.
    function test_only_minting_takes_money() public {
        uint256 id = join(1);
        VM.deal(ALICE, 10 ether);
        bytes[] memory calls = new bytes[](5);
        calls[0] = "";
        calls[1] = abi.encodeCall(IDstackClusterNFT.deactivate, (id));
        calls[2] = abi.encodeCall(IClusterPolicy.registerInstance, (text(instance(2)))); // found here
        calls[3] = abi.encodeCall(IClusterPolicy.maxNodes, ()); // and in the extension
        calls[4] = hex"deadbeef";
        for (uint256 i = 0; i < calls.length; ++i) {
            VM.prank(ALICE);
            (bool ok,) = address(cluster).call{value: 1 ether}(calls[i]);
            yes(!ok, "refused");
        }
        eq(address(cluster).balance, 0, "nothing taken");
        mustBePeer(id);
    }

    // ----------------------------------------------------------------------------------------------------- withdraw

    function testFuzz_all_is_withdrawn(uint8 mints, uint64 price) public {
        open(price);
        uint256 count = mints % 8;
        VM.deal(BOB, uint256(price) * count);
        for (uint256 i = 0; i < count; ++i) {
            VM.prank(BOB);
            cluster.mintNodeAccess{value: price}(BOB, "");
        }
        uint64 epoch = cluster.epoch();
        VM.expectEmit(address(cluster));
        emit IClusterPolicy.Withdrawn(ALICE, uint256(price) * count);
        VM.prank(OWNER);
        cluster.withdraw(payable(ALICE));
        eq(ALICE.balance, uint256(price) * count, "all of it");
        eq(address(cluster).balance, 0, "none is left");
        eq(cluster.epoch(), epoch, "the mesh is the same");
    }

    function test_withdrawing_to_the_zero_address_or_to_one_that_refuses() public {
        open(1 ether);
        VM.deal(BOB, 1 ether);
        VM.prank(BOB);
        cluster.mintNodeAccess{value: 1 ether}(BOB, "");
        VM.startPrank(OWNER);
        VM.expectRevert(IDstackClusterNFT.ZeroAddress.selector);
        cluster.withdraw(payable(address(0)));
        VM.expectRevert(abi.encodeWithSelector(IClusterPolicy.WithdrawalFailed.selector, address(cluster), 1 ether));
        cluster.withdraw(payable(address(cluster)));
        cluster.withdraw(payable(ALICE));
        VM.stopPrank();
        eq(ALICE.balance, 1 ether, "who takes it gets it");
    }

    // -------------------------------------------------------------------------------------------------------- pause

    function test_a_pause_stops_registrations_and_nothing_else() public {
        uint256 id = join(1);
        uint256 second = join(2);
        uint64 epoch = cluster.epoch();
        VM.expectEmit(address(cluster));
        emit IClusterPolicy.RegistrationsPaused(true, epoch + 1);
        VM.prank(OWNER);
        cluster.pauseRegistrations();
        yes(cluster.clusterConfig().registrationsPaused, "shown");

        bytes memory paused = abi.encodeWithSelector(IClusterPolicy.RegistrationsArePaused.selector);
        submitExpecting(registration(id, actor(1)), actor(1), paused);
        uint256 third = mint(ALICE, instance(3));
        submitExpecting(registration(third, actor(3)), actor(3), paused);

        IDstackClusterNFT.EndpointUpdate memory u = endpointUpdate(id);
        cluster.updateEndpoint(u, sign(u, actor(1).memberKey, address(cluster)));
        VM.startPrank(ALICE);
        cluster.deactivate(id);
        token.transferFrom(ALICE, BOB, second);
        cluster.burn(third);
        VM.stopPrank();
        eq(cluster.peerCount(), 0, "leaving goes on");
        VM.prank(BOB);
        cluster.bind(second, instance(2), address(0));
        submitExpecting(registration(second, actor(2)), actor(2), paused);

        epoch = cluster.epoch();
        VM.expectEmit(address(cluster));
        emit IClusterPolicy.RegistrationsPaused(false, epoch + 1);
        VM.prank(OWNER);
        cluster.unpauseRegistrations();
        submit(registration(second, actor(2)), actor(2));
        mustBePeer(second);
    }

    /// What was signed before the pause is as good after it as its deadline and key epoch are.
    function test_a_pause_does_not_spend_signatures() public {
        uint256 id = mint(ALICE, instance(1));
        IDstackClusterNFT.Registration memory r = registration(id, actor(1));
        VM.prank(OWNER);
        cluster.pauseRegistrations();
        VM.prank(OWNER);
        cluster.unpauseRegistrations();
        submit(r, actor(1));
        mustBePeer(id);
    }

    // ------------------------------------------------------------------------------------------------------ helpers

    function configure(uint256 limit, IClusterPolicy.NetworkPolicy policy) private {
        VM.prank(OWNER);
        cluster.setClusterConfig(limit, policy);
    }

    function setMinting(uint256 price, bool toAnybody) private {
        VM.prank(OWNER);
        cluster.setMintingPolicy(price, toAnybody);
    }

    function open(uint256 price) private {
        setMinting(price, true);
    }

    function domain(string memory name) private {
        VM.prank(OWNER);
        cluster.addBaseDomain(name);
    }

    function gatewayRegistration(uint256 id, Actor memory who)
        private
        view
        returns (IDstackClusterNFT.Registration memory r)
    {
        r = behind(registration(id, who), "a.example.com");
        (r.endpointAddress, r.endpointPort) = (0, 0);
    }

    function text(bytes20 id) private pure returns (string memory) {
        return string.concat("0x", hexOf(abi.encodePacked(id)));
    }

    /// Of openzeppelin.storage.Ownable.
    function ownerSlot() private pure returns (bytes32) {
        return keccak256(abi.encode(uint256(keccak256("openzeppelin.storage.Ownable")) - 1)) & ~bytes32(uint256(0xff));
    }
}
