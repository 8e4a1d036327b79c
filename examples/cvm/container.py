"""One service of a compose file as a container engine would run it, without an engine: namespaces, mounts and privileges that the file
gives, and nothing else. Needs root.

What the file does not say is as Docker has it: no file of the machine but the image's, `/proc/sys` and `/sys` read-only, a process id
namespace. Of the engine's own limits, its seccomp profile and its device cgroup are missing: devices that the file does not list have
no node in `/dev`, and without MKNOD none can be made.
"""

from __future__ import annotations

import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

#: What every container has in `/dev`.
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty")
#: Keys of a service that are followed here, and those that say nothing about what a running container may.
_KNOWN = {"image", "command", "environment", "network_mode", "user", "cap_drop", "cap_add", "devices", "security_opt", "read_only"}
_KNOWN |= {"volumes", "tmpfs", "depends_on", "restart"}


class Container:
    """A service that runs. Its output is in `log`."""

    def __init__(
        self,
        service: Mapping[str, Any],
        namespace: str,
        machine: Mapping[str, Path],
        programs: Sequence[Path],
        variables: Mapping[str, str],
        place: Path,
    ) -> None:
        """`machine` has what stands for the machine's paths, sockets and named volumes that the file mounts; `namespace` is the
        machine's network; `programs` are in the image, besides a Debian; `variables` are the values of the environment. Files that
        are needed lie in `place`.

        Raises `ValueError` for a service that asks for what is not known here.
        """
        strange = set(service) - _KNOWN
        if strange or service["cap_drop"] != ["ALL"] or service["read_only"] is not True:
            raise ValueError(f"not followed here: {strange or 'rights besides those of cap_add, or a root that is written to'}")
        place.mkdir(parents=True, exist_ok=True)
        self.log = place / "log"
        script = place / "make"
        script.write_text("\n".join(_script(service, machine, programs, variables, place)))
        words = ["unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child"]
        if service["network_mode"] == "none":
            words.append("--net")
        elif service["network_mode"] != "host":
            raise ValueError(f"not followed here: network_mode {service['network_mode']}")
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                ["ip", "netns", "exec", namespace, *words, "bash", "-eu", str(script)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def __repr__(self) -> str:
        """For the error of a wait that failed."""
        return f"\n{self.says()[-2000:]}"

    def says(self) -> str:
        return self.log.read_text(errors="replace")

    def code(self) -> Optional[int]:
        """Its exit code, once it has ended."""
        return self._process.poll()

    def pid(self) -> int:
        """The program's, as this process sees it. Raises `RuntimeError` where it does not run."""
        outer = self._process.pid
        inner = Path(f"/proc/{outer}/task/{outer}/children").read_text().split() if self.code() is None else []
        if len(inner) != 1:
            raise RuntimeError(f"it does not run:\n{self.says()}")
        return int(inner[0])

    def stop(self, patience: float) -> int:
        """As an engine stops it; its exit code."""
        subprocess.run(["kill", f"-{signal.SIGTERM.value}", str(self.pid())], check=True)
        return self._process.wait(patience)

    def kill(self) -> None:
        """Nothing of it is left."""
        if self.code() is None:
            self._process.kill()
            self._process.wait()


def _script(
    service: Mapping[str, Any], machine: Mapping[str, Path], programs: Sequence[Path], variables: Mapping[str, str], place: Path
) -> list[str]:
    root = place / "root"
    root.mkdir(exist_ok=True)
    lines = _image(root, programs) + _devices(root, service.get("devices", []))
    lines += [f"mount -t proc proc {root}/proc", f"mount -t sysfs -o ro,nosuid,nodev,noexec sysfs {root}/sys"]
    lines += [f"mount --bind {root}/proc/sys {root}/proc/sys", f"mount -o remount,bind,ro {root}/proc/sys"]
    for volume in service.get("volumes", []):
        source, target, *options = volume.split(":")
        if options not in ([], ["ro"]):
            raise ValueError(f"not followed here: {volume}")
        lines += _bind(machine[source], f"{root}{target}", bool(options))
    for entry in service.get("tmpfs", []):
        target, _, options = entry.partition(":")
        lines += [f"mkdir -p {root}{target}"]
        lines += [f"mount -t tmpfs -o {shlex.quote(','.join(filter(None, ['noexec,nosuid,nodev', options])))} tmpfs {root}{target}"]
    lines += [f"cd {root}", "pivot_root . .machine", "umount -l /.machine", "mount -o remount,bind,ro /"]
    given = {name: variables[name] for name in service.get("environment", {})}
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", **given}
    pairs = [f"{name}={value}" for name, value in environment.items()]
    return [*lines, "exec " + shlex.join(["env", "-i", *pairs, *_privileges(service), "--", *service["command"]])]


def _image(root: Path, programs: Sequence[Path]) -> list[str]:
    """A Debian: this machine's programs and libraries, and those of the Dockerfile."""
    lines = [f"mount -t tmpfs -o mode=755 image {root}"]
    lines += [f"mkdir -p {root}/{name}" for name in ("usr", "etc", "proc", "sys", "dev", "run", "tmp", "root", "var/lib", ".machine")]
    lines += [f"ln -s usr/{name} {root}/{name}" for name in ("bin", "sbin", "lib", "lib64")]
    lines += [f"ln -s ../run {root}/var/run", f"mount --bind /usr {root}/usr", f"mount -o remount,bind,ro {root}/usr"]
    lines += [f"mount --bind /etc {root}/etc", f"mount -o remount,bind,ro {root}/etc"]
    lines += [f"mount -t tmpfs -o mode=755 image {root}/usr/local", f"mkdir {root}/usr/local/bin"]
    for program in programs:
        lines += _bind(program, f"{root}/usr/local/bin/{program.name}", True)
    return [*lines, f"mount -o remount,ro {root}/usr/local"]


def _devices(root: Path, more: Sequence[str]) -> list[str]:
    lines = [f"mount -t tmpfs -o nosuid,noexec,mode=755 tmpfs {root}/dev", f"mkdir -m 1777 {root}/dev/shm"]
    lines += [f"mount -t tmpfs -o nosuid,nodev,noexec,mode=1777,size=64m shm {root}/dev/shm"]
    for device in [*_DEVICES, *more]:
        lines += _bind(Path(device), f"{root}{device}", False)
    return lines


def _bind(source: Path, target: str, read_only: bool) -> list[str]:
    make = f"mkdir -p {target}" if source.is_dir() else f"mkdir -p {Path(target).parent}; touch {target}"
    lines = [make, f"mount --bind {shlex.quote(str(source))} {target}"]
    return [*lines, f"mount -o remount,bind,ro {target}"] if read_only else lines


def _privileges(service: Mapping[str, Any]) -> list[str]:
    """The command prefix that gives up all rights but the service's."""
    user, _, group = service.get("user", "0:0").partition(":")
    added = [f"+{capability.lower()}" for capability in service.get("cap_add", [])]
    words = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"]
    words += [f"--bounding-set={','.join(['-all', *added])}", "--inh-caps=-all", "--ambient-caps=-all"]
    for option in service["security_opt"]:
        if option != "no-new-privileges:true":
            raise ValueError(f"not followed here: {option}")
        words.append("--no-new-privs")
    return words
