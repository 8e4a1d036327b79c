"""The three lines, for asyncio."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Optional, Union

from ._api import AgentApi, Starting, Unreachable
from ._errors import NoAgent, NotAMember, TimedOut
from ._follow import follow
from ._launch import Launcher
from ._progress import Progress, Stage
from ._sockets import find_socket
from ._target import Target, not_in_time
from ._tls import TlsMembers
from ._view import Member, Peers, Status

_LOG = logging.getLogger("dstack_p2p")
#: Seconds between two questions while something is waited for.
_POLL = 0.2
#: Seconds for an agent to appear where none can be started here: both may just be starting, and one may be restarting.
_AGENT_WITHIN = 10.0

#: Called with every step of becoming a member; awaited if it is a coroutine function.
OnProgress = Callable[[Progress], Union[None, Awaitable[None]]]
#: Called with connection strings; awaited if it is a coroutine function.
OnPeers = Callable[[list[str]], Union[None, Awaitable[None]]]


class DStackP2PSDK:
    """This node in its cluster. See `SyncDStackP2PSDK` for its twin without asyncio.

    An agent that it started itself is stopped at the end of `async with`, by `close`, or when the interpreter exits, unless it is to be
    kept; one that an application leaves by being killed is used by the next one.
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
        """
        Args:
            contract: address of the cluster's contract, 0x and 40 hexadecimal digits.
            mode: `wireguard` for addresses in the mesh, `tls` for https URLs behind the dstack gateway, `auto` for the best way to each
                peer from a node of either kind (the address, else the URL), or this node's own URL, for the endpoints as the
                contract lists them: any URL in a cluster with devMode, the https URL of the gateway in others.
            socket: the agent's socket; by default `P2P_SOCKET`, or what is found in /run/p2p-agent and $XDG_RUNTIME_DIR/p2p-agent.
            agent: the program to start where no agent answers, in words if there are several, such as `["ip", "netns", "exec",
                "blue", "p2p-agent"]`; `None` for none.
            agent_flags: further flags for it, such as `["--gateway-domain", "gateway.example.com"]`. Nothing secret.
            rpc_url: RPC URLs for it, which may hold API keys: they are neither in its arguments nor in its environment.
            keep_agent: whether the agent that is started here goes on when this application ends.

        Raises `ValueError` for invalid arguments, `WrongAgent` where several agents run and none was chosen, and
        `NotPermitted` where the agents' directories cannot be read.
        """
        target = Target.of(contract, mode)
        found = socket or find_socket(target.mode, os.environ)
        program = [agent] if isinstance(agent, str) else list(agent or ())
        rpc_urls = [rpc_url] if isinstance(rpc_url, str) else list(rpc_url)
        self._target = target
        self._api = AgentApi(found)
        self._launcher = Launcher(target, found, program, list(agent_flags), rpc_urls, keep=keep_agent)
        self._is_checked = False

    @property
    def socket(self) -> str:
        """The agent's socket."""
        return self._api.socket

    async def register(self, timeout: Optional[float] = 300.0, progress: Optional[OnProgress] = None) -> Member:
        """Waits until this node is a member and its mesh can be used; starts an agent where none runs. Once it is, it returns at once.

        The agent registers by itself. Where an operator has to act, `progress` (and the log) says which command to run, and it goes on
        by itself when that is done.

        Args:
            timeout: seconds to wait at most; `None` waits for ever.
            progress: called with each step.

        Returns:
            This node.

        Raises:
            NoAgent: no agent answers, and none could be started.
            NotAMember: an operator had to act and did not; or the node lost its membership and does not come back by itself.
            NotPermitted: the contract's owner bars the token; or this machine refuses what the agent needs.
            WrongContract, WrongAgent: the agent that runs here is not the right one.
            TimedOut: it was under way.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        alone_since: Optional[float] = None
        last: Optional[Progress] = None
        while True:
            now = await self._look()
            if isinstance(now, Member):
                return now
            if now.is_news_after(last):
                last = now
                _LOG.log(logging.INFO if now.command is None else logging.WARNING, "%s", now)
                await _call(progress, now)
            out_of_time = deadline is not None and time.monotonic() >= deadline
            if now.stage is Stage.NO_AGENT:
                alone_since = alone_since or time.monotonic()
                out_of_time |= not self._launcher.was_started() and time.monotonic() >= alone_since + _AGENT_WITHIN
            else:
                alone_since = None
            if out_of_time:
                raise self._target.not_in_time(now, timeout, self.socket)
            await asyncio.sleep(_POLL)

    async def get_peers(self, *, include_self: bool = False, timeout: float = 10.0) -> list[str]:
        """The members of the cluster as connection strings, ascending by token: whether or not each answers at this moment.

        Args:
            include_self: whether the list includes this node.
            timeout: seconds to wait at most for an agent that is just being restarted.

        Raises `NotAMember`, `NoAgent`, `TimedOut`, `WrongContract`, `WrongAgent`, `NotPermitted`.
        """
        return self._endpoints(await self._peers(timeout), include_self)

    async def get_members(self, *, include_self: bool = False, timeout: float = 10.0) -> list[Member]:
        """As `get_peers`, with all that is known of each, and with those that have no connection string of this mode."""
        return _members(await self._peers(timeout), include_self)

    async def monitor_peers(self, callback: OnPeers, *, include_self: bool = False) -> None:
        """Calls back with the list of peers, and again with each change, until cancelled: run it with `asyncio.create_task` beside
        other work.

        It never calls with the same list twice in a row, nor before the last call has returned; changes in the meantime are
        merged. While the agent is being restarted, the contract cannot be read, or this node is not a member yet, the peers stay
        as they were. When this node loses its membership, the list is empty.

        Raises what `callback` raises; `WrongContract`, `WrongAgent` or `NotPermitted` for an agent that is not the right one; and `NoAgent`
        where the agent that was started here ended, and cannot be started again.
        """
        last: Optional[list[str]] = None

        async def report(peers: Peers) -> None:
            nonlocal last
            now = self._endpoints(peers, include_self)
            if now != last:
                last = now
                _LOG.info("peers: %s", ", ".join(now) or "none")
                await _call(callback, list(now))

        await follow(self._api, self._target, self._launcher, report)

    async def tls(self, *, timeout: float = 10.0) -> TlsMembers:
        """The members that TLS may be spoken with, each known by the key that the contract has of it: contexts and connections.
        It is to be closed, or used with `with`.

        Args:
            timeout: seconds to wait at most for an agent that is just being restarted, and for its list.

        Raises as `get_peers`; `WrongAgent` where this node has no TLS key.
        """
        await self._peers(timeout)
        return await asyncio.get_running_loop().run_in_executor(None, TlsMembers, self.socket, timeout)

    async def close(self) -> None:
        """Stops the agent if it was started here, and is not to be kept."""
        await asyncio.get_running_loop().run_in_executor(None, self._launcher.stop)

    async def __aenter__(self) -> DStackP2PSDK:
        return self

    async def __aexit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        await self.close()

    async def _look(self) -> Union[Member, Progress]:
        """How far this node is; itself, once it is a member."""
        try:
            status = await self._api.status()
            peers = await self._api.peers()
        except Starting as starting:
            return Progress(Stage.STARTING, str(starting))
        except Unreachable as failure:
            silence = str(failure)
        else:
            return self._judge(status, peers)
        # Outside of the handler: an error of the agent that was started is not one of the connection.
        return self._start_agent(silence)

    def _judge(self, status: Status, peers: Peers) -> Union[Member, Progress]:
        now = self._target.judge(status, peers)
        if now.stage is Stage.READY and peers.own is not None:
            self._is_checked = True
            return peers.own
        return now

    def _start_agent(self, silence: str) -> Progress:
        """No agent answers: starts one, or sees what became of the one that was started."""
        ended = self._launcher.failure()
        if ended is not None:
            raise ended
        if not self._launcher.is_running() and self._launcher.can_start():
            self._launcher.start()
        where = f"no agent answers at `{self.socket}`"
        if self._launcher.is_running():
            return Progress(Stage.NO_AGENT, f"{where} yet: one was started, whose log is {self._launcher.log_path}")
        return Progress(Stage.NO_AGENT, f"{where}: {silence}")

    async def _peers(self, timeout: float) -> Peers:
        """The list as it is now, of an agent of this cluster."""
        deadline = time.monotonic() + timeout
        while True:
            wait: Union[NoAgent, TimedOut]
            try:
                if not self._is_checked:
                    self._target.check(await self._api.status())
                    self._is_checked = True
                peers = await self._api.peers()
                if peers.membership == "active":
                    return peers
                if peers.membership != "unknown":
                    raise await self._no_member(peers.membership)
                cause = (await self._api.status()).cause()
                reason = f": {cause.message}" if cause else ""
                wait = not_in_time(f"the agent has not read the contract yet{reason}", cause.hint if cause else None)
            except Starting as starting:
                wait = TimedOut(str(starting), "look at the agent's log")
            except Unreachable as failure:
                wait = NoAgent(
                    f"no agent answers at `{self.socket}`: {failure}",
                    "`await sdk.register()` first, or start `p2p-agent`, or name its socket with `socket=`",
                )
            if time.monotonic() >= deadline:
                raise wait
            await asyncio.sleep(_POLL)

    async def _no_member(self, membership: str) -> NotAMember:
        status = await self._api.status()
        command, cause = status.membership_hint, status.cause()
        hint = f"an operator has to run: {command}" if command else "`await sdk.register()` waits until it is one"
        reason = f": {cause.message}" if cause else ""
        return NotAMember(f"this node is not a member of {self._target.contract}: {membership}{reason}", hint, command)

    def _endpoints(self, peers: Peers, include_self: bool) -> list[str]:
        endpoints = (self._target.endpoint(member) for member in _members(peers, include_self))
        return [endpoint for endpoint in endpoints if endpoint is not None]


def _members(peers: Peers, include_self: bool) -> list[Member]:
    """Ascending by token. A node that lost its membership reaches no member."""
    if peers.membership == "fenced":
        return []
    own = [peers.own] if include_self and peers.own is not None else []
    return sorted([*peers.others, *own], key=lambda member: member.token_id)


async def _call(callback: Optional[Callable[..., Union[None, Awaitable[None]]]], argument: object) -> None:
    if callback is not None:
        returned = callback(argument)
        if inspect.isawaitable(returned):
            await returned
