"""Waiting for what happens in another thread, task or process: looking again and again, up to a deadline that a slow machine keeps."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Callable
from typing import Any

from fake_agent import FakeAgent

#: Seconds; the machine may stand still, and be shared by many.
PATIENCE = 90.0


def wait_until(what: str, look: Callable[[], Any], seen: object = None) -> None:
    """Waits until `look` is true; says what was `seen` when it does not become so."""
    deadline = time.monotonic() + PATIENCE
    while not look():
        assert time.monotonic() < deadline, f"not within {PATIENCE} s: {what}; seen: {seen!r}"
        time.sleep(0.01)


async def until(what: str, look: Callable[[], Any], seen: object = None) -> None:
    """The same, beside other tasks."""
    deadline = time.monotonic() + PATIENCE
    while not look():
        assert time.monotonic() < deadline, f"not within {PATIENCE} s: {what}; seen: {seen!r}"
        await asyncio.sleep(0.01)


def traceback_of(error: BaseException) -> str:
    """What an application prints that does not expect it."""
    return "".join(traceback.format_exception(type(error), error, error.__traceback__))


async def until_asked(agent: FakeAgent, path: str, after: Callable[[], None], times: int = 1) -> None:
    """Does something, and waits until the agent was asked so many times more."""
    before = agent.asked.get(path, 0)
    after()
    await until(f"{path} to be asked for", lambda: agent.asked.get(path, 0) >= before + times)


async def until_unwatched(agent: FakeAgent) -> None:
    """Waits until no client is connected. An agent notices that one has left when it sends something."""

    def look() -> bool:
        agent.remind()
        return agent.watchers == 0

    await until("every client to hang up", look)
