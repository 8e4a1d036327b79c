"""Members that take TLS, without agents: a key, a server, and what the agent would say of them."""

from __future__ import annotations

import hashlib
import socket
import ssl
import subprocess
import threading
from pathlib import Path
from typing import Any, Optional

from fake_agent import Json


class Key:
    """A P-256 key and its self-signed certificate."""

    def __init__(self, place: Path, name: str) -> None:
        self.key, self.certificate = place / f"{name}.key", place / f"{name}.crt"
        _openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj",
                 f"/CN={name}", "-keyout", str(self.key), "-out", str(self.certificate))  # fmt: skip
        public = _openssl("pkey", "-in", str(self.key), "-pubout", "-outform", "DER")
        self.pin = hashlib.sha256(public).hexdigest()

    @property
    def der(self) -> bytes:
        return ssl.PEM_cert_to_DER_cert(self.certificate.read_text())


class Member:
    """A server that says back what it hears, to the client with the key `caller` alone."""

    def __init__(self, own: Key, caller: Key, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.maximum_version = version
        self._context.load_cert_chain(own.certificate, own.key)
        self._context.load_verify_locations(caller.certificate)
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._context.sni_callback = self._note
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        #: What was heard, and by which name.
        self.heard = b""
        self.asked_for: list[Optional[str]] = []
        threading.Thread(target=self._run, daemon=True).start()

    def _note(self, _: Any, name: Optional[str], __: ssl.SSLContext) -> None:
        self.asked_for.append(name)

    def _run(self) -> None:
        while True:
            try:
                stream, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(stream,), daemon=True).start()

    def _serve(self, stream: socket.socket) -> None:
        try:
            with self._context.wrap_socket(stream, server_side=True) as session:
                while data := session.recv(1024):
                    self.heard += data
                    session.sendall(data)
        except OSError:
            pass  # the client has gone, as many tests want

    def close(self) -> None:
        self._listener.close()


def listed(token: int, pin: str, port: Optional[int], host: str = "localhost") -> Json:
    """A member in the list; without `port` one that cannot be called."""
    place: Json = {"url": None, "host": None, "port": None}
    if port is not None:
        place = {"url": f"https://{host}:{port}", "host": host, "port": port}
    return {"token_id": token, "name": f"node-{token}", "spki_sha256": pin, **place}


def config(own: Key, *members: Json, valid_for_ms: Optional[int] = 30_000) -> Json:
    """What the agent with token 3 says."""
    me = {
        "token_id": 3,
        "name": "node-3",
        "url": None,
        "spki_sha256": own.pin,
        "certificate": own.certificate.read_text(),
        "private_key_file": str(own.key),
    }
    return {"schema": "p2p-agent.tls/v1", "self": me, "valid_for_ms": valid_for_ms, "members": list(members)}


def _openssl(*arguments: str) -> bytes:
    return subprocess.run(["openssl", *arguments], check=True, capture_output=True).stdout
