"""Keeps the local Redis in its role: the primary, or a replica of the primary, wherever the contract says that is.

    python3 redis_follow.py CONTRACT DIRECTORY --primary TOKEN [--hop PORT]

It writes DIRECTORY/role.conf, which redis.conf includes, and says the same to the Redis that runs. Which member is the primary is for an
operator to say, and never changes by itself: replication is asynchronous, so that another one may lack what was written last.

Redis 7.2 and later call the primary by themselves. Before that, Redis sends no server name: with --hop, this program passes its replication
on, from that port of the loopback.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import logging
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from certificate import write_file
from gateway_name import GatewayName
from sni_hop import Hop

from dstack_p2p import Member, NotAMember, P2PError, Progress, SyncDStackP2PSDK

LOG = logging.getLogger("redis")
#: Seconds between two looks at what Redis is.
LOOK = 1.0
#: What a replica follows while the primary is no member: an address without a Redis, which leaves its data there to be read.
NO_PRIMARY = ("127.0.0.1", 1)


@dataclass(frozen=True)
class Role:
    """What a node's Redis is to be."""

    own: GatewayName
    #: Host and port of the primary; of the primary itself there is none.
    follows: Optional[tuple[str, int]]
    #: Whether it speaks TLS to the primary itself, or the hop does.
    tls: bool = True

    @staticmethod
    def of(own: GatewayName, token: int, members: Sequence[Member], primary: int) -> Role:
        """The role of the member with this token, among these."""
        if token == primary:
            return Role(own, None)
        url = next((member.url for member in members if member.token_id == primary), None)
        return Role(own, NO_PRIMARY if url is None else GatewayName.of(url).address)

    def by(self, hop: Hop) -> Role:
        """The same through a hop, which is given the destination."""
        if self.follows is None or self.follows == NO_PRIMARY:
            hop.lead_to(None)
            return self
        hop.lead_to(self.follows)
        return Role(self.own, hop.address, tls=False)

    def __str__(self) -> str:
        if self.follows is None:
            return "the primary"
        if self.follows == NO_PRIMARY:
            return "a replica without a primary: that one is no member, or has no URL"
        return "a replica of {}:{}".format(*self.follows)

    def conf(self) -> str:
        lines = [f"replica-announce-ip {self.own.host}", f"replica-announce-port {self.own.gateway_port}"]
        lines.append(f"tls-replication {'yes' if self.tls else 'no'}")
        if self.follows is not None:
            lines.append("replicaof {} {}".format(*self.follows))
        return "\n".join(lines) + "\n"


class LocalRedis:
    """The Redis of this node, whether or not it runs at the moment."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._conf = directory / "role.conf"

    def be(self, role: Role) -> None:
        """Sees to it that it has this role, now and at its next start."""
        if not self._conf.exists() or self._conf.read_text() != role.conf():
            write_file(self._conf, role.conf())
        now = self._ask("role")
        if now is None:
            return  # It reads the file when it starts.
        follows = (now[1], int(now[2])) if now[0] == "slave" else None
        if follows == role.follows:
            return
        LOG.info("redis becomes %s", role)
        whom = ("no", "one") if role.follows is None else (role.follows[0], str(role.follows[1]))
        if self._ask("config", "set", "tls-replication", "yes" if role.tls else "no") is not None:
            self._ask("replicaof", *whom)

    def forget_role(self) -> None:
        """From now on it does not start; the one that runs goes on."""
        self._conf.unlink(missing_ok=True)

    def stop(self) -> None:
        """It is not for this node any more."""
        self.forget_role()
        if self._ask("role") is not None:
            LOG.warning("redis is stopped: this node is no member")
            self._ask("shutdown")

    def _ask(self, *words: str) -> Optional[list[str]]:
        """The lines of its answer, or `None` while it does not run or does not answer."""
        command = ["redis-cli", "-e", "-s", "redis.sock", *words]
        try:
            done = subprocess.run(command, cwd=self._directory, capture_output=True, text=True, timeout=30, check=False)
        except subprocess.TimeoutExpired:
            return None
        return done.stdout.splitlines() if done.returncode == 0 else None


class Follower:
    """The agent's list of members, turned into a role."""

    def __init__(self, sdk: SyncDStackP2PSDK, redis: LocalRedis, primary: int, hop: Optional[Hop]) -> None:
        self._sdk = sdk
        self._redis = redis
        self._primary = primary
        self._hop = hop
        #: `None` while this node is no member.
        self._role: Optional[Role] = None

    def run(self) -> None:
        """Until an error is raised."""
        # A node that was shut out while this was not running must not start Redis with what was right then.
        self._redis.forget_role()
        try:
            me = self._sdk.register(timeout=None, progress=self._wait)
        except NotAMember:
            self._redis.stop()
            raise
        self._know(me)
        with self._sdk.monitor_peers(lambda _: self._know(me), include_self=True) as monitor:
            while True:
                # Again and again: Redis may have been restarted or reconfigured.
                if self._role is None:
                    self._redis.stop()
                else:
                    self._redis.be(self._role)
                try:
                    monitor.wait(LOOK)
                except concurrent.futures.TimeoutError:
                    pass

    def _wait(self, step: Progress) -> None:
        """Where an operator has to act, this node is no member."""
        if step.command is not None:
            self._redis.stop()

    def _know(self, me: Member) -> None:
        """Follows the list of members: the first one, and every change."""
        try:
            members = self._sdk.get_members(include_self=True)
        except NotAMember:
            members = []
        if all(member.token_id != me.token_id for member in members):
            self._role = None
            if self._hop is not None:
                self._hop.lead_to(None)
        else:
            assert me.url is not None, "a TLS member that is ready has one"
            role = Role.of(GatewayName.of(me.url), me.token_id, members, self._primary)
            self._role = role if self._hop is None else role.by(self._hop)


def main() -> int:
    parser = argparse.ArgumentParser(description="Keeps the local Redis a primary or a replica, as the cluster's contract has its members.")
    parser.add_argument("contract", help="address of the cluster's contract")
    parser.add_argument("directory", type=Path, help="where Redis runs, and certificate.py has written")
    parser.add_argument("--primary", type=int, required=True, help="token of the member that takes writes, the same on every node")
    parser.add_argument("--hop", type=int, metavar="PORT", help="for Redis before 7.2: a free port of 127.0.0.1")
    parser.add_argument("--socket", help="the p2p-agent's socket; default: where agents put it")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    try:
        with SyncDStackP2PSDK(arguments.contract, "tls", socket=arguments.socket, agent=None) as sdk:
            hop = None if arguments.hop is None else Hop(arguments.hop, arguments.directory)
            Follower(sdk, LocalRedis(arguments.directory), arguments.primary, hop).run()
    except KeyboardInterrupt:
        LOG.info("good bye: redis stays what it is")
    except (P2PError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
