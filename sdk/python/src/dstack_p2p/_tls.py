"""TLS with members of the cluster, each known by the key that the contract has of it.

An `ssl.SSLContext` cannot be told to accept one key and nothing else: it knows certificate authorities, and here there are none. So the
contexts of this file make sockets (and, for asyncio, objects) of classes that look at the peer's key right after the handshake and carry
no byte of the application before. That the peer has that key was proved within the handshake, by a signature which TLS 1.3 always checks.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import threading
import weakref
from types import TracebackType
from typing import Any, Optional, Union

from ._errors import NotAMember, NotPermitted, P2PError
from ._spki import spki_sha256
from ._tls_follow import TlsFollower
from ._tls_view import TlsConfig, TlsMember

#: A peer: its token, its name, or `node-<token>`.
Peer = Union[int, str]


class TlsMembers:
    """The members that TLS may be spoken with now, with this node's own key as the proof of who calls.

    It follows the agent, in a thread of its own, until it is closed. A member that is revoked gets no new connections, and what is open to it
    ends; where the agent is silent for longer than its list may be believed, all ends. Made by `DStackP2PSDK.tls`.
    """

    def __init__(self, path: str, timeout: float) -> None:
        """Waits at most `timeout` seconds for the first list of the agent with that socket."""
        self._lock = threading.Lock()
        self._open: weakref.WeakSet[_Session] = weakref.WeakSet()
        self._follower = TlsFollower(path, self._close_what_is_revoked)
        try:
            self._follower.first(timeout)
        except P2PError:
            self._follower.close()
            raise

    def members(self) -> list[TlsMember]:
        """Those of the moment, ascending by token, without this node; none where the agent's last list may no longer be believed."""
        config = self._follower.config()
        return [] if config is None else list(config.members)

    def context(self, peer: Peer, front: Optional[int] = None) -> ssl.SSLContext:
        """A context for connections to that member alone, to its `host` and `port`: for http.client, asyncio, httpx, redis and everything
        else that takes one. The key is looked up at each handshake, so one context may be kept.

        Args:
            front: the port of a front other than the one in the member's URL, `6379` of `p2p-agent --front 6379=…`. The connection goes to
                the same `port`: the gateway finds the front by the name that is asked for.

        Raises `NotAMember` for what is none now, and `NotPermitted` where this node's private key may not be read.
        """
        return _PeerContext.to(self, self._member(peer).token_id, front)

    def connect(self, peer: Peer, front: Optional[int] = None, timeout: Optional[float] = 10.0) -> ssl.SSLSocket:
        """A connection to that member. `timeout` in seconds is for connecting and stays the socket's.

        Raises as `context`, `ssl.SSLCertVerificationError` where something else answers, and `OSError`.
        """
        host, port = self._place(peer, front)
        context = self.context(peer, front)
        stream = socket.create_connection((host, port), timeout)
        try:
            return context.wrap_socket(stream, server_hostname=host)
        except BaseException:
            stream.close()
            raise

    async def open_connection(
        self, peer: Peer, front: Optional[int] = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """The same for asyncio. When the member is revoked, the connection is aborted.

        Raises as `connect`.
        """
        host, port = self._place(peer, front)
        reader, writer = await asyncio.open_connection(host, port, ssl=self.context(peer, front), server_hostname=host)
        session = writer.get_extra_info("ssl_object")
        if isinstance(session, _PinnedObject):
            loop, transport = asyncio.get_running_loop(), weakref.ref(writer.transport)
            session.at_revocation(lambda: _abort(loop, transport))
        return reader, writer

    def close(self) -> None:
        """Ends what is open, and follows the agent no longer."""
        self._follower.close()

    def __enter__(self) -> TlsMembers:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    def _member(self, peer: Peer) -> TlsMember:
        config = self._follower.config()
        member = None if config is None else config.find(peer)
        if member is None:
            raise NotAMember(f"{peer!r} is no member with a TLS key now", "`members()` lists those that are")
        return member

    def _place(self, peer: Peer, front: Optional[int]) -> tuple[str, int]:
        member = self._member(peer)
        host = member.host_of(front)
        if host is None or member.port is None:
            raise NotPermitted(
                f"{member.name} has no place where TLS is taken", "let its agent have one: `p2p-agent --front` and a gateway domain"
            )
        return host, member.port

    def _own(self) -> TlsConfig:
        config = self._follower.config()
        if config is None:
            raise NotAMember("the agent's list of members may be believed no longer", "look at `meshctl status`")
        return config

    def _pin(self, token: int) -> Optional[str]:
        config = self._follower.config()
        member = None if config is None else config.find(token)
        return None if member is None else member.spki_sha256

    def _admit(self, session: _Session) -> None:
        """After the handshake, before the first byte.

        Raises `ssl.SSLCertVerificationError` where the peer is another than was asked for, or was revoked meanwhile.
        """
        certificate = session.certificate()
        try:
            found = None if certificate is None else spki_sha256(certificate)
        except ValueError:
            found = None
        # Listed first, compared then: a revocation in between finds it in the list, and one before is found by the comparison.
        session.pin = found
        with self._lock:
            self._open.add(session)
        expected = self._pin(session.token)
        if expected is None or found != expected:
            session.pin = None
            reason = "is no member now" if expected is None else "has another key than the one that answers"
            raise ssl.SSLCertVerificationError(1, f"node-{session.token} {reason}")

    def _close_what_is_revoked(self, config: Optional[TlsConfig]) -> None:
        pins = {} if config is None else {member.token_id: member.spki_sha256 for member in config.members}
        with self._lock:
            revoked = [session for session in self._open if session.pin is not None and pins.get(session.token) != session.pin]
            for session in revoked:
                self._open.discard(session)
        for session in revoked:
            session.revoke()


class _PeerContext(ssl.SSLContext):
    """For connections to one member."""

    _members: TlsMembers
    _token: int
    _front: Optional[int]
    #: The own key that is loaded.
    _loaded: Optional[str]

    @staticmethod
    def to(members: TlsMembers, token: int, front: Optional[int]) -> _PeerContext:
        context = _PeerContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        # Authorities, dates and names mean nothing here: the key is looked at after the handshake.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.sslsocket_class = _PinnedSocket
        context.sslobject_class = _PinnedObject
        context._members, context._token, context._front, context._loaded = members, token, front, None
        context._load()
        return context

    def wrap_socket(self, *args: Any, **options: Any) -> ssl.SSLSocket:
        self._prepare(options)
        return super().wrap_socket(*args, **options)

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        self._prepare(options)
        return super().wrap_bio(*args, **options)

    def _prepare(self, options: dict[str, Any]) -> None:
        self._load()
        if options.get("server_side"):
            raise ValueError("a context for calls to a member: a server of Python's stands behind `p2p-agent --front`")
        if options.get("session") is not None:
            raise ValueError("each connection proves afresh who is there: no session is resumed")
        host = self._members._member(self._token).host_of(self._front)
        # The gateway leads by this name; what is asked for by another name is another node.
        if host is not None:
            options["server_hostname"] = host

    def _load(self) -> None:
        """This node's key, where it changed."""
        own = self._members._own()
        if own.spki_sha256 == self._loaded:
            return
        if own.private_key_file is None:
            raise NotPermitted("the agent could write no file with this node's TLS key", "its log says why")
        file = os.memfd_create("p2p-certificate.pem")
        try:
            os.write(file, own.certificate.encode())
            self.load_cert_chain(f"/proc/self/fd/{file}", own.private_key_file)
        except PermissionError:
            raise NotPermitted(
                f"this process may not read `{own.private_key_file}`", "run it as the agent's user, or in its `--api-group`"
            ) from None
        finally:
            os.close(file)
        self._loaded = own.spki_sha256


class _Session:
    """What both classes below share. Until the peer's key was looked at, and after it was revoked, they carry nothing."""

    token: int
    #: The key that was found, once it was.
    pin: Optional[str] = None
    is_revoked = False

    def certificate(self) -> Optional[bytes]:
        raise NotImplementedError

    def revoke(self) -> None:
        """Called in the follower's thread."""
        raise NotImplementedError

    def check(self) -> None:
        if self.is_revoked:
            raise ssl.SSLError(f"node-{self.token} was revoked")
        if self.pin is None:
            raise ssl.SSLError("do_handshake() first: the peer is not known yet")


class _PinnedSocket(ssl.SSLSocket, _Session):
    def do_handshake(self, block: bool = False) -> None:
        super().do_handshake(block)
        _admit(self)

    def certificate(self) -> Optional[bytes]:
        return self.getpeercert(True)

    def revoke(self) -> None:
        self.is_revoked = True
        try:
            # Not SSLSocket's, which would forget the TLS that another thread is reading by; this wakes that thread.
            socket.socket.shutdown(self, socket.SHUT_RDWR)
        except OSError:
            pass  # it has ended by itself

    def read(self, *args: Any) -> Any:
        self.check()
        return super().read(*args)

    def write(self, data: Any) -> int:
        self.check()
        return super().write(data)

    def send(self, data: Any, flags: int = 0) -> int:
        self.check()
        return super().send(data, flags)


class _PinnedObject(ssl.SSLObject, _Session):
    _then: Any = None

    def do_handshake(self) -> None:
        super().do_handshake()
        _admit(self)

    def certificate(self) -> Optional[bytes]:
        return self.getpeercert(True)

    def at_revocation(self, then: Any) -> None:
        """What wakes its user, in the follower's thread."""
        self._then = then
        if self.is_revoked:
            then()

    def revoke(self) -> None:
        self.is_revoked = True
        if self._then is not None:
            self._then()

    def read(self, *args: Any) -> Any:
        self.check()
        return super().read(*args)

    def write(self, data: Any) -> int:
        self.check()
        return super().write(data)


def _admit(session: Any) -> None:
    context = session.context
    if not isinstance(context, _PeerContext):
        raise ssl.SSLError("the context of a member cannot be exchanged")
    session.token = context._token
    context._members._admit(session)


def _abort(loop: asyncio.AbstractEventLoop, transport: weakref.ref[asyncio.WriteTransport]) -> None:
    def abort() -> None:
        there = transport()
        if there is not None:
            there.abort()

    try:
        loop.call_soon_threadsafe(abort)
    except RuntimeError:
        pass  # the loop has ended, and its connections with it
