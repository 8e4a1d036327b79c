// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {ClusterStorage} from "./ClusterStorage.sol";
import {PeerTable} from "./PeerTable.sol";
import {ILeaderElection} from "./interfaces/ILeaderElection.sol";
import {IdSet} from "./lib/IdSet.sol";

/// @title  The leader's seat and the votes against it: what follows when members vote, leave, or are dropped.
/// @dev    Only an active peer holds the seat, and only active peers' votes are counted: a member that stops being a peer gives both
///         back at once. One that leaves by itself pays for that only if it led or voted; where a whole KMS root or app id is
///         removed, a new term begins instead, so that nothing loops over members.
library Election {
    using IdSet for IdSet.Set;

    /// Registrations that one search for a leader looks at: what bounds its cost, whatever number of them is stale.
    uint256 internal constant MAX_LOOKS = 32;

    /// Member address and token of the leader that stands; zeros if none does.
    function standing() internal view returns (address leader, uint256 tokenId) {
        if (ClusterStorage.members().totals.votes >= requiredVotes()) return (address(0), 0);
        ClusterStorage.Seat storage seat = ClusterStorage.election().seat;
        return (seat.leader, seat.tokenId);
    }

    /// More than half of the members: of two, both.
    function requiredVotes() internal view returns (uint256) {
        return uint256(ClusterStorage.members().totals.peerCount) / 2 + 1;
    }

    /// Gives the seat to the next active peer upward from its last holder, wrapping. Zero where `MAX_LOOKS` registrations were all
    /// stale: then the seat is empty, with an event if it was not before, and the next call goes on from there. Stale registrations
    /// that were found are taken off the list, so that each is looked at once. There must be an active peer.
    function elect() internal returns (address leader) {
        ClusterStorage.Members storage members = ClusterStorage.members();
        ClusterStorage.Seat storage seat = ClusterStorage.election().seat;
        bool held = seat.leader != address(0);
        if (held) _vacate(members.nodes[seat.tokenId]);
        uint256 cursor = seat.cursor;
        for (uint256 looks = 0; looks < MAX_LOOKS; ++looks) {
            (bool found, uint256 id) = members.registered.next(cursor);
            if (!found) (, id) = members.registered.next(0);
            cursor = id + 1;
            if (PeerTable.isActive(members.nodes[id])) return _seat(id, members.nodes[id]);
            members.registered.remove(id); // stale: only PeerTable.admit makes it a peer again, and lists it
        }
        // forge-lint: disable-next-line(unsafe-typecast): an id is below 2^16 - 1
        seat.cursor = uint16(cursor);
        if (held) emit ILeaderElection.LeaderElected(0, address(0), members.totals.term, ClusterStorage.nextEpoch());
    }

    /// Takes along what a registered token has in the election. Call before its registration is dropped.
    function resign(ClusterStorage.NodeRecord storage node) internal {
        ClusterStorage.Totals storage totals = ClusterStorage.members().totals;
        if (node.vote == ClusterStorage.VoteState.COUNTED && node.voteTerm == totals.term) {
            --totals.votes;
            node.vote = ClusterStorage.VoteState.SPENT;
        }
        if (node.leads) _vacate(node);
    }

    /// Begins a new term without votes, after peers were dropped together. Their leader loses the seat.
    function lapse() internal {
        ClusterStorage.Members storage members = ClusterStorage.members();
        ClusterStorage.Seat storage seat = ClusterStorage.election().seat;
        if (seat.leader != address(0) && !PeerTable.isActive(members.nodes[seat.tokenId])) {
            _vacate(members.nodes[seat.tokenId]);
        }
        members.totals.votes = 0;
        emit ILeaderElection.VotesLapsed(++members.totals.term, ClusterStorage.nextEpoch());
    }

    function _seat(uint256 tokenId, ClusterStorage.NodeRecord storage node) private returns (address leader) {
        ClusterStorage.Totals storage totals = ClusterStorage.members().totals;
        leader = node.memberAddress;
        node.leads = true;
        // forge-lint: disable-next-line(unsafe-typecast): an id is below 2^16 - 1
        ClusterStorage.election().seat = ClusterStorage.Seat(leader, uint16(tokenId), uint16(tokenId + 1));
        totals.votes = 0;
        emit ILeaderElection.LeaderElected(tokenId, leader, ++totals.term, ClusterStorage.nextEpoch());
    }

    /// `node` holds the seat. The cursor stays behind it.
    function _vacate(ClusterStorage.NodeRecord storage node) private {
        ClusterStorage.Seat storage seat = ClusterStorage.election().seat;
        (seat.leader, seat.tokenId) = (address(0), 0);
        node.leads = false;
    }
}
