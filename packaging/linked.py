"""Which crates are compiled into the programs, by what `cargo tree` says of them. What `sbom.py` and `licences.py` share.

    cargo tree --edges normal,no-proc-macro --prefix none --format '{p}' --package P … --target T

`cargo metadata` alone does not know: its features are those of the whole workspace, tests among it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def crates(lines: Iterable[str]) -> set[tuple[str, str]]:
    """Name and version of each. Lines are `name v1.2.3 (where)`, and `name v1.2.3 (*)` for one that was shown.

    Raises `ValueError` for any other line.
    """
    found = set()
    for line in filter(None, map(str.strip, lines)):
        name, version, *_ = [*line.split(), ""]
        if not version.startswith("v"):
            raise ValueError(f"no crate of cargo's tree: `{line}`")
        found.add((name, version[1:]))
    return found


def packages(metadata: Mapping[str, Any], linked: set[tuple[str, str]]) -> list[Mapping[str, Any]]:
    """What `cargo metadata` knows about these crates.

    Raises `KeyError` for one that it does not know.
    """
    known = {(package["name"], package["version"]): package for package in metadata["packages"]}
    return [known[crate] for crate in sorted(linked)]
