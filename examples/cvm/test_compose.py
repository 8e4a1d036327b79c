"""What the compose file of a CVM promises, and that its gate holds an application back."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_agent import FakeAgent, peer, peers, sample, status
from waiting import PATIENCE, wait_until

HERE = Path(__file__).parent
COMPOSE = HERE / "docker-compose.yml"
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text())["services"]
MESHCTL = Path(os.environ.get("CARGO_TARGET_DIR", HERE.parents[1] / "target"), "debug", "meshctl")
GUEST_AGENT = "/var/run/dstack.sock"


def test_the_application_waits_for_the_gate_and_the_gate_for_the_agent() -> None:
    assert list(SERVICES) == ["mesh", "gate", "application"]
    assert SERVICES["application"]["depends_on"] == {"gate": {"condition": "service_completed_successfully"}}
    assert SERVICES["gate"]["depends_on"] == {"mesh": {"condition": "service_started"}}
    assert SERVICES["gate"]["command"][:3] == ["meshctl", "wait", "--ready"]
    # A gate that is started again and again does not end, and an application that Docker starts by itself does not wait.
    assert SERVICES["gate"]["restart"] == "no"
    assert SERVICES["application"]["restart"] == "on-failure"


def test_only_the_agent_has_rights_and_only_those_it_needs() -> None:
    assert SERVICES["mesh"]["cap_add"] == ["NET_ADMIN"]
    assert SERVICES["mesh"]["devices"] == ["/dev/net/tun"]
    for name, service in SERVICES.items():
        assert service["cap_drop"] == ["ALL"] and service["read_only"] is True, name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        for refused in ("privileged", "pid", "ipc", "userns_mode", "ports"):
            assert refused not in service, f"{name}: {refused}"
        if name != "mesh":
            assert not {"cap_add", "devices"} & set(service), name
            assert all(volume.endswith(":ro") for volume in service["volumes"]), name
            assert not any(GUEST_AGENT in volume for volume in service["volumes"]), name
    assert f"{GUEST_AGENT}:{GUEST_AGENT}:ro" in SERVICES["mesh"]["volumes"]
    assert SERVICES["gate"]["network_mode"] == "none" and SERVICES["gate"]["user"] == "65534:65534"
    # Root of a container is root for the agent, and may vote. Every user who may vote is named.
    application, command = SERVICES["application"]["user"], SERVICES["mesh"]["command"]
    assert application == "10001:10001"
    assert command[command.index("--allow-vote-uid") + 1] == application.split(":")[0]


def test_what_is_trusted_is_measured_and_what_is_secret_is_no_argument() -> None:
    assert set(SERVICES["mesh"]["environment"]) == {"P2P_RPC_URL", "DSTACK_GATEWAY_DOMAIN", "P2P_ENDPOINT", "P2P_LISTEN_PORT"}
    for service in SERVICES.values():
        assert "$" not in " ".join([service["image"], *service.get("command", [])])


def test_the_image_is_named_by_a_digest_that_has_to_be_filled_in() -> None:
    """And the command of the README does so."""
    images = {SERVICES[name]["image"] for name in ("mesh", "gate")}
    assert images == {f"your-registry/p2p-agent@sha256:{64 * '0'}"}
    [command] = re.findall(r'^sed -i ("s\|.*") examples/cvm/docker-compose.yml$', (HERE / "README.md").read_text(), re.MULTILINE)
    digest = f"sha256:{64 * 'a'}"
    filled = subprocess.run(["bash", "-c", f'sed {command} "$0"', str(COMPOSE)], env={**os.environ, "digest": digest}, capture_output=True)
    assert filled.stdout.decode().count(f"image: your-registry/p2p-agent@{digest}\n") == 2, filled.stderr


def test_docker_compose_accepts_it() -> None:
    command = [*docker_compose(), "--file", str(COMPOSE), "config", "--quiet"]
    environment = {**os.environ, "P2P_RPC_URL": "https://rpc.example"}
    checked = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert checked.returncode == 0, checked.stderr
    del environment["P2P_RPC_URL"]
    checked = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert checked.returncode != 0 and "three endpoints of the chain" in checked.stderr


def docker_compose() -> list[str]:
    """The plugin of Docker, or the program of its own that Debian has. To read a file, neither needs Docker's engine."""
    plugin, program = ["docker", "compose"], "docker-compose"
    if shutil.which("docker") and subprocess.run([*plugin, "version"], capture_output=True).returncode == 0:
        return plugin
    assert shutil.which(program), "`make deps` installs docker-compose"
    return [program]


@pytest.fixture
def socket() -> Iterator[Path]:
    """Where an agent's socket may be; short enough for its 108 bytes, which pytest's own directories need not be."""
    place = Path(tempfile.mkdtemp(prefix="p2p-"))
    yield place / "agent.sock"
    shutil.rmtree(place)


@pytest.fixture
def gate(socket: Path) -> Iterator[Gate]:
    gate = Gate(socket)
    yield gate
    gate.end()


class Gate:
    """The gate's own command, with the socket of a test's agent."""

    def __init__(self, socket: Path) -> None:
        assert MESHCTL.exists(), f"{MESHCTL} is missing: `cargo build --workspace --bins` first"
        self._socket = socket
        self._process: subprocess.Popen[str] | None = None

    def start(self, timeout: str | None = None) -> None:
        words = list(SERVICES["gate"]["command"])
        if timeout is not None:
            words[words.index("--timeout") + 1] = timeout
        self._process = subprocess.Popen(
            [str(MESHCTL), *words[1:], "--socket", str(self._socket)],
            env={},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def is_waiting(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def outcome(self) -> tuple[int, str]:
        """Its exit code and what it says of it."""
        assert self._process is not None
        _, errors = self._process.communicate(timeout=PATIENCE)
        return self._process.returncode, errors

    def end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


def test_the_gate_opens_when_the_mesh_can_be_used_and_not_before(gate: Gate, socket: Path) -> None:
    gate.start()
    agent = FakeAgent(socket, "the dstack guest agent", peers(membership="unknown"))
    with agent:
        for said in (status("no-token", hint="meshctl mint"), status("registering"), status("active", ready=False)):
            asked = agent.asked.get("/v1/status", 0)
            agent.say(status=said)
            # Once may have been with the earlier answer.
            wait_until("the gate to ask", lambda: agent.asked.get("/v1/status", 0) >= asked + 2 or not gate.is_waiting())
            assert gate.is_waiting(), gate.outcome()
        agent.say(peers(peer(2)), status())
        code, waited_for = gate.outcome()
        assert code == 0 and "waiting: not ready\nhint: meshctl mint\n" in waited_for, waited_for


def test_the_gate_stays_closed_at_its_deadline(gate: Gate, socket: Path) -> None:
    gate.start(timeout="0")
    code, errors = gate.outcome()
    assert code == 3 and "no agent answers" in errors
    with FakeAgent(socket, status("no-token", hint="meshctl mint --instance 3f9c"), peers(membership="unknown")):
        code = 3
        # On a machine that is busy one second may be too short for an answer.
        deadline = time.monotonic() + PATIENCE
        while code == 3 and time.monotonic() < deadline:
            gate.start(timeout="1")
            code, errors = gate.outcome()
    assert code == 2 and "hint: meshctl mint --instance 3f9c" in errors


def test_the_gate_says_that_a_node_is_shut_out(gate: Gate, socket: Path) -> None:
    # That it gives up early, whatever its time limit, is shown on virtual time beside `meshctl wait`.
    with FakeAgent(socket, sample("fenced"), peers(membership="fenced")):
        gate.start(timeout="1")
        code, errors = gate.outcome()
    assert code == 5 and "fenced" in errors
