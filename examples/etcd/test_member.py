"""What member.py makes of an etcd that breaks off, and of a machine that has no room for a moment."""

from __future__ import annotations

import errno
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import etcd_api
import member
import pytest
from etcd_api import EtcdApi, Refused
from member import Member

ADDRESS = "127.0.2.1"


@contextmanager
def answering(answer: bytes, reset: bool = False) -> Iterator[None]:
    """An etcd that answers once with these bytes, and is gone."""
    with socket.create_server((ADDRESS, etcd_api.CLIENT_PORT)) as server:

        def answer_one() -> None:
            connection, _ = server.accept()
            with connection:
                # All of the question: closing with unread bytes would reset the connection.
                while not connection.recv(1 << 16).endswith(b"}"):
                    pass
                connection.sendall(answer)
                if reset:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        answers = threading.Thread(target=answer_one, daemon=True)
        answers.start()
        yield
        answers.join()


HEAD = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 100\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "reset", "reason"),
    [
        (HEAD, False, "kv/range"),
        (HEAD, True, "reset"),
        (HEAD + b'{"error": "no leader"', False, "no leader"),
        (HEAD.replace(b"100", b"22") + b'{"error": "no leader"}', False, "no leader"),
        (HEAD.replace(b"100", b"60000") + b"[" * 60000, False, "recursion"),
        (HEAD.replace(b"503 Service Unavailable", b"200 OK"), True, "reset"),
        (b"", True, "kv/range"),
    ],
)
def test_an_answer_that_breaks_off_is_none(answer: bytes, reset: bool, reason: str) -> None:
    with answering(answer, reset), pytest.raises(Refused, match=reason):
        EtcdApi(ADDRESS).members()


def test_no_room_for_a_moment_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member, "PERIOD", 0.01)
    tries = []
    ours = Member("0x" + "ab" * 20, [ADDRESS, "127.0.2.2"], ADDRESS, tmp_path)

    def start(others: list[str]) -> None:
        tries.append(others)
        if len(tries) < 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        ours.end()

    monkeypatch.setattr(ours, "_start", start)
    ours.know([ADDRESS])
    ours.run()
    assert len(tries) == 3
