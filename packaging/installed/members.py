"""Machines of one cluster, and what its operator does: install, set up, mint, look."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from machine import Machine
from mesh_world import MeshWorld
from waiting import PATIENCE

#: The unit of all machines but the last, which runs one of another name.
UNIT, OTHER_UNIT = "p2p-agent.service", "p2p-agent@mesh1.service"
_PORT = 51821
#: Seconds until a node that was told what it needs is a member. Generous: what is waited for takes two or three.
_JOIN = str(int(PATIENCE))


class Member:
    """A machine whose agent is a member, or is to be one."""

    def __init__(self, machine: Machine, unit: str, underlay: str) -> None:
        self.machine, self.unit, self.underlay = machine, unit, underlay
        self.interface = "mesh0" if unit == UNIT else "mesh1"
        self.settings = f"/etc/p2p-agent/{'config' if unit == UNIT else self.interface}.toml"
        self.before: set[str] = set()

    def __repr__(self) -> str:
        return repr(self.machine)

    def meshctl(self, *words: str) -> str:
        return self.machine.run("meshctl", *words, *self._socket())

    def _socket(self) -> list[str]:
        return ["--socket", f"/run/p2p-agent/{self.interface}.sock"]

    def address(self) -> str:
        # It ends with 1 where a peer is not reached.
        status = json.loads(self.machine.ask("meshctl", "status", "--json", *self._socket()))
        return str(status["self"]["address"])

    def wait(self, peers: int) -> None:
        """Until its mesh can be used and so many others are reached."""
        self.meshctl("wait", "--ready", "--peers", str(peers), "--timeout", _JOIN)

    def main_pid(self) -> int:
        return int(self.machine.run("systemctl", "show", "--property", "MainPID", "--value", self.unit))


class Cluster:
    """Nodes of a world, numbered from 1 as there."""

    def __init__(self, world: MeshWorld, base: Path, place: Path, dist: Path, following: Path) -> None:
        self._world, self._base, self._place = world, base, place
        self.members: list[Member] = []
        self._packages = _packages(dist)
        self._following = [_as_next(package, place / "next") for package in _packages(following)]

    def start(self, nodes: int) -> None:
        """Boots so many machines, and makes each a member: what the manual says, and no look into a log."""
        for node in range(1, nodes + 1):
            made = self._world.nodes[node - 1]
            files = {Path(made.dstack_socket): "/run/dstack.sock", Path(self._world.operator_key_file): "/root/operator.key"}
            machine = Machine(f"node{node}", self._base, self._place / f"node{node}", made.namespace, files)
            self.members.append(Member(machine, UNIT if node < nodes else OTHER_UNIT, made.underlay))
        with ThreadPoolExecutor() as at_once:
            list(at_once.map(self._set_up, self.members))
        for member, made in zip(self.members, self._world.nodes):
            operator = ["--rpc-url", self._world.rpc_url, "--contract", self._world.contract, "--development"]
            operator += ["--private-key-file", "/root/operator.key", "--yes", "--json"]
            minted = json.loads(member.meshctl("mint", "--instance", made.instance, "--relay", "--fund", "0.05", *operator))
            assert minted["state"] == "active", minted
        for member in self.members:
            member.wait(nodes - 1)

    def _set_up(self, member: Member) -> None:
        machine = member.machine
        machine.boot()
        member.before = machine.files()
        self._install(machine, self._packages)
        machine.run("touch", "-a", member.settings)
        machine.write(member.settings, self._settings(member))
        # It is started once it is ready, for which it waits until a token is minted.
        machine.run("systemctl", "enable", "--quiet", member.unit)
        machine.run("systemctl", "start", "--no-block", member.unit)

    def _settings(self, member: Member) -> str:
        lines = {
            "rpc-url": [self._world.rpc_url],
            "endpoint": f"{member.underlay}:{_PORT}",
            "listen-port": str(_PORT),
            # The guest agent is a simulator.
            "development": "true",
        }
        return "".join(f"{name} = {json.dumps(value)}\n" for name, value in lines.items())

    def _install(self, machine: Machine, packages: Sequence[Path]) -> str:
        names = []
        for package in packages:
            target = f"/tmp/{package.name}"
            with package.open("rb") as file:
                subprocess.run([*machine.enter(), "tee", target], stdin=file, stdout=subprocess.DEVNULL, check=True)
            names.append(target)
        return machine.run("apt-get", "install", "--yes", *names)

    def upgrade(self, member: Member) -> str:
        """To packages with a higher version; what apt says."""
        return self._install(member.machine, self._following)

    def close(self) -> None:
        for member in self.members:
            member.machine.close()


def _packages(dist: Path) -> list[Path]:
    found = sorted([*dist.glob("p2p-agent_*.deb"), *dist.glob("meshctl_*.deb")])
    assert len(found) == 2, f"not the two packages in {dist}: {found}"
    return found


def _as_next(package: Path, place: Path) -> Path:
    """The package with a higher version, and otherwise as it is."""
    tree, made = place / "tree", place / package.name
    place.mkdir(exist_ok=True)
    subprocess.run(["dpkg-deb", "--raw-extract", str(package), str(tree)], check=True)
    control = tree / "DEBIAN/control"
    version = next(line.split()[1] for line in control.read_text().splitlines() if line.startswith("Version: "))
    control.write_text(control.read_text().replace(version, f"{version}+next"))
    build = ["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", str(tree), str(made)]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(tree)
    return made
