"""`get_peers`: the list now."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from fake_agent import CONTRACT, FakeAgent, Json, peer, peers, status, tls_peer
from waiting import PATIENCE, wait_until

from dstack_p2p import DStackP2PSDK, Member, NoAgent, NotAMember, TimedOut, WrongContract

pytestmark = pytest.mark.usefixtures("quick")
LISTED = peers(peer(9, state="down"), tls_peer(3), peer(2), peer(11), own=peer(7, dev_url=None))


def sdk(socket: Path, mode: str = "wireguard", contract: str = CONTRACT) -> DStackP2PSDK:
    return DStackP2PSDK(contract, mode, socket=str(socket), agent=None)


def get_peers(socket: Path, mode: str = "wireguard", **options: bool) -> list[str]:
    return asyncio.run(sdk(socket, mode).get_peers(timeout=PATIENCE, **options))


def test_addresses_come_by_token_without_oneself(socket: Path) -> None:
    with FakeAgent(socket, status(), LISTED):
        assert get_peers(socket) == ["10.0.1.2", "10.0.1.9", "10.0.1.11"]
        assert get_peers(socket, include_self=True) == ["10.0.1.2", "10.0.1.7", "10.0.1.9", "10.0.1.11"]


def test_a_node_alone_has_no_peers(socket: Path) -> None:
    with FakeAgent(socket, status(), peers()):
        assert get_peers(socket) == []
        assert get_peers(socket, include_self=True) == ["10.0.1.7"]


def test_a_tls_node_gets_urls(socket: Path) -> None:
    own = tls_peer(7)
    with FakeAgent(socket, status(kind="tls"), peers(tls_peer(3), tls_peer(4, url=None), peer(2, address=None), own=own)):
        url = tls_peer(3)["url"]
        assert get_peers(socket, "tls") == [url]
        assert get_peers(socket, "tls", include_self=True) == [url, own["url"]]


def test_with_a_url_of_ones_own_every_member_is_where_the_contract_says(socket: Path) -> None:
    listed = peers(tls_peer(3), peer(2), peer(4, dev_url="http://localhost:4"), own=peer(7, dev_url="http://localhost:7"))
    with FakeAgent(socket, status(), listed):
        assert get_peers(socket, "http://localhost:7") == ["10.0.1.2", tls_peer(3)["url"], "http://localhost:4"]


def test_auto_takes_of_each_member_what_its_agent_says_is_best(socket: Path) -> None:
    url = tls_peer(3)["url"]
    both = peer(4, url="https://four.example", connect_to="10.0.1.4")
    out_of_reach = peer(5, connect_to=None)
    for own, kind in ((peer(7), "wireguard"), (tls_peer(7), "tls")):
        with FakeAgent(socket, status(kind=kind), peers(tls_peer(3, connect_to=url), peer(2), both, out_of_reach, own=own)):
            # An agent of before says nothing of it for node 2.
            assert get_peers(socket, "auto") == ["10.0.1.2", url, "10.0.1.4"]
            assert own["address"] in (None, get_peers(socket, "auto", include_self=True)[-1])


def test_members_are_listed_with_all_that_is_known(socket: Path) -> None:
    with FakeAgent(socket, status(), LISTED):
        members = asyncio.run(sdk(socket).get_members(include_self=True, timeout=PATIENCE))
    assert [member.token_id for member in members] == [2, 3, 7, 9, 11]
    assert members[1] == Member(3, "node-3", "tls", None, tls_peer(3)["url"], None, tls_peer(3)["url"])


def test_an_agent_that_is_just_being_restarted_is_waited_for(socket: Path) -> None:
    agent = FakeAgent(socket, "the dstack guest agent", peers(membership="unknown"))

    def restart() -> None:
        agent.start()
        wait_until("it to be asked", lambda: "/v1/status" in agent.asked)
        agent.say(status=status("unknown"))
        wait_until("the list to be asked for", lambda: "/v1/peers" in agent.asked)
        agent.say(LISTED, status())

    thread = threading.Thread(target=restart, daemon=True)
    thread.start()
    try:
        assert get_peers(socket) == ["10.0.1.2", "10.0.1.9", "10.0.1.11"]
    finally:
        agent.stop()


def test_without_an_agent_it_says_so_in_time(socket: Path) -> None:
    with pytest.raises(NoAgent, match="sdk.register"):
        asyncio.run(sdk(socket).get_peers(timeout=0.3))
    with FakeAgent(socket, status("unknown"), peers(membership="unknown")):
        with pytest.raises(TimedOut, match="has not read the contract yet\n"):
            asyncio.run(sdk(socket).get_peers(timeout=0.3))
    silent = status("unknown")
    warning = {"severity": "warning", "hint": "check that endpoint"}
    silent["warnings"] = [
        {**warning, "code": code, "message": message} for code, message in (("W504", "disk full"), ("W302", "rpc-1: no answer"))
    ]
    with FakeAgent(socket, silent, peers(membership="unknown")):
        with pytest.raises(TimedOut, match="yet: rpc-1: no answer\nhint: check that endpoint"):
            asyncio.run(sdk(socket).get_peers(timeout=0.3))
    with FakeAgent(socket, "the dstack guest agent", peers(membership="unknown")):
        with pytest.raises(TimedOut, match="dstack guest agent"):
            asyncio.run(sdk(socket).get_peers(timeout=0.3))


@pytest.mark.parametrize("membership", ["no-token", "registering", "revoked", "fenced"])
def test_who_is_no_member_has_no_peers(socket: Path, membership: str) -> None:
    listed: Json = peers(peer(3), own=peer(7), membership=membership)
    said = status(membership, hint="meshctl mint")
    said["warnings"] = [
        {"code": code, "severity": "warning", "message": f"because of {code}", "hint": None} for code in ("W302", "W104")
    ]
    with FakeAgent(socket, said, listed):
        with pytest.raises(NotAMember) as refused:
            get_peers(socket)
    assert refused.value.command == "meshctl mint"
    assert refused.value.message.endswith(f": {membership}: because of W104")


def test_peers_of_another_cluster_are_not_listed(socket: Path) -> None:
    with FakeAgent(socket, status(), LISTED):
        with pytest.raises(WrongContract):
            asyncio.run(sdk(socket, contract="0x" + "ab" * 20).get_peers())
