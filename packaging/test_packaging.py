"""That what is packed is packed alike each time, and says what is in it."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import licences
import linked
import oci
import pytest
import sbom

EPOCH = 1_700_000_000
PROGRAM = bytes(range(256)) * 1000


def built(**other: Any) -> tuple[str, bytes]:
    about: dict[str, Any] = {"name": "meshctl", "version": "1.2.3", "revision": "c0ffee", "epoch": EPOCH, "command": "meshctl"}
    return oci.image({"usr/bin/meshctl": PROGRAM}, **{**about, **other})


def unpacked(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as entries:
        return {entry.name: entries.extractfile(entry).read() for entry in entries if entry.isfile()}  # type: ignore[union-attr]


def test_an_image_is_one_manifest_of_one_layer_and_every_digest_is_right() -> None:
    digest, archive = built(user="65534:65534")
    layout = unpacked(archive)
    blobs = {name: content for name, content in layout.items() if name.startswith("blobs/")}
    for name, content in blobs.items():
        assert name == f"blobs/sha256/{hashlib.sha256(content).hexdigest()}"
    [named] = json.loads(layout["index.json"])["manifests"]
    assert named["digest"] == digest and named["mediaType"].endswith("image.manifest.v1+json")
    # What an engine calls it that loads the archive.
    assert named["annotations"] == {"org.opencontainers.image.ref.name": "meshctl:1.2.3"}
    manifest = json.loads(blobs[f"blobs/{digest.replace(':', '/')}"])
    config = json.loads(blobs[f"blobs/{manifest['config']['digest'].replace(':', '/')}"])
    assert config["config"]["User"] == "65534:65534" and config["architecture"] == "amd64"
    [layer] = manifest["layers"]
    files = gzip.decompress(blobs[f"blobs/{layer['digest'].replace(':', '/')}"])
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(files).hexdigest()}"]
    with tarfile.open(fileobj=io.BytesIO(files)) as entries:
        found = {entry.name: entry for entry in entries}
        assert {(entry.uid, entry.gid, entry.mtime) for entry in found.values()} == {(0, 0, EPOCH)}
        assert found["usr/bin/meshctl"].mode == 0o755 and found["tmp"].mode == 0o1777
    assert unpacked(files)["usr/bin/meshctl"] == PROGRAM


def test_the_same_files_are_the_same_image_and_another_file_is_another() -> None:
    assert built() == built()
    digests = {built()[0], built(user="1")[0], built(epoch=EPOCH + 1)[0], built(revision="c0fee")[0]}
    assert len(digests) == 4


def test_stored_gzip_is_gzip() -> None:
    for length in (0, 1, 0xFFFF, 0x10000, 0x1FFFE):
        data = bytes(length)
        assert gzip.decompress(oci.stored_gzip(data)) == data


def package(name: str, licence: str | None = "MIT") -> dict[str, Any]:
    return {"id": name, "name": name, "version": "1.0.0", "license": licence}


def test_cargos_tree_is_read_and_nothing_else() -> None:
    tree = ["p2p-agent v0.2.0 (/somewhere)", "", "anyhow v1.0.1", "anyhow v1.0.1 (*)"]
    assert linked.crates(tree) == {("p2p-agent", "0.2.0"), ("anyhow", "1.0.1")}
    with pytest.raises(ValueError):
        linked.crates(["warning: nothing to print"])
    with pytest.raises(KeyError):
        linked.packages({"packages": [package("one")]}, {("another", "1.0.0")})


def test_the_bill_has_what_is_compiled_in_and_nothing_else() -> None:
    def needs(name: str, **kinds: list[str | None]) -> dict[str, Any]:
        deps = [{"pkg": dep, "dep_kinds": [{"kind": kind} for kind in of]} for dep, of in kinds.items()]
        return {"id": name, "deps": deps}

    names = ["program", "other", "library", "deeper", "tester", "builder", "macro"]
    metadata = {
        "packages": [package(name, "MIT/Apache-2.0" if name == "deeper" else "MIT") for name in names],
        "workspace_members": ["program", "other"],
        "resolve": {
            "nodes": [
                needs("program", library=[None, "dev"], tester=["dev"], builder=["build"]),
                needs("library", deeper=[None], builder=["build"], macro=[None]),
                *(needs(name) for name in ("other", "deeper", "tester", "builder", "macro")),
            ]
        },
    }
    lock = {"package": [{"name": "deeper", "version": "1.0.0", "checksum": "ab" * 32}]}
    crates = {(name, "1.0.0") for name in ("program", "library", "deeper")}
    bill = sbom.bill(metadata, lock, crates, ["program"], EPOCH)
    assert [component["name"] for component in bill["components"]] == ["deeper", "library", "program"]
    [deeper, *_] = bill["components"]
    assert deeper["hashes"] == [{"alg": "SHA-256", "content": "ab" * 32}]
    assert deeper["licenses"] == [{"expression": "MIT OR Apache-2.0"}]
    assert {"ref": "pkg:cargo/library@1.0.0", "dependsOn": ["pkg:cargo/deeper@1.0.0"]} in bill["dependencies"]
    assert bill == sbom.bill(metadata, lock, crates, ["program"], EPOCH)


def crate(folder: Path, name: str, licence: str, files: dict[str, str], source: str | None = "registry") -> dict[str, Any]:
    place = folder / name
    for path, text in files.items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_text(text)
    manifest = str(place / "Cargo.toml")
    return {**package(name, licence), "source": source, "manifest_path": manifest, "authors": ["An Author"]}


def test_each_crate_is_named_with_its_texts_and_each_text_is_there_once(tmp_path: Path) -> None:
    def said(folder: Path) -> str:
        packages = [
            crate(folder, "one", "MIT", {"LICENSE": "the text of one  \r\n", "src/license.rs": "code"}),
            crate(folder, "two", "ISC", {"vendored/COPYING": "vendored\n", "LICENSE-ISC": "\nthe text of one\n"}),
            crate(folder, "ours", "MIT", {"LICENSE": "our own"}, source=None),
            crate(folder, "bare", "Apache-2.0/MIT", {"README.md": ""}),
        ]
        return licences.third_party(packages, {"musl": "of the C library\n"})

    text = said(tmp_path / "a")
    assert "one 1.0.0: MIT [1]\n" in text and "two 1.0.0: ISC [1] [2]\n" in text and "musl: see [4]\n" in text
    assert text.count("the text of one") == 1 and "[2]\n\nvendored\n" in text and "of the C library" in text
    assert "our own" not in text and "code" not in text
    assert "bare 1.0.0: Apache-2.0/MIT [3]\n" in text and "Copyright (c) An Author\n\nPermission is hereby granted" in text
    assert text == said(tmp_path / "another")


def test_a_crate_without_any_licence_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bare 1.0.0 has no licence text: Apache-2.0"):
        licences.third_party([crate(tmp_path, "bare", "Apache-2.0", {"README.md": ""})], {})
