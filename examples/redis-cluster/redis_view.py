"""A Redis Cluster node's answers: one command over TCP, and the cluster as that node sees it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Optional, Union

SLOTS = 16384
#: Seconds for a node to answer.
PATIENCE = 2.0
#: Bytes; a node's table of a thousand others is far smaller.
_LONGEST = 4 << 20
#: The errors of a Redis that is no node of a cluster without passwords.
_STRANGERS = ("ERR This instance has cluster support disabled", "ERR unknown command", "NOAUTH", "NOPERM", "DENIED")


class Refused(Exception):
    """Redis answered, and did not do it."""

    def __init__(self, what: str, reply: str) -> None:
        super().__init__(f"{what}: {reply}")
        self.reply = reply


class NoRedis(Exception):
    """What answered does not speak Redis's protocol."""


async def ask(address: str, port: int, *words: str) -> str:
    """One command; returns the answer as text.

    Raises `Refused`, `NoRedis`, and `OSError` when nothing answers: `ConnectionRefusedError` where nothing listens.
    """
    # `wait_for` may lose a cancellation, before Python 3.12.
    asking = asyncio.ensure_future(_ask(address, port, words))
    try:
        done, _ = await asyncio.wait([asking], timeout=PATIENCE)
    finally:
        asking.cancel()
    if not done:
        raise OSError(f"{address}:{port} does not answer within {PATIENCE:g} s")
    return asking.result()


async def _ask(address: str, port: int, words: tuple[str, ...]) -> str:
    reader, writer = await asyncio.open_connection(address, port)
    try:
        writer.write(b"*%d\r\n" % len(words))
        for word in words:
            writer.write(b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode()))
        line = (await reader.readuntil(b"\r\n"))[:-2].decode()
        kind, rest = line[:1], line[1:]
        if kind == "-":
            raise Refused(f"`{' '.join(words)}` at {address}", rest)
        if kind in ("+", ":"):
            return rest
        if kind != "$" or not rest.isdecimal() or int(rest) > _LONGEST:
            raise NoRedis(f"{address}:{port} answers {line[:80]!r}")
        return (await reader.readexactly(int(rest))).decode()
    except asyncio.IncompleteReadError:
        raise OSError(f"{address}:{port} hangs up") from None
    except (asyncio.LimitOverrunError, UnicodeDecodeError):
        raise NoRedis(f"{address}:{port} does not speak Redis's protocol") from None
    finally:
        writer.close()


@dataclass(frozen=True)
class Node:
    """A line of CLUSTER NODES."""

    id: str
    #: Empty once its address is known to be another node's.
    address: str
    flags: frozenset[str]
    #: Whose replica it is.
    master: Optional[str]
    #: The node with the higher one decides about slots. Masters of a new cluster get different ones by themselves.
    epoch: int
    is_connected: bool
    slots: frozenset[int]

    @property
    def is_master(self) -> bool:
        return "master" in self.flags

    @property
    def is_failing(self) -> bool:
        return "fail" in self.flags or "fail?" in self.flags

    @staticmethod
    def of(line: str) -> Node:
        """Raises `ValueError`."""
        node, place, flags, master, _ping, _pong, epoch, link, *slots = line.split(" ")
        return Node(
            id=node,
            # 10.0.1.1:6379@16379, and with later versions a name and more after a comma.
            address=place.split(",")[0].rpartition("@")[0].rpartition(":")[0],
            flags=frozenset(flags.split(",")),
            master=None if master == "-" else master,
            epoch=int(epoch),
            is_connected=link == "connected",
            # [93-<-…] is a slot that is being moved.
            slots=frozenset(slot for part in slots if not part.startswith("[") for slot in _range(part)),
        )


def _range(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), min(int(last or first), SLOTS - 1) + 1)


@dataclass(frozen=True)
class View:
    """The cluster as one of its nodes sees it."""

    me: Node
    #: Without those whose handshake is under way.
    others: tuple[Node, ...]

    @staticmethod
    def of(answer: str) -> View:
        """Raises `NoRedis` for what is no answer to CLUSTER NODES."""
        try:
            nodes = [Node.of(line) for line in answer.splitlines()]
            me = next(node for node in nodes if "myself" in node.flags)
        except (ValueError, StopIteration):
            raise NoRedis(f"this is no list of nodes: {answer[:200]!r}") from None
        return View(me, tuple(node for node in nodes if node is not me and "handshake" not in node.flags))

    @property
    def nodes(self) -> tuple[Node, ...]:
        return (self.me, *self.others)

    @property
    def slots(self) -> frozenset[int]:
        """Those that belong to any node."""
        return frozenset().union(*(node.slots for node in self.nodes))

    def knows(self, node: str) -> bool:
        return any(known.id == node for known in self.nodes)


@dataclass(frozen=True)
class NoNode:
    """No cluster node: nothing listens there, or something else."""


@dataclass(frozen=True)
class Silent:
    """It may be one or not."""

    why: str


Look = Union[View, NoNode, Silent]


async def look(address: str, port: int) -> Look:
    try:
        return View.of(await ask(address, port, "CLUSTER", "NODES"))
    except (ConnectionRefusedError, NoRedis):
        return NoNode()
    except Refused as refused:
        # Others are busy with something, such as reading their data from the disk.
        return NoNode() if refused.reply.startswith(_STRANGERS) else Silent(str(refused))
    except OSError as error:
        return Silent(str(error))


async def look_at(addresses: list[str], port: int) -> dict[str, Look]:
    """All at once."""
    return dict(zip(addresses, await asyncio.gather(*(look(address, port) for address in addresses))))
