"""Runs member.py on the nodes of a fresh mesh, for `run` and for tests. Needs root: see `run`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Optional

_HERE = Path(__file__).parent
sys.path.insert(0, str(_HERE.parents[1] / "sdk" / "python" / "tests" / "mesh"))

from applications import Application, run_on  # noqa: E402
from mesh_world import Node  # noqa: E402
from showcase import Show, Showcase  # noqa: E402


class EtcdCluster(Showcase):
    """A mesh with an agent on each node and an etcd on the first of them, which found its cluster."""

    def __init__(self, founders: int, nodes: Optional[int] = None) -> None:
        super().__init__(nodes or founders)
        self.programs: dict[int, Application] = {}
        self._founders = ",".join(address(index) for index in range(1, founders + 1))
        with self.making():
            self.world.join(*(node.index for node in self.world.nodes))
            for node in self.world.nodes[:founders]:
                self.start(node)

    def start(self, node: Node) -> None:
        """Starts member.py on a node."""
        options = ["--founders", self._founders, "--data-dir", str(self.data_dir(node)), "--socket", node.socket]
        self.programs[node.index] = self.apps.start_python(node, "etcd", _HERE / "member.py", self.world.contract, *options)

    def data_dir(self, node: Node) -> Path:
        return Path(self.world.dir, f"etcd-data{node.index}")

    def ctl(self, node: Node, *words: str, of: Optional[Node] = None) -> str:
        """`etcdctl` on a node, of its own etcd or of another node's. Raises `RuntimeError` when it fails."""
        endpoint = f"http://{address((of or node).index)}:2379"
        return run_on(node, "etcdctl", "--endpoints", endpoint, *words).strip()

    def status(self, node: Node) -> Any:
        """The status of a node's etcd."""
        return json.loads(self.ctl(node, "endpoint", "status", "-w", "json"))[0]["Status"]

    def voters(self, node: Node) -> list[str]:
        """The addresses of the members with a vote that run, as a node's etcd knows them."""
        members = json.loads(self.ctl(node, "member", "list", "-w", "json"))["members"]
        return sorted(member["name"] for member in members if member.get("name") and not member.get("isLearner"))

    def wait_until_members(self, *nodes: Node) -> None:
        """Waits until these nodes' etcds are healthy, and all know each other and no other member."""
        self.wait_until_known(sorted(address(node.index) for node in nodes), *nodes)
        for node in nodes:
            self.wait_until(f"node {node.index} to be healthy", self.ctl, node, "endpoint", "health", "-w", "json")

    def wait_until_known(self, voters: list[str], *nodes: Node) -> None:
        """Waits until these nodes' etcds know exactly these members with a vote."""
        for node in nodes:
            self.wait_until(f"node {node.index} to know {voters}", lambda of: self.voters(of) == voters, node)


def address(node: int) -> str:
    """Tokens are minted in the nodes' order."""
    return f"10.0.1.{node}"


def present(cluster: EtcdCluster) -> None:
    nodes = cluster.world.nodes
    cluster.wait_until_members(*nodes)
    cluster.ctl(nodes[0], "put", "greeting", "hello")
    print(cluster.ctl(nodes[0], "member", "list", "-w", "table"))
    for node in nodes:
        print(f"{address(node.index)} has: {cluster.ctl(node, 'get', 'greeting', '--print-value-only')}")


def commands(cluster: EtcdCluster) -> list[str]:
    first, last = cluster.world.nodes[0], cluster.world.nodes[-1]
    inside = f"ip netns exec {first.namespace} etcdctl --endpoints http://{address(1)}:2379"
    return [
        f"{inside} put greeting 'good morning'",
        f"{inside} member list",
        f"tail -f {cluster.programs[1].log_path}",
        cluster.revoke_command(last),
    ]


SHOW = Show(
    "Runs etcd on the nodes of a fresh demo mesh.",
    once="a key was written through one and read through all",
    least=2,
    default=3,
    make=EtcdCluster,
    present=present,
    commands=commands,
)

if __name__ == "__main__":
    sys.exit(SHOW.run())
