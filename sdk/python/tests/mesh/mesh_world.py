"""A real mesh for tests and examples: chain, contract, simulated guest agents, and nodes in network namespaces of their own.

`target/debug/mesh-world` (netns-tests) makes it and runs the commands it gets; this is its caller. Needs root.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Optional

_ROOT = Path(__file__).parents[4]


@dataclass(frozen=True)
class Node:
    """One simulated CVM: `index` counts from 1."""

    index: int
    #: Its network namespace: `ip netns exec NAMESPACE …`.
    namespace: str
    #: The name that its agent's interface gets.
    interface: str
    #: Its dstack instance id.
    instance: str
    #: Its address outside of the mesh.
    underlay: str
    #: Of its agent's local API.
    socket: str
    state_dir: str
    #: Of its dstack guest agent.
    dstack_socket: str
    #: The UDP endpoint that its agent registers.
    endpoint: str


class MeshWorld:
    """A world, from its making to `close`. Used with `with`."""

    def __init__(self, nodes: int, program: Optional[Path] = None) -> None:
        """Agents are not started yet. `program` is `mesh-world`, by default the one that cargo built here, or what MESH_WORLD names.

        Raises `RuntimeError`, with the reason above it on stderr.
        """
        built = Path(os.environ.get("CARGO_TARGET_DIR", _ROOT / "target"), "debug", "mesh-world")
        chosen = program or Path(os.environ.get("MESH_WORLD", built))
        if os.geteuid() != 0:
            raise RuntimeError("network namespaces need root")
        if not chosen.exists():
            raise RuntimeError(f"{chosen} is missing: `cargo build --workspace --bins` first")
        # A session of its own: Ctrl-C is for the caller, who takes the world away in order.
        self._process = subprocess.Popen(
            [str(chosen), str(nodes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            first = self._read()
        except BaseException:
            self._end()
            raise
        self.contract: str = first["contract"]
        #: Reached from the nodes' namespaces and the hub's.
        self.rpc_url: str = first["rpc_url"]
        #: The namespace in which operators work.
        self.hub: str = first["hub"]
        #: Files of this world.
        self.dir: str = first["dir"]
        self.operator_key_file: str = first["operator_key_file"]
        self.meshctl: str = first["meshctl"]
        self.agent: str = first["agent"]
        self.nodes: list[Node] = [Node(**node) for node in first["nodes"]]

    def ask(self, do: str, **arguments: Any) -> Any:
        """One request, as `netns-tests/src/bin/mesh_world.rs` lists them: `ask("kill", node=2)`.

        Raises `RuntimeError` when it fails.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()
        answer = self._read()
        if "error" in answer:
            raise RuntimeError(f"{do} {arguments}: {answer['error']}")
        return answer["ok"]

    def join(self, *nodes: int) -> None:
        """Mints a token for each, lets it pay for its registration, and starts its agent."""
        for node in nodes:
            self.ask("join", node=node)

    def add_node(self) -> Node:
        """One more node, whose agent is not started yet."""
        node = Node(**self.ask("add-node"))
        self.nodes.append(node)
        return node

    def operate(self, *arguments: str) -> Any:
        """`meshctl` as the operator; returns its JSON."""
        return self.ask("operate", arguments=list(arguments))

    def close(self) -> None:
        """Takes everything away.

        Raises `RuntimeError` when something of it is left, which stderr names.
        """
        code = self._end()
        if code != 0:
            raise RuntimeError(f"mesh-world ended with exit code {code}")

    def __enter__(self) -> MeshWorld:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        if error is None:
            self.close()
        else:
            self._end()

    def _end(self) -> int:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        return self._process.wait()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("mesh-world ended; the reason is above")
        return json.loads(line)
