"""The steps to becoming a member, as reported to an application."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Optional


class Stage(str, enum.Enum):
    """How far a node has come in becoming a member."""

    #: No agent answers yet.
    NO_AGENT = "no-agent"
    #: The agent waits for something of this machine, such as the dstack guest agent.
    STARTING = "starting"
    #: The agent reads the contract.
    READING = "reading"
    #: No token is bound to this node: an operator mints or binds one.
    NO_TOKEN = "no-token"
    #: Several tokens are bound to this node: its operator chooses one.
    AMBIGUOUS = "ambiguous"
    #: The contract's owner bars the token.
    REVOKED = "revoked"
    #: The registration is signed and waits for its transaction.
    REGISTERING = "registering"
    #: A member, whose tunnels are being made.
    CONVERGING = "converging"
    #: A member, but the contract has another URL of it than the application's.
    NO_URL = "no-url"
    #: A member, and the mesh can be used.
    READY = "ready"


@dataclass(frozen=True)
class Progress:
    """One step."""

    stage: Stage
    #: What is waited for, in words.
    message: str
    #: What an operator has to run for it to go on, when it is their turn.
    command: Optional[str] = None
    #: What else the agent advises, in words.
    hint: Optional[str] = None

    def is_news_after(self, earlier: Optional[Progress]) -> bool:
        """Whether it is another step. Ages and counts in a message grow by themselves, and do not count."""
        return earlier is None or self._gist() != earlier._gist()

    def _gist(self) -> tuple[object, ...]:
        return self.stage, self.command, re.sub(r"\d+", "", self.message)

    def __str__(self) -> str:
        return self.message if self.command is None else f"{self.message}; an operator has to run: {self.command}"
