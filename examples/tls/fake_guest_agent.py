"""A dstack guest agent that gives every question the same answer, for tests."""

from __future__ import annotations

import json
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any


class FakeGuestAgent:
    """Listens on a unix socket. Used with `with`."""

    def __init__(self, path: Path, code: int, body: bytes) -> None:
        self.path = str(path)
        #: What was asked.
        self.asked: list[dict[str, Any]] = []
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/GetTlsKey", self.path
                asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(code)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def address_string(self) -> str:
                return "a unix socket"

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self._server = socketserver.UnixStreamServer(self.path, Handler)

    def __enter__(self) -> FakeGuestAgent:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        Path(self.path).unlink()
