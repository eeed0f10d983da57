"""``jobproxyctl profile``: checks profiles, and tries them on files."""

import re
import shlex
from pathlib import Path
from textwrap import dedent

import pytest

from tests.support.processes import ROOT, run

RIGHT = """
path = "/jobs"
account = "'all'"
[start]
url = "https://api.example/jobs"
[start.set]
"$request.body#/hook" = "{$callback.url}"
"""


def test_profiles_are_checked(tmp_path: Path) -> None:
    """What is wrong is said in one line each, with exit code 1."""
    right, wrong = tmp_path / "right.toml", tmp_path / "wrong.toml"
    right.write_text(RIGHT)
    wrong.write_text(RIGHT.replace("account", "acount"))
    done = run("jobproxyctl", "profile", "check", str(right), "openfaas")
    assert done.returncode == 0
    assert done.stdout == f"{right}: right\nopenfaas: right\n"
    done = run("jobproxyctl", "profile", "check", str(right), str(wrong))
    assert done.returncode == 1
    assert f"{wrong}:3:10: acount: there is no such key; did you mean account?" in done.stdout
    assert done.stderr == "jobproxyctl: 1 of 2 profiles cannot be used\n"


def test_profile_is_tried(tmp_path: Path) -> None:
    """The start request, and what the client would get."""
    for name, text in (
        ("api.toml", RIGHT),
        ("request", 'POST /jobs\nContent-Type: application/json\n\n{"n": 1}\n'),
        ("ack", '202 Accepted\n\n{"id": "7"}\n'),
        ("callback", 'POST /\n\n{"id": "7", "state": "done"}\n'),
    ):
        (tmp_path / name).write_text(text)
    profile, request, ack, callback = (
        str(tmp_path / name) for name in ("api.toml", "request", "ack", "callback")
    )
    files = ("--request", request, "--ack", ack, "--callback", callback)
    done = run("jobproxyctl", "profile", "try", profile, *files)
    assert done.returncode == 0, done.stderr
    assert '{"n": 1,"hook":"https://proxy.example/callback/api/TOKEN"}' in done.stdout
    assert done.stdout.endswith('{"id": "7", "state": "done"}\n')
    done = run("jobproxyctl", "profile", "try", profile, "--request", callback)
    assert done.returncode == 1
    assert done.stderr == ("jobproxyctl: the path / is not that of the profile: /jobs\n")


def test_tutorial_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files and the commands of docs/profiles.rst, with the output that it shows."""
    page = (ROOT / "docs/profiles.rst").read_text(encoding="utf-8")
    block = r"^\.\. code-block:: \w+\n{}\n((?:   .*\n|\n)+)"
    for name, text in re.findall(block.format(r"   :caption: (\S+)\n"), page, re.MULTILINE):
        (tmp_path / name).write_text(dedent(text).rstrip("\n") + "\n")
    assert len(list(tmp_path.iterdir())) == 4
    monkeypatch.chdir(tmp_path)
    consoles = [dedent(text).strip() for text in re.findall(block.format(""), page, re.MULTILINE)]
    tried = [text for text in consoles if text.startswith("$ jobproxyctl")]
    assert len(tried) == 2
    for text in tried:
        command, _, output = text.removeprefix("$ ").partition("\n")
        done = run(*shlex.split(command))
        assert (done.returncode, done.stdout.strip()) == (0, output), done.stderr
