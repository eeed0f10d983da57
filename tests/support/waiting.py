"""Waiting: an event ends it; the deadline is far off, and ends only what hangs."""

import subprocess
import time
from collections.abc import Callable

#: Seconds for anything that a test waits for; a slow and busy machine needs a tenth of it.
DEADLINE = 60.0
#: Options of a proxy none of whose own deadlines is to end anything in a test: whatever waits for
#: one of them runs into ours.
PATIENT = {"wait": "900", "start-timeout": "900", "drain-timeout": "900"}


def wait_until(condition: Callable[[], object]) -> None:
    """Poll until something is true."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.002)


def wait_for_exit(process: "subprocess.Popen[bytes]") -> int:
    """Wait for the end of a process that was asked to end.

    :return: its exit code, or the negative number of the signal that ended it.
    """
    return process.wait(DEADLINE)
