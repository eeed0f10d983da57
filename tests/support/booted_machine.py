"""A machine with a real systemd as its PID 1: a container with this machine's own file system.

What is written there stays in memory, and is gone with the container. It has this machine's
network. It takes root, and the Debian packages ``systemd-container`` and ``python3-venv``.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from attrs import define

from tests.support.processes import ROOT
from tests.support.waiting import wait_for_exit, wait_until

#: Installs the project and its units as docs/tutorial.rst says, and boots the container. Its
#: mounts are seen by nobody else, and end with it.
BOOT = """
set -e
cd "$0"
mkdir layer root
mount -t tmpfs layer layer
mkdir layer/upper layer/work
mount -t overlay root root -o lowerdir=/,upperdir=layer/upper,workdir=layer/work
chroot root /usr/bin/python3 -m venv /opt/jobproxy
chroot root /opt/jobproxy/bin/pip install --quiet --disable-pip-version-check "$1"
chroot root /opt/jobproxy/bin/twistd jobproxy --version
cp "$1"/deploy/systemd/* root/etc/systemd/system/
exec systemd-nspawn --directory=root --machine=jobproxy-test --boot --register=no --keep-unit \
    --console=pipe systemd.unit=basic.target
"""
#: Seconds for the installation, which may have to fetch packages.
LONG = 600.0


class CannotBoot(Exception):
    """No container can be booted here."""


@define(eq=False)
class Machine:
    """A container that has booted.

    :param init: the process id of its PID 1.
    """

    init: int

    @property
    def root(self) -> Path:
        """Its file system."""
        return Path(f"/proc/{self.init}/root")

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """Run a command in the container."""
        enter = ["nsenter", "-t", str(self.init), "-m", "-u", "-i", "-p", "-C"]
        return subprocess.run(
            [*enter, *command], capture_output=True, text=True, timeout=LONG, check=False
        )

    def systemctl(self, *arguments: str) -> str:
        """Run systemctl, which has to succeed; return what it prints."""
        done = self.run("systemctl", *arguments)
        assert done.returncode == 0, f"systemctl {' '.join(arguments)}: {done.stderr}"
        return done.stdout.strip()

    def show(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.systemctl("show", "--value", "-p", name, unit)

    def configure(self, unit: str, *lines: str) -> None:
        """Set options of a unit, as ``systemctl edit`` does, in place of those set before."""
        override = self._find_override(unit)
        override.parent.mkdir(exist_ok=True)
        override.write_text("\n".join([*lines, ""]))
        self.systemctl("daemon-reload")

    def read_override(self, unit: str) -> list[str]:
        """Return the lines that the options of a unit were set with."""
        return self._find_override(unit).read_text().splitlines()

    def _find_override(self, unit: str) -> Path:
        return self.root / "etc/systemd/system" / f"{unit}.d" / "override.conf"

    def read_journal(self, unit: str) -> list[dict[str, Any]]:
        """Return the entries of a unit, its own and systemd's about it."""
        done = self.run("journalctl", "--output=json", "--no-pager", f"--unit={unit}")
        return [json.loads(line) for line in done.stdout.splitlines()]


def _find_init(process: "subprocess.Popen[bytes]", folder: Path) -> int:
    """Wait until the container has booted; return the process id of its PID 1."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while process.poll() is None:
        for child in children.read_text().split():
            if Path(f"/proc/{child}/comm").read_text() == "systemd\n":
                return int(child)
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
    raise CannotBoot((folder / "log").read_text()[-2_000:])


@contextmanager
def boot(folder: Path) -> Iterator[Machine]:
    """Boot a container while the context lasts.

    :raises CannotBoot: if this machine may not.
    """
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["unshare", "--mount", "bash", "-c", BOOT, str(folder), str(ROOT)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={name: value for name, value in os.environ.items() if "JOB" not in name},
        )
    try:
        machine = Machine(_find_init(process, folder))
        wait_until(lambda: machine.run("systemctl", "is-system-running").returncode == 0)
        yield machine
    finally:
        # The first signal asks the container to shut down, the second ends it.
        for _ in range(2):
            process.terminate()
        wait_for_exit(process)
