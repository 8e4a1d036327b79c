"""What `run` shows, and the commands that it says to try: a leader that the others do not reach is replaced."""

from __future__ import annotations

import json
import shlex
import subprocess

import pytest
from counter_cluster import CounterCluster, address, commands, present


def test_three_nodes_count_and_a_leader_that_is_not_reached_is_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    with CounterCluster(3) as cluster:
        present(cluster)
        assert "10.0.1.3 took an increment: the count is 3" in capsys.readouterr().out
        leader = cluster.leader()
        answers = []
        for command in commands(cluster):
            done = subprocess.run(shlex.split(command), capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, f"{command}: {done}"
            answers.append(done.stdout)
        first, before, _, second, after, _ = answers
        assert (json.loads(first)["value"], json.loads(second)["value"]) == (4, 5), "an increment was lost, or counted twice"
        seats = [json.loads(status)["contract"] for status in (before, after)]
        assert seats[0]["leader"] == leader.index != seats[1]["leader"], seats
        cluster.wait_until(f"{address(leader)} to follow", cluster.ask, leader, "/health")
