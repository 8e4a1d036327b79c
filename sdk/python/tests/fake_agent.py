"""An agent's local API on a real unix socket, without an agent: it says what a test tells it to."""

from __future__ import annotations

import copy
import json
import os
import socket
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Optional, Union

CONTRACT = "0x7ae1000000000000000000000000000000009c04"
TLS_WATCH = "/v1/tls/config/watch"
_SAMPLES = Path(__file__).parents[3] / "meshctl" / "tests" / "samples"

Json = dict[str, Any]


def sample(name: str) -> Json:
    """A status that `meshctl`'s own tests are made with: `degraded` (an active node), `fenced` or `starting`."""
    loaded: Json = json.loads((_SAMPLES / f"{name}.json").read_text())
    assert loaded["registry"]["contract"] == CONTRACT
    return loaded


def status(membership: str = "active", ready: Optional[bool] = None, hint: Optional[str] = None, **own: Any) -> Json:
    """What an agent says of itself. It is ready where it is active, unless something else is said."""
    made = copy.deepcopy(sample("degraded" if membership == "active" else "starting"))
    made["verdict"]["ready"] = membership == "active" if ready is None else ready
    made["warnings"] = []
    made["self"].update(membership=membership, membership_hint=hint, **own)
    return made


def peer(token: int, **fields: Any) -> Json:
    """A WireGuard member, as it is listed."""
    base = {"token_id": token, "name": f"node-{token}", "kind": "wireguard", "address": f"10.0.1.{token}", "url": None}
    return {**base, "public_key": "QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI=", "state": "up", **fields}


def tls_peer(token: int, **fields: Any) -> Json:
    """A member with a URL, as it is listed."""
    url = f"https://{token:040x}-443s.gw.example"
    return peer(token, **{"kind": "tls", "address": None, "url": url, "public_key": None, "state": None, **fields})


def peers(*others: Json, own: Optional[Json] = None, membership: str = "active") -> Json:
    """A list of peers, as the agent with token 7 says it."""
    unknown = {"token_id": None, "name": None, "kind": None, "address": None, "url": None, "public_key": None}
    me = {**(unknown if membership == "unknown" else own or peer(7)), "state": membership}
    return {"schema": "p2p-agent.peers/v1", "self": me, "peers": list(others)}


class FakeAgent:
    """One run of an agent: from `start` to `stop`, which closes every connection, as the end of a process does."""

    def __init__(self, path: Union[str, Path], status: Union[Json, str], peers: Json) -> None:
        """`status` is a text for an agent that waits for what it says."""
        self.path = str(path)
        self._status = status
        self._peers = peers
        self._tls: Optional[Json] = None
        self._version = 0
        self._changed = threading.Condition()
        self._server: Optional[_Server] = None
        #: Paths with their answers, code and body, instead of what is usually said.
        self.answers: dict[str, tuple[int, bytes]] = {}
        #: How often each path was asked for.
        self.asked: dict[str, int] = {}

    def start(self) -> FakeAgent:
        # As a killed agent leaves it, and the next one finds it.
        if os.path.exists(self.path):
            os.unlink(self.path)
        self._server = _Server(self.path, self)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def stop(self, *, leave_socket: bool = False) -> None:
        """`leave_socket`: as after kill -9, when the file stays and no process is behind it."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
            server.hang_up()
            with self._changed:
                self._changed.notify_all()
        if not leave_socket and os.path.exists(self.path):
            os.unlink(self.path)

    def say(
        self, peers: Optional[Json] = None, status: Union[Json, str, None] = None, tls: Optional[Json] = None
    ) -> None:
        """Answers something else from now on, and notifies watchers."""
        with self._changed:
            self._tls = self._tls if tls is None else tls
            self._status = self._status if status is None else status
            self._peers = self._peers if peers is None else peers
            self._version += 1
            self._changed.notify_all()

    def remind(self) -> None:
        """Notifies watchers, though nothing has changed."""
        self.say()

    @property
    def watchers(self) -> int:
        """Connections that watch now."""
        return 0 if self._server is None else self._server.watchers

    def __enter__(self) -> FakeAgent:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def answer(self, path: str) -> tuple[int, bytes]:
        """The answer to one question."""
        with self._changed:
            self.asked[path] = self.asked.get(path, 0) + 1
            if path in self.answers:
                return self.answers[path]
            said, listed = self._status, self._peers
        if path == "/v1/peers":
            return 200, json.dumps(listed).encode()
        if path != "/v1/status":
            return 404, b'{"error": "no such path", "hint": ""}'
        if isinstance(said, str):
            return 503, json.dumps({"error": f"the agent is starting: waiting for {said}", "hint": ""}).encode()
        return 200, json.dumps(said).encode()

    def next_event(self, path: str, seen: Optional[int], server: _Server) -> Optional[tuple[int, bytes]]:
        """Waits for a version that was not seen; `None` at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._server is not server or self._version != seen)
            if self._server is not server:
                return None
            name, said = ("tls", self._tls) if path == TLS_WATCH else ("peers", self._peers)
            return self._version, f"event: {name}\ndata: {json.dumps(said)}\n\n".encode()

    def is_watched_at(self, path: str) -> bool:
        """Whether `path` is answered with events."""
        return path not in self.answers and (path == "/v1/peers/watch" or (path == TLS_WATCH and self._tls is not None))


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, path: str, agent: FakeAgent) -> None:
        self.agent = agent
        self.watchers = 0
        self._open: set[socket.socket] = set()
        super().__init__(path, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Callers may hang up whenever they like."""

    def hang_up(self) -> None:
        for request in list(self._open):
            try:
                request.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it has gone by itself


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.close_connection = True
        if self.server.agent.is_watched_at(self.path):
            self._watch()
            return
        code, body = self.server.agent.answer(self.path)
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _watch(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._chunk(b":\n\n")
        self.server.watchers += 1
        try:
            seen = None
            while (event := self.server.agent.next_event(self.path, seen, self.server)) is not None:
                seen = event[0]
                self._chunk(event[1])
        finally:
            self.server.watchers -= 1

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: tests look at what is answered."""
