// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Deploy} from "../script/Deploy.s.sol";
import {IAppAuth} from "../src/interfaces/IAppAuth.sol";
import {IDstackClusterNFT} from "../src/interfaces/IDstackClusterNFT.sol";
import {VM} from "./Vm.sol";
import {Check} from "./support/Check.sol";
import {DstackKmsStandIn} from "./support/DstackStandIns.sol";
import {IClusterToken} from "./support/IClusterToken.sol";

/// The deployment script with its environment.
contract DeployTest is Check {
    address internal constant DEFAULT_SENDER = 0x1804c8AB1F12E6bbf3894d4083f33e07309d1f38;

    /// One test, because the environment is the process's and forge runs tests at the same time.
    function test_deploy_reads_its_environment() public {
        deployReadsItsEnvironment();
        deployRegistersAndLetsCodeBoot();
    }

    function deployReadsItsEnvironment() private {
        VM.setEnv("KMS_ROOT_ADDRESS", "0xA7F6043C29f9cc1d9D6aCF554C53E0c6792AaEAf");
        VM.setEnv("CLUSTER_OWNER", "0x00000000000000000000000000000000000A11cE");
        VM.setEnv("APP_IDS", "0x0000000000000000000000000000000000000011,0x0000000000000000000000000000000000000022");
        VM.setEnv("CLUSTER_NAME", "my mesh");
        VM.setEnv("DSTACK_KMS", VM.toString(address(0)));
        VM.setEnv("COMPOSE_HASHES", "");
        address cluster = new Deploy().run();
        eq(IClusterToken(cluster).name(), "my mesh", "name");
        eq(IClusterToken(cluster).owner(), address(0xA11CE), "owner");
        (bytes4 base, uint8 prefixLength) = IDstackClusterNFT(cluster).meshNetwork();
        eq(bytes32(base), bytes32(bytes4(0x0a000100)), "10.0.1.0");
        eq(prefixLength, 24, "/24");
        (address[] memory roots,) = IDstackClusterNFT(cluster).kmsRoots();
        eq(roots.length, 1, "one root");
        eq(roots[0], VM.envAddress("KMS_ROOT_ADDRESS"), "root");
        (address[] memory apps,) = IDstackClusterNFT(cluster).appIds();
        eq(apps.length, 3, "its own and two more");
        eq(apps[0], cluster, "its own first");
        eq(apps[2], address(0x22), "the last");
    }

    /// The whole route: a cluster of the sender's that a KMS knows and whose code boots.
    function deployRegistersAndLetsCodeBoot() private {
        DstackKmsStandIn kms = new DstackKmsStandIn();
        kms.addOsImageHash(keccak256("os"));
        VM.setEnv("KMS_ROOT_ADDRESS", "0xA7F6043C29f9cc1d9D6aCF554C53E0c6792AaEAf");
        Deploy script = new Deploy();
        // A script's broadcasts are sent by forge's default sender.
        VM.setEnv("CLUSTER_OWNER", VM.toString(DEFAULT_SENDER));
        VM.setEnv("DSTACK_KMS", VM.toString(address(kms)));
        VM.setEnv(
            "COMPOSE_HASHES", string.concat(VM.toString(keccak256("one")), ",", VM.toString(keccak256("another")))
        );
        address cluster = script.run();
        yes(kms.registeredApps(cluster), "registered");
        IAppAuth.AppBootInfo memory info;
        (info.appId, info.osImageHash, info.composeHash) = (cluster, keccak256("os"), keccak256("another"));
        (bool isAllowed, string memory reason) = kms.isAppAllowed(info);
        yes(isAllowed, reason);
        info.composeHash = keccak256("a third");
        (isAllowed, reason) = kms.isAppAllowed(info);
        eq(reason, "Compose hash not allowed", "what was not named");
    }
}
