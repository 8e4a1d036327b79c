"""What every test gets."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory whose sockets have names that are short enough (108 bytes), which pytest's own need not be."""
    made = Path(tempfile.mkdtemp(prefix="p2p-"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK asks again at once: that a fake agent says something else is what tests wait for, and not the pauses."""
    for name in ("_sdk._POLL", "_follow._POLL", "_follow._RETRY_FIRST", "_follow._RETRY_LAST"):
        monkeypatch.setattr(f"dstack_p2p.{name}", 0.02 if name.endswith("LAST") else 0.01)


@pytest.fixture
def socket(place: Path) -> Path:
    """Where an agent's socket may be."""
    return place / "agent.sock"
