"""The SDK against real agents, a real contract and real tunnels, in network namespaces. Needs root, and fails without."""

from __future__ import annotations

import asyncio
import shlex
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Optional

import pytest
from mesh_world import MeshWorld, Node
from waiting import PATIENCE, until, wait_until

from dstack_p2p import (
    DStackP2PSDK,
    NoAgent,
    NotAMember,
    NotPermitted,
    Progress,
    Stage,
    SyncDStackP2PSDK,
    WrongAgent,
    WrongContract,
)

DOMAIN = "gw.example"


@pytest.fixture
def world() -> Iterator[MeshWorld]:
    with MeshWorld(3) as made:
        yield made


def sdk(world: MeshWorld, node: int, mode: str = "wireguard", **options: Any) -> DStackP2PSDK:
    return DStackP2PSDK(world.contract, mode, socket=world.nodes[node - 1].socket, **{"agent": None, **options})


def words(world: MeshWorld, node: Node) -> list[str]:
    """The agent, as an application in this node's CVM would start it."""
    return ["ip", "netns", "exec", node.namespace, world.agent]


def flags(node: Node, mode: str = "wireguard") -> list[str]:
    own = ["--state-dir", node.state_dir, "--dstack-socket", node.dstack_socket, "--log-level", "debug", "--development"]
    if mode == "wireguard":
        return [*own, "--interface", node.interface, "--endpoint", node.endpoint]
    return [*own, "--gateway-domain", DOMAIN, "--tls-port", "8443"]


def ping(node: Node, address: str) -> bool:
    command = ["ip", "netns", "exec", node.namespace, "ping", "-n", "-c", "1", "-W", "5", address]
    return subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode == 0


def test_three_lines_on_three_nodes(world: MeshWorld) -> None:
    async def scenario() -> None:
        world.join(1, 2, 3)
        sdks = [sdk(world, node) for node in (1, 2, 3)]
        members = await asyncio.gather(*(own.register(PATIENCE) for own in sdks))
        assert [member.address for member in members] == ["10.0.1.1", "10.0.1.2", "10.0.1.3"]
        for own, member in zip(sdks, members):
            everyone = ["10.0.1.1", "10.0.1.2", "10.0.1.3"]
            told: list[list[str]] = []
            monitor = asyncio.ensure_future(own.monitor_peers(told.append, include_self=True))
            await until(f"node {member.token_id} to know everyone", partial(told.__contains__, everyone), told)
            monitor.cancel()
            others = [address for address in everyone if address != member.address]
            assert await own.get_peers() == others
            for address in others:
                await until_pinged(world.nodes[member.token_id - 1], address)

    asyncio.run(scenario())


async def until_pinged(node: Node, address: str) -> None:
    await until(f"{address} to answer node {node.index}", lambda: ping(node, address))


def test_a_node_that_waits_for_its_operator_says_for_what(world: MeshWorld) -> None:
    async def scenario() -> None:
        steps: list[Progress] = []
        own = sdk(world, 1)
        world.ask("start", node=1)
        registering = asyncio.ensure_future(own.register(PATIENCE, steps.append))
        await until("it to wait for its token", lambda: steps and steps[-1].stage is Stage.NO_TOKEN, steps)
        with pytest.raises(NotAMember) as refused:
            await own.register(timeout=0)
        command = refused.value.command or ""
        assert command.startswith("meshctl mint --instance ")
        assert world.nodes[0].instance in command and world.contract.lower() in command.lower()
        with pytest.raises(NotAMember):
            await own.get_peers()

        # What it says is what is done, word for word.
        arguments = shlex.split(command, comments=True)[1:]
        await in_thread(world.operate, *drop(arguments, "--contract"))
        # It has to sign its registration before it can say how to submit it.
        await until("it to wait for its transaction", lambda: steps[-1].stage is Stage.REGISTERING and steps[-1].command, steps)
        assert (steps[-1].command or "").startswith("meshctl register")
        await in_thread(world.ask, "relay", node=1)
        assert (await registering).token_id == 1
        assert await own.get_peers() == []

    asyncio.run(scenario())


def test_urls_of_ones_own_in_a_cluster_with_devmode(world: MeshWorld) -> None:
    async def scenario() -> None:
        world.join(1, 2)
        own, url = sdk(world, 1, "http://localhost:8080/a?b=1&c=2"), "http://localhost:8080/a?b=1&c=2"
        steps: list[Progress] = []
        registering = asyncio.ensure_future(own.register(PATIENCE, steps.append))
        await until("it to wait for its URL", lambda: steps and steps[-1].stage is Stage.NO_URL, steps)
        with pytest.raises(NotAMember) as refused:
            await own.register(timeout=0)
        with pytest.raises(RuntimeError, match="devMode is off"):
            await as_told(world, refused.value.command)
        await in_thread(world.operate, "config", "dev-mode", "on")
        await as_told(world, refused.value.command)
        assert (await registering).dev_url == url

        # The other one has none, and is where it always is.
        other = sdk(world, 2)
        await other.register(PATIENCE)
        told: list[list[str]] = []
        monitor = asyncio.ensure_future(own.monitor_peers(told.append, include_self=True))
        await until("the first list", lambda: told[-1:] == [[url, "10.0.1.2"]], told)
        await in_thread(world.operate, "dev-url", "set", "2", "10.0.1.2:5432")
        await until("the other's URL", lambda: told[-1:] == [[url, "10.0.1.2:5432"]], told)
        assert await own.get_peers() == ["10.0.1.2:5432"]
        assert await other.get_peers() == ["10.0.1.1"], "an address is asked for, and an address is returned"
        # With devMode its URLs go.
        await in_thread(world.operate, "config", "dev-mode", "off")
        await until("the addresses", lambda: told[-1:] == [["10.0.1.1", "10.0.1.2"]], told)
        monitor.cancel()

    asyncio.run(scenario())


async def as_told(world: MeshWorld, command: Optional[str]) -> None:
    """Runs the commands that an operator is asked to run, one a line; a comment says whose key signs it."""
    assert command is not None
    for line in command.splitlines():
        await in_thread(world.operate, *drop(shlex.split(line, comments=True)[1:], "--contract"))


async def in_thread(call: Any, *arguments: Any, **named: Any) -> Any:
    return await asyncio.to_thread(call, *arguments, **named)


def drop(arguments: list[str], flag: str) -> list[str]:
    """Without a flag and its value: the world says it already."""
    at = arguments.index(flag)
    return arguments[:at] + arguments[at + 2 :]


def test_a_monitor_lives_through_joins_kills_outages_and_a_revocation(world: MeshWorld) -> None:
    async def scenario() -> None:
        told: list[list[str]] = []
        world.join(1, 2)
        own = sdk(world, 1)
        await own.register(PATIENCE)
        monitor = asyncio.ensure_future(own.monitor_peers(told.append))
        await until("node 2 in the list", lambda: ["10.0.1.2"] in told, told)
        so_far = len(told)

        # Killed and restarted, once with the contract in reach and once without: nothing changes for applications.
        for outage in (False, True):
            if outage:
                await in_thread(world.ask, "silence-rpc", node=1)
            await in_thread(world.ask, "kill", node=1)
            await in_thread(world.ask, "start", node=1)
            assert await own.get_peers(timeout=PATIENCE) == ["10.0.1.2"]
        await in_thread(world.ask, "restore-rpc", node=1)
        await in_thread(world.join, 3)
        await until("node 3 in the list", lambda: ["10.0.1.2", "10.0.1.3"] in told, told)
        assert told[so_far:] == [["10.0.1.2", "10.0.1.3"]]

        await in_thread(world.operate, "revoke", "2")
        await until("node 2 to be gone", lambda: told[-1] == ["10.0.1.3"], told)
        # The node itself learns that it reaches no member.
        revoked: list[list[str]] = []
        other = asyncio.ensure_future(sdk(world, 2).monitor_peers(revoked.append))
        await until("node 2 to learn of it", lambda: revoked and revoked[-1] == [], revoked)
        with pytest.raises(NotAMember) as refused:
            await sdk(world, 2).register(PATIENCE)
        assert (refused.value.command or "").startswith("meshctl reinstate --token 2")
        for task in (monitor, other):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert told[so_far:] == [["10.0.1.2", "10.0.1.3"], ["10.0.1.3"]]

    asyncio.run(scenario())


def test_the_twin_without_asyncio(world: MeshWorld) -> None:
    told: list[list[str]] = []
    world.join(1, 2)
    with SyncDStackP2PSDK(world.contract, "wireguard", socket=world.nodes[0].socket, agent=None) as own:
        assert own.register(PATIENCE).address == "10.0.1.1"
        with own.monitor_peers(told.append):
            wait_until("node 2 in the list", lambda: ["10.0.1.2"] in told, told)
        assert own.get_peers(include_self=True) == ["10.0.1.1", "10.0.1.2"]
    assert [thread for thread in threading.enumerate() if thread.name == "dstack-p2p"] == []


def test_an_agent_is_started_where_none_runs(world: MeshWorld) -> None:
    async def scenario() -> None:
        world.join(1)
        world.ask("mint", node=2)
        world.ask("fund", node=2)
        node = world.nodes[1]
        own = sdk(world, 2, agent=words(world, node), agent_flags=flags(node), rpc_url=world.rpc_url)
        async with own:
            assert (await own.register(PATIENCE)).address == "10.0.1.2"
            told: list[list[str]] = []
            monitor = asyncio.ensure_future(own.monitor_peers(told.append))
            await until("node 1 in the list", lambda: ["10.0.1.1"] in told, told)
            monitor.cancel()
            await until_pinged(node, "10.0.1.1")
            # Any other program on this node uses the same one.
            assert (await sdk(world, 2).register(PATIENCE)).token_id == 2
        assert not Path(node.socket).exists()
        interfaces = subprocess.run(["ip", "-n", node.namespace, "-br", "link"], capture_output=True, text=True, check=True)
        assert node.interface not in interfaces.stdout, "an orderly stop takes the interface away"

    asyncio.run(scenario())


def test_an_agent_that_cannot_start_says_why(world: MeshWorld) -> None:
    node = world.nodes[0]
    without_rpc = sdk(world, 1, agent=words(world, node), agent_flags=flags(node))
    with pytest.raises(NoAgent, match="no RPC endpoint is set"):
        asyncio.run(without_rpc.register(PATIENCE))
    powerless = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", *words(world, node)[4:]]
    unable = sdk(world, 1, agent=powerless, agent_flags=flags(node), rpc_url=world.rpc_url)
    with pytest.raises(NotPermitted, match="perm_net_admin"):
        asyncio.run(unable.register(PATIENCE))


def test_an_agent_that_is_not_for_this_is_refused(world: MeshWorld) -> None:
    world.join(1)
    with pytest.raises(WrongContract, match="serves the cluster"):
        asyncio.run(DStackP2PSDK("0x" + "ab" * 20, "wireguard", socket=world.nodes[0].socket).register(PATIENCE))
    with pytest.raises(WrongAgent, match="runs in mode `wireguard`"):
        asyncio.run(sdk(world, 1, "tls").register(PATIENCE))


def test_tls_nodes_have_urls(world: MeshWorld) -> None:
    async def scenario() -> None:
        world.operate("domain", "add", DOMAIN)
        urls = [f"https://{node.instance}-8443s.{DOMAIN}" for node in world.nodes[:2]]
        for node in (1, 2):
            world.ask("mint", node=node)
            world.ask("fund", node=node)
        # One by its mode, one by the URL that it says it has.
        options = [
            {"agent": words(world, node), "agent_flags": flags(node, "tls"), "rpc_url": world.rpc_url}
            for node in world.nodes[:2]
        ]
        by_mode = sdk(world, 1, "tls", **options[0])
        options[1]["agent_flags"] = [*flags(world.nodes[1], "tls"), "--mode", "tls"]
        by_url = sdk(world, 2, urls[1], **options[1])
        async with by_mode, by_url:
            members = await asyncio.gather(by_mode.register(PATIENCE), by_url.register(PATIENCE))
            assert [member.url for member in members] == urls
            told: list[list[str]] = []
            monitor = asyncio.ensure_future(by_mode.monitor_peers(told.append))
            await until("the other URL", lambda: [urls[1]] in told, told)
            # A domain that the contract does not list any more is no place to be.
            await in_thread(world.operate, "domain", "remove", DOMAIN)
            await until("no URL", lambda: told[-1] == [], told)
            with pytest.raises(NotAMember) as refused:
                await by_mode.register(timeout=0)
            assert (refused.value.command or "").startswith(f"meshctl domain add {DOMAIN}")
            monitor.cancel()

    asyncio.run(scenario())


def test_auto_lists_members_of_both_kinds(world: MeshWorld) -> None:
    """Node 1 has a tunnel, 2 and 3 have URLs; 1 reaches all of them, 2 and 3 each other."""

    async def scenario() -> None:
        world.operate("domain", "add", DOMAIN)
        urls = [f"https://{node.instance}-8443s.{DOMAIN}" for node in world.nodes]
        for node in (1, 2, 3):
            world.ask("mint", node=node)
            world.ask("fund", node=node)
        by_tunnel = [*flags(world.nodes[0]), "--allow-gateway-domain", DOMAIN]
        by_url = [[*flags(node, "tls"), "--mode", "tls"] for node in world.nodes[1:]]
        one, two, three = (
            sdk(world, node.index, "auto", agent=words(world, node), agent_flags=own, rpc_url=world.rpc_url)
            for node, own in zip(world.nodes, [by_tunnel, *by_url])
        )
        async with one, two, three:
            members = await asyncio.gather(one.register(PATIENCE), two.register(PATIENCE), three.register(PATIENCE))
            assert [member.connect_to for member in members] == ["10.0.1.1", *urls[1:]]
            for own, expected in ((one, urls[1:]), (two, urls[2:]), (three, urls[1:2])):
                told: list[list[str]] = []
                monitor = asyncio.ensure_future(own.monitor_peers(told.append))
                await until("all members that can be reached", partial(told.__contains__, expected), told)
                monitor.cancel()

    asyncio.run(scenario())
