// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Deploy} from "../script/Deploy.s.sol";
import {IDstackClusterNFT} from "../src/interfaces/IDstackClusterNFT.sol";
import {VM} from "./Vm.sol";
import {Check} from "./support/Check.sol";
import {IClusterToken} from "./support/IClusterToken.sol";

/// The deployment script with its environment.
contract DeployTest is Check {
    function test_deploy_reads_its_environment() public {
        VM.setEnv("KMS_ROOT_ADDRESS", "0xA7F6043C29f9cc1d9D6aCF554C53E0c6792AaEAf");
        VM.setEnv("CLUSTER_OWNER", "0x00000000000000000000000000000000000A11cE");
        VM.setEnv("APP_IDS", "0x0000000000000000000000000000000000000011,0x0000000000000000000000000000000000000022");
        VM.setEnv("CLUSTER_NAME", "my mesh");
        address cluster = new Deploy().run();
        eq(IClusterToken(cluster).name(), "my mesh", "name");
        eq(IClusterToken(cluster).owner(), address(0xA11CE), "owner");
        (bytes4 base, uint8 prefixLength) = IDstackClusterNFT(cluster).meshNetwork();
        eq(bytes32(base), bytes32(bytes4(0x0a000100)), "10.0.1.0");
        eq(prefixLength, 24, "/24");
        (address[] memory roots,) = IDstackClusterNFT(cluster).kmsRoots();
        eq(roots.length, 1, "one root");
        eq(roots[0], VM.envAddress("KMS_ROOT_ADDRESS"), "root");
        address[] memory apps = IDstackClusterNFT(cluster).appIds();
        eq(apps.length, 3, "its own and two more");
        eq(apps[0], cluster, "its own first");
        eq(apps[2], address(0x22), "the last");
    }
}
