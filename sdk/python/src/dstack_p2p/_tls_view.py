"""`/v1/tls/config`: by which TLS keys the members of the moment are known."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Optional, Union

from ._errors import WrongAgent
from ._view import Fields

_SCHEMA = "p2p-agent.tls/v1"
_PIN = re.compile(r"[0-9a-f]{64}")
#: `<instance>-<port>s.<domain>`: the gateway leads to any port of the instance by this name.
_PLACE = re.compile(r"([0-9a-f]{40})-[0-9]{1,5}s(\..+)")


@dataclass(frozen=True)
class TlsMember:
    """Another member of the moment, and the key by which it is known."""

    #: Its NFT.
    token_id: int
    #: `node-<token>`, or the name that this node's operator gave it.
    name: str
    #: The SHA-256 of its public key (SubjectPublicKeyInfo, DER), 64 lower-case hexadecimal digits.
    spki_sha256: str
    #: Where its `--front` is; `None` for one that can call, and not be called. `host` is the name to ask for (SNI), too.
    url: Optional[str]
    host: Optional[str]
    port: Optional[int]

    def host_of(self, front: Optional[int]) -> Optional[str]:
        """The name of its front at that port of its own; of the one in its URL for `None`. `None` where it has no such name."""
        if front is None or self.host is None:
            return self.host
        place = _PLACE.fullmatch(self.host)
        return None if place is None else f"{place[1]}-{front}s{place[2]}"


@dataclass(frozen=True)
class TlsConfig:
    """One answer."""

    #: The SHA-256 of this node's own public key.
    spki_sha256: str
    #: This node's certificate, PEM.
    certificate: str
    #: Its private key's file, PEM; `None` where the agent could not write it.
    private_key_file: Optional[str]
    #: Seconds for which `members` may be believed from when it was read; `None`: without end.
    valid_for: Optional[float]
    #: Ascending by token.
    members: tuple[TlsMember, ...]

    def find(self, peer: Union[int, str]) -> Optional[TlsMember]:
        """By its token, its name, or `node-<token>`."""
        for member in self.members:
            if peer in (member.token_id, member.name) or peer == f"node-{member.token_id}":
                return member
        return None

    @staticmethod
    def of(answer: Any) -> TlsConfig:
        """Reads an answer.

        Raises `WrongAgent` when it is not one.
        """
        fields = Fields(answer, "TLS configuration")
        fields.check_schema(_SCHEMA)
        own = fields.part("self")
        valid_for = fields.number_or_none("valid_for_ms")
        return TlsConfig(
            spki_sha256=_pin(own),
            certificate=own.text("certificate"),
            private_key_file=own.text_or_none("private_key_file"),
            valid_for=None if valid_for is None else max(0, valid_for) / 1000,
            members=tuple(_member(member) for member in fields.parts("members")),
        )


def _member(fields: Fields) -> TlsMember:
    return TlsMember(
        token_id=fields.number("token_id"),
        name=fields.text("name"),
        spki_sha256=_pin(fields),
        url=fields.text_or_none("url"),
        host=fields.text_or_none("host"),
        port=fields.number_or_none("port"),
    )


def _pin(fields: Fields) -> str:
    pin = fields.text("spki_sha256")
    if not _PIN.fullmatch(pin):
        raise WrongAgent("cannot understand the agent: a key's SHA-256 is not one", "use a dstack-p2p of the agent's version")
    return pin
