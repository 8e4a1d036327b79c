"""Runs redis_member.py on the nodes of a fresh mesh, for `run` and for tests. Needs root: see `run`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Optional

from redis_view import SLOTS, NoRedis, View

_HERE = Path(__file__).parent
sys.path.insert(0, str(_HERE.parents[1] / "sdk" / "python" / "tests" / "mesh"))

from applications import Application, run_on  # noqa: E402
from mesh_world import Node  # noqa: E402
from showcase import Show, Showcase  # noqa: E402

PORT = 6379


class RedisMesh(Showcase):
    """A mesh with an agent on each node, and a Redis on the first of them."""

    def __init__(self, redis: int, nodes: Optional[int] = None) -> None:
        super().__init__(nodes or redis)
        self.programs: dict[int, Application] = {}
        with self.making():
            self.world.join(*(node.index for node in self.world.nodes))
            for node in self.world.nodes[:redis]:
                self.start(node)

    def start(self, node: Node) -> None:
        """Starts redis_member.py on a node."""
        data_dir = str(Path(self.world.dir, f"redis-data{node.index}"))
        options = ["--data-dir", data_dir, "--port", str(PORT), "--socket", node.socket]
        program = self.apps.start_python(node, "redis", _HERE / "redis_member.py", self.world.contract, *options)
        self.programs[node.index] = program

    def cli(self, node: Node, *words: str, stdin: str = "") -> str:
        """`redis-cli` on a node, of its own Redis: one command, or a line of the input each. Raises `RuntimeError` when one fails."""
        said = run_on(node, "redis-cli", "-e", "-c", "-h", address(node), "-p", str(PORT), *words, stdin=stdin).strip()
        # What comes by the input is not judged by the exit code.
        if any(line.startswith(("(error)", "ERR ", "CLUSTERDOWN ", "LOADING ", "READONLY ")) for line in said.splitlines()):
            raise RuntimeError(f"`redis-cli {' '.join(words)}` on node {node.index}: {said[-1000:]}")
        return said

    def view(self, node: Node) -> View:
        """The cluster as a node's Redis sees it. Raises `RuntimeError`."""
        try:
            return View.of(self.cli(node, "CLUSTER", "NODES"))
        except NoRedis as error:
            raise RuntimeError(str(error)) from None

    def is_complete(self, node: Node, *nodes: Node, masters: int = 3) -> bool:
        """Whether a node serves, and sees that these nodes are the cluster, each with its role for good, and no other node is in it."""
        view = self.view(node)
        seen = sorted(known.address for known in view.nodes) == sorted(address(other) for other in nodes)
        linked = all(known.is_connected and not known.is_failing for known in view.others)
        owners = [known for known in view.nodes if known.slots]
        replicas = [known for known in view.nodes if known.master]
        roles = len({owner.epoch for owner in owners}) == len(owners) == masters and len(owners) + len(replicas) == len(nodes)
        info = self.cli(node, "CLUSTER", "INFO")
        return seen and linked and roles and len(view.slots) == SLOTS and "cluster_state:ok" in info

    def wait_until_complete(self, *nodes: Node) -> None:
        """Waits until these nodes, and they alone, are the cluster, as each of them sees it."""
        for node in nodes:
            self.wait_until(f"node {node.index} to see all of the cluster", self.is_complete, node, *nodes)


def address(node: Node) -> str:
    """Tokens are minted in the nodes' order."""
    return f"10.0.1.{node.index}"


def present(mesh: RedisMesh) -> None:
    nodes = mesh.world.nodes
    mesh.wait_until_complete(*nodes)
    print(mesh.cli(nodes[0], "CLUSTER", "NODES"))
    for node in nodes:
        mesh.cli(node, "SET", f"greeting-{node.index}", f"hello from {address(node)}")
    for node in nodes:
        said = [mesh.cli(node, "GET", f"greeting-{other.index}") for other in nodes]
        print(f"through {address(node)}: {', '.join(said)}")


def commands(mesh: RedisMesh) -> list[str]:
    first, last = mesh.world.nodes[0], mesh.world.nodes[-1]
    inside = f"ip netns exec {last.namespace} redis-cli -c -h {address(last)} -p {PORT}"
    return [
        f"{inside} SET greeting-1 'good morning'",
        f"{inside} CLUSTER NODES",
        f"tail -f {mesh.programs[last.index].log_path}",
        mesh.revoke_command(first),
    ]


SHOW = Show(
    "Runs a Redis Cluster on the nodes of a fresh demo mesh.",
    once="a key was written and read through every node",
    least=3,
    default=4,
    make=RedisMesh,
    present=present,
    commands=commands,
)

if __name__ == "__main__":
    sys.exit(SHOW.run())
