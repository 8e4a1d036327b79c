"""`monitor_peers`: the first list and every change, whatever happens to the agent."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Optional

import pytest
from fake_agent import CONTRACT, FakeAgent, peer, peers, sample, status, tls_peer
from waiting import until, until_asked, until_unwatched

from dstack_p2p import DStackP2PSDK, WrongContract

pytestmark = pytest.mark.usefixtures("quick")
A, B, C = "10.0.1.2", "10.0.1.3", "10.0.1.4"


def sdk(socket: Path, mode: str = "wireguard") -> DStackP2PSDK:
    return DStackP2PSDK(CONTRACT, mode, socket=str(socket), agent=None)


class Watcher:
    """Monitors, and keeps the lists it gets."""

    def __init__(self, socket: Path, mode: str = "wireguard", **options: Any) -> None:
        self.told: list[list[str]] = []
        self.task = asyncio.ensure_future(sdk(socket, mode).monitor_peers(self.told.append, **options))

    async def until_told(self, *lists: list[str]) -> None:
        await until(f"the lists {lists}", lambda: len(self.told) >= len(lists) or self.task.done(), self.told)
        if self.task.done():
            self.task.result()
        assert self.told == list(lists)

    async def end(self) -> None:
        self.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self.task


def run(socket: Path, scenario: Callable[[FakeAgent], Awaitable[None]], agent: Optional[FakeAgent] = None) -> None:
    with agent or FakeAgent(socket, status(), peers(peer(2))) as running:
        asyncio.run(scenario(running))  # type: ignore[arg-type]


def test_the_first_list_and_every_change_are_reported(socket: Path) -> None:
    async def scenario(agent: FakeAgent) -> None:
        watcher = Watcher(socket)
        await watcher.until_told([A])
        agent.say(peers(peer(2), peer(3)))
        await watcher.until_told([A], [A, B])
        agent.say(peers(peer(3)))
        await watcher.until_told([A], [A, B], [B])
        agent.say(peers())
        await watcher.until_told([A], [A, B], [B], [])
        await watcher.end()

    run(socket, scenario)


def test_the_same_list_is_never_reported_twice(socket: Path) -> None:
    async def scenario(agent: FakeAgent) -> None:
        watcher = Watcher(socket)
        await watcher.until_told([A])
        for state in ("suspect", "down", "up"):
            # What changes is nothing that applications use.
            await until_asked(agent, "/v1/peers", partial(agent.say, peers(peer(2, state=state), tls_peer(9))))
        await until_asked(agent, "/v1/peers", agent.remind)
        agent.say(peers(peer(2), peer(3)))
        await watcher.until_told([A], [A, B])
        await watcher.end()

    run(socket, scenario)


def test_the_list_may_be_with_oneself(socket: Path) -> None:
    async def scenario(agent: FakeAgent) -> None:
        watcher = Watcher(socket, include_self=True)
        await watcher.until_told([A, "10.0.1.7"])
        await watcher.end()

    run(socket, scenario)


@pytest.mark.parametrize("killed", [False, True])
def test_restarts_of_the_agent_are_no_change_by_themselves(
    socket: Path, killed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(agent: FakeAgent) -> None:
        watcher = Watcher(socket)
        await watcher.until_told([A])
        for others in ([peer(2)], [peer(2), peer(3)]):
            agent.stop(leave_socket=killed)
            # As an agent starts: it knows nothing, then itself, then proves one peer after the other, and then it is ready.
            agent.say(peers(membership="unknown"), "the dstack guest agent")
            agent.start()
            await until("it to be asked", lambda: agent.watchers)
            for listed, said in [
                (peers(membership="unknown"), status("unknown")),
                (peers(), status("active", ready=False)),
                (peers(peer(4)), status("active", ready=False)),
            ]:
                await until_asked(agent, "/v1/status", partial(agent.say, listed, said), times=2)
            assert len(watcher.told) == 1
            agent.say(peers(*others), status())
        await watcher.until_told([A], [A, B])
        await watcher.end()

    with caplog.at_level(logging.INFO, logger="dstack_p2p"):
        run(socket, scenario)
    messages = [record.getMessage() for record in caplog.records]
    assert any("the peers stay as they were" in message for message in messages)
    assert any("is back" in message for message in messages)


def test_an_agent_that_comes_later_is_followed(socket: Path) -> None:
    async def scenario() -> None:
        watcher = Watcher(socket)
        await asyncio.sleep(0)
        agent = FakeAgent(socket, status("registering", hint="meshctl register"), peers(membership="registering", own=peer(7)))
        with agent:
            await until("it to be asked", lambda: agent.asked.get("/v1/status", 0) > 1)
            assert watcher.told == []
            agent.say(peers(peer(2)), status())
            await watcher.until_told([A])
        await watcher.end()

    asyncio.run(scenario())


def test_what_is_known_while_the_contract_cannot_be_read_is_reported(socket: Path) -> None:
    stale = status(ready=False)
    stale["verdict"]["state"] = "stale"

    async def scenario(agent: FakeAgent) -> None:
        watcher = Watcher(socket)
        await watcher.until_told([A])
        await watcher.end()

    run(socket, scenario, FakeAgent(socket, stale, peers(peer(2))))


def test_a_node_that_lost_its_membership_has_no_peers_and_one_that_waits_keeps_them(socket: Path) -> None:
    async def scenario(agent: FakeAgent) -> None:
        watcher = Watcher(socket)
        await watcher.until_told([A])
        # A reorg took the registration back: it is made again.
        registering = peers(membership="registering", own=peer(7))
        await until_asked(agent, "/v1/peers", partial(agent.say, registering))
        # The registry still lists the others; this node does not reach them.
        agent.say(peers(peer(2), peer(3), membership="fenced", own=peer(7)), sample("fenced"))
        await watcher.until_told([A], [])
        await watcher.end()

    run(socket, scenario)


def test_a_slow_callback_gets_the_latest_list_and_never_runs_twice_at_once(socket: Path) -> None:
    async def scenario(agent: FakeAgent) -> None:
        told: list[list[str]] = []
        inside, go_on = asyncio.Event(), asyncio.Event()

        async def slow(listed: list[str]) -> None:
            assert not inside.is_set(), "called while it runs"
            inside.set()
            await go_on.wait()
            told.append(listed)
            inside.clear()

        task = asyncio.ensure_future(sdk(socket).monitor_peers(slow))
        await until("the first call", inside.is_set)
        for others in ([peer(2), peer(3)], [peer(3)], [peer(3), peer(4)]):
            agent.say(peers(*others))
        go_on.set()
        await until("the outcome", lambda: len(told) >= 2)
        assert told == [[A], [B, C]]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(socket, scenario)


def test_what_the_callback_does_to_its_list_is_its_own_business(socket: Path) -> None:
    async def scenario(agent: FakeAgent) -> None:
        told: list[list[str]] = []

        def clear(listed: list[str]) -> None:
            told.append(list(listed))
            listed.clear()

        task = asyncio.ensure_future(sdk(socket).monitor_peers(clear))
        await until("the first call", lambda: told)
        await until_asked(agent, "/v1/peers", agent.remind)
        agent.say(peers(peer(3)))
        await until("the change", lambda: len(told) >= 2)
        assert told == [[A], [B]]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(socket, scenario)


def test_an_error_of_the_callback_ends_it(socket: Path) -> None:
    async def scenario(agent: FakeAgent) -> None:
        async def fail(_: list[str]) -> None:
            raise RuntimeError("the application's own")

        with pytest.raises(RuntimeError, match="the application's own"):
            await sdk(socket).monitor_peers(fail)
        await until_unwatched(agent)

    run(socket, scenario)


def test_cancelled_it_calls_no_more_and_hangs_up(socket: Path) -> None:
    async def scenario(agent: FakeAgent) -> None:
        watcher = Watcher(socket)
        await watcher.until_told([A])
        await watcher.end()
        agent.say(peers(peer(3)))
        await until_unwatched(agent)
        assert watcher.told == [[A]]

    run(socket, scenario)


@pytest.mark.parametrize("left", [False, True])
def test_it_can_be_cancelled_while_there_is_no_agent(socket: Path, left: bool) -> None:
    if left:
        FakeAgent(socket, status(), peers()).start().stop(leave_socket=True)

    async def scenario() -> None:
        watcher = Watcher(socket)
        await asyncio.sleep(0.3)
        assert not watcher.task.done()
        await watcher.end()

    asyncio.run(scenario())


def test_an_agent_of_another_cluster_ends_it(socket: Path) -> None:
    async def scenario(agent: FakeAgent) -> None:
        watcher = Watcher(socket)
        await watcher.until_told([A])
        agent.stop()
        other = status()
        other["registry"]["contract"] = "0x" + "ab" * 20
        agent.say(peers(peer(3)), other)
        agent.start()
        await until("it to end", watcher.task.done)
        with pytest.raises(WrongContract):
            watcher.task.result()
        assert watcher.told == [[A]]

    run(socket, scenario)


def test_an_agent_without_room_for_one_more_is_asked_again(socket: Path) -> None:
    async def scenario(agent: FakeAgent) -> None:
        agent.answers["/v1/peers/watch"] = (503, b'{"error": "too many connections to the local API", "hint": ""}')
        watcher = Watcher(socket)
        await until("it to be asked", lambda: agent.asked.get("/v1/peers/watch", 0) > 1)
        del agent.answers["/v1/peers/watch"]
        await watcher.until_told([A])
        await watcher.end()

    run(socket, scenario)


def test_several_monitors_live_beside_each_other(socket: Path) -> None:
    async def scenario(agent: FakeAgent) -> None:
        watchers = [Watcher(socket) for _ in range(3)]
        for watcher in watchers:
            await watcher.until_told([A])
        await watchers[0].end()
        agent.say(peers(peer(3)))
        for watcher in watchers[1:]:
            await watcher.until_told([A], [B])
            await watcher.end()

    run(socket, scenario)
