"""What jobproxyctl makes of documents and of its command line."""

from typing import Any

import pytest
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.ctl import DEFAULT_ADMIN, describe_status, make_parser, make_table
from tests.support.proxy import ProxyTestCase


class TableTests(SynchronousTestCase):
    def test_columns(self) -> None:
        """Only columns that there is something in are shown; they are as wide as they must be."""
        rows: list[dict[str, Any]] = [{"a": "long one", "b": 1}, {"a": "x", "b": None}]
        expected = "A         B\nlong one  1\nx         -\n"
        self.assertEqual(make_table(("a", "b", "c"), rows), expected)

    def test_empty(self) -> None:
        """A table without rows has its head."""
        self.assertEqual(make_table(("job", "age"), []), "JOB  AGE\n")

    def test_terminal(self) -> None:
        """What a job server has made up cannot talk to the terminal, or end a line."""
        table = make_table(("id",), [{"id": "\x1b[2J\nforged"}])
        self.assertNotIn("\x1b", table)
        self.assertEqual(len(table.splitlines()), 2)


class StatusTests(ProxyTestCase):
    def test_status(self) -> None:
        """The status for people has what is in the document."""
        client = self.submit()
        text = describe_status(self.operate().get("/status").response.json)
        self.assertIn("held       1 clients of at most 100\n", text)
        self.assertIn("starting   1\n", text)
        self.has_descriptors = False
        text = describe_status(self.operate().get("/status").response.json)
        self.assertIn("not ready: no-file-descriptors\n", text)
        client.leave()


@pytest.mark.parametrize(
    "words",
    [
        "",
        "stop",
        "orphans",
        "orphans show",
        "jobs --state ended",
        "jobs --limit many",
        "drain now",
    ],
)
def test_usage(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A command line that means nothing is refused with what it could be, and code 2."""
    with pytest.raises(SystemExit) as caught:
        make_parser().parse_args(words.split())
    assert caught.value.code == 2
    assert "usage: jobproxyctl" in capsys.readouterr().err


def test_admin(monkeypatch: pytest.MonkeyPatch) -> None:
    """An argument beats the environment, which beats the default."""
    monkeypatch.delenv("JOBPROXY_ADMIN", raising=False)
    assert make_parser().parse_args(["status"]).admin == DEFAULT_ADMIN
    monkeypatch.setenv("JOBPROXY_ADMIN", "unix:/run/admin")
    assert make_parser().parse_args(["status"]).admin == "unix:/run/admin"
    assert make_parser().parse_args(["status", "--admin", "x"]).admin == "x"


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """There are completions for shells, which know the commands."""
    with pytest.raises(SystemExit) as caught:
        make_parser().parse_args(["--print-completion", shell])
    assert caught.value.code == 0
    assert "orphans" in capsys.readouterr().out
