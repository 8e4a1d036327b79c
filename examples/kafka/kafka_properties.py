"""Kafka's files, made of the contract's members. Pure: no files, no agent, no clock."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

#: Where brokers listen, and controllers, on a node's mesh address. Neither is a port of the agent's.
BROKER_PORT, CONTROLLER_PORT = 9092, 9093


def server_properties(token: int, addresses: Mapping[int, str], controllers: Sequence[int], data: Path) -> str:
    """`server.properties` of the node with this token, for Apache Kafka 3.5 to 4 in KRaft mode. `addresses` has it and every controller,
    by token; `data` is where Kafka keeps its log."""
    own = addresses[token]
    is_controller = token in controllers
    listeners = {"BROKER": BROKER_PORT, **({"CONTROLLER": CONTROLLER_PORT} if is_controller else {})}
    copies = min(3, len(controllers))
    properties = {
        "process.roles": "broker,controller" if is_controller else "broker",
        "node.id": str(token),
        "controller.quorum.voters": ",".join(f"{voter}@{addresses[voter]}:{CONTROLLER_PORT}" for voter in controllers),
        "controller.listener.names": "CONTROLLER",
        # The mesh address, and no other: who gets there is a member, and the tunnel encrypts what is said.
        "listeners": ",".join(f"{name}://{own}:{port}" for name, port in listeners.items()),
        "advertised.listeners": f"BROKER://{own}:{BROKER_PORT}",
        "listener.security.protocol.map": "BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "BROKER",
        # A path of the mesh that fails is replaced within seconds, and that is no reason to elect.
        "controller.quorum.election.timeout.ms": "5000",
        "controller.quorum.fetch.timeout.ms": "5000",
        "log.dirs": str(data),
        "default.replication.factor": str(copies),
        "min.insync.replicas": str(max(1, copies - 1)),
        "offsets.topic.replication.factor": str(copies),
        "transaction.state.log.replication.factor": str(copies),
        "transaction.state.log.min.isr": str(max(1, copies - 1)),
    }
    return "".join(f"{name}={value}\n" for name, value in properties.items())


def client_properties(addresses: Mapping[int, str]) -> str:
    """What a client of Kafka begins with: every member. One that runs no Kafka is passed over."""
    return f"bootstrap.servers={','.join(f'{addresses[token]}:{BROKER_PORT}' for token in sorted(addresses))}\n"


def cluster_id(contract: str) -> str:
    """16 bytes in Kafka's alphabet, from the contract: every node comes to the same."""
    digest = bytearray(hashlib.sha256(bytes.fromhex(contract[2:])).digest()[:16])
    digest[0] &= 0x7F  # It must not begin with a dash, which would be an option.
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")
