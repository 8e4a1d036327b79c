"""What one asks an etcd: its JSON gateway, which every client port has. Only what member.py needs of it."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Optional

CLIENT_PORT = 2379
PEER_PORT = 2380
#: Seconds for an answer: a change of the members waits for a majority of them.
_PATIENCE = 5.0
#: Bytes of an answer, at most.
_LONGEST = 1 << 20


class Refused(Exception):
    """etcd refused, or does not answer."""


@dataclass(frozen=True)
class EtcdMember:
    """One member of the cluster. A member that is removed and added again is another one."""

    id: int
    address: str
    #: It gets the data, and has no vote yet.
    is_learner: bool


def peer_url(address: str) -> str:
    return f"http://{address}:{PEER_PORT}"


def client_url(address: str) -> str:
    return f"http://{address}:{CLIENT_PORT}"


class EtcdApi:
    """The etcd of one node."""

    def __init__(self, address: str) -> None:
        self._address = address

    def members(self) -> list[EtcdMember]:
        """The members as a majority knows them now, which takes a majority.

        Raises `Refused`.
        """
        # This etcd's own list may be late. A read that a majority confirms brings it up to date, and the list with it.
        self._ask("kv/range", {"key": "AA=="})
        return _members(self._ask("cluster/member/list", {}))

    def add_learner(self, address: str) -> list[EtcdMember]:
        """Adds a member without a vote, and returns all. Raises `Refused`."""
        return _members(self._ask("cluster/member/add", {"peerURLs": [peer_url(address)], "isLearner": True}))

    def promote(self, member: EtcdMember) -> None:
        """Gives a learner its vote. Raises `Refused` while it does not have most of the data."""
        self._ask("cluster/member/promote", {"ID": str(member.id)})

    def remove(self, member: EtcdMember) -> None:
        """Raises `Refused`: etcd removes no member that the majority needs."""
        self._ask("cluster/member/remove", {"ID": str(member.id)})

    def _ask(self, path: str, question: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            f"{client_url(self._address)}/v3/{path}",
            json.dumps(question).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            try:
                response = _DIRECT.open(request, timeout=_PATIENCE)
            except urllib.error.HTTPError as error:
                # An answer as well, which may break off as any other.
                response = error
            with response:
                body = response.read(_LONGEST)
            if response.status != 200:
                raise Refused(f"{path} at {self._address}: {_reason(body)}")
            return json.loads(body)
        except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
            raise Refused(f"{path} at {self._address}: {error}") from None


def first_members(addresses: Iterable[str]) -> Optional[tuple[EtcdApi, list[EtcdMember]]]:
    """The first of these nodes with an etcd that has a majority, and its members."""
    for address in addresses:
        api = EtcdApi(address)
        try:
            return api, api.members()
        except Refused:
            continue
    return None


#: Nothing inside of the mesh is reached by a proxy.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _members(answer: Any) -> list[EtcdMember]:
    try:
        return [
            EtcdMember(int(member["ID"]), _address(member["peerURLs"]), bool(member.get("isLearner", False)))
            for member in answer["members"]
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Refused(f"no list of members: {error!r}") from None


def _address(urls: Any) -> str:
    """Of a member that this program started; raises `ValueError` for another one's."""
    for url in urls:
        address = str(url).removeprefix("http://").removesuffix(f":{PEER_PORT}")
        if peer_url(address) == url:
            return address
    raise ValueError(f"{urls} is no http://ADDRESS:{PEER_PORT}")


def _reason(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return repr(body[:200])
