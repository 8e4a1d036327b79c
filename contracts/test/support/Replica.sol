// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IERC721} from "@openzeppelin/contracts/token/ERC721/IERC721.sol";
import {IDstackClusterNFT} from "../../src/interfaces/IDstackClusterNFT.sol";
import {ILeaderElection} from "../../src/interfaces/ILeaderElection.sol";
import {VM, Vm} from "../Vm.sol";
import {ElectionReplica} from "./ElectionReplica.sol";
import {Hex} from "./Hex.sol";
import {PolicyReplica} from "./PolicyReplica.sol";

/// @title  The cluster rebuilt from its events and nothing else, and compared with what the cluster says: members and trust here,
///         election and policy in what it inherits.
contract Replica is ElectionReplica, PolicyReplica, Hex {
    bytes4 public base;
    uint8 public prefixLength;
    uint64 public epoch;
    uint256 public highest; // token id ever minted
    uint256 internal blockTime; // of the transaction that is followed

    mapping(uint256 tokenId => IDstackClusterNFT.Node) internal nodes;
    mapping(uint256 tokenId => IDstackClusterNFT.Peer) internal peers;
    mapping(address root => uint64) internal roots; // time from which it counts, zero = not trusted
    uint256 internal rootCount;
    mapping(address app => uint64) internal apps; // time from which it counts, zero = not allowed
    uint256 internal appCount;
    string[] internal domains;

    /// Takes the logs of one transaction in the block `number` of that time.
    function follow(Vm.Log[] memory logs, address cluster, uint256 number, uint256 time) external {
        blockTime = time;
        for (uint256 i = 0; i < logs.length; ++i) {
            if (logs[i].emitter == cluster) apply_(logs[i], number);
        }
    }

    function apply_(Vm.Log memory log, uint256 number) private {
        bytes32 topic = log.topics[0];
        if (topic == IERC721.Transfer.selector) {
            uint256 id = uint256(log.topics[3]);
            nodes[id].tokenId = id;
            nodes[id].owner = address(uint160(uint256(log.topics[2])));
        } else if (topic == IDstackClusterNFT.MeshNetworkFixed.selector) {
            uint64 newEpoch;
            (base, prefixLength, newEpoch) = abi.decode(log.data, (bytes4, uint8, uint64));
            beginPolicy(prefixLength);
            step(newEpoch);
        } else if (topic == IDstackClusterNFT.PeerRegistered.selector) {
            registered(log, number);
        } else if (topic == IDstackClusterNFT.PeerEndpointUpdated.selector) {
            updated(log);
        } else if (
            topic == IDstackClusterNFT.NodeMinted.selector || topic == IDstackClusterNFT.NodeBound.selector
                || topic == IDstackClusterNFT.NodeCleared.selector || topic == IDstackClusterNFT.NodeReinstated.selector
        ) {
            node(topic, uint256(log.topics[1]), log.data);
        } else if (
            topic == IDstackClusterNFT.BaseDomainAdded.selector || topic == IDstackClusterNFT.BaseDomainRemoved.selector
        ) {
            domain(topic, uint256(log.topics[1]), log.data);
        } else if (!(elsewhere(log) || bootGate(log)) && log.topics.length == 2) {
            trust(topic, address(uint160(uint256(log.topics[1]))), log.data);
        }
    }

    /// The election's and the policy's own.
    function elsewhere(Vm.Log memory log) private returns (bool known) {
        uint64 newEpoch;
        (known, newEpoch) = election(log);
        if (!known) (known, newEpoch) = policy(log);
        if (known) step(newEpoch);
    }

    function node(bytes32 topic, uint256 id, bytes memory data) private {
        if (topic == IDstackClusterNFT.NodeMinted.selector) {
            (bytes20 instanceId, address appId, uint64 newEpoch) = abi.decode(data, (bytes20, address, uint64));
            (nodes[id].instanceId, nodes[id].boundAppId) = (instanceId, appId);
            ++nodes[id].keyEpoch;
            if (id > highest) highest = id;
            step(newEpoch);
        } else if (topic == IDstackClusterNFT.NodeBound.selector) {
            (bytes20 instanceId, address appId, uint64 newEpoch) = abi.decode(data, (bytes20, address, uint64));
            (nodes[id].instanceId, nodes[id].boundAppId, nodes[id].memberAddress) = (instanceId, appId, address(0));
            delete urls[id];
            drop(id);
            step(newEpoch);
        } else if (topic == IDstackClusterNFT.NodeCleared.selector) {
            (IDstackClusterNFT.LeaveReason reason, uint32 keyEpoch, uint64 newEpoch) =
                abi.decode(data, (IDstackClusterNFT.LeaveReason, uint32, uint64));
            advance(id, keyEpoch);
            (nodes[id].instanceId, nodes[id].boundAppId, nodes[id].memberAddress) = (0, address(0), address(0));
            delete urls[id];
            drop(id);
            if (reason == IDstackClusterNFT.LeaveReason.REVOKED) nodes[id].revoked = true;
            if (reason == IDstackClusterNFT.LeaveReason.BURNED) nodes[id].revoked = false;
            step(newEpoch);
        } else {
            nodes[id].revoked = false;
            step(abi.decode(data, (uint64)));
        }
    }

    function registered(Vm.Log memory log, uint256 number) private {
        (
            IDstackClusterNFT.Registration memory r,
            IDstackClusterNFT.SignatureChain memory chain,,,,
            address kmsRoot,
            uint64 newEpoch
        ) = abi.decode(
            log.data,
            (IDstackClusterNFT.Registration, IDstackClusterNFT.SignatureChain, bytes, bytes, address, address, uint64)
        );
        uint256 id = uint256(log.topics[1]);
        eq(r.tokenId, id, "the indexed token is the signed one");
        advance(id, r.keyEpoch);
        IDstackClusterNFT.Node storage bound = nodes[id];
        yes(bound.memberAddress == address(0) || bound.memberAddress == r.memberAddress, "one member key a binding");
        yes(bound.boundAppId == address(0) || bound.boundAppId == chain.appId, "of the app that it is bound to");
        (bound.instanceId, bound.memberAddress, bound.endpointEpoch) = (r.instanceId, r.memberAddress, 0);
        peers[id] = IDstackClusterNFT.Peer({
            tokenId: id,
            instanceId: r.instanceId,
            memberAddress: r.memberAddress,
            wireguardKey: r.wireguardKey,
            tlsKey: r.tlsKey,
            keyEpoch: r.keyEpoch,
            endpointEpoch: 0,
            networkType: r.networkType,
            endpointAddress: r.endpointAddress,
            endpointPort: r.endpointPort,
            gatewayDomain: indexOf(r.gatewayDomain),
            gatewayPort: r.gatewayPort,
            kmsRoot: kmsRoot,
            appId: chain.appId,
            registeredBlock: uint64(number)
        });
        yes(roots[kmsRoot] != 0 && roots[kmsRoot] <= blockTime, "admitted under a trusted root that counts");
        yes(apps[chain.appId] != 0 && apps[chain.appId] <= blockTime, "admitted under an allowed app id that counts");
        step(newEpoch);
    }

    function updated(Vm.Log memory log) private {
        (IDstackClusterNFT.EndpointUpdate memory u,, uint64 newEpoch) =
            abi.decode(log.data, (IDstackClusterNFT.EndpointUpdate, bytes, uint64));
        uint256 id = uint256(log.topics[1]);
        IDstackClusterNFT.Peer storage peer = peers[id];
        yes(peer.tokenId == id, "only a peer moves");
        eq(u.keyEpoch, peer.keyEpoch, "within the key epoch of its registration");
        eq(u.endpointEpoch, peer.endpointEpoch + 1, "endpoint epochs are consecutive");
        nodes[id].endpointEpoch = u.endpointEpoch;
        (peer.endpointEpoch, peer.endpointAddress, peer.endpointPort) =
        (u.endpointEpoch, u.endpointAddress, u.endpointPort);
        (peer.gatewayDomain, peer.gatewayPort) = (indexOf(u.gatewayDomain), u.gatewayPort);
        step(newEpoch);
    }

    /// The index of the base domain that a node named.
    function indexOf(bytes32 name) private returns (uint16) {
        if (name == 0) return 0;
        for (uint256 i = 0; i < domains.length; ++i) {
            // forge-lint: disable-next-line(unsafe-typecast): few
            if (keccak256(bytes(domains[i])) == name) return uint16(i + 1);
        }
        yes(false, "the named domain is there");
        return 0;
    }

    function trust(bytes32 topic, address account, bytes memory data) private {
        if (topic == IDstackClusterNFT.KmsRootAdded.selector) {
            (, uint64 effectiveAt, uint64 newEpoch) = abi.decode(data, (uint32, uint64, uint64));
            eq(roots[account], 0, "added once");
            roots[account] = effectiveAt;
            ++rootCount;
            step(newEpoch);
        } else if (topic == IDstackClusterNFT.AppIdAdded.selector) {
            (, uint64 effectiveAt, uint64 newEpoch) = abi.decode(data, (uint32, uint64, uint64));
            eq(apps[account], 0, "added once");
            apps[account] = effectiveAt;
            ++appCount;
            step(newEpoch);
        } else if (topic == IDstackClusterNFT.KmsRootRemoved.selector) {
            (, uint64 newEpoch) = abi.decode(data, (uint32, uint64));
            roots[account] = 0;
            --rootCount;
            for (uint256 id = 1; id <= highest; ++id) {
                if (peers[id].kmsRoot == account) drop(id);
            }
            step(newEpoch);
        } else if (topic == IDstackClusterNFT.AppIdRemoved.selector) {
            (, uint64 newEpoch) = abi.decode(data, (uint32, uint64));
            apps[account] = 0;
            --appCount;
            for (uint256 id = 1; id <= highest; ++id) {
                if (peers[id].appId == account) drop(id);
            }
            step(newEpoch);
        }
        // What is left says nothing about members: Initialized, OwnershipTransferred, Upgraded, Approval.
    }

    function domain(bytes32 topic, uint256 index, bytes memory data) private {
        (string memory name, uint64 newEpoch) = abi.decode(data, (string, uint64));
        if (topic == IDstackClusterNFT.BaseDomainAdded.selector) {
            domains.push(name);
            eq(index, domains.length, "the next index");
        } else {
            eq(domains[index - 1], name, "the removed name");
            domains[index - 1] = "";
        }
        step(newEpoch);
    }

    function drop(uint256 id) private {
        delete peers[id];
        nodes[id].endpointEpoch = 0;
        left(id);
    }

    function peersNow() internal view override returns (uint256 count) {
        for (uint256 id = 1; id <= highest; ++id) {
            if (peers[id].tokenId == id) ++count;
        }
    }

    function memberOf(uint256 id) internal view override returns (address) {
        return peers[id].memberAddress;
    }

    /// Every event advances the cluster's epoch by one.
    function step(uint64 newEpoch) private {
        eq(newEpoch, epoch + 1, "epochs are consecutive");
        epoch = newEpoch;
    }

    /// Every mint, every accepted registration and every leaving advances the token's key epoch by one.
    function advance(uint256 id, uint32 keyEpoch) private {
        eq(keyEpoch, nodes[id].keyEpoch + 1, "key epochs are consecutive");
        nodes[id].keyEpoch = keyEpoch;
    }

    // ------------------------------------------------------------------------------------------------- comparing

    /// Reverts unless the cluster says exactly this.
    function mustEqual(IDstackClusterNFT cluster) external view {
        eq(cluster.epoch(), epoch, "epoch");
        (bytes4 network, uint8 length) = cluster.meshNetwork();
        eq(bytes32(network), bytes32(base), "network");
        eq(length, prefixLength, "prefix length");
        uint256 active = 0;
        uint256 minted = 0;
        for (uint256 id = 1; id <= highest; ++id) {
            IDstackClusterNFT.Node memory expected = nodes[id];
            expected.active = peers[id].tokenId == id;
            eq(abi.encode(cluster.getNode(id)), abi.encode(expected), "node");
            if (expected.owner != address(0)) ++minted;
            if (!expected.active) continue;
            ++active;
            eq(abi.encode(cluster.getPeer(id)), abi.encode(peers[id]), "peer");
        }
        eq(cluster.peerCount(), active, "peer count");
        eq(cluster.totalSupply(), minted, "supply");
        string[] memory names = cluster.baseDomains();
        eq(abi.encode(names), abi.encode(domains), "base domains");
        mustTrustTheSame(cluster);
        mustElectTheSame(ILeaderElection(address(cluster)));
        mustHaveTheSamePolicy(cluster);
        eq(abi.encode(cluster.getPeerEndpoints()), abi.encode(endpoints()), "endpoints");
    }

    /// Of each peer, where it is reached.
    function endpoints() private view returns (string[] memory list) {
        list = new string[](peersNow());
        uint256 count = 0;
        for (uint256 id = 1; id <= highest; ++id) {
            if (peers[id].tokenId == id) list[count++] = endpoint(peers[id]);
        }
    }

    function endpoint(IDstackClusterNFT.Peer memory peer) private view returns (string memory) {
        if (bytes(urls[peer.tokenId]).length != 0) return urls[peer.tokenId];
        if (peer.networkType == IDstackClusterNFT.NetworkType.WIREGUARD) {
            uint32 ip = uint32(base) + uint32(peer.tokenId);
            return string.concat(octet(ip >> 24), ".", octet(ip >> 16), ".", octet(ip >> 8), ".", octet(ip));
        }
        string memory domainName = domains[peer.gatewayDomain - 1];
        if (bytes(domainName).length == 0) return "";
        string memory host = string.concat(hexOf(abi.encodePacked(peer.instanceId)), "-", VM.toString(peer.gatewayPort));
        return string.concat("https://", host, "s.", domainName);
    }

    function octet(uint32 value) private pure returns (string memory) {
        return VM.toString(uint256(uint8(value)));
    }

    /// As many of each, all different, each of ours: the same sets.
    function mustTrustTheSame(IDstackClusterNFT cluster) private view {
        (address[] memory kmsRoots, uint64[] memory effectiveAt) = cluster.kmsRoots();
        eq(kmsRoots.length, rootCount, "roots");
        eq(effectiveAt.length, rootCount, "their times");
        for (uint256 i = 0; i < kmsRoots.length; ++i) {
            yes(roots[kmsRoots[i]] != 0, "root");
            eq(effectiveAt[i], roots[kmsRoots[i]], "the time from which it counts");
        }
        mustDiffer(kmsRoots);
        address[] memory appIds;
        (appIds, effectiveAt) = cluster.appIds();
        eq(appIds.length, appCount, "app ids");
        eq(effectiveAt.length, appCount, "their times");
        for (uint256 i = 0; i < appIds.length; ++i) {
            yes(apps[appIds[i]] != 0, "app id");
            eq(effectiveAt[i], apps[appIds[i]], "the time from which it counts");
        }
        mustDiffer(appIds);
    }

    function mustDiffer(address[] memory accounts) private pure {
        for (uint256 i = 0; i < accounts.length; ++i) {
            for (uint256 j = 0; j < i; ++j) {
                yes(accounts[i] != accounts[j], "each once");
            }
        }
    }
}
