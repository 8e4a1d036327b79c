"""What an application says: a cluster, a mode, and which of several agents."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_agent import CONTRACT

from dstack_p2p import DStackP2PSDK, NotPermitted, WrongAgent
from dstack_p2p._sockets import find_socket


@pytest.mark.parametrize(
    ("contract", "mode", "complaint"),
    [
        ("0x123", "wireguard", "not a contract's address"),
        (CONTRACT[2:], "wireguard", "not a contract's address"),
        (CONTRACT + "\n", "wireguard", "not a contract's address"),
        (CONTRACT, "Wireguard", "neither a mode nor a URL"),
        (CONTRACT, "http://localhost:8080/a b", "neither a mode nor a URL"),
        (CONTRACT, "http://" + "x" * 256, "neither a mode nor a URL"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once(contract: str, mode: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        DStackP2PSDK(contract, mode, socket="/nowhere")


@pytest.mark.parametrize(
    "url", ["http://localhost:8080", "10.0.1.1:5432", "postgres://user:pass@db:5432/mydb", "https://a-443s.gw.example"]
)
def test_every_url_of_the_documents_is_one(url: str) -> None:
    assert DStackP2PSDK(CONTRACT, url, socket="/nowhere").socket == "/nowhere"


def test_rpc_urls_may_not_be_where_every_process_reads_them() -> None:
    for flags in (["--rpc-url", "https://key@rpc"], ["--rpc-url=https://key@rpc"]):
        with pytest.raises(ValueError, match="rpc_url=") as refused:
            DStackP2PSDK(CONTRACT, "wireguard", socket="/nowhere", agent_flags=flags)
        assert "key" not in str(refused.value)
    with pytest.raises(ValueError) as refused:
        DStackP2PSDK(CONTRACT, "wireguard", socket="/nowhere", rpc_url="https://key\n@rpc")
    assert "key" not in str(refused.value)


def _sockets(directory: Path, *names: str) -> Path:
    directory.mkdir(parents=True)
    for name in names:
        (directory / name).touch()
    return directory


def test_the_variable_names_the_socket(place: Path) -> None:
    system = _sockets(place / "system", "mesh0.sock")
    assert find_socket("wireguard", {"P2P_SOCKET": "/elsewhere"}, system) == "/elsewhere"


def test_each_mode_finds_its_own_agent(place: Path) -> None:
    system = _sockets(place / "system", "mesh0.sock", "mesh1.sock", "tls.sock", "mesh0.sock.log")
    user = {"XDG_RUNTIME_DIR": str(place / "user")}
    assert find_socket("wireguard", user, system) == str(system / "mesh0.sock")
    assert find_socket("tls", user, system) == str(system / "tls.sock")
    _sockets(place / "user" / "p2p-agent", "tls.sock")
    assert find_socket("tls", user, system) == str(place / "user/p2p-agent/tls.sock")
    assert find_socket("tls", {"XDG_RUNTIME_DIR": "user"}, system) == str(system / "tls.sock")


def test_the_only_agent_is_the_one_whatever_its_name(place: Path) -> None:
    system = _sockets(place / "system", "blue.sock", "tls.sock")
    assert find_socket("wireguard", {}, system) == str(system / "blue.sock")
    tls_alone = _sockets(place / "other", "tls.sock")
    assert find_socket("url", {}, tls_alone) == str(tls_alone / "tls.sock")
    assert find_socket("auto", {}, tls_alone) == str(tls_alone / "tls.sock")
    assert find_socket("wireguard", {}, tls_alone) == str(tls_alone / "mesh0.sock")


def test_of_several_agents_one_has_to_be_chosen(place: Path) -> None:
    system = _sockets(place / "system", "blue.sock", "red.sock")
    with pytest.raises(WrongAgent) as refused:
        find_socket("wireguard", {}, system)
    assert "blue.sock" in refused.value.message and "red.sock" in refused.value.message
    assert "socket=" in refused.value.hint


def test_without_an_agent_the_default_socket_is_named(place: Path) -> None:
    nowhere = place / "system"
    assert find_socket("wireguard", {}, nowhere) == str(nowhere / "mesh0.sock")
    (place / "file").touch()
    assert find_socket("wireguard", {"XDG_RUNTIME_DIR": str(place / "file")}, nowhere) == str(nowhere / "mesh0.sock")


def test_a_directory_that_is_closed_is_said_to_be(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    # Root, as which these tests may run, is never refused.
    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(NotPermitted, match="may not look for agents"):
        find_socket("wireguard", {}, place)
