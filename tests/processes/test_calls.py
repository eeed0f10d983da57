"""How much work a job is, as a count that does not depend on the machine."""

import re

import pytest

from tests.support.processes import ROOT, run

#: Function calls a job, those written in C included.
MOST = 717
#: The fewest calls of so many runs count: where others use the processor, too, the loop of the
#: proxy has more and shorter turns for the same work.
RUNS = 3


@pytest.mark.timeout(600)
def test_calls_a_job_stay_few() -> None:
    """A job costs no more function calls than it may."""
    script = str(ROOT / "benchmarks" / "calls.py")
    for _ in range(RUNS):
        done = run("python", script, "--max", str(MOST), timeout=580)
        if done.returncode == 0:
            break
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.match(r"\d+ calls a job\n", done.stdout)
