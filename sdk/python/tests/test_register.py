"""`register`: how a node becomes a member, and everything that may prevent it."""

from __future__ import annotations

import asyncio
import logging
import shlex
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fake_agent import CONTRACT, FakeAgent, Json, peer, peers, sample, status, tls_peer
from waiting import PATIENCE, traceback_of, until, until_asked

from dstack_p2p import (
    DStackP2PSDK,
    Member,
    NoAgent,
    NotAMember,
    NotPermitted,
    P2PError,
    Progress,
    Stage,
    TimedOut,
    WrongAgent,
    WrongContract,
)

pytestmark = pytest.mark.usefixtures("quick")
MINT = f"meshctl mint --to <OWNER-ADDRESS> --instance 3f9c --contract {CONTRACT}"
OTHER = "0x" + "ab" * 20


def sdk(socket: Path, mode: str = "wireguard", contract: str = CONTRACT) -> DStackP2PSDK:
    return DStackP2PSDK(contract, mode, socket=str(socket), agent=None)


def register(socket: Path, mode: str = "wireguard", timeout: float = PATIENCE, **options: Any) -> Member:
    return asyncio.run(sdk(socket, mode).register(timeout, **options))


def refused(socket: Path, mode: str = "wireguard", timeout: float = 0.3) -> P2PError:
    with pytest.raises(P2PError) as error:
        register(socket, mode, timeout)
    assert traceback_of(error.value).count("Traceback") == 1, "it brings those of other libraries"
    return error.value


def test_a_member_is_recognized_at_once(socket: Path) -> None:
    with FakeAgent(socket, status(), peers(peer(3))):
        member = register(socket)
    assert (member.token_id, member.name, member.address) == (7, "node-7", "10.0.1.7")


def test_contracts_are_the_same_in_any_spelling(socket: Path) -> None:
    with FakeAgent(socket, status(), peers()):
        upper = "0x" + CONTRACT[2:].upper()
        assert asyncio.run(sdk(socket, contract=upper).register(PATIENCE)).token_id == 7


def test_every_step_is_reported_once_and_logged(socket: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        steps: list[Progress] = []

        async def tell(step: Progress) -> None:
            await asyncio.sleep(0)
            steps.append(step)

        agent = FakeAgent(socket, "the dstack guest agent", peers(membership="unknown"))
        registering = asyncio.ensure_future(sdk(socket).register(PATIENCE, tell))
        for stage, change in [
            (Stage.NO_AGENT, agent.start),
            (Stage.STARTING, lambda: agent.say(status=status("unknown"))),
            (Stage.READING, lambda: agent.say(status=status("no-token", hint=MINT))),
            (Stage.NO_TOKEN, lambda: agent.say(status=status("registering", hint="meshctl register"))),
            (Stage.REGISTERING, lambda: agent.say(status=status("active", ready=False))),
            (Stage.CONVERGING, lambda: agent.say(peers(), status())),
        ]:
            await until(f"the stage {stage}", lambda: steps and steps[-1].stage is stage)
            assert not registering.done()
            change()
        assert (await registering).token_id == 7
        agent.stop()
        stages = [step.stage for step in steps]
        assert stages == sorted(set(stages), key=stages.index), f"reported twice: {stages}"
        no_token = next(step for step in steps if step.stage is Stage.NO_TOKEN)
        assert no_token.command == MINT
        assert f"an operator has to run: {MINT}" in str(no_token)

    with caplog.at_level(logging.INFO, logger="dstack_p2p"):
        asyncio.run(scenario())
    # Without any configuration of logging, Python shows warnings: what an operator has to do is one.
    shown = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert any(MINT in message for message in shown), shown


def test_ages_that_grow_are_no_news(socket: Path) -> None:
    async def scenario() -> None:
        steps: list[Progress] = []
        agent = FakeAgent(socket, _old(31), peers(membership="unknown"))
        with agent:
            registering = asyncio.ensure_future(sdk(socket).register(PATIENCE, steps.append))
            await until("the first step", lambda: steps)
            for age in (32, 133):
                await until_asked(agent, "/v1/status", partial(agent.say, status=_old(age)), times=2)
            agent.say(peers(), status())
            await registering
        assert [step.message for step in steps] == ["converging: the last agreed read is 31 s old"]

    asyncio.run(scenario())


def _old(age: int) -> Json:
    said = status("active", ready=False)
    message = f"the last agreed read is {age} s old"
    said["warnings"] = [{"code": "W301", "severity": "warning", "message": message, "hint": None}]
    return said


def test_progress_may_be_an_ordinary_function_and_its_error_ends_it(socket: Path) -> None:
    def fail(step: Progress) -> None:
        raise RuntimeError(step.message)

    with FakeAgent(socket, "the dstack guest agent", peers(membership="unknown")):
        with pytest.raises(RuntimeError, match="waiting for the dstack guest agent"):
            register(socket, progress=fail)


@pytest.mark.parametrize(
    ("membership", "kind"),
    [("no-token", NotAMember), ("ambiguous", NotAMember), ("registering", NotAMember), ("revoked", NotPermitted)],
)
def test_a_caller_that_waits_for_an_operator_gets_the_command(socket: Path, membership: str, kind: type[P2PError]) -> None:
    finding = {"code": "W101", "id": "x", "severity": "warning", "peer": None, "since": "", "message": "why", "hint": None}
    said = status(membership, hint=MINT)
    said["warnings"] = [{**finding, "code": "W301", "severity": "critical", "message": "else"}, finding]
    with FakeAgent(socket, said, peers(membership=membership, own=peer(7))):
        error = refused(socket)
    assert type(error) is kind
    assert error.command == MINT
    assert str(error) == f"{membership}: why\nhint: an operator has to run: {MINT}"


def _warning(code: str, severity: str, message: str) -> Json:
    return {"code": code, "id": "x", "severity": severity, "peer": None, "since": "", "message": message, "hint": f"do {message}"}


@pytest.mark.parametrize(
    ("membership", "findings", "cause"),
    [
        # A member that waits for a relayer with its new endpoint, and cannot set its routes.
        ("active", ["W501", "W107"], "W501"),
        ("active", ["W106", "W109", "W302", "W501"], "W501"),
        ("active", ["W109", "W502"], "W502"),
        ("active", ["W201"], "W201"),
        ("unknown", ["W303", "W504"], "W303"),
        ("unknown", ["W504", "W302"], "W302"),
    ],
)
def test_what_hinders_is_named_before_what_stands_beside_it(
    socket: Path, membership: str, findings: list[str], cause: str
) -> None:
    said = status(membership, ready=False)
    said["warnings"] = [_warning(code, "info" if code == "W107" else "warning", f"because of {code}") for code in findings]
    with FakeAgent(socket, said, peers(membership=membership)):
        error = refused(socket)
    assert type(error) is TimedOut
    assert error.message.endswith(f": because of {cause}"), error
    assert error.hint == f"do because of {cause}"


def test_an_information_is_no_cause(socket: Path) -> None:
    said = status("active", ready=False)
    said["warnings"] = [_warning("W107", "info", "waits for a relayer")]
    with FakeAgent(socket, said, peers()):
        error = refused(socket)
    assert error.message.endswith("converging: the peers are being configured"), error


def test_a_fenced_node_is_not_waited_for(socket: Path) -> None:
    with FakeAgent(socket, sample("fenced"), peers(membership="fenced")):
        error = refused(socket, timeout=PATIENCE)
    assert isinstance(error, NotAMember)
    assert error.command is not None and error.command.startswith("meshctl reinstate 7")


@pytest.mark.parametrize(
    "said", ["the dstack guest agent", status("unknown"), status("active", ready=False)]
)
def test_what_is_under_way_times_out(socket: Path, said: Any) -> None:
    with FakeAgent(socket, said, peers(membership="unknown")):
        error = refused(socket)
    assert type(error) is TimedOut
    assert "not ready after 0.3 s" in str(error) and "timeout=" in error.hint


def test_an_agent_of_another_cluster_is_refused(socket: Path) -> None:
    other = status()
    other["registry"]["contract"] = OTHER
    with FakeAgent(socket, other, peers()):
        error = refused(socket, timeout=PATIENCE)
    assert isinstance(error, WrongContract)
    assert OTHER in error.message and f"--contract {CONTRACT}" in error.hint


def test_an_agent_of_the_other_mode_is_refused(socket: Path) -> None:
    with FakeAgent(socket, status(), peers()):
        error = refused(socket, "tls", timeout=PATIENCE)
    assert isinstance(error, WrongAgent)
    assert "--mode tls" in error.hint


@pytest.mark.parametrize("left", [False, True])
def test_without_an_agent_it_says_where_none_is(socket: Path, left: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dstack_p2p._sdk._AGENT_WITHIN", 0.3)
    if left:
        FakeAgent(socket, status(), peers()).start().stop(leave_socket=True)
        assert socket.exists()
    error = refused(socket, timeout=PATIENCE)
    assert type(error) is NoAgent
    assert str(socket) in error.message and "start `p2p-agent`" in error.hint


def test_what_may_not_be_opened_is_not_permitted(socket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    # Root, as which these tests may run, is never refused.
    monkeypatch.setattr("anyio.connect_unix", refuse)
    error = refused(socket, timeout=PATIENCE)
    assert isinstance(error, NotPermitted)
    assert str(socket) in error.message


@pytest.mark.parametrize(
    ("code", "body", "complaint"),
    [
        (200, b"<html>", "does not answer JSON"),
        (200, b"[" * 100_000, "does not answer JSON"),
        (200, b'{"schema": "x"}', "is of schema 'x'"),
        (404, b"{}", "answers HTTP 404"),
        (500, b"{}", "answers HTTP 500"),
    ],
)
def test_something_else_behind_the_socket_is_refused(socket: Path, code: int, body: bytes, complaint: str) -> None:
    with FakeAgent(socket, status(), peers()) as agent:
        agent.answers["/v1/status"] = (code, body)
        error = refused(socket, timeout=PATIENCE)
    assert isinstance(error, WrongAgent)
    assert complaint in error.message


def test_an_agent_that_refuses_this_user_says_what_to_do(socket: Path) -> None:
    with FakeAgent(socket, status(), peers()) as agent:
        agent.answers["/v1/status"] = (403, b'{"error": "user 1000 may not", "hint": "`--api-group`"}')
        error = refused(socket, timeout=PATIENCE)
    assert isinstance(error, NotPermitted)
    assert error.message.endswith(": user 1000 may not") and error.hint == "`--api-group`"


def test_an_endless_answer_is_not_read_to_its_end(socket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dstack_p2p._api._MAX_ANSWER", 1 << 20)
    with FakeAgent(socket, status(), peers()) as agent:
        agent.answers["/v1/status"] = (200, b" " * (2 << 20))
        error = refused(socket, timeout=PATIENCE)
    assert isinstance(error, WrongAgent) and "more than 1 MiB" in error.message


def _tls(url: Any) -> tuple[Json, Json]:
    said = status(kind="tls", address=None, url=url)
    said["warnings"] = [
        {
            "code": "W109", "id": "gateway-domain-unlisted", "severity": "warning", "peer": None, "since": "",
            "message": "gateway domain `gw.example` is not among the contract's base domains",
            "hint": f"meshctl domain add gw.example --contract {CONTRACT}",
        }
    ] if url is None else []  # fmt: skip
    return said, peers(own=tls_peer(7, url=url))


def test_a_tls_node_is_there_when_it_has_a_url(socket: Path) -> None:
    url = "https://x-8443s.gw.example"
    with FakeAgent(socket, *_tls(url)):
        assert register(socket, "tls").url == url
    with FakeAgent(socket, *_tls(None)):
        error = refused(socket, "tls")
    assert isinstance(error, NotAMember)
    assert error.command == f"meshctl domain add gw.example --contract {CONTRACT}"


def test_ones_own_url_is_registered_when_the_contract_has_it(socket: Path) -> None:
    url = "http://localhost:8080/a'b"
    with FakeAgent(socket, status(), peers(own=peer(7, dev_url=url))):
        assert register(socket, url).endpoint == url
    with FakeAgent(socket, status(), peers(own=peer(7, dev_url=None))):
        error = refused(socket, url)
    assert isinstance(error, NotAMember)
    assert error.command == f"meshctl dev-url set 7 {shlex.quote(url)} --contract {CONTRACT}"


def test_the_gateways_url_needs_no_development_mode(socket: Path) -> None:
    url = "https://x-8443s.gw.example"
    with FakeAgent(socket, *_tls(url)):
        assert register(socket, url).endpoint == url


def test_an_agent_that_knows_nothing_of_development_urls_is_refused(socket: Path) -> None:
    with FakeAgent(socket, status(), peers()):
        error = refused(socket, "http://localhost:8080", timeout=PATIENCE)
    assert isinstance(error, WrongAgent)
    assert "development URLs" in error.message
