"""That the examples' `run` can be run: what it calls is there. The rest needs root, and minutes."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

EXAMPLES = Path(__file__).parents[3] / "examples"


def test_what_the_examples_run_calls_is_there() -> None:
    [targets] = re.findall(r'^make .*-C "\$root" (.*) >&2$', (EXAMPLES / "show").read_text(), re.MULTILINE)
    made = subprocess.run(["make", "--dry-run", "-C", EXAMPLES.parent, *targets.split()], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    runs = list(EXAMPLES.glob("*/run"))
    assert {"counter", "hello-p2p"} <= {run.parent.name for run in runs}
    for run in runs:
        [program] = re.findall(r'^exec "\$\(dirname "\$0"\)/\.\./show" (\S+) "\$@"$', run.read_text(), re.MULTILINE)
        assert (EXAMPLES / program).is_file() and run.stat().st_mode & 0o100, run
