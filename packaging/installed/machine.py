"""A Debian that boots: a root file system of debootstrap, in a container of systemd-nspawn, with systemd as its first process and the
network of a namespace that others made. Needs root.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Optional

from waiting import wait_until

#: What users have whose shell completes, who read manual pages and look after their network.
_PACKAGES = "systemd,systemd-sysv,dbus,man-db,groff-base,bash-completion,zsh,fish,iproute2,iputils-ping,procps,nftables"
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/root", "DEBIAN_FRONTEND": "noninteractive"}
#: What changes without the package, or is of all packages alike.
_OF_THE_SYSTEM = ("/proc", "/sys", "/dev", "/run", "/tmp", "/var/cache", "/var/log", "/var/lib/dpkg", "/var/lib/apt", "/var/lib/systemd")


def debian(place: Path, suite: str) -> Path:
    """A fresh root file system, or the one that is there already.

    Raises `RuntimeError` with the end of debootstrap's log.
    """
    root, made = place / suite, place / f"{suite}.made"
    if not made.exists():
        subprocess.run(["rm", "-rf", "--one-file-system", str(root)], check=True)
        log = place / "debootstrap.log"
        with log.open("wb") as output:
            words = ["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", suite, str(root)]
            code = subprocess.run(words, stdout=output, stderr=output).returncode
        if code != 0:
            raise RuntimeError(f"debootstrap {suite} failed:\n{log.read_text()[-2000:]}")
        made.touch()
    return root


class Machine:
    """One container, from its first boot to `close`. What it writes is its own: `base` stays as it is."""

    def __init__(self, name: str, base: Path, place: Path, namespace: str, files: Mapping[Path, str]) -> None:
        """`files` are sockets and files of this machine, and where the container has them."""
        self.name, self._namespace, self._files, self._place = name, namespace, files, place
        self._root = place / "root"
        self._process: Optional[subprocess.Popen[bytes]] = None
        for part in ("upper", "work", "root"):
            (place / part).mkdir(parents=True)
        options = f"lowerdir={base},upperdir={place / 'upper'},workdir={place / 'work'}"
        subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", str(self._root)], check=True)

    def __repr__(self) -> str:
        return self.name

    def boot(self) -> None:
        """Returns once systemd has started what it starts by itself."""
        # systemd-nspawn keeps a folder by this name: another run has its own.
        unique = f"{self.name}-{os.getpid()}"
        words = ["systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", "--console=pipe", f"--machine={unique}"]
        words += [f"--directory={self._root}", f"--network-namespace-path=/run/netns/{self._namespace}"]
        words += ["--capability=CAP_NET_ADMIN", "--bind=/dev/net/tun", "--resolv-conf=off", "--timezone=off"]
        # Of disks it shows nothing, and dpkg waits for them after each file.
        words += ["--suppress-sync=yes"]
        words += [f"--bind={path}:{inside}" for path, inside in self._files.items()]
        with (self._place / "console.log").open("ab") as console:
            self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=console, stderr=console)
        wait_until(f"{self.name} to have booted", self._has_booted, self._place / "console.log")

    def _has_booted(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"{self.name} ended:\n{(self._place / 'console.log').read_text()[-2000:]}")
        if self._leader() is None:
            return False
        # "degraded" is for what has failed, which tests ask for themselves.
        return self.ask("systemctl", "is-system-running").strip() in ("running", "degraded")

    def run(self, *words: str) -> str:
        """What a command of root prints in it. Raises `AssertionError` with all of it when the command fails."""
        done = self.outcome(*words)
        assert done.returncode == 0, f"{self.name}: `{' '.join(words)}` ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def ask(self, *words: str) -> str:
        """The same of a command that may fail."""
        return self.outcome(*words).stdout

    def outcome(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [*self.enter(), *words]
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")

    def enter(self) -> Sequence[str]:
        """The words before a command that is to run in it."""
        leader = self._leader()
        assert leader is not None, f"{self.name} does not run"
        namespaces = ("--mount", "--uts", "--ipc", "--net", "--pid", "--root")
        variables = (f"{name}={value}" for name, value in _ENVIRONMENT.items())
        return ["nsenter", f"--target={leader}", *namespaces, "env", "-i", "--chdir=/", *variables]

    def _leader(self) -> Optional[int]:
        """Its first process, as this machine numbers it."""
        assert self._process is not None
        outer = self._process.pid
        children = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
        return int(children[0]) if children else None

    def write(self, path: str, text: str) -> None:
        """Appends to a file, as an editor would: mode and owner stay."""
        done = subprocess.run([*self.enter(), "tee", "-a", path], input=text, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr

    def files(self) -> set[str]:
        """What there is, but for what the system itself notes."""
        pruned = [word for place in _OF_THE_SYSTEM for word in ("-path", place, "-prune", "-o")]
        return set(self.run("find", "/", *pruned, "-print").splitlines())

    def power_off(self) -> None:
        assert self._process is not None
        self.ask("systemctl", "poweroff", "--no-block")
        wait_until(f"{self.name} to be off", lambda: self._process is None or self._process.poll() is not None)
        # A kernel that stops forgets its packet filter and routes; that of the namespace goes on.
        for words in (["nft", "flush", "ruleset"], ["ip", "route", "flush", "type", "blackhole"]):
            subprocess.run(["ip", "netns", "exec", self._namespace, *words], check=True)

    def close(self) -> None:
        """Nothing of it is left but files below its place."""
        if self._process is not None and self._process.poll() is None:
            # Its processes die with its first one, which outlives systemd-nspawn.
            leader = self._leader()
            if leader is not None:
                os.kill(leader, signal.SIGKILL)
            else:
                self._process.kill()
            self._process.wait()
        # Only then is the file system free.
        wait_until(f"{self.name} to be gone", lambda: subprocess.run(["umount", str(self._root)]).returncode == 0)
