// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IAppAuthBasicManagement, IDstackApp} from "../src/interfaces/IAppAuth.sol";
import {IClusterPolicy} from "../src/interfaces/IClusterPolicy.sol";
import {IDstackClusterNFT} from "../src/interfaces/IDstackClusterNFT.sol";
import {ILeaderElection} from "../src/interfaces/ILeaderElection.sol";
import {VM, Vm} from "./Vm.sol";
import {Campaign} from "./support/Campaign.sol";
import {Changes} from "./support/Changes.sol";
import {Check} from "./support/Check.sol";
import {DstackAppStandIn} from "./support/DstackStandIns.sol";
import {ElectionTest} from "./support/ElectionTest.sol";
import {Handler} from "./support/Handler.sol";
import {Ledger} from "./support/Ledger.sol";
import {Lives} from "./support/Lives.sol";
import {Vote} from "./support/Signing.sol";

/// The history of one long life, against its events: each of them counts, and each field, and their order. (That it is the hash of
/// just these events is asserted by the campaign after every transaction.)
contract HistoryTest is Lives, Changes {
    /// One event: its kind, what it says, and the history around it.
    struct Step {
        uint256 kind;
        bytes32[] words;
        uint64 epoch;
        bytes20 before;
        bytes20 then;
    }

    IDstackClusterNFT internal cluster;
    Step[] internal steps;

    function setUp() public {
        handler = new Handler(true);
        cluster = handler.theCluster();
        for (uint256 year = 0; year < 25; ++year) {
            live(year, 60);
        }
        Campaign.Kept[] memory kept = handler.history(0);
        for (uint256 i = 0; i < kept.length; ++i) {
            Vm.Log[] memory logs = abi.decode(kept[i].logs, (Vm.Log[]));
            for (uint256 j = 0; j < logs.length; ++j) {
                if (logs[j].emitter == address(cluster)) take(logs[j], kept[i].number);
            }
        }
    }

    function take(Vm.Log memory log, uint256 number) private {
        (bool found, uint256 kind) = kindOf(log);
        if (!found) return;
        (bytes32[] memory words, uint64 epoch) = wordsOf(log, kind, number);
        bytes20 before = steps.length == 0 ? bytes20(0) : steps[steps.length - 1].then;
        steps.push(Step(kind, words, epoch, before, after_(before, epoch, words)));
    }

    function test_it_is_made_of_the_events_of_a_life() public view {
        yes(steps.length > 300, "much happened");
        for (uint256 i = 0; i < steps.length; ++i) {
            eq(steps[i].epoch, i + 1, "epochs are consecutive from the first event on");
        }
        eq(cluster.epoch(), steps.length, "up to the last");
        eq(bytes32(cluster.history()), bytes32(steps[steps.length - 1].then), "the same history");
    }

    /// For one event of each kind there is.
    function test_every_field_of_every_event_counts() public view {
        bytes32[21] memory all = kinds();
        for (uint256 kind = 0; kind < all.length; ++kind) {
            Step memory step = firstOf(kind);
            mustDiffer(step, step.epoch + 1, step.words, "its epoch counts");
            for (uint256 i = 0; i < step.words.length; ++i) {
                mustDiffer(step, step.epoch, altered(step.words, i, 0), "every field counts");
                mustDiffer(step, step.epoch, altered(step.words, i, 255), "all of it");
                mustDiffer(step, step.epoch, without(step.words, i), "no field can be left out");
            }
            bytes20 otherwise = after_(step.before ^ bytes20(uint160(1)), step.epoch, step.words);
            yes(otherwise != step.then, "what was before counts");
        }
    }

    /// Of neighbours too, and to the end of the life.
    function test_no_event_can_be_left_out_moved_or_repeated() public view {
        uint256 count = steps.length;
        for (uint256 i = count - 60; i + 1 < count; ++i) {
            (bytes20 missing, bytes20 twice, bytes20 swapped) = (steps[i].before, steps[i].then, steps[i].before);
            swapped = after_(swapped, steps[i].epoch, steps[i + 1].words);
            swapped = after_(swapped, steps[i + 1].epoch, steps[i].words);
            twice = after_(twice, steps[i].epoch + 1, steps[i].words);
            for (uint256 j = i + 1; j < count; ++j) {
                missing = after_(missing, steps[j].epoch - 1, steps[j].words);
                twice = after_(twice, steps[j].epoch + 1, steps[j].words);
                if (j > i + 1) swapped = after_(swapped, steps[j].epoch, steps[j].words);
            }
            yes(missing != cluster.history(), "left out");
            yes(twice != cluster.history(), "repeated");
            bool same = keccak256(abi.encode(steps[i].words)) == keccak256(abi.encode(steps[i + 1].words));
            yes((swapped == cluster.history()) == same, "moved");
        }
    }

    function firstOf(uint256 kind) private view returns (Step memory) {
        for (uint256 i = 0; i < steps.length; ++i) {
            if (steps[i].kind == kind) return steps[i];
        }
        revert Untrue(string.concat("an event of kind ", VM.toString(kind)));
    }

    function mustDiffer(Step memory step, uint64 epoch, bytes32[] memory words, string memory what) private pure {
        yes(after_(step.before, epoch, words) != step.then, what);
    }

    function altered(bytes32[] memory words, uint256 which, uint256 bit) private pure returns (bytes32[] memory copy) {
        copy = new bytes32[](words.length);
        for (uint256 i = 0; i < words.length; ++i) {
            copy[i] = i == which ? words[i] ^ bytes32(1 << bit) : words[i];
        }
    }

    function without(bytes32[] memory words, uint256 which) private pure returns (bytes32[] memory copy) {
        copy = new bytes32[](words.length - 1);
        for (uint256 i = 0; i < copy.length; ++i) {
            copy[i] = words[i < which ? i : i + 1];
        }
    }
}

/// One event of each kind, for other implementations to compare with.
contract HistoryVectorsTest is Check, Changes {
    function test_the_vectors_are_of_each_kind_and_right() public {
        string memory json = VM.readFile("test/vectors/history.json");
        VM.chainId(VM.parseJsonUint(json, ".chainId"));
        bool[21] memory had;
        for (uint256 i = 0; i < had.length; ++i) {
            string memory path = string.concat(".events[", VM.toString(i), "]");
            Vm.Log memory log = Vm.Log(
                VM.parseJsonBytes32Array(json, string.concat(path, ".topics")),
                VM.parseJsonBytes(json, string.concat(path, ".data")),
                VM.parseJsonAddress(json, ".contract")
            );
            (bool found, uint256 kind) = kindOf(log);
            yes(found && !had[kind], "another kind");
            had[kind] = true;
            uint256 number = VM.parseJsonUint(json, string.concat(path, ".block"));
            (bytes32[] memory words, uint64 epoch) = wordsOf(log, kind, number);
            eq(epoch, VM.parseJsonUint(json, string.concat(path, ".epoch")), "epoch");
            bytes32 change = VM.parseJsonBytes32(json, string.concat(path, ".change"));
            eq(keccak256(abi.encodePacked(words)), change, "change");
            bytes20 before = bytes20(VM.parseJsonBytes(json, string.concat(path, ".before")));
            bytes memory then = VM.parseJsonBytes(json, string.concat(path, ".after"));
            eq(abi.encodePacked(after_(before, epoch, words)), then, "history");
        }
    }
}

/// Which calls are part of the history, and its ends.
contract HistoryOfCallsTest is ElectionTest {
    bytes32 private constant MEMBERS_SLOT = 0x7ce23fe83255e7461be7da9b7981d96c01c591fea44120fa317b073455816700;

    mapping(string name => bool) private done;

    // ------------------------------------------------------------------------------------------------ every function

    /// Every function of the ABI that can write, once: either the history goes on, or nothing that agents read has changed.
    function test_no_call_changes_what_agents_read_without_the_history() public {
        calls();
        // Two make a cluster, which is what agents read from then on (test_it_begins_with_the_first_change_of_a_proxy); one always
        // reverts.
        (done["initialize"], done["initializeFromDstackApp"], done["renounceOwnership"]) = (true, true, true);
        mustBeAll("out/DstackClusterNFT.sol/DstackClusterNFT.json");
        mustBeAll("out/ClusterExtension.sol/ClusterExtension.json");
    }

    /// Every function there was called, or cannot write.
    function mustBeAll(string memory file) private view {
        string memory json = VM.readFile(file);
        string[] memory signatures = VM.parseJsonKeys(json, "$.methodIdentifiers");
        yes(signatures.length > 30, "all functions");
        for (uint256 i = 0; i < signatures.length; ++i) {
            string memory name = VM.split(signatures[i], "(")[0];
            if (done[name]) continue;
            string memory path =
                string.concat("$.abi[?(@.name == '", name, "' && @.type == 'function')].stateMutability");
            bytes32 mutability = keccak256(bytes(VM.parseJsonString(json, path)));
            yes(mutability == keccak256("view") || mutability == keccak256("pure"), string.concat(name, " was called"));
        }
    }

    function calls() private {
        ofMembers();
        ofTokens();
        ofGovernance();
        ofTheBootGate();
        ofTheOwner();
    }

    function ofMembers() private {
        seen("mint", OWNER, abi.encodeCall(IDstackClusterNFT.mint, (ALICE, instance(1), address(0))));
        IDstackClusterNFT.Registration memory r = registration(1, actor(1));
        bytes memory byNode = sign(r, actor(1).nodeKey, address(cluster));
        bytes memory byMember = sign(r, actor(1).memberKey, address(cluster));
        bytes memory call = abi.encodeCall(IDstackClusterNFT.registerPeer, (r, chainOf(actor(1)), byNode, byMember));
        seen("registerPeer", STRANGER, call);
        IDstackClusterNFT.EndpointUpdate memory u = endpointUpdate(1);
        call = abi.encodeCall(IDstackClusterNFT.updateEndpoint, (u, sign(u, actor(1).memberKey, address(cluster))));
        seen("updateEndpoint", STRANGER, call);

        join(2);
        join(3);
        seen("electLeader", STRANGER, abi.encodeCall(ILeaderElection.electLeader, ()));
        address leader = election.currentLeader();
        call = abi.encodeCall(ILeaderElection.castVote, (1, leader, true));
        seen("castVote", addressOfMember(2), call);
        Vote memory v = voteOf(3);
        call = abi.encodeCall(
            ILeaderElection.castVoteBySig, (3, v.term, v.target, v.isNoConfidence, v.deadline, signed(v, 3))
        );
        seen("castVoteBySig", STRANGER, call);
    }

    function ofTokens() private {
        seen("mintNodeAccess", OWNER, abi.encodeCall(IClusterPolicy.mintNodeAccess, (BOB, "")));
        string memory name = hexOf(abi.encodePacked(instance(4)));
        seen("registerInstance", BOB, abi.encodeCall(IClusterPolicy.registerInstance, (name)));
        seen("bind", BOB, abi.encodeCall(IDstackClusterNFT.bind, (4, instance(5), address(0))));
        seen("setDevMode", OWNER, abi.encodeCall(IClusterPolicy.setDevMode, (true)));
        seen("setDevUrl", ALICE, abi.encodeCall(IClusterPolicy.setDevUrl, (1, "http://localhost")));

        unseen("approve", ALICE, abi.encodeWithSignature("approve(address,uint256)", BOB, 1));
        unseen("setApprovalForAll", ALICE, abi.encodeWithSignature("setApprovalForAll(address,bool)", BOB, true));
        string memory transfer = "transferFrom(address,address,uint256)";
        seen("transferFrom", BOB, abi.encodeWithSignature(transfer, ALICE, BOB, 1));
        transfer = "safeTransferFrom(address,address,uint256)";
        seen("safeTransferFrom", BOB, abi.encodeWithSignature(transfer, BOB, ALICE, 1));
        transfer = "safeTransferFrom(address,address,uint256,bytes)";
        seen("safeTransferFrom", ALICE, abi.encodeWithSignature(transfer, ALICE, BOB, 1, hex"01"));

        seen("deactivate", ALICE, abi.encodeCall(IDstackClusterNFT.deactivate, (2)));
        seen("revoke", OWNER, abi.encodeCall(IDstackClusterNFT.revoke, (3)));
        seen("reinstate", OWNER, abi.encodeCall(IDstackClusterNFT.reinstate, (3)));
        seen("burn", ALICE, abi.encodeCall(IDstackClusterNFT.burn, (3)));
    }

    function ofGovernance() private {
        IClusterPolicy.NetworkPolicy wireguard = IClusterPolicy.NetworkPolicy.WIREGUARD_ONLY;
        seen("setClusterConfig", OWNER, abi.encodeCall(IClusterPolicy.setClusterConfig, (9, wireguard)));
        seen("setMintingPolicy", OWNER, abi.encodeCall(IClusterPolicy.setMintingPolicy, (1, true)));
        seen("pauseRegistrations", OWNER, abi.encodeCall(IClusterPolicy.pauseRegistrations, ()));
        seen("unpauseRegistrations", OWNER, abi.encodeCall(IClusterPolicy.unpauseRegistrations, ()));
        seen("addKmsRoot", OWNER, abi.encodeCall(IDstackClusterNFT.addKmsRoot, (ALICE)));
        seen("removeKmsRoot", OWNER, abi.encodeCall(IDstackClusterNFT.removeKmsRoot, (ALICE)));
        seen("addAppId", OWNER, abi.encodeCall(IDstackClusterNFT.addAppId, (ALICE)));
        seen("removeAppId", OWNER, abi.encodeCall(IDstackClusterNFT.removeAppId, (ALICE)));
        seen("addBaseDomain", OWNER, abi.encodeCall(IDstackClusterNFT.addBaseDomain, ("a.example.com")));
        seen("removeBaseDomain", OWNER, abi.encodeCall(IDstackClusterNFT.removeBaseDomain, (1)));
        VM.deal(address(cluster), 1 ether);
        unseen("withdraw", OWNER, abi.encodeCall(IClusterPolicy.withdraw, (payable(OWNER))));
    }

    function ofTheBootGate() private {
        bytes32 one = keccak256("1");
        unseen("addComposeHash", OWNER, abi.encodeCall(IAppAuthBasicManagement.addComposeHash, (one)));
        unseen("removeComposeHash", OWNER, abi.encodeCall(IAppAuthBasicManagement.removeComposeHash, (one)));
        unseen("addDevice", OWNER, abi.encodeCall(IAppAuthBasicManagement.addDevice, (one)));
        unseen("removeDevice", OWNER, abi.encodeCall(IAppAuthBasicManagement.removeDevice, (one)));
        unseen("setAllowAnyDevice", OWNER, abi.encodeCall(IDstackApp.setAllowAnyDevice, (true)));
        unseen("setRequireTcbUpToDate", OWNER, abi.encodeCall(IDstackApp.setRequireTcbUpToDate, (true)));
    }

    function ofTheOwner() private {
        unseen("transferOwnership", OWNER, abi.encodeWithSignature("transferOwnership(address)", BOB));
        unseen("acceptOwnership", BOB, abi.encodeWithSignature("acceptOwnership()"));
        bytes memory call = abi.encodeWithSignature("upgradeToAndCall(address,bytes)", implementation(), "");
        unseen("upgradeToAndCall", BOB, call);
        unseen("disableUpgrades", BOB, abi.encodeCall(IDstackApp.disableUpgrades, ()));
    }

    function seen(string memory name, address from, bytes memory call) private {
        bytes20 before = cluster.history();
        perform(name, from, call);
        yes(cluster.history() != before, name);
    }

    function unseen(string memory name, address from, bytes memory call) private {
        (bytes20 before, bytes32 reads, bytes32 word) = (cluster.history(), allReads(), firstWord());
        perform(name, from, call);
        eq(bytes32(cluster.history()), bytes32(before), name);
        eq(firstWord(), word, name);
        eq(allReads(), reads, name);
    }

    function perform(string memory name, address from, bytes memory call) private {
        VM.prank(from);
        (bool accepted,) = address(cluster).call(call);
        yes(accepted, name);
        done[name] = true;
    }

    /// A hash of all that agents read.
    function allReads() private view returns (bytes32) {
        (IDstackClusterNFT.Peer[] memory peers,) = cluster.peers(0, 100);
        (IDstackClusterNFT.Node[] memory nodes,) = cluster.nodes(0, 100);
        (address[] memory roots, uint64[] memory rootsFrom) = cluster.kmsRoots();
        (address[] memory apps, uint64[] memory appsFrom) = cluster.appIds();
        IClusterPolicy.ClusterConfig memory config = cluster.clusterConfig();
        config.upgradesDisabled = false; // the boot gate's
        bytes memory members = abi.encode(peers, nodes, cluster.getPeerEndpoints(), cluster.totalSupply());
        bytes memory trust = abi.encode(roots, rootsFrom, apps, appsFrom, cluster.baseDomains(), config);
        address leader = election.currentLeader();
        return keccak256(abi.encode(members, trust, leader, election.noConfidenceCount(leader), election.term()));
    }

    function firstWord() private view returns (bytes32) {
        return VM.load(address(cluster), MEMBERS_SLOT);
    }

    // --------------------------------------------------------------------------------------------------- its ends

    /// On the upgrade route the owner may set policy and trust before the network is fixed: the history begins with those.
    function test_it_begins_with_the_first_change_of_a_proxy() public {
        bytes memory call = abi.encodeCall(DstackAppStandIn.initialize, (OWNER, false, false, true, 0, 0));
        address app = proxy(address(new DstackAppStandIn()), call);
        address next = implementation();
        VM.recordLogs();
        VM.startPrank(OWNER);
        DstackAppStandIn(app).upgradeToAndCall(next, "");
        cluster = IDstackClusterNFT(app);
        eq(bytes32(cluster.history()), 0, "zero before the first");
        cluster.pauseRegistrations();
        cluster.setMintingPolicy(1, true);
        cluster.addKmsRoot(ALICE);
        cluster.initializeFromDstackApp(defaultParams());
        VM.stopPrank();
        Ledger ledger = new Ledger();
        ledger.follow(VM.getRecordedLogs(), app, block.number);
        ledger.mustEqual(cluster);
        eq(cluster.epoch(), 6, "pause, minting, root, network, app id, root");
        yes(cluster.clusterConfig().registrationsPaused && cluster.publicMinting(), "which it kept");
    }

    function test_the_epoch_never_wraps() public {
        uint256 last = type(uint40).max;
        uint256 word = uint256(firstWord());
        VM.store(address(cluster), MEMBERS_SLOT, bytes32((word & ~last) | (last - 1)));
        mint(ALICE, 0);
        eq(cluster.epoch(), last, "the last");
        bytes32 before = firstWord();
        bytes memory overflow = abi.encodeWithSignature("Panic(uint256)", 0x11);
        VM.expectRevert(overflow);
        mint(ALICE, 0);
        VM.startPrank(OWNER);
        VM.expectRevert(overflow);
        cluster.addBaseDomain("a.example.com");
        VM.expectRevert(overflow);
        cluster.pauseRegistrations();
        VM.stopPrank();
        eq(firstWord(), before, "and nothing else");
    }

    // ------------------------------------------------------------------------------------------- what it commits to

    function test_it_tells_when_a_peer_registered() public {
        uint256 id = mint(ALICE, instance(1));
        IDstackClusterNFT.Registration memory r = registration(id, actor(1));
        uint256 before = VM.snapshotState();
        submit(r, actor(1));
        bytes20 here = cluster.history();
        yes(VM.revertToState(before), "back");
        VM.roll(block.number + 1);
        submit(r, actor(1));
        yes(cluster.history() != here, "the block counts");
    }

    /// A signature can be written in more than one way, as any relayer may: v as 0 or 27, for one.
    function test_it_does_not_tell_how_a_signature_was_written() public {
        uint256 id = mint(ALICE, instance(1));
        IDstackClusterNFT.Registration memory r = registration(id, actor(1));
        IDstackClusterNFT.SignatureChain memory chain = chainOf(actor(1));
        bytes memory byNode = sign(r, actor(1).nodeKey, address(cluster));
        bytes memory byMember = sign(r, actor(1).memberKey, address(cluster));
        uint256 before = VM.snapshotState();
        cluster.registerPeer(r, chain, byNode, byMember);
        bytes20 history = cluster.history();
        yes(VM.revertToState(before), "back");
        byNode[64] = bytes1(uint8(byNode[64]) - 27);
        byMember[64] = bytes1(uint8(byMember[64]) - 27);
        cluster.registerPeer(r, chain, byNode, byMember);
        eq(bytes32(cluster.history()), bytes32(history), "the same");
    }
}
