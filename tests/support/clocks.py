"""The clocks of processes that a test starts: they jump when it says so."""

import os
from pathlib import Path

import pytest
from attrs import define

#: Is imported by Python before everything else of a process.
SITE = """
import time
from pathlib import Path

def shift(name):
    offset, read = Path(__file__).with_name(name), getattr(time, name)
    setattr(time, name, lambda: read() + int(offset.read_text()))

shift("time")
shift("monotonic")
"""


@define
class Clock:
    """One clock of all processes that were started after it was made."""

    _offset: Path

    def jump(self, seconds: int) -> None:
        """Make it show so many seconds more, or less, than the time."""
        # No process may see a file that is half written.
        new = self._offset.with_suffix(".new")
        new.write_text(str(seconds))
        new.rename(self._offset)


@define
class Clocks:
    """The clocks that can be made to jump.

    :ivar wall: what ``time.time`` returns.
    :ivar monotonic: what ``time.monotonic`` returns.
    """

    wall: Clock
    monotonic: Clock


def make_clocks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Clocks:
    """Return the clocks of the processes that are started until the patches are undone."""
    clocks = Clocks(Clock(folder / "time"), Clock(folder / "monotonic"))
    clocks.wall.jump(0)
    clocks.monotonic.jump(0)
    (folder / "sitecustomize.py").write_text(SITE)
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    return clocks
