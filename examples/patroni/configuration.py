"""Patroni's configuration: where this node is, who may connect, and when to fail over."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from passwords import Passwords

POSTGRES_PORT = 5432
REST_PORT = 8008
ETCD_PORT = 2379

#: Of the whole cluster, kept in etcd from its first start on: `patronictl edit-config` changes them.
CLUSTER: dict[str, Any] = {
    # A leader that is not heard of for 32 s is replaced. It does without etcd for 15 s, which may need 10 to elect a leader of its own.
    "ttl": 32,
    "loop_wait": 2,
    "retry_timeout": 15,
    # Without etcd a leader stays one as long as it reaches all others.
    "failsafe_mode": True,
    # A write is acknowledged when a second node has it, as long as there is one: a fail-over loses nothing.
    "synchronous_mode": True,
    "postgresql": {
        "use_pg_rewind": True,
        "use_slots": True,
        "parameters": {
            "wal_log_hints": "on",
            # A path of the mesh that fails is replaced within seconds: what is silent for longer is gone.
            "wal_sender_timeout": "15s",
            "wal_receiver_timeout": "15s",
        },
    },
}


@dataclass(frozen=True)
class Place:
    """Where things are on this machine. The base is root's, so that no other user decides what root writes there."""

    base: Path
    #: PostgreSQL's programs.
    bin_dir: Path
    #: The user that PostgreSQL runs as, and that is its superuser by the local socket, without a password.
    user: str

    @property
    def postgres(self) -> Path:
        """The user's, with nothing but the data in it: Patroni renames or removes them, when they cannot be used."""
        return self.data.parent

    @property
    def data(self) -> Path:
        return data_directory(self.base)

    @property
    def run(self) -> Path:
        """For the local socket, and the passwords that replication reads."""
        return self.base / "run"

    @property
    def config(self) -> Path:
        return self.base / "patroni.yml"


def data_directory(base: Path) -> Path:
    return base / "postgres" / "data"


def hba(listed: list[str], superuser: str) -> list[str]:
    """Who may connect: the members that the contract lists, from the addresses that no other node can use, with a password."""
    rules = ["local all all peer", f"host all {superuser} all reject"]
    for address in listed:
        rules += [f"host replication replicator {address}/32 scram-sha-256", f"host all all {address}/32 scram-sha-256"]
    return rules


def hba_since(listed: list[str], place: Place) -> Optional[float]:
    """When PostgreSQL's `pg_hba.conf` was written, if it says who may connect; `None` while it says something else."""
    try:
        with (place.data / "pg_hba.conf").open(errors="replace") as file:
            since = os.fstat(file.fileno()).st_mtime
            lines = [line for line in file.read().splitlines() if line and not line.startswith("#")]
    except FileNotFoundError:
        return None
    return since if lines == hba(listed, place.user) else None


def end_of_others(listed: list[str], since: float) -> str:
    """SQL that ends the connections of all others: what a revoked node had locked is free, and no transaction waits for its replication.

    Answers whether PostgreSQL has read `pg_hba.conf` since then, so that they cannot be back.
    """
    addresses = ", ".join(f"'{address}'" for address in listed)
    which = f"client_addr IS NOT NULL AND client_addr NOT IN ({addresses})"
    ended = f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {which}"
    # They are ended whatever the answer is: what is on the left is always evaluated.
    return f"SELECT ({ended}) >= 0 AND pg_conf_load_time() >= to_timestamp({since})"


def patroni_yml(name: str, address: str, listed: list[str], place: Place, passwords: Passwords, telling: int) -> bytes:
    """As JSON, which is YAML. Contains passwords."""
    # This node's own etcd first; where one runs, is found by asking.
    etcds = [address, *(other for other in listed if other != address)]
    config = {
        "scope": "mesh",
        "name": name,
        "etcd3": {"hosts": [f"{host}:{ETCD_PORT}" for host in etcds]},
        "restapi": {
            "listen": f"{address}:{REST_PORT}",
            "connect_address": f"{address}:{REST_PORT}",
            # For requests that change something; everyone may ask for the state.
            "authentication": {"username": "patroni", "password": passwords.of("restapi")},
        },
        "bootstrap": {
            "dcs": CLUSTER,
            "initdb": ["data-checksums", {"encoding": "UTF8"}, {"locale": "C.UTF-8"}],
        },
        "postgresql": {
            "listen": f"{address}:{POSTGRES_PORT}",
            "connect_address": f"{address}:{POSTGRES_PORT}",
            "data_dir": str(place.data),
            "bin_dir": str(place.bin_dir),
            "pgpass": str(place.run / "pgpass"),
            "use_unix_socket": True,
            # An old leader that cannot be made to follow is copied again, instead of staying out for ever. What is lost with its data was
            # never acknowledged: by `synchronous_mode` a failover is to a node that has everything that was.
            "remove_data_directory_on_rewind_failure": True,
            # A node that joins does not wait for the leader's next checkpoint, which takes its time.
            "basebackup": [{"checkpoint": "fast"}],
            "parameters": {"unix_socket_directories": str(place.run)},
            "authentication": {
                "superuser": {"username": place.user},
                "replication": {"username": "replicator", "password": passwords.of("replication")},
                "rewind": {"username": "rewinder", "password": passwords.of("rewind")},
            },
            # Patroni writes the file only if these lines are others than those of its last reading, which it may have made nothing of.
            "pg_hba": [f"# telling {telling}", *hba(listed, place.user)],
        },
    }
    return json.dumps(config, indent=2).encode() + b"\n"
