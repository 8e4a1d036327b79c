"""redis_cluster.py with real Redis nodes on loopback, in what a mesh takes long to do to them: founders that die, disks that are lost,
nodes that come back after they were forgotten, and clusters that cannot be seen."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis_cluster
import redis_member
from redis_cluster import Cluster
from redis_member import Member, Server
from redis_view import SLOTS, NoNode, NoRedis, Refused, View, ask, look, look_at

PORT = 6379
#: Seconds for what must happen, on a slow and busy machine.
PATIENCE = 120.0
#: Each scenario has so many loopback addresses of its own.
_BLOCK = 16
_BLOCKS = itertools.count()


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    for program, package in (("redis-server", "redis-server"), ("redis-cli", "redis-tools")):
        assert shutil.which(program), f"{program} is not installed: apt-get install {package}"


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_cluster, "SETTLE", 2.0)
    monkeypatch.setattr(redis_member, "PAUSE", 0.2)


class Died(Exception):
    """What ends a program in a test."""


class Nodes:
    """Members of a mesh that is made up: what redis_member.py runs, without an agent."""

    def __init__(self, directory: Path, size: int) -> None:
        self.directory = directory
        # Two runs on one machine have addresses of their own, too.
        network = f"127.{64 + os.getpid() // 256 % 64}.{os.getpid() % 256}"
        first = _BLOCK * next(_BLOCKS)
        self.addresses = [f"{network}.{first + number}" for number in range(1, size + 1)]
        self._members: dict[str, Member] = {}
        self._tasks: dict[str, asyncio.Future[None]] = {}
        self._listed = list(self.addresses)

    def start(self, *addresses: str, is_replica: bool = True) -> None:
        for address in addresses:
            directory = self.data_dir(address)
            directory.mkdir(parents=True, exist_ok=True)
            cluster = Cluster(address, PORT, 3, self.founding(address), is_replica)
            member = Member(address, Server(address, PORT, directory), cluster)
            member.know(self._listed if address in self._listed else [])
            self._members[address] = member
            self._tasks[address] = asyncio.ensure_future(member.keep())

    def list(self, *addresses: str) -> None:
        """What the contract says from now on: to each of its members, and that they are none to the others."""
        self._listed = [address for address in self.addresses if address in addresses]
        for address, member in self._members.items():
            member.know(self._listed if address in self._listed else [])

    async def kill(self, *addresses: str) -> None:
        """As machines end that die."""
        for address in addresses:
            self.send(signal.SIGKILL, address)
            await self.stop(address)

    async def stop(self, *addresses: str) -> None:
        tasks = [self._tasks.pop(address) for address in addresses]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def send(self, number: signal.Signals, *addresses: str) -> None:
        for address in addresses:
            os.kill(self._members[address].server.pid, number)

    def has_died(self, address: str) -> bool:
        """Of what the test lets programs die of."""
        task = self._tasks[address]
        return task.done() and isinstance(task.exception(), Died)

    def data_dir(self, address: str) -> Path:
        return self.directory / address

    def founding(self, address: str) -> Path:
        return self.data_dir(address) / "founding"

    async def wait_until_complete(self, *addresses: str) -> dict[str, View]:
        """Waits until these nodes, and they alone, are a cluster of three masters that serves, as each of them sees it."""

        async def complete() -> dict[str, View]:
            views = {address: seen for address, seen in (await look_at(list(addresses), PORT)).items() if isinstance(seen, View)}
            are_complete = len(views) == len(addresses) and all(is_complete(view, addresses) for view in views.values())
            infos = [await ask(address, PORT, "CLUSTER", "INFO") for address in addresses]
            return views if are_complete and all("cluster_state:ok" in info for info in infos) else {}

        found: dict[str, View] = await wait_until(f"{addresses} to be a cluster", complete, lambda: self.seen(*addresses))
        return found

    async def seen(self, *addresses: str) -> str:
        return "\n".join(f"{address}: {seen}" for address, seen in (await look_at(list(addresses), PORT)).items())


def is_complete(view: View, addresses: tuple[str, ...]) -> bool:
    masters = [node for node in view.nodes if node.slots]
    replicas = [node for node in view.nodes if node.master]
    return (
        sorted(node.address for node in view.nodes) == sorted(addresses)
        and len({master.epoch for master in masters}) == len(masters) == 3
        and len(view.slots) == SLOTS
        and len(masters) + len(replicas) == len(addresses)
        and all(node.is_connected and not node.is_failing for node in view.others)
    )


async def wait_until(what: str, look: Callable[[], Awaitable[Any]], seen: Callable[[], Awaitable[str]]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            found = await look()
        except (Refused, NoRedis, OSError) as error:
            found, what = None, f"{what.partition(';')[0]}; the last error: {error}"
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {PATIENCE} s: {what}\n{await seen()}"
        await asyncio.sleep(0.1)


@asynccontextmanager
async def nodes(directory: Path, size: int) -> AsyncIterator[Nodes]:
    made = Nodes(directory, size)
    try:
        yield made
    finally:
        await made.stop(*made._tasks)


async def put(address: str, slots: frozenset[int]) -> str:
    """Writes a key of a master's; returns it."""
    for number in itertools.count():
        key = f"key-{number}"
        if int(await ask(address, PORT, "CLUSTER", "KEYSLOT", key)) in slots:
            assert await ask(address, PORT, "SET", key, "kept") == "OK"
            return key
    raise AssertionError("every slot has keys")


async def wait_until_replicated(own: Nodes, master: str, replicas: int = 1) -> None:
    async def in_step() -> bool:
        info = await ask(master, PORT, "INFO", "replication")
        lags = [line for line in info.splitlines() if line.startswith("slave") and "state=online" in line]
        offset = next(line.partition(":")[2] for line in info.splitlines() if line.startswith("master_repl_offset:"))
        return len([line for line in lags if f"offset={offset}," in line]) == replicas

    await wait_until(f"the replicas of {master} to have all", in_step, lambda: own.seen(master))


async def wait_to_read(own: Nodes, address: str, key: str) -> None:
    async def read() -> bool:
        return await ask(address, PORT, "GET", key) == "kept"

    await wait_until(f"{address} to have {key}", read, lambda: own.seen(address))


def test_one_founds_and_goes_on_after_it_died_at_any_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    #: By scenario: how many times slots are given until the founder dies, and whether it still gives the last ones.
    left: dict[int, tuple[int, bool]] = {}

    def block(address: str) -> int:
        return int(address.rpartition(".")[2]) // _BLOCK

    async def mortal(address: str, port: int, *words: str) -> str:
        if "ADDSLOTSRANGE" not in words or block(address) not in left:
            return await ask(address, port, *words)
        count, gives = left[block(address)]
        left[block(address)] = (count - 1, gives)
        answer = await ask(address, port, *words) if count > 0 or gives else ""
        if count == 0:
            del left[block(address)]
            raise Died
        return answer

    async def scenario(count: int, gives: bool) -> None:
        async with nodes(tmp_path / f"{count}-{gives}", 4) as own:
            first = own.addresses[0]
            left[block(first)] = (count, gives)
            own.start(*own.addresses)

            async def died() -> bool:
                return own.has_died(first)

            await wait_until(f"the founder to die ({count}, {gives})", died, lambda: own.seen(*own.addresses))
            assert own.founding(first).exists()
            await own.stop(first)
            own.start(first)
            views = await own.wait_until_complete(*own.addresses)
            assert [address for address in own.addresses if views[address].me.slots] == own.addresses[:3]

            async def done() -> bool:
                return not any(own.founding(address).exists() for address in own.addresses)

            await wait_until("the founder to be done", done, lambda: own.seen(first))

    async def all_of_them() -> None:
        await asyncio.gather(*(scenario(count, gives) for count in range(3) for gives in (False, True)))

    monkeypatch.setattr(redis_cluster, "ask", mortal)
    asyncio.run(all_of_them())


def test_there_is_never_a_second_cluster(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")

    async def scenario() -> None:
        async with nodes(tmp_path, 6) as own:
            old, new = own.addresses[3:], own.addresses[:3]
            own.list(*old)
            own.start(*old)
            await own.wait_until_complete(*old)
            # It is there, and says nothing; three new ones, of which the first would be the founder, wait.
            own.send(signal.SIGSTOP, *old)
            own.list(*own.addresses)
            own.start(*new)

            async def waits() -> bool:
                return "start, or revoke, who does not answer" in caplog.text

            await wait_until("the new ones to wait", waits, lambda: own.seen(*new))
            founded = caplog.text.count("founds the cluster")
            own.send(signal.SIGCONT, *old)
            views = await own.wait_until_complete(*own.addresses)
            assert caplog.text.count("founds the cluster") == founded
            # Each master has a replica.
            masters = {views[address].me.id for address in old}
            assert {views[address].me.master for address in new} == masters

    asyncio.run(scenario())


def test_strangers_are_harmless(tmp_path: Path) -> None:
    async def chatter(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async def scenario() -> None:
        async with nodes(tmp_path, 6) as own:
            # The first of all run no Redis Cluster: one another Redis, one something else, one nothing.
            other, web, _nothing, *cluster = own.addresses
            words = ["redis-server", "--bind", other, "--port", str(PORT), "--protected-mode", "no", "--save", "", "--dir", str(tmp_path)]
            plain = await asyncio.create_subprocess_exec("setpriv", "--pdeathsig", "KILL", *words)
            server = await asyncio.start_server(chatter, web, PORT)
            try:
                own.start(*cluster)
                before = await own.wait_until_complete(*cluster)
                assert await look(other, PORT) == await look(web, PORT) == NoNode()
                own.list(*cluster)
                await own.wait_until_complete(*cluster)
                own.list(*own.addresses)
                after = await own.wait_until_complete(*cluster)
                assert {view.me for view in after.values()} == {view.me for view in before.values()}
            finally:
                server.close()
                plain.kill()
                await plain.wait()

    asyncio.run(scenario())


def test_a_revoked_master_without_replica_has_its_slots_again_when_it_is_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with nodes(tmp_path, 3) as own:
            own.start(*own.addresses)
            views = await own.wait_until_complete(*own.addresses)
            *left, revoked = own.addresses
            key = await put(revoked, views[revoked].me.slots)
            own.list(*left)

            async def forgotten() -> bool:
                seen = await look_at(left, PORT)
                return all(isinstance(view, View) and not view.knows(views[revoked].me.id) for view in seen.values())

            async def is_down() -> bool:
                return "cluster_state:fail" in await ask(left[0], PORT, "CLUSTER", "INFO")

            await wait_until("it to be forgotten", forgotten, lambda: own.seen(*left))
            await wait_until("the cluster to say that slots are missing", is_down, lambda: own.seen(*left))

            async def stopped() -> bool:
                return await look(revoked, PORT) == NoNode()

            await wait_until("its Redis to be stopped", stopped, lambda: own.seen(revoked))
            # It was off, and hears of nothing, until it is a member again.
            await own.stop(revoked)
            own.list(*own.addresses)
            own.start(revoked)
            again = await own.wait_until_complete(*own.addresses)
            assert again[revoked].me.id == views[revoked].me.id
            await wait_to_read(own, revoked, key)

    asyncio.run(scenario())


@pytest.mark.nightly
def test_a_replica_takes_over_from_a_master_that_lost_its_disk_or_was_revoked_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_cluster, "ELECTION", 3.0)

    async def scenario() -> None:
        async with nodes(tmp_path, 4) as own:
            own.start(*own.addresses)
            views = await own.wait_until_complete(*own.addresses)
            replica = next(address for address in own.addresses if views[address].me.master)
            master = next(address for address in own.addresses if views[address].me.id == views[replica].me.master)
            key = await put(master, views[master].me.slots)
            await wait_until_replicated(own, master)
            # It is back before it is missed.
            await own.kill(master)
            shutil.rmtree(own.data_dir(master))
            own.start(master)
            again = await own.wait_until_complete(*own.addresses)
            assert again[replica].me.slots == views[master].me.slots
            assert again[master].me.id != views[master].me.id
            await wait_to_read(own, replica, key)

            # Now one is down while its master is revoked: it has not heard of it for long, and no other node has the data.
            revoked = next(address for address in own.addresses if again[address].me.id == again[master].me.master)
            key = await put(revoked, again[revoked].me.slots)
            await wait_until_replicated(own, revoked)
            await own.stop(master)
            rest = [address for address in own.addresses if address != revoked]
            own.list(*rest)
            own.start(master)
            last = await own.wait_until_complete(*rest)
            assert last[master].me.slots == again[revoked].me.slots
            await wait_to_read(own, master, key)

    asyncio.run(scenario())


@pytest.mark.nightly
def test_a_master_that_is_to_grow_the_cluster_waits_for_its_operator(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with nodes(tmp_path, 4) as own:
            *masters, late = own.addresses
            own.start(*masters)
            views = await own.wait_until_complete(*masters)
            key = await put(masters[0], views[masters[0]].me.slots)
            own.start(late, is_replica=False)

            async def rebalanced() -> bool:
                # What README.md says.
                words = ["--cluster", "rebalance", f"{masters[0]}:{PORT}", "--cluster-use-empty-masters"]
                done = await asyncio.create_subprocess_exec("redis-cli", *words, stdout=asyncio.subprocess.DEVNULL)
                return await done.wait() == 0

            async def linked() -> bool:
                seen = (await look_at(own.addresses, PORT)).values()
                return all(isinstance(view, View) and sum(node.is_connected for node in view.others) == 3 for view in seen)

            await wait_until("the late one to be there", linked, lambda: own.seen(*own.addresses))
            await wait_until("its slots", rebalanced, lambda: own.seen(*own.addresses))

            async def has_a_quarter() -> bool:
                seen = (await look_at(own.addresses, PORT)).values()
                return all(isinstance(view, View) and len(view.me.slots) == SLOTS // 4 for view in seen)

            await wait_until("each to have a quarter", has_a_quarter, lambda: own.seen(*own.addresses))
            owners = [address for address in own.addresses if await holds(address, key)]
            assert len(owners) == 1
            await wait_to_read(own, owners[0], key)

    asyncio.run(scenario())


async def holds(address: str, key: str) -> bool:
    """Whether a master has the slot of a key."""
    seen = await look(address, PORT)
    return isinstance(seen, View) and int(await ask(address, PORT, "CLUSTER", "KEYSLOT", key)) in seen.me.slots


@pytest.mark.parametrize(
    "answer",
    ["", "OK", "a b c", "id 10.0.1.1:1@2 master - 0 0 1 connected", "id 10.0.1.1:1@2 myself,master - 0 0 x connected 0-5"],
)
def test_an_answer_that_is_none_is_refused(answer: str) -> None:
    with pytest.raises(NoRedis):
        View.of(answer)


def test_a_view_is_read() -> None:
    view = View.of(
        "aa 10.0.1.1:6379@16379,name master - 0 0 2 connected 0-9 12 [93-<-bb]\n"
        "bb 10.0.1.2:6379@16379 myself,slave aa 0 0 2 connected\n"
        "cc :0@0 master,fail,noaddr - 0 0 1 disconnected 20\n"
        "dd 10.0.1.4:6379@16379 handshake - 0 0 0 disconnected\n"
    )
    first, lost = view.others
    assert (view.me.id, view.me.master, view.me.is_master) == ("bb", "aa", False)
    assert (first.address, first.slots, first.is_failing) == ("10.0.1.1", frozenset([*range(10), 12]), False)
    assert (lost.address, lost.is_failing, lost.is_connected) == ("", True, False)
    assert len(view.slots) == 12 and view.knows("cc") and not view.knows("dd")
