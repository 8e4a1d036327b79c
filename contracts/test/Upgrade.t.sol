// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {OwnableUpgradeable} from "@openzeppelin/contracts-upgradeable/access/OwnableUpgradeable.sol";
import {ERC1967Utils} from "@openzeppelin/contracts/proxy/ERC1967/ERC1967Utils.sol";
import {Initializable} from "@openzeppelin/contracts/proxy/utils/Initializable.sol";
import {UUPSUpgradeable} from "@openzeppelin/contracts/proxy/utils/UUPSUpgradeable.sol";
import {IDstackClusterNFT} from "../src/interfaces/IDstackClusterNFT.sol";
import {VM} from "./Vm.sol";
import {ClusterTest} from "./support/ClusterTest.sol";
import {IClusterToken} from "./support/IClusterToken.sol";

/// What comes after: an implementation with one more function.
contract NextVersion is UUPSUpgradeable {
    function answer() external pure returns (uint256) {
        return 42;
    }

    function _authorizeUpgrade(address) internal override {}
}

contract NotAnImplementation {}

/// What came before: an owner, upgrades, and nothing of a cluster.
contract FormerApp is UUPSUpgradeable, OwnableUpgradeable {
    function initialize(address owner) external initializer {
        __Ownable_init(owner);
    }

    function _authorizeUpgrade(address) internal override onlyOwner {}
}

/// Initialization, ownership, upgrades, and which storage is whose.
contract UpgradeTest is ClusterTest {
    bytes32 internal constant IMPLEMENTATION_SLOT = 0x360894a13ba1a3210667c828492db98dca3e2076cc3735a920a3ca505d382bbc;

    function test_the_cluster_is_initialized_once() public {
        VM.expectRevert(Initializable.InvalidInitialization.selector);
        VM.prank(STRANGER);
        cluster.initialize(defaultParams());
        VM.expectRevert(Initializable.InvalidInitialization.selector);
        VM.prank(OWNER);
        cluster.initialize(defaultParams());
    }

    function test_the_implementation_is_never_initialized() public {
        IDstackClusterNFT code = IDstackClusterNFT(implementation());
        VM.expectRevert(Initializable.InvalidInitialization.selector);
        code.initialize(defaultParams());
        eq(IClusterToken(address(code)).owner(), address(0), "it has no owner");
    }

    function test_initialization_needs_an_owner() public {
        IDstackClusterNFT.ClusterParams memory params = defaultParams();
        params.owner = address(0);
        address code = implementation();
        bytes memory call = abi.encodeCall(IDstackClusterNFT.initialize, (params));
        VM.expectRevert(abi.encodeWithSelector(OwnableUpgradeable.OwnableInvalidOwner.selector, address(0)));
        this.proxyAt(code, call);
    }

    function testFuzz_only_the_contract_owner_upgrades(address caller) public {
        if (caller == OWNER) return;
        address next = address(new NextVersion());
        VM.expectRevert(abi.encodeWithSelector(OwnableUpgradeable.OwnableUnauthorizedAccount.selector, caller));
        VM.prank(caller);
        token.upgradeToAndCall(next, "");
    }

    function test_an_upgrade_keeps_every_member_and_can_be_taken_back() public {
        uint256 id = join(1);
        bytes32 before = keccak256(abi.encode(cluster.getPeer(id), cluster.getNode(id), cluster.epoch()));
        address code = address(uint160(uint256(VM.load(address(cluster), IMPLEMENTATION_SLOT))));
        NextVersion next = new NextVersion();
        VM.prank(OWNER);
        token.upgradeToAndCall(address(next), "");
        eq(NextVersion(address(cluster)).answer(), 42, "new code");
        token.upgradeToAndCall(code, "");
        bytes32 afterwards = keccak256(abi.encode(cluster.getPeer(id), cluster.getNode(id), cluster.epoch()));
        eq(afterwards, before, "same state");
    }

    /// Code that knew no TLS keys left a TLS_GATEWAY peer without any key, and said of a peer that it is registered with one bit.
    function test_peers_from_before_tls_keys_stay_and_get_one() public {
        VM.prank(OWNER);
        cluster.addBaseDomain("gw.example.com");
        uint256 id = mint(ALICE, instance(1));
        submit(behind(registration(id, actor(1)), "gw.example.com"), actor(1));
        uint256 other = mint(ALICE, instance(2));
        submit(behind(registration(other, actor(2)), "gw.example.com"), actor(2));
        forgetTlsKey(id);
        forgetTlsKey(other);

        IDstackClusterNFT.Peer memory peer = cluster.getPeer(id);
        yes(peer.tlsKey == 0 && peer.wireguardKey == 0, "a peer without a key");
        eq(cluster.tokenOfTlsKey(0), 0, "no token has the zero key");
        IDstackClusterNFT.Registration memory r = behind(registration(id, actor(1)), "gw.example.com");
        submit(r, actor(1));
        eq(cluster.getPeer(id).tlsKey, r.tlsKey, "registered again, with a key");
        eq(cluster.tokenOfTlsKey(r.tlsKey), id, "its own");
        VM.prank(ALICE);
        cluster.deactivate(other);
        eq(cluster.peerCount(), 1, "leaving takes no key");
    }

    /// Brings the record, and who has which key, to what the former code wrote.
    function forgetTlsKey(uint256 id) private {
        bytes32 key = cluster.getPeer(id).tlsKey;
        uint256 members = uint256(namespace("dstack.cluster.members"));
        bytes32 record = keccak256(abi.encode(id, members + 1));
        eq(VM.load(address(cluster), record), key, "the first word");
        VM.store(address(cluster), record, 0);
        VM.store(address(cluster), keccak256(abi.encode(key, members + 26)), 0);
        eq(uint256(VM.load(address(cluster), bytes32(uint256(record) + 1))) >> 248, 1, "registered");
    }

    function test_an_upgrade_to_something_else_is_refused() public {
        NotAnImplementation other = new NotAnImplementation();
        VM.expectRevert(abi.encodeWithSelector(ERC1967Utils.ERC1967InvalidImplementation.selector, other));
        VM.prank(OWNER);
        token.upgradeToAndCall(address(other), "");
    }

    function test_the_implementation_itself_cannot_be_upgraded() public {
        IClusterToken code = IClusterToken(implementation());
        VM.expectRevert(UUPSUpgradeable.UUPSUnauthorizedCallContext.selector);
        code.upgradeToAndCall(address(1), "");
    }

    function test_ownership_moves_in_two_steps() public {
        VM.prank(OWNER);
        token.transferOwnership(BOB);
        eq(token.owner(), OWNER, "not yet");
        VM.expectRevert(abi.encodeWithSelector(OwnableUpgradeable.OwnableUnauthorizedAccount.selector, ALICE));
        VM.prank(ALICE);
        token.acceptOwnership();
        VM.prank(BOB);
        token.acceptOwnership();
        eq(token.owner(), BOB, "now");
        VM.prank(BOB);
        cluster.addAppId(ALICE); // delegated calls know the new owner too
    }

    function testFuzz_ownership_is_never_given_up(address caller) public {
        VM.expectRevert(abi.encodeWithSelector(OwnableUpgradeable.OwnableInvalidOwner.selector, address(0)));
        VM.prank(caller == BOB ? OWNER : caller);
        token.renounceOwnership();
        eq(token.owner(), OWNER, "still the owner's");
    }

    /// A proxy that belonged to another contract before has an owner, spent its initialization, and is no cluster.
    function test_what_was_never_a_cluster_mints_nothing_and_has_no_addresses() public {
        address code = proxy(address(new FormerApp()), abi.encodeCall(FormerApp.initialize, (OWNER)));
        address next = implementation();
        VM.prank(OWNER);
        IClusterToken(code).upgradeToAndCall(next, "");
        cluster = IDstackClusterNFT(code);
        bytes memory refusal = abi.encodeWithSelector(IDstackClusterNFT.InvalidNetwork.selector, bytes4(0), 0);
        VM.expectRevert(refusal);
        mint(ALICE, instance(1));
        VM.expectRevert(refusal);
        cluster.addressOf(1);
        eq(cluster.totalSupply(), 0, "no token");
    }

    /// Slots 0 to 3 are DstackApp's: whatever happens in a cluster, nothing of it is written there.
    function test_no_state_outside_the_namespaces() public {
        VM.record();
        uint256 id = join(1);
        VM.startPrank(OWNER);
        cluster.addBaseDomain("a.example.com");
        cluster.addKmsRoot(ALICE);
        cluster.revoke(id);
        VM.stopPrank();
        (, bytes32[] memory writes) = VM.accesses(address(cluster));
        yes(writes.length > 10, "there were writes");
        for (uint256 i = 0; i < writes.length; ++i) {
            yes(uint256(writes[i]) > type(uint128).max, "a hashed slot");
        }
        for (uint256 slot = 0; slot < 8; ++slot) {
            eq(VM.load(address(cluster), bytes32(slot)), 0, "sequential slot");
        }
    }

    function test_the_namespaces_are_those_they_say() public {
        uint256 id = join(1);
        cluster.electLeader();
        VM.prank(OWNER);
        cluster.setMintingPolicy(12_345, true);
        bytes32 totals = first("dstack.cluster.members");
        // forge-lint: disable-next-line(unsafe-typecast): the lowest 40 bits
        eq(uint40(uint256(totals)), cluster.epoch(), "the first slot of the members' is the totals'");
        // forge-lint: disable-next-line(unsafe-typecast): the highest 160 bits
        eq(bytes32(bytes20(totals)), bytes32(cluster.history()), "with the history at its other end");
        eq(first("dstack.cluster.policy"), bytes32(uint256(12_345)), "of the policy's the mint price's");
        address root = address(uint160(uint256(first("dstack.cluster.trust"))));
        eq(root, VM.addr(secret("root", 0)), "of trust's the first root's");
        address leader = address(uint160(uint256(first("dstack.cluster.election"))));
        eq(leader, cluster.getNode(id).memberAddress, "of the election's the seat's");
    }

    function first(string memory name) private view returns (bytes32) {
        return VM.load(address(cluster), namespace(name));
    }

    function namespace(string memory name) private pure returns (bytes32) {
        return keccak256(abi.encode(uint256(keccak256(bytes(name))) - 1)) & ~bytes32(uint256(0xff));
    }

    function proxyAt(address code, bytes calldata call) external returns (address) {
        return proxy(code, call);
    }
}
