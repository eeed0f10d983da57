"""Runs the tests over versions of Python, and over the lowest and the newest of what is needed.

nox and not tox, because the versions for ``lowest`` are read out of the package's own metadata:
a few lines of Python here, where tox would need a second list of them that grows old.

    nox                          all sessions, as ``make matrix`` does
    nox -s lowest                one of them
    nox -s tests-3.12 -- tests   all tests, those in tests/processes too
    nox -s latest -- tests -k orphan

pyenv hides the versions that it has until they are named: ``pyenv shell 3.10.13 3.11.7 3.12.1``.
"""

import re
from pathlib import Path

import nox

#: A version that is not on the machine is skipped, with a word.
PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]
#: Those in tests/processes take minutes, and ask little of a version that the others do not.
QUICK = ["tests", "--ignore=tests/processes", "--numprocesses=2", "--dist=loadfile", "--quiet"]
#: Says what the package in this environment needs, a requirement a line.
ASK = "from importlib import metadata; print(*metadata.requires('jobproxy'), sep='\\n')"
#: A requirement that users have, always or with the extra ``redis``: its name and lowest version.
BOUND = re.compile(
    r"""^([\w.-]+)(?:\[\w+\])?>=([\w.]+)(?:; extra == ["']redis["'])?$""", re.MULTILINE
)

nox.needs_version = ">=2024.4.15"
nox.options.envdir = "build/nox"
nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["lowest", "tests", "latest"]


def run_tests(session: nox.Session) -> None:
    session.run("python", "-m", "pytest", *(session.posargs or QUICK))


@nox.session(python=PYTHONS, reuse_venv=True)
def tests(session: nox.Session) -> None:
    """Run the tests with what an earlier run has installed, or else with the newest."""
    session.install("--editable", ".[test]")
    run_tests(session)


@nox.session(python=PYTHONS[0])
def lowest(session: nox.Session) -> None:
    """Run the tests with the lowest versions that setup.py allows, on the lowest Python."""
    session.install("--editable", ".", "--no-deps")
    needed = session.run("python", "-c", ASK, silent=True)
    bounds = BOUND.findall(str(needed))
    always = [line for line in str(needed).splitlines() if "extra ==" not in line]
    if unread := [line for line in always if not BOUND.match(line)]:
        session.error(f"These have no lowest version that can be read: {unread}")
    constraints = Path(session.create_tmp()) / "constraints.txt"
    constraints.write_text("".join(f"{name}=={version}\n" for name, version in bounds))
    session.install("--editable", ".[test]", "--constraint", str(constraints))
    run_tests(session)


@nox.session(python=PYTHONS[2:])
def latest(session: nox.Session) -> None:
    """Run the tests with the newest of all, indirect requirements too."""
    session.install("--upgrade", "--upgrade-strategy=eager", "--editable", ".[test]")
    run_tests(session)
