"""Redis on nodes in mode `tls`: real agents, a gateway that routes by SNI, certificates of the simulated guest agents.

Only DNS is made up: the names are in each node's /etc/hosts.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Optional

import pytest
from applications import Application, Applications, run_on
from certificate import get_certificate, write_certificate
from gateway_name import GatewayName
from mesh_world import MeshWorld, Node

HERE = Path(__file__).parent
DOMAIN = "gw.example"
#: Where the gateway is: on the hub, which every node reaches.
GATEWAY = "192.0.2.1"
PORT = 6379
HOP_PORT = 6380
#: Seconds, on a slow and busy machine.
PATIENCE = 120.0
#: With the file of names in the place of the node's own, in a mount namespace that only this program sees.
WITH_NAMES = ["sh", "-c", 'mount --bind "$1" /etc/hosts && cd "$2" && shift 2 && exec "$@"', "sh"]


class RedisCluster:
    """A mesh of nodes in mode `tls`, before whose Redis a gateway stands. Used with `with`."""

    def __init__(self, world: MeshWorld, apps: Applications) -> None:
        for program in ("redis-server", "redis-cli", "openssl"):
            assert shutil.which(program), f"{program} is missing: `apt-get install redis-server redis-tools openssl`"
        self.world = world
        self.apps = apps
        self.agents: dict[int, Application] = {}
        self.redis: dict[int, Application] = {}
        self.follow: dict[int, Application] = {}
        self._names, self._behind = Path(world.dir, "names"), Path(world.dir, "behind.json")
        # The first that sends a server name when it replicates.
        self._hop = [] if redis_version() >= (7, 2) else ["--hop", str(HOP_PORT)]
        world.operate("domain", "add", DOMAIN)
        self._list_nodes()
        self.gateway = self._start_gateway()

    def host(self, node: Node) -> str:
        return f"{node.instance}-{PORT}s.{DOMAIN}"

    def directory(self, node: Node) -> Path:
        return Path(self.world.dir, f"redis{node.index}")

    def join(self, node: Node, primary: int = 1) -> None:
        """All that a CVM does: agent, certificate, the program that follows, and Redis."""
        self.world.ask("mint", node=node.index)
        self.world.ask("fund", node=node.index)
        self.start_agent(node)
        where = [self.world.contract, str(self.directory(node)), "--socket", node.socket]
        asks = self.apps.start_python(node, "certificate", HERE / "certificate.py", *where, "--dstack-socket", node.dstack_socket)
        self.until(f"the certificate of node {node.index}", lambda: not asks.is_running() and (self.directory(node) / "node.pem").exists())
        self.start_follow(node, primary)
        self.until(f"the role of node {node.index}", (self.directory(node) / "role.conf").exists)
        self.start_redis(node)

    def start_agent(self, node: Node) -> None:
        own = ["--socket", node.socket, "--state-dir", node.state_dir, "--dstack-socket", node.dstack_socket]
        mode = ["--mode", "tls", "--tls-port", str(PORT), "--gateway-domain", DOMAIN, "--rpc-url", self.world.rpc_url, "--development"]
        self.agents[node.index] = self.apps.start(node, "agent", self.world.agent, *mode, *own)
        self.until(f"the agent of node {node.index}", Path(node.socket).exists)

    def start_follow(self, node: Node, primary: int) -> None:
        where = [self.world.contract, str(self.directory(node)), "--socket", node.socket, "--primary", str(primary), *self._hop]
        inside = [*WITH_NAMES, str(self._names), "/", sys.executable, "-B", str(HERE / "redis_follow.py")]
        log = self.follow[node.index].log() if node.index in self.follow else ""
        started = self.follow[node.index] = self.apps.start(node, "follow", *inside, *where)
        # The log goes on where the one before it ended.
        knows = "dstack_p2p: peers: "
        self.until(f"the program of node {node.index}", lambda: started.log().count(knows) > log.count(knows) or not started.is_running())

    def start_redis(self, node: Node) -> None:
        inside = [*WITH_NAMES, str(self._names), str(self.directory(node))]
        self.redis[node.index] = self.apps.start(node, "redis", *inside, "redis-server", str(HERE / "redis.conf"))

    def ask(
        self, node: Node, to: Node, *words: str, identity: Optional[Path] = None, anchor: Optional[Path] = None, sni: bool = True
    ) -> str:
        """A client on `node` asks the Redis of `to`, by its name and through the gateway. Raises `RuntimeError` when it gets no answer."""
        identity = identity or self.directory(node) / "node.pem"
        anchor = anchor or self.directory(node) / "app-ca.openssl.pem"
        own = ["--cert", str(identity), "--key", str(identity)] if identity != Path("none") else []
        tls = ["--tls", *(["--sni", self.host(to)] if sni else []), "--cacert", str(anchor), *own]
        inside = [*WITH_NAMES, str(self._names), "/"]
        return run_on(node, *inside, "redis-cli", "-e", "-h", self.host(to), "-p", "443", *tls, *words, timeout=PATIENCE).strip()

    def ask_at_home(self, node: Node, *words: str) -> str:
        """As redis_follow.py asks: without TLS, in the node's own directory."""
        socket = str(self.directory(node) / "redis.sock")
        return run_on(node, "redis-cli", "-e", "-s", socket, *words, timeout=PATIENCE).strip()

    def role(self, node: Node) -> list[str]:
        """What the Redis of a node says that it is; nothing while it says nothing."""
        try:
            return self.ask_at_home(node, "role").split()
        except RuntimeError:
            return []

    def follows(self, node: Node, primary: Node) -> bool:
        address = ["127.0.0.1", str(HOP_PORT)] if self._hop else [self.host(primary), "443"]
        return self.role(node)[:4] == ["slave", *address, "connected"]

    def follows_no_primary(self, node: Node) -> bool:
        return self.role(node)[:3] == ["slave", "127.0.0.1", "1"]

    def until(self, what: str, look: Callable[[], object]) -> None:
        """Waits until something is the case. What raises `RuntimeError` is not."""
        deadline = time.monotonic() + PATIENCE
        while True:
            reason = ""
            try:
                if look():
                    return
            except RuntimeError as error:
                reason = str(error)
            assert time.monotonic() < deadline, f"not within {PATIENCE} s: {what}; {reason}\n{self.apps.logs()}"
            time.sleep(0.1)

    def until_pong(self, node: Node, of: Node) -> None:
        self.until(f"node {of.index} to answer node {node.index}", lambda: self.ask(node, of, "ping") == "PONG")

    def until_refused(self, why: str, log: Callable[[], str], ask: Callable[[], str]) -> None:
        """Waits until one says in its log why. There must be no other answer, however often it is tried."""

        def look() -> bool:
            try:
                answer = ask()
            except RuntimeError as error:
                return why in log() or why in str(error)
            pytest.fail(f"answered {answer!r}, where it should be refused: {why}")

        self.until(f"a refusal that says `{why}`", look)

    def until_read(self, node: Node, of: Node, key: str, value: str) -> None:
        self.until(f"node {of.index} to answer node {node.index} {value}", lambda: self.ask(node, of, "get", key) == value)

    def until_written(self, node: Node, of: Node, key: str, value: str) -> None:
        self.until(f"node {of.index} to take {value} of node {node.index}", lambda: self.ask(node, of, "set", key, value) == "OK")

    def restart_gateway(self, meanwhile: Callable[[], object]) -> None:
        """All connections through it end, and for a while there are no others."""
        self.gateway.kill()
        meanwhile()
        self.gateway = self._start_gateway()

    def _list_nodes(self) -> None:
        app_id = self.world.contract[2:].lower()
        behind = [{"app_id": app_id, "instance_id": node.instance, "ip": node.underlay, "ports": [PORT]} for node in self.world.nodes]
        self._behind.write_text(json.dumps(behind))
        names = "".join(f"{GATEWAY} {self.host(node)}\n" for node in self.world.nodes)
        self._names.write_text(f"127.0.0.1 localhost\n{names}")

    def _start_gateway(self) -> Application:
        """dstack's gateway, before every node there is."""
        program = str(Path(self.world.agent).with_name("dstack-simulator"))
        listen = ["--domain", DOMAIN, "--listen", f"{GATEWAY}:443", "--instances", str(self._behind)]
        log = Path(self.world.dir, "gateway.log")
        log.unlink(missing_ok=True)
        gateway = Application(["ip", "netns", "exec", self.world.hub, program, "gateway", *listen], log, {})
        self.until("the gateway", lambda: '"simulated"' in gateway.log())
        return gateway

    def __enter__(self) -> RedisCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.gateway.stop()


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    """Nodes 1 and 2: the primary and a replica. Each test goes on where the one before it ended."""
    with MeshWorld(3) as world, Applications(world) as apps, RedisCluster(world, apps) as cluster:
        cluster.join(world.nodes[0])
        cluster.join(world.nodes[1])
        yield cluster


def test_a_replica_finds_its_primary_by_name_through_the_gateway(cluster: RedisCluster) -> None:
    primary, replica, _ = cluster.world.nodes
    cluster.until("node 2 to follow node 1", lambda: cluster.follows(replica, primary))
    listed = f"ip={cluster.host(replica)},port=443,state=online"
    cluster.until("node 1 to list node 2 by its name", lambda: listed in cluster.ask(replica, primary, "info", "replication"))
    cluster.until_written(replica, primary, "greeting", "hello")
    cluster.until_read(primary, replica, "greeting", "hello")
    wrong_side = partial(cluster.ask, primary, replica, "set", "greeting", "from the wrong side")
    cluster.until_refused("READONLY", str, wrong_side)


def test_certificates_of_this_app_are_asked_for_on_both_sides(cluster: RedisCluster) -> None:
    primary, client, _ = cluster.world.nodes
    stranger = other_app(cluster)
    cluster.until_pong(client, primary)
    redis, ask = cluster.redis[1], partial(cluster.ask, client, primary, "ping")
    cluster.until_refused("peer did not return a certificate", redis.log, partial(ask, identity=Path("none")))
    assert "certificate verify failed" not in redis.log()
    cluster.until_refused("certificate verify failed", redis.log, partial(ask, identity=stranger / "node.pem"))
    # Here it is the client that refuses, and says so itself.
    cluster.until_refused("certificate verify failed", str, partial(ask, anchor=stranger / "app-ca.openssl.pem"))
    cluster.until_refused("no server name", cluster.gateway.log, partial(ask, sni=False))
    # Not because it was gone meanwhile.
    cluster.until_pong(client, primary)


def test_what_was_restarted_or_changed_by_hand_is_a_replica_again(cluster: RedisCluster) -> None:
    primary, replica, _ = cluster.world.nodes
    cluster.redis[2].kill()
    cluster.until_written(replica, primary, "meanwhile", "written")
    cluster.start_redis(replica)
    cluster.until("node 2 to follow node 1 again", lambda: cluster.follows(replica, primary))
    cluster.until_read(replica, replica, "meanwhile", "written")
    cluster.ask_at_home(replica, "replicaof", "no", "one")
    cluster.until("node 2 to be put right", lambda: cluster.follows(replica, primary))
    cluster.follow[2].kill()
    cluster.start_follow(replica, primary=1)
    cluster.until("node 2 to follow node 1 still", lambda: cluster.follows(replica, primary))
    assert cluster.redis[2].is_running()
    cluster.agents[2].kill()
    cluster.until("the program to see that the agent is gone", lambda: "is away" in cluster.follow[2].log())
    assert cluster.redis[2].is_running() and (cluster.directory(replica) / "role.conf").exists()
    cluster.start_agent(replica)
    cluster.until("the program to see that it is back", lambda: "the agent is back" in cluster.follow[2].log())
    cluster.until("node 2 to follow node 1 as before", lambda: cluster.follows(replica, primary))
    assert cluster.follow[2].is_running() and cluster.redis[2].is_running()


def test_a_replica_goes_on_where_it_was_when_the_gateway_ends_its_connection(cluster: RedisCluster) -> None:
    primary, replica, _ = cluster.world.nodes
    before = resumed(cluster, primary)
    cluster.restart_gateway(meanwhile=lambda: cluster.ask_at_home(primary, "set", "outage", "written"))
    cluster.until_read(primary, replica, "outage", "written")
    cluster.until("node 2 to follow node 1 again", lambda: cluster.follows(replica, primary))
    assert resumed(cluster, primary) > before, "it was given all of the data again"


def test_a_node_that_joins_becomes_a_replica(cluster: RedisCluster) -> None:
    primary, _, joining = cluster.world.nodes
    cluster.join(joining)
    cluster.until("node 3 to follow node 1", lambda: cluster.follows(joining, primary))
    cluster.until_read(primary, joining, "greeting", "hello")


def test_a_revoked_primary_stops_and_an_operator_names_another(cluster: RedisCluster) -> None:
    revoked, second, third = cluster.world.nodes
    cluster.world.operate("revoke", "1")
    cluster.until("the Redis of node 1 to end", lambda: not cluster.redis[1].is_running())
    assert not (cluster.directory(revoked) / "role.conf").exists()
    for node in (second, third):
        cluster.until(f"node {node.index} to follow no primary", partial(cluster.follows_no_primary, node))
        cluster.until_read(node, node, "greeting", "hello")

    for node in (second, third):
        cluster.follow[node.index].stop()
        cluster.start_follow(node, primary=2)
    cluster.until("node 3 to follow node 2", lambda: cluster.follows(third, second))
    cluster.until_written(third, second, "greeting", "again")
    cluster.until_read(second, third, "greeting", "again")
    cluster.world.operate("revoke", "3")
    cluster.until("the Redis of node 3 to end", lambda: not cluster.redis[3].is_running())

    # What the README warns of: a certificate says which app, not which member, and TLS alone does not ask the contract.
    cluster.until_pong(revoked, second)

    # Started again, as after a reboot, it does not come back.
    cluster.follow[1].stop()
    cluster.start_follow(revoked, primary=1)
    cluster.until("node 1 to be told that it is no member", lambda: not cluster.follow[1].is_running())
    assert "error: " in cluster.follow[1].log() and not (cluster.directory(revoked) / "role.conf").exists()
    cluster.start_redis(revoked)
    cluster.until("Redis not to start there", lambda: not cluster.redis[1].is_running())


def resumed(cluster: RedisCluster, primary: Node) -> int:
    """How often a replica of it went on where it was."""
    match = re.search(r"^sync_partial_ok:(\d+)", cluster.ask_at_home(primary, "info", "stats"), re.MULTILINE)
    assert match
    return int(match[1])


def redis_version() -> tuple[int, int]:
    said = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"v=(\d+)\.(\d+)", said)
    assert match, said
    return int(match[1]), int(match[2])


def other_app(cluster: RedisCluster) -> Path:
    """Key, certificate and authority of another app under the same KMS."""
    sockets, files = Path(cluster.world.dir, "other-app"), Path(cluster.world.dir, "other-app-files")
    sockets.mkdir()
    program = str(Path(cluster.world.agent).with_name("dstack-simulator"))
    app = ["--dir", str(sockets), "--app-id", "0b" * 20, "--seed", "01" * 32]
    guest_agent = Application([program, *app], Path(cluster.world.dir, "other-app.log"), {})
    try:
        cluster.until("the other app's guest agent", lambda: '"simulated"' in guest_agent.log())
        name = GatewayName(cluster.world.nodes[0].instance, PORT, DOMAIN)
        write_certificate(files, *get_certificate(str(sockets / "1" / "dstack.sock"), [name]))
    finally:
        guest_agent.stop()
    return files
