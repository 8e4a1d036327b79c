"""Three nodes of hello-p2p find and greet each other."""

from __future__ import annotations

import shlex
import subprocess

import pytest
from cluster import HelloCluster, commands, present


def test_three_nodes_find_and_greet_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    # What is set for the world outside is no way to members.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    with HelloCluster(3) as cluster:
        cluster.wait_until_all_have_greeted()
        first, second, third = cluster.world.nodes
        assert cluster.read(first, "/peers") == ["10.0.1.2", "10.0.1.3"]
        assert cluster.read(second, "/hello", of=third) == {"hello": "hello 10.0.1.2, this is node-3"}
        info = cluster.read(third, "/info", of=first)
        assert (info["name"], info["token"], info["address"]) == ("node-1", 1, "10.0.1.1")
        assert info["contract"].lower() == cluster.world.contract.lower()
        assert info["answers"] == {
            "10.0.1.2": "hello 10.0.1.1, this is node-2",
            "10.0.1.3": "hello 10.0.1.1, this is node-3",
        }


def test_what_it_says_to_try_can_be_typed(capsys: pytest.CaptureFixture[str]) -> None:
    with HelloCluster(2) as cluster:
        present(cluster)
        assert "10.0.1.2 answered: hello 10.0.1.1, this is node-2" in capsys.readouterr().out
        said = [subprocess.run(shlex.split(command), capture_output=True, text=True) for command in commands(cluster)]
        info, hello, status, log, revoke = [(one.returncode, one.stdout) for one in said]
        assert info[0] == hello[0] == log[0] == revoke[0] == 0, said
        assert '"token": 2' in info[1] and "hello 10.0.1.1, this is node-2" in hello[1] and "10.0.1.2" in log[1], said
        # 1: the guest agent is a simulator.
        assert status[0] in (0, 1) and "node-2" in status[1], said
        first = cluster.world.nodes[0]
        cluster.wait_until("the revoked node to be forgotten", lambda: cluster.read(first, "/peers") == [])
