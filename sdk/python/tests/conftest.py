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
def socket(place: Path) -> Path:
    """Where an agent's socket may be."""
    return place / "agent.sock"
