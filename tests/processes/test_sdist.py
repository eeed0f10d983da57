"""The sdist holds the whole source: every file that git knows, but for a few."""

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.support.programs import needs

#: Seconds for a command that may have to fetch packages.
LONG = 600.0
ROOT = Path(__file__).parents[2]
#: Of no use where there is no git.
LEFT_OUT = {".gitignore", "newsfragments/.gitignore"}
#: What setuptools adds.
MADE = {"PKG-INFO", "setup.cfg"}


def call(*command: str) -> str:
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=LONG, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def list_tracked() -> set[str]:
    """Return the files that git knows and that are still there."""
    text = call("git", "ls-files", "-z")
    return {name for name in text.split("\0") if name and (ROOT / name).is_file()}


@pytest.mark.timeout(2 * LONG)
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a clone of the git repository")
@needs("git", "git")
def test_the_sdist_holds_every_file_that_git_knows(tmp_path: Path) -> None:
    """Each file is in the sdist; if not, MANIFEST.in needs a line, or LEFT_OUT a reason."""
    source, built, tracked = tmp_path / "source", tmp_path / "built", list_tracked()
    for name in tracked:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, source / name)
    call(sys.executable, "-m", "build", "--sdist", "--outdir", str(built), str(source))
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {file.name.partition("/")[2] for file in archive if file.isfile()}
    packed = {name for name in names - MADE if ".egg-info/" not in name}
    assert sorted(tracked - packed) == sorted(LEFT_OUT)
    assert sorted(packed - tracked) == []
