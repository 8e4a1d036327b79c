"""Packets that one machine sends another all the time, and everything that leaves it meanwhile."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from waiting import wait_until

_INTERVAL = 0.02
#: What every packet of the flow carries, and no other packet: `ping` repeats it.
_MARK = b"inside-the-tunnel"[:16]
_REPLY = re.compile(rb"^\[(\d+\.\d+)\] .*icmp_seq=(\d+)", re.MULTILINE)


class Flow:
    """From `start` to `end`."""

    def __init__(self, sender: Sequence[str], address: str, hub: str, port: str, place: Path) -> None:
        """`sender` are the words before a command on the sending machine; its link's other end is `port`, in the namespace `hub`."""
        self._sender, self._address, self._hub, self._port = sender, address, hub, port
        self._replies, self._captured, self._log = place / "replies", place / "captured", place / "capture.log"

    def start(self) -> None:
        """Returns once packets are captured and answered."""
        capture = ["ip", "netns", "exec", self._hub, "tcpdump", "-i", self._port, "-U", "-w", str(self._captured)]
        ping = [*self._sender, "ping", "-D", "-n", "-i", str(_INTERVAL), "-p", _MARK.hex(), self._address]
        with self._log.open("wb") as log:
            self._capture = subprocess.Popen(capture, stderr=log)
        wait_until("the capture to begin", lambda: b"listening on" in self._log.read_bytes(), self._log)
        with self._replies.open("wb") as replies:
            self._ping = subprocess.Popen(ping, stdout=replies, stderr=subprocess.STDOUT)
        self.go_on()

    def go_on(self) -> None:
        """Waits for a hundred more replies."""
        wanted = len(self.times()) + 100
        wait_until(f"{self._address} to answer", lambda: len(self.times()) >= wanted, self._replies)

    def end(self) -> None:
        self._ping.send_signal(signal.SIGINT)
        self._ping.wait()
        self._capture.send_signal(signal.SIGINT)
        assert self._capture.wait() == 0, self._log.read_text()

    def times(self) -> list[float]:
        """When each reply came, in seconds."""
        return [float(when) for when, _ in _REPLY.findall(self._replies.read_bytes())]

    def gap(self) -> float:
        """The longest time in seconds without a reply."""
        times = self.times()
        return max(later - earlier for earlier, later in zip(times, times[1:]))

    def lost(self) -> int:
        """Packets without a reply, of those before the last one that has one."""
        numbers = {int(number) for _, number in _REPLY.findall(self._replies.read_bytes())}
        return max(numbers) - len(numbers)

    def captured(self, what: str) -> int:
        """How many packets of a kind left or came by the link: an expression of tcpdump."""
        words = ["tcpdump", "-n", "-r", str(self._captured), what]
        return len(subprocess.run(words, capture_output=True, check=True).stdout.splitlines())

    def is_readable_outside(self) -> bool:
        """Whether what the packets carry can be read on the link."""
        return _MARK in self._captured.read_bytes()
