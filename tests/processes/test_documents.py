"""The documents, as ``make docs`` builds them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT
from tests.support.waiting import DEADLINE


def test_sphinx_builds_all_pages_without_a_warning(tmp_path: Path) -> None:
    """Sphinx builds all pages without a warning, and they need nothing from anywhere else."""
    pytest.importorskip("sphinx", reason="needs sphinx: pip install -e .[docs]")
    pytest.importorskip("furo", reason="needs furo, the theme: pip install -e .[docs]")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = re.search(r"^docs:.*\n\t@\$\(BIN\)/python (-m sphinx .*)$", makefile, re.MULTILINE)
    assert recipe is not None
    words = recipe[1].replace("build/", f"{tmp_path}/").split()
    done = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    pages = {page.stem for page in (ROOT / "docs").glob("*.rst")}
    for page in pages:
        html = (tmp_path / "docs" / f"{page}.html").read_text(encoding="utf-8")
        fetched = re.findall(r'<(?:script|link|img|object)[^>]* (?:src|href|data)="([^"]+)"', html)
        assert [address for address in fetched if "//" in address] == [], page
