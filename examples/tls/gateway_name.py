"""A member's name behind the dstack gateway: `<instance>-<port>s.<domain>`, and the port at which the gateway listens.

The name is all that the gateway looks at. It comes as the TLS server name (SNI), and the connection is passed on, as it is, to that port of that
instance.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

#: Where a gateway takes connections, whatever the instance's own port is, unless the URL has another port.
HTTPS = 443

#: Strict: what it reads ends up in configuration files.
_URL = re.compile(r"https://([0-9a-f]{40})-([1-9][0-9]{0,4})s\.([a-z0-9-]+(?:\.[a-z0-9-]+)+)(?::([1-9][0-9]{0,4}))?")


@dataclass(frozen=True)
class GatewayName:
    """Which port of which instance, behind which gateway."""

    instance: str
    port: int
    domain: str
    gateway_port: int = HTTPS

    @staticmethod
    def of(url: str) -> GatewayName:
        """Reads the URL of a member in mode `tls`.

        Raises `ValueError` for any other.
        """
        match = _URL.fullmatch(url)
        # 443 is never written: each member has one URL.
        if match is None or int(match[2]) > 65535 or int(match[4] or 0) > 65535 or match[4] == str(HTTPS):
            raise ValueError(f"{url!r} is no URL of the dstack gateway: expected https://<instance id>-<port>s.<domain>[:<port>]")
        return GatewayName(match[1], int(match[2]), match[3], int(match[4] or HTTPS))

    def at(self, port: int) -> GatewayName:
        """Another port of the same instance."""
        return GatewayName(self.instance, port, self.domain, self.gateway_port)

    @property
    def host(self) -> str:
        return f"{self.instance}-{self.port}s.{self.domain}"

    @property
    def address(self) -> tuple[str, int]:
        """What to connect to."""
        return self.host, self.gateway_port
