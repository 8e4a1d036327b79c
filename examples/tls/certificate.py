"""Gets this node's certificate from the dstack guest agent. Run at every start, before the application.

    python3 certificate.py CONTRACT DIRECTORY [--also-port PORT …]

It waits until the node is a member in mode `tls`, which says how it is called, and writes into DIRECTORY:

    node.pem            the private key and the certificate with its chain, in one file, so that they always belong together
    app-ca.pem          whom to trust: the authority that the KMS has for this app alone
    app-ca.openssl.pem  the same for what is made with OpenSSL, such as Redis

The KMS's root is not to be trusted here: it signs for every app of that KMS, whichever owner it has.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import logging
import os
import socket
import ssl
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gateway_name import GatewayName

from dstack_p2p import P2PError, SyncDStackP2PSDK

LOG = logging.getLogger("certificate")
#: Seconds for the guest agent, which asks the KMS, which asks a chain.
_ANSWER_WITHIN = 60.0
_MAX_ANSWER = 1 << 20
#: OpenSSL takes an authority that is not self-signed for an anchor only where the file says what it is trusted for: for servers and for
#: clients. Two object identifiers behind the certificate, as `openssl x509 -trustout` writes them.
_TRUSTED_FOR = bytes.fromhex("30163014" "06082b06010505070301" "06082b06010505070302")


class CertificateError(Exception):
    """There is no certificate, and why."""


def get_certificate(guest_agent: str, names: Sequence[GatewayName]) -> tuple[str, list[str]]:
    """A new key, and the certificates from its own up to the root's, as PEM.

    The KMS signs for a CVM whose code the contract lets boot. It does not compare the names with anything: that they are the node's own is
    what that code, which is this, says.

    Raises `CertificateError`.
    """
    request = {
        "subject": names[0].instance,
        "alt_names": [name.host for name in names],
        "usage_server_auth": True,
        "usage_client_auth": True,
    }
    connection = _UnixConnection(guest_agent)
    try:
        connection.request("POST", "/GetTlsKey", json.dumps(request), {"Content-Type": "application/json"})
        response = connection.getresponse()
        body = response.read(_MAX_ANSWER)
    except (OSError, http.client.HTTPException) as error:
        hint = "name its socket with --dstack-socket"
        raise CertificateError(f"the guest agent at {guest_agent} does not answer: {error}; {hint}") from error
    finally:
        connection.close()
    try:
        answer: Any = json.loads(body)
        if response.status != 200:
            raise CertificateError(f"the guest agent gives no certificate: {answer['error']}")
        key, chain = answer["key"], [_der(certificate) for certificate in answer["certificate_chain"]]
        if not key.startswith("-----BEGIN PRIVATE KEY-----\n") or len(chain) < 2:
            raise ValueError("a PKCS#8 key, a certificate and its authority's are expected")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        # Not the answer itself: there may be a key in it.
        raise CertificateError(f"the guest agent's answer to GetTlsKey is not understood: {type(error).__name__}") from None
    return key, [ssl.DER_cert_to_PEM_cert(certificate) for certificate in chain]


def write_certificate(directory: Path, key: str, chain: Sequence[str]) -> None:
    """Puts the three files in place, each in one step."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_file(directory / "node.pem", "".join([key if key.endswith("\n") else f"{key}\n", *chain]))
    # The one that signed for this node: it signs for no other app.
    authority = chain[1]
    write_file(directory / "app-ca.pem", authority)
    text = base64.b64encode(_der(authority) + _TRUSTED_FOR).decode()
    lines = ["-----BEGIN TRUSTED CERTIFICATE-----", *textwrap.wrap(text, 64), "-----END TRUSTED CERTIFICATE-----"]
    write_file(directory / "app-ca.openssl.pem", "\n".join(lines) + "\n")


def write_file(path: Path, text: str) -> None:
    """Readable for this user alone, and never seen half written."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def _der(pem: str) -> bytes:
    """Raises `ValueError` for what is no certificate in PEM."""
    return ssl.PEM_cert_to_DER_cert(pem.strip())


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_ANSWER_WITHIN)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_ANSWER_WITHIN)
        self.sock.connect(self._path)


def main() -> int:
    parser = argparse.ArgumentParser(description="Gets this node's certificate from the dstack guest agent.")
    parser.add_argument("contract", help="address of the cluster's contract")
    parser.add_argument("directory", type=Path, help="where the application reads it")
    parser.add_argument("--also-port", type=int, action="append", default=[], help="a further port of this node that takes TLS")
    parser.add_argument("--dstack-socket", default="/var/run/dstack.sock", help="the guest agent's; default: /var/run/dstack.sock")
    parser.add_argument("--socket", help="the p2p-agent's socket; default: where agents put it")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    try:
        with SyncDStackP2PSDK(arguments.contract, "tls", socket=arguments.socket, agent=None) as sdk:
            me = sdk.register(timeout=None)
        assert me.url is not None, "a TLS member that is ready has one"
        own = GatewayName.of(me.url)
        names = [own, *(own.at(port) for port in arguments.also_port)]
        write_certificate(arguments.directory, *get_certificate(arguments.dstack_socket, names))
    except (P2PError, CertificateError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    LOG.info("a certificate for %s is in %s", ", ".join(name.host for name in names), arguments.directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
