"""Following the agent's list of peers, over its restarts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from ._api import AgentApi, Hints, Starting, Unreachable
from ._launch import Launcher
from ._target import Target
from ._view import Peers

_LOG = logging.getLogger("dstack_p2p")
#: Seconds between two requests to an agent that is not ready.
_POLL = 0.25
#: Seconds until the next attempt to connect: at first, and at most.
_RETRY_FIRST, _RETRY_LAST = 0.1, 2.0


async def follow(
    api: AgentApi, target: Target, launcher: Launcher, report: Callable[[Peers], Awaitable[None]]
) -> None:
    """Reports the list, and again after every hint that it changed, until cancelled. A list without meaning (the agent has not
    read the contract yet, or this node is not a member yet) is skipped.

    Raises what `report` raises, and `WrongContract`, `WrongAgent`, `NotPermitted`; `NoAgent` where one that was started here ended, and
    cannot be started again.
    """
    retry = _RETRY_FIRST
    while True:
        try:
            async with api.watch() as hints:
                await _complete(api, target, hints)
                if retry > _RETRY_FIRST:
                    _LOG.info("the agent is back")
                retry = _RETRY_FIRST
                await _follow_one(api, hints, report)
        except (Unreachable, Starting) as failure:
            if retry == _RETRY_FIRST:
                _LOG.warning("the agent at %s is away, the peers stay as they were: %s", api.socket, failure)
        # Outside of the handler: why another cannot be started is no error of the connection.
        if launcher.was_started() and not launcher.is_running():
            _LOG.warning("the agent that was started here ended: starting it again; its log was %s", launcher.log_path)
            launcher.start()
        await asyncio.sleep(retry)
        retry = min(2 * retry, _RETRY_LAST)


async def _complete(api: AgentApi, target: Target, hints: Hints) -> None:
    """Waits until this agent has the whole list: after its start it lists members as it proves them, one after the other.

    Raises `Unreachable`, and as `Target.check`.
    """
    warned = False
    while True:
        hints.check()
        try:
            status = await api.status()
        except Starting:
            pass
        else:
            target.check(status)
            # An agent that restarts while the contract cannot be read has the whole list as it was.
            if status.ready or status.verdict in ("stale", "fenced"):
                return
            if status.membership_hint and not warned:
                warned = True
                _LOG.warning("this node is not a member; an operator has to run: %s", status.membership_hint)
        await asyncio.sleep(_POLL)


async def _follow_one(api: AgentApi, hints: Hints, report: Callable[[Peers], Awaitable[None]]) -> None:
    """Follows this agent until it is gone."""
    while True:
        peers = await api.peers()
        # Another agent may have answered, one that has just started.
        await asyncio.sleep(0)
        hints.check()
        if peers.membership in ("active", "fenced"):
            await report(peers)
        await hints.next()
