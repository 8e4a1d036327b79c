"""What can go wrong, one class for each thing to do about it."""

from __future__ import annotations

from typing import Optional


class P2PError(Exception):
    """What failed, and what to do next."""

    def __init__(self, message: str, hint: str, command: Optional[str] = None) -> None:
        super().__init__(message, hint, command)
        #: What failed.
        self.message = message
        #: What to do next, in words.
        self.hint = hint
        #: The operator's command that does it, where one does.
        self.command = command

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}"


class NoAgent(P2PError):
    """No `p2p-agent` answers on this machine, and none could be started."""


class NotAMember(P2PError):
    """The contract does not list this node; `command` is what an operator has to run."""


class WrongContract(P2PError):
    """The agent that runs here serves another cluster."""


class WrongAgent(P2PError):
    """The agent that answers is of no use: it runs in another mode, or is of another version, or there are several to choose from."""


class NotPermitted(P2PError):
    """Permission was refused: to this node by the contract's owner, or to the agent or the application by this machine."""


class TimedOut(P2PError):
    """The operation was not done in time."""
