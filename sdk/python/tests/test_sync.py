"""The twin without asyncio."""

from __future__ import annotations

import concurrent.futures
import inspect
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from fake_agent import CONTRACT, FakeAgent, peer, peers, status
from waiting import PATIENCE, wait_until

from dstack_p2p import DStackP2PSDK, NotAMember, Progress, Stage, SyncDStackP2PSDK

pytestmark = pytest.mark.usefixtures("quick")
A, B = "10.0.1.2", "10.0.1.3"


def sdk(socket: Path) -> SyncDStackP2PSDK:
    return SyncDStackP2PSDK(CONTRACT, "wireguard", socket=str(socket), agent=None)


def test_it_has_the_same_calls_with_the_same_arguments() -> None:
    def calls(kind: type) -> dict[str, list[tuple[str, Any]]]:
        public = {name: call for name, call in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}
        public["__init__"] = kind.__init__  # type: ignore[misc]
        return {
            name: [(parameter.name, parameter.default) for parameter in inspect.signature(call).parameters.values()]
            for name, call in public.items()
        }

    assert calls(SyncDStackP2PSDK) == calls(DStackP2PSDK)


def test_the_three_lines(socket: Path) -> None:
    steps: list[Progress] = []
    with FakeAgent(socket, status("registering"), peers(membership="unknown")) as agent, sdk(socket) as own:

        def tell(step: Progress) -> None:
            steps.append(step)
            # A callback may ask itself.
            with pytest.raises(NotAMember):
                own.get_peers()
            agent.say(peers(peer(2)), status())

        agent.say(peers(membership="registering", own=peer(7)))
        assert own.register(PATIENCE, tell).token_id == 7
        assert [step.stage for step in steps] == [Stage.REGISTERING]
        assert own.get_peers() == [A]
        assert [member.token_id for member in own.get_members(include_self=True)] == [2, 7]


def test_errors_are_the_same(socket: Path) -> None:
    with FakeAgent(socket, status("no-token", hint="meshctl mint"), peers(membership="no-token")), sdk(socket) as own:
        with pytest.raises(NotAMember) as refused:
            own.register(timeout=0.3)
        assert refused.value.command == "meshctl mint"


def test_a_monitor_calls_in_a_thread_of_its_own_until_it_is_cancelled(socket: Path) -> None:
    told: list[list[str]] = []
    threads: set[str] = set()
    with FakeAgent(socket, status(), peers(peer(2))) as agent, sdk(socket) as own:

        def tell(listed: list[str]) -> None:
            threads.add(threading.current_thread().name)
            assert own.get_peers() == listed
            told.append(listed)

        monitor = own.monitor_peers(tell)
        wait_until("the first list", lambda: told)
        agent.stop()
        agent.say(peers(peer(2), peer(3)))
        agent.start()
        wait_until("the change, after a restart", lambda: len(told) > 1)
        with pytest.raises(concurrent.futures.TimeoutError):
            monitor.wait(timeout=0.1)
        monitor.cancel()
        monitor.wait(PATIENCE)
        monitor.cancel()
        agent.say(peers())
        assert own.get_peers() == []
        assert told == [[A], [A, B]]
        assert threading.main_thread().name not in threads


def test_the_end_of_a_monitor_waits_for_the_call_that_is_under_way(socket: Path) -> None:
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def tell(_: list[str]) -> None:
        begun.set()
        may_end.wait(PATIENCE)
        ended.set()

    with FakeAgent(socket, status(), peers(peer(2))), sdk(socket) as own:
        monitor = own.monitor_peers(tell)
        assert begun.wait(PATIENCE)
        monitor.cancel()
        with pytest.raises(concurrent.futures.TimeoutError):
            monitor.wait(timeout=0.1)
        may_end.set()
        monitor.wait(PATIENCE)
        assert ended.is_set()


def test_callbacks_that_take_their_time_do_not_keep_each_other(socket: Path) -> None:
    # More than a loop has threads.
    count = min(os.cpu_count() or 1, 28) + 5
    all_are_in = threading.Barrier(count)
    told: list[list[str]] = []

    def tell(listed: list[str]) -> None:
        all_are_in.wait(PATIENCE)
        told.append(listed)

    with FakeAgent(socket, status(), peers(peer(2))), sdk(socket) as own:
        for _ in range(count):
            own.monitor_peers(tell)
        wait_until("all to be in a call at once", lambda: len(told) == count, told)


def test_a_callback_may_end_its_own_monitor(socket: Path) -> None:
    told: list[list[str]] = []
    with FakeAgent(socket, status(), peers(peer(2))), sdk(socket) as own:
        known = threading.Event()

        def once(listed: list[str]) -> None:
            assert known.wait(PATIENCE)
            told.append(listed)
            monitor.cancel()

        monitor = own.monitor_peers(once)
        known.set()
        monitor.wait(PATIENCE)
        assert told == [[A]]


def test_an_error_of_the_callback_is_the_monitors_and_is_logged(socket: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: list[str]) -> None:
        raise RuntimeError("the application's own")

    with FakeAgent(socket, status(), peers(peer(2))), sdk(socket) as own:
        monitor = own.monitor_peers(fail)
        wait_until("the log to say so", lambda: "no longer monitored: the application's own" in caplog.text)
        with pytest.raises(RuntimeError, match="the application's own"):
            monitor.wait(PATIENCE)


def test_closing_ends_everything_and_is_final(socket: Path) -> None:
    told: list[list[str]] = []
    with FakeAgent(socket, status(), peers(peer(2))):
        own = sdk(socket)
        with own.monitor_peers(told.append) as within:
            wait_until("the first list", lambda: told)
        within.wait(PATIENCE)
        monitor = own.monitor_peers(told.append)
        wait_until("the second monitor's first list", lambda: len(told) > 1)
        own.close()
        own.close()
        monitor.wait(PATIENCE)
        monitor.cancel()
        with pytest.raises(RuntimeError, match="closed"):
            own.get_peers()
        assert told == [[A], [A]]
    assert not any(thread.name == "dstack-p2p" for thread in threading.enumerate())


def test_several_threads_may_ask_at_once(socket: Path) -> None:
    with FakeAgent(socket, status(), peers(peer(2))), sdk(socket) as own:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            lists = list(pool.map(lambda _: own.get_peers(timeout=PATIENCE), range(32)))
    assert lists == [[A]] * 32
