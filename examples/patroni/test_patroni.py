"""PostgreSQL under Patroni on a real mesh: it replicates, fails over, grows, and shuts out who is revoked."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from configuration import data_directory
from patroni_cluster import USER, PatroniCluster, name

from applications import run_on
from etcd_cluster import address
from mesh_world import Node


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    programs = {"etcd": "etcd-server", "etcdctl": "etcd-client", "patroni": "patroni", "psql": "postgresql", "pg_ctlcluster": "postgresql"}
    for program, package in programs.items():
        assert shutil.which(program), f"{program} is not installed: apt-get install {package}"


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[PatroniCluster]:
    # All of it in memory, where there is enough: on a disk that is slow for seconds etcd elects a leader, and the lease of a dead
    # database's node begins anew with each.
    memory = Path("/dev/shm")
    if memory.is_dir() and shutil.disk_usage(memory).free > 4 << 30:
        monkeypatch.setenv("TMPDIR", str(memory))
    with PatroniCluster(3) as made:
        yield made


@pytest.mark.nightly
def test_a_database_lives_on(cluster: PatroniCluster) -> None:
    first, second, third = nodes = cluster.world.nodes[:]
    cluster.wait_until_replicated(*nodes)
    cluster.write("DROP TABLE IF EXISTS t; CREATE TABLE t (word text); INSERT INTO t VALUES ('one')", *nodes)
    wait_to_read(cluster, "one", *nodes)
    for node in nodes:
        wait_to_let_in(cluster, node, *nodes)
        assert not listens_elsewhere(node)
        assert is_safe(cluster, node)

    # Agents die and come back: what was connected goes on.
    for node in nodes:
        cluster.world.ask("kill", node=node.index)
        cluster.world.ask("start", node=node.index)
        cluster.world.ask("wait-mesh", nodes=[1, 2, 3])
    cluster.wait_until_replicated(*nodes)

    # The leader dies with all that runs there: another one leads, and has what was acknowledged.
    leader = write(cluster, "two", *nodes)
    die(cluster, leader)
    left = [node for node in nodes if node is not leader]
    cluster.wait_until("another leader", new_leader, cluster, left)
    write(cluster, "three", *left)
    wait_to_read(cluster, "one two three", *left)

    # It comes back, and follows.
    cluster.start(leader)
    cluster.start_database(leader)
    assert cluster.wait_until_replicated(*nodes) is not leader
    wait_to_read(cluster, "one two three", leader)

    # One that is minted now is a replica soon; it needs no etcd of its own.
    fourth = cluster.world.add_node()
    cluster.world.join(fourth.index)
    cluster.start_database(fourth)
    leader = cluster.wait_until_replicated(first, second, third, fourth)
    wait_to_read(cluster, "one two three", fourth)
    wait_to_let_in(cluster, leader, first, second, third, fourth)

    # One that is revoked is shut out, and has no database any more; the others go on.
    revoked = next(node for node in (second, third) if node is not leader)
    left = [node for node in (first, second, third, fourth) if node is not revoked]
    cluster.world.operate("revoke", str(revoked.index))
    for node in left:
        wait_to_let_in(cluster, node, *left)
        ask = f"SELECT count(*) FROM pg_stat_activity WHERE client_addr = '{address(revoked.index)}'"
        cluster.wait_until(f"{name(node)} to end its connections", lambda of, what: cluster.sql(of, what) == "0", node, ask)
    cluster.wait_until("the revoked node's database to be stopped", lambda: ":5432" not in run_on(revoked, "ss", "-Hltn"))
    assert cluster.databases[revoked.index].is_running()
    cluster.wait_until_replicated(*left)
    write(cluster, "four", *left)
    wait_to_read(cluster, "one two three four", *left)


def new_leader(cluster: PatroniCluster, left: list[Node]) -> object:
    """Who of those that are left leads, and can be written to."""
    leader = cluster.leader(left[0])
    return leader if leader in left and cluster.sql(leader, "SELECT pg_is_in_recovery()") == "f" else None


def write(cluster: PatroniCluster, word: str, *nodes: Node) -> Node:
    """Adds a row, and returns who was the leader. A try that failed may have written it to one node only: it is written again."""
    return cluster.write(f"DELETE FROM t WHERE word = '{word}'; INSERT INTO t VALUES ('{word}')", *nodes)


def wait_to_read(cluster: PatroniCluster, words: str, *nodes: Node) -> None:
    """Waits until a node has these rows."""
    ask = "SELECT string_agg(word, ' ' ORDER BY ctid) FROM t"
    for node in nodes:
        cluster.wait_until(f"{name(node)} to have {words}", lambda of: cluster.sql(of, ask) == words, node)


def wait_to_let_in(cluster: PatroniCluster, node: Node, *nodes: Node) -> None:
    """Waits until PostgreSQL lets in exactly these nodes, for the data and for replication."""
    ask = "SELECT count(*), address FROM pg_hba_file_rules WHERE auth_method = 'scram-sha-256' AND error IS NULL GROUP BY 2 ORDER BY 2"
    expected = "\n".join(f"2|{address(other.index)}" for other in nodes)
    cluster.wait_until(f"{name(node)} to let in {expected}", lambda: cluster.sql(node, ask) == expected)


def listens_elsewhere(node: Node) -> list[str]:
    """What listens on this node, but not on its mesh address: its agent's sockets aside."""
    lines = run_on(node, "ss", "-Hltnp").splitlines()
    for program in ("etcd", "postgres", "patroni"):
        assert any(program in line for line in lines), lines
    return [line for line in lines if "p2p-agent" not in line and not line.split()[3].startswith(f"{address(node.index)}:")]


def is_safe(cluster: PatroniCluster, node: Node) -> bool:
    """Over the mesh no login works without a password, and none as superuser; no password can be read by others, or is an argument."""
    base = cluster.base(node)
    for user, reason in (("rewinder", "no password supplied"), ("postgres", "pg_hba.conf rejects connection")):
        with pytest.raises(RuntimeError, match=reason):
            run_on(node, "psql", "-w", "-h", address(node.index), "-U", user, "-d", "postgres", "-c", "SELECT 1")
    config = base / "patroni.yml"
    assert config.stat().st_mode & 0o077 == 0
    told = json.loads(config.read_text())
    users = [told["restapi"]["authentication"], *told["postgresql"]["authentication"].values()]
    passwords = {user["password"].encode() for user in users if user["username"] != USER}
    assert [len(password) for password in passwords] == [64, 64, 64], "three, and different ones"
    for pid in pids(node):
        for file in ("cmdline", "environ"):
            text = read_of(pid, file)
            assert not any(password in text for password in passwords), (pid, file)
    return True


def die(cluster: PatroniCluster, node: Node) -> None:
    """Kills all that runs on a node at once, its agent aside, as when its machine dies."""
    programs = cluster.databases[node.index], cluster.programs[node.index]
    for program in programs:
        # Nothing is started again, or stopped in order, in the meantime.
        os.kill(program.pid, signal.SIGSTOP)
    postgres = int(data_directory(cluster.base(node)).joinpath("postmaster.pid").read_text().split()[0])
    patroni = [pid for pid in pids(node) if b"/usr/bin/patroni\0" in read_of(pid, "cmdline")]
    assert len(patroni) == 1, patroni
    for pid in (postgres, *patroni):
        os.kill(pid, signal.SIGKILL)
    for program in programs:
        program.kill()


def pids(node: Node) -> list[int]:
    return [int(pid) for pid in run_on(node, "ip", "netns", "pids", node.namespace).split()]


def read_of(pid: int, file: str) -> bytes:
    """What the kernel says of a process; nothing of one that is gone."""
    try:
        return Path(f"/proc/{pid}/{file}").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""
