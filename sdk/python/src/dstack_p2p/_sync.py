"""The same without asyncio, for threads."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import threading
from collections.abc import Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any, Optional, TypeVar, Union

from ._progress import Progress
from ._sdk import DStackP2PSDK
from ._tls import TlsMembers
from ._view import Member

_LOG = logging.getLogger("dstack_p2p")
_T = TypeVar("_T")


class SyncDStackP2PSDK:
    """This node in its cluster; the twin of `DStackP2PSDK`, which documents the arguments and errors.

    May be used from several threads. Used with `with`, or ended with `close`, it ends its monitors. An agent that it started itself is
    stopped as that of `DStackP2PSDK` is.
    """

    def __init__(
        self,
        contract: str,
        mode: str,
        *,
        socket: Optional[str] = None,
        agent: Union[str, Sequence[str], None] = "p2p-agent",
        agent_flags: Sequence[str] = (),
        rpc_url: Union[str, Sequence[str]] = (),
        keep_agent: bool = False,
    ) -> None:
        """As `DStackP2PSDK`."""
        self._sdk = DStackP2PSDK(
            contract, mode, socket=socket, agent=agent, agent_flags=agent_flags, rpc_url=rpc_url, keep_agent=keep_agent
        )
        self._loop = _LoopThread()

    @property
    def socket(self) -> str:
        """The agent's socket."""
        return self._sdk.socket

    def register(
        self, timeout: Optional[float] = 300.0, progress: Optional[Callable[[Progress], None]] = None
    ) -> Member:
        """As `DStackP2PSDK.register`. `progress` is called in a thread of its own, and waited for."""

        async def report(step: Progress) -> None:
            if progress is not None:
                await _in_thread(progress, step)

        return self._loop.run(self._sdk.register(timeout, report))

    def get_peers(self, *, include_self: bool = False, timeout: float = 10.0) -> list[str]:
        """As `DStackP2PSDK.get_peers`."""
        return self._loop.run(self._sdk.get_peers(include_self=include_self, timeout=timeout))

    def get_members(self, *, include_self: bool = False, timeout: float = 10.0) -> list[Member]:
        """As `DStackP2PSDK.get_members`."""
        return self._loop.run(self._sdk.get_members(include_self=include_self, timeout=timeout))

    def monitor_peers(self, callback: Callable[[list[str]], None], *, include_self: bool = False) -> Monitor:
        """As `DStackP2PSDK.monitor_peers`, but it returns at once, and `callback` is called in a thread of its own. What is returned
        ends it, and knows what ended it."""

        async def report(peers: list[str]) -> None:
            await _in_thread(callback, peers)

        return Monitor(self._loop, self._sdk.monitor_peers(report, include_self=include_self))

    def tls(self, *, timeout: float = 10.0) -> TlsMembers:
        """As `DStackP2PSDK.tls`."""
        return self._loop.run(self._sdk.tls(timeout=timeout))

    def close(self) -> None:
        """Ends the monitors, and stops the agent if it was started here, and is not to be kept. Not to be called from a callback."""
        if self._loop.is_open:
            self._loop.run(self._sdk.close())
            self._loop.close()

    def __enter__(self) -> SyncDStackP2PSDK:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()


class Monitor:
    """A running `SyncDStackP2PSDK.monitor_peers`. Used with `with`, it ends with it."""

    def __init__(self, loop: _LoopThread, monitor: Coroutine[Any, Any, None]) -> None:
        self._loop = loop
        self._task = loop.run(_begin(monitor))

    def cancel(self) -> None:
        """From now on no call begins; `wait` waits for one that is under way. May be called by the callback."""
        if self._loop.is_open and not self._task.done():
            self._loop.run(_cancel(self._task))

    def wait(self, timeout: Optional[float] = None) -> None:
        """Waits for its end: that it was cancelled, or for an error of the callback or the agent, which is raised.

        Raises `concurrent.futures.TimeoutError` after so many seconds.
        """
        if not self._task.done():
            if not self._loop.is_open:
                return
            self._loop.start(_end_of(self._task)).result(timeout)
        if not self._task.cancelled():
            self._task.result()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.cancel()
        self.wait()


class _LoopThread:
    """An event loop in a thread of its own, which ends with the process."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._of = os.getpid()
        self._thread = threading.Thread(target=self._loop.run_forever, name="dstack-p2p", daemon=True)
        self._thread.start()

    @property
    def is_open(self) -> bool:
        # A process that was forked from this one has the loop, and no thread that runs it.
        return not self._loop.is_closed() and self._of == os.getpid()

    def start(self, coroutine: Coroutine[Any, Any, _T]) -> concurrent.futures.Future[_T]:
        if not self.is_open:
            coroutine.close()
            raise RuntimeError("this SDK object was closed, or is of the process that this one was forked from: make another")
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        future = self.start(coroutine)
        try:
            return future.result()
        except BaseException:
            # Ctrl-C ends what this thread waits for.
            future.cancel()
            raise

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(_end_tasks(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _begin(coroutine: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
    task = asyncio.ensure_future(coroutine)
    task.add_done_callback(_log_failure)
    return task


def _log_failure(monitor: asyncio.Task[Any]) -> None:
    """A failed monitor raises when it is cancelled or closed; the failure is logged at once."""
    failure = None if monitor.cancelled() else monitor.exception()
    if failure is not None:
        _LOG.error("the peers are no longer monitored: %s", failure, exc_info=failure)


async def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()


async def _end_of(task: asyncio.Task[Any]) -> None:
    await asyncio.wait([task])


async def _end_tasks() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()
    await asyncio.get_running_loop().shutdown_default_executor()


async def _in_thread(callback: Callable[[_T], None], argument: _T) -> None:
    """Calls back without keeping the loop, so that a callback may ask the SDK. Cancelled, it waits for the call's end."""
    # Not one of the loop's threads, which are few: callbacks may take their time, and keep neither each other nor the end waiting.
    own_thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="dstack-p2p-callback")
    call = asyncio.get_running_loop().run_in_executor(own_thread, callback, argument)
    own_thread.shutdown(wait=False)
    try:
        await asyncio.shield(call)
    except asyncio.CancelledError:
        await asyncio.wait([call])
        raise
