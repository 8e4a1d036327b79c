"""Redis Cluster on a real mesh: it is founded, grows by a node that is minted, and forgets one that is revoked."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Optional

import pytest
from applications import run_on
from mesh_world import Node
from redis_mesh import PORT, RedisMesh, address

#: In all masters' slots.
KEYS = [f"key-{number}" for number in range(12)]


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    for program, package in (("redis-server", "redis-server"), ("redis-cli", "redis-tools")):
        assert shutil.which(program), f"{program} is not installed: apt-get install {package}"


@pytest.fixture
def mesh() -> Iterator[RedisMesh]:
    # The fourth node is a member of the mesh, and no Redis runs there.
    with RedisMesh(3, nodes=4) as made:
        made.wait_until_complete(*made.world.nodes[:3])
        yield made


@pytest.mark.nightly
def test_a_cluster_lives_on_while_nodes_come_and_go(mesh: RedisMesh) -> None:
    first, second, third, other = mesh.world.nodes
    masters = [first, second, third]
    write_and_read(mesh, *masters)
    for node in masters:
        assert redis_listens_at(node) == [f"{address(node)}:{PORT}", f"{address(node)}:{PORT + 10000}"]
    before, pids = arrangement(mesh, first), [redis_pid(mesh, node) for node in masters]

    # A node without Redis comes and goes.
    fifth = mesh.world.add_node()
    mesh.world.join(fifth.index)
    wait_to_be_told(mesh, [1, 2, 3, 4, 5], *masters)
    mesh.world.operate("revoke", str(other.index))
    wait_to_be_told(mesh, [1, 2, 3, 5], *masters)

    # Agents die, or are stopped, which takes the address away, and come back.
    for node, ends in zip(masters, ("kill", "stop", "kill")):
        mesh.world.ask(ends, node=node.index)
        mesh.world.ask("start", node=node.index)
        mesh.world.ask("wait-mesh", nodes=[1, 2, 3])
    mesh.wait_until_complete(*masters)
    write_and_read(mesh, *masters)
    assert arrangement(mesh, first) == before
    assert [redis_pid(mesh, node) for node in masters] == pids

    # So does all that runs on one of them.
    mesh.programs[second.index].kill()
    mesh.start(second)
    mesh.wait_until("Redis to run again", lambda: redis_pid(mesh, second) not in pids)
    mesh.wait_until_complete(*masters)
    read(mesh, *masters)
    assert arrangement(mesh, first) == before

    # One that was minted after the founding joins by itself, as a replica.
    mesh.start(fifth)
    mesh.wait_until_complete(*masters, fifth)
    mesh.wait_until("its data to be there", lambda: "master_link_status:up" in mesh.cli(fifth, "INFO", "replication"))
    write_and_read(mesh, *masters, fifth)

    # Its master is revoked: it takes over, and every node forgets that one.
    revoked = next(node for node in masters if mesh.view(node).me.id == mesh.view(fifth).me.master)
    slots = mesh.view(revoked).me.slots
    mesh.world.operate("revoke", str(revoked.index))
    left = [*(node for node in masters if node is not revoked), fifth]
    mesh.wait_until_complete(*left)
    assert mesh.view(fifth).me.slots == slots
    read(mesh, *left)
    write_and_read(mesh, *left)
    mesh.wait_until("the revoked node's Redis to be stopped", lambda: not redis_listens_at(revoked))
    assert mesh.programs[revoked.index].is_running()

    # It is let back, which its agent believes at its next start: its slots are another's now, and it becomes a replica.
    mesh.world.operate("reinstate", str(revoked.index))
    mesh.world.operate("bind", "--token", str(revoked.index), "--instance", revoked.instance)
    mesh.world.ask("kill", node=revoked.index)
    mesh.world.ask("start", node=revoked.index)
    mesh.wait_until_complete(*left, revoked)
    assert mesh.view(revoked).me.master == mesh.view(fifth).me.id
    read(mesh, *left, revoked)


def write_and_read(mesh: RedisMesh, *nodes: Node) -> None:
    """Writes through each node, and reads what it wrote through every one."""
    for node in nodes:
        lines = [f"SET {key} {key}-through-{node.index}" for key in KEYS]
        mesh.wait_until(f"node {node.index} to write", lambda of: answers(mesh, of, lines) == ["OK"] * len(KEYS), node)
        read(mesh, *nodes, written_through=node)


def read(mesh: RedisMesh, *nodes: Node, written_through: Optional[Node] = None) -> None:
    """Reads through each node what was written last, through any or through this one."""
    lines = [f"GET {key}" for key in KEYS]
    for node in nodes:
        found = mesh.wait_until(f"node {node.index} to read", answers, mesh, node, lines)
        through = {value.rpartition("-")[2] for value in found}
        assert found == [f"{key}-through-{writer}" for writer in through for key in KEYS]
        assert written_through is None or through == {str(written_through.index)}


def answers(mesh: RedisMesh, node: Node, lines: list[str]) -> list[str]:
    said = mesh.cli(node, stdin="\n".join([*lines, ""])).splitlines()
    return [line for line in said if not line.startswith("->")]


def arrangement(mesh: RedisMesh, node: Node) -> list[tuple[str, str, Optional[str], frozenset[int], int]]:
    """Who has which role, and since which election: whatever changes anything changes this."""
    nodes = [(known.id, known.address, known.master, known.slots, known.epoch) for known in mesh.view(node).nodes]
    return sorted(nodes, key=lambda known: known[0])


def redis_listens_at(node: Node) -> list[str]:
    lines = run_on(node, "ss", "-Hltnp").splitlines()
    return sorted((line.split()[3] for line in lines if "redis-server" in line), key=len)


def redis_pid(mesh: RedisMesh, node: Node) -> str:
    return mesh.cli(node, "INFO", "server").split("process_id:")[1].split()[0]


def wait_to_be_told(mesh: RedisMesh, tokens: list[int], *nodes: Node) -> None:
    """Waits until redis_member.py knows whom the contract lists."""
    told = f"peers: {', '.join(f'10.0.1.{token}' for token in tokens)}\n"
    for node in nodes:
        mesh.wait_until(f"node {node.index} to be told", lambda of: told in mesh.programs[of.index].log(), node)
