"""Which cluster this node belongs to: who founds it, and why there is never a second one.

Every founder with an empty disk draws a number. The cluster is founded with the numbers of all founders: each asks the others for
theirs, writes down all of them, and only then starts its etcd. So

- a founder that comes late, or dies on the way, finds its own number in what another one wrote down, and founds the same cluster;
- a founder that lost its disk has another number: it finds that it had no part in the founding, and joins as every other node does;
- of two foundings no two can have a majority: each founder writes down one. A disk that is lost within these seconds may leave a founder
  with the one that has none, which elects no leader: delete its data directory, and it joins.

If all founders lost their disks and no other member is reached, no node can say that there was a cluster: it would be founded again.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import os
import re
import secrets
import urllib.error
import urllib.request
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Optional

#: Where each node serves what it wrote down, on its mesh address.
PORT = 2378
_PATIENCE = 3.0
_LONGEST = 1 << 16
_NUMBER = re.compile(r"[0-9a-f]{32}")
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
LOG = logging.getLogger("etcd-member")


@dataclass(frozen=True)
class Record:
    """What a node wrote down."""

    contract: str
    #: All founders, as its operator gave them, sorted.
    founders: list[str]
    #: Its own number.
    number: str
    #: The numbers of all founders, by address, once they are known. Empty: it joined a cluster without being one of them.
    founding: Optional[dict[str, str]]

    @staticmethod
    def of(fields: Any) -> Record:
        """Raises `ValueError` for what is none."""
        try:
            contract, founders = str(fields["contract"]), [str(address) for address in fields["founders"]]
            number, founding = str(fields["number"]), fields["founding"]
            if founding is not None:
                founding = {str(address): str(drawn) for address, drawn in founding.items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no record of a founding: {error!r}") from None
        if not all(_NUMBER.fullmatch(drawn) for drawn in (number, *(founding or {}).values())):
            raise ValueError("no record of a founding: a number is none")
        if founding and sorted(founding) != sorted(founders):
            raise ValueError("no record of a founding: it is not the founders'")
        return Record(contract, founders, number, founding)

    def json(self) -> bytes:
        return json.dumps(vars(self)).encode() + b"\n"


class Founding:
    """This node's record, on its disk and served to the others."""

    def __init__(self, contract: str, founders: list[str], address: str, path: Path) -> None:
        """Raises `ValueError` when the directory is another cluster's."""
        self._address = address
        self._path = path
        self._said = ""
        record = Record(contract.lower(), founders, secrets.token_hex(16), None)
        if path.exists():
            found = Record.of(json.loads(path.read_bytes()))
            if found.contract != record.contract:
                raise ValueError(f"{path.parent} is for the cluster {found.contract}: choose another --data-dir")
            # Operators may change their mind as long as nothing was founded: with a new number, since others have seen the old one.
            if found.founding is not None or found.founders == founders:
                record = found
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._write(record)

    def has_part(self) -> bool:
        """This node is one of those that found the cluster, or founded it."""
        return (self.record.founding or {}).get(self._address) == self.record.number

    def cluster_token(self) -> str:
        """Members with another token do not speak with each other."""
        drawn = json.dumps(self.record.founding, sort_keys=True)
        return hashlib.sha256(f"{self.record.contract} {drawn}".encode()).hexdigest()

    def joined(self) -> None:
        """To be called before this node adds itself to a cluster."""
        if self.record.founding is None or self.has_part():
            self._write(replace(self.record, founding={}))

    def is_to_found(self, listed: list[str]) -> bool:
        """Whether this node, without data, has a part in the founding; `False` while that is not known, and where it has to join."""
        if self.record.founding is not None:
            return self.has_part()
        if self._address not in self.record.founders:
            return False
        known = {address: other for address in listed if address != self._address and (other := self._ask(address)) is not None}
        founded = {address: other for address, other in known.items() if other.founding is not None}
        for other in founded.values():
            if other.founders == self.record.founders and (other.founding or {}).get(self._address) == self.record.number:
                self._write(replace(self.record, founding=other.founding))
                return True
        if founded:
            self._say(f"{', '.join(founded)} know of a cluster founded without this node's present disk: joining it")
            return False
        known[self._address] = self.record
        for address in self.record.founders:
            if address in known and known[address].founders != self.record.founders:
                theirs = ",".join(known.pop(address).founders)
                self._say(f"{address} was started with --founders {theirs}: give all nodes the same")
        missing = [address for address in self.record.founders if address not in known]
        if missing:
            self._say(f"the cluster is founded when these founders are there too: {', '.join(missing)}")
            return False
        founding = {address: known[address].number for address in self.record.founders}
        self._write(replace(self.record, founding=founding))
        return True

    def serve(self) -> ThreadingHTTPServer:
        """The server of this record; raises `OSError` while the address is not there."""

        def record() -> bytes:
            return self.record.json()

        class Handler(BaseHTTPRequestHandler):
            timeout = _PATIENCE

            def do_GET(self) -> None:
                body = record()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:
                LOG.debug(format, *arguments)

        server = ThreadingHTTPServer((self._address, PORT), Handler)
        server.daemon_threads = True
        return server

    def _ask(self, address: str) -> Optional[Record]:
        """What another node wrote down; `None` for one that runs no etcd, or does not answer."""
        try:
            with _DIRECT.open(f"http://{address}:{PORT}/", timeout=_PATIENCE) as response:
                other = Record.of(json.loads(response.read(_LONGEST)))
        except (OSError, http.client.HTTPException, ValueError, RecursionError):
            return None
        return other if other.contract == self.record.contract else None

    def _say(self, what: str) -> None:
        if what != self._said:
            self._said = what
            LOG.info("%s", what)

    def _write(self, record: Record) -> None:
        """On disk before any other node gets it, and before anything is done that follows from it."""
        write_durably(self._path, record.json())
        self.record = record


def write_durably(path: Path, content: bytes) -> None:
    """Written completely or not at all, whatever happens to the machine."""
    new = path.with_suffix(".new")
    with new.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
