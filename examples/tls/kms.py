"""Certificates as dstack's KMS gives them, made with `openssl`, for tests."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Optional

from certificate import write_certificate


class Kms:
    """A root, and below it an authority for each app. All of these have the same name, as dstack's have."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self.root = place / "root.crt"
        self._root_key = place / "root.key"
        self._authorities: dict[str, tuple[Path, Path]] = {}
        request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
        run(*request, "-subj", "/O=Dstack/CN=Dstack KMS CA", "-keyout", str(self._root_key), "-out", str(self.root))

    def app(self, name: str, host: str = "node.gw.example", authority: Optional[str] = None) -> Path:
        """A directory with what certificate.py writes on a node of that app: its own, or one whose authority is another's."""
        directory = self._place / name
        write_certificate(directory, *self.leaf(authority or name, host))
        return directory

    def leaf(self, app: str, host: str = "node.gw.example") -> tuple[str, list[str]]:
        """As the guest agent gives them."""
        if app not in self._authorities:
            authority = "basicConstraints=critical,CA:TRUE,pathlen:0\nsubjectKeyIdentifier=hash\n"
            self._authorities[app] = self._sign(f"{app}-ca", "/O=Dstack/CN=Dstack App CA", authority, self._root_key, self.root)
        usage = f"extendedKeyUsage=serverAuth,clientAuth\nsubjectAltName=DNS:{host}\n"
        ca_key, ca = self._authorities[app]
        key, leaf = self._sign(f"{app}-leaf", "/CN=node", usage, ca_key, ca)
        return key.read_text(), [leaf.read_text(), ca.read_text(), self.root.read_text()]

    def _sign(self, name: str, subject: str, extensions: str, by_key: Path, by: Path) -> tuple[Path, Path]:
        key, request, certificate, written = (self._place / f"{name}.{kind}" for kind in ("key", "csr", "crt", "ext"))
        written.write_text(extensions)
        new = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", subject]
        run(*new, "-keyout", str(key), "-out", str(request))
        sign = ["openssl", "x509", "-req", "-in", str(request), "-CA", str(by), "-CAkey", str(by_key), "-CAcreateserial", "-days", "1"]
        run(*sign, "-extfile", str(written), "-out", str(certificate))
        return key, certificate


def run(*words: str) -> str:
    """Runs a program and returns what it printed."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
    return done.stdout
