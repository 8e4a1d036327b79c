"""What Kafka is configured with on each node, and that the nodes agree. Kafka itself is not in Debian, and does not run here."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest
from fake_agent import CONTRACT, FakeAgent, peers, status, tls_peer
from kafka_config import cluster_id
from waiting import PATIENCE, wait_until

HERE = Path(__file__).parent
#: Three controllers, and one that is a broker alone.
TOKENS = (1, 2, 3, 5)
CONTROLLERS = "1,2,3"


def member(token: int) -> dict[str, Any]:
    return tls_peer(token, url=f"https://{token:040x}-9093s.gw.example")


def said(token: int, *members: int) -> dict[str, Any]:
    """What the agent of one member says of these."""
    return peers(*(member(other) for other in members if other != token), own=member(token))


@pytest.fixture
def place() -> Iterator[Path]:
    """Short enough for a socket's 108 bytes."""
    made = Path(tempfile.mkdtemp(prefix="p2p-"))
    yield made
    shutil.rmtree(made)


class Config:
    """One node's run of kafka_config.py."""

    def __init__(self, place: Path, token: int) -> None:
        self.token = token
        self.socket = place / f"{token}.sock"
        self.directory = place / str(token)
        self.directory.mkdir()
        self._process: Optional[subprocess.Popen[str]] = None

    def start(self, controllers: str = CONTROLLERS) -> None:
        words = [str(HERE / "kafka_config.py"), CONTRACT, str(self.directory), "--controllers", controllers]
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", sys.executable, "-B", *words, "--socket", str(self.socket)],
            stderr=subprocess.PIPE,
            text=True,
        )

    def is_waiting(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def outcome(self) -> tuple[int, str]:
        assert self._process is not None
        _, errors = self._process.communicate(timeout=PATIENCE)
        return self._process.returncode, errors

    def properties(self) -> dict[str, str]:
        text = (self.directory / "server.properties").read_text()
        pairs = [line.split("=", 1) for line in text.splitlines()]
        assert len({name for name, _ in pairs}) == len(pairs), "something is said twice"
        return {name: value for name, value in pairs}


def test_all_nodes_are_configured_for_one_cluster(place: Path) -> None:
    seen: dict[int, dict[str, str]] = {}
    ids = set()
    for token in TOKENS:
        config = Config(place, token)
        with FakeAgent(config.socket, status(kind="tls", url=member(token)["url"]), said(token, *TOKENS)):
            config.start()
            assert config.outcome()[0] == 0, config.outcome()
        seen[token] = config.properties()
        ids.add((config.directory / "cluster.id").read_text())

    for token, properties in seen.items():
        assert properties["node.id"] == str(token)
        is_controller = token in (1, 2, 3)
        assert properties["process.roles"] == ("broker,controller" if is_controller else "broker")
        names = ["BROKER", "CONTROLLER"] if is_controller else ["BROKER"]
        assert endpoints(properties["listeners"]) == {name: ("", port) for name, port in zip(names, (9093, 9094))}
        called = {name: (f"{token:040x}-{port}s.gw.example", 443) for name, port in zip(names, (9093, 9094))}
        assert endpoints(properties["advertised.listeners"]) == called
        # The gateway leads each name to the port that this listener binds.
        for name, (host, _) in called.items():
            assert f"-{endpoints(properties['listeners'])[name][1]}s." in host
        assert properties["controller.listener.names"] == "CONTROLLER" and properties["inter.broker.listener.name"] == "BROKER"
        protocols = dict(pair.split(":") for pair in properties["listener.security.protocol.map"].split(","))
        assert protocols == {"BROKER": "SSL", "CONTROLLER": "SSL"}
        assert properties["ssl.client.auth"] == "required" and properties["ssl.endpoint.identification.algorithm"] == "https"

    # Each votes for the same, and calls each controller where that controller says it is.
    assert len({properties["controller.quorum.voters"] for properties in seen.values()}) == 1
    voters = dict(voter.split("@") for voter in seen[5]["controller.quorum.voters"].split(","))
    assert set(voters) == {"1", "2", "3"}
    for voter, address in voters.items():
        host, port = endpoints(seen[int(voter)]["advertised.listeners"])["CONTROLLER"]
        assert address == f"{host}:{port}"
    assert len(ids) == 1 and len(base64.urlsafe_b64decode(ids.pop().strip() + "==")) == 16


def test_no_secret_is_in_it(place: Path) -> None:
    config = Config(place, 1)
    with FakeAgent(config.socket, status(kind="tls", url=member(1)["url"]), said(1, *TOKENS)):
        config.start()
        assert config.outcome()[0] == 0
    text = (config.directory / "server.properties").read_text()
    assert "BEGIN" not in text and "password" not in text and "PRIVATE" not in text
    properties = config.properties()
    assert properties["ssl.keystore.type"] == properties["ssl.truststore.type"] == "PEM"
    assert properties["ssl.keystore.location"] == str(config.directory / "node.pem")
    assert properties["ssl.truststore.location"] == str(config.directory / "app-ca.pem")
    assert (config.directory / "server.properties").stat().st_mode & 0o777 == 0o600


def test_it_waits_for_every_controller(place: Path) -> None:
    config = Config(place, 1)
    agent = FakeAgent(config.socket, status(kind="tls", url=member(1)["url"]), said(1, 1, 2))
    with agent:
        config.start()
        asked = agent.asked.get("/v1/peers", 0)
        wait_until("it to look again", lambda: agent.asked.get("/v1/peers", 0) > asked + 5 or not config.is_waiting())
        assert config.is_waiting() and not (config.directory / "server.properties").exists(), config.outcome()
        agent.say(said(1, 1, 2, 3))
        code, errors = config.outcome()
    assert code == 0 and "waiting for the members with tokens 3" in errors


def test_what_cannot_be_meant_is_refused(place: Path) -> None:
    config = Config(place, 1)
    for controllers in ("", "0", "1,1", "one"):
        config.start(controllers)
        code, errors = config.outcome()
        assert code == 2 and "--controllers" in errors
    strange = tls_peer(2, url="https://example.org\nssl.client.auth=none")
    with FakeAgent(config.socket, status(kind="tls", url=member(1)["url"]), peers(strange, own=member(1))):
        config.start("1,2")
        code, errors = config.outcome()
    assert code == 1 and "is no URL of the dstack gateway" in errors
    assert not (config.directory / "server.properties").exists()


def test_an_id_never_looks_like_an_option() -> None:
    ids = {cluster_id(f"0x{number:040x}") for number in range(500)}
    assert len(ids) == 500
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{21}", made) for made in ids)


def endpoints(text: str) -> dict[str, tuple[str, int]]:
    """`NAME://HOST:PORT,…`, where a host may be empty."""
    made = {}
    for part in text.split(","):
        match = re.fullmatch(r"([A-Z]+)://([a-z0-9.-]*):([0-9]+)", part)
        assert match, text
        made[match[1]] = (match[2], int(match[3]))
    return made
