"""TLS with members: by the key of the one that was asked for, and no other."""

from __future__ import annotations

import asyncio
import http.client
import socket as sockets
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_agent import CONTRACT, TLS_WATCH, FakeAgent, peers, status, tls_peer
from tls_members import Key, Member, config, listed
from waiting import PATIENCE, until, wait_until

from dstack_p2p import DStackP2PSDK, NoAgent, NotAMember, NotPermitted, SyncDStackP2PSDK, TlsMembers, WrongAgent
from dstack_p2p._spki import spki_sha256

pytestmark = pytest.mark.usefixtures("quick")


class World:
    """This node, two members, and the agent that lists them."""

    def __init__(self, place: Path) -> None:
        self.own, self.key, self.other_key = (Key(place, name) for name in ("own", "seven", "eight"))
        self.seven = Member(self.key, self.own)
        self.eight = Member(self.other_key, self.own)
        self.agent = FakeAgent(place / "agent.sock", status(kind="tls"), peers(tls_peer(7), tls_peer(8), own=tls_peer(3)))
        self.everyone = [listed(7, self.key.pin, self.seven.port), listed(8, self.other_key.pin, self.eight.port)]
        self.agent.say(tls=config(self.own, *self.everyone))
        self.agent.start()
        self.tls = TlsMembers(self.agent.path, PATIENCE)

    def say(self, *members: dict[str, object], valid_for_ms: int = 30_000) -> None:
        self.agent.say(tls=config(self.own, *members, valid_for_ms=valid_for_ms))

    def close(self) -> None:
        self.tls.close()
        self.agent.stop()
        self.seven.close()
        self.eight.close()


@pytest.fixture
def world(place: Path) -> Iterator[World]:
    made = World(place)
    yield made
    made.close()


def talk(session: sockets.socket, said: bytes = b"hello") -> bool:
    session.settimeout(PATIENCE)
    session.sendall(said)
    return session.recv(100) == said


def test_a_member_is_called_by_token_or_name(world: World) -> None:
    for peer in (7, "node-7"):
        with world.tls.connect(peer) as session:
            assert talk(session) and session.version() == "TLSv1.3"
    assert [(member.token_id, member.port) for member in world.tls.members()] == [(7, world.seven.port), (8, world.eight.port)]
    assert world.seven.asked_for == ["localhost", "localhost"]


def test_another_front_is_found_by_its_name(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # Every name leads to the gateway, which is node 7 itself here.
    connect = sockets.create_connection
    monkeypatch.setattr(sockets, "create_connection", lambda place, *rest: connect(("127.0.0.1", place[1]), *rest))
    host = "ab" * 20 + "-8443s.gw.example"
    world.say(listed(7, world.key.pin, world.seven.port, host), world.everyone[1])
    wait_until("the list", lambda: world.tls.members()[0].host == host)
    for front in (None, 6379):
        with world.tls.connect(7, front) as session:
            assert talk(session)
    assert world.seven.asked_for == [host, "ab" * 20 + "-6379s.gw.example"]
    with pytest.raises(NotPermitted, match="no place"):
        world.tls.connect(8, 6379)


def test_another_members_key_is_none_and_no_byte_goes_there(world: World) -> None:
    # Where node 7 is said to be, node 8 answers, which is a member itself.
    world.say(listed(7, world.key.pin, world.eight.port))
    wait_until("the list", lambda: len(world.tls.members()) == 1)
    with pytest.raises(ssl.SSLCertVerificationError, match="another key"):
        world.tls.connect(7)
    # The handshake happens within the first read or write, where an application asks for that.
    stream = sockets.create_connection(("127.0.0.1", world.eight.port))
    session = world.tls.context(7).wrap_socket(stream, do_handshake_on_connect=False)
    for use in (lambda: session.send(b"secret"), lambda: session.sendall(b"secret"), lambda: session.write(b"secret"),
                lambda: session.recv(1), lambda: session.recv_into(bytearray(1)), lambda: session.read(1)):  # fmt: skip
        with pytest.raises(ssl.SSLError, match="not known yet"):
            use()
    with pytest.raises(ssl.SSLCertVerificationError):
        session.do_handshake()
    with pytest.raises(ssl.SSLError):
        session.sendall(b"secret")
    session.close()

    async def by_asyncio() -> None:
        with pytest.raises(ssl.SSLCertVerificationError, match="another key"):
            await world.tls.open_connection(7)

    asyncio.run(by_asyncio())
    assert world.eight.heard == b""


def test_older_tls_is_refused(world: World) -> None:
    old = Member(world.key, world.own, ssl.TLSVersion.TLSv1_2)
    world.say(listed(7, world.key.pin, old.port))
    wait_until("the list", lambda: len(world.tls.members()) == 1)
    with pytest.raises(ssl.SSLError):
        world.tls.connect(7)
    old.close()


def test_libraries_take_the_context(world: World) -> None:
    class Listener(threading.Thread):
        """A web service on node 7."""

        def run(self) -> None:
            with context.wrap_socket(listener.accept()[0], server_side=True) as session:
                session.recv(1000)
                session.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(world.key.certificate, world.key.key)
    listener = sockets.create_server(("127.0.0.1", 0))
    Listener(daemon=True).start()
    client = http.client.HTTPSConnection("127.0.0.1", listener.getsockname()[1], context=world.tls.context(7), timeout=PATIENCE)
    client.request("GET", "/")
    assert client.getresponse().read() == b"ok"
    client.close()
    listener.close()


def test_a_revoked_member_loses_what_is_open_and_gets_nothing_new(world: World) -> None:
    session, kept = world.tls.connect(7), world.tls.connect(8)
    context = world.tls.context(7)
    assert talk(session) and talk(kept)
    ended = threading.Event()

    def read() -> None:
        try:
            assert session.recv(1) == b""
        except OSError:
            pass
        ended.set()

    session.settimeout(PATIENCE)
    threading.Thread(target=read, daemon=True).start()
    world.say(world.everyone[1])
    assert ended.wait(PATIENCE)
    with pytest.raises(ssl.SSLError, match="was revoked"):
        session.sendall(b"more")
    with pytest.raises(NotAMember):
        world.tls.connect(7)
    # A context that was made before, too.
    stream = sockets.create_connection(("127.0.0.1", world.seven.port))
    with pytest.raises((NotAMember, ssl.SSLError)):
        context.wrap_socket(stream)
    stream.close()
    session.close()
    assert talk(kept)
    kept.close()


def test_a_changed_key_ends_what_was_opened_by_the_old_one(world: World) -> None:
    session = world.tls.connect(7)
    assert talk(session)
    world.say(listed(7, world.other_key.pin, world.eight.port))
    wait_until("its end", lambda: session.fileno() == -1 or _has_ended(session))
    session.close()
    with world.tls.connect(7) as again:
        assert talk(again)


def _has_ended(session: ssl.SSLSocket) -> bool:
    try:
        session.sendall(b"x")
    except OSError:
        return True
    return False


def test_asyncio_connections_are_aborted(world: World) -> None:
    async def scenario() -> None:
        reader, writer = await world.tls.open_connection(7)
        writer.write(b"hello")
        assert await asyncio.wait_for(reader.readexactly(5), PATIENCE) == b"hello"
        waiting = asyncio.ensure_future(reader.read(1))
        world.say(world.everyone[1])
        await until("its end", waiting.done)
        assert waiting.exception() is not None or waiting.result() == b""
        writer.close()

    asyncio.run(scenario())


def test_what_expires_ends_all(world: World) -> None:
    session = world.tls.connect(7)
    assert talk(session)
    world.say(*world.everyone, valid_for_ms=200)
    # The agent is stopped like a process that is not scheduled: its connections stay open, and nothing comes.
    wait_until("the list's end", lambda: world.tls.members() == [])
    wait_until("the connection's end", lambda: _has_ended(session))
    with pytest.raises(NotAMember):
        world.tls.context(7)
    session.close()
    world.say(*world.everyone)
    wait_until("the list to be back", lambda: len(world.tls.members()) == 2)


def test_an_agent_that_is_restarted_disturbs_nothing(world: World) -> None:
    session = world.tls.connect(7)
    world.agent.stop()
    assert talk(session) and len(world.tls.members()) == 2
    world.agent.start()
    world.say(world.everyone[0])
    wait_until("the new list", lambda: len(world.tls.members()) == 1)
    assert talk(session)
    session.close()


def test_a_new_key_of_ones_own_is_shown_from_then_on(world: World, place: Path) -> None:
    context = world.tls.context(7)
    world.own = Key(place, "renewed")
    renewed = Member(world.key, world.own)
    world.say(listed(7, world.key.pin, renewed.port))
    wait_until("the list", lambda: len(world.tls.members()) == 1)
    with context.wrap_socket(sockets.create_connection(("127.0.0.1", renewed.port))) as session:
        assert talk(session)
    renewed.close()


def test_what_cannot_be_is_said(world: World) -> None:
    world.say(listed(9, world.key.pin, None))
    wait_until("the list", lambda: len(world.tls.members()) == 1)
    with pytest.raises(NotPermitted, match="no place"):
        world.tls.connect(9)
    with sockets.socket() as stream, pytest.raises(ValueError, match="--front"):
        world.tls.context(9).wrap_socket(stream, server_side=True)
    world.agent.answers[TLS_WATCH] = (404, b'{"error": "this node has no TLS key", "hint": "give `--front`"}')
    with pytest.raises(WrongAgent, match="no TLS key\nhint: give `--front`"):
        TlsMembers(world.agent.path, 0.5)
    for body in (b"<html>", b'{"error": 1}'):
        world.agent.answers[TLS_WATCH] = (500, body)
        with pytest.raises(WrongAgent, match="HTTP 500"):
            TlsMembers(world.agent.path, 0.5)
    with pytest.raises(NoAgent):
        TlsMembers(world.agent.path + ".else", 0.5)


def test_the_sdks_have_it(world: World) -> None:
    async def scenario() -> None:
        with await DStackP2PSDK(CONTRACT, "auto", socket=world.agent.path, agent=None).tls(timeout=PATIENCE) as tls:
            assert len(tls.members()) == 2

    asyncio.run(scenario())
    with SyncDStackP2PSDK(CONTRACT, "tls", socket=world.agent.path, agent=None) as sdk, sdk.tls(timeout=PATIENCE) as tls:
        before = time.monotonic()
        assert [member.name for member in tls.members()] == ["node-7", "node-8"]
    assert time.monotonic() - before < PATIENCE


def test_a_certificates_key_is_found_and_nothing_else_is_taken_for_one(world: World) -> None:
    der = world.key.der
    assert spki_sha256(der) == world.key.pin
    for length in range(len(der) // 2):
        with pytest.raises(ValueError, match="not a certificate"):
            spki_sha256(der[:length])
    for wrong in (b"\x30\x80", b"\x30\x85\1\1\1\1\1", b"\x31" + der[1:], b"\x30\x02\x30\x00"):
        with pytest.raises(ValueError, match="not a certificate"):
            spki_sha256(wrong)
