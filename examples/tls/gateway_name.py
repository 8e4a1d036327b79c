"""A member's name behind the dstack gateway: `<instance>-<port>s.<domain>`.

It is all that the gateway looks at. It comes as the TLS server name (SNI), and the connection is passed on, as it is, to that port of that
instance.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

#: Where gateways take connections, whatever the instance's own port is.
GATEWAY_PORT = 443

#: Strict: what it reads ends up in configuration files.
_URL = re.compile(r"https://([0-9a-f]{40})-([1-9][0-9]{0,4})s\.([a-z0-9-]+(?:\.[a-z0-9-]+)+)")


@dataclass(frozen=True)
class GatewayName:
    """Which port of which instance, behind which gateway."""

    instance: str
    port: int
    domain: str

    @staticmethod
    def of(url: str) -> GatewayName:
        """Reads the URL of a member in mode `tls`.

        Raises `ValueError` for any other.
        """
        match = _URL.fullmatch(url)
        if match is None or int(match[2]) > 65535:
            raise ValueError(f"{url!r} is no URL of the dstack gateway: expected https://<instance id>-<port>s.<domain>")
        return GatewayName(match[1], int(match[2]), match[3])

    def at(self, port: int) -> GatewayName:
        """Another port of the same instance."""
        return GatewayName(self.instance, port, self.domain)

    @property
    def host(self) -> str:
        return f"{self.instance}-{self.port}s.{self.domain}"
