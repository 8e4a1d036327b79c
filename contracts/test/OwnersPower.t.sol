// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {OwnableUpgradeable} from "@openzeppelin/contracts-upgradeable/access/OwnableUpgradeable.sol";
import {TimelockController} from "@openzeppelin/contracts/governance/TimelockController.sol";
import {UUPSUpgradeable} from "@openzeppelin/contracts/proxy/utils/UUPSUpgradeable.sol";
import {ClusterStorage} from "../src/ClusterStorage.sol";
import {IDstackClusterNFT} from "../src/interfaces/IDstackClusterNFT.sol";
import {AnchorSet} from "../src/lib/AnchorSet.sol";
import {VM} from "./Vm.sol";
import {ClusterTest} from "./support/ClusterTest.sol";
import {IClusterToken} from "./support/IClusterToken.sol";
import {Actor} from "./support/Signing.sol";

/// An implementation for one call: it makes a trusted KMS root count at once.
contract Hurry is UUPSUpgradeable {
    function hurry(address root) external {
        AnchorSet.Set storage roots = ClusterStorage.trust().kmsRoots;
        roots.anchors[roots.position[root] - 1].effectiveAt = uint48(block.timestamp);
    }

    function _authorizeUpgrade(address) internal override {}
}

/// What the contract owner can do at once, whatever the contract's own delays say, and what it cannot where the owner is OpenZeppelin's
/// TimelockController.
contract OwnersPowerTest is ClusterTest {
    bytes32 internal constant IMPLEMENTATION_SLOT = 0x360894a13ba1a3210667c828492db98dca3e2076cc3735a920a3ca505d382bbc;
    uint256 internal constant DELAY = 2 days; // of the TimelockController

    Actor internal newcomer; // under a KMS root of the owner's own
    address internal root;

    function setUp() public override {
        super.setUp();
        newcomer = actor(1);
        newcomer.rootKey = secret("the owner's own root", 1);
        root = VM.addr(newcomer.rootKey);
    }

    /// KMS_ROOT_DELAY binds no owner who upgrades: a peer under a new root in one block.
    function test_an_owner_who_upgrades_passes_the_delay_in_one_block() public {
        uint256 id = mint(ALICE, newcomer.instanceId);
        uint256 start = block.timestamp;
        (address[] memory targets, bytes[] memory calls) = coup();
        for (uint256 i = 0; i < calls.length; ++i) {
            VM.prank(OWNER);
            (bool done,) = targets[i].call(calls[i]);
            yes(done, "the owner's own power");
        }
        submit(registration(id, newcomer), newcomer);
        eq(cluster.getPeer(id).kmsRoot, root, "a peer under the new root");
        eq(block.timestamp, start, "in the same block");
    }

    /// Where upgrades were disabled for ever, the contract's delays do bind its owner.
    function test_an_owner_without_upgrades_waits() public {
        uint256 id = mint(ALICE, newcomer.instanceId);
        (address[] memory targets, bytes[] memory calls) = coup();
        VM.startPrank(OWNER);
        cluster.disableUpgrades();
        cluster.addKmsRoot(root);
        (bool done,) = targets[1].call(calls[1]);
        yes(!done, "no other code");
        VM.stopPrank();
        uint256 effectiveAt = block.timestamp + cluster.KMS_ROOT_DELAY();
        VM.warp(effectiveAt - 1);
        submitExpecting(
            registration(id, newcomer),
            newcomer,
            abi.encodeWithSelector(IDstackClusterNFT.KmsRootNotYetEffective.selector, root, effectiveAt)
        );
    }

    /// The same calls, scheduled by the proposer of a TimelockController: no account can execute them before its delay is over, and
    /// everyone can read them until then.
    function test_a_timelock_as_owner_waits_with_everything() public {
        TimelockController timelock = ownedByTimelock();
        VM.prank(address(timelock)); // a mint would wait as well
        uint256 id = cluster.mint(ALICE, newcomer.instanceId, address(0));
        (address[] memory targets, bytes[] memory calls) = coup();
        uint256[] memory values = new uint256[](calls.length);

        VM.startPrank(OWNER);
        for (uint256 i = 0; i < 2; ++i) {
            (bool done, bytes memory answer) = targets[i].call(calls[i]);
            yes(!done, "not by itself");
            eq(
                answer,
                abi.encodeWithSelector(OwnableUpgradeable.OwnableUnauthorizedAccount.selector, OWNER),
                "no owner"
            );
        }
        VM.expectPartialRevert(TimelockController.TimelockInsufficientDelay.selector);
        timelock.scheduleBatch(targets, values, calls, 0, 0, DELAY - 1);
        timelock.scheduleBatch(targets, values, calls, 0, 0, DELAY);
        VM.expectPartialRevert(TimelockController.TimelockUnexpectedOperationState.selector);
        timelock.executeBatch(targets, values, calls, 0, 0);
        VM.warp(block.timestamp + DELAY - 1);
        VM.expectPartialRevert(TimelockController.TimelockUnexpectedOperationState.selector);
        timelock.executeBatch(targets, values, calls, 0, 0);
        VM.stopPrank();
        submitExpecting(
            registration(id, newcomer),
            newcomer,
            abi.encodeWithSelector(IDstackClusterNFT.KmsRootNotTrusted.selector, root)
        );

        VM.warp(block.timestamp + 1);
        VM.prank(OWNER);
        timelock.executeBatch(targets, values, calls, 0, 0);
        submit(registration(id, newcomer), newcomer); // members had two days to read it and leave
        mustBePeer(id);
    }

    /// The price: the owner's revocation waits too. What a token's owner does, it does at once.
    function test_under_a_timelock_revoking_waits_and_deactivating_does_not() public {
        TimelockController timelock = ownedByTimelock();
        VM.prank(address(timelock));
        uint256 id = cluster.mint(ALICE, instance(2), address(0));
        submit(registration(id, actor(2)), actor(2));
        bytes memory call = abi.encodeCall(IDstackClusterNFT.revoke, (id));
        VM.startPrank(OWNER);
        timelock.schedule(address(cluster), 0, call, 0, 0, DELAY);
        VM.expectPartialRevert(TimelockController.TimelockUnexpectedOperationState.selector);
        timelock.execute(address(cluster), 0, call, 0, 0);
        VM.stopPrank();
        mustBePeer(id);
        VM.prank(ALICE);
        cluster.deactivate(id);
        mustBeGone(id, actor(2));
    }

    /// Add a root, make it count by other code, and put the code back.
    function coup() private returns (address[] memory targets, bytes[] memory calls) {
        address code = address(uint160(uint256(VM.load(address(cluster), IMPLEMENTATION_SLOT))));
        bytes memory hurry = abi.encodeCall(Hurry.hurry, (root));
        (targets, calls) = (new address[](3), new bytes[](3));
        targets[0] = targets[1] = targets[2] = address(cluster);
        calls[0] = abi.encodeCall(IDstackClusterNFT.addKmsRoot, (root));
        calls[1] = abi.encodeCall(IClusterToken.upgradeToAndCall, (address(new Hurry()), hurry));
        calls[2] = abi.encodeCall(IClusterToken.upgradeToAndCall, (code, ""));
    }

    /// OWNER hands the cluster to a timelock for which OWNER alone decides, as a running cluster is handed over: in two steps, the
    /// second of which waits already.
    function ownedByTimelock() private returns (TimelockController timelock) {
        address[] memory deciders = new address[](1);
        deciders[0] = OWNER;
        timelock = new TimelockController(DELAY, deciders, deciders, address(0));
        bytes memory accept = abi.encodeCall(IClusterToken.acceptOwnership, ());
        VM.startPrank(OWNER);
        token.transferOwnership(address(timelock));
        timelock.schedule(address(cluster), 0, accept, 0, 0, DELAY);
        VM.warp(block.timestamp + DELAY);
        eq(token.owner(), OWNER, "until then");
        timelock.execute(address(cluster), 0, accept, 0, 0);
        VM.stopPrank();
        eq(token.owner(), address(timelock), "the timelock owns it");
    }
}
