"""Runs node.py, and etcd's member.py, on the nodes of a fresh mesh, for `run` and for tests. Needs root: see `run`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Optional

_HERE = Path(__file__).parent
sys.path.insert(0, str(_HERE.parent / "etcd"))

from etcd_cluster import EtcdCluster, address  # noqa: E402

# Found by way of the module above.
from applications import Application, run_on  # noqa: E402, I001
from mesh_world import Node  # noqa: E402
from showcase import PATIENCE, Show  # noqa: E402

#: The user that PostgreSQL runs as.
USER = "postgres"


class PatroniCluster(EtcdCluster):
    """An etcd on a mesh, and a database on each of its nodes."""

    def __init__(self, nodes: int) -> None:
        self.databases: dict[int, Application] = {}
        super().__init__(nodes)
        with self.making():
            # Patroni records in etcd which node begins the database: if etcd's first election loses that answer, none begins.
            self.wait_until_members(*self.world.nodes)
            for node in self.world.nodes:
                self.start_database(node)

    def start_database(self, node: Node) -> None:
        """Starts node.py on a node."""
        options = ["--data-dir", str(self.base(node)), "--user", USER, "--socket", node.socket, "--dstack-socket", node.dstack_socket]
        started = self.apps.start_python(node, "postgres", _HERE / "node.py", self.world.contract, *options)
        self.databases[node.index] = started

    def base(self, node: Node) -> Path:
        return Path(self.world.dir, f"postgres{node.index}")

    def sql(self, node: Node, statement: str) -> str:
        """What a node's database answers, to its superuser by its local socket. Raises `RuntimeError` when it fails.

        A write may have to wait until the leader finds that the node that is to have it too is gone.
        """
        psql = ["psql", "-h", str(self.base(node) / "run"), "-U", USER, "-d", "postgres", "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", statement]
        return run_on(node, "setpriv", "--reuid", USER, "--regid", USER, "--clear-groups", *psql, timeout=PATIENCE).strip()

    def write(self, statement: str, *nodes: Node) -> Node:
        """Waits until the leader among these nodes has taken a statement, which may be tried several times. Returns the leader."""

        def look() -> Optional[Node]:
            leader = self.leader(nodes[0])
            if leader not in nodes:
                return None
            self.sql(leader, statement)
            return leader

        found: Node = self.wait_until(f"a leader to take `{statement}`", look)
        return found

    def members(self, node: Node) -> dict[str, Any]:
        """`patronictl list` on a node: each member's role and state, by its name."""
        listed = run_on(node, "patronictl", "-c", str(self.base(node) / "patroni.yml"), "list", "-f", "json")
        return {member["Member"]: member for member in json.loads(listed)}

    def leader(self, asked: Node) -> Optional[Node]:
        """The leader, as one node finds it in etcd."""
        members = self.members(asked)
        return next((node for node in self.world.nodes if members.get(name(node), {}).get("Role") == "Leader"), None)

    def wait_until_replicated(self, *nodes: Node) -> Node:
        """Waits until one of these nodes leads, all others stream from it, and no other node is there. Returns the leader."""

        def look() -> Optional[Node]:
            members = self.members(nodes[0])
            roles = {member["Role"] for member in members.values()}
            # Synchronous: what is acknowledged, that one has.
            if set(members) != {name(node) for node in nodes} or not roles >= {"Leader", "Sync Standby"}:
                return None
            leader = next(node for node in nodes if members[name(node)]["Role"] == "Leader")
            followers = sorted(address(node.index) for node in nodes if node is not leader)
            streaming = self.sql(leader, "SELECT client_addr FROM pg_stat_replication WHERE state = 'streaming'").split()
            return leader if sorted(streaming) == followers else None

        found: Node = self.wait_until(f"{', '.join(name(node) for node in nodes)}: one to lead, the others to follow", look)
        return found

    def state(self) -> dict[str, str]:
        """As each node sees it: what is in etcd, who leads etcd, and who leads the database."""
        endpoints = ",".join(f"http://{address(node.index)}:2379" for node in self.world.nodes)
        found = {}
        for node in self.world.nodes:
            looks = {
                "keys": ("etcdctl", "--endpoints", endpoints, "get", "--prefix", "/service/"),
                "status": ("etcdctl", "--endpoints", endpoints, "endpoint", "status", "-w", "table"),
                "list": ("patronictl", "-c", str(self.base(node) / "patroni.yml"), "list", "--extended"),
            }
            for what, words in looks.items():
                try:
                    found[f"{what}{node.index}"] = run_on(node, *words)
                except RuntimeError as error:
                    found[f"{what}{node.index}"] = str(error)
        return found

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        # The databases first, which need etcd to end in order.
        try:
            for database in self.databases.values():
                database.ask_to_end()
            for database in self.databases.values():
                database.stop()
        finally:
            super().__exit__(kind, error, trace)


def name(node: Node) -> str:
    """As Patroni knows it; tokens are minted in the nodes' order."""
    return f"node-{node.index}"


def present(cluster: PatroniCluster) -> None:
    nodes = cluster.world.nodes
    cluster.wait_until_replicated(*nodes)
    cluster.write("DROP TABLE IF EXISTS greetings; CREATE TABLE greetings (words text); INSERT INTO greetings VALUES ('hello')", *nodes)
    for node in nodes:
        cluster.wait_until("the row to be everywhere", cluster.sql, node, "SELECT words FROM greetings")
        print(f"{name(node)} has: {cluster.sql(node, 'SELECT words FROM greetings')}")
    print(run_on(nodes[0], "patronictl", "-c", str(cluster.base(nodes[0]) / "patroni.yml"), "list"))


def commands(cluster: PatroniCluster) -> list[str]:
    leader = cluster.wait_until_replicated(*cluster.world.nodes)
    last = next(node for node in reversed(cluster.world.nodes) if node is not leader)
    base, inside = cluster.base(leader), f"ip netns exec {leader.namespace}"
    return [
        f"{inside} setpriv --reuid {USER} --regid {USER} --clear-groups psql -h {base / 'run'}",
        f"{inside} patronictl -c {base / 'patroni.yml'} list",
        f"{inside} patronictl -c {base / 'patroni.yml'} switchover",
        f"kill -9 {cluster.databases[leader.index].pid}     # the leader's node.py: another node leads soon",
        cluster.revoke_command(last),
    ]


SHOW = Show(
    "Runs PostgreSQL under Patroni on the nodes of a fresh demo mesh.",
    once="a row was written on the leader and read on the replicas",
    least=2,
    default=3,
    make=PatroniCluster,
    present=present,
    commands=commands,
)

if __name__ == "__main__":
    sys.exit(SHOW.run())
