"""A program that is started as `p2p-agent` is: it writes down what it was given, and serves a fake agent.

Its environment says how it behaves (`P2P_TEST_…`, which the SDK passes on as it does every `P2P_` variable).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path

from fake_agent import FakeAgent, peer, peers, status


def main() -> int:
    arguments = sys.argv[1:]
    socket = arguments[arguments.index("--socket") + 1]
    config = arguments[arguments.index("--config") + 1] if "--config" in arguments else None
    given = {
        "pid": os.getpid(),
        "arguments": arguments,
        "environment": dict(os.environ),
        "config": None if config is None else Path(config).read_text(),
        "session": os.getsid(0),
    }
    written = Path(socket + ".given")
    written.with_suffix(".part").write_text(json.dumps(given))
    written.with_suffix(".part").rename(written)
    complaint = os.environ.get("P2P_TEST_FAILS_WITH")
    if complaint is not None:
        print("starting", flush=True)
        print(f"error: {complaint}", file=sys.stderr)
        return 1
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with FakeAgent(socket, status(), peers(peer(2))):
        ended.wait()
    print("stopped in order", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
