// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {OwnableUpgradeable} from "@openzeppelin/contracts-upgradeable/access/OwnableUpgradeable.sol";
import {Initializable} from "@openzeppelin/contracts/proxy/utils/Initializable.sol";
import {IAppAuth, IDstackApp} from "../src/interfaces/IAppAuth.sol";
import {IClusterPolicy} from "../src/interfaces/IClusterPolicy.sol";
import {IDstackClusterNFT} from "../src/interfaces/IDstackClusterNFT.sol";
import {VM, Vm} from "./Vm.sol";
import {ClusterTest} from "./support/ClusterTest.sol";
import {DstackAppStandIn, DstackKmsStandIn} from "./support/DstackStandIns.sol";
import {IClusterToken} from "./support/IClusterToken.sol";

/// The two routes to a cluster, and attempts to take one over meanwhile: a proxy of its own that dstack's KMS registers, and
/// a DstackApp's proxy that is upgraded.
contract AppContractTest is ClusterTest {
    bytes32 internal constant COMPOSE_HASH = keccak256("app-compose.json");
    bytes32 internal constant SECOND_HASH = keccak256("another app-compose.json");
    bytes32 internal constant DEVICE = keccak256("PPID");

    address internal next; // the implementation

    function setUp() public override {
        super.setUp();
        next = implementation();
    }

    // ---------------------------------------------------------------------------------------------- a proxy of its own

    function test_a_cluster_of_its_own_is_registered_and_boots_its_nodes() public {
        DstackKmsStandIn kms = new DstackKmsStandIn();
        kms.registerApp(address(cluster)); // by anyone
        kms.addOsImageHash(keccak256("os"));
        VM.startPrank(OWNER);
        cluster.addComposeHash(COMPOSE_HASH);
        cluster.addDevice(DEVICE);
        VM.stopPrank();
        (bool isAllowed, string memory reason) = kms.isAppAllowed(boot());
        yes(isAllowed, reason);
        mustBePeer(join(1));
    }

    function test_a_new_cluster_starts_with_its_defaults() public view {
        IClusterPolicy.ClusterConfig memory config = cluster.clusterConfig();
        eq(config.maxNodes, 254, "as many as the network has addresses");
        yes(config.networkType == IClusterPolicy.NetworkPolicy.ANY, "every network type");
        eq(config.mintPrice, 0, "price");
        yes(!config.publicMinting && !config.registrationsPaused && !config.devMode && !config.upgradesDisabled, "off");
    }

    function testFuzz_a_cluster_of_its_own_is_not_founded_again(address caller) public {
        VM.expectRevert(Initializable.InvalidInitialization.selector);
        VM.prank(caller);
        cluster.initialize(theirs(caller));

        bytes memory expected = caller == OWNER
            ? abi.encodeWithSelector(Initializable.InvalidInitialization.selector)
            : unauthorized(caller);
        VM.expectRevert(expected);
        VM.prank(caller);
        cluster.initializeFromDstackApp(theirs(caller));
    }

    /// Not even by its owner, and not by an upgrade to the same code.
    function test_the_owner_cannot_found_it_again_by_an_upgrade() public {
        bytes memory found = abi.encodeCall(IDstackClusterNFT.initializeFromDstackApp, (theirs(OWNER)));
        VM.expectRevert(Initializable.InvalidInitialization.selector);
        VM.prank(OWNER);
        token.upgradeToAndCall(next, found);
    }

    function testFuzz_the_implementation_and_the_extension_have_no_owner(address caller) public {
        IDstackClusterNFT code = IDstackClusterNFT(next);
        IDstackClusterNFT extension = IDstackClusterNFT(IClusterToken(next).EXTENSION());
        VM.startPrank(caller);
        VM.expectRevert(Initializable.InvalidInitialization.selector);
        code.initialize(theirs(caller));
        // The zero address owns them, and sends no transactions.
        VM.expectRevert(
            caller == address(0)
                ? abi.encodeWithSelector(Initializable.InvalidInitialization.selector)
                : unauthorized(caller)
        );
        code.initializeFromDstackApp(theirs(caller));
        if (caller == address(0)) return;
        bytes[] memory calls = ownersCalls();
        for (uint256 i = 0; i < calls.length; ++i) {
            (bool ok, bytes memory data) = address(code).call(calls[i]);
            yes(!ok, "refused by the implementation");
            eq(data, unauthorized(caller), "why");
            (ok, data) = address(extension).call(calls[i]);
            yes(!ok, "refused by the extension");
            if (i >= 4) eq(data, unauthorized(caller), "why"); // the first four are not in it
        }
        VM.expectRevert(abi.encodeWithSelector(IClusterPolicy.MintingNotPublic.selector, caller));
        code.mintNodeAccess(caller, "");
        VM.stopPrank();
    }

    function testFuzz_strangers_call_nothing_that_is_the_owners(address caller) public {
        if (caller == OWNER) return;
        bytes[] memory calls = ownersCalls();
        for (uint256 i = 0; i < calls.length; ++i) {
            VM.prank(caller);
            (bool ok, bytes memory data) = address(cluster).call(calls[i]);
            yes(!ok, "refused");
            eq(data, unauthorized(caller), "why");
        }
    }

    // ------------------------------------------------------------------------------------------ a DstackApp's proxy

    function testFuzz_a_former_dstack_app_keeps_what_it_was(
        bool tcbRequired,
        bool anyDevice,
        bytes32 deviceId,
        bytes32 composeHash,
        bytes32 never
    ) public {
        VM.assume(never != deviceId && never != composeHash && never != SECOND_HASH && never != DEVICE);
        DstackAppStandIn app = dstackApp(tcbRequired, anyDevice, deviceId, composeHash);
        VM.startPrank(OWNER);
        app.addComposeHash(SECOND_HASH);
        app.addDevice(DEVICE);
        app.transferOwnership(BOB);
        VM.stopPrank();

        upgrade(address(app), defaultParams());

        eq(token.owner(), OWNER, "owner");
        eq(token.pendingOwner(), BOB, "pending owner");
        yes(cluster.requireTcbUpToDate() == tcbRequired, "TCB flag");
        yes(cluster.allowAnyDevice() == anyDevice, "device flag");
        yes(cluster.allowedComposeHashes(composeHash) == (composeHash != 0), "its first compose hash");
        yes(cluster.allowedDeviceIds(deviceId) == (deviceId != 0), "its first device");
        yes(cluster.allowedComposeHashes(SECOND_HASH) && cluster.allowedDeviceIds(DEVICE), "and those after");
        yes(!cluster.allowedComposeHashes(never) && !cluster.allowedDeviceIds(never), "and no others");
        yes(!cluster.clusterConfig().upgradesDisabled, "upgrades");
        VM.prank(BOB);
        token.acceptOwnership();
        eq(token.owner(), BOB, "a transfer that was under way goes on");
    }

    function test_a_former_dstack_app_is_a_whole_cluster() public {
        DstackAppStandIn app = dstackApp(true, false, DEVICE, COMPOSE_HASH);
        upgrade(address(app), defaultParams());
        eq(token.name(), "test mesh", "name");
        (address[] memory apps,) = cluster.appIds();
        eq(apps[0], address(app), "its own app id");
        eq(cluster.maxNodes(), 254, "limit");
        (bool isAllowed, string memory reason) = cluster.isAppAllowed(boot());
        yes(isAllowed, reason);
        mustBePeer(join(1));
        uint256 second = join(2);
        VM.prank(ALICE);
        token.transferFrom(ALICE, BOB, second);
        mustBeGone(second, actor(2));

        // None of that touched what was DstackApp's.
        (isAllowed, reason) = cluster.isAppAllowed(boot());
        yes(isAllowed, reason);
        eq(VM.load(address(app), bytes32(uint256(0))), 0, "slot of a mapping");
        eq(VM.load(address(app), bytes32(uint256(1))), 0, "upgrades not disabled, not every device");
        eq(VM.load(address(app), bytes32(uint256(2))), 0, "slot of a mapping");
        eq(VM.load(address(app), bytes32(uint256(3))), bytes32(uint256(1)), "TCB required");
        for (uint256 slot = 4; slot < 56; ++slot) {
            eq(VM.load(address(app), bytes32(slot)), 0, "DstackApp's gap");
        }
    }

    function test_its_network_is_fixed_once() public {
        DstackAppStandIn app = dstackApp(false, true, 0, COMPOSE_HASH);
        upgrade(address(app), defaultParams());
        bytes memory found = abi.encodeCall(IDstackClusterNFT.initializeFromDstackApp, (defaultParams()));
        VM.startPrank(OWNER);
        VM.expectRevert(Initializable.InvalidInitialization.selector);
        cluster.initializeFromDstackApp(defaultParams());
        VM.expectRevert(Initializable.InvalidInitialization.selector);
        token.upgradeToAndCall(next, found);
        VM.stopPrank();
    }

    function testFuzz_strangers_found_nothing_on_it(address caller) public {
        if (caller == OWNER) return;
        DstackAppStandIn app = dstackApp(false, true, 0, COMPOSE_HASH);
        bytes memory found = abi.encodeCall(IDstackClusterNFT.initializeFromDstackApp, (theirs(caller)));
        VM.expectRevert(unauthorized(caller));
        VM.prank(caller);
        app.upgradeToAndCall(next, found);

        // The owner upgrades without founding: the door is open, and only the owner's.
        VM.prank(OWNER);
        app.upgradeToAndCall(next, "");
        cluster = IDstackClusterNFT(address(app));
        token = IClusterToken(address(app));
        VM.expectRevert(Initializable.InvalidInitialization.selector);
        VM.prank(caller);
        cluster.initialize(theirs(caller));
        VM.expectRevert(unauthorized(caller));
        VM.prank(caller);
        cluster.initializeFromDstackApp(theirs(caller));

        VM.prank(OWNER);
        cluster.initializeFromDstackApp(defaultParams());
        eq(token.owner(), OWNER, "the owner's");
        VM.expectRevert(unauthorized(caller));
        VM.prank(caller);
        cluster.initializeFromDstackApp(theirs(caller));
    }

    function testFuzz_it_is_founded_for_its_owner(address other) public {
        if (other == OWNER) return;
        DstackAppStandIn app = dstackApp(false, true, 0, COMPOSE_HASH);
        IDstackClusterNFT.ClusterParams memory params = defaultParams();
        params.owner = other;
        bytes memory found = abi.encodeCall(IDstackClusterNFT.initializeFromDstackApp, (params));
        VM.expectRevert(abi.encodeWithSelector(IClusterPolicy.OwnerMismatch.selector, OWNER, other));
        VM.prank(OWNER);
        app.upgradeToAndCall(next, found);
        yes(app.allowedComposeHashes(COMPOSE_HASH), "and is a DstackApp still");
    }

    function test_an_odd_network_is_refused_on_this_road_too() public {
        DstackAppStandIn app = dstackApp(false, true, 0, COMPOSE_HASH);
        IDstackClusterNFT.ClusterParams memory params = defaultParams();
        params.networkBase = 0x0a000101;
        bytes memory found = abi.encodeCall(IDstackClusterNFT.initializeFromDstackApp, (params));
        VM.expectRevert(
            abi.encodeWithSelector(IDstackClusterNFT.InvalidNetwork.selector, params.networkBase, params.prefixLength)
        );
        VM.prank(OWNER);
        app.upgradeToAndCall(next, found);
    }

    // ------------------------------------------------------------------------------------------------- upgrades

    function test_an_upgrade_is_told_as_dstack_tells_it() public {
        VM.expectEmit(address(cluster));
        emit IDstackApp.PolicyChanged(OWNER, keccak256("implementation-upgrade"), bytes32(uint256(uint160(next))), true);
        VM.prank(OWNER);
        token.upgradeToAndCall(next, "");
    }

    function test_disabled_upgrades_stay_disabled() public {
        VM.startPrank(OWNER);
        cluster.disableUpgrades();
        mustNotUpgrade();
        // The flag's neighbours in its slot come and go without it, and so does the owner.
        cluster.setAllowAnyDevice(true);
        cluster.setAllowAnyDevice(false);
        cluster.setRequireTcbUpToDate(true);
        cluster.disableUpgrades();
        VM.stopPrank();
        VM.prank(OWNER);
        token.transferOwnership(BOB);
        VM.startPrank(BOB);
        token.acceptOwnership();
        mustNotUpgrade();
        VM.stopPrank();
        yes(cluster.clusterConfig().upgradesDisabled, "shown");
    }

    /// A DstackApp that disabled its upgrades cannot become a cluster, nor be made one by its owner.
    function test_a_dstack_app_without_upgrades_stays_one() public {
        DstackAppStandIn app = DstackAppStandIn(
            proxy(
                address(new DstackAppStandIn()),
                abi.encodeCall(DstackAppStandIn.initialize, (OWNER, true, false, true, 0, COMPOSE_HASH))
            )
        );
        VM.expectRevert("upgrades disabled");
        VM.prank(OWNER);
        app.upgradeToAndCall(next, "");
    }

    // -------------------------------------------------------------------------------------------------- helpers

    function mustNotUpgrade() private {
        VM.expectRevert(IDstackApp.UpgradesAreDisabled.selector);
        token.upgradeToAndCall(next, "");
    }

    function dstackApp(bool tcbRequired, bool anyDevice, bytes32 deviceId, bytes32 composeHash)
        private
        returns (DstackAppStandIn)
    {
        bytes memory call = abi.encodeCall(
            DstackAppStandIn.initialize, (OWNER, false, tcbRequired, anyDevice, deviceId, composeHash)
        );
        return DstackAppStandIn(proxy(address(new DstackAppStandIn()), call));
    }

    function upgrade(address app, IDstackClusterNFT.ClusterParams memory params) private {
        bytes memory found = abi.encodeCall(IDstackClusterNFT.initializeFromDstackApp, (params));
        VM.prank(OWNER);
        DstackAppStandIn(app).upgradeToAndCall(next, found);
        cluster = IDstackClusterNFT(app);
        token = IClusterToken(app);
    }

    /// The cluster that a caller without the right would make.
    function theirs(address caller) private pure returns (IDstackClusterNFT.ClusterParams memory params) {
        params = defaultParams();
        params.owner = caller;
    }

    function boot() private view returns (IAppAuth.AppBootInfo memory info) {
        (info.appId, info.composeHash, info.deviceId) = (address(cluster), COMPOSE_HASH, DEVICE);
        (info.osImageHash, info.tcbStatus) = (keccak256("os"), "UpToDate");
    }

    function unauthorized(address caller) private pure returns (bytes memory) {
        return abi.encodeWithSelector(OwnableUpgradeable.OwnableUnauthorizedAccount.selector, caller);
    }

    /// Everything that is the contract owner's, with arguments that would pass.
    function ownersCalls() private pure returns (bytes[] memory calls) {
        calls = new bytes[](20);
        calls[0] = abi.encodeCall(IDstackClusterNFT.mint, (ALICE, 0, address(0)));
        calls[1] = abi.encodeCall(IDstackClusterNFT.revoke, (1));
        calls[2] = abi.encodeCall(IDstackClusterNFT.reinstate, (1));
        calls[3] = abi.encodeCall(IClusterPolicy.setClusterConfig, (1, IClusterPolicy.NetworkPolicy.ANY));
        calls[4] = abi.encodeCall(IDstackClusterNFT.addKmsRoot, (ALICE));
        calls[5] = abi.encodeCall(IDstackClusterNFT.removeKmsRoot, (ALICE));
        calls[6] = abi.encodeCall(IDstackClusterNFT.addAppId, (ALICE));
        calls[7] = abi.encodeCall(IDstackClusterNFT.removeAppId, (ALICE));
        calls[8] = abi.encodeCall(IDstackClusterNFT.addBaseDomain, ("a.example.com"));
        calls[9] = abi.encodeCall(IDstackClusterNFT.removeBaseDomain, (1));
        calls[10] = abi.encodeCall(IClusterPolicy.setMintingPolicy, (0, true));
        calls[11] = abi.encodeCall(IClusterPolicy.withdraw, (payable(ALICE)));
        calls[12] = abi.encodeCall(IClusterPolicy.pauseRegistrations, ());
        calls[13] = abi.encodeCall(IClusterPolicy.unpauseRegistrations, ());
        calls[14] = abi.encodeCall(IClusterPolicy.setDevMode, (true));
        calls[15] = abi.encodeCall(IDstackApp.setAllowAnyDevice, (true));
        calls[16] = abi.encodeCall(IDstackApp.setRequireTcbUpToDate, (true));
        calls[17] = abi.encodeCall(IDstackApp.disableUpgrades, ());
        calls[18] = abi.encodeWithSignature("addComposeHash(bytes32)", COMPOSE_HASH);
        calls[19] = abi.encodeWithSignature("addDevice(bytes32)", DEVICE);
    }
}
