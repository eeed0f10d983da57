"""README.rst: every command in it is run, and every option and problem in it exists."""

import os
import re
import subprocess
import sysconfig
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from jobproxy import tap
from jobproxy.daemon.options import Option
from jobproxy.sandbox.processes import find_free_port, wait_until_served
from jobproxy.wire.problems import Kind
from tests.support.processes import ROOT
from tests.support.programs import needs
from tests.support.waiting import DEADLINE, wait_for_exit

README = (ROOT / "README.rst").read_text(encoding="utf-8")
#: The name and the default of each option.
OPTION_ROWS = re.findall(r"   \* - ``--([\w-]+)``\n     - (.*)\n", README)


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
    """Runs the README's commands, on ports of its own and with a tunnel that only takes notes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = {"8080": find_free_port(), "9000": find_free_port()}
        tunnel = folder / "ngrok"
        tunnel.write_text("#!/bin/sh\nprintf '%s' \"$*\" > tunnel\n")
        tunnel.chmod(0o755)
        path = [str(folder), sysconfig.get_path("scripts"), os.environ["PATH"]]
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
        if "CALLBACK_URL=" in command:
            # The proxy of an earlier terminal still has its port.
            port = find_free_port()
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
    commands = [command for block in read_commands() for command in block]
    printed = {}
    with ExitStack() as terminals:
        for command in commands[2:]:
            if "twistd -n" in command:
                terminals.enter_context(machine.keep_running(command))
            else:
                printed[command.split()[0]] = machine.run(command)
    assert commands[:2] == ["make demo", "make test"]
    assert printed.keys() == {"curl", "jobclient", "ngrok"}
    assert '"state":"completed"' in printed["curl"]
    assert "WORK SAMPLE RESULT: PASSED" in printed["jobclient"]
    assert (tmp_path / "tunnel").read_text() == machine.translate("http 8080")


def test_ci_runs_the_commands_that_set_up_an_environment() -> None:
    """The commands that set up an environment are those that CI runs."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "make demo" in script
    assert "make check\n" in script
    assert re.search("^check:.* test$", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("option", tap.Options.table, ids=lambda option: option.name)
def test_each_option_is_in_the_readme(option: Option) -> None:
    """Each option is in the README, with its default."""
    place = f"README.rst, table of options, --{option.name}"
    default = dict(OPTION_ROWS).get(option.name)
    assert default is not None, f"{place}: add a row"
    special = {"callback-url": "required", "secret-file": "a random key"}
    expected = special.get(option.name, option.default or "none")
    assert default.strip("`") == expected, f"{place}: the default is {expected}"


def test_no_other_option_is_in_the_readme() -> None:
    """No option is in the README that does not exist, and none is there twice."""
    names = [name for name, _ in OPTION_ROWS]
    unknown = set(names) - {option.name for option in tap.Options.table}
    assert not unknown, f"README.rst: remove {unknown}, which jobproxy/app/options.py lacks"
    assert len(names) == len(set(names)), "README.rst: an option has two rows"


def test_each_problem_is_in_the_readme() -> None:
    """Each problem that a client can be told of is in the README, and no other."""
    table = README.partition("``urn:jobproxy:problem:…``")[2].partition("\nBy default a job")[0]
    listed = set(re.findall(r"``([a-z]+(?:-[a-z]+)*)``", table)) - {"problem", "instance"}
    slugs = {kind.slug for kind in Kind} - {Kind.CALLBACK_CONFLICT.slug}
    wrong = listed ^ slugs
    assert not wrong, f"README.rst: the table of problems differs from wire/problems.py: {wrong}"
