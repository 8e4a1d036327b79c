"""Runs N nodes of hello-p2p on a fresh mesh of their own, and sees to it that each greets every other one. Needs root: see `run`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Optional

_HERE = Path(__file__).parent
sys.path.insert(0, str(_HERE.parents[1] / "sdk" / "python" / "tests" / "mesh"))

from applications import run_on  # noqa: E402
from mesh_world import Node  # noqa: E402
from showcase import Show, Showcase  # noqa: E402

PORT = 8080
#: Reads a URL where it is run: in a node's namespace, which no proxy is reached from.
_READ = (
    "import sys, urllib.request as u; "
    "sys.stdout.buffer.write(u.build_opener(u.ProxyHandler({})).open(sys.argv[1], timeout=10).read())"
)


class HelloCluster(Showcase):
    """A mesh with an agent and a `hello.py` on each node."""

    def __init__(self, nodes: int) -> None:
        super().__init__(nodes)
        with self.making():
            for node in self.world.nodes:
                self.world.join(node.index)
                options = ["--port", str(PORT), "--socket", node.socket]
                self.apps.start_python(node, "hello", _HERE / "hello.py", self.world.contract, *options)

    def read(self, node: Node, path: str, of: Optional[Node] = None) -> Any:
        """What a node answers to one of its own, or to another node; tokens were minted in the nodes' order.

        Raises `RuntimeError` when no node answers.
        """
        url = f"http://{self.address(of or node)}:{PORT}{path}"
        return json.loads(run_on(node, sys.executable, "-I", "-c", _READ, url))

    def wait_until_all_have_greeted(self) -> None:
        """Raises `RuntimeError`, with the applications' logs, when they do not in time."""
        self.wait_until("all to have greeted each other", self._have_all_greeted)

    def log_path(self, node: Node) -> Path:
        return Path(self.world.dir, f"hello{node.index}.log")

    def address(self, node: Node) -> str:
        return f"10.0.1.{node.index}"

    def _have_all_greeted(self) -> bool:
        """Raises `RuntimeError` for what has not happened yet."""
        for node in self.world.nodes:
            others = [self.address(other) for other in self.world.nodes if other is not node]
            peers, info = self.read(node, "/peers"), self.read(node, "/info")
            if peers != others:
                raise RuntimeError(f"node {node.index} finds {peers}, not {others}")
            for what, seen in (("has an answer of", list(info["answers"])), ("was greeted by", info["heard_from"])):
                if sorted(seen) != sorted(others):
                    raise RuntimeError(f"node {node.index} {what} {seen}, not {others}")
        return True


def present(cluster: HelloCluster) -> None:
    cluster.wait_until_all_have_greeted()
    for node in cluster.world.nodes:
        info = cluster.read(node, "/info")
        print(f"\n{info['name']}, {info['address']}, found {', '.join(cluster.read(node, '/peers'))}")
        for peer, answer in info["answers"].items():
            print(f"  {peer} answered: {answer}")


def commands(cluster: HelloCluster) -> list[str]:
    first, last = cluster.world.nodes[0], cluster.world.nodes[-1]
    inside = f"ip netns exec {first.namespace}"
    return [
        f"{inside} curl http://{cluster.address(last)}:{PORT}/info",
        f"{inside} curl http://{cluster.address(last)}:{PORT}/hello",
        f"{cluster.world.meshctl} --socket {first.socket} status",
        f"tail {cluster.log_path(first)}",
        cluster.revoke_command(last),
    ]


SHOW = Show(
    "Runs nodes of hello-p2p on a fresh demo mesh.",
    once="all have greeted each other",
    least=2,
    default=3,
    make=HelloCluster,
    present=present,
    commands=commands,
)

if __name__ == "__main__":
    sys.exit(SHOW.run())
