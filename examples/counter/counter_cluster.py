"""Runs the counter on the nodes of a fresh mesh, for `run` and for tests. Needs root: see `run`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(_ROOT / "sdk" / "python" / "tests" / "mesh"))

from applications import run_on  # noqa: E402
from mesh_world import Node  # noqa: E402
from showcase import Show, Showcase  # noqa: E402

PORT = 8080
_PROGRAM = Path(os.environ.get("CARGO_TARGET_DIR", _ROOT / "target"), "debug", "counter")


class CounterCluster(Showcase):
    """A mesh with an agent and a counter on each node."""

    def __init__(self, nodes: int) -> None:
        super().__init__(nodes)
        founders = ",".join(str(index) for index in range(1, nodes + 1))
        with self.making():
            self.world.join(*(node.index for node in self.world.nodes))
            for node in self.world.nodes:
                data = Path(self.world.dir, f"counter-data{node.index}")
                options = ["--founders", founders, "--agent-socket", node.socket, "--data-dir", str(data), "--port", str(PORT)]
                self.apps.start(node, "counter", str(_PROGRAM), *options)

    def ask(self, node: Node, path: str, *options: str) -> Any:
        """What a node's counter answers to that node. Raises `RuntimeError` when it refuses, or does not answer."""
        url = f"http://{address(node)}:{PORT}{path}"
        return json.loads(run_on(node, "curl", "-sS", "--fail-with-body", "--max-time", "5", "--noproxy", "*", *options, url))

    def increment(self, node: Node, client: str) -> Any:
        """The answer to a client's first increment. It may be asked again: it counts once."""
        return self.ask(node, "/increment", "--json", json.dumps({"client": client, "request": 1}))

    def wait_until_healthy(self, *nodes: Node) -> None:
        """Waits until increments would count, whichever of these nodes takes them."""
        for node in nodes:
            self.wait_until(f"the counter of node {node.index} to be healthy", self.ask, node, "/health")

    def leader(self) -> Node:
        """The leader by the contract, as the first node has read it."""
        seat = self.ask(self.world.nodes[0], "/status")["contract"]
        return next(node for node in self.world.nodes if node.index == seat["leader"])


def address(node: Node) -> str:
    """Tokens are minted in the nodes' order."""
    return f"10.0.1.{node.index}"


def present(cluster: CounterCluster) -> None:
    nodes = cluster.world.nodes
    cluster.wait_until_healthy(*nodes)
    print(f"\nnode {cluster.leader().index} leads by the contract")
    for node in nodes:
        client = f"reader-of-{node.index}"
        counted = cluster.wait_until("an increment to be counted", cluster.increment, node, client)
        print(f"{address(node)} took an increment: the count is {counted['value']}")
    for node in nodes:
        has_all = lambda of: cluster.ask(of, "/counter")["value"] == len(nodes)  # noqa: E731
        cluster.wait_until(f"node {node.index} to know the count", has_all, node)


def commands(cluster: CounterCluster) -> list[str]:
    leader = cluster.leader()
    other = next(node for node in cluster.world.nodes if node is not leader)
    inside, url = f"ip netns exec {other.namespace}", f"http://{address(other)}:{PORT}"
    fault = f"ip netns exec {leader.namespace} iptables {{}} INPUT -p tcp --dport {PORT} -j DROP"
    return [
        f"{inside} curl -X POST {url}/increment",
        f"{inside} curl {url}/status",
        # The leader still reaches the others, and they do not reach it.
        fault.format("-A"),
        f"{inside} curl --retry 60 --retry-delay 1 --retry-all-errors --fail -X POST {url}/increment",
        f"{inside} curl {url}/status",
        fault.format("-D"),
    ]


SHOW = Show(
    "Runs the replicated counter on the nodes of a fresh demo mesh.",
    once="increments that were sent to every node were counted once",
    least=3,
    default=3,
    make=CounterCluster,
    present=present,
    commands=commands,
)

if __name__ == "__main__":
    sys.exit(SHOW.run())
