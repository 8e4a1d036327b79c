"""Examples on fresh meshes of their own: for their tests, and for a reader who wants to see one (`examples/*/run`). Needs root."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Optional, Self, TypeVar

from applications import Applications
from mesh_world import MeshWorld, Node

#: Seconds for what must happen, on a slow and busy machine.
PATIENCE = 240.0


class Showcase:
    """A mesh with an example's programs on its nodes. Used with `with`."""

    def __init__(self, nodes: int) -> None:
        self.world = MeshWorld(nodes)
        self.apps = Applications(self.world)

    @contextmanager
    def making(self) -> Iterator[None]:
        """What fails in here takes everything away again."""
        try:
            yield
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise

    def wait_until(self, what: str, look: Callable[..., Any], *arguments: Any) -> Any:
        """Returns what `look` finds in the end. Raises `RuntimeError`, with the programs' logs, when it finds nothing in time, or when a
        program ended that was to run."""
        deadline, seen = time.monotonic() + PATIENCE, "none"
        while True:
            failed = self.apps.failed()
            if failed:
                raise RuntimeError(f"ended without being asked to: {', '.join(failed)}\n{self.apps.logs(**self.state())}")
            try:
                found = look(*arguments)
                if found:
                    return found
            except RuntimeError as error:
                seen = str(error)
            if time.monotonic() >= deadline:
                raise RuntimeError(f"not within {PATIENCE} s: {what}; the last error: {seen}\n{self.apps.logs(**self.state())}")
            time.sleep(0.2)

    def state(self) -> dict[str, str]:
        """What there is to see when something fails, besides the programs' logs: texts by their names."""
        return {}

    def revoke_command(self, node: Node) -> str:
        """What an operator types, as root; tokens were minted in the nodes' order."""
        world = self.world
        return (
            f"ip netns exec {world.hub} {world.meshctl} revoke {node.index} --yes --rpc-url {world.rpc_url} "
            f"--contract {world.contract} --private-key-file {world.operator_key_file}"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        try:
            self.apps.stop()
        finally:
            self.world.__exit__(kind, error, trace)


S = TypeVar("S", bound=Showcase)


@dataclass(frozen=True)
class Show(Generic[S]):
    """How an example is shown."""

    description: str
    #: When it exits with `--once`.
    once: str
    #: The fewest nodes that show something, and how many there are by default.
    least: int
    default: int
    make: Callable[[int], S]
    #: Prints what there is to see. Raises `RuntimeError` when it is not there.
    present: Callable[[S], None]
    #: Commands to try, as root.
    commands: Callable[[S], list[str]]

    def run(self) -> int:
        """Shows it as the arguments of this process say. Returns its exit code."""
        parser = argparse.ArgumentParser(description=self.description)
        how_many = f"how many, {self.least} to 8; default: {self.default}"
        parser.add_argument("nodes", type=int, nargs="?", default=self.default, help=how_many)
        parser.add_argument("--once", action="store_true", help=f"exit when {self.once}")
        arguments = parser.parse_args()
        if not self.least <= arguments.nodes <= 8:
            parser.error(f"NODES must be between {self.least} and 8")
        # An orderly end on either signal, however this was started: a shell lets its background jobs ignore SIGINT.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.default_int_handler)
        try:
            with self.make(arguments.nodes) as made:
                self.present(made)
                if not arguments.once:
                    print("\nit stays up: try, as root, in another terminal\n")
                    print(*(f"  {command}" for command in self.commands(made)), sep="\n")
                    print("\nCtrl-C takes everything away again.", flush=True)
                    signal.pause()
        except KeyboardInterrupt:
            print("\nall is taken away", file=sys.stderr)
        except RuntimeError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        return 0
