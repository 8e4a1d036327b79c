"""Which cluster, and as what: an application's two settings."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import Optional

from ._errors import NoAgent, NotAMember, NotPermitted, P2PError, TimedOut, WrongAgent, WrongContract
from ._progress import Progress, Stage
from ._view import Member, Peers, Status

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
#: What the contract takes as a development URL: at most 256 visible ASCII characters.
_URL = re.compile(r"[!-~]{1,256}")

_STAGES = {
    "unknown": Stage.READING,
    "no-token": Stage.NO_TOKEN,
    "ambiguous": Stage.AMBIGUOUS,
    "revoked": Stage.REVOKED,
    "registering": Stage.REGISTERING,
    "active": Stage.CONVERGING,
}
#: Stages in which nothing goes on until an operator acts.
_OPERATORS_TURN = (Stage.NO_TOKEN, Stage.AMBIGUOUS, Stage.REGISTERING, Stage.NO_URL)


@dataclass(frozen=True)
class Target:
    """A cluster, and what this node is in it."""

    #: The cluster's contract.
    contract: str
    #: `wireguard`, `tls`, `auto` or `url`.
    mode: str
    #: With `url`, this node's own.
    url: Optional[str]

    @staticmethod
    def of(contract: str, mode_or_url: str) -> Target:
        """Raises `ValueError` for what cannot be a contract, a mode or a URL."""
        if not _ADDRESS.fullmatch(contract):
            raise ValueError(f"{contract!r} is not a contract's address: expected 0x and 40 hexadecimal digits")
        if mode_or_url in ("wireguard", "tls", "auto"):
            return Target(contract, mode_or_url, None)
        if ":" not in mode_or_url or not _URL.fullmatch(mode_or_url):
            raise ValueError(
                f"{mode_or_url!r} is neither a mode nor a URL: expected `wireguard`, `tls`, `auto`, or where this node is "
                "reached, such as http://localhost:8080 (at most 256 visible ASCII characters)"
            )
        return Target(contract, "url", mode_or_url)

    def endpoint(self, member: Member) -> Optional[str]:
        """The connection string of a member, for applications of this mode."""
        if self.mode == "wireguard":
            return member.address
        if self.mode == "auto":
            return member.connect_to
        return member.url if self.mode == "tls" else member.endpoint

    def check(self, status: Status) -> None:
        """Raises `WrongContract` or `WrongAgent` when this agent serves another cluster, or is something else in it."""
        if status.contract.lower() != self.contract.lower():
            raise WrongContract(
                f"the agent serves the cluster {status.contract}, not {self.contract}",
                f"give that address, or start the agent with `--contract {self.contract}`",
            )
        if self.mode in ("wireguard", "tls") and status.kind != self.mode:
            raise WrongAgent(
                f"the agent runs in mode `{status.kind}`, not `{self.mode}`",
                f"start one with `--mode {self.mode}`, or name the socket of the one that is meant with `socket=`",
            )

    def judge(self, status: Status, peers: Peers) -> Progress:
        """How far this node is.

        Raises as `check`, and `NotAMember` for a node that lost its membership and does not come back by itself.
        """
        self.check(status)
        command = status.membership_hint
        cause = status.cause()
        if status.membership == "fenced":
            raise NotAMember(cause.message if cause else "this node lost its membership", _by_operator(command), command)
        stage = _STAGES.get(status.membership)
        if stage is None:
            raise WrongAgent(f"the agent says `{status.membership}` of itself", "use a dstack-p2p of the agent's version")
        if not status.ready:
            if cause is None:
                return Progress(stage, f"{stage.value}: {_WORDS[stage]}", command)
            return Progress(stage, f"{stage.value}: {cause.message}", command, cause.hint)
        if peers.own is None:
            return Progress(Stage.READING, "the agent does not list this node yet")
        return self._judge_url(status, peers, peers.own)

    def _judge_url(self, status: Status, peers: Peers, own: Member) -> Progress:
        """Whether the contract has the URL of a member that its application names."""
        if own.url is None and (self.mode == "tls" or (self.mode == "auto" and own.kind == "tls")):
            # The agent knows why: its gateway domain is not listed in the contract, most of the time.
            finding = next((finding for finding in status.findings if finding.code == "W109"), None)
            message = finding.message if finding else "the contract has no URL of this node"
            return Progress(Stage.NO_URL, message, finding.hint if finding else None)
        if self.mode == "url" and own.endpoint != self.url:
            if not peers.reports_dev_urls:
                raise WrongAgent(
                    f"the agent says that this node is at {own.endpoint}, not at {self.url}, and knows nothing of "
                    "development URLs",
                    f"use an agent that does, or give `{own.kind}` instead of the URL",
                )
            message = f"the contract has {own.endpoint} of this node, not {self.url}, which its token's owner gives it in devMode"
            return Progress(Stage.NO_URL, message, self._set_url(own.token_id))
        return Progress(Stage.READY, f"member {own.name}, {self.endpoint(own)}")

    def _set_url(self, token_id: int) -> str:
        """The token's owner does it, from any wallet: it is no business of the node's keys."""
        url = shlex.quote(self.url or "")
        return f"meshctl dev-url set {token_id} {url} --contract {self.contract}"

    def not_in_time(self, progress: Progress, seconds: Optional[float], socket: str) -> P2PError:
        """The error for a node that did not come further than that. Only for an agent there is an end of waiting without `seconds`."""
        stage, message = progress.stage, progress.message
        if stage is Stage.NO_AGENT:
            return NoAgent(message, f"start `p2p-agent` and look at its log, or name its socket with `socket=` (now {socket})")
        if stage is Stage.REVOKED:
            return NotPermitted(message, _by_operator(progress.command), progress.command)
        if stage in _OPERATORS_TURN:
            return NotAMember(message, _by_operator(progress.command), progress.command)
        return not_in_time(f"not ready after {seconds or 0:g} s: {message}", progress.hint)


_WORDS = {
    Stage.READING: "the contract is being read",
    Stage.NO_TOKEN: "no token is bound to this node",
    Stage.AMBIGUOUS: "several tokens are bound to this node",
    Stage.REVOKED: "the contract's owner bars the token",
    Stage.REGISTERING: "the registration waits for its transaction",
    Stage.CONVERGING: "the peers are being configured",
}


def not_in_time(message: str, hint: Optional[str]) -> TimedOut:
    """The error for what was under way, with what the agent advises, if it does."""
    return TimedOut(message, hint or "`meshctl status` says more; a longer `timeout=` waits longer")


def _by_operator(command: Optional[str]) -> str:
    return f"an operator has to run: {command}" if command else "`meshctl status` says what is missing"
