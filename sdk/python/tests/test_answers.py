"""What the agent says, and what is made of it."""

from __future__ import annotations

from typing import Any

import pytest
from fake_agent import CONTRACT, Json, peer, peers, sample, status, tls_peer

from dstack_p2p import WrongAgent
from dstack_p2p._view import Peers, Status


def test_statuses_as_the_agent_writes_them_are_read() -> None:
    active = Status.of(sample("degraded"))
    assert (active.contract, active.ready, active.membership, active.token_id) == (CONTRACT, True, "active", 7)
    assert active.verdict == "degraded" and active.findings
    fenced = Status.of(sample("fenced"))
    assert fenced.membership == "fenced" and "meshctl reinstate 7" in (fenced.membership_hint or "")
    starting = Status.of(sample("starting"))
    assert (starting.membership, starting.token_id, starting.ready) == ("unknown", None, False)


def test_lists_of_peers_are_sorted_and_without_those_that_leave() -> None:
    listed = Peers.of(peers(tls_peer(9), peer(3), peer(5, state="removing"), peer(11, state="down")))
    assert [member.token_id for member in listed.others] == [3, 9, 11]
    assert listed.own is not None and listed.own.endpoint == "10.0.1.7"
    assert not listed.reports_dev_urls
    unknown = Peers.of(peers(membership="unknown"))
    assert unknown.own is None and unknown.membership == "unknown"


def test_a_development_url_comes_before_the_others() -> None:
    listed = Peers.of(peers(tls_peer(9, dev_url="http://localhost:1"), own=peer(7, dev_url=None)))
    assert listed.reports_dev_urls
    assert listed.others[0].endpoint == "http://localhost:1"


def _without(answer: Json, *path: str) -> Json:
    inner: Any = answer
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    return answer


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ([], "is not an object"),
        ({}, "schema None"),
        ({**status(), "schema": "meshctl.status/v2"}, "schema 'meshctl.status/v2'"),
        ({**status(), "verdict": "ok"}, "status.verdict is not an object"),
        ({**status(), "warnings": {}}, "`warnings` that is not a list"),
        ({**status(), "warnings": ["W101"]}, "status.warnings is not an object"),
        (_without(status(), "registry", "contract"), "status.registry has no `contract`"),
        (_without(status(), "self", "membership_hint"), "has no `membership_hint`"),
        (status(token_id="7"), "not a whole number"),
        (status(token_id=True), "not a whole number"),
        (status(kind=None), "`kind` that is not a text"),
    ],
)
def test_a_status_that_is_none_says_why(answer: Any, complaint: str) -> None:
    with pytest.raises(WrongAgent) as refused:
        Status.of(answer)
    assert complaint in refused.value.message
    assert "hint: use a dstack-p2p of the agent's version" in str(refused.value)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        status(),
        peers(peer(3, token_id=None)),
        peers(peer(3, address=10)),
        peers(peer(3, url=[])),
        {**peers(), "peers": None},
        {**peers(), "self": {}},
    ],
)
def test_a_list_of_peers_that_is_none_is_refused(answer: Any) -> None:
    with pytest.raises(WrongAgent):
        Peers.of(answer)
