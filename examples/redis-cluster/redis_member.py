"""A node of a Redis Cluster whose nodes are the members of a dstack mesh.

    python3 redis_member.py CONTRACT [--masters 3] [--data-dir DIR] [--port 6379]

The same on every node. It runs `redis-server` on this node's mesh address, and ends it with itself; the cluster is founded when enough of
them are there, and nodes that are minted later join it. `monitor_peers` says who belongs to it: redis_cluster.py makes Redis do so.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Optional

from dstack_p2p import DStackP2PSDK, P2PError
from redis_cluster import Cluster
from redis_view import NoRedis, Refused

#: Seconds between two looks at the cluster.
PAUSE = 1.0
#: Seconds for Redis to end in order: it gives its replicas ten to have all that it has.
STOP = 30.0
LOG = logging.getLogger("redis_member")

#: Every member of the mesh may use it, and no other node reaches it: the address is proof of who asks. Hence no password, and
#: `protected-mode no`, which is for a Redis that listens to strangers. The append-only file has every write.
CONFIG = """\
bind {address}
bind-source-addr {address}
port {port}
protected-mode no
save ""
appendonly yes
cluster-enabled yes
cluster-config-file nodes.conf
cluster-announce-ip {address}
cluster-node-timeout 5000
"""


class Server:
    """`redis-server` as a child."""

    def __init__(self, address: str, port: int, data_dir: Path) -> None:
        self._config = CONFIG.format(address=address, port=port)
        #: Also where Redis is started, and hence has its files.
        self._data_dir = data_dir
        self._process: Optional[asyncio.subprocess.Process] = None

    @property
    def pid(self) -> int:
        """Raises `RuntimeError` where it was not started."""
        if self._process is None:
            raise RuntimeError("redis-server does not run")
        return self._process.pid

    async def start(self) -> bool:
        """Starts it if it does not run; returns whether it had to."""
        if self._process is not None:
            if self._process.returncode is None:
                return False
            LOG.error("redis-server ended with code %d, see above: starts it again", self._process.returncode)
        Path(self._data_dir, "redis.conf").write_text(self._config)
        self._process = await asyncio.create_subprocess_exec(
            # It ends with this program, whatever ends that: its successor needs the port and the data. What it has acknowledged
            # is written, and stays.
            *("setpriv", "--pdeathsig", "KILL", "redis-server", "redis.conf"),
            stdin=asyncio.subprocess.DEVNULL,
            cwd=self._data_dir,
            # Ctrl-C is for this program, which ends Redis in order.
            start_new_session=True,
        )
        return True

    async def stop(self) -> None:
        if self._process is None:
            return
        ended = asyncio.ensure_future(self._process.wait())
        deadline = time.monotonic() + STOP
        while self._process.returncode is None and time.monotonic() < deadline:
            # Again and again: a replica that is writing its first data to the disk does not hear it.
            self._process.terminate()
            await asyncio.wait([ended], timeout=1.0)
        if self._process.returncode is None:
            LOG.error("redis-server did not end within %g s, and is killed", STOP)
            self._process.kill()
        await ended
        self._process = None


class Member:
    """This node: its Redis runs while the contract lists it."""

    def __init__(self, address: str, server: Server, cluster: Cluster) -> None:
        self.address = address
        self.server = server
        self.cluster = cluster
        #: The SDK's last list.
        self._members: Optional[list[str]] = None

    def know(self, members: list[str]) -> None:
        """The SDK calls this with the first list and at every change; it is empty when this node is not a member any more."""
        self._members = members

    async def keep(self) -> None:
        """Runs Redis and does its part in the cluster, until it is cancelled."""
        told = ""
        try:
            while True:
                if self._members is not None and self.address not in self._members:
                    await self.server.stop()
                elif self._members is not None and not await self.server.start():
                    try:
                        await self.cluster.tend(self._members)
                        told = ""
                    except (Refused, NoRedis, OSError) as error:
                        if str(error) != told:
                            told = str(error)
                            LOG.info("not now: %s", told)
                await asyncio.sleep(PAUSE)
        finally:
            await self.server.stop()


async def run(arguments: argparse.Namespace) -> None:
    async with DStackP2PSDK(arguments.contract, "wireguard", socket=arguments.socket) as sdk:
        me = await sdk.register(timeout=None)
        assert me.address is not None, "a WireGuard member that is ready has one"
        data_dir = Path(arguments.data_dir).absolute()
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        server = Server(me.address, arguments.port, data_dir)
        cluster = Cluster(me.address, arguments.port, arguments.masters, data_dir / "founding", arguments.role == "replica")
        member = Member(me.address, server, cluster)
        LOG.info("%s is %s", me.name, me.address)
        keeping = asyncio.ensure_future(member.keep())
        monitor = asyncio.ensure_future(sdk.monitor_peers(member.know, include_self=True))
        try:
            await asyncio.wait([keeping, monitor], return_when=asyncio.FIRST_COMPLETED)
        finally:
            keeping.cancel()
            monitor.cancel()
            ends = await asyncio.gather(keeping, monitor, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception):
                raise end


async def run_until_told(arguments: argparse.Namespace) -> None:
    """An orderly end on either signal."""
    running = asyncio.ensure_future(run(arguments))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    try:
        await running
    except asyncio.CancelledError:
        LOG.info("good bye")


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs a node of a Redis Cluster on a dstack mesh.")
    parser.add_argument("contract", help="address of the mesh's contract")
    parser.add_argument("--masters", type=int, default=3, help="with how many the cluster is founded, 3 or more; default: 3")
    parser.add_argument(
        "--role",
        choices=("replica", "master"),
        default="replica",
        help="what this node becomes when the masters are there: a replica, or a master for which an operator moves slots",
    )
    parser.add_argument("--data-dir", default="/var/lib/redis-cluster", help="default: /var/lib/redis-cluster")
    parser.add_argument("--port", type=int, default=6379, help="the same on every node; 10000 more is used, too; default: 6379")
    parser.add_argument("--socket", help="the agent's socket; default: where agents put it")
    arguments = parser.parse_args()
    if shutil.which("redis-server") is None:
        parser.error("there is no redis-server: apt-get install redis-server")
    if not 3 <= arguments.masters <= 1000:
        parser.error("--masters: fewer than 3 cannot elect a master, and Redis Cluster takes at most 1000")
    if not 1 <= arguments.port <= 55535:
        parser.error("--port: 1 to 55535, because the cluster bus uses the one 10000 above")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        asyncio.run(run_until_told(arguments))
    except (P2PError, OSError) as error:
        LOG.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
