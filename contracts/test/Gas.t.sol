// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IClusterPolicy} from "../src/interfaces/IClusterPolicy.sol";
import {IDstackClusterNFT} from "../src/interfaces/IDstackClusterNFT.sol";
import {VM} from "./Vm.sol";
import {DstackAppStandIn} from "./support/DstackStandIns.sol";
import {ElectionTest} from "./support/ElectionTest.sol";
import {IClusterToken} from "./support/IClusterToken.sol";
import {Actor, Vote} from "./support/Signing.sol";

/// What a whole transaction costs behind the proxy (intrinsic gas and call data included, refunds taken off), with one member,
/// with a hundred and with five thousand, all of them real joins. Held below the budget, and written to snapshots/costs.json,
/// from which a later run may not differ (foundry.toml).
/// forge-config: default.isolate = true
contract GasTest is ElectionTest {
    event Cost(string what, uint256 gas);

    string private suffix; // what follows the name of a cost

    function setUp() public override {
        super.setUp();
        IDstackClusterNFT.ClusterParams memory params = defaultParams();
        (params.networkBase, params.prefixLength) = (0x0a000000, 16);
        cluster = deploy(params);
        token = IClusterToken(address(cluster));
        election = cluster;
    }

    // ------------------------------------------------------------------------------------------ whatever the number

    function test_costs_with_one_member() public {
        costs(1);
    }

    function test_costs_with_a_hundred_members() public {
        costs(100);
    }

    function test_costs_with_five_thousand_members() public {
        costs(5000);
        cluster.peers(1, 500);
        measure("a page of 500 peers (eth_call)", 15_000_000);
        cluster.getActiveInstances(1, 500);
        measure("a page of 500 instances (eth_call)", 15_000_000);
    }

    /// By the committed costs, from which the measured ones do not differ. What is left are the digits of larger token ids.
    function test_no_cost_grows_with_the_members() public view {
        string memory committed = VM.readFile("snapshots/costs.json");
        string[14] memory writes = [
            "mint, bound",
            "join, bound at mint",
            "rotate the key",
            "update the endpoint",
            "elect a leader",
            "vote",
            "take the vote back",
            "signed vote",
            "transfer of a peer that votes",
            "transfer of the leader",
            "bind",
            "deactivate",
            "revoke",
            "burn of a peer"
        ];
        for (uint256 i = 0; i < writes.length; ++i) {
            uint256 alone = committedCost(committed, writes[i], "1");
            uint256 among = committedCost(committed, writes[i], "5000");
            yes(alone > 21_000, "a whole transaction");
            yes(among <= alone + 100, writes[i]);
        }
    }

    function committedCost(string memory json, string memory what, string memory members)
        private
        pure
        returns (uint256)
    {
        return VM.parseJsonUint(json, string.concat("$['", what, ", ", members, " members']"));
    }

    function costs(uint256 members) private {
        fill(members);
        suffix = string.concat(", ", VM.toString(members), " members");
        Actor memory who = actor(members + 1);
        uint256 id = mint(ALICE, who.instanceId);
        measure("mint, bound", 140_000);

        submit(registration(id, who), who);
        measure("join, bound at mint", 217_500);

        submit(registration(id, who), who);
        measure("rotate the key", 125_500);

        IDstackClusterNFT.EndpointUpdate memory u = endpointUpdate(id);
        cluster.updateEndpoint(u, sign(u, who.memberKey, address(cluster)));
        measure("update the endpoint", 68_000);

        votes(id, who);

        VM.prank(ALICE);
        token.transferFrom(ALICE, BOB, id);
        measure("transfer of a peer", 105_000);

        VM.prank(BOB);
        cluster.bind(id, who.instanceId, address(0));
        submit(registration(id, who), who);
        measure("join again", 225_000);

        VM.prank(BOB);
        cluster.deactivate(id);
        measure("deactivate", 70_000);

        uint256 second = join(members + 2);
        VM.prank(OWNER);
        cluster.revoke(second);
        measure("revoke", 75_000);

        uint256 unbound = mint(BOB, 0);
        VM.prank(BOB);
        cluster.bind(unbound, instance(0), address(0));
        measure("bind", 65_000);

        uint256 third = join(members + 3);
        VM.prank(ALICE);
        cluster.burn(third);
        measure("burn of a peer", 130_000);
    }

    /// Two more members, so that a single vote deposes no leader.
    function votes(uint256 id, Actor memory who) private {
        uint256 i = 100_000;
        join(i);
        join(i + 1);
        election.electLeader();
        measure("elect a leader", 100_000);

        address leader = election.currentLeader();
        VM.prank(VM.addr(who.memberKey));
        election.castVote(1, leader, true);
        measure("vote", 60_000);

        VM.prank(VM.addr(who.memberKey));
        election.castVote(1, leader, false);
        measure("take the vote back", 60_000);

        Vote memory vote = voteOf(id + 1);
        relay(vote, signFor(vote, actor(i).memberKey, address(cluster), block.chainid));
        measure("signed vote", 75_000);

        VM.prank(ALICE);
        token.transferFrom(ALICE, BOB, id + 1);
        measure("transfer of a peer that votes", 105_000);

        VM.startPrank(token.ownerOf(election.leaderToken()));
        token.transferFrom(ALICE, BOB, election.leaderToken());
        VM.stopPrank();
        measure("transfer of the leader", 115_000);
    }

    // ------------------------------------------------------------------------------------------------ the first of it

    function test_costs_of_firsts() public {
        suffix = "";
        uint256 first = mint(ALICE, instance(1));
        measure("the first mint of a cluster", 140_000);
        submit(registration(first, actor(1)), actor(1));
        measure("the first join of a cluster", 273_500);

        address app = address(0xA44);
        addApp(app);
        Actor memory other = actor(2);
        (other.appId, other.appKey) = (app, secret("app", 2));
        uint256 id = mint(BOB, other.instanceId);
        submit(registration(id, other), other);
        measure("the first join of another app", 290_000);

        addRoot(1);
        other = actor(3);
        (other.rootKey, other.appId, other.appKey) = (secret("root", 1), app, secret("app", 3));
        id = mint(BOB, other.instanceId);
        submit(registration(id, other), other);
        measure("the first join under another root", 290_000);

        id = mint(ALICE, 0);
        Actor memory unbound = actor(4);
        IDstackClusterNFT.Registration memory r = registration(id, unbound);
        IDstackClusterNFT.SignatureChain memory chain = chainOf(unbound);
        bytes memory signature = sign(r, unbound.nodeKey, address(cluster));
        VM.prank(ALICE);
        cluster.registerPeer(r, chain, signature, sign(r, unbound.memberKey, address(cluster)));
        measure("join of an unbound token, by its owner", 239_500);
    }

    /// Tokens 256, 512 and so on open a word of the list of peers, and write it down: two slots more than their neighbours need.
    function test_costs_of_a_join_that_opens_a_word() public {
        fill(255);
        uint256 id = mint(ALICE, instance(256));
        eq(id, 256, "the first id of a word");
        submit(registration(id, actor(256)), actor(256));
        suffix = "";
        measure("join that opens a word of 256 ids", 239_500);
    }

    /// An id that was burned is looked up in the set of those, beside the limits that every mint reads.
    function test_costs_of_minting_what_was_burned() public {
        suffix = "";
        mint(ALICE, instance(1));
        (uint256 second, uint256 third) = (mint(ALICE, instance(2)), mint(ALICE, instance(3)));
        VM.startPrank(ALICE);
        cluster.burn(second);
        cluster.burn(third);
        VM.stopPrank();
        eq(mint(ALICE, instance(2)), 2, "the lowest");
        measure("mint of a burned id", 130_000);
        eq(mint(ALICE, instance(3)), 3, "the next");
        measure("mint of the last burned id", 130_000);
    }

    /// What it costs that other allowed apps are kept away.
    function test_costs_of_a_binding_for_one_app() public {
        join(1);
        suffix = "";
        VM.prank(OWNER);
        uint256 id = cluster.mint(ALICE, instance(2), address(cluster));
        measure("mint, bound for one app", 141_000);
        submit(registration(id, actor(2)), actor(2));
        measure("join, bound for one app", 220_500);
        id = mint(ALICE, 0);
        VM.prank(ALICE);
        cluster.bind(id, instance(3), address(cluster));
        measure("bind, for one app", 86_000);
    }

    /// The claim of guest API v1 is tried second.
    function test_costs_of_a_node_key_of_guest_api_v1() public {
        join(1);
        suffix = "";
        uint256 id = mint(ALICE, instance(2));
        Actor memory who = actor(2);
        IDstackClusterNFT.Registration memory r = registration(id, who);
        IDstackClusterNFT.SignatureChain memory chain = chainOfV1(who);
        bytes memory nodeSignature = sign(r, who.nodeKey, address(cluster));
        cluster.registerPeer(r, chain, nodeSignature, sign(r, who.memberKey, address(cluster)));
        measure("join, bound at mint, by guest API v1", 222_500);
    }

    /// The longest a registration gets: every field in use, and an endpoint without a zero byte.
    function test_costs_with_endpoint_and_gateway() public {
        suffix = ", with endpoint and gateway";
        VM.prank(OWNER);
        cluster.addBaseDomain(GATEWAY);
        join(1);
        uint256 id = mint(ALICE, instance(2));
        submit(reachable(id), actor(2));
        measure("join, bound at mint", 220_500);
        submit(reachable(id), actor(2));
        measure("rotate the key", 128_500);

        IDstackClusterNFT.EndpointUpdate memory u = endpointUpdate(id);
        (u.endpointAddress, u.gatewayDomain, u.gatewayPort) = (ENDPOINT, named(GATEWAY), 4443);
        cluster.updateEndpoint(u, sign(u, actor(2).memberKey, address(cluster)));
        measure("update the endpoint", 68_000);
    }

    string private constant GATEWAY = "0123456789.gateway.example.com";
    bytes16 private constant ENDPOINT = 0x20010db8111122223333444455556666;

    function reachable(uint256 id) private view returns (IDstackClusterNFT.Registration memory r) {
        r = registration(id, actor(2));
        (r.endpointAddress, r.gatewayDomain, r.gatewayPort) = (ENDPOINT, named(GATEWAY), 4443);
    }

    function test_costs_with_tls_keys() public {
        suffix = ", of a TLS node";
        VM.prank(OWNER);
        cluster.addBaseDomain(GATEWAY);
        join(1);
        uint256 id = mint(ALICE, instance(2));
        submit(behind(registration(id, actor(2)), GATEWAY), actor(2));
        measure("join, bound at mint", 220_500);
        submit(behind(registration(id, actor(2)), GATEWAY), actor(2));
        measure("rotate the key", 130_500);
        VM.prank(ALICE);
        cluster.deactivate(id);
        measure("deactivate", 70_000);

        suffix = ", with a TLS key beside";
        id = mint(ALICE, instance(3));
        submit(withTlsKey(id, 1), actor(3));
        measure("join, bound at mint", 263_500);
        submit(withTlsKey(id, 1), actor(3));
        measure("rotate the key", 132_500);
        submit(withTlsKey(id, 2), actor(3));
        measure("rotate both keys", 159_500);
        VM.prank(ALICE);
        cluster.deactivate(id);
        measure("deactivate", 76_500);
    }

    function withTlsKey(uint256 id, uint256 key) private view returns (IDstackClusterNFT.Registration memory r) {
        r = registration(id, actor(3));
        r.tlsKey = tlsKey(key);
    }

    // --------------------------------------------------------------------------------------------- leaders that go

    function test_costs_of_deposing() public {
        suffix = "";
        elected(3);
        distrust(1);
        distrust(3);
        measure("vote that deposes", 90_000);

        distrust(1);
        Vote memory vote = voteOf(3);
        relay(vote, signFor(vote, actor(3).memberKey, address(cluster), block.chainid));
        measure("signed vote that deposes", 90_000);
        eq(election.leaderToken(), 3, "the third leads");
    }

    function test_costs_of_a_leader_that_voted_and_leaves() public {
        suffix = ", of a leader that voted";
        elected(9);
        for (uint256 route = 0; route < 4; ++route) {
            uint256 leader = election.leaderToken();
            distrust(leader);
            VM.prank(route == 2 ? OWNER : ALICE);
            if (route == 0) cluster.deactivate(leader);
            else if (route == 1) cluster.burn(leader);
            else if (route == 2) cluster.revoke(leader);
            else token.transferFrom(ALICE, BOB, leader);
            if (route == 0) measure("deactivate", 73_600);
            else if (route == 1) measure("burn", 130_000);
            else if (route == 2) measure("revoke", 81_500);
            else measure("transfer", 109_032);
            election.electLeader();
            measure("elect the next", 100_000);
        }
    }

    /// As many as one search looks at.
    function test_costs_of_searching_through_stale_registrations() public {
        suffix = ", with 32 stale registrations ahead";
        for (uint256 i = 0; i < 3; ++i) {
            uint256 before = VM.snapshotState();
            staleAhead(32, BOB);
            if (i == 0) {
                distrust(34);
                distrust(35);
                measure("vote that deposes", 275_000);
            } else if (i == 1) {
                distrust(34);
                Vote memory vote = voteOf(35);
                relay(vote, signFor(vote, actor(35).memberKey, address(cluster), block.chainid));
                measure("signed vote that deposes", 280_000);
            } else {
                join(36);
                distrust(34);
                distrust(35);
                depart(36, 0); // two votes are enough now
                election.electLeader();
                measure("elect a leader, none found", 260_000);
            }
            eq(election.currentLeader(), address(0), "no member was found");
            yes(VM.revertToState(before), "back");
        }
    }

    // ----------------------------------------------------------------------------------------- governance, and what it is

    function test_costs_of_governance() public {
        suffix = "";
        uint256 id = join(1);
        uint256 before = VM.snapshotState();
        VM.prank(OWNER);
        cluster.disableUpgrades();
        measure("disableUpgrades", 60_000);
        yes(VM.revertToState(before), "back");
        VM.startPrank(OWNER);
        cluster.setClusterConfig(1000, IClusterPolicy.NetworkPolicy.WIREGUARD_ONLY);
        measure("setClusterConfig", 45_000);
        cluster.setMintingPolicy(1 ether, true);
        measure("setMintingPolicy", 70_000);
        cluster.pauseRegistrations();
        measure("pauseRegistrations", 45_000);
        cluster.unpauseRegistrations();
        measure("unpauseRegistrations", 45_000);
        cluster.setDevMode(true);
        measure("setDevMode", 70_000);
        cluster.addComposeHash(keccak256("1"));
        measure("addComposeHash", 60_000);
        cluster.removeComposeHash(keccak256("1"));
        measure("removeComposeHash", 45_000);
        cluster.addDevice(keccak256("1"));
        measure("addDevice", 60_000);
        cluster.removeDevice(keccak256("1"));
        measure("removeDevice", 45_000);
        cluster.setAllowAnyDevice(true);
        measure("setAllowAnyDevice", 60_000);
        cluster.setRequireTcbUpToDate(true);
        measure("setRequireTcbUpToDate", 60_000);
        cluster.addKmsRoot(ALICE);
        measure("addKmsRoot", 110_000);
        cluster.removeKmsRoot(ALICE);
        measure("removeKmsRoot", 60_000);
        cluster.addAppId(ALICE);
        measure("addAppId", 110_000);
        cluster.removeAppId(ALICE);
        measure("removeAppId", 90_000);
        cluster.addBaseDomain("0123456789.example.com");
        measure("addBaseDomain", 130_000);
        cluster.removeBaseDomain(1);
        measure("removeBaseDomain", 60_000);
        cluster.revoke(id);
        cluster.reinstate(id);
        measure("reinstate", 45_000);
        VM.stopPrank();

        VM.deal(BOB, 1 ether);
        string memory name = hexOf(abi.encodePacked(instance(2)));
        VM.prank(BOB);
        id = cluster.mintNodeAccess{value: 1 ether}(BOB, name);
        measure("mintNodeAccess", 150_000);
        VM.prank(BOB);
        cluster.registerInstance(name);
        measure("registerInstance", 70_000);
        VM.prank(BOB);
        cluster.setDevUrl(id, "http://localhost:8080");
        measure("setDevUrl", 80_000);
        id = mint(BOB, instance(3));
        bytes memory longest = new bytes(256);
        for (uint256 i = 0; i < longest.length; ++i) {
            longest[i] = "x";
        }
        VM.prank(BOB);
        cluster.setDevUrl(id, string(longest));
        measure("setDevUrl of 256 bytes", 335_000);
        VM.prank(OWNER);
        cluster.withdraw(payable(OWNER));
        measure("withdraw", 80_000);
    }

    /// A cluster is founded in the call that makes it: `initialize` costs the same inside the deployment of its proxy.
    function test_costs_of_the_route_from_a_dstack_app() public {
        suffix = "";
        DstackAppStandIn app = DstackAppStandIn(
            proxy(
                address(new DstackAppStandIn()),
                abi.encodeCall(DstackAppStandIn.initialize, (OWNER, false, false, true, 0, keccak256("1")))
            )
        );
        address next = implementation();
        bytes memory found = abi.encodeCall(IDstackClusterNFT.initializeFromDstackApp, (defaultParams()));
        VM.prank(OWNER);
        app.upgradeToAndCall(next, found);
        measure("upgrade a DstackApp to a cluster", 450_000);
    }

    function test_costs_of_removing_what_has_peers() public {
        suffix = ", with peers";
        address root = addRoot(1);
        addApp(ALICE);
        join(1);
        joinUnder(2, secret("root", 1), address(cluster));
        joinUnder(3, secret("root", 0), ALICE);
        VM.prank(OWNER);
        cluster.removeKmsRoot(root);
        measure("removeKmsRoot", 90_000);
        VM.prank(OWNER);
        cluster.removeAppId(ALICE);
        measure("removeAppId", 120_000);
    }

    /// Where no leader was ever elected: then the word that it writes is new.
    function test_costs_of_the_fourth_term_that_lapses_in_a_row() public {
        suffix = ", the fourth in a row with peers";
        for (uint256 i = 1; i <= 4; ++i) {
            address root = addRoot(i);
            joinUnder(i, secret("root", i), address(cluster));
            VM.prank(OWNER);
            cluster.removeKmsRoot(root);
        }
        measure("removeKmsRoot", 90_000);
        eq(election.term(), 4, "four terms");
    }

    /// Half of what eth_call of most nodes allows, and as many tokens as a large mesh has.
    function test_costs_of_the_nodes_of_an_instance_among_ten_thousand() public {
        suffix = "";
        VM.pauseGasMetering();
        for (uint256 i = 0; i < 200; ++i) {
            this.mintFifty();
        }
        VM.resumeGasMetering();
        uint256 id = mint(BOB, instance(1));
        eq(id, 10_001, "the last");
        (IDstackClusterNFT.Node[] memory page, uint256 next) = cluster.nodesOf(instance(1), 2, 10_000);
        measure("a page of 10000 ids of one instance (eth_call)", 50_000_000);
        eq(page.length + next, 1, "one token, at the end");
        eq(page[0].tokenId, id, "that one");
    }

    function mintFifty() external {
        for (uint256 i = 0; i < 50; ++i) {
            mint(ALICE, instance(2));
        }
    }

    function test_costs_of_removing_a_root_with_its_leader() public {
        suffix = ", with the leader";
        address root = addRoot(1);
        joinUnder(1, secret("root", 1), address(cluster));
        join(2);
        election.electLeader();
        distrust(2);
        VM.prank(OWNER);
        cluster.removeKmsRoot(root);
        measure("removeKmsRoot", 75_000);
    }

    function test_costs_of_removing_an_app_id_that_is_everywhere() public {
        suffix = ", with the leader and peers under 16 roots";
        VM.startPrank(OWNER);
        cluster.addAppId(ALICE);
        for (uint256 i = 1; i < 16; ++i) {
            cluster.addKmsRoot(VM.addr(secret("root", i)));
        }
        VM.stopPrank();
        VM.warp(block.timestamp + cluster.KMS_ROOT_DELAY());
        for (uint256 i = 0; i < 16; ++i) {
            joinUnder(i + 1, secret("root", i), ALICE);
        }
        join(17);
        election.electLeader();
        distrust(17);
        VM.prank(OWNER);
        cluster.removeAppId(ALICE);
        measure("removeAppId", 145_000);
        eq(cluster.peerCount(), 1, "all of its peers are gone");
    }

    // ------------------------------------------------------------------------------------------------------ helpers

    /// Members 1 to `count`, by real registrations; fifty in a transaction, because each transaction of a test is costly.
    function fill(uint256 count) private {
        VM.pauseGasMetering(); // a test may not spend as much
        for (uint256 i = 1; i <= count; i += 50) {
            this.joinAll(i, i + 50 > count ? count : i + 49);
        }
        VM.resumeGasMetering();
        eq(cluster.peerCount(), count, "members");
    }

    function joinAll(uint256 first, uint256 last) external {
        for (uint256 i = first; i <= last; ++i) {
            join(i);
        }
    }

    function measure(string memory what, uint256 budget) private {
        what = string.concat(what, suffix);
        uint256 gas = VM.snapshotGasLastCall("costs", what);
        emit Cost(what, gas);
        yes(gas <= budget, string.concat(what, " exceeds its budget: ", VM.toString(gas)));
    }
}
