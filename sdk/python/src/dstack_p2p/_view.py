"""The agent's answers, as types. Everything is checked here and nowhere else; unused fields are ignored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional

from ._errors import WrongAgent

_STATUS = "meshctl.status/v1"
_PEERS = "p2p-agent.peers/v1"
#: The warnings about why a node is no member; and by membership those that keep others from being ready: the contract that cannot be
#: read, and what this machine refuses.
_OF_MEMBERSHIP = ("W10",)
_HINDERING = {"unknown": ("W3",), "active": ("W108", "W301", "W501", "W502", "W503", "W505")}


@dataclass(frozen=True)
class Member:
    """One member of the cluster. What cannot be used from this node is `None`."""

    #: Its NFT; for a WireGuard member the last part of its address.
    token_id: int
    #: `node-<token>`, or the name that this node's operator gave it.
    name: str
    #: `wireguard` or `tls`.
    kind: str
    #: Its address in the mesh.
    address: Optional[str]
    #: `https://…`, where its application takes TLS behind the dstack gateway.
    url: Optional[str]
    #: The free-form URL that its owner registered, in a cluster with devMode.
    dev_url: Optional[str]
    #: The best way to it from this node, as its agent decides: the address, else the URL.
    connect_to: Optional[str] = None

    @property
    def endpoint(self) -> Optional[str]:
        """Its endpoint by the contract: the development URL, else the https URL, else the address."""
        return self.dev_url or self.url or self.address


@dataclass(frozen=True)
class Finding:
    """What is wrong, in the agent's words."""

    #: `W` and three digits.
    code: str
    #: `critical`, `warning` or `info`.
    severity: str
    message: str
    hint: Optional[str]


@dataclass(frozen=True)
class Status:
    """What is used of `/v1/status`."""

    contract: str
    ready: bool
    #: `ok`, `degraded`, `down`, `stale` or `fenced`.
    verdict: str
    #: `unknown`, `no-token`, `ambiguous`, `revoked`, `registering`, `active` or `fenced`.
    membership: str
    #: What an operator has to do: a complete command.
    membership_hint: Optional[str]
    token_id: Optional[int]
    #: `wireguard` or `tls`.
    kind: str
    #: Most severe first.
    findings: tuple[Finding, ...]

    def cause(self) -> Optional[Finding]:
        """What keeps this node from being a member whose mesh can be used; `None` where nothing is wrong. Of several warnings it is
        one that does so, whatever stands beside it: a relayer that is awaited hinders no member, a route that cannot be set does."""
        serious = [finding for finding in self.findings if finding.severity != "info"]
        hindering = [finding for finding in serious if finding.code.startswith(_HINDERING.get(self.membership, _OF_MEMBERSHIP))]
        return next(iter(hindering + serious), None)

    @staticmethod
    def of(answer: Any) -> Status:
        """Reads an answer.

        Raises `WrongAgent` when it is not one.
        """
        fields = Fields(answer, "status")
        fields.check_schema(_STATUS)
        verdict, own = fields.part("verdict"), fields.part("self")
        findings = (
            Finding(
                code=warning.text("code"),
                severity=warning.text("severity"),
                message=warning.text("message"),
                hint=warning.text_or_none("hint"),
            )
            for warning in fields.parts("warnings")
        )
        return Status(
            contract=fields.part("registry").text("contract"),
            ready=verdict.flag("ready"),
            verdict=verdict.text("state"),
            membership=own.text("membership"),
            membership_hint=own.text_or_none("membership_hint"),
            token_id=own.number_or_none("token_id"),
            kind=own.text("kind"),
            findings=tuple(findings),
        )


@dataclass(frozen=True)
class Peers:
    """`/v1/peers`: this node and the others."""

    #: As in `Status.membership`.
    membership: str
    #: This node, once the contract lists a token for it.
    own: Optional[Member]
    #: The others, ascending by token.
    others: tuple[Member, ...]
    #: Whether this agent reports development URLs.
    reports_dev_urls: bool

    @staticmethod
    def of(answer: Any) -> Peers:
        """Reads an answer.

        Raises `WrongAgent` when it is not one.
        """
        fields = Fields(answer, "list of peers")
        fields.check_schema(_PEERS)
        own = fields.part("self")
        # One that is still on the device, and no member any more, is `removing`.
        others = [_member(peer) for peer in fields.parts("peers") if peer.text_or_none("state") != "removing"]
        return Peers(
            membership=own.text("state"),
            own=None if own.number_or_none("token_id") is None else _member(own),
            others=tuple(sorted(others, key=lambda member: member.token_id)),
            reports_dev_urls=own.has("dev_url"),
        )


def _member(fields: Fields) -> Member:
    address, url = fields.text_or_none("address"), fields.text_or_none("url")
    return Member(
        token_id=fields.number("token_id"),
        name=fields.text("name"),
        kind=fields.text("kind"),
        address=address,
        url=url,
        dev_url=fields.text_or_none("dev_url") if fields.has("dev_url") else None,
        # Agents of older versions leave it to this.
        connect_to=fields.text_or_none("connect_to") if fields.has("connect_to") else address or url,
    )


class Fields:
    """A JSON object that must have what is asked of it."""

    def __init__(self, value: Any, what: str) -> None:
        self._what = what
        if not isinstance(value, Mapping):
            raise self._wrong("is not an object")
        self._fields: Mapping[str, Any] = value

    def has(self, name: str) -> bool:
        return name in self._fields

    def part(self, name: str) -> Fields:
        return Fields(self._get(name), f"{self._what}.{name}")

    def parts(self, name: str) -> list[Fields]:
        values = self._get(name)
        if not isinstance(values, list):
            raise self._wrong(f"has a `{name}` that is not a list")
        return [Fields(value, f"{self._what}.{name}") for value in values]

    def text(self, name: str) -> str:
        value = self._get(name)
        if not isinstance(value, str):
            raise self._wrong(f"has a `{name}` that is not a text")
        return value

    def text_or_none(self, name: str) -> Optional[str]:
        return None if self._get(name) is None else self.text(name)

    def number(self, name: str) -> int:
        value = self._get(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._wrong(f"has a `{name}` that is not a whole number")
        return value

    def number_or_none(self, name: str) -> Optional[int]:
        return None if self._get(name) is None else self.number(name)

    def flag(self, name: str) -> bool:
        value = self._get(name)
        if not isinstance(value, bool):
            raise self._wrong(f"has a `{name}` that is neither true nor false")
        return value

    def check_schema(self, expected: str) -> None:
        found = self._fields.get("schema")
        if found != expected:
            raise self._wrong(f"is of schema {found!r}, not `{expected}`")

    def _get(self, name: str) -> Any:
        if name not in self._fields:
            raise self._wrong(f"has no `{name}`")
        return self._fields[name]

    def _wrong(self, what: str) -> WrongAgent:
        return WrongAgent(
            f"cannot understand the agent: its {self._what} {what}", "use a dstack-p2p of the agent's version"
        )
