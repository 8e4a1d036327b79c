"""etcd on a real mesh: it begins, loses its leader, grows, and forgets who is revoked, by member.py alone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from applications import run_on
from etcd_cluster import EtcdCluster, address
from mesh_world import Node


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    for program, package in (("etcd", "etcd-server"), ("etcdctl", "etcd-client")):
        assert shutil.which(program), f"{program} is not installed: apt-get install {package}"


@pytest.fixture
def cluster() -> Iterator[EtcdCluster]:
    # The fourth node is a member of the mesh, and no etcd runs there.
    with EtcdCluster(3, nodes=4) as made:
        made.wait_until_members(*made.world.nodes[:3])
        yield made


def put(cluster: EtcdCluster, node: Node, key: str, value: str) -> None:
    cluster.wait_until(f"node {node.index} to write {key}", lambda: cluster.ctl(node, "put", key, value))


def wait_to_read(cluster: EtcdCluster, key: str, value: str, *nodes: Node) -> None:
    for node in nodes:
        cluster.wait_until(
            f"node {node.index} to have {key}={value}",
            lambda of: cluster.ctl(of, "get", key, "--print-value-only") == value,
            node,
        )


def leader(cluster: EtcdCluster, *nodes: Node) -> Node:
    """Whom all of these nodes follow."""

    def look() -> list[Node]:
        statuses = {node.index: cluster.status(node) for node in nodes}
        leaders = {status.get("leader") for status in statuses.values()}
        return [node for node in nodes if leaders == {statuses[node.index]["header"]["member_id"]}]

    found: list[Node] = cluster.wait_until("a leader", look)
    return found[0]


def member_ids(cluster: EtcdCluster, node: Node) -> str:
    """Ids and addresses: whatever changes the cluster changes these."""
    found: str = cluster.wait_until("the members", cluster.ctl, node, "member", "list")
    return found


def cluster_id(cluster: EtcdCluster, node: Node) -> int:
    found: int = cluster.wait_until("its status", cluster.status, node)["header"]["cluster_id"]
    return found


def test_a_cluster_begins_and_lives_on(cluster: EtcdCluster) -> None:
    first, second, third, other = cluster.world.nodes
    etcds = [first, second, third]
    put(cluster, first, "a", "1")
    wait_to_read(cluster, "a", "1", *etcds)
    for node in etcds:
        assert not listens_elsewhere(node)

    # The leader dies with all that runs there; the others go on, and it comes back with its data.
    members = member_ids(cluster, first)
    dead = leader(cluster, *etcds)
    alive = [node for node in etcds if node is not dead]
    cluster.programs[dead.index].kill()
    assert leader(cluster, *alive) is not dead
    put(cluster, alive[0], "b", "2")
    cluster.start(dead)
    wait_to_read(cluster, "b", "2", *etcds)
    wait_to_read(cluster, "a", "1", dead)
    assert member_ids(cluster, first) == members, "the same members: none was removed because it was down"

    # A node without etcd leaves: no member of etcd changes, now or later.
    cluster.world.operate("revoke", str(other.index))
    wait_to_be_told(cluster, [address(1), address(2), address(3)], *etcds)

    # Agents die and come back: the members are the same.
    for node in etcds:
        cluster.world.ask("kill", node=node.index)
        cluster.world.ask("start", node=node.index)
        cluster.world.ask("wait-mesh", nodes=[1, 2, 3])
    put(cluster, second, "c", "3")
    wait_to_read(cluster, "c", "3", *etcds)
    assert member_ids(cluster, first) == members


@pytest.mark.nightly
def test_nodes_come_and_go(cluster: EtcdCluster) -> None:
    first, second, third, fourth = cluster.world.nodes
    put(cluster, first, "a", "1")
    # A node that was not there at the founding joins, and has a vote.
    cluster.start(fourth)
    cluster.wait_until_members(first, second, third, fourth)
    wait_to_read(cluster, "a", "1", fourth)

    # One that is minted now does so too; without the fourth's etcd, a majority needs the new one.
    fifth = cluster.world.add_node()
    cluster.world.join(fifth.index)
    cluster.start(fifth)
    cluster.wait_until_members(first, second, third, fourth, fifth)

    # One that is revoked is forgotten by all, while another one, which is only down, is not.
    cluster.programs[fourth.index].stop()
    cluster.world.operate("revoke", str(second.index))
    left = [first, third, fifth]
    cluster.wait_until_known([address(node.index) for node in (first, third, fourth, fifth)], *left)
    cluster.wait_until("the revoked node's etcd to be stopped", lambda: "etcd" not in run_on(second, "ss", "-ltnp"))
    assert cluster.programs[second.index].is_running()
    put(cluster, third, "b", "2")
    wait_to_read(cluster, "b", "2", *left)

    # It is let back: as another member, with the data of now.
    cluster.world.operate("reinstate", str(second.index))
    cluster.world.operate("bind", "--token", str(second.index), "--instance", second.instance)
    # Which its agent believes at its next start.
    cluster.world.ask("kill", node=second.index)
    cluster.world.ask("start", node=second.index)
    cluster.start(fourth)
    cluster.wait_until_members(first, second, third, fourth, fifth)
    wait_to_read(cluster, "b", "2", second, fourth)


@pytest.mark.nightly
def test_a_founder_that_loses_its_disk_founds_nothing(cluster: EtcdCluster) -> None:
    first, second, third, _ = cluster.world.nodes
    put(cluster, second, "a", "1")
    before = cluster_id(cluster, second)
    cluster.programs[first.index].kill()
    shutil.rmtree(cluster.data_dir(first))
    cluster.programs[second.index].stop()
    # One of three is left, without a majority: two fresh founders would be one.
    cluster.start(first)
    log = cluster.programs[first.index].log_path
    cluster.wait_until("it to find the cluster", lambda: "founded without this node's present disk" in log.read_text())
    cluster.start(second)
    cluster.wait_until_members(first, second, third)
    wait_to_read(cluster, "a", "1", first, second, third)
    assert {cluster_id(cluster, node) for node in (first, second, third)} == {before}


def listens_elsewhere(node: Node) -> list[str]:
    """What listens on this node, but not on its mesh address: its agent's sockets aside."""
    lines = run_on(node, "ss", "-Hltnp").splitlines()
    assert any("etcd" in line for line in lines), lines
    return [line for line in lines if "p2p-agent" not in line and not line.split()[3].startswith(f"{address(node.index)}:")]


def wait_to_be_told(cluster: EtcdCluster, listed: list[str], *nodes: Node) -> None:
    """Waits until member.py knows whom the contract lists."""
    told = f"the contract lists: {', '.join(listed)}\n"
    for node in nodes:
        log = cluster.programs[node.index].log_path
        cluster.wait_until(f"node {node.index} to be told", lambda of: told in of.read_text(), log)
