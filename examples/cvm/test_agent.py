"""The agent, the gate and an application under exactly what the compose file gives them: a member whose mesh can be used. Needs root."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest
import yaml
from container import Container
from mesh_world import MeshWorld
from waiting import PATIENCE, wait_until

COMPOSE = Path(__file__).parent / "docker-compose.yml"
#: CAP_NET_ADMIN is the twelfth capability.
NET_ADMIN = 1 << 12
#: In the machine's network there is no other interface of that name.
INTERFACE = "mesh0"
SOCKET = f"/run/p2p-agent/{INTERFACE}.sock"


class Machine:
    """A CVM that runs the services of the file on node 1 of a mesh."""

    def __init__(self, world: MeshWorld, place: Path) -> None:
        self._place = place
        self._programs = [Path(world.agent), Path(world.meshctl)]
        self.namespace = world.nodes[0].namespace
        self._running: list[Container] = []
        self._paths = {
            "/var/run/dstack.sock": Path(world.nodes[0].dstack_socket),
            "mesh-state": place / "mesh-state",
            "/run/p2p-agent": place / "run",
        }
        for path in (self._paths["mesh-state"], self._paths["/run/p2p-agent"]):
            # As an engine makes what is not there.
            path.mkdir(mode=0o755)
        # The member key whose address has funds, where the agent looks for its own.
        state_dir = self._paths["mesh-state"] / INTERFACE
        state_dir.mkdir(mode=0o700)
        shutil.copy2(Path(world.nodes[0].state_dir) / "member.key", state_dir)
        self._variables = {"P2P_RPC_URL": world.rpc_url, "DSTACK_GATEWAY_DOMAIN": "", "P2P_DEVELOPMENT": "true"}
        # As they are where the operator sets none.
        self._variables |= {"P2P_ENDPOINT": "", "P2P_LISTEN_PORT": ""}

    def start(self, service: dict[str, Any]) -> Container:
        """Starts one of the file's services, or a variation of it."""
        place = self._place / str(len(self._running))
        made = Container(service, self.namespace, self._paths, self._programs, self._variables, place)
        self._running.append(made)
        return made

    def outcome(self, service: dict[str, Any], *command: str) -> tuple[int, str]:
        """Exit code and output of a service's container, which may run another command."""
        container = self.start({**service, "command": list(command)} if command else service)
        wait_until("a container to end", lambda: container.code() is not None, self._running)
        return container.code() or 0, container.says()

    def ask(self, service: dict[str, Any], path: str, body: Optional[str] = None) -> tuple[int, Any]:
        """What the agent answers to that service's user: status code and JSON."""
        words = ["curl", "--silent", "--show-error", "--write-out", "\n%{http_code}", "--unix-socket", SOCKET]
        code, said = self.outcome(service, *words, *(["--json", body] if body else []), f"http://agent{path}")
        assert code == 0, said
        answer, _, status = said.rpartition("\n")
        return int(status), json.loads(answer)

    def close(self) -> None:
        for container in self._running:
            container.kill()


@pytest.fixture
def world() -> Iterator[MeshWorld]:
    with MeshWorld(2) as made:
        made.ask("mint", node=1)
        made.ask("fund", node=1)
        yield made


@pytest.fixture
def machine(world: MeshWorld, tmp_path: Path) -> Iterator[Machine]:
    made = Machine(world, tmp_path)
    yield made
    made.close()


@pytest.fixture
def services() -> dict[str, dict[str, Any]]:
    read: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text())["services"]
    # This is what else the file would have to say where the guest agent is a simulator.
    read["mesh"]["environment"]["P2P_DEVELOPMENT"] = "true"
    return read


def test_the_agent_becomes_a_member_with_what_the_file_gives_it(
    world: MeshWorld, machine: Machine, services: dict[str, dict[str, Any]]
) -> None:
    world.join(2)
    keys = []
    for _ in range(2):
        agent = machine.start(services["mesh"])
        code, said = machine.outcome(services["gate"])
        assert code == 0, said + agent.says()
        rights = status_of(agent.pid())
        assert rights["Uid"].split() == ["0"] * 4 and rights["NoNewPrivs"] == "1"
        for held in ("CapPrm", "CapEff", "CapBnd"):
            assert int(rights[held], 16) == NET_ADMIN, held
        assert int(rights["CapInh"], 16) == int(rights["CapAmb"], 16) == 0
        assert writable(agent.pid()) == {"/dev", "/dev/shm", "/proc", "/run/p2p-agent", "/run/wireguard", "/var/lib/p2p-agent"}
        code, status = machine.ask(services["gate"], "/v1/status")
        assert (code, status["verdict"]["ready"], status["self"]["address"]) == (200, True, "10.0.1.1")
        keys.append(status["self"]["public_key"])
        application = services["application"]
        wait_until("the other node in the list", lambda: peers(machine, application) == ["10.0.1.2"])
        wait_until("the other node to answer", lambda: reaches(machine, "10.0.1.2"))
        # Who may vote is told that there is no such seat; who may not is told that.
        ballot = '{"term": 4294967295, "leader_token": 1}'
        assert machine.ask(application, "/v1/vote", ballot)[0] == 409
        assert machine.ask(services["gate"], "/v1/vote", ballot)[0] == 403
        # Stopped in order, and started again as `restart` has it.
        assert agent.stop(PATIENCE) == 0, agent.says()
    assert keys[0] == keys[1], "the WireGuard key is not kept"


def test_without_a_place_for_its_sockets_it_cannot_be_used(machine: Machine, services: dict[str, dict[str, Any]]) -> None:
    """That what the file does not give is not there."""
    services["mesh"].pop("tmpfs")
    agent = machine.start(services["mesh"])
    until_said(agent, "/var/run/wireguard/mesh0.sock`: Read-only file system")
    services["gate"]["command"][-1] = "1"
    assert machine.outcome(services["gate"])[0] != 0


def test_without_its_capability_it_says_so(machine: Machine, services: dict[str, dict[str, Any]]) -> None:
    services["mesh"]["cap_add"] = []
    agent = machine.start(services["mesh"])
    until_said(agent, "perm_net_admin")


def peers(machine: Machine, service: dict[str, Any]) -> list[str]:
    return [peer["address"] for peer in machine.ask(service, "/v1/peers")[1]["peers"]]


def reaches(machine: Machine, address: str) -> bool:
    command = ["ip", "netns", "exec", machine.namespace, "ping", "-n", "-c", "1", "-W", "5", address]
    return subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode == 0


def until_said(container: Container, words: str) -> None:
    wait_until(f"`{words}` in the log", lambda: words in container.says(), container)


def status_of(pid: int) -> dict[str, str]:
    """What the kernel says of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def writable(pid: int) -> set[str]:
    """Where a process has a file system that it may write to."""
    mounts = (line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines())
    return {mount[4] for mount in mounts if "rw" in mount[5].split(",") and mount[4] not in _NODES}


_NODES = {"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/net/tun"}
