"""etcd on this node of the mesh, as a member of the cluster that the contract's members run.

    python3 member.py CONTRACT --founders 10.0.1.1,10.0.1.2,10.0.1.3 --data-dir /var/lib/mesh-etcd

The same command on every node that is to run etcd, whenever it is started. The founders begin the cluster together, every other node
joins it; a node whose token is revoked is removed from it. It listens on this node's mesh address only: who gets there is a member of
the mesh, and what they say is encrypted on its way, so that etcd itself needs no TLS.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import logging
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Optional

from dstack_p2p import Member as Itself
from dstack_p2p import NoAgent, P2PError, SyncDStackP2PSDK
from etcd_api import EtcdApi, EtcdMember, Refused, client_url, first_members, peer_url
from founding import Founding, write_durably

#: Seconds between two looks at the cluster when nothing changes.
PERIOD = 1.0
#: Seconds for etcd to end in order.
STOP = 20.0
#: Longer than etcd's own: a path of the mesh that fails is replaced within seconds, and that is no reason to elect.
TIMING = ["--heartbeat-interval", "500", "--election-timeout", "5000"]
LOG = logging.getLogger("etcd-member")


class Member:
    """This node's etcd, and what is due in its cluster."""

    def __init__(self, contract: str, founders: list[str], address: str, place: Path) -> None:
        self.address = address
        self.founding = Founding(contract, founders, address, place / "founding.json")
        self._data = place / "etcd"
        self._seen = _Seen(place / "seen.json")
        self._changed = threading.Condition()
        #: The contract's members, with this one; `None`: not known yet. Empty: this node was revoked.
        self._listed: Optional[list[str]] = None
        self._is_ending = False
        self._etcd: Optional[subprocess.Popen[bytes]] = None
        self._said = ""

    def know(self, addresses: list[str]) -> None:
        """The SDK calls this with the first list and at every change."""
        LOG.info("the contract lists: %s", ", ".join(addresses) or "no member that this node may reach")
        with self._changed:
            self._listed = addresses
            self._changed.notify_all()

    def run(self) -> None:
        """Sees to what is due, until `end`."""
        try:
            while not self._is_ending:
                with self._changed:
                    listed = self._listed
                if listed is not None:
                    self._see_to_it(listed)
                with self._changed:
                    if self._listed is listed and not self._is_ending:
                        self._changed.wait(PERIOD)
        finally:
            self._stop()

    def end(self) -> None:
        with self._changed:
            self._is_ending = True
            self._changed.notify_all()

    def _see_to_it(self, listed: list[str]) -> None:
        try:
            if self.address not in listed:
                self._say("this node's membership is gone: no etcd here until it is back")
                self._stop()
            elif self._etcd is None or self._etcd.poll() is not None:
                if self._etcd is not None:
                    LOG.warning("etcd ended with exit code %s", self._etcd.returncode)
                    self._etcd = None
                self._start([address for address in listed if address != self.address])
            else:
                self._tend(listed)
        except (Refused, OSError) as error:
            # Nor does it end when there is no room on the disk, or for another process: that may pass.
            self._say(f"to be tried again: {error}")

    def _start(self, others: list[str]) -> None:
        """Starts etcd, if it is known as what."""
        # With a log it is a member, or was one. Without, etcd was never started for good: it writes the log all at once.
        if any(self._data.glob("member/wal/*.wal")):
            cluster = first_members(others)
            if cluster is None or self._own(cluster[1]) is not None:
                return self._spawn(["--initial-cluster-state", "existing"])
            # It was revoked, and is back. A member that was removed never is one again; its data is a copy of the others'.
            LOG.warning("the cluster has removed this member: joining it anew, the old data stay in %s.old", self._data)
            self.founding.joined()
            old = self._data.with_name("etcd.old")
            shutil.rmtree(old, ignore_errors=True)
            self._data.rename(old)
        if self.founding.is_to_found(others):
            founders = self.founding.record.founders
            return self._spawn(["--initial-cluster-state", "new", *self._cluster(founders, self.founding.cluster_token())])
        self._join(others)

    def _join(self, others: list[str]) -> None:
        """Joins without a vote, so that no member has to wait for this node as long as it does not have the data; see `_tend`."""
        cluster = first_members(others)
        if cluster is None:
            return self._say("there is no cluster to join yet: no member of the mesh runs an etcd that has a majority")
        api, members = cluster
        self.founding.joined()
        former = self._own(members)
        if former is not None:
            # Of a try that did not come to its end, or of a disk that was lost: what it had acknowledged, it does not have any more.
            LOG.warning("this node is a member without its data: replacing it by a new one")
            api.remove(former)
        members = api.add_learner(self.address)
        self._spawn(["--initial-cluster-state", "existing", *self._cluster([member.address for member in members], "-")])

    def _tend(self, listed: list[str]) -> None:
        """What is due while etcd runs. Any member may do it, and several at a time: each step is one that can be done once."""
        asked = [self.address, *(address for address in listed if address != self.address)]
        # A change of the contract, or the end, does not wait for nodes that do not answer.
        cluster = first_members(address for address in asked if self._listed is listed and not self._is_ending)
        if cluster is None:
            return self._say("no etcd has a majority at the moment")
        api, members = cluster
        own = self._own(members)
        if own is not None and own.is_learner:
            api.promote(own)
            LOG.info("this node has the data, and a vote now")
        # Only members that the contract no longer lists are removed: not those that are down, nor those that are not listed yet.
        self._seen.add({member.id for member in members if member.address in listed})
        for member in members:
            if member.address not in listed and member.id in self._seen.ids:
                api.remove(member)
                LOG.info("%s is not listed any more: removed from etcd", member.address)
        self._seen.keep({member.id for member in members})
        self._say("member of an etcd of " + ", ".join(sorted(member.address for member in members)))

    def _own(self, members: list[EtcdMember]) -> Optional[EtcdMember]:
        return next((member for member in members if member.address == self.address), None)

    def _cluster(self, addresses: list[str], token: str) -> list[str]:
        members = ",".join(f"{address}={peer_url(address)}" for address in addresses)
        return ["--initial-cluster", members, "--initial-cluster-token", token]

    def _spawn(self, how: list[str]) -> None:
        own = client_url(self.address), peer_url(self.address)
        where = ["--listen-client-urls", own[0], "--advertise-client-urls", own[0]]
        where += ["--listen-peer-urls", own[1], "--initial-advertise-peer-urls", own[1]]
        keep = ["--auto-compaction-mode", "periodic", "--auto-compaction-retention", "1h"]
        log = ["--logger", "zap", "--log-outputs", "stderr"]
        # An etcd without this program would go on after a revocation: it ends with this program, whatever ends that.
        tied = ["setpriv", "--pdeathsig", "KILL", "etcd"]
        name = ["--name", self.address, "--data-dir", str(self._data)]
        self._etcd = subprocess.Popen([*tied, *name, *where, *TIMING, *keep, *log, *how], stdin=subprocess.DEVNULL)

    def _stop(self) -> None:
        if self._etcd is None:
            return
        self._etcd.terminate()
        try:
            self._etcd.wait(STOP)
        except subprocess.TimeoutExpired:
            self._etcd.kill()
            self._etcd.wait()
        self._etcd = None

    def _say(self, what: str) -> None:
        if what != self._said:
            self._said = what
            LOG.info("%s", what)


class _Seen:
    """The etcd members that were once listed by the contract, over restarts. By id: a node that comes back is another member."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.ids: frozenset[int] = frozenset(json.loads(path.read_bytes())) if path.exists() else frozenset()

    def add(self, ids: set[int]) -> None:
        self._write(self.ids | ids)

    def keep(self, ids: set[int]) -> None:
        self._write(self.ids & ids)

    def _write(self, ids: frozenset[int]) -> None:
        if ids != self.ids:
            write_durably(self._path, json.dumps(sorted(ids)).encode())
            self.ids = ids


def addresses(text: str) -> list[str]:
    """Reads `10.0.1.1,10.0.1.2,10.0.1.3`."""
    try:
        found = sorted({str(ipaddress.IPv4Address(part.strip())) for part in text.split(",")})
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}: give the founders' mesh addresses, with commas between them") from None
    if len(found) < 2:
        raise argparse.ArgumentTypeError("give two founders at least, better three: one alone cannot tell a lost disk from a first start")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs etcd on this node of a dstack mesh.")
    parser.add_argument("contract", help="address of the cluster's contract")
    parser.add_argument(
        "--founders", type=addresses, required=True, help="who begins the cluster, the same on every node: 10.0.1.1,10.0.1.2,10.0.1.3"
    )
    parser.add_argument("--data-dir", type=Path, default=Path("/var/lib/mesh-etcd"), help="default: /var/lib/mesh-etcd")
    parser.add_argument("--socket", help="the agent's socket; default: where agents put it")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if shutil.which("etcd") is None:
        parser.error("etcd is not installed: apt-get install etcd-server")
    # An orderly end on either signal, however this was started: a shell lets its background jobs ignore SIGINT.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, interrupt_once)
    try:
        return serve(arguments.contract, arguments.founders, arguments.data_dir, arguments.socket)
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


def register(sdk: SyncDStackP2PSDK) -> Itself:
    """Others start this node's agent: it may be there later than this program."""
    said = ""
    while True:
        try:
            return sdk.register(timeout=None)
        except NoAgent as error:
            if str(error) != said:
                said = str(error)
                LOG.warning("to be tried again: %s", said)
        time.sleep(PERIOD)


def serve(contract: str, founders: list[str], place: Path, socket: Optional[str]) -> int:
    """Until it is interrupted, or fails."""
    with SyncDStackP2PSDK(contract, "wireguard", socket=socket) as sdk:
        me = register(sdk)
        assert me.address is not None, "a WireGuard member that is ready has one"
        member = Member(contract, founders, me.address, place)
        with member.founding.serve() as server, sdk.monitor_peers(member.know, include_self=True) as monitor:
            threading.Thread(target=server.serve_forever, daemon=True).start()

            def run() -> None:
                try:
                    member.run()
                except Exception:
                    LOG.exception("this cannot go on")
                finally:
                    # Ends the wait below.
                    monitor.cancel()

            # etcd ends with the thread that started it, and this one goes on until it was stopped.
            tending = threading.Thread(target=run, daemon=True)
            tending.start()
            try:
                monitor.wait()
            finally:
                member.end()
                tending.join()
                server.shutdown()
    return 1


if __name__ == "__main__":
    sys.exit(main())
