"""However founders start, die and lose their disks while a cluster is founded: there is never a second one."""

from __future__ import annotations

import json
import random
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Optional

import founding
import pytest
from founding import Founding, Record

CONTRACT = "0x" + "ab" * 20
FOUNDERS = ["10.0.1.1", "10.0.1.2", "10.0.1.3"]


class Ended(Exception):
    """A founder's program died while it asked."""


class Founder(Founding):
    """One that asks the others without a network; anything may happen while it asks."""

    def __init__(self, world: World, address: str) -> None:
        super().__init__(CONTRACT, FOUNDERS, address, world.path(address))
        self._world = world
        self.address = address
        self.is_asking = False

    def _ask(self, address: str) -> Optional[Record]:
        self._world.something_happens()
        if self._world.running.get(self.address) is not self:
            raise Ended
        other = self._world.running.get(address)
        return None if other is None else Record.of(json.loads(other.record.json()))


class World:
    """Three founders. What happens comes from a seed."""

    def __init__(self, base: Path, seed: int, loses_disks: bool) -> None:
        self._base = base
        self._dice = random.Random(seed)
        self._loses_disks = loses_disks
        self._depth = 0
        self.running: dict[str, Founder] = {}
        #: Foundings that a majority once had.
        self._worked: set[str] = set()

    def path(self, address: str) -> Path:
        return self._base / address / "founding.json"

    def something_happens(self) -> None:
        if self._depth < 2 and self._dice.random() < 0.4:
            self.happen()

    def happen(self) -> None:
        self._depth += 1
        address = self._dice.choice(FOUNDERS)
        what = self._dice.random()
        if what < 0.5:
            self.step(address)
        elif what < 0.7:
            self.running.pop(address, None)
        elif what < 0.8 and self._loses_disks:
            self.running.pop(address, None)
            shutil.rmtree(self.path(address).parent, ignore_errors=True)
        else:
            self.running[address] = Founder(self, address)
        self._depth -= 1
        self.check()

    def step(self, address: str) -> None:
        founder = self.running.get(address)
        if founder is None or founder.is_asking:
            return
        founder.is_asking = True
        try:
            founder.is_to_found(FOUNDERS)
        except Ended:
            pass
        founder.is_asking = False

    def settle(self) -> None:
        self._depth = 2
        for address in FOUNDERS:
            self.running.setdefault(address, Founder(self, address))
        for address in FOUNDERS * 2:
            self.step(address)

    def foundings(self) -> Counter[str]:
        """What is on the disks, and on how many."""
        found: Counter[str] = Counter()
        for address in FOUNDERS:
            path = self.path(address)
            record = Record.of(json.loads(path.read_bytes())) if path.exists() else None
            if record is not None and record.founding:
                assert record.founding[address] == record.number, "it has a part, with a disk that is another one"
                found[json.dumps(record.founding, sort_keys=True)] += 1
        return found

    def check(self) -> None:
        on_disks = self.foundings()
        self._worked |= {one for one, disks in on_disks.items() if disks >= 2}
        working = {one for one, disks in on_disks.items() if disks >= 2}
        for former in self._worked & set(on_disks):
            assert working <= {former}, f"a second cluster: {on_disks}"


@pytest.mark.parametrize("seed", range(40))
def test_there_is_never_a_second_cluster(seed: int, tmp_path: Path) -> None:
    world = World(tmp_path, seed, loses_disks=True)
    for _ in range(40):
        world.happen()


@pytest.mark.parametrize("seed", range(10))
def test_founders_that_keep_their_disks_found_one(seed: int, tmp_path: Path) -> None:
    world = World(tmp_path, seed, loses_disks=False)
    for _ in range(10):
        world.happen()
    world.settle()
    assert list(world.foundings().values()) == [3]
    assert len({founder.cluster_token() for founder in world.running.values()}) == 1
    assert all(founder.has_part() for founder in world.running.values())


def test_a_lost_disk_is_found_out_by_asking_any_member(tmp_path: Path) -> None:
    world = World(tmp_path, 0, loses_disks=False)
    world.settle()
    for address in FOUNDERS[:2]:
        shutil.rmtree(world.path(address).parent)
        world.running[address] = Founder(world, address)
        assert not world.running[address].is_to_found(FOUNDERS)
        world.running[address].joined()
    # The third one's disk too: the others know that there is a cluster, though they did not found it.
    shutil.rmtree(world.path(FOUNDERS[2]).parent)
    third = world.running[FOUNDERS[2]] = Founder(world, FOUNDERS[2])
    assert not third.is_to_found(FOUNDERS)
    assert third.record.founding is None


def test_founders_have_to_be_the_same_everywhere(tmp_path: Path) -> None:
    world = World(tmp_path, 0, loses_disks=False)
    world.settle()
    path = tmp_path / "new" / "founding.json"
    first = Founding(CONTRACT, FOUNDERS, FOUNDERS[0], path)
    again = Founding(CONTRACT, FOUNDERS, FOUNDERS[0], path)
    changed = Founding(CONTRACT, [*FOUNDERS, "10.0.1.4"], FOUNDERS[0], path)
    assert again.record.number == first.record.number
    assert changed.record.number != first.record.number, "what was told to others does not count any more"
    with pytest.raises(ValueError, match="choose another --data-dir"):
        Founding("0x" + "cd" * 20, FOUNDERS, FOUNDERS[0], path)


@contextmanager
def answering(address: str, body: bytes) -> Iterator[None]:
    """Another program at the founders' port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer((address, founding.PORT), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


def test_founders_ask_each_other_and_refuse_invalid_answers(tmp_path: Path) -> None:
    founders = ["127.0.1.1", "127.0.1.2"]
    first, second = (Founding(CONTRACT, founders, own, tmp_path / own / "founding.json") for own in founders)
    listed = [*founders, "127.0.1.3"]
    assert not first.is_to_found(listed), "the other one is not there"
    good = json.loads(second.record.json())
    invalid = [
        b"", b"[]", b"{}", b"\xff", b"[" * 60000, b"0" * 60000, b"x" * 100_000,
        json.dumps({**good, "number": "1"}).encode(),
        json.dumps({**good, "number": ["a"]}).encode(),
        json.dumps({**good, "founders": 7}).encode(),
        json.dumps({**good, "contract": "0x" + "cd" * 20}).encode(),
        json.dumps({**good, "founding": {founders[0]: first.record.number}}).encode(),
        json.dumps({**good, "founding": [1]}).encode(),
    ]
    for body in invalid:
        with answering(founders[1], body):
            assert not first.is_to_found(listed), body
            assert first.record.founding is None, body
    with second.serve() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert first.is_to_found(listed)
        server.shutdown()
    with first.serve() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert second.is_to_found(listed)
        server.shutdown()
    assert first.cluster_token() == second.cluster_token()
