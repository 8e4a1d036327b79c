"""Makes a Kafka broker's configuration of the contract's members. Run at every start, after certificate.py and before Kafka.

    python3 certificate.py  CONTRACT DIRECTORY --also-port 9094
    python3 kafka_config.py CONTRACT DIRECTORY --controllers 1,2,3

The tokens of the controllers are an operator's choice, the same on every node, and wait for each other here. Every other member is a broker
alone: one that joins changes nothing on the others. A broker's id is its token. Writes, for Apache Kafka 4 (and 3.9; before that,
controllers could not advertise where they are called):

    server.properties   holds no secret: key and certificates are in certificate.py's files
    cluster.id          for kafka-storage.sh, the same on every node
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import logging
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from certificate import write_file
from gateway_name import GatewayName

from dstack_p2p import Member, NotAMember, P2PError, SyncDStackP2PSDK

LOG = logging.getLogger("kafka")
#: Where controllers listen; brokers do at the agent's --tls-port. The gateway reaches both by names of their own.
CONTROLLER_PORT = 9094
#: Seconds between two looks while controllers are missing.
LOOK = 1.0


def render(token: int, places: Mapping[int, GatewayName], controllers: Sequence[int], directory: Path) -> str:
    """The configuration of the member with this token. `places` has it and every controller."""
    own = places[token]
    is_controller = token in controllers
    listeners = {"BROKER": own}
    if is_controller:
        listeners["CONTROLLER"] = own.at(CONTROLLER_PORT)
    called = {name: "{}:{}".format(*place.address) for name, place in listeners.items()}
    voters = ["{}@{}:{}".format(voter, *places[voter].at(CONTROLLER_PORT).address) for voter in controllers]
    copies = min(3, len(controllers))
    properties = {
        "process.roles": "broker,controller" if is_controller else "broker",
        "node.id": str(token),
        "controller.quorum.voters": ",".join(voters),
        "controller.listener.names": "CONTROLLER",
        # What it binds, on every interface, because the gateway comes in by one whose address is not known beforehand ...
        "listeners": ",".join(f"{name}://:{place.port}" for name, place in listeners.items()),
        # ... and what others connect to: a host for each port, because the gateway looks at the name alone.
        "advertised.listeners": ",".join(f"{name}://{address}" for name, address in called.items()),
        "listener.security.protocol.map": "BROKER:SSL,CONTROLLER:SSL",
        "inter.broker.listener.name": "BROKER",
        # Both sides show a certificate of this app; the connecting side also compares the name.
        "ssl.client.auth": "required",
        "ssl.endpoint.identification.algorithm": "https",
        "ssl.enabled.protocols": "TLSv1.3",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(directory / "node.pem"),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(directory / "app-ca.pem"),
        # Before the gateway does it, at 10 minutes.
        "connections.max.idle.ms": "540000",
        "log.dirs": str(directory / "log"),
        "default.replication.factor": str(copies),
        "min.insync.replicas": str(max(1, copies - 1)),
        "offsets.topic.replication.factor": str(copies),
        "transaction.state.log.replication.factor": str(copies),
        "transaction.state.log.min.isr": str(max(1, copies - 1)),
    }
    return "".join(f"{name}={value}\n" for name, value in properties.items())


def cluster_id(contract: str) -> str:
    """16 bytes in Kafka's alphabet, from the contract: every node comes to the same."""
    digest = bytearray(hashlib.sha256(bytes.fromhex(contract[2:])).digest()[:16])
    digest[0] &= 0x7F  # It must not begin with a dash, which would be an option.
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def wait_for_members(sdk: SyncDStackP2PSDK, token: int, controllers: Sequence[int]) -> dict[int, GatewayName]:
    """Where this node and the controllers are, once the contract lists all of them.

    Raises `NotAMember`, and `ValueError` for a member whose URL is none of the gateway's.
    """
    changed = threading.Event()
    told: set[int] = set()
    with sdk.monitor_peers(lambda _: changed.set(), include_self=True):
        while True:
            changed.clear()
            places = _places(sdk.get_members(include_self=True))
            missing = {token, *controllers} - set(places)
            if not missing:
                return places
            if missing != told:
                told = missing
                LOG.info("waiting for the members with tokens %s", ", ".join(map(str, sorted(missing))))
            changed.wait(LOOK)


def _places(members: Sequence[Member]) -> dict[int, GatewayName]:
    return {member.token_id: GatewayName.of(member.url) for member in members if member.url is not None}


def _tokens(text: str) -> list[int]:
    tokens = sorted(int(token) for token in text.split(","))
    if not tokens or tokens[0] < 1 or len(set(tokens)) != len(tokens):
        raise ValueError
    return tokens


def main() -> int:
    parser = argparse.ArgumentParser(description="Makes a Kafka broker's configuration of the contract's members.")
    parser.add_argument("contract", help="address of the cluster's contract")
    parser.add_argument("directory", type=Path, help="where certificate.py has written; an absolute path")
    parser.add_argument("--controllers", type=_tokens, required=True, help="tokens of the controllers, such as 1,2,3: three or five")
    parser.add_argument("--socket", help="the p2p-agent's socket; default: where agents put it")
    arguments = parser.parse_args()
    if not arguments.directory.is_absolute() or not str(arguments.directory).isprintable() or "\\" in str(arguments.directory):
        parser.error("DIRECTORY must be an absolute path without special characters: Kafka reads it from server.properties")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    try:
        with SyncDStackP2PSDK(arguments.contract, "tls", socket=arguments.socket, agent=None) as sdk:
            token = sdk.register(timeout=None).token_id
            places = wait_for_members(sdk, token, arguments.controllers)
        write_file(arguments.directory / "server.properties", render(token, places, arguments.controllers, arguments.directory))
        write_file(arguments.directory / "cluster.id", cluster_id(arguments.contract) + "\n")
    except (P2PError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    LOG.info("broker %d is %s", token, places[token].host)
    return 0


if __name__ == "__main__":
    sys.exit(main())
