"""Applications on a world's nodes: started in their network namespaces, and ended with what started them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Optional

from mesh_world import MeshWorld, Node

#: Seconds for an application to end in order.
_STOP = 120.0
#: Of each log, what a failure's message shows: these many characters, from its end.
_SHOWN = 4000
#: Where the whole logs are kept when something failed.
_KEPT = Path(os.environ.get("CARGO_TARGET_DIR", Path(__file__).parents[4] / "target"), "test-logs")


class Application:
    """One that was started."""

    def __init__(self, words: list[str], log_path: Path, environment: Mapping[str, str]) -> None:
        self.log_path = log_path
        self._is_to_run = True
        log: IO[bytes]
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                # It ends with this process, whatever ends that.
                ["setpriv", "--pdeathsig", "TERM", *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **environment},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_running(self) -> bool:
        return self._process.poll() is None

    def has_failed(self) -> bool:
        """It ended without being asked to."""
        return self._is_to_run and not self.is_running()

    def ask_to_end(self) -> None:
        self._is_to_run = False
        self._process.terminate()

    def stop(self) -> None:
        """Ends it in order. Raises `RuntimeError` when it did not end by itself, and was killed."""
        self.ask_to_end()
        try:
            self._process.wait(_STOP)
        except subprocess.TimeoutExpired:
            self.kill()
            raise RuntimeError(f"it did not end when it was asked to: see {self.log_path}") from None

    def kill(self) -> None:
        """Ends it at once, as a machine ends that dies."""
        self._is_to_run = False
        self._process.kill()
        self._process.wait()

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")


class Applications:
    """All of one world. Used with `with`, inside of the world's."""

    def __init__(self, world: MeshWorld) -> None:
        self._world = world
        self._started: list[Application] = []

    def start(self, node: Node, name: str, *words: str, environment: Optional[Mapping[str, str]] = None) -> Application:
        """Starts a program on a node. Its log, in the world's directory, goes on where an earlier one of that name there ended."""
        log_path = Path(self._world.dir, f"{name}{node.index}.log")
        started = Application(["ip", "netns", "exec", node.namespace, *words], log_path, environment or {})
        self._started.append(started)
        return started

    def start_python(self, node: Node, name: str, script: Path, *arguments: str) -> Application:
        """Starts a Python program, with the SDK, on a node."""
        return self.start(node, name, sys.executable, "-B", str(script), *arguments)

    def failed(self) -> list[str]:
        """The logs of those that ended without being asked to."""
        return [application.log_path.name for application in self._started if application.has_failed()]

    def logs(self, **others: str) -> str:
        """The ends of all their logs, for the message of a test that failed, and of what else there is to see then. All of it is kept,
        where the message says."""
        paths = dict.fromkeys(application.log_path for application in self._started)
        texts = {path.name: path.read_text(errors="replace") for path in paths} | {f"{name}.log": text for name, text in others.items()}
        kept = _KEPT / Path(self._world.dir).name
        kept.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (kept / name).write_text(text)
        # Tests run as root, and the user who built the programs has to be able to remove this.
        owner = _KEPT.parent.stat()
        for path in (_KEPT, kept, *kept.iterdir()):
            os.chown(path, owner.st_uid, owner.st_gid)
        return "\n".join([f"all logs are in {kept}", *(f"--- {name}\n{text[-_SHOWN:]}" for name, text in texts.items())])

    def stop(self) -> None:
        """Ends all in order, side by side. Raises `RuntimeError` when one did not end by itself."""
        running = [application for application in self._started if application.is_running()]
        self._started = []
        for application in running:
            application.ask_to_end()
        left = []
        for application in running:
            try:
                application.stop()
            except RuntimeError as error:
                left.append(str(error))
        if left:
            raise RuntimeError("; ".join(left))

    def __enter__(self) -> Applications:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.stop()


def run_on(node: Node, *words: str, timeout: float = 30.0, stdin: str = "") -> str:
    """Runs a program on a node and returns what it printed.

    Raises `RuntimeError`, with what it said, when it fails or is not done after `timeout` seconds.
    """
    command = ["ip", "netns", "exec", node.namespace, *words]
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"`{' '.join(words)}` on node {node.index} is not done after {timeout} s") from None
    if done.returncode != 0:
        said = f"{done.stdout.strip()[-2000:]} {done.stderr.strip()[-2000:]}".strip()
        raise RuntimeError(f"`{' '.join(words)}` on node {node.index}: exit code {done.returncode}: {said}")
    return done.stdout
