"""What a node does for its Redis Cluster: found it, join it, get a role in it, and forget nodes that the contract no longer lists.

Each node does its own part, once a second, and only what the picture of that moment calls for: whatever is interrupted, by whatever, goes
on from what is there. No node is ever forgotten for not answering.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Optional

from redis_view import SLOTS, Look, Node, Silent, View, ask, look, look_at

#: Seconds for which a node must have seen the same before it founds, or takes a role: so that other nodes that decide are seen.
SETTLE = 5.0
#: Seconds between two looks at the others by a node of a complete cluster.
LOOK_AROUND = 5.0
#: Seconds for Redis to elect a master's successor by itself.
ELECTION = 20.0
LOG = logging.getLogger("redis_cluster")


class Cluster:
    """This node's part. `founding` is a file of its own: it says that this node is the founder, and not done yet."""

    def __init__(self, address: str, port: int, masters: int, founding: Path, is_replica: bool = True) -> None:
        self.address = address
        self.port = port
        self.masters = masters
        self.founding = founding
        #: What it becomes when there are masters enough.
        self.is_replica = is_replica
        #: When each message was logged last.
        self._said: dict[str, float] = {}
        self._looked_around = float("-inf")
        #: What is seen by a node that is to decide something, and since when.
        self._picture: tuple[object, ...] = ()
        self._since = 0.0
        #: Since when the master of this replica is gone, or when this replica last tried to take over.
        self._orphan_since: Optional[float] = None

    async def tend(self, members: list[str]) -> None:
        """One look, and what it calls for. `members` are the contract's, with this node, ascending by token.

        Raises `Refused`, `NoRedis` and `OSError`; what was left is done by the next call.
        """
        own = await look(self.address, self.port)
        if not isinstance(own, View):
            raise OSError(own.why if isinstance(own, Silent) else f"no cluster node answers at {self.address}:{self.port}")
        if self.founding.exists() and (not own.me.slots or len(own.slots) == SLOTS):
            # It did not come to be the founder; or all is founded.
            self._is_founder(False)
        began = time.monotonic()
        is_busy = self.founding.exists() or not own.slots
        looks: dict[str, Look] = {}
        if is_busy or began >= self._looked_around + LOOK_AROUND:
            looks = await look_at([member for member in members if member != self.address], self.port)
            self._looked_around = began
        peers = {address: seen for address, seen in looks.items() if isinstance(seen, View)}
        if not own.slots:
            await self._join_or_found(own, members, looks, peers, began)
            return
        await self._forget(own, members)
        await self._meet_again(own, peers)
        if self.founding.exists():
            await self._hand_out(own, members, looks, peers)
        is_orphan = await self._is_orphan(own, members)
        await self._take_role(own, members, is_orphan)

    async def _join_or_found(
        self, own: View, members: list[str], looks: dict[str, Look], peers: dict[str, View], began: float
    ) -> None:
        """For a node that knows of no slots at all. Where any node has slots there is a cluster, and never another one is made."""
        existing = next((address for address, view in peers.items() if view.slots), None)
        if existing is not None:
            LOG.info("joins the cluster of %s", existing)
            await self._ask("CLUSTER", "MEET", existing, str(self.port))
            return
        ready = [member for member in members if member in peers or member == self.address]
        silent = [f"{address} ({seen.why})" for address, seen in looks.items() if isinstance(seen, Silent)]
        picture = (members, ready, silent)
        unchanged = self._unchanged(picture, began)
        if len(ready) < self.masters:
            self._say(f"there is no cluster yet, and {len(ready)} nodes are ready of the {self.masters} it begins with")
        elif silent:
            # They may be the cluster, or part of it.
            self._say(f"there is no cluster yet as far as can be seen; start, or revoke, who does not answer: {', '.join(silent)}")
        elif ready[0] != self.address:
            self._say(f"there is no cluster yet; {ready[0]} founds it")
        elif unchanged >= SETTLE:
            await self._found(began)

    async def _found(self, began: float) -> None:
        """From the moment it has slots, this node is the cluster, which all others join: one command makes it. What was seen when this
        `began` must not be older by then than the time that any other founder waits, which would have seen this one."""
        self._is_founder(True)
        if time.monotonic() >= began + SETTLE:
            return  # This process stalled. The next look removes the file.
        LOG.info("founds the cluster")
        await self._give(self.address, self._parts()[0])

    async def _hand_out(self, own: View, members: list[str], looks: dict[str, Look], peers: dict[str, View]) -> None:
        """The founder, and no other node, gives each free part of the slots to a master that has none."""
        known = {node.address: node for node in own.others if node.address in members}
        for address in known:
            seen = looks.get(address)
            if not isinstance(seen, View):
                self._say(f"founding waits for {address}: {seen.why if isinstance(seen, Silent) else 'no Redis runs there'}")
                return
            if not seen.me.slots <= own.slots:
                return  # It was given some, and does not show them yet.
        # The first that run Redis: they have joined, or are about to.
        first = [address for address in members if address in peers and (address in known or not peers[address].me.slots)]
        empty = [
            address
            for address in first[: self.masters - 1]
            if address in known
            and known[address].id == peers[address].me.id
            and known[address].is_connected
            and known[address].is_master
            and peers[address].me.is_master
            and peers[address].knows(own.me.id)
            and not peers[address].me.slots
        ]
        missing = [part for part in self._parts() if not own.slots.intersection(part)]
        if len(empty) < len(missing):
            self._say(f"founding goes on when the first {self.masters} nodes are linked")
            return
        for address, part in zip(empty, missing):
            await self._give(address, part)

    async def _give(self, address: str, part: range) -> None:
        LOG.info("slots %d to %d are %s's", part[0], part[-1], address)
        await ask(address, self.port, "CLUSTER", "ADDSLOTSRANGE", str(part[0]), str(part[-1]))

    def _parts(self) -> list[range]:
        bounds = [SLOTS * number // self.masters for number in range(self.masters + 1)]
        return [range(first, end) for first, end in zip(bounds, bounds[1:])]

    def _is_founder(self, is_founder: bool) -> None:
        """It has to be on the disk before anything is done, or the founding could stop halfway for good."""
        if is_founder:
            with self.founding.open("w") as file:
                os.fsync(file.fileno())
        else:
            self.founding.unlink()
        directory = os.open(self.founding.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    async def _forget(self, own: View, members: list[str]) -> None:
        """Redis Cluster knows a node until every node has forgotten it, within a minute of each other: one that gossip brings back is
        forgotten again."""
        for node in own.others:
            # Without an address: it has a successor there, which came with an empty disk.
            is_gone = node.address not in members
            if not is_gone or node.id == own.me.master:
                continue
            who = f"{node.id}, which was {node.address}" if node.address else f"{node.id}, which lost its disk"
            heirs = [other.address for other in own.nodes if other.master == node.id and other.address in members]
            if node.slots and heirs:
                self._say(f"{who} is gone; one of {', '.join(heirs)} takes over from it")
                continue
            LOG.info("forgets %s", who)
            if node.slots:
                LOG.warning("%d slots were its alone", len(node.slots))
            await self._ask("CLUSTER", "FORGET", node.id)

    async def _meet_again(self, own: View, peers: dict[str, View]) -> None:
        """A node that was revoked and is back knows the others, and they have forgotten it. One that this node does not know may be of
        another cluster, and is left alone."""
        for address, view in peers.items():
            if own.knows(view.me.id) and view.slots and not view.knows(own.me.id):
                LOG.info("%s has forgotten this node, and is met again", address)
                await self._ask("CLUSTER", "MEET", address, str(self.port))

    async def _is_orphan(self, own: View, members: list[str]) -> bool:
        """Whether this node is to look for another master. Redis itself elects the best replica of a master that is gone; but never one
        that was down when it went, and none for a master that was back with an empty disk before it was missed. After a while the
        first one takes over with what it has, if a majority of the masters is there to agree."""
        master = next((node for node in own.others if node.id == own.me.master), None)
        if master is None or master.address in members or not master.slots:
            self._orphan_since = None
            return own.me.is_master or master is None or master.address not in members
        now = time.monotonic()
        self._orphan_since = self._orphan_since or now
        there = [node.address for node in own.nodes if node.master == master.id and (node is own.me or node.is_connected)]
        if now < self._orphan_since + ELECTION or self.address != next(member for member in members if member in there):
            return False
        if int(await self._ask("DBSIZE")) == 0:
            # It may never have had the data; and should that node ever be back, then with it.
            return True
        LOG.info("takes over from %s, which is gone", master.id)
        self._orphan_since = now
        await self._ask("CLUSTER", "FAILOVER", "FORCE")
        return False

    async def _take_role(self, own: View, members: list[str], is_orphan: bool) -> None:
        """A node that the founding left without slots becomes a replica of the master that has the fewest."""
        if len(own.slots) < SLOTS:
            if not self.founding.exists():
                self._say(
                    f"{SLOTS - len(own.slots)} slots belong to no node. While the cluster is being founded this passes; otherwise an "
                    f"operator has to run: redis-cli --cluster fix {self.address}:{self.port}"
                )
            return
        masters = [node for node in own.nodes if node.slots and node.address in members and "fail" not in node.flags]
        if not self.is_replica or own.me.slots or not is_orphan or any("fail?" in node.flags for node in masters):
            return
        replicas = {node.id: sum(other.master == node.id for other in own.nodes) for node in masters}
        picture = tuple(sorted((node.id, node.address, node.master or "") for node in own.nodes))
        if self._unchanged(picture, time.monotonic()) < SETTLE:
            return
        waiting = {node.address: node for node in own.nodes if node is own.me or (node.is_master and not node.slots)}
        # Several may come at once: each sees who else does, and where those go.
        for address in members:
            if address in waiting and masters:
                chosen = min(masters, key=lambda node: (replicas[node.id], members.index(node.address)))
                replicas[chosen.id] += 1
                if address == self.address:
                    LOG.info("becomes a replica of %s", chosen.address)
                    await self._ask("CLUSTER", "REPLICATE", chosen.id)

    def _unchanged(self, picture: tuple[object, ...], now: float) -> float:
        """For how long this is what is seen."""
        if picture != self._picture:
            self._picture, self._since = picture, now
        return now - self._since

    async def _ask(self, *words: str) -> str:
        return await ask(self.address, self.port, *words)

    def _say(self, what: str) -> None:
        """Once a minute, as long as it lasts."""
        now = time.monotonic()
        self._said = {said: since for said, since in self._said.items() if now < since + 60.0}
        if what not in self._said:
            LOG.info("%s", what)
            self._said[what] = now
