"""node.py with real databases on loopback addresses, and an etcd for them: what a mesh seldom shows. Needs root, for PostgreSQL's user."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import node as node_module
import pytest
from configuration import CLUSTER, REST_PORT, Place
from node import Node, postgres_programs, wait_for
from passwords import Passwords

from dstack_p2p import Member, NoAgent

FIRST, SECOND, REVOKED = "127.0.77.1", "127.0.77.2", "127.0.77.3"
#: Whom loopback connections come from, whatever address they go to.
LOOPBACK = "127.0.0.1"
USER = "postgres"
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
PATIENCE = 180.0


class KnownPasswords(Passwords):
    """Without a guest agent."""

    def __init__(self) -> None:
        self._key = bytes(32)


class Database:
    """One node's, with programs of PostgreSQL's that may be replaced. Used with `with`."""

    def __init__(self, base: Path, address: str) -> None:
        self.base = base
        self.address = address
        real = postgres_programs(Path())
        self.programs = base.with_name(f"{base.name}-programs")
        self.programs.mkdir()
        for program in real.iterdir():
            (self.programs / program.name).symlink_to(program)
        self.place = Place(base, self.programs, USER)
        self.start()

    def start(self) -> None:
        token = int(self.address.rsplit(".", 1)[1])
        me = Member(token, f"node-{token}", "wireguard", self.address, None, None)
        self.node = Node(me, self.place, KnownPasswords())
        self._keeping = threading.Thread(target=self.node.run)
        self._keeping.start()

    def replace(self, program: str, how: str) -> None:
        """`how` is a line of shell before the real one is run."""
        path = self.programs / program
        real = path.resolve()
        path.unlink()
        path.write_text(f'#!/bin/sh\n{how}\nexec {real} "$@"\n')
        path.chmod(0o755)

    def postmaster(self) -> int:
        return int((self.place.data / "postmaster.pid").read_text().split()[0])

    def die(self) -> None:
        """As when the machine dies."""
        with self.node._changed:
            patroni = self.node._patroni
            assert patroni is not None
            for pid in (patroni.pid, self.postmaster()):
                os.kill(pid, signal.SIGKILL)
            self.node.end()
        self._keeping.join()

    def sql(self, statement: str) -> str:
        """What it answers; nothing when it does not."""
        psql = ["psql", "-XAtq", "-h", str(self.place.run), "-U", USER, "-d", "postgres", "-c", statement]
        words = ["setpriv", "--reuid", USER, "--regid", USER, "--clear-groups", *psql]
        return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False).stdout.strip()

    def lets_in(self, address: str) -> bool:
        """By what PostgreSQL reads."""
        return f" {address}/32 " in (self.place.data / "pg_hba.conf").read_text()

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *error: object) -> None:
        self.node.end()
        self._keeping.join()


@pytest.fixture
def base() -> Iterator[Path]:
    # Not pytest's: PostgreSQL's user does not get there.
    made = Path(tempfile.mkdtemp(prefix="patroni-"))
    made.chmod(0o755)
    url, peers = f"http://{FIRST}:2379", f"http://{FIRST}:2380"
    words = ["etcd", "--data-dir", str(made / "etcd"), "--listen-client-urls", url, "--advertise-client-urls", url]
    words += ["--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", f"default={peers}"]
    with (made / "etcd.log").open("wb") as log:
        etcd = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    yield made
    etcd.terminate()
    etcd.wait()
    shutil.rmtree(made)


def wait_until(what: str, look: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not look():
        assert time.monotonic() < deadline, f"not within {PATIENCE} s: {what}"
        time.sleep(0.2)


def leads(database: Database) -> bool:
    """By what Patroni says, which is not done with a new database when that can be written to."""
    try:
        with DIRECT.open(f"http://{database.address}:{REST_PORT}/leader", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


@pytest.mark.nightly
def test_who_is_revoked_while_postgresql_starts_is_shut_out(base: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with Database(base / "first", FIRST) as database:
        database.node.know([FIRST, REVOKED])
        # Patroni has looked at it since the bootstrap: what crashes before that, it waits for.
        wait_until("Patroni to be at rest", lambda: "the leader with the lock" in "".join(capfd.readouterr()))
        wait_until("it to be settled", lambda: database.node._is_settled)
        assert database.lets_in(REVOKED)
        # It crashes, and from its next start on Patroni does not hear that it is there again.
        deaf = base / "deaf"
        # As whom Patroni runs.
        base.chmod(0o777)
        database.replace("pg_isready", f"[ ! -e {deaf} ] || exit 1")
        database.replace("postgres", f"touch {deaf}")
        crashed = database.postmaster()
        os.kill(crashed, signal.SIGKILL)
        wait_until("it to be back", lambda: database.sql("SELECT 1") == "1" and database.postmaster() != crashed)
        capfd.readouterr()
        database.node.know([FIRST])
        wait_until("Patroni to make nothing of it", lambda: "Reloading PostgreSQL configuration" in "".join(capfd.readouterr()))
        assert database.lets_in(REVOKED), "Patroni has become better than that: this tests nothing"
        deaf.unlink()
        wait_until("it to be shut out", lambda: not database.lets_in(REVOKED) and database.node._is_settled)
        rules = database.sql("SELECT count(*) FROM pg_hba_file_rules WHERE address IS NOT NULL AND auth_method <> 'reject'")
        assert rules == "2", "replication and data, of this node"


@pytest.mark.nightly
def test_a_bootstrap_that_failed_is_repeated(base: Path) -> None:
    with Database(base / "first", FIRST) as database:
        broken = base / "broken"
        broken.touch()
        database.replace("postgres", f"[ ! -e {broken} ] || exit 1")
        database.node.know([FIRST])
        wait_until("it to fail", database.place.data.with_name("data.failed").exists)
        broken.unlink()
        wait_until("it to lead", lambda: leads(database))
        users = "SELECT count(*) FROM pg_roles WHERE rolname IN ('replicator', 'rewinder')"
        wait_until("its users to be there", lambda: database.sql(users) == "2")


@pytest.mark.nightly
def test_an_old_leader_that_cannot_be_rewound_is_copied_anew(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CLUSTER, "ttl", 20)
    monkeypatch.setitem(CLUSTER, "retry_timeout", 8)
    listed = [FIRST, SECOND, LOOPBACK]
    with Database(base / "first", FIRST) as first:
        first.node.know(listed)
        wait_until("the first to lead", lambda: leads(first))
        with Database(base / "second", SECOND) as second:
            second.node.know(listed)
            synchronous = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
            wait_until("the second to follow", lambda: first.sql(synchronous) == "1")
            first.die()
            wait_until("the second to lead", lambda: leads(second))
            asked = base / "asked"
            first.replace("pg_rewind", f'[ "$1" = --help ] || {{ touch {asked}; exit 1; }}')
            # As whom Patroni runs.
            base.chmod(0o777)
            first.start()
            first.node.know(listed)
            wait_until("the first to follow", lambda: second.sql(synchronous) == "1")
            assert asked.exists(), "it was not to be rewound: this tests nothing"


def test_a_machine_out_of_processes_for_a_moment_ends_nothing(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = []

    def no_process(*arguments: object, **options: object) -> None:
        failures.append(arguments)
        raise BlockingIOError("Resource temporarily unavailable")

    with Database(base / "first", FIRST) as database:
        with monkeypatch.context() as out_of_processes:
            out_of_processes.setattr(subprocess, "Popen", no_process)
            database.node.know([FIRST])
            wait_until("it to be tried again", lambda: len(failures) > 1)
        wait_until("it to lead", lambda: leads(database))


def test_what_is_not_there_yet_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_module, "PAUSE", 0.01)
    answers: list[Exception | str] = [NoAgent("no agent answers", "start it"), OSError("no key"), "a key"]

    def ask() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert wait_for(ask) == "a key"
