"""Where agents put their sockets, and where one that is started here gets its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ._errors import NotPermitted, WrongAgent

_RUN_DIR = Path("/run/p2p-agent")
#: Of the agent with the default interface, and of one without an interface.
_WIREGUARD, _TLS = "mesh0.sock", "tls.sock"


def find_socket(mode: str, environment: Mapping[str, str], run_dir: Path = _RUN_DIR) -> str:
    """The socket of the agent to ask: the one that `P2P_SOCKET` names; else of those in the agents' directories the one with the
    mode's own name; else the only one; and where there is none, the one that an agent started here will have.

    Raises `WrongAgent` for several to choose from, `NotPermitted` for a directory that may not be looked into.
    """
    named = environment.get("P2P_SOCKET")
    if named:
        return named
    runtime = environment.get("XDG_RUNTIME_DIR", "")
    user_dir = Path(runtime, "p2p-agent") if os.path.isabs(runtime) else None
    own_name = _TLS if mode == "tls" else _WIREGUARD
    directories = [run_dir] if user_dir is None else [user_dir, run_dir]
    there = [socket for directory in directories for socket in _sockets_in(directory)]
    for socket in there:
        if socket.name == own_name:
            return str(socket)
    # A node of either kind may have a URL of its own, or ask for the best way to each peer.
    of_mode = [socket for socket in there if mode in ("auto", "url") or (socket.name == _TLS) == (mode == "tls")]
    if len(of_mode) > 1:
        listed = ", ".join(str(socket) for socket in of_mode)
        raise WrongAgent(f"several agents run here: {listed}", "choose one with `socket=`, or with P2P_SOCKET")
    if of_mode:
        return str(of_mode[0])
    # As the agent's own defaults: an ordinary user has no rights in the system's directory, and needs none without a tunnel.
    is_users_own = mode == "tls" and os.geteuid() != 0 and user_dir is not None
    return str((user_dir if is_users_own and user_dir else run_dir) / own_name)


def _sockets_in(directory: Path) -> list[Path]:
    try:
        return sorted(path for path in directory.iterdir() if path.suffix == ".sock")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError as failure:
        raise NotPermitted(
            f"this process may not look for agents in `{directory}`", "name the agent's socket with `socket=`"
        ) from None
