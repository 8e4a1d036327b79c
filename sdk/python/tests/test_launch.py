"""Starting an agent where none runs: with a program that writes down what it was given."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

import pytest
from fake_agent import CONTRACT, FakeAgent, peers, status
from waiting import PATIENCE, traceback_of, until, wait_until

from dstack_p2p import DStackP2PSDK, NoAgent, NotPermitted, Progress, Stage, SyncDStackP2PSDK
from dstack_p2p._launch import Launcher

FAKE = Path(__file__).with_name("fake_p2p_agent.py")
SECRET = "https://rpc.example/v2/API-KEY"


@pytest.fixture
def program(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`p2p-agent`, found as it would be found on any machine, in an environment where nothing is set for it."""
    for name in list(os.environ):
        if name.startswith("P2P_") or name == "RPC_URL":
            monkeypatch.delenv(name)
    directory = place / "bin"
    directory.mkdir()
    made = directory / "p2p-agent"
    made.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -c \'{_BOOT}\' "$@"\n')
    made.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    # This machine's own configuration is none of these tests'.
    monkeypatch.setattr("dstack_p2p._launch._DEFAULT_CONFIG", place / "config.toml")
    return made


# Isolated, so that it depends on nothing that is in the environment.
_BOOT = f'import sys; sys.path.insert(0, "{FAKE.parent}"); import fake_p2p_agent; sys.exit(fake_p2p_agent.main())'


def given(socket: Path) -> dict[str, Any]:
    written: dict[str, Any] = json.loads(Path(f"{socket}.given").read_text())
    return written


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_one_is_started_used_and_stopped_in_order(program: Path, socket: Path) -> None:
    async def scenario() -> None:
        steps: list[Progress] = []
        async with DStackP2PSDK(CONTRACT, "wireguard", socket=str(socket), agent_flags=["--token", "7"]) as sdk:
            assert (await sdk.register(PATIENCE, steps.append)).token_id == 7
            assert await sdk.get_peers() == ["10.0.1.2"]
            arguments = given(socket)["arguments"]
            assert arguments == ["--contract", CONTRACT, "--socket", str(socket), "--mode", "wireguard", "--token", "7"]
            assert is_alive(given(socket)["pid"])
            assert given(socket)["session"] != os.getsid(0), "Ctrl-C in a terminal would reach it"
        assert steps and steps[0].stage is Stage.NO_AGENT and f"{socket}.log" in steps[-1].message
        assert not is_alive(given(socket)["pid"]) and not socket.exists()
        assert "stopped in order" in Path(f"{socket}.log").read_text()

    asyncio.run(scenario())


def test_one_that_runs_is_used_and_left_alone(program: Path, socket: Path) -> None:
    with FakeAgent(socket, status(), peers()) as running:
        with SyncDStackP2PSDK(CONTRACT, "wireguard", socket=str(socket)) as sdk:
            assert sdk.register(PATIENCE).token_id == 7
        assert not Path(f"{socket}.given").exists()
        assert running.answer("/v1/status")[0] == 200 and socket.exists()


def test_nothing_secret_is_where_others_can_read_it(
    program: Path, socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://user:password@db")
    monkeypatch.setenv("P2P_KEEPALIVE", "25")
    monkeypatch.setenv("DSTACK_GATEWAY_DOMAIN", "gw.example")
    urls = [SECRET, 'https://other.example/"quoted"\\é']
    with SyncDStackP2PSDK(CONTRACT, "tls", socket=str(socket), rpc_url=urls) as sdk:
        with pytest.raises(Exception, match="runs in mode `wireguard`"):
            sdk.register(PATIENCE)
        seen = given(socket)
        assert seen["config"] == f'rpc-url = ["{SECRET}", "https://other.example/\\"quoted\\"\\\\é"]\n'
        shown = Path(f"/proc/{seen['pid']}/cmdline").read_bytes() + Path(f"/proc/{seen['pid']}/environ").read_bytes()
    for secret in ("API-KEY", "password", "other.example"):
        assert secret not in json.dumps([seen["arguments"], seen["environment"]])
        assert secret.encode() not in shown
    assert seen["environment"]["P2P_KEEPALIVE"] == "25"
    assert seen["environment"]["DSTACK_GATEWAY_DOMAIN"] == "gw.example"
    assert [name for name in seen["environment"] if "DATABASE" in name] == []
    # No file of it was left either.
    left = [path for path in socket.parent.rglob("*") if path.is_file() and b"API-KEY" in path.read_bytes()]
    assert left == [Path(f"{socket}.given")]
    assert stat.S_IMODE(Path(f"{socket}.log").stat().st_mode) & 0o137 == 0


@pytest.mark.parametrize("name", ["P2P_RPC_URL", "RPC_URL"])
def test_the_rpc_url_of_the_environment_goes_the_same_way(
    program: Path, socket: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, f"{SECRET}, https://b")
    with SyncDStackP2PSDK(CONTRACT, "wireguard", socket=str(socket)) as sdk:
        sdk.register(PATIENCE)
        seen = given(socket)
    assert seen["config"] == f'rpc-url = ["{SECRET}", "https://b"]\n'
    assert "API-KEY" not in json.dumps([seen["arguments"], seen["environment"]])


def _default_file(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "config.toml").touch()


def _named_file(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P2P_CONFIG", str(place / "named.toml"))


@pytest.mark.parametrize("configure", [_default_file, _named_file])
def test_an_operators_configuration_file_is_not_replaced(
    program: Path,
    socket: Path,
    place: Path,
    configure: Callable[[Path, pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    configure(place, monkeypatch)
    with SyncDStackP2PSDK(CONTRACT, "wireguard", socket=str(socket), rpc_url=SECRET) as sdk:
        with pytest.raises(NoAgent, match="leave `rpc_url=` out"):
            sdk.register(PATIENCE)
    with SyncDStackP2PSDK(CONTRACT, "wireguard", socket=str(socket)) as sdk:
        sdk.register(PATIENCE)
        assert "--config" not in given(socket)["arguments"]


@pytest.mark.parametrize(
    ("complaint", "kind"),
    [
        ("no RPC endpoint is set", NoAgent),
        ("the capability NET_ADMIN is missing (perm_net_admin): interfaces and routes cannot be made", NotPermitted),
        ("`/dev/net/tun` is not there (tun_missing): this machine offers no TUN devices", NotPermitted),
    ],
)
def test_one_that_ends_reports_why(
    program: Path, socket: Path, complaint: str, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("P2P_TEST_FAILS_WITH", complaint)
    with SyncDStackP2PSDK(CONTRACT, "wireguard", socket=str(socket)) as sdk:
        with pytest.raises(NoAgent if kind is NoAgent else NotPermitted) as refused:
            sdk.register(PATIENCE)
        assert "ended with exit code 1" in refused.value.message
        assert f"error: {complaint}" in refused.value.message
        assert f"{socket}.log" in refused.value.hint
        assert ("rpc_url=" in refused.value.hint) == ("RPC" in complaint)
        # Not after those of a connection that there could not be.
        assert traceback_of(refused.value).count("Traceback") == 1
        # What kept it from starting may be gone the next time.
        monkeypatch.delenv("P2P_TEST_FAILS_WITH")
        assert sdk.register(PATIENCE).token_id == 7
        assert given(socket)["environment"]["P2P_LOG_LIMIT"] == "8"
    log = Path(f"{socket}.log").read_text()
    assert f"error: {complaint}" in log and "stopped in order" in log, "a later start keeps what an earlier one said"
    assert log.count("--- p2p-agent is started") == 2


def test_an_error_shows_what_the_last_agent_said(
    program: Path, socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("P2P_LOG_LIMIT", "2")
    with SyncDStackP2PSDK(CONTRACT, "wireguard", socket=str(socket)) as sdk:
        for complaint in ("the first", "the second"):
            monkeypatch.setenv("P2P_TEST_FAILS_WITH", complaint)
            with pytest.raises(NoAgent) as refused:
                sdk.register(PATIENCE)
        assert "error: the second" in refused.value.message and "the first" not in refused.value.message
        assert "---" not in refused.value.message
        assert given(socket)["environment"]["P2P_LOG_LIMIT"] == "2"


def test_a_program_that_cannot_be_run_is_said_to_be(program: Path, socket: Path, place: Path) -> None:
    (place / "broken").write_text("no program")
    (place / "broken").chmod(0o755)
    sdk = DStackP2PSDK(CONTRACT, "wireguard", socket=str(socket), agent=str(place / "broken"))
    with pytest.raises(NoAgent, match="cannot start") as refused:
        asyncio.run(sdk.register(PATIENCE))
    assert traceback_of(refused.value).count("Traceback") == 1


def test_a_directory_for_the_socket_that_cannot_be_made_is_said_to_be(program: Path, place: Path) -> None:
    (place / "file").touch()
    sdk = DStackP2PSDK(CONTRACT, "wireguard", socket=str(place / "file" / "agent.sock"))
    with pytest.raises(NoAgent, match="cannot start"):
        asyncio.run(sdk.register(PATIENCE))


def test_its_log_does_not_go_where_a_stranger_wants_it(program: Path, socket: Path, place: Path) -> None:
    (place / "precious").write_text("precious")
    Path(f"{socket}.log").symlink_to(place / "precious")
    sdk = DStackP2PSDK(CONTRACT, "wireguard", socket=str(socket))
    with pytest.raises(NoAgent, match="cannot start"):
        asyncio.run(sdk.register(PATIENCE))
    assert (place / "precious").read_text() == "precious"


def test_a_monitor_starts_one_again_that_died(program: Path, socket: Path) -> None:
    async def scenario() -> None:
        told: list[list[str]] = []
        async with DStackP2PSDK(CONTRACT, "wireguard", socket=str(socket)) as sdk:
            await sdk.register(PATIENCE)
            monitor = asyncio.ensure_future(sdk.monitor_peers(told.append))
            await until("the first list", lambda: told)
            first = given(socket)["pid"]
            os.kill(first, signal.SIGKILL)
            await until("another to run", lambda: given(socket)["pid"] != first)
            assert (await sdk.get_peers(timeout=PATIENCE)) == ["10.0.1.2"]
            monitor.cancel()
            with pytest.raises(asyncio.CancelledError):
                await monitor
        assert told == [["10.0.1.2"]]
        assert not is_alive(given(socket)["pid"])

    asyncio.run(scenario())


def test_a_monitor_ends_with_one_error_when_the_program_is_gone(program: Path, socket: Path) -> None:
    async def scenario() -> None:
        told: list[list[str]] = []
        async with DStackP2PSDK(CONTRACT, "wireguard", socket=str(socket), agent=str(program)) as sdk:
            await sdk.register(PATIENCE)
            monitor = asyncio.ensure_future(sdk.monitor_peers(told.append))
            await until("the first list", lambda: told)
            program.unlink()
            os.kill(given(socket)["pid"], signal.SIGKILL)
            with pytest.raises(NoAgent, match="cannot start") as refused:
                await monitor
            assert traceback_of(refused.value).count("Traceback") == 1

    asyncio.run(scenario())


def test_one_that_is_being_stopped_is_not_started_again_by_a_monitor(
    program: Path, socket: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    looks: list[bool] = []
    is_started, wait = Launcher.was_started, subprocess.Popen.wait

    def look(launcher: Launcher) -> bool:
        looks.append(is_started(launcher))
        return looks[-1]

    def wait_and_be_late(process: subprocess.Popen[Any], timeout: Optional[float] = None) -> int:
        code = wait(process, timeout)
        seen = len(looks)
        wait_until("the monitor to look at an agent that has ended", lambda: len(looks) >= seen + 2)
        return code

    async def scenario() -> None:
        told: list[list[str]] = []
        sdk = DStackP2PSDK(CONTRACT, "wireguard", socket=str(socket))
        await sdk.register(PATIENCE)
        monitor = asyncio.ensure_future(sdk.monitor_peers(told.append))
        await until("the first list", lambda: told)
        monkeypatch.setattr(Launcher, "was_started", look)
        monkeypatch.setattr(subprocess.Popen, "wait", wait_and_be_late)
        await sdk.close()
        monkeypatch.undo()
        monitor.cancel()
        with pytest.raises(asyncio.CancelledError):
            await monitor
        await sdk.close()

    asyncio.run(scenario())
    assert "starting it again" not in caplog.text


_THREE_LINES = """
import asyncio
from dstack_p2p import DStackP2PSDK

async def main():
    sdk = DStackP2PSDK("{contract}", "wireguard", socket="{socket}", keep_agent={keep})
    await sdk.register()
    assert await sdk.get_peers() == ["10.0.1.2"]
    {then}

asyncio.run(main())
"""


@pytest.mark.parametrize("then", ["", "raise SystemExit(0)"])
def test_it_ends_with_the_application(program: Path, socket: Path, then: str) -> None:
    three_lines = _THREE_LINES.format(contract=CONTRACT, socket=socket, keep=False, then=then)
    assert subprocess.run([sys.executable, "-c", three_lines], timeout=PATIENCE).returncode == 0
    assert not is_alive(given(socket)["pid"]) and not socket.exists()
    assert "stopped in order" in Path(f"{socket}.log").read_text()


_FORKS = """
import os
from pathlib import Path
from dstack_p2p import SyncDStackP2PSDK

with SyncDStackP2PSDK("{contract}", "wireguard", socket="{socket}") as sdk:
    sdk.register()
    monitor = sdk.monitor_peers(print)
    child = os.fork()
    if child == 0:
        with monitor:
            raise SystemExit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert "stopped in order" not in Path("{socket}.log").read_text()
    assert sdk.get_peers() == ["10.0.1.2"]
"""


def test_a_child_that_was_forked_leaves_the_agent_of_its_parent_alone(program: Path, socket: Path) -> None:
    forks = _FORKS.format(contract=CONTRACT, socket=socket)
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", forks], timeout=PATIENCE).returncode == 0
    assert not is_alive(given(socket)["pid"]) and not socket.exists(), "it ends with its parent"


def test_it_goes_on_where_it_is_to_be_kept(program: Path, socket: Path) -> None:
    three_lines = _THREE_LINES.format(contract=CONTRACT, socket=socket, keep=True, then="await sdk.close()")
    assert subprocess.run([sys.executable, "-c", three_lines], timeout=PATIENCE).returncode == 0
    pid = given(socket)["pid"]
    try:
        assert is_alive(pid)
    finally:
        os.kill(pid, signal.SIGTERM)
    wait_until("it to end", lambda: not socket.exists())


def test_it_does_not_end_with_a_fork_of_the_application(program: Path, socket: Path) -> None:
    forks = "import os; os.fork() or exit(); os.wait(); assert await sdk.get_peers() == ['10.0.1.2']; print('still there')"
    three_lines = _THREE_LINES.format(contract=CONTRACT, socket=socket, keep=False, then=forks)
    ended = subprocess.run([sys.executable, "-c", three_lines], timeout=PATIENCE, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "still there\n"), ended.stderr


def test_it_goes_on_when_the_application_dies_and_is_found_by_the_next(program: Path, socket: Path) -> None:
    application = f"""
import os, signal
from dstack_p2p import SyncDStackP2PSDK
SyncDStackP2PSDK("{CONTRACT}", "wireguard", socket="{socket}").register()
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = os.spawnvpe(os.P_WAIT, sys.executable, [sys.executable, "-c", application], os.environ)
    assert ended == -signal.SIGKILL
    pid = given(socket)["pid"]
    try:
        with SyncDStackP2PSDK(CONTRACT, "wireguard", socket=str(socket)) as sdk:
            assert sdk.register(PATIENCE).token_id == 7
        assert given(socket)["pid"] == pid and is_alive(pid)
    finally:
        os.kill(pid, signal.SIGTERM)
    wait_until("it to end", lambda: not socket.exists())
