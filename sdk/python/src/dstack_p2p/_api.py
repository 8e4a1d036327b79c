"""The agent's local API: HTTP and JSON over its unix socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Optional

import httpx

from ._errors import NotPermitted, WrongAgent
from ._view import Peers, Status

#: Seconds in which an agent that runs answers. It does so at once; the machine may stand still for a while.
_ANSWER_WITHIN = 10.0
#: Seconds of silence of the agent, which sends something every 15 s, after which it is asked again on a new connection.
_SILENCE = 60.0
#: Bytes of an answer: a status of 65,536 peers is below that.
_MAX_ANSWER = 64 << 20


class Unreachable(Exception):
    """No agent answers: it is not there, or is just stopping."""


class Starting(Exception):
    """An agent answers that has only just started: in its words, what it waits for."""


class AgentApi:
    """The agent behind one socket. Each question has its own connection: an agent that was restarted is found again at once."""

    def __init__(self, socket: str) -> None:
        self.socket = socket

    async def status(self) -> Status:
        """`GET /v1/status`.

        Raises `Unreachable`, `Starting`, `NotPermitted`, `WrongAgent`.
        """
        return Status.of(await self._get("/v1/status"))

    async def peers(self) -> Peers:
        """`GET /v1/peers`.

        Raises as `status`, but for `Starting`: then the membership is `unknown`.
        """
        return Peers.of(await self._get("/v1/peers"))

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[Hints]:
        """Follows `/v1/peers/watch` on a connection that lasts as long as this agent does.

        Raises `Unreachable`, `NotPermitted`, `WrongAgent`.
        """
        async with self._open("/v1/peers/watch", httpx.Timeout(_ANSWER_WITHIN, read=_SILENCE)) as response:
            if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
                raise Unreachable("the agent takes no more connections now")
            self._expect_ok("/v1/peers/watch", response)
            hints = Hints()
            reader = asyncio.ensure_future(self._read_hints(response, hints))
            try:
                yield hints
            finally:
                reader.cancel()
                await asyncio.wait([reader])

    async def _read_hints(self, response: httpx.Response, hints: Hints) -> None:
        try:
            with self._failures():
                async for chunk in response.aiter_raw():
                    # What only keeps the connection alive is a comment without text.
                    if chunk.strip(b":\r\n"):
                        hints.give()
        except (Unreachable, NotPermitted) as failure:
            hints.end(Unreachable(str(failure)))
        finally:
            hints.end(Unreachable("the agent ended the connection"))

    async def _get(self, target: str) -> Any:
        body = bytearray()
        async with self._open(target, httpx.Timeout(_ANSWER_WITHIN)) as response:
            with self._failures():
                async for chunk in response.aiter_raw():
                    body += chunk
                    if len(body) > _MAX_ANSWER:
                        raise self._invalid_response(f"{target} answers more than {_MAX_ANSWER >> 20} MiB")
        try:
            answer = json.loads(body)
        # RecursionError: for endlessly nested JSON.
        except (ValueError, RecursionError):
            raise self._invalid_response(f"{target} does not answer JSON (HTTP {response.status_code})") from None
        if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            reason = answer.get("error") if isinstance(answer, dict) else None
            raise Starting(reason if isinstance(reason, str) else "the agent is starting")
        if response.status_code == httpx.codes.FORBIDDEN and isinstance(answer, dict) and isinstance(answer.get("error"), str):
            hint = answer.get("hint")
            message = f"the agent at `{self.socket}`: {answer['error']}"
            raise NotPermitted(message, hint if isinstance(hint, str) else "`p2p-agent --help` says who may do what")
        self._expect_ok(target, response)
        return answer

    @asynccontextmanager
    async def _open(self, target: str, timeout: httpx.Timeout) -> AsyncIterator[httpx.Response]:
        """One request. Not through httpx's client, which would log every one of them at the level that applications use."""
        # No TLS is spoken on the socket: without this, httpx would load the certificates of all the world's authorities.
        transport = httpx.AsyncHTTPTransport(uds=self.socket, verify=False, trust_env=False)
        request = httpx.Request("GET", f"http://p2p-agent{target}", extensions={"timeout": timeout.as_dict()})
        async with transport:
            with self._failures():
                response = await transport.handle_async_request(request)
            try:
                yield response
            finally:
                await response.aclose()

    def _expect_ok(self, target: str, response: httpx.Response) -> None:
        if response.status_code != httpx.codes.OK:
            raise self._invalid_response(f"{target} answers HTTP {response.status_code}")

    def _invalid_response(self, what: str) -> WrongAgent:
        return WrongAgent(
            f"invalid response at `{self.socket}`: {what}",
            "name the agent's socket with `socket=`, and use a dstack-p2p of the agent's version",
        )

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Turns httpx's failures into ours."""
        try:
            yield
        except httpx.TransportError as failure:
            if _has_cause(failure, PermissionError):
                raise NotPermitted(
                    f"this process may not open the agent's socket `{self.socket}`",
                    "let its user enter that directory: the socket itself is open to every user",
                ) from None
            raise Unreachable(str(failure) or type(failure).__name__) from None


class Hints:
    """Signals that the agent's list may have changed. The list itself is then requested: so lists come by one path only, and they
    come in order."""

    def __init__(self) -> None:
        self._given = asyncio.Event()
        self._end: Optional[Unreachable] = None

    def give(self) -> None:
        self._given.set()

    def end(self, failure: Unreachable) -> None:
        """No more hints come. The first reason stays."""
        self._end = self._end or failure
        self._given.set()

    def check(self) -> None:
        """Raises `Unreachable` when the agent of this connection is gone."""
        if self._end is not None:
            raise self._end

    async def next(self) -> None:
        """Waits for the next hint.

        Raises `Unreachable` when the agent of this connection is gone.
        """
        await self._given.wait()
        self._given.clear()
        self.check()


def _has_cause(failure: BaseException, kind: type[BaseException]) -> bool:
    cause: Optional[BaseException] = failure
    while cause is not None:
        if isinstance(cause, kind):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
