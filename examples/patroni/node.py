"""PostgreSQL on this node of the mesh: one leader and replicas that follow it, under Patroni, with etcd from examples/etcd.

    python3 node.py CONTRACT --data-dir /var/lib/mesh-postgres

The same command on every node that is to have the data; etcd's member.py runs on the same nodes, or on three others. It listens on this
node's mesh address only, and lets in whom the contract lists.
"""

from __future__ import annotations

import argparse
import logging
import os
import pwd
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Optional, TypeVar

from configuration import Place, data_directory, end_of_others, hba_since, patroni_yml
from dstack_p2p import Member, NoAgent, P2PError, SyncDStackP2PSDK
from passwords import Passwords

#: Seconds between two looks at Patroni and PostgreSQL, and until what failed is tried again.
PAUSE = 1.0
#: Seconds for Patroni to apply its configuration.
HEARD = 5.0
#: Seconds for a query on this node.
QUERY = 10.0
#: Seconds for PostgreSQL to end in order.
STOP = 40.0
LOG = logging.getLogger("postgres-node")
T = TypeVar("T")


class Node:
    """This node's Patroni, which keeps its PostgreSQL."""

    def __init__(self, me: Member, place: Place, passwords: Passwords) -> None:
        assert me.address is not None, "a WireGuard member that is ready has one"
        self._name = f"node-{me.token_id}"
        self._address = me.address
        self._place = place
        self._passwords = passwords
        self._account = pwd.getpwnam(place.user)
        self._changed = threading.Condition()
        #: The contract's members, with this one; `None`: not known yet. Empty: this node was revoked.
        self._listed: Optional[list[str]] = None
        self._is_ending = False
        self._patroni: Optional[subprocess.Popen[bytes]] = None
        #: The members that Patroni was configured with last, when, and how often it was configured at all.
        self._told: list[str] = []
        self._told_at = 0.0
        self._telling = 0
        #: No other node is connected, or can be from now on.
        self._is_settled = False
        self._said = ""
        place.base.mkdir(mode=0o755, parents=True, exist_ok=True)
        for directory in (place.postgres, place.run):
            directory.mkdir(mode=0o700, exist_ok=True)
            os.chown(directory, self._account.pw_uid, self._account.pw_gid, follow_symlinks=False)

    def know(self, addresses: list[str]) -> None:
        """The SDK calls this with the first list and at every change."""
        LOG.info("the contract lists: %s", ", ".join(addresses) or "no member that this node may reach")
        with self._changed:
            self._listed = addresses
            self._changed.notify_all()

    def run(self) -> None:
        """Keeps Patroni running, and the list of those who may connect up to date, until `end`."""
        try:
            while not self._is_ending:
                with self._changed:
                    listed = self._listed
                if listed is not None:
                    self._see_to_it(listed)
                with self._changed:
                    if self._listed is listed and not self._is_ending:
                        self._changed.wait(PAUSE)
        finally:
            self._stop()

    def end(self) -> None:
        with self._changed:
            self._is_ending = True
            self._changed.notify_all()

    def _see_to_it(self, listed: list[str]) -> None:
        try:
            if self._address not in listed:
                self._say("this node's membership is gone: no database here until it is back")
                self._stop()
            elif self._patroni is None or self._patroni.poll() is not None:
                if self._patroni is not None:
                    self._say(f"patroni ended with exit code {self._patroni.returncode}")
                self._start(listed)
            else:
                if listed != self._told:
                    self._tell(self._patroni, listed)
                self._tend(self._patroni, listed)
        except OSError as error:
            # No room on the disk, or for another process: PostgreSQL goes on, and this may pass.
            self._say(f"to be tried again: {error}")

    def _start(self, listed: list[str]) -> None:
        self._write(listed)
        # It ends with this program, whatever ends that, and PostgreSQL with it.
        tied = ["setpriv", "--pdeathsig", "TERM", "patroni", str(self._place.config)]
        self._patroni = subprocess.Popen(self._as_user(tied), stdin=subprocess.DEVNULL, cwd=self._place.base)
        self._say(f"patroni runs, for {', '.join(listed)}")

    def _tell(self, patroni: subprocess.Popen[bytes], listed: list[str]) -> None:
        """Has Patroni read its configuration again, and PostgreSQL who may connect."""
        self._write(listed)
        patroni.send_signal(signal.SIGHUP)

    def _tend(self, patroni: subprocess.Popen[bytes], listed: list[str]) -> None:
        """Makes PostgreSQL read who may connect, and ends all other connections then."""
        if not (self._place.data / "postmaster.pid").exists():
            # It does not run, and is started with what Patroni knows by then.
            return
        since = hba_since(listed, self._place)
        if since is not None and self._is_settled:
            return
        has_read = self._end_others(listed, since or 0.0)
        self._is_settled = since is not None and has_read is True
        if (since is None or has_read is False) and time.monotonic() >= self._told_at + HEARD:
            # A reload that comes while PostgreSQL starts, with the old file, counts as done for Patroni.
            self._say("PostgreSQL does not know yet who may connect: telling Patroni again")
            self._tell(patroni, listed)

    def _end_others(self, listed: list[str], since: float) -> Optional[bool]:
        """Ends the connections of all others. Whether PostgreSQL has read since then who may connect; `None`: it does not say."""
        psql = [str(self._place.bin_dir / "psql"), "-XAtq", "-w", "-h", str(self._place.run), "-U", self._place.user, "-d", "postgres"]
        try:
            done = subprocess.run(
                self._as_user([*psql, "-c", end_of_others(listed, since)]),
                stdin=subprocess.DEVNULL, capture_output=True, cwd=self._place.base, timeout=QUERY, check=False,
            )
        except subprocess.TimeoutExpired:
            self._say("PostgreSQL does not answer: connections of nodes that were revoked end when it does, or by their time-outs")
            return None
        if done.returncode != 0:
            # It starts, or stops: then there are none.
            self._say(f"no connections are ended: {done.stderr.decode(errors='replace').strip()}")
            return None
        return done.stdout.strip() == b"t"

    def _write(self, listed: list[str]) -> None:
        """Writes what Patroni reads when it starts or reloads."""
        self._telling += 1
        config = patroni_yml(self._name, self._address, listed, self._place, self._passwords, self._telling)
        # For that user's eyes only: it contains passwords.
        new = self._place.config.with_suffix(".new")
        new.unlink(missing_ok=True)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            os.fchown(file.fileno(), self._account.pw_uid, self._account.pw_gid)
            file.write(config)
        new.rename(self._place.config)
        self._told, self._told_at, self._is_settled = listed, time.monotonic(), False

    def _stop(self) -> None:
        if self._patroni is None:
            return
        self._patroni.terminate()
        try:
            self._patroni.wait(STOP)
        except subprocess.TimeoutExpired:
            self._patroni.kill()
            self._patroni.wait()
        # Patroni has stopped PostgreSQL, unless it was killed.
        ends = [str(self._place.bin_dir / "pg_ctl"), "stop", "--mode", "immediate", "--silent", "--pgdata", str(self._place.data)]
        subprocess.run(self._as_user(ends), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self._place.base, check=False)
        self._patroni = None

    def _say(self, what: str) -> None:
        if what != self._said:
            self._said = what
            LOG.info("%s", what)

    def _as_user(self, words: list[str]) -> list[str]:
        if os.geteuid() == self._account.pw_uid:
            return words
        return ["setpriv", "--reuid", self._place.user, "--regid", str(self._account.pw_gid), "--init-groups", *words]


def postgres_programs(data: Path) -> Path:
    """Where Debian has the PostgreSQL that made these data, or the newest. Raises `ValueError` where there is none."""
    version = data / "PG_VERSION"
    wanted = version.read_text().strip() if version.exists() else "*"
    if wanted != "*" and not wanted.isdigit():
        raise ValueError(f"{version} has no version of PostgreSQL")
    found = [program.parent for program in Path("/usr/lib/postgresql").glob(f"{wanted}/bin/postgres")]
    if not found:
        which = "postgresql" if wanted == "*" else f"postgresql-{wanted}, which made {data}"
        raise ValueError(f"PostgreSQL is not installed: apt-get install {which}")
    return max(found, key=lambda bin_dir: int(bin_dir.parent.name))


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs PostgreSQL under Patroni on this node of a dstack mesh.")
    parser.add_argument("contract", help="address of the cluster's contract")
    parser.add_argument("--data-dir", type=Path, default=Path("/var/lib/mesh-postgres"), help="default: /var/lib/mesh-postgres")
    parser.add_argument("--user", default="postgres", help="whom PostgreSQL runs as: it refuses root; default: postgres")
    parser.add_argument("--socket", help="the agent's socket; default: where agents put it")
    parser.add_argument("--dstack-socket", default="/var/run/dstack.sock", help="the guest agent's; default: /var/run/dstack.sock")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if shutil.which("patroni") is None:
        parser.error("Patroni is not installed: apt-get install patroni")
    try:
        pwd.getpwnam(arguments.user)
    except KeyError:
        parser.error(f"there is no user `{arguments.user}`: name another one with --user")
    # An orderly end on either signal, however this was started: a shell lets its background jobs ignore SIGINT.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, interrupt_once)
    try:
        base = arguments.data_dir.absolute()
        place = Place(base, postgres_programs(data_directory(base)), arguments.user)
        return serve(arguments.contract, place, arguments.socket, arguments.dstack_socket)
    except KeyboardInterrupt:
        return 0
    except (P2PError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def interrupt_once(number: int, frame: object) -> None:
    """A second signal does not interrupt the orderly end."""
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def wait_for(ask: Callable[[], T]) -> T:
    """What others start, this node's agent and the guest agent, may be there later than this program."""
    said = ""
    while True:
        try:
            return ask()
        except (NoAgent, OSError) as error:
            if str(error) != said:
                said = str(error)
                LOG.warning("to be tried again: %s", said)
        time.sleep(PAUSE)


def serve(contract: str, place: Place, socket: Optional[str], dstack_socket: str) -> int:
    """Until it is interrupted, or fails."""
    with SyncDStackP2PSDK(contract, "wireguard", socket=socket) as sdk:
        me = wait_for(lambda: sdk.register(timeout=None))
        node = Node(me, place, wait_for(lambda: Passwords(dstack_socket, contract)))
        with sdk.monitor_peers(node.know, include_self=True) as monitor:

            def run() -> None:
                try:
                    node.run()
                except Exception:
                    LOG.exception("this cannot go on")
                finally:
                    # Ends the wait below.
                    monitor.cancel()

            # Patroni ends with the thread that started it, and this one goes on until it was stopped.
            keeping = threading.Thread(target=run, daemon=True)
            keeping.start()
            try:
                monitor.wait()
            finally:
                node.end()
                keeping.join()
    return 1


if __name__ == "__main__":
    sys.exit(main())
