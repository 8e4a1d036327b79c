"""Writes one image as an OCI layout in a tar archive, without an engine: one platform, one layer, no index of attestations.

    oci.py OUTPUT --name NAME --version V --revision COMMIT --epoch SECONDS [--architecture A] [--user U] --command WORD FILE=SOURCE …

Prints the digest of the manifest, by which a registry and a compose file name it. The same files give the same bytes on every
machine: times and owners are fixed, and the layer's gzip stream has stored blocks alone, because what compresses differs between
versions of zlib.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import struct
import tarfile
import zlib
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

#: Users that images have names for, and their groups; there is no other file of the system in them.
_USERS = (("root", "root", 0), ("nobody", "nogroup", 65534))
_PASSWD = "".join(f"{user}:x:{number}:{number}::/:/nonexistent\n" for user, _, number in _USERS).encode()
_GROUP = "".join(f"{group}:x:{number}:\n" for _, group, number in _USERS).encode()
#: Where an engine mounts what the agent reads and writes.
_DIRECTORIES = ("etc", "run", "run/p2p-agent", "tmp", "usr", "usr/bin", "usr/share", "usr/share/doc", "var", "var/lib", "var/lib/p2p-agent")


def tar(files: Mapping[str, bytes], directories: Iterable[str], links: Mapping[str, str], epoch: int) -> bytes:
    """An archive of programs and other files, all of root."""
    entries: dict[str, tuple[tarfile.TarInfo, bytes]] = {}
    for name in directories:
        entries[name] = (_entry(name, tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755), b"")
    for name, content in files.items():
        entries[name] = (_entry(name, tarfile.REGTYPE, 0o755 if "bin/" in name else 0o644), content)
    for name, target in links.items():
        link = _entry(name, tarfile.SYMTYPE, 0o777)
        link.linkname = target
        entries[name] = (link, b"")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for _, (entry, content) in sorted(entries.items()):
            entry.mtime, entry.size = epoch, len(content)
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def _entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = kind, mode
    return entry


def stored_gzip(data: bytes) -> bytes:
    """RFC 1952 around stored blocks of RFC 1951."""
    out = [b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"]
    blocks = [data[at : at + 0xFFFF] for at in range(0, len(data), 0xFFFF)] or [b""]
    for number, block in enumerate(blocks, 1):
        out += [struct.pack("<BHH", number == len(blocks), len(block), len(block) ^ 0xFFFF), block]
    return b"".join([*out, struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF)])


def image(
    files: Mapping[str, bytes],
    *,
    name: str,
    version: str,
    revision: str,
    epoch: int,
    command: str,
    architecture: str = "amd64",
    user: str = "",
) -> tuple[str, bytes]:
    """The digest of its manifest, and the archive of the layout."""
    created = datetime.fromtimestamp(epoch, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    contents = {"etc/passwd": _PASSWD, "etc/group": _GROUP, **files}
    unpacked = tar(contents, _DIRECTORIES, {"var/run": "../run"}, epoch)
    labels = {f"org.opencontainers.image.{key}": value for key, value in _about(name, version, revision).items()}
    config: dict[str, Any] = {"Cmd": [command], "Env": ["PATH=/usr/bin"], "Labels": labels, "WorkingDir": "/"}
    if user:
        config["User"] = user
    blobs: dict[str, bytes] = {}
    layer = _blob(blobs, "application/vnd.oci.image.layer.v1.tar+gzip", stored_gzip(unpacked))
    about = _blob(
        blobs,
        "application/vnd.oci.image.config.v1+json",
        _json(
            {
                "created": created,
                "architecture": architecture,
                "os": "linux",
                "config": config,
                "rootfs": {"type": "layers", "diff_ids": [_digest(unpacked)]},
                "history": [{"created": created, "created_by": "packaging/oci.py"}],
            }
        ),
    )
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = _blob(blobs, kind, _json({"schemaVersion": 2, "mediaType": kind, "config": about, "layers": [layer]}))
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{**manifest, "annotations": {"org.opencontainers.image.ref.name": f"{name}:{version}"}}],
    }
    layout = {"oci-layout": _json({"imageLayoutVersion": "1.0.0"}), "index.json": _json(index), **blobs}
    return str(manifest["digest"]), tar(layout, ("blobs", "blobs/sha256"), {}, epoch)


def _about(name: str, version: str, revision: str) -> dict[str, str]:
    return {"title": name, "version": version, "revision": revision, "licenses": "MIT"}


def _blob(blobs: dict[str, bytes], kind: str, content: bytes) -> dict[str, object]:
    digest = _digest(content)
    blobs[f"blobs/{digest.replace(':', '/')}"] = content
    return {"mediaType": kind, "digest": digest, "size": len(content)}


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _json(document: object) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("output", type=Path)
    for flag in ("name", "version", "revision", "command"):
        parser.add_argument(f"--{flag}", required=True)
    parser.add_argument("--epoch", type=int, required=True)
    parser.add_argument("--architecture", default="amd64")
    parser.add_argument("--user", default="")
    parser.add_argument("files", nargs="+", metavar="FILE=SOURCE")
    given = vars(parser.parse_args())
    output, pairs = given.pop("output"), [pair.split("=", 1) for pair in given.pop("files")]
    digest, archive = image({name: Path(source).read_bytes() for name, source in pairs}, **given)
    output.write_bytes(archive)
    print(digest)


if __name__ == "__main__":
    main()
