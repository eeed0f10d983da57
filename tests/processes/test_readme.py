"""README.rst: every command in it is run."""

import os
import re
import subprocess
import sysconfig
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from jobproxy.sandbox.processes import find_free_port, wait_until_served
from tests.support.processes import ROOT
from tests.support.programs import needs
from tests.support.waiting import DEADLINE, wait_for_exit

README = (ROOT / "README.rst").read_text(encoding="utf-8")


def read_blocks(language: str) -> list[str]:
    """Return the code blocks of a language, without their indentation."""
    blocks = re.findall(
        rf"^\.\. code-block:: {language}\n\n((?:   .*\n|\n)+)", README, re.MULTILINE
    )
    return [re.sub("^   ", "", block, flags=re.MULTILINE) for block in blocks]


def read_commands() -> list[list[str]]:
    """Return the commands of each console block: what is typed into one terminal."""
    return [re.findall(r"^\$ (.*)$", block, re.MULTILINE) for block in read_blocks("console")]


class Machine:
    """Runs the README's commands, on ports of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = {"8080": find_free_port(), "9000": find_free_port()}
        path = [sysconfig.get_path("scripts"), os.environ["PATH"]]
        bare = {name: value for name, value in os.environ.items() if "JOB" not in name}
        self.environment = {**bare, "PATH": os.pathsep.join(path)}

    def translate(self, command: str) -> str:
        if command.startswith("jobclient "):
            # The sample's own limit is for a machine with nothing else to do.
            command += " --limit 20"
        for known, mine in self.ports.items():
            command = command.replace(known, str(mine))
        return command

    def run(self, command: str) -> str:
        """Run a command to its end, and return what it prints."""
        done = subprocess.run(
            ["bash", "-c", self.translate(command)],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    @contextmanager
    def keep_running(self, command: str) -> Iterator[None]:
        """Run a daemon in its terminal until the end."""
        port = self.ports["9000" if "jobserver" in command else "8080"]
        listening = f"{self.translate(command)} --listen tcp:{port}:interface=127.0.0.1"
        process = subprocess.Popen(
            ["bash", "-c", f"exec env {listening}"],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.DEVNULL,
        )
        try:
            wait_until_served(process, port)
            yield
        finally:
            process.terminate()
            wait_for_exit(process)


@needs("curl", "curl")
def test_each_command_does_what_the_readme_says(tmp_path: Path) -> None:
    """Each command does what the README says, in order, but for those that CI runs itself."""
    machine = Machine(tmp_path)
    # The first one shows what it is about; it is run in its turn, step by step.
    first, *commands = [command for block in read_commands() for command in block]
    printed = {}
    with ExitStack() as terminals:
        for command in commands[2:]:
            if "twistd -n" in command:
                terminals.enter_context(machine.keep_running(command))
            else:
                printed[command.split()[0]] = machine.run(command)
    assert commands[:2] == ["make demo", "make test"]
    assert first in commands
    assert printed.keys() == {"curl", "jobclient"}
    assert '"state":"completed"' in printed["curl"]
    assert "WORK SAMPLE RESULT: PASSED" in printed["jobclient"]


def test_the_first_screen_has_the_commands_to_try_it() -> None:
    """A request and the commands that try it are in the first 25 lines, and all is short."""
    lines = README.splitlines()
    first = "\n".join(lines[:25])
    for command in ("$ curl ", "$ make demo", "$ make test"):
        assert command in first
    assert len(lines) < 150


def test_ci_runs_the_commands_that_set_up_an_environment() -> None:
    """The commands that set up an environment are those that CI runs."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "make demo" in script
    assert "make check\n" in script
    assert re.search("^check:.* test$", (ROOT / "Makefile").read_text(), re.MULTILINE)
