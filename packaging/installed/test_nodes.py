"""What `make dist` made, as users meet it: five machines that boot install the packages, join, reboot, are upgraded and purged.

DIST is the directory that `make dist` made; DIST_NEXT one of another build to upgrade to, by default DIST again; SUITE the release of
Debian, and DIST_KEEP where a fresh root file system of it is, or is put. `.ci/dist-nodes` sets them. The tests are in the order of a
machine's life, on the same machines.
"""

from __future__ import annotations

import os
import re
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from flow import Flow
from machine import debian
from members import OTHER_UNIT, UNIT, Cluster, Member
from mesh_world import MeshWorld
from waiting import wait_until

NODES = 5
#: Of `systemd-analyze security`, which goes from 0 to 10.
HIGHEST_EXPOSURE = 2.0
#: Seconds without an answer while an agent is upgraded.
LONGEST_GAP = 1.0


@pytest.fixture(scope="module", autouse=True)
def told_to_end() -> None:
    """A run that is ended takes its machines with it, as one that is interrupted does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="module")
def dist() -> Path:
    """What `make dist` made. Without it nothing here can run, which is an error."""
    return Path(os.environ["DIST"]).resolve()


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="p2p-dist-") as made:
        yield Path(made)


@pytest.fixture(scope="module")
def world() -> Iterator[MeshWorld]:
    with MeshWorld(NODES) as made:
        yield made


@pytest.fixture(scope="module")
def cluster(world: MeshWorld, dist: Path, place: Path) -> Iterator[Cluster]:
    base = debian(Path(os.environ.get("DIST_KEEP", place)), os.environ.get("SUITE", "bookworm"))
    made = Cluster(world, base, place, dist, Path(os.environ.get("DIST_NEXT", dist)).resolve())
    try:
        made.start(NODES)
        yield made
    finally:
        made.close()


def test_five_nodes_join_and_reach_each_other(cluster: Cluster) -> None:
    addresses = {member: member.address() for member in cluster.members}
    assert sorted(addresses.values()) == [f"10.0.1.{token}" for token in range(1, 6)]
    for member in cluster.members:
        for other in cluster.members:
            if other is not member:
                member.machine.run("ping", "-n", "-c", "1", "-W", "10", addresses[other])
    assert [member.unit for member in cluster.members] == [*[UNIT] * 4, OTHER_UNIT]


def test_units_are_confined_and_none_has_failed(cluster: Cluster) -> None:
    for member in (cluster.members[0], cluster.members[-1]):
        for unit in (member.unit, member.unit.replace("p2p-agent", "p2p-agent-guard")):
            assert member.machine.ask("systemctl", "is-active", unit) == "active\n", unit
            said = member.machine.run("systemd-analyze", "security", "--no-pager", unit)
            exposure = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
            assert exposure is not None, said
            assert float(exposure[1]) <= HIGHEST_EXPOSURE, said
            print(f"measured: systemd-analyze security of {unit}: {exposure[1]}")
        assert member.machine.run("systemctl", "--failed", "--no-legend", "--plain") == ""


@pytest.mark.parametrize("program", ["p2p-agent", "meshctl"])
def test_manual_pages_and_completions_work(cluster: Cluster, program: str) -> None:
    machine = cluster.members[0].machine
    assert "SYNOPSIS" in machine.run("man", "--pager=cat", program)
    bash = "source /usr/share/bash-completion/bash_completion; __load_completion $0; complete -p $0"
    assert program in machine.run("bash", "-c", bash, program)
    zsh = "autoload -U compinit; compinit -u -D; print $_comps[$0]"
    assert machine.run("zsh", "-f", "-c", zsh, program) == f"_{program}\n"
    said = machine.run("env", "HOME=/tmp", "fish", "-c", f"complete --do-complete '{program} --vers'")
    assert said.startswith("--version"), said


def test_a_node_is_back_by_itself_after_a_reboot(cluster: Cluster) -> None:
    member = cluster.members[2]
    address = member.address()
    member.machine.power_off()
    member.machine.boot()
    wait_until("its agent to answer", lambda: "self" in member.machine.ask(*_status(member)))
    member.wait(len(cluster.members) - 1)
    assert member.address() == address
    assert "p2p-agent-mesh0" in member.machine.run("nft", "list", "tables")


def test_an_agent_that_hangs_is_started_again(cluster: Cluster) -> None:
    member = cluster.members[3]
    before = member.main_pid()
    member.machine.run("kill", "-STOP", str(before))
    wait_until("systemd to notice", lambda: member.machine.ask("systemctl", "show", "--property=NRestarts", "--value", member.unit) == "1\n")
    wait_until("another agent", lambda: member.main_pid() not in (0, before))
    assert "watchdog timeout" in member.machine.run("journalctl", "--unit", member.unit, "--no-pager").lower()
    member.wait(len(cluster.members) - 1)


@pytest.mark.parametrize("upgraded", [0, 1], ids=["sender", "receiver"])
def test_an_upgrade_interrupts_traffic_for_a_second_at_most(
    cluster: Cluster, world: MeshWorld, tmp_path: Path, upgraded: int
) -> None:
    sender, receiver = cluster.members[:2]
    member = cluster.members[upgraded]
    flow = Flow(sender.machine.enter(), receiver.address(), world.hub, "port1", tmp_path)
    before = member.main_pid()
    flow.start()
    cluster.upgrade(member)
    member.wait(len(cluster.members) - 1)
    flow.go_on()
    flow.end()
    assert member.main_pid() not in (0, before), "the package did not restart the agent"
    assert "+next" in member.machine.run("dpkg-query", "--show", "p2p-agent")
    print(f"measured: upgrade of the {('sender', 'receiver')[upgraded]}: {flow.gap():.3f} s without a reply, {flow.lost()} of "
          f"{len(flow.times())} packets lost, {flow.captured('udp')} encrypted ones captured")
    # That the capture sees the tunnel, and nothing of what is in it.
    assert flow.captured("udp port 51821") > len(flow.times())
    assert flow.captured("net 10.0.1.0/24") == 0 and not flow.is_readable_outside()
    assert flow.gap() <= LONGEST_GAP


def test_a_purge_leaves_what_it_says_and_nothing_else(cluster: Cluster) -> None:
    for member in (cluster.members[0], cluster.members[-1]):
        machine = member.machine
        assert f"p2p-agent-{member.interface}" in machine.run("nft", "list", "tables")
        said = machine.run("apt-get", "purge", "--yes", "p2p-agent", "meshctl")
        assert "left in place: /var/lib/p2p-agent" in said, said
        left = {path for path in machine.files() - member.before if not path.startswith("/var/lib/p2p-agent")}
        # Copies of the last change that the system itself keeps.
        left -= {"/etc/passwd-", "/etc/group-", "/etc/shadow-", "/etc/gshadow-"}
        if member.unit == OTHER_UNIT:
            assert "left in place: files in /etc/p2p-agent" in said, said
            left -= {"/etc/p2p-agent", member.settings}
        assert left == set(), f"{left}\n{said}"
        assert machine.ask("ls", "/run/p2p-agent", f"/sys/class/net/{member.interface}") == ""
        # The guard was all that was left in the kernel.
        assert "p2p-agent" not in machine.run("nft", "list", "tables"), said
        assert machine.run("ip", "route", "show", "type", "blackhole") == ""


def _status(member: Member) -> list[str]:
    return ["meshctl", "status", "--json", "--socket", f"/run/p2p-agent/{member.interface}.sock"]
