"""The hop gives the server name that the gateway goes by, shows this node's certificate, and connects nowhere else."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest
import sni_hop
from kms import Kms
from waiting import PATIENCE, wait_until

#: Whom the hop calls; it is this machine.
HOST = "localhost"


@pytest.fixture
def kms(tmp_path: Path) -> Kms:
    return Kms(tmp_path)


@pytest.fixture
def hop(kms: Kms) -> Hop:
    return Hop(kms)


class Hop:
    """The hop of a node of the app `ours`, on a free port."""

    def __init__(self, kms: Kms) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.hop = sni_hop.Hop(port, kms.app("ours", HOST))

    def call(self, server: TlsServer) -> socket.socket:
        """A client's connection to that server, in the gateway's place."""
        self.hop.lead_to((HOST, server.port))
        return self.connect()

    def connect(self) -> socket.socket:
        return socket.create_connection(self.hop.address, timeout=PATIENCE)


class TlsServer:
    """Repeats what it hears, to clients with a certificate of its own app. Used with `with`."""

    def __init__(self, directory: Path) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(directory / "node.pem")
        context.load_verify_locations(directory / "app-ca.openssl.pem")
        context.verify_mode = ssl.CERT_REQUIRED
        context.sni_callback = self._hear
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._context = context
        #: The server names that were asked for.
        self.names: list[Optional[str]] = []
        #: Why handshakes failed.
        self.refusals: list[str] = []

    def _hear(self, _: Any, name: Optional[str], __: ssl.SSLContext) -> None:
        self.names.append(name)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._repeat, args=(connection,), daemon=True).start()

    def _repeat(self, connection: socket.socket) -> None:
        try:
            with self._context.wrap_socket(connection, server_side=True) as tls:
                while heard := tls.recv(1024):
                    tls.sendall(heard)
        except OSError as error:
            self.refusals.append(str(error))

    def __enter__(self) -> TlsServer:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def server(kms: Kms) -> Iterator[TlsServer]:
    with TlsServer(kms.app("ours", HOST)) as server:
        yield server


def test_bytes_go_both_ways_with_name_and_certificate(hop: Hop, server: TlsServer) -> None:
    with hop.call(server) as client:
        client.sendall(b"PING\r\n" * 100)
        heard = b""
        while len(heard) < 600:
            heard += client.recv(1024)
    assert heard == b"PING\r\n" * 100
    assert server.names == [HOST] and server.refusals == []


def test_it_is_cut_when_it_leads_nowhere_or_elsewhere(hop: Hop, server: TlsServer) -> None:
    with hop.call(server) as client:
        client.sendall(b"PING")
        assert client.recv(4) == b"PING"
        hop.hop.lead_to((HOST, server.port))  # The same again changes nothing.
        client.sendall(b"PING")
        assert client.recv(4) == b"PING"
        hop.hop.lead_to(None)
        assert client.recv(4) == b""
    with hop.connect() as client:
        assert client.recv(4) == b""
    assert server.names == [HOST]


@pytest.mark.parametrize("app, name", [("theirs", HOST), ("ours-again", "another.host")])
def test_another_app_or_another_name_gets_nothing(hop: Hop, kms: Kms, app: str, name: str) -> None:
    directory = kms.app(app, name, authority="ours" if app == "ours-again" else app)
    with TlsServer(directory) as stranger, hop.call(stranger) as client:
        # An end is an end, however early it came.
        with contextlib.suppress(ConnectionError):
            client.sendall(b"secret")
            assert client.recv(4) == b""
        wait_until("the stranger to be told", lambda: stranger.refusals)
    assert stranger.names == [HOST]


def test_a_port_that_is_taken_is_an_error(kms: Kms) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError):
        sni_hop.Hop(taken.getsockname()[1], kms.app("ours", HOST))
