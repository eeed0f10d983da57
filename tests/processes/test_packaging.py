"""The package as it is installed: from a wheel, from an sdist and editable."""

import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.support.processes import ROOT

#: Seconds for a command that may have to fetch packages, over whatever network there is.
LONG = 600.0

JUNK = shutil.ignore_patterns(
    ".git",
    ".venv",
    "build",
    "dist",
    "*.egg-info",
    "__pycache__",
    ".*_cache",
    ".hypothesis",
    "dropin.cache",
)


class Environment:
    """A Python environment of its own."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=False, symlinks=True)
        self.bin = folder / "bin"

    def pip(self, *arguments: str) -> None:
        call([sys.executable, "-m", "pip", "--python", str(self.bin / "python"), *arguments])

    def list_plugins(self, folder: Path) -> set[str]:
        """Return the commands that ``twistd --help`` lists, asked from an empty folder."""
        text = call([str(self.bin / "twistd"), "--help"], folder)
        return set(re.findall(r"^    ([a-z][\w-]+)  ", text, re.MULTILINE))


def call(command: list[str], folder: Path | None = None) -> str:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=LONG, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(2 * LONG)
def test_every_way_to_install_brings_both_plugins(tmp_path: Path) -> None:
    """Wheel, sdist and editable install bring both plugins, and take nothing of Twisted's along."""
    source, built, empty = tmp_path / "source", tmp_path / "built", tmp_path / "empty"
    empty.mkdir()
    shutil.copytree(ROOT, source, ignore=JUNK)
    call([sys.executable, "-m", "build", "--outdir", str(built), str(source)])
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")

    names = zipfile.ZipFile(wheel).namelist()
    assert "twisted/plugins/jobproxy_plugin.py" in names
    assert [name for name in names if re.match("twisted/.*__init__|tests/", name)] == []

    environment = Environment(tmp_path / "environment")
    # What pyproject.toml says is needed to build it was enough above; here it is installed once.
    environment.pip("install", "--quiet", "setuptools>=77")
    for install in ([str(wheel)], [str(sdist)], ["--editable", str(source)]):
        environment.pip("install", "--quiet", "--no-build-isolation", "--no-compile", *install)
        assert {"jobproxy", "jobserver", "web"} <= environment.list_plugins(empty), install
        for plugin in ("jobproxy", "jobserver"):
            assert "--listen=" in call([str(environment.bin / "twistd"), plugin, "--help"], empty)
        for script in ("jobclient", "jobproxy-demo"):
            call([str(environment.bin / script), "--help"], empty)
        environment.pip("uninstall", "--quiet", "--yes", "jobproxy")
        listed = environment.list_plugins(empty)
        assert "web" in listed
        assert not {"jobproxy", "jobserver"} & listed
