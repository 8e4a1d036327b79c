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
from pathlib import Path
from typing import Optional

from configuration import Place, end_of_others, patroni_yml
from dstack_p2p import Member, P2PError, SyncDStackP2PSDK
from passwords import Passwords

#: Seconds until a Patroni that ended is started again.
PAUSE = 1.0
#: Seconds for a query on this node.
QUERY = 10.0
#: Seconds for PostgreSQL to end in order.
STOP = 40.0
LOG = logging.getLogger("postgres-node")


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
        #: The contract's members, with this one; `None`: not told yet. Empty: this node was revoked.
        self._listed: Optional[list[str]] = None
        self._is_ending = False
        self._patroni: Optional[subprocess.Popen[bytes]] = None
        place.base.mkdir(mode=0o755, parents=True, exist_ok=True)
        for directory in (place.data, place.run):
            directory.mkdir(mode=0o700, exist_ok=True)
            os.chown(directory, self._account.pw_uid, self._account.pw_gid, follow_symlinks=False)

    def know(self, addresses: list[str]) -> None:
        """The SDK calls this with the first list and at every change."""
        LOG.info("the contract lists: %s", ", ".join(addresses) or "nobody whom this node may reach")
        with self._changed:
            self._listed = addresses
            self._changed.notify_all()

    def run(self) -> None:
        """Keeps Patroni running, and tells it who may connect, until `end`."""
        told: Optional[list[str]] = None
        try:
            while True:
                with self._changed:
                    while self._listed == told and self._is_well() and not self._is_ending:
                        self._changed.wait(PAUSE)
                    if self._is_ending:
                        return
                    told = self._listed
                if told is not None:
                    self._tell(told)
                with self._changed:
                    # One that cannot start is not started again at once.
                    if self._listed == told and not self._is_well() and not self._is_ending:
                        self._changed.wait(PAUSE)
        finally:
            self._stop()

    def end(self) -> None:
        with self._changed:
            self._is_ending = True
            self._changed.notify_all()

    def _is_well(self) -> bool:
        """Patroni runs, if it is to run."""
        return not self._listed or (self._patroni is not None and self._patroni.poll() is None)

    def _tell(self, listed: list[str]) -> None:
        if self._address not in listed:
            LOG.warning("this node's membership is gone: no database here until it is back")
            return self._stop()
        self._write(patroni_yml(self._name, self._address, listed, self._place, self._passwords))
        if self._patroni is None or self._patroni.poll() is not None:
            if self._patroni is not None:
                LOG.warning("patroni ended with exit code %s", self._patroni.returncode)
            # It ends with this program, whatever ends that, and PostgreSQL with it.
            tied = ["setpriv", "--pdeathsig", "TERM", "patroni", str(self._place.config)]
            self._patroni = subprocess.Popen(self._as_user(tied), stdin=subprocess.DEVNULL, cwd=self._place.base)
        else:
            # Patroni reads its configuration again, and PostgreSQL who may connect.
            self._patroni.send_signal(signal.SIGHUP)
            self._end_others(listed)

    def _end_others(self, listed: list[str]) -> None:
        psql = [str(self._place.bin_dir / "psql"), "-XAtq", "-w", "-h", str(self._place.run), "-U", self._place.user, "-d", "postgres"]
        try:
            done = subprocess.run(
                self._as_user([*psql, "-c", end_of_others(listed)]),
                stdin=subprocess.DEVNULL, capture_output=True, cwd=self._place.base, timeout=QUERY, check=False,
            )
        except subprocess.TimeoutExpired:
            LOG.warning("PostgreSQL does not answer: connections of nodes that were revoked end by their time-outs")
            return
        if done.returncode != 0:
            # It starts, or stops: then there are none.
            LOG.info("no connections are ended: %s", done.stderr.decode(errors="replace").strip())

    def _write(self, config: bytes) -> None:
        """For that user's eyes only: it contains passwords."""
        new = self._place.config.with_suffix(".new")
        new.unlink(missing_ok=True)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            os.fchown(file.fileno(), self._account.pw_uid, self._account.pw_gid)
            file.write(config)
        new.rename(self._place.config)

    def _stop(self) -> None:
        if self._patroni is None:
            return
        self._patroni.terminate()
        try:
            self._patroni.wait(STOP)
        except subprocess.TimeoutExpired:
            self._patroni.kill()
            self._patroni.wait()
        self._patroni = None
        # Patroni has stopped PostgreSQL, unless it was killed.
        ends = [str(self._place.bin_dir / "pg_ctl"), "stop", "--mode", "immediate", "--silent", "--pgdata", str(self._place.data)]
        subprocess.run(self._as_user(ends), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self._place.base, check=False)

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
    # An orderly end, whoever asks for it, and however this was started: a shell lets its background jobs ignore SIGINT.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, interrupt_once)
    try:
        base = arguments.data_dir.absolute()
        place = Place(base, postgres_programs(base / "data"), arguments.user)
        return serve(arguments.contract, place, arguments.socket, arguments.dstack_socket)
    except KeyboardInterrupt:
        return 0
    except (P2PError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def interrupt_once(number: int, frame: object) -> None:
    """Whoever asks again does not interrupt the orderly end."""
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def serve(contract: str, place: Place, socket: Optional[str], dstack_socket: str) -> int:
    """Until it is interrupted, or fails."""
    with SyncDStackP2PSDK(contract, "wireguard", socket=socket) as sdk:
        node = Node(sdk.register(timeout=None), place, Passwords(dstack_socket, contract))
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
