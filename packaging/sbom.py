"""What the programs are made of, as CycloneDX 1.5: every crate that is compiled into one of them, with version, licence and checksum.

    cargo metadata --locked --format-version 1 | sbom.py --epoch SECONDS --lock Cargo.lock --linked TREE PACKAGE … >FILE

TREE is cargo's tree (`linked.py`).
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import linked


def bill(
    metadata: Mapping[str, Any], lock: Mapping[str, Any], crates: set[tuple[str, str]], programs: Sequence[str], epoch: int
) -> dict[str, Any]:
    """`crates` are the linked ones. Raises `KeyError` for a program that the workspace does not have, and for a crate that cargo does
    not know."""
    packages = {package["id"]: package for package in linked.packages(metadata, crates)}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    members = {packages[member]["name"]: member for member in metadata["workspace_members"] if member in packages}
    checksums = {(crate["name"], crate["version"]): crate.get("checksum") for crate in lock["package"]}
    roots = [members[program] for program in programs]
    needs = {package: [dep["pkg"] for dep in nodes[package]["deps"] if _is_linked(dep, packages)] for package in packages}
    refs = {package: _purl(packages[package]) for package in needs}
    components = [_component(packages[package], refs[package], checksums) for package in needs]
    main = packages[roots[0]]
    serial = uuid.uuid5(uuid.NAMESPACE_URL, f"{refs[roots[0]]}#{epoch}")
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(epoch, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {"type": "application", "name": main["name"], "version": main["version"], "bom-ref": "distribution"},
        },
        "components": sorted(components, key=lambda component: str(component["bom-ref"])),
        "dependencies": [
            {"ref": "distribution", "dependsOn": sorted(refs[root] for root in roots)},
            *sorted(
                ({"ref": refs[package], "dependsOn": sorted({refs[need] for need in needs[package]})} for package in needs),
                key=lambda dependency: str(dependency["ref"]),
            ),
        ],
    }


def _is_linked(dependency: Mapping[str, Any], packages: Mapping[str, Any]) -> bool:
    """Neither for build scripts alone nor for tests."""
    return dependency["pkg"] in packages and any(kind["kind"] is None for kind in dependency["dep_kinds"])


def _purl(package: Mapping[str, Any]) -> str:
    return f"pkg:cargo/{package['name']}@{package['version']}"


def _component(package: Mapping[str, Any], ref: str, checksums: Mapping[tuple[str, str], str | None]) -> dict[str, Any]:
    component: dict[str, Any] = {"type": "library", "bom-ref": ref, "name": package["name"], "version": package["version"]}
    component["purl"] = ref
    if package["license"]:
        # The slash is an older way to write it.
        component["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    if checksum := checksums.get((package["name"], package["version"])):
        component["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    return component


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epoch", type=int, required=True)
    parser.add_argument("--lock", type=Path, required=True)
    parser.add_argument("--linked", type=Path, required=True)
    parser.add_argument("programs", nargs="+", metavar="PACKAGE")
    given = parser.parse_args()
    crates = linked.crates(given.linked.read_text().splitlines())
    document = bill(json.load(sys.stdin), tomllib.loads(given.lock.read_text()), crates, given.programs, given.epoch)
    json.dump(document, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
