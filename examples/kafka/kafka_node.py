"""Kafka on this node of the mesh: a broker whose id is its token.

    python3 kafka_node.py CONTRACT --controllers 1,2,3 --data-dir /var/lib/mesh-kafka

The same command on every node that is to run Kafka, whenever it is started. The tokens of the controllers are an operator's choice, the
same on every node. Every other member is a broker alone: one that joins changes nothing on the others. A node whose token is revoked
stops its Kafka. It listens on this node's mesh address only, so that Kafka itself needs no TLS. In the data directory it writes:

    server.properties    for Kafka
    client.properties    for clients on this node: `bootstrap.servers`, again at every change of the members
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from dstack_p2p import Member, NotAMember, P2PError, SyncDStackP2PSDK
from kafka_properties import client_properties, cluster_id, server_properties

#: Seconds between two looks at Kafka, and until one that ended is started again.
PERIOD = 1.0
#: Seconds for Kafka to hand over what it leads, and end.
STOP = 60.0
#: Seconds for `kafka-storage.sh format`, which starts a Java and writes a few files.
FORMAT_WITHIN = 60.0
#: Seconds for an agent to be restarted.
AGENT_WITHIN = 120.0
LOG = logging.getLogger("kafka-node")


class KafkaNode:
    """This node's Kafka: running while the contract lists this node, once it has listed every controller."""

    def __init__(self, contract: str, token: int, controllers: Sequence[int], directory: Path) -> None:
        self._contract = contract
        self._token = token
        self._controllers = controllers
        self._directory = directory
        self._changed = threading.Condition()
        #: The members' addresses by token, with this node's; `None`: not known yet.
        self._members: Optional[dict[int, str]] = None
        self._is_ending = False
        self._kafka: Optional[subprocess.Popen[bytes]] = None
        self._said = ""

    def know(self, members: Sequence[Member]) -> None:
        """The members as they are now, this node among them unless it was revoked."""
        with self._changed:
            self._members = {member.token_id: member.address for member in members if member.address is not None}
            self._changed.notify_all()

    def end(self) -> None:
        with self._changed:
            self._is_ending = True
            self._changed.notify_all()

    def run(self) -> None:
        """Sees to what is due, until `end`. Raises `OSError` when a file cannot be written, or a program not be run."""
        done: Optional[dict[int, str]] = None
        try:
            while True:
                with self._changed:
                    if self._members is done and not self._is_ending:
                        self._changed.wait(PERIOD)
                    members, is_ending = self._members, self._is_ending
                if is_ending:
                    return
                if members is not None:
                    self._see_to_it(members, is_news=members is not done)
                done = members
        finally:
            self._stop()

    def _see_to_it(self, members: dict[int, str], *, is_news: bool) -> None:
        if is_news:
            _write(self._directory / "client.properties", client_properties(members))
        if self._token not in members:
            self._say("this node's membership is gone: no Kafka here until it is back")
            return self._stop()
        if self._kafka is not None and self._kafka.poll() is None:
            return
        if self._kafka is not None:
            LOG.warning("Kafka ended with exit code %s: starting it again", self._kafka.returncode)
            self._kafka = None
        # Its address is in the file of every node: a controller that left since is still one of the quorum, and may come back.
        missing = sorted(set(self._controllers) - set(members))
        if missing and not (self._directory / "server.properties").exists():
            return self._say(f"waiting for the controllers with tokens {', '.join(map(str, missing))}")
        if not missing:
            _write(self._directory / "server.properties", self._properties(members))
        self._start()

    def _properties(self, members: dict[int, str]) -> str:
        return server_properties(self._token, members, self._controllers, self._directory / "log")

    def _start(self) -> None:
        """Formats what is not formatted yet, and starts Kafka."""
        properties = str(self._directory / "server.properties")
        of_cluster = ["--cluster-id", cluster_id(self._contract), "--ignore-formatted"]
        command = ["kafka-storage.sh", "format", *of_cluster, "--config", properties]
        try:
            formatted = subprocess.run(command, stdin=subprocess.DEVNULL, timeout=FORMAT_WITHIN)
        except subprocess.TimeoutExpired:
            return self._say(f"kafka-storage.sh takes longer than {FORMAT_WITHIN} s and was ended: to be tried again")
        if formatted.returncode != 0:
            return self._say("kafka-storage.sh refuses, for the reason above: to be tried again")
        # A Kafka without this program would go on after a revocation: it ends with this program, whatever ends that.
        tied = ["setpriv", "--pdeathsig", "KILL", "kafka-server-start.sh"]
        self._kafka = subprocess.Popen([*tied, properties], stdin=subprocess.DEVNULL)
        self._say(f"Kafka runs here as node {self._token}")

    def _stop(self) -> None:
        kafka, self._kafka = self._kafka, None
        if kafka is None:
            return
        kafka.terminate()
        try:
            kafka.wait(STOP)
        except subprocess.TimeoutExpired:
            LOG.warning("Kafka does not end in order: killing it")
            kafka.kill()
            kafka.wait()

    def _say(self, what: str) -> None:
        if what != self._said:
            self._said = what
            LOG.info("%s", what)


def _write(path: Path, text: str) -> None:
    """The old text or the new one, whatever happens."""
    part = path.with_suffix(".part")
    part.write_text(text)
    os.replace(part, path)


def tokens(text: str) -> list[int]:
    """Reads `1,2,3`."""
    try:
        found = sorted(int(part) for part in text.split(","))
    except ValueError:
        found = []
    if not found or found[0] < 1 or len(set(found)) != len(found) or len(found) not in (1, 3, 5):
        raise argparse.ArgumentTypeError("give the tokens of one, three or five controllers, with commas between them")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs Kafka on this node of a dstack mesh.")
    parser.add_argument("contract", help="address of the cluster's contract")
    parser.add_argument("--controllers", type=tokens, required=True, help="tokens of the controllers, the same on every node: 1,2,3")
    parser.add_argument("--data-dir", type=Path, default=Path("/var/lib/mesh-kafka"), help="default: /var/lib/mesh-kafka")
    parser.add_argument("--socket", help="the agent's socket; default: where agents put it")
    arguments = parser.parse_args()
    directory: Path = arguments.data_dir
    if not directory.is_absolute() or not str(directory).isprintable() or set(str(directory)) & set("\\,"):
        parser.error("--data-dir must be an absolute path without backslash and comma: Kafka reads it from server.properties")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    for program in ("kafka-storage.sh", "kafka-server-start.sh"):
        if shutil.which(program) is None:
            parser.error(f"{program} is not in the PATH: get Apache Kafka 3.5 or later, and add its bin directory")
    # An orderly end on either signal, however this was started: a shell lets its background jobs ignore SIGINT.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, interrupt_once)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return serve(arguments.contract, arguments.controllers, directory, arguments.socket)
    except KeyboardInterrupt:
        return 0
    except (P2PError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def interrupt_once(number: int, frame: object) -> None:
    """A second signal does not interrupt the orderly end."""
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def serve(contract: str, controllers: Sequence[int], directory: Path, socket: Optional[str]) -> int:
    """Until it is interrupted, or fails."""
    with SyncDStackP2PSDK(contract, "wireguard", socket=socket) as sdk:
        node = KafkaNode(contract, sdk.register(timeout=None).token_id, controllers, directory)

        def know(addresses: list[str]) -> None:
            try:
                # The tokens of these addresses. An agent that restarts has them as before.
                node.know(sdk.get_members(include_self=True, timeout=AGENT_WITHIN) if addresses else [])
            except NotAMember as error:
                LOG.warning("%s", error.message)
                node.know([])

        with sdk.monitor_peers(know, include_self=True) as monitor:

            def run() -> None:
                try:
                    node.run()
                except Exception:
                    LOG.exception("this cannot go on")
                finally:
                    # Ends the wait below.
                    monitor.cancel()

            # Kafka ends with the thread that started it, and this one goes on until it was stopped.
            running = threading.Thread(target=run, daemon=True)
            running.start()
            try:
                monitor.wait()
            finally:
                node.end()
                running.join()
    return 1


if __name__ == "__main__":
    sys.exit(main())
