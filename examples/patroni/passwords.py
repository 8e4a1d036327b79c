"""The passwords that the cluster's databases use among themselves: no operator hands them out or has to know them.

dstack's KMS gives every CVM of an app the same key for the same path, and gives it to no other. So each node derives the passwords
by itself, from the guest agent that runs beside it.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import socket

#: Bytes of the guest agent's answer, at most.
_LONGEST = 1 << 16
_PATIENCE = 10.0


class Passwords:
    """One for each purpose; the same on every node of the app."""

    def __init__(self, dstack_socket: str, contract: str) -> None:
        """Asks the guest agent. Raises `OSError`, with what to do, when it gives no key."""
        try:
            self._key = _app_key(dstack_socket, contract)
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
            hint = "is it mounted, and --dstack-socket right?"
            raise OSError(f"no key from the dstack guest agent at {dstack_socket}: {error!r}; {hint}") from None

    def of(self, purpose: str) -> str:
        return hmac.new(self._key, purpose.encode(), hashlib.sha256).hexdigest()


def _app_key(dstack_socket: str, contract: str) -> bytes:
    question = json.dumps({"path": f"mesh-postgres/{contract.lower()}", "purpose": "passwords"})
    connection = http.client.HTTPConnection("dstack", timeout=_PATIENCE)
    with socket.socket(socket.AF_UNIX) as connection.sock:
        connection.sock.settimeout(_PATIENCE)
        connection.sock.connect(dstack_socket)
        connection.request("POST", "/GetKey", question, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = response.read(_LONGEST)
        if response.status != 200:
            raise ValueError(f"HTTP status {response.status}")
        key = bytes.fromhex(json.loads(answer)["key"])
    if len(key) != 32:
        raise ValueError(f"a key of {len(key)} bytes")
    return key
