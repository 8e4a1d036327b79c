"""Starting `p2p-agent` where none runs.

Nothing secret is in its arguments or its environment: the RPC URLs, which often hold API keys, go through a file that exists in
memory alone, and of this process's environment it gets what agents read. It ends with this process, unless it is to be kept. Its log
goes to a file and not to a pipe, because it goes on when this process is killed.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Optional

from ._errors import NoAgent, NotPermitted, P2PError
from ._target import Target

_LOG = logging.getLogger("dstack_p2p")
#: What the agent reads when no file is named.
_DEFAULT_CONFIG = Path("/etc/p2p-agent/config.toml")
#: Of this process's environment, what an agent is given: an application's has secrets that are none of its business.
_PASSED_ON = re.compile(
    r"P2P_\w+|DSTACK_\w+|XDG_(STATE_HOME|RUNTIME_DIR)|HOME|PATH|LANG|LC_\w+|TZ|INSTANCE_ID|KMS_ROOT_ADDRESS|RPC_URL"
)
_RPC_VARIABLES = ("P2P_RPC_URL", "RPC_URL")
#: Seconds that an orderly stop may take.
_STOP_WITHIN = 20.0
#: Of the agent's log, what an error shows.
_LOG_LINES = 15
_LOG_BYTES = 16 << 10
#: What is written to the log before each start.
_STARTED = "--- p2p-agent is started by dstack-p2p ---\n"
#: MiB within which the agent keeps its log, where the application's environment says nothing else.
_LOG_LIMIT = "8"
#: The agent's names for what it may not do, and the system's.
_REFUSALS = ("perm_net_admin", "tun_missing", "Permission denied", "Operation not permitted")
_NO_RPC_URL = "no RPC endpoint is set"


class Launcher:
    """Starts and stops the agent of this process, if there is to be one."""

    def __init__(
        self, target: Target, socket: str, program: Sequence[str], flags: Sequence[str], rpc_urls: Sequence[str], *, keep: bool
    ) -> None:
        """`program` is empty where none is to be started; it may be several words, such as `ip netns exec blue p2p-agent`. `keep`:
        `stop` does nothing, and the agent outlives this process."""
        if any(flag.split("=")[0] == "--rpc-url" for flag in flags):
            raise ValueError("every process can read the agent's arguments: give RPC URLs with `rpc_url=`")
        if any(not url.isprintable() for url in rpc_urls):
            # Not repeated: it may hold an API key.
            raise ValueError("an RPC URL has characters that no URL has")
        self._target = target
        self._socket = socket
        self._program = program
        self._flags = flags
        self._rpc_urls = rpc_urls
        self._keep = keep
        self._process: Optional[subprocess.Popen[bytes]] = None

    @property
    def log_path(self) -> str:
        """Where the output of the agents is that were started here, the last one's at the end."""
        return f"{self._socket}.log"

    def can_start(self) -> bool:
        """Whether there is a program to start."""
        return bool(self._program) and shutil.which(self._program[0]) is not None

    def is_running(self) -> bool:
        """Whether an agent was started here and has not ended."""
        return self._process is not None and self._process.poll() is None

    def was_started(self) -> bool:
        """Whether an agent was started here, and not stopped since."""
        return self._process is not None

    def start(self) -> None:
        """Starts it, without waiting for it to answer.

        Raises `NoAgent` or `NotPermitted`.
        """
        own = ["--contract", self._target.contract, "--socket", self._socket]
        # With `auto` or a URL, a node may be of either kind: its configuration says which.
        if self._target.mode in ("wireguard", "tls"):
            own += ["--mode", self._target.mode]
        words = [*self._program, *own, *self._flags]
        environment, config = self._settings(os.environ)
        try:
            log = self._open_log()
            try:
                if config is None:
                    self._spawn(words, environment, log, ())
                else:
                    self._spawn_with_config(words, environment, log, config)
            finally:
                os.close(log)
        except OSError as failure:
            error = NotPermitted if isinstance(failure, PermissionError) else NoAgent
            raise error(f"cannot start `{self._program[0]}`: {failure}", "start `p2p-agent` beside this process") from None
        if not self._keep:
            # Once, however often it is started.
            atexit.unregister(self.stop)
            atexit.register(self.stop)
        _LOG.info("started %s, whose log is %s", self._program[0], self.log_path)

    def failure(self) -> Optional[P2PError]:
        """Why the agent that was started here ended, if it did: once, so that it may be started again."""
        if self._process is None or self._process.poll() is None:
            return None
        code, said, self._process = self._process.returncode, self._said(), None
        error = NotPermitted if any(refusal in said for refusal in _REFUSALS) else NoAgent
        # The agent advises a flag, which would show API keys to every process.
        remedy = "give `rpc_url=`, or set P2P_RPC_URL" if _NO_RPC_URL in said else "do what it says"
        return error(
            f"`{self._program[0]}` ended with exit code {code}:\n{said}",
            f"{remedy}; all of its log is {self.log_path}",
        )

    def stop(self) -> None:
        """Stops the agent that was started here in order, so that nothing of it is left, unless it is to be kept. May take a while."""
        if self._keep:
            return
        # Cleared first: a monitor would take its end for a crash, and start another.
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_WITHIN)
        except subprocess.TimeoutExpired:
            _LOG.warning("p2p-agent does not stop: killing it; its log is %s", self.log_path)
            process.kill()
            process.wait()

    def _settings(self, ours: Mapping[str, str]) -> tuple[dict[str, str], Optional[str]]:
        """The agent's environment, and the text of its configuration file unless it has one already."""
        environment = {name: value for name, value in ours.items() if _PASSED_ON.fullmatch(name)}
        environment.setdefault("P2P_LOG_LIMIT", _LOG_LIMIT)
        has_file = bool(environment.get("P2P_CONFIG")) or _DEFAULT_CONFIG.exists()
        if has_file or any(flag.split("=")[0] == "--config" for flag in self._flags):
            if self._rpc_urls:
                raise NoAgent(
                    "cannot start p2p-agent with `rpc_url=`: it has a configuration file, and reads one only",
                    "write rpc-url into that file, and leave `rpc_url=` out",
                )
            return environment, None
        given = [environment.pop(name, "") for name in _RPC_VARIABLES]
        urls = list(self._rpc_urls) or [url.strip() for url in (given[0] or given[1]).split(",") if url.strip()]
        # A TOML list of basic strings is a JSON list of strings.
        return environment, f"rpc-url = {json.dumps(urls, ensure_ascii=False)}\n" if urls else None

    def _spawn_with_config(self, words: list[str], environment: Mapping[str, str], log: int, config: str) -> None:
        file = os.memfd_create("p2p-agent.toml")
        try:
            os.write(file, config.encode())
            self._spawn([*words, "--config", f"/dev/fd/{file}"], environment, log, (file,))
        finally:
            os.close(file)

    def _spawn(self, words: Sequence[str], environment: Mapping[str, str], log: int, kept: Sequence[int]) -> None:
        # A session of its own: Ctrl-C in a terminal is for the application, which stops its agent in order.
        self._process = subprocess.Popen(
            words,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=tuple(kept),
            start_new_session=True,
        )

    def _open_log(self) -> int:
        os.makedirs(os.path.dirname(self.log_path) or ".", mode=0o755, exist_ok=True)
        # Readable, so that the agent can keep its newer half.
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        log = os.open(self.log_path, flags, 0o640)
        os.write(log, _STARTED.encode())
        return log

    def _said(self) -> str:
        try:
            with open(self.log_path, "rb") as log:
                log.seek(0, os.SEEK_END)
                log.seek(max(0, log.tell() - _LOG_BYTES))
                text = log.read().decode(errors="replace")
        except OSError as failure:
            return f"(its log cannot be read: {failure})"
        return "\n".join(text.rpartition(_STARTED)[2].splitlines()[-_LOG_LINES:])
