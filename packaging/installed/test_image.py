"""The images that `make dist` made, as an engine meets them: DIST is the directory. Needs root, podman, and nothing of a registry."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path

import pytest

DIST = Path(os.environ["DIST"])
#: A line each: digest, and the archive's name.
_DIGESTS = DIST / "IMAGE-DIGESTS"


def images() -> list[tuple[str, str]]:
    """Empty where no static programs were made (TARGETS of packaging/dist), which the test below refuses."""
    lines = _DIGESTS.read_text().splitlines() if _DIGESTS.exists() else []
    return [(digest, name) for digest, name in (line.split() for line in lines)]


def test_there_are_both_images() -> None:
    assert sorted(name.split("-")[0] for _, name in images()) == ["meshctl", "p2p"], f"{_DIGESTS}: make dist makes them of static programs"


@pytest.mark.parametrize(("digest", "name"), images())
def test_an_engine_takes_it_by_the_digest_that_was_printed(digest: str, name: str) -> None:
    parts = re.fullmatch(r"(.+)-([0-9.]+)-oci-.+\.tar", name)
    assert parts is not None, name
    # podman takes no longer path than this for what runs; the directories of pytest are.
    with tempfile.TemporaryDirectory(prefix="p2p-") as place:

        def podman(*words: str) -> str:
            # Its own storage, and no init system to ask for a control group.
            command = ["podman", f"--root={place}/root", f"--runroot={place}/run", "--cgroup-manager=cgroupfs", *words]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}{done.stderr}"
            return done.stdout

        podman("load", "--input", str(DIST / name))
        found = podman("images", "--digests", "--format", "{{.Repository}}:{{.Tag}} {{.Digest}}").split()
        podman("rmi", "--all", "--force")
        assert found == [f"localhost/{parts[1]}:{parts[2]}", digest]
