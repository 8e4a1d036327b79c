"""What users get: the wheel and the sdist that venv.sh built, and that these tests run with."""

from __future__ import annotations

import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import dstack_p2p

SOURCES = Path(__file__).parents[1] / "src" / "dstack_p2p"
DIST = Path(sys.prefix) / "dist"


def built(pattern: str) -> Path:
    [found] = DIST.glob(pattern)
    return found


def modules() -> set[str]:
    return {f"dstack_p2p/{path.name}" for path in SOURCES.iterdir() if path.suffix == ".py" or path.name == "py.typed"}


def test_the_wheel_is_the_package_with_its_types_and_needs_httpx_alone() -> None:
    with zipfile.ZipFile(built("dstack_p2p-*-py3-none-any.whl")) as wheel:
        names = set(wheel.namelist())
        [metadata] = [name for name in names if name.endswith(".dist-info/METADATA")]
        described = Parser().parsestr(wheel.read(metadata).decode())
    assert {name for name in names if ".dist-info/" not in name} == modules()
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert described["Name"] == "dstack-p2p" and described["Requires-Python"] == ">=3.9"
    [requirement] = described.get_all("Requires-Dist", [])
    assert requirement.startswith("httpx")


def test_the_sdist_is_what_the_wheel_is_made_of() -> None:
    with tarfile.open(built("dstack_p2p-*.tar.gz")) as sdist:
        names = {name.split("/", 1)[1] for name in sdist.getnames()}
    sources = {f"src/{name}" for name in modules()}
    # What hatchling adds by itself.
    assert names == sources | {"README.md", "LICENSE", "pyproject.toml", "PKG-INFO", ".gitignore"}


def test_what_is_tested_is_what_was_built() -> None:
    assert Path(sys.prefix) in Path(dstack_p2p.__file__).parents
