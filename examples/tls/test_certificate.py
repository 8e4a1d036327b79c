"""Whom certificate.py's files let in: this app's CVMs, and no others of the same KMS, whose root signs for every app there."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from applications import Application
from certificate import CertificateError, get_certificate, write_certificate, write_file
from fake_guest_agent import FakeGuestAgent
from gateway_name import GatewayName
from kms import Kms, run
from waiting import wait_until

HERE = Path(__file__).parent
NAME = GatewayName("0a" * 20, 6379, "gw.example")


@pytest.fixture
def place() -> Iterator[Path]:
    """Short enough for a socket's 108 bytes."""
    for program in ("redis-server", "redis-cli", "openssl"):
        assert shutil.which(program), f"{program} is missing: `apt-get install redis-server redis-tools openssl`"
    made = Path(tempfile.mkdtemp(prefix="p2p-"))
    yield made
    shutil.rmtree(made)


def test_another_app_of_the_same_kms_is_refused(place: Path) -> None:
    kms = Kms(place)
    ours, theirs = kms.app("ours"), kms.app("theirs")
    with Redis(ours) as redis:
        assert redis.ping(ours / "node.pem", ours / "app-ca.openssl.pem") == (0, "PONG")
        assert redis.ping(theirs / "node.pem", ours / "app-ca.openssl.pem")[0] != 0
        wait_until("their certificate to be refused", lambda: "certificate verify failed" in redis.log())
        code, said = redis.ping(ours / "node.pem", theirs / "app-ca.openssl.pem")
        assert code != 0 and "certificate verify failed" in said
    # With the root instead, as one might think is right, every app under it would get in.
    shutil.copy(kms.root, ours / "app-ca.openssl.pem")
    with Redis(ours) as redis:
        assert redis.ping(theirs / "node.pem", kms.root) == (0, "PONG")


def test_openssl_reads_what_the_authority_is_trusted_for(place: Path) -> None:
    app = Kms(place).app("app")
    shown = run("openssl", "x509", "-noout", "-text", "-in", str(app / "app-ca.openssl.pem"))
    assert "Trusted Uses:\n  TLS Web Server Authentication, TLS Web Client Authentication" in shown
    for file, begins in (("node.pem", "PRIVATE KEY"), ("app-ca.pem", "CERTIFICATE"), ("app-ca.openssl.pem", "TRUSTED CERTIFICATE")):
        assert (app / file).read_text().startswith(f"-----BEGIN {begins}-----\n")
        assert (app / file).stat().st_mode & 0o777 == 0o600
    assert app.stat().st_mode & 0o777 == 0o700
    assert sorted(file.name for file in app.iterdir()) == ["app-ca.openssl.pem", "app-ca.pem", "node.pem"]


def test_it_asks_for_both_sides_and_every_name(place: Path) -> None:
    key, chain = Kms(place).leaf("app")
    with FakeGuestAgent(place / "dstack.sock", 200, json.dumps({"key": key, "certificate_chain": chain}).encode()) as agent:
        assert get_certificate(agent.path, [NAME, NAME.at(9094)]) == (key, chain)
    asked = agent.asked[0]
    assert asked["alt_names"] == [f"{'0a' * 20}-6379s.gw.example", f"{'0a' * 20}-9094s.gw.example"]
    assert asked["usage_server_auth"] is True and asked["usage_client_auth"] is True


def test_an_answer_that_is_none_is_an_error_without_its_content(place: Path) -> None:
    key, chain = Kms(place).leaf("app")
    answers: list[tuple[int, Any, str]] = [
        (400, {"error": "no KMS"}, "the guest agent gives no certificate: no KMS"),
        (200, {"key": key, "certificate_chain": chain[:1]}, "is not understood"),
        (200, {"key": key, "certificate_chain": [chain[0], "not PEM"]}, "is not understood"),
        (200, {"key": "EC PRIVATE KEY", "certificate_chain": chain}, "is not understood"),
        (200, {"key": key}, "is not understood"),
        (200, [key], "is not understood"),
    ]
    for code, answer, expected in answers:
        with FakeGuestAgent(place / "dstack.sock", code, json.dumps(answer).encode()) as agent:
            with pytest.raises(CertificateError, match=expected) as refused:
                get_certificate(agent.path, [NAME])
        assert "PRIVATE" not in str(refused.value)
    with pytest.raises(CertificateError, match="--dstack-socket"):
        get_certificate(str(place / "missing.sock"), [NAME])


def test_only_urls_of_the_gateway_are_names() -> None:
    url = f"https://{NAME.host}"
    assert GatewayName.of(url) == NAME
    elsewhere = GatewayName.of(url + ":8443")
    assert (elsewhere.host, elsewhere.address, elsewhere.at(1).gateway_port) == (NAME.host, (NAME.host, 8443), 8443)
    for wrong in (
        "http" + url[5:],
        url + "/",
        url + "\n",
        url + ":443",
        url + ":0",
        url + ":08443",
        url + ":65536",
        url + ":8443/",
        url.replace("https://", "https://user@"),
        url.replace("s.", "."),
        url.replace("6379", "65536"),
        url.replace("6379", "0"),
        url.replace("gw.example", "gw.example\nport 6379"),
        "https://example.org",
    ):
        with pytest.raises(ValueError, match="is no URL of the dstack gateway"):
            GatewayName.of(wrong)


class Redis:
    """A Redis of redis.conf, in a network namespace that goes with it. Used with `with`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __enter__(self) -> Redis:
        write_file(self._directory / "role.conf", "")
        inside = 'ip link set lo up && cd "$1" && exec redis-server "$2"'
        words = ["unshare", "-n", "sh", "-c", inside, "sh", str(self._directory), str(HERE / "redis.conf")]
        (self._directory / "redis.log").unlink(missing_ok=True)
        self._process = Application(words, self._directory / "redis.log", {})
        wait_until("Redis", lambda: "Ready to accept connections" in self.log() or not self._process.is_running())
        assert self._process.is_running(), self.log()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stop()

    def log(self) -> str:
        return self._process.log()

    def ping(self, identity: Path, anchor: Path) -> tuple[int, str]:
        """What a client with this certificate, which trusts that authority, gets."""
        inside = ["nsenter", "-t", str(self._process.pid), "-n"]
        tls = ["--tls", "--cert", str(identity), "--key", str(identity), "--cacert", str(anchor)]
        command = [*inside, "redis-cli", "-e", *tls, "ping"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, (done.stdout + done.stderr).strip()
