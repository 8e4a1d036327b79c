"""A hop for clients that send no server name, without which the gateway passes nothing on: Redis before 7.2, when it replicates.

It takes plain connections on this machine's loopback, and makes TLS of them, with this node's certificate, to one host behind the gateway.
Every process on that loopback can use it: give it to none that may not read the primary's data.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
from pathlib import Path
from typing import Any, Optional

LOG = logging.getLogger("hop")
#: Seconds for the gateway and what is behind it.
_CONNECT_WITHIN = 10.0


class Hop:
    """Listens from now on, in a thread of its own, until the process ends."""

    def __init__(self, port: int, directory: Path) -> None:
        """`directory` is where certificate.py has written. Raises `OSError` when the port is taken."""
        self.address = ("127.0.0.1", port)
        self._directory = directory
        #: Host and port.
        self._to: Optional[tuple[str, int]] = None
        self._passing: set[asyncio.Task[Any]] = set()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="hop", daemon=True).start()
        listens = asyncio.start_server(self._pass_on, *self.address)
        self._server = asyncio.run_coroutine_threadsafe(listens, self._loop).result()

    def lead_to(self, to: Optional[tuple[str, int]]) -> None:
        """From now on to that host and port, or nowhere; what leads elsewhere is cut."""
        self._loop.call_soon_threadsafe(self._change, to)

    def _change(self, to: Optional[tuple[str, int]]) -> None:
        if to != self._to:
            self._to = to
            for task in self._passing:
                task.cancel()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "this runs in one"
        self._passing.add(task)
        try:
            if self._to is not None:
                await self._pass_on_to(self._to, reader, writer)
        except (OSError, asyncio.TimeoutError) as error:
            LOG.warning("%s: %s", self._to, error or "no answer")
        finally:
            self._passing.discard(task)
            writer.close()

    async def _pass_on_to(self, to: tuple[str, int], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls = asyncio.open_connection(*to, ssl=self._context(), server_hostname=to[0])
        far_reader, far_writer = await asyncio.wait_for(calls, _CONNECT_WITHIN)
        ways = [asyncio.ensure_future(_copy(reader, far_writer)), asyncio.ensure_future(_copy(far_reader, writer))]
        try:
            # When one side ends, the other is closed.
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            far_writer.close()

    def _context(self) -> ssl.SSLContext:
        """Trusts this app's authority alone, and insists on the name. Read again each time: the files may have been renewed."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(self._directory / "app-ca.openssl.pem")
        context.load_cert_chain(self._directory / "node.pem")
        return context


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        data = await reader.read(1 << 16)
        if not data:
            return
        writer.write(data)
        await writer.drain()
