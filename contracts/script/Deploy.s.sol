// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {ERC1967Proxy} from "@openzeppelin/contracts/proxy/ERC1967/ERC1967Proxy.sol";
import {DstackClusterNFT} from "../src/DstackClusterNFT.sol";
import {IDstackClusterNFT} from "../src/interfaces/IDstackClusterNFT.sol";
import {VM} from "../test/Vm.sol";

/// What the script calls of dstack's KMS contract, which lets anyone register any app.
interface IDstackKms {
    function registerApp(address appId) external;
}

/// @title  Deploys one cluster: implementation, and a proxy initialized in the same transaction as it appears; on request, registers
///         it with a dstack KMS and lets code boot.
/// @notice Read from the environment:
///         KMS_ROOT_ADDRESS   the trusted KMS root, or several separated by commas (required)
///         APP_IDS            further dstack app ids, separated by commas (default none; the cluster's own always counts)
///         CLUSTER_OWNER      contract owner (default the sender)
///         CLUSTER_NAME       name of the mesh (default "dstack mesh"), CLUSTER_SYMBOL (default "NODE")
///         MESH_NETWORK_BASE  first address as a number (default 0x0a000100 = 10.0.1.0), MESH_PREFIX_LENGTH (default 24)
///         DSTACK_KMS         dstack's KMS contract, where the cluster is registered as an app (default none)
///         COMPOSE_HASHES     compose hashes that may boot, on any device, separated by commas (default none; only the sender's own
///                            cluster; for a list of devices use addDevice and setAllowAnyDevice)
///         Run: forge script script/Deploy.s.sol --rpc-url URL --broadcast --account NAME
contract Deploy {
    event Deployed(address cluster, address implementation);

    error ValueOutOfRange(string variable, uint256 value);

    /// Deploys and returns the cluster's (the proxy's) address.
    function run() external returns (address cluster) {
        address[] memory roots = VM.envOr("KMS_ROOT_ADDRESS", ",", new address[](0));
        // Without the variable this reports it by name.
        if (roots.length == 0) VM.envAddress("KMS_ROOT_ADDRESS");
        IDstackClusterNFT.ClusterParams memory params = IDstackClusterNFT.ClusterParams({
            name: VM.envOr("CLUSTER_NAME", string("dstack mesh")),
            symbol: VM.envOr("CLUSTER_SYMBOL", string("NODE")),
            owner: VM.envOr("CLUSTER_OWNER", msg.sender),
            networkBase: bytes4(uint32(_bounded("MESH_NETWORK_BASE", 0x0a000100, type(uint32).max))),
            prefixLength: uint8(_bounded("MESH_PREFIX_LENGTH", 24, type(uint8).max)),
            kmsRoots: roots,
            appIds: VM.envOr("APP_IDS", ",", new address[](0))
        });
        VM.startBroadcast();
        address implementation = address(new DstackClusterNFT());
        cluster = address(new ERC1967Proxy(implementation, abi.encodeCall(IDstackClusterNFT.initialize, (params))));
        address kms = VM.envOr("DSTACK_KMS", address(0));
        if (kms != address(0)) IDstackKms(kms).registerApp(cluster);
        bytes32[] memory composeHashes = VM.envOr("COMPOSE_HASHES", ",", new bytes32[](0));
        for (uint256 i = 0; i < composeHashes.length; ++i) {
            IDstackClusterNFT(cluster).addComposeHash(composeHashes[i]);
        }
        if (composeHashes.length > 0) IDstackClusterNFT(cluster).setAllowAnyDevice(true);
        VM.stopBroadcast();
        emit Deployed(cluster, implementation);
    }

    function _bounded(string memory variable, uint256 fallbackValue, uint256 max) private view returns (uint256 value) {
        value = VM.envOr(variable, fallbackValue);
        if (value > max) revert ValueOutOfRange(variable, value);
    }
}
