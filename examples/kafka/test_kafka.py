"""Kafka's files on each node, and when `kafka_node.py` runs Kafka: with programs in its place, because Kafka is not in Debian."""

from __future__ import annotations

import argparse
import base64
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import kafka_node
import pytest
from fake_agent import CONTRACT, FakeAgent, Json, peer, peers, sample, status
from kafka_node import main, tokens
from kafka_properties import client_properties, cluster_id, server_properties
from waiting import PATIENCE, wait_until

from dstack_p2p import Member

HERE = Path(__file__).parent
CONTROLLERS = [1, 2, 3]
ADDRESSES = {token: f"10.0.1.{token}" for token in (1, 2, 3, 5)}


def one_of(*values: str) -> Callable[[str], bool]:
    return lambda value: value in values


def is_int(least: int) -> Callable[[str], bool]:
    return lambda value: re.fullmatch(r"-?[0-9]+", value) is not None and int(value) >= least


def is_list_of(pattern: str) -> Callable[[str], bool]:
    return lambda value: all(re.fullmatch(pattern, part) for part in value.split(","))


ENDPOINT = r"[A-Z]+://[0-9.]+:[0-9]{1,5}"
#: The broker's settings as https://kafka.apache.org/documentation/#brokerconfigs has them: names, types and valid values.
DOCUMENTED: dict[str, Callable[[str], object]] = {
    "process.roles": one_of("broker", "controller", "broker,controller"),
    "node.id": is_int(0),
    "controller.quorum.voters": is_list_of(r"[0-9]+@[0-9.]+:[0-9]{1,5}"),
    "controller.listener.names": is_list_of(r"[A-Z]+"),
    "listeners": is_list_of(ENDPOINT),
    "advertised.listeners": is_list_of(ENDPOINT),
    "listener.security.protocol.map": is_list_of(r"[A-Z]+:(PLAINTEXT|SSL|SASL_PLAINTEXT|SASL_SSL)"),
    "inter.broker.listener.name": re.compile(r"[A-Z]+").fullmatch,
    "controller.quorum.election.timeout.ms": is_int(1),
    "controller.quorum.fetch.timeout.ms": is_int(1),
    "log.dirs": is_list_of(r"/[^,\\]+"),
    "default.replication.factor": is_int(1),
    "min.insync.replicas": is_int(1),
    "offsets.topic.replication.factor": is_int(1),
    "transaction.state.log.replication.factor": is_int(1),
    "transaction.state.log.min.isr": is_int(1),
}


def read(text: str) -> dict[str, str]:
    pairs = [line.split("=", 1) for line in text.splitlines()]
    assert len({name for name, _ in pairs}) == len(pairs), "something is said twice"
    return {name: value for name, value in pairs}


def names(endpoints: str) -> dict[str, str]:
    return dict((name, place) for name, place in (part.split("://") for part in endpoints.split(",")))


def test_every_setting_is_one_of_kafkas() -> None:
    for token in ADDRESSES:
        properties = read(server_properties(token, ADDRESSES, CONTROLLERS, Path("/var/lib/mesh-kafka/log")))
        assert properties.keys() == DOCUMENTED.keys()
        for name, value in properties.items():
            assert DOCUMENTED[name](value), f"{name}={value}"


@pytest.mark.parametrize("controllers", [[1], [1, 2, 3], [1, 2, 3, 5, 7]])
def test_no_broker_would_refuse_it_and_all_agree(controllers: list[int]) -> None:
    addresses = {**ADDRESSES, 7: "10.0.1.7"}
    seen = {token: read(server_properties(token, addresses, controllers, Path("/k"))) for token in addresses}
    for token, properties in seen.items():
        own, is_controller = addresses[token], token in controllers
        # What Kafka checks when it starts.
        assert properties["node.id"] == str(token)
        assert properties["process.roles"] == ("broker,controller" if is_controller else "broker")
        listeners, advertised = names(properties["listeners"]), names(properties["advertised.listeners"])
        assert ("CONTROLLER" in listeners) == is_controller, "a broker alone may not have a controller's listener"
        assert "CONTROLLER" not in advertised, "Kafka before 3.9 refuses to advertise one"
        assert set(advertised) <= set(listeners) and properties["inter.broker.listener.name"] in advertised
        protocols = dict(pair.split(":") for pair in properties["listener.security.protocol.map"].split(","))
        assert set(protocols) == {"BROKER", "CONTROLLER"}
        voters = dict(voter.split("@") for voter in properties["controller.quorum.voters"].split(","))
        assert (str(token) in voters) == is_controller and len(voters) == len(controllers)
        assert int(properties["min.insync.replicas"]) <= int(properties["default.replication.factor"]) <= len(controllers)
        # Nothing is bound but the mesh address, and a controller is where the others look for it.
        assert {place.split(":")[0] for place in listeners.values()} == {own}
        assert not is_controller or listeners["CONTROLLER"] == voters[str(token)]
    for name in ("controller.quorum.voters", "default.replication.factor", "min.insync.replicas"):
        assert len({properties[name] for properties in seen.values()}) == 1, name


def test_clients_begin_with_every_member() -> None:
    assert client_properties({5: "10.0.1.5", 1: "10.0.1.1"}) == "bootstrap.servers=10.0.1.1:9092,10.0.1.5:9092\n"


def test_an_id_is_kafkas_and_never_looks_like_an_option() -> None:
    ids = {cluster_id(f"0x{number:040x}") for number in range(500)}
    assert len(ids) == 500
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{21}", made) for made in ids)
    assert all(len(base64.urlsafe_b64decode(made + "==")) == 16 for made in ids)


class KafkaNode:
    """One run of kafka_node.py, with programs in Kafka's place."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.socket = place / "agent.sock"
        self.data = place / "data"
        programs = place / "bin"
        programs.mkdir()
        say = f'echo "$0 $*" | sed "s:.*/kafka-:kafka-:" >>{place}/calls'
        # What the trap does is promised before the call is written down: a test may end the program as soon as it reads that.
        for name, lines in {
            "kafka-storage.sh": [say],
            "kafka-server-start.sh": [
                f"trap 'echo stopped >>{place}/calls; exit 0' TERM",
                say,
                f"echo $$ >{place}/pid",
                f"while [ -d {place} ]; do sleep 0.02; done",
            ],
        }.items():
            (programs / name).write_text("\n".join(["#!/bin/sh", *lines, ""]))
            (programs / name).chmod(0o755)
        self.path = f"{programs}:/usr/bin:/bin"
        self._process: subprocess.Popen[bytes]

    def start(self, *options: str) -> None:
        words = [str(HERE / "kafka_node.py"), CONTRACT, "--data-dir", str(self.data), "--socket", str(self.socket), *options]
        with (self.place / "errors").open("w") as errors:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", sys.executable, "-B", *words], stderr=errors, env={"PATH": self.path}
            )

    def calls(self) -> list[str]:
        calls = self.place / "calls"
        return [line.split()[0] for line in calls.read_text().splitlines()] if calls.exists() else []

    def wait_for(self, *calls: str) -> None:
        wait_until(f"the calls {calls}", lambda: self.calls() == list(calls) or self.has_ended(), self)
        assert self.calls() == list(calls), self.outcome() if self.has_ended() else self.calls()

    def kafka(self) -> int:
        """The process in Kafka's place, once there is one."""
        pid = self.place / "pid"
        wait_until("Kafka to run", lambda: pid.exists() and pid.read_text())
        return int(pid.read_text())

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def outcome(self) -> tuple[int, str]:
        return self._process.wait(PATIENCE), (self.place / "errors").read_text()

    def bootstrap(self) -> str:
        return (self.data / "client.properties").read_text()


def is_running(pid: int) -> bool:
    """A process that ended may have to wait for a new parent to take note of it."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.fixture
def node() -> Iterator[KafkaNode]:
    # Short enough for a socket's 108 bytes.
    place = Path(tempfile.mkdtemp(prefix="p2p-"))
    yield KafkaNode(place)
    shutil.rmtree(place)


def listed(*others: int, own: int = 1, membership: str = "active") -> Json:
    return peers(*map(peer, others), own=peer(own), membership=membership)


STARTED = ("kafka-storage.sh", "kafka-server-start.sh")


def test_kafka_runs_while_the_contract_lists_the_node(node: KafkaNode) -> None:
    with FakeAgent(node.socket, status(), listed(2)) as agent:
        node.start("--controllers", "1,2,3")
        wait_until("the members to be known", lambda: (node.data / "client.properties").exists() or node.has_ended())
        assert not (node.data / "server.properties").exists() and node.calls() == []
        agent.say(listed(2, 3))
        node.wait_for(*STARTED)
        expected = server_properties(1, ADDRESSES, CONTROLLERS, node.data / "log")
        assert (node.data / "server.properties").read_text() == expected
        formatted = (node.place / "calls").read_text().splitlines()[0]
        assert f"format --cluster-id {cluster_id(CONTRACT)} --ignore-formatted --config {node.data}/server.properties" in formatted
        # One that joins changes nothing but what clients begin with.
        agent.say(listed(2, 3, 5))
        wait_until("the new member in client.properties", lambda: "10.0.1.5:9092" in node.bootstrap())
        assert node.bootstrap() == "bootstrap.servers=10.0.1.1:9092,10.0.1.2:9092,10.0.1.3:9092,10.0.1.5:9092\n"
        agent.say(listed(2, 3, membership="fenced"), sample("fenced"))
        node.wait_for(*STARTED, "stopped")
        # It is back, and a controller is away.
        agent.say(listed(2), status())
        node.wait_for(*STARTED, "stopped", *STARTED)
        node.signal(signal.SIGTERM)
        code, errors = node.outcome()
    assert (code, node.calls()[-1]) == (0, "stopped"), errors
    assert "waiting for the controllers with tokens 3" in errors and "membership is gone" in errors


def test_kafka_ends_with_the_program_whatever_ends_that(node: KafkaNode) -> None:
    with FakeAgent(node.socket, status(), listed(2, 3)):
        node.start("--controllers", "1,2,3")
        pid = node.kafka()
        node.signal(signal.SIGKILL)
        node.outcome()
        wait_until("Kafka to end", lambda: not is_running(pid))


@contextmanager
def running_here(node: KafkaNode, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A node that knows all its members, in a thread of this process."""
    monkeypatch.setenv("PATH", node.path)
    monkeypatch.setattr("kafka_node.PERIOD", 0.02)
    node.data.mkdir()
    itself = kafka_node.KafkaNode(CONTRACT, 1, CONTROLLERS, node.data)
    itself.know([Member(token, f"node-{token}", "wireguard", address, None, None) for token, address in ADDRESSES.items()])
    running = threading.Thread(target=itself.run)
    running.start()
    try:
        yield
    finally:
        itself.end()
        running.join()


def test_kafka_that_died_is_started_again(node: KafkaNode, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_here(node, monkeypatch):
        killed = node.kafka()
        os.kill(killed, signal.SIGKILL)
        wait_until("another to run", lambda: node.kafka() != killed)
        assert node.calls() == [*STARTED, *STARTED]
    assert node.calls()[-1] == "stopped"


def test_formatting_that_does_not_end_is_ended_and_tried_again(
    node: KafkaNode, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    storage = Path(node.path.split(":")[0]) / "kafka-storage.sh"
    works = storage.read_text()
    storage.write_text("#!/bin/sh\nexec sleep 600\n")
    monkeypatch.setattr("kafka_node.FORMAT_WITHIN", 0.1)
    caplog.set_level(logging.INFO)
    with running_here(node, monkeypatch):
        wait_until("it to be ended", lambda: "takes longer than" in caplog.text)
        monkeypatch.setattr("kafka_node.FORMAT_WITHIN", 60.0)
        # At once: a shell may read it at any time.
        whole = storage.with_suffix(".new")
        whole.write_text(works)
        whole.chmod(0o755)
        whole.rename(storage)
        node.kafka()
        assert node.calls() == [*STARTED]


@pytest.mark.parametrize("text", ["", "0", "1,1,1", "1,2", "one", "-1,2,3", "1,2,3,4,5,6,7"])
def test_controllers_that_cannot_be_meant_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="three or five"):
        tokens(text)
    assert tokens("3,1,2") == [1, 2, 3]


@pytest.mark.parametrize("directory", ["var", "/var/a\\b", "/var/a,b", "/var/a\nb"])
def test_a_directory_that_kafka_would_read_otherwise_is_refused(
    directory: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["kafka_node.py", CONTRACT, "--controllers", "1", "--data-dir", directory])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "absolute path" in capsys.readouterr().err


def test_without_kafka_it_says_what_is_missing(node: KafkaNode) -> None:
    (node.place / "bin" / "kafka-storage.sh").unlink()
    node.start("--controllers", "1")
    code, errors = node.outcome()
    assert code == 2 and "kafka-storage.sh is not in the PATH" in errors
