// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IDstackClusterNFT} from "../src/interfaces/IDstackClusterNFT.sol";
import {VM} from "./Vm.sol";
import {ClusterTest} from "./support/ClusterTest.sol";
import {IClusterToken} from "./support/IClusterToken.sol";
import {Actor} from "./support/Signing.sol";

/// What a whole transaction costs behind the proxy (intrinsic gas and call data included, refunds taken off), with one member
/// and with a hundred. Written to snapshots/ and held below the budget.
/// forge-config: default.isolate = true
contract GasTest is ClusterTest {
    event Cost(string what, uint256 members, uint256 gas);

    function setUp() public override {
        super.setUp();
        IDstackClusterNFT.ClusterParams memory params = defaultParams();
        (params.networkBase, params.prefixLength) = (0x0a000000, 16);
        cluster = deploy(params);
        token = IClusterToken(address(cluster));
    }

    function test_costs_with_one_member() public {
        costs(1);
    }

    function test_costs_with_a_hundred_members() public {
        costs(100);
    }

    function costs(uint256 members) private {
        for (uint256 i = 1; i <= members; ++i) {
            join(i);
        }
        Actor memory who = actor(members + 1);
        uint256 id = mint(ALICE, who.instanceId);
        measure("mint, bound", members, 140_000);

        submit(registration(id, who), who);
        measure("join, bound at mint", members, 225_000);

        submit(registration(id, who), who);
        measure("rotate the key", members, 120_000);

        IDstackClusterNFT.EndpointUpdate memory u = endpointUpdate(id);
        cluster.updateEndpoint(u, sign(u, who.nodeKey, address(cluster)));
        measure("update the endpoint", members, 70_000);

        VM.prank(ALICE);
        token.transferFrom(ALICE, BOB, id);
        measure("transfer of a peer", members, 105_000);

        VM.prank(BOB);
        cluster.bind(id, who.instanceId);
        measure("bind", members, 65_000);

        submit(registration(id, who), who);
        measure("join again", members, 225_000);

        VM.prank(BOB);
        cluster.deactivate(id);
        measure("deactivate", members, 70_000);

        uint256 second = join(members + 2);
        VM.prank(OWNER);
        cluster.revoke(second);
        measure("revoke", members, 75_000);

        uint256 third = join(members + 3);
        VM.prank(ALICE);
        cluster.burn(third);
        measure("burn of a peer", members, 130_000);
    }

    function measure(string memory what, uint256 members, uint256 budget) private {
        uint256 gas = VM.snapshotGasLastCall("costs", string.concat(what, ", ", VM.toString(members), " members"));
        emit Cost(what, members, gas);
        yes(gas <= budget, string.concat(what, " exceeds its budget: ", VM.toString(gas)));
    }
}
