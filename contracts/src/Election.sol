// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {ClusterStorage} from "./ClusterStorage.sol";
import {History} from "./History.sol";
import {PeerTable} from "./PeerTable.sol";
import {IdSet} from "./lib/IdSet.sol";
import {Switches} from "./lib/Switches.sol";

/// @title  The leader's seat and the votes against it: what follows when members vote, leave, or are dropped.
/// @dev    Only an active peer holds the seat, and only active peers' votes are counted: a member that stops being a peer gives both
///         back at once. One that leaves by itself pays for that only if it led or voted; where a whole KMS root or app id is
///         removed, a new term begins instead, so that nothing loops over members.
library Election {
    using IdSet for IdSet.Set;
    using Switches for Switches.Byte;

    /// Registrations that one search for a leader looks at: what bounds its cost, whatever number of them is stale.
    uint256 internal constant MAX_LOOKS = 32;

    /// Member address and token of the leader that stands, zeros if none does; votes against it, and how many depose it.
    function standing() internal view returns (address leader, uint256 tokenId, uint256 votes, uint256 required) {
        ClusterStorage.Totals storage totals = ClusterStorage.members().totals;
        (votes, required) = (totals.votes, majority(totals.peerCount));
        ClusterStorage.Seat storage seat = ClusterStorage.election().seat;
        if (votes < required) (leader, tokenId) = (seat.leader, seat.tokenId);
    }

    /// Of so many members, more than half; of two, both.
    function majority(uint256 members) internal pure returns (uint256) {
        return members / 2 + 1;
    }

    /// The present term: the seat's, and those that began without an election since.
    function term() internal view returns (uint32) {
        return ClusterStorage.election().seat.term + ClusterStorage.members().totals.switches.lapses();
    }

    /// Gives the seat to the next active peer upward from its last holder, wrapping. Zero where `MAX_LOOKS` registrations were all
    /// stale: then the seat is empty, with an event if it was not before, and the next call goes on from there. Stale registrations
    /// that were found are taken off the list, so that each is looked at once. There must be an active peer.
    function elect() internal returns (address leader) {
        ClusterStorage.Members storage members = ClusterStorage.members();
        ClusterStorage.Seat storage seat = ClusterStorage.election().seat;
        bool held = seat.leader != address(0);
        if (held) members.nodes[seat.tokenId].leads = false;
        uint256 cursor = seat.cursor;
        for (uint256 looks = 0; looks < MAX_LOOKS; ++looks) {
            (bool found, uint256 id) = members.registered.next(cursor);
            if (!found) (, id) = members.registered.next(0);
            unchecked {
                cursor = id + 1; // an id is below 2^16 - 1
            }
            if (PeerTable.isActive(members.nodes[id])) return _seat(id, members.nodes[id]);
            members.registered.remove(id); // stale: only PeerTable.admit makes it a peer again, and lists it
        }
        // forge-lint: disable-next-line(unsafe-typecast): an id is below 2^16 - 1
        (seat.leader, seat.tokenId, seat.cursor) = (address(0), 0, uint16(cursor));
        if (held) History.leaderElected(0, address(0), term());
    }

    /// Takes along what a registered token has in the election. Call before its registration is dropped.
    function resign(ClusterStorage.NodeRecord storage node) internal {
        (ClusterStorage.VoteState vote, bool leads) = (node.vote, node.leads);
        bool counts = vote == ClusterStorage.VoteState.COUNTED && node.voteTerm == term();
        if (!counts && !leads) return;
        if (counts) {
            --ClusterStorage.members().totals.votes;
            vote = ClusterStorage.VoteState.SPENT;
        }
        if (leads) _vacate();
        (node.vote, node.leads) = (vote, false);
    }

    /// Begins a new term without votes, after peers were dropped together. Their leader loses the seat. The word that every change
    /// writes counts a few such terms, so that the seat is written only for every fourth in a row.
    function lapse() internal {
        ClusterStorage.Members storage members = ClusterStorage.members();
        ClusterStorage.Seat storage seat = ClusterStorage.election().seat;
        (address leader, uint32 begun) = (seat.leader, seat.term);
        if (leader != address(0) && !PeerTable.isActive(members.nodes[seat.tokenId])) {
            members.nodes[seat.tokenId].leads = false;
            _vacate();
        }
        ClusterStorage.Totals storage totals = members.totals;
        uint8 lapses = totals.switches.lapses() + 1;
        begun += lapses;
        if (lapses > Switches.MAX_LAPSES) (seat.term, lapses) = (begun, 0);
        (totals.votes, totals.switches) = (0, totals.switches.withLapses(lapses));
        History.votesLapsed(begun);
    }

    function _seat(uint256 tokenId, ClusterStorage.NodeRecord storage node) private returns (address leader) {
        leader = node.memberAddress;
        node.leads = true;
        // Both words in one write each: field by field, with nothing between them.
        ClusterStorage.Seat storage seat = ClusterStorage.election().seat;
        ClusterStorage.Totals storage totals = ClusterStorage.members().totals;
        uint32 begun = seat.term + totals.switches.lapses() + 1;
        // forge-lint: disable-next-line(unsafe-typecast): an id is below 2^16 - 1
        (seat.leader, seat.tokenId, seat.cursor, seat.term) = (leader, uint16(tokenId), uint16(tokenId + 1), begun);
        (totals.votes, totals.switches) = (0, totals.switches.withLapses(0));
        History.leaderElected(tokenId, leader, begun);
    }

    /// The cursor stays behind the token that held the seat, and whose record says no more that it leads.
    function _vacate() private {
        ClusterStorage.Seat storage seat = ClusterStorage.election().seat;
        (seat.leader, seat.tokenId) = (address(0), 0);
    }
}
