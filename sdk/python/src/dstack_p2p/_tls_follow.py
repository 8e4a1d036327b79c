"""Following `/v1/tls/config/watch`, in a thread of its own: for applications with and without asyncio."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import threading
import time
from collections.abc import Callable
from typing import Optional

from ._errors import NoAgent, NotPermitted, P2PError, WrongAgent
from ._tls_view import TlsConfig

_LOG = logging.getLogger("dstack_p2p")
_PATH = "/v1/tls/config/watch"
#: Seconds of silence of the agent, which sends a list every 5 s, after which it is asked again on a new connection.
_SILENCE = 10.0
#: Seconds until the next attempt to connect.
_RETRY = 0.2
#: Bytes of a list: one of 65,536 members is below that.
_MAX_LINE = 64 << 20


class TlsFollower:
    """The list as it is now, and what it was when it expired: nothing."""

    def __init__(self, path: str, report: Callable[[Optional[TlsConfig]], None]) -> None:
        """`report` is called in the follower's thread with each list, and with `None` when the last one may be believed no longer."""
        self._path = path
        self._report = report
        self._changed = threading.Condition()
        self._config: Optional[TlsConfig] = None
        #: On the monotonic clock.
        self._expires: Optional[float] = None
        self._failure: Optional[P2PError] = None
        self._is_closed = False
        self._connection: Optional[_UnixConnection] = None
        self._thread = threading.Thread(target=self._run, name="dstack-p2p-tls", daemon=True)
        self._thread.start()

    def config(self) -> Optional[TlsConfig]:
        """`None` before the first list, after the last one expired, and after `close`."""
        with self._changed:
            expired = self._expires is not None and time.monotonic() >= self._expires
            return None if expired or self._is_closed else self._config

    def first(self, timeout: float) -> TlsConfig:
        """Waits for a list.

        Raises what hinders it after `timeout` seconds: `NoAgent`, `NotPermitted`, `WrongAgent`.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.config() is not None or self._is_closed, timeout)
            config = self.config()
            if config is None:
                raise self._failure or NoAgent(f"the agent at `{self._path}` gives no list of TLS keys", "look at its log")
            return config

    def close(self) -> None:
        """Ends the thread; from now on there are no members."""
        with self._changed:
            self._is_closed = True
            connection = self._connection
            self._changed.notify_all()
        if connection is not None:
            connection.hang_up()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while not self._is_closed:
            try:
                self._follow()
            except (OSError, http.client.HTTPException) as failure:
                self._fail(_unreachable(self._path, failure))
            except P2PError as failure:
                self._fail(failure)
            self._expire()
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed, _RETRY)
        self._report(None)

    def _follow(self) -> None:
        connection = _UnixConnection(self._path)
        with self._changed:
            if self._is_closed:
                return
            self._connection = connection
        try:
            connection.request("GET", _PATH, headers={"Host": "p2p-agent"})
            response = connection.getresponse()
            if response.status != http.client.OK:
                raise _refusal(self._path, response)
            while not self._is_closed:
                connection.limit(self._patience())
                line = response.readline(_MAX_LINE)
                if not line.endswith(b"\n"):
                    return
                if line.startswith(b"data:"):
                    self._take(line[5:], time.monotonic())
        finally:
            with self._changed:
                self._connection = None
            connection.close()

    def _take(self, text: bytes, read_at: float) -> None:
        try:
            config = TlsConfig.of(json.loads(text))
        except (ValueError, RecursionError):
            raise WrongAgent(f"invalid response at `{self._path}`: {_PATH} does not send JSON", "use a dstack-p2p of its version") from None
        with self._changed:
            self._config = config
            self._expires = None if config.valid_for is None else read_at + config.valid_for
            self._failure = None
            self._changed.notify_all()
        self._report(self.config())

    def _patience(self) -> float:
        """Seconds until something has to be done where the agent says nothing."""
        if self._expires is None or self._config is None:
            return _SILENCE
        return min(_SILENCE, max(0.01, self._expires - time.monotonic()))

    def _expire(self) -> None:
        with self._changed:
            if self._config is None or self._expires is None or time.monotonic() < self._expires:
                return
            self._config = None
        _LOG.warning("the agent at %s is silent: no TLS key is believed any longer", self._path)
        self._report(None)

    def _fail(self, failure: P2PError) -> None:
        with self._changed:
            if self._failure is None or str(self._failure) != str(failure):
                _LOG.info("the TLS keys stay as they were: %s", failure.message)
            self._failure = failure


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("p2p-agent", timeout=_SILENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._stream = self.sock
        self.limit(_SILENCE)
        self.sock.connect(self._path)

    def limit(self, seconds: float) -> None:
        # The response keeps the socket open when the connection lets go of it.
        self._stream.settimeout(seconds)

    def hang_up(self) -> None:
        try:
            self._stream.shutdown(socket.SHUT_RDWR)
        except (AttributeError, OSError):
            pass  # not connected yet, or no longer


def _unreachable(path: str, failure: Exception) -> P2PError:
    if isinstance(failure, PermissionError):
        return NotPermitted(f"this process may not open the agent's socket `{path}`", "let its user enter that directory")
    return NoAgent(f"no agent answers at `{path}`: {failure}", "start `p2p-agent`, or name its socket with `socket=`")


def _refusal(path: str, response: http.client.HTTPResponse) -> P2PError:
    try:
        answer = json.loads(response.read(64 << 10))
        error, hint = answer.get("error"), answer.get("hint")
    except (ValueError, RecursionError, AttributeError):
        error = hint = None
    if response.status == http.client.SERVICE_UNAVAILABLE and isinstance(error, str):
        return NoAgent(f"the agent at `{path}`: {error}", "try again in a moment")
    if response.status == http.client.NOT_FOUND and isinstance(error, str):
        advice = hint if isinstance(hint, str) and hint else "use an agent of this dstack-p2p's version, with `--mode tls` or `--front`"
        return WrongAgent(f"the agent at `{path}`: {error}", advice)
    return WrongAgent(f"invalid response at `{path}`: HTTP {response.status}", "use a dstack-p2p of the agent's version")
