// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IAppAuthBasicManagement, IDstackApp} from "../../src/interfaces/IAppAuth.sol";
import {IClusterPolicy} from "../../src/interfaces/IClusterPolicy.sol";
import {IDstackClusterNFT} from "../../src/interfaces/IDstackClusterNFT.sol";
import {Vm} from "../Vm.sol";
import {Check} from "./Check.sol";

/// @title  Policy, development URLs and the lists of the boot gate rebuilt from events: a part of a Replica.
abstract contract PolicyReplica is Check {
    IClusterPolicy.ClusterConfig internal config;
    mapping(uint256 tokenId => string) internal urls; // empty = none
    uint256[] internal urlTokens;

    mapping(bytes32 value => bool) internal hashAllowed;
    mapping(bytes32 value => bool) internal deviceAllowed;
    bytes32[] internal hashes; // ever named
    bytes32[] internal devices;
    bool internal anyDevice;
    bool internal tcb;

    /// Takes a log, if it is about the cluster's policy, and says which epoch it names.
    function policy(Vm.Log memory log) internal returns (bool known, uint64 epoch) {
        bytes32 topic = log.topics[0];
        if (topic == IClusterPolicy.ClusterConfigUpdated.selector) {
            (config.maxNodes, config.networkType, epoch) =
                abi.decode(log.data, (uint256, IClusterPolicy.NetworkPolicy, uint64));
        } else if (topic == IClusterPolicy.MintingPolicyUpdated.selector) {
            (config.mintPrice, config.publicMinting, epoch) = abi.decode(log.data, (uint256, bool, uint64));
        } else if (topic == IClusterPolicy.RegistrationsPaused.selector) {
            (config.registrationsPaused, epoch) = abi.decode(log.data, (bool, uint64));
        } else if (topic == IClusterPolicy.DevModeSet.selector) {
            bool was = config.devMode;
            (config.devMode, epoch) = abi.decode(log.data, (bool, uint64));
            if (was && config.devMode) return (true, epoch); // nothing ends
            for (uint256 i = 0; i < urlTokens.length; ++i) {
                delete urls[urlTokens[i]];
            }
            delete urlTokens;
        } else if (topic == IClusterPolicy.DevUrlSet.selector) {
            uint256 id = uint256(log.topics[1]);
            yes(config.devMode, "a development URL in devMode alone");
            (urls[id], epoch) = abi.decode(log.data, (string, uint64));
            urlTokens.push(id);
        } else {
            return (false, 0);
        }
        return (true, epoch);
    }

    /// Takes a log, if it is about the boot gate. These name no epoch.
    function bootGate(Vm.Log memory log) internal returns (bool known) {
        bytes32 topic = log.topics[0];
        if (topic == IAppAuthBasicManagement.ComposeHashAdded.selector) {
            bytes32 value = abi.decode(log.data, (bytes32));
            hashes.push(value);
            hashAllowed[value] = true;
        } else if (topic == IAppAuthBasicManagement.ComposeHashRemoved.selector) {
            hashAllowed[abi.decode(log.data, (bytes32))] = false;
        } else if (topic == IAppAuthBasicManagement.DeviceAdded.selector) {
            bytes32 value = abi.decode(log.data, (bytes32));
            devices.push(value);
            deviceAllowed[value] = true;
        } else if (topic == IAppAuthBasicManagement.DeviceRemoved.selector) {
            deviceAllowed[abi.decode(log.data, (bytes32))] = false;
        } else if (topic == IDstackApp.AllowAnyDeviceSet.selector) {
            anyDevice = abi.decode(log.data, (bool));
        } else if (topic == IDstackApp.RequireTcbUpToDateSet.selector) {
            tcb = abi.decode(log.data, (bool));
        } else if (topic == IDstackApp.UpgradesDisabled.selector) {
            config.upgradesDisabled = true;
        } else {
            return false;
        }
        return true;
    }

    /// What a new cluster of this size starts with.
    function beginPolicy(uint8 prefixLength) internal {
        config.maxNodes = (1 << (32 - prefixLength)) - 2;
        config.networkType = IClusterPolicy.NetworkPolicy.ANY;
    }

    function mustHaveTheSamePolicy(IDstackClusterNFT cluster) internal view {
        eq(abi.encode(cluster.clusterConfig()), abi.encode(config), "policy");
        for (uint256 i = 0; i < hashes.length; ++i) {
            yes(cluster.allowedComposeHashes(hashes[i]) == hashAllowed[hashes[i]], "compose hash");
        }
        for (uint256 i = 0; i < devices.length; ++i) {
            yes(cluster.allowedDeviceIds(devices[i]) == deviceAllowed[devices[i]], "device");
        }
        yes(cluster.allowAnyDevice() == anyDevice, "any device");
        yes(cluster.requireTcbUpToDate() == tcb, "TCB status");
    }
}
