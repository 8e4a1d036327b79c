"""hello-p2p: a node that greets every other node of its cluster, over the mesh.

    python3 hello.py CONTRACT [--port 8080]

It serves, on its mesh address: `/info` (itself, whom it greeted and by whom it was greeted), `/peers` (the others) and `/hello`.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import threading
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Optional

from dstack_p2p import Member, SyncDStackP2PSDK

#: Seconds between two attempts to greet peers that did not answer.
RETRY = 1.0
#: Members are reached through the mesh, whatever proxy the environment names for everything else.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
LOG = logging.getLogger("hello")


class Node:
    """This node, and what it knows of the others."""

    def __init__(self, contract: str, me: Member, port: int) -> None:
        self.contract = contract
        self.me = me
        self.port = port
        self._changed = threading.Condition()
        self._peers: list[str] = []
        #: By address: what they answered to our hello.
        self._answers: dict[str, str] = {}
        #: Whose hello came here.
        self._heard: set[str] = set()

    def know(self, peers: list[str]) -> None:
        """The SDK calls this with the first list and at every change."""
        LOG.info("peers: %s", ", ".join(peers) or "none")
        with self._changed:
            self._peers = peers
            # A peer that left and comes back is greeted again.
            self._answers = {peer: answer for peer, answer in self._answers.items() if peer in peers}
            self._changed.notify_all()

    def hello_to(self, peer: str) -> str:
        """Answers a hello. WireGuard lets no other node use that address: it is the peer."""
        with self._changed:
            self._heard.add(peer)
        return f"hello {peer}, this is {self.me.name}"

    def info(self) -> dict[str, object]:
        with self._changed:
            return {
                "name": self.me.name,
                "token": self.me.token_id,
                "address": self.me.address,
                "contract": self.contract,
                "answers": dict(sorted(self._answers.items())),
                "heard_from": sorted(self._heard),
            }

    def peers(self) -> list[str]:
        with self._changed:
            return list(self._peers)

    def greet_forever(self) -> None:
        """Says hello to every peer that has not answered yet, again and again."""
        while True:
            with self._changed:
                waiting = [peer for peer in self._peers if peer not in self._answers]
                if not waiting:
                    self._changed.wait()
                    continue
            for peer in waiting:
                answer = self._greet(peer)
                with self._changed:
                    if answer is not None and peer in self._peers:
                        self._answers[peer] = answer
            with self._changed:
                if any(peer not in self._answers for peer in self._peers):
                    self._changed.wait(RETRY)

    def _greet(self, peer: str) -> Optional[str]:
        try:
            with DIRECT.open(f"http://{peer}:{self.port}/hello", timeout=5) as response:
                answer = str(json.load(response)["hello"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            LOG.info("%s does not answer yet: %s", peer, error)
            return None
        LOG.info("%s answers: %s", peer, answer)
        return answer


def handler(node: Node) -> type[BaseHTTPRequestHandler]:
    """The three paths of a node."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answers: dict[str, Callable[[], object]] = {
                "/info": node.info,
                "/peers": node.peers,
                "/hello": lambda: {"hello": node.hello_to(str(self.client_address[0]))},
            }
            answer = answers.get(self.path)
            body = json.dumps(answer() if answer else {"error": "there are /info, /peers and /hello"}).encode() + b"\n"
            self.send_response(200 if answer else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            LOG.debug(format, *arguments)

    return Handler


def main() -> None:
    parser = argparse.ArgumentParser(description="Greets every other node of a dstack mesh.")
    parser.add_argument("contract", help="address of the cluster's contract")
    parser.add_argument("--port", type=int, default=8080, help="the same on every node; default: 8080")
    parser.add_argument("--socket", help="the agent's socket; default: where agents put it")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    # An orderly end on either signal, however this was started: a shell lets its background jobs ignore SIGINT.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)

    with SyncDStackP2PSDK(arguments.contract, "wireguard", socket=arguments.socket) as sdk:
        me = sdk.register()
        assert me.address is not None, "a WireGuard member that is ready has one"
        node = Node(arguments.contract, me, arguments.port)
        server = ThreadingHTTPServer((me.address, arguments.port), handler(node))
        server.daemon_threads = True
        threading.Thread(target=node.greet_forever, daemon=True).start()
        LOG.info("%s serves http://%s:%d/info", me.name, me.address, arguments.port)
        with sdk.monitor_peers(node.know), server:
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                LOG.info("good bye")


if __name__ == "__main__":
    main()
