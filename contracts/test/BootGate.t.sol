// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {OwnableUpgradeable} from "@openzeppelin/contracts-upgradeable/access/OwnableUpgradeable.sol";
import {IAppAuth, IAppAuthBasicManagement, IDstackApp} from "../src/interfaces/IAppAuth.sol";
import {IDstackClusterNFT} from "../src/interfaces/IDstackClusterNFT.sol";
import {VM, Vm} from "./Vm.sol";
import {ClusterTest} from "./support/ClusterTest.sol";
import {DstackKmsStandIn} from "./support/DstackStandIns.sol";

/// Which CVMs may boot: by dstack's own call data, through its KMS contract, for every combination of lists and flags.
contract BootGateTest is ClusterTest {
    bytes32 internal constant IMPLEMENTATION_SLOT = 0x360894a13ba1a3210667c828492db98dca3e2076cc3735a920a3ca505d382bbc;

    // What dstack's KMS asks when the guest of dstack's own simulator boots (values of its attestation fixture).
    address internal constant KNOWN_APP = 0x5bb4FF9A3837357F19dC176407a5709c62eB6C56;
    bytes32 internal constant KNOWN_COMPOSE_HASH = 0xc143116fef3940e7f776bfc0919c256232ae5338a6e948c96b711e0b2383483a;
    bytes32 internal constant KNOWN_DEVICE = 0xe3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855;
    bytes internal constant KNOWN_CALL = hex"1e079198"
        hex"0000000000000000000000000000000000000000000000000000000000000020"
        hex"0000000000000000000000005bb4ff9a3837357f19dc176407a5709c62eb6c56"
        hex"c143116fef3940e7f776bfc0919c256232ae5338a6e948c96b711e0b2383483a"
        hex"0000000000000000000000001691ed1b47506cad7d08834668691d88246f5b1f"
        hex"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        hex"787f9fe525fcb61e81f31a30225a86674412088f2f1b683a421a7e9cbcd40551"
        hex"ef6af583432288c877e412740aa7d8a844a18920ad98e9b1d95d42a07a3044c8"
        hex"e61be43dd1cc6a6f5edefd7c51b608983780839b0000ce60dd99737dcffe09b9"
        hex"0000000000000000000000000000000000000000000000000000000000000120"
        hex"0000000000000000000000000000000000000000000000000000000000000160"
        hex"0000000000000000000000000000000000000000000000000000000000000008"
        hex"5570546f44617465000000000000000000000000000000000000000000000000"
        hex"0000000000000000000000000000000000000000000000000000000000000000";

    // ------------------------------------------------------------------------------------------- as dstack asks

    function test_the_call_data_of_a_real_boot() public {
        eq(KNOWN_CALL.length, 420, "selector and thirteen words");
        settleAt(KNOWN_APP);
        eq(answer(KNOWN_CALL), abi.encode(false, "Compose hash not allowed"), "nothing is allowed at first");
        VM.startPrank(OWNER);
        cluster.addComposeHash(KNOWN_COMPOSE_HASH);
        eq(answer(KNOWN_CALL), abi.encode(false, "Device not allowed"), "nor any device");
        cluster.addDevice(KNOWN_DEVICE);
        cluster.setRequireTcbUpToDate(true);
        VM.stopPrank();
        eq(
            answer(KNOWN_CALL),
            hex"0000000000000000000000000000000000000000000000000000000000000001"
            hex"0000000000000000000000000000000000000000000000000000000000000040"
            hex"0000000000000000000000000000000000000000000000000000000000000000",
            "three words: allowed, no reason"
        );
    }

    function test_another_apps_boot_is_not_this_contracts_to_allow() public {
        VM.startPrank(OWNER);
        cluster.addComposeHash(KNOWN_COMPOSE_HASH);
        cluster.setAllowAnyDevice(true);
        cluster.addAppId(KNOWN_APP); // its peers are welcome; its boots are for its own contract
        VM.stopPrank();
        eq(answer(KNOWN_CALL), abi.encode(false, "App id is not this contract"), "refused");
    }

    function test_through_the_kms_contract() public {
        settleAt(KNOWN_APP);
        DstackKmsStandIn kms = new DstackKmsStandIn();
        IAppAuth.AppBootInfo memory info = abi.decode(withoutSelector(KNOWN_CALL), (IAppAuth.AppBootInfo));
        eq(abi.encodeCall(IAppAuth.isAppAllowed, (info)), KNOWN_CALL, "the struct is dstack's");

        ask(kms, info, "App not registered");
        kms.registerApp(KNOWN_APP);
        ask(kms, info, "OS image is not allowed");
        kms.addOsImageHash(info.osImageHash);
        ask(kms, info, "Compose hash not allowed"); // from here on the cluster speaks
        VM.startPrank(OWNER);
        cluster.addComposeHash(KNOWN_COMPOSE_HASH);
        ask(kms, info, "Device not allowed");
        cluster.setAllowAnyDevice(true);
        ask(kms, info, "");
        cluster.setRequireTcbUpToDate(true);
        ask(kms, info, "");
        info.tcbStatus = "OutOfDate";
        info.advisoryIds = new string[](2);
        (info.advisoryIds[0], info.advisoryIds[1]) = ("INTEL-SA-00837", "INTEL-SA-00960");
        ask(kms, info, "TCB status is not up to date");
        cluster.setRequireTcbUpToDate(false);
        ask(kms, info, "");
        cluster.removeComposeHash(KNOWN_COMPOSE_HASH);
        ask(kms, info, "Compose hash not allowed");
        VM.stopPrank();

        info.appId = address(0xDEAD);
        kms.registerApp(info.appId);
        ask(kms, info, "App not deployed or invalid address");
    }

    /// TCB before compose hash before device, each only where it is asked for.
    function testFuzz_reasons_and_their_order(
        bool own,
        bool tcbRequired,
        bool upToDate,
        bool composeHashAllowed,
        bool anyDevice,
        bool deviceAllowed,
        bytes32 composeHash,
        bytes32 deviceId,
        IAppAuth.AppBootInfo memory info
    ) public {
        VM.assume(composeHash != 0 && deviceId != 0);
        VM.startPrank(OWNER);
        cluster.setRequireTcbUpToDate(tcbRequired);
        cluster.setAllowAnyDevice(anyDevice);
        if (composeHashAllowed) cluster.addComposeHash(composeHash);
        if (deviceAllowed) cluster.addDevice(deviceId);
        VM.stopPrank();
        (info.composeHash, info.deviceId) = (composeHash, deviceId);
        if (own) info.appId = address(cluster);
        if (upToDate) info.tcbStatus = "UpToDate";
        upToDate = keccak256(bytes(info.tcbStatus)) == keccak256("UpToDate");

        string memory expected = "";
        if (!anyDevice && !deviceAllowed) expected = "Device not allowed";
        if (!composeHashAllowed) expected = "Compose hash not allowed";
        if (tcbRequired && !upToDate) expected = "TCB status is not up to date";
        if (info.appId != address(cluster)) expected = "App id is not this contract";
        (bool isAllowed, string memory reason) = cluster.isAppAllowed(info);
        eq(reason, expected, "reason");
        yes(isAllowed == (bytes(expected).length == 0), "allowed without a reason against it");
    }

    /// A CVM has to boot before it can register.
    function test_who_is_no_peer_boots_all_the_same() public {
        VM.startPrank(OWNER);
        cluster.addComposeHash(KNOWN_COMPOSE_HASH);
        cluster.setAllowAnyDevice(true);
        VM.stopPrank();
        uint256 id = join(1);
        IAppAuth.AppBootInfo memory info;
        (info.appId, info.composeHash) = (address(cluster), KNOWN_COMPOSE_HASH);
        for (uint256 i = 0; i < 3; ++i) {
            info.instanceId = address(instance(i)); // unused, a peer's, unused
            (bool isAllowed,) = cluster.isAppAllowed(info);
            yes(isAllowed, "boots");
        }
        VM.prank(OWNER);
        cluster.revoke(id);
        info.instanceId = address(instance(1));
        (bool stillAllowed,) = cluster.isAppAllowed(info);
        yes(stillAllowed, "a revocation is of the token, not of the code");
    }

    // ------------------------------------------------------------------------------------- as its tools recognize it

    function test_interface_ids_are_dstacks() public view {
        eq(bytes32(type(IAppAuth).interfaceId), bytes32(bytes4(0x1e079198)), "IAppAuth");
        eq(bytes32(type(IAppAuthBasicManagement).interfaceId), bytes32(bytes4(0x8fd37527)), "IAppAuthBasicManagement");
        yes(token.supportsInterface(0x1e079198) && token.supportsInterface(0x8fd37527), "both answered for");
        yes(!token.supportsInterface(0x1e079199), "and nothing else");
    }

    function test_selectors_are_dstacks() public view {
        eq(bytes32(IAppAuthBasicManagement.addComposeHash.selector), bytes32(bytes4(0xdfc77223)), "addComposeHash");
        eq(bytes32(IAppAuthBasicManagement.removeComposeHash.selector), bytes32(bytes4(0x67b3f22c)), "remove");
        eq(bytes32(IAppAuthBasicManagement.addDevice.selector), bytes32(bytes4(0x2a819728)), "addDevice");
        eq(bytes32(IAppAuthBasicManagement.removeDevice.selector), bytes32(bytes4(0x1d266200)), "removeDevice");
        eq(bytes32(IDstackApp.allowedComposeHashes.selector), bytes32(bytes4(0x2f6622e5)), "allowedComposeHashes");
        eq(bytes32(IDstackApp.allowAnyDevice.selector), bytes32(bytes4(0x3440a16a)), "allowAnyDevice");
        eq(bytes32(IDstackApp.allowedDeviceIds.selector), bytes32(bytes4(0xbf8b211b)), "allowedDeviceIds");
        eq(bytes32(IDstackApp.setAllowAnyDevice.selector), bytes32(bytes4(0x7c4beeb8)), "setAllowAnyDevice");
        eq(bytes32(IDstackApp.disableUpgrades.selector), bytes32(bytes4(0xec669036)), "disableUpgrades");
        eq(bytes32(IDstackApp.requireTcbUpToDate.selector), bytes32(bytes4(0x0aa58c83)), "requireTcbUpToDate");
        eq(bytes32(IDstackApp.version.selector), bytes32(bytes4(0x54fd4d50)), "version");
        eq(cluster.version(), 2, "version");
    }

    function test_events_are_dstacks() public {
        bytes32 hash = keccak256("value");
        VM.startPrank(OWNER);
        VM.recordLogs();
        cluster.addComposeHash(hash);
        mustHaveTold(0xfecb34306dd9d8b785b54d65489d06afc8822a0893ddacedff40c50a4942d0af, abi.encode(hash));
        yes(cluster.allowedComposeHashes(hash), "listed");
        cluster.removeComposeHash(hash);
        mustHaveTold(0x755b79bd4b0eeab344d032284a99003b2ddc018b646752ac72d681593a6e8947, abi.encode(hash));
        yes(!cluster.allowedComposeHashes(hash), "gone");
        cluster.addDevice(hash);
        mustHaveTold(0x67fc71ab96fe3fa3c6f78e9a00e635d591b7333ce611c0380bc577aac702243b, abi.encode(hash));
        yes(cluster.allowedDeviceIds(hash), "listed");
        cluster.removeDevice(hash);
        mustHaveTold(0xe0862975ac517b0478d308012afabc4bc37c23874a18144d7f2dfb852ff95c2c, abi.encode(hash));
        yes(!cluster.allowedDeviceIds(hash), "gone");
        cluster.setAllowAnyDevice(true);
        mustHaveTold(0xbb2cdb6c7b362202d40373f87bc4788301cca658f91711ac1662e1ad2cba4a20, abi.encode(true));
        yes(cluster.allowAnyDevice(), "set");
        cluster.setRequireTcbUpToDate(true);
        mustHaveTold(0xafae60561b2481a349b45b3a47357f70eef6ae67e5b6e1749d74de7f19a25aa1, abi.encode(true));
        yes(cluster.requireTcbUpToDate(), "set");
        cluster.disableUpgrades();
        mustHaveTold(0x0e5daa943fcd7e7182d0e893d180695c2ea9f6f1b4a1c5432faf14cf17b774e8, "");
        VM.stopPrank();
    }

    function test_policy_changes_are_told_as_dstack_tells_them() public {
        bytes32 hash = keccak256("value");
        bytes[] memory calls = new bytes[](7);
        calls[0] = abi.encodeCall(IAppAuthBasicManagement.addComposeHash, (hash));
        calls[1] = abi.encodeCall(IAppAuthBasicManagement.removeComposeHash, (hash));
        calls[2] = abi.encodeCall(IAppAuthBasicManagement.addDevice, (hash));
        calls[3] = abi.encodeCall(IAppAuthBasicManagement.removeDevice, (hash));
        calls[4] = abi.encodeCall(IDstackApp.setAllowAnyDevice, (true));
        calls[5] = abi.encodeCall(IDstackApp.setRequireTcbUpToDate, (true));
        calls[6] = abi.encodeCall(IDstackApp.disableUpgrades, ());
        string[7] memory policies = [
            "compose-hash",
            "compose-hash",
            "device",
            "device",
            "allow-any-device",
            "require-tcb-up-to-date",
            "upgrades-disabled"
        ];
        for (uint256 i = 0; i < calls.length; ++i) {
            VM.recordLogs();
            VM.prank(OWNER);
            (bool ok,) = address(cluster).call(calls[i]);
            yes(ok, "accepted");
            Vm.Log[] memory logs = VM.getRecordedLogs();
            eq(logs.length, 2, "the event and its policy change");
            eq(logs[1].topics[0], 0x341d3bc64e32172fc5bcf27b0f7f69dc5adc19af64b7aa1dee361e5883c32375, "PolicyChanged");
            eq(logs[1].topics[1], bytes32(uint256(uint160(OWNER))), "who");
            eq(logs[1].topics[2], keccak256(bytes(policies[i])), "what");
            eq(logs[1].topics[3], i < 4 ? hash : bytes32(0), "of which value");
            eq(logs[1].data, abi.encode(i != 1 && i != 3), "to what");
        }
    }

    function test_the_cluster_epoch_stands_still() public {
        uint64 epoch = cluster.epoch();
        VM.startPrank(OWNER);
        cluster.addComposeHash(KNOWN_COMPOSE_HASH);
        cluster.addDevice(KNOWN_DEVICE);
        cluster.setAllowAnyDevice(true);
        VM.stopPrank();
        eq(cluster.epoch(), epoch, "boot policy is not what agents read");
    }

    // ------------------------------------------------------------------------------------------------- refusals

    function test_zero_is_no_compose_hash_and_no_device() public {
        VM.startPrank(OWNER);
        VM.expectRevert(IDstackApp.ZeroComposeHash.selector);
        cluster.addComposeHash(0);
        VM.expectRevert(IDstackApp.ZeroDeviceId.selector);
        cluster.addDevice(0);
        VM.stopPrank();
    }

    function testFuzz_lists_hold_what_was_added_and_not_removed(uint256 seed) public {
        bool[8] memory composeHashes;
        bool[8] memory devices;
        VM.startPrank(OWNER);
        for (uint256 step = 0; step < 24; ++step) {
            seed = uint256(keccak256(abi.encode(seed)));
            uint256 which = (seed >> 8) % 8;
            bool add = seed & 1 == 1;
            if (seed & 2 == 0) {
                composeHashes[which] = add;
                add ? cluster.addComposeHash(value(which)) : cluster.removeComposeHash(value(which));
            } else {
                devices[which] = add;
                add ? cluster.addDevice(value(which)) : cluster.removeDevice(value(which));
            }
        }
        VM.stopPrank();
        for (uint256 i = 0; i < 8; ++i) {
            yes(cluster.allowedComposeHashes(value(i)) == composeHashes[i], "compose hash");
            yes(cluster.allowedDeviceIds(value(i)) == devices[i], "device");
        }
    }

    function testFuzz_only_the_contract_owner_decides(address caller, bytes32 some) public {
        if (caller == OWNER) return;
        bytes[] memory calls = new bytes[](7);
        calls[0] = abi.encodeCall(IAppAuthBasicManagement.addComposeHash, (some));
        calls[1] = abi.encodeCall(IAppAuthBasicManagement.removeComposeHash, (some));
        calls[2] = abi.encodeCall(IAppAuthBasicManagement.addDevice, (some));
        calls[3] = abi.encodeCall(IAppAuthBasicManagement.removeDevice, (some));
        calls[4] = abi.encodeCall(IDstackApp.setAllowAnyDevice, (true));
        calls[5] = abi.encodeCall(IDstackApp.setRequireTcbUpToDate, (true));
        calls[6] = abi.encodeCall(IDstackApp.disableUpgrades, ());
        for (uint256 i = 0; i < calls.length; ++i) {
            VM.prank(caller);
            (bool ok, bytes memory data) = address(cluster).call(calls[i]);
            yes(!ok, "refused");
            eq(data, abi.encodeWithSelector(OwnableUpgradeable.OwnableUnauthorizedAccount.selector, caller), "why");
        }
    }

    // -------------------------------------------------------------------------------------------------- helpers

    /// Puts a cluster of the same owner at `appId`.
    function settleAt(address appId) private {
        address code = implementation();
        VM.etch(appId, address(cluster).code);
        VM.store(appId, IMPLEMENTATION_SLOT, bytes32(uint256(uint160(code))));
        cluster = IDstackClusterNFT(appId);
        cluster.initialize(defaultParams());
    }

    function answer(bytes memory call) private view returns (bytes memory data) {
        bool ok;
        (ok, data) = address(cluster).staticcall(call);
        yes(ok, "answered");
    }

    function ask(DstackKmsStandIn kms, IAppAuth.AppBootInfo memory info, string memory expected) private view {
        (bool isAllowed, string memory reason) = kms.isAppAllowed(info);
        eq(reason, expected, "reason");
        yes(isAllowed == (bytes(expected).length == 0), "allowed without a reason against it");
    }

    /// The first of the logs since the last look.
    function mustHaveTold(bytes32 topic, bytes memory data) private {
        Vm.Log[] memory logs = VM.getRecordedLogs();
        eq(logs[0].emitter, address(cluster), "emitter");
        eq(logs[0].topics.length, 1, "nothing indexed");
        eq(logs[0].topics[0], topic, "event");
        eq(logs[0].data, data, "its data");
        VM.recordLogs();
    }

    function withoutSelector(bytes memory call) private pure returns (bytes memory rest) {
        rest = new bytes(call.length - 4);
        for (uint256 i = 0; i < rest.length; ++i) {
            rest[i] = call[i + 4];
        }
    }

    function value(uint256 i) private pure returns (bytes32) {
        return keccak256(abi.encode("value", i));
    }
}
