"""jobproxyctl: its output and its command line."""

from typing import Any

import pytest
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.ctl import describe_job, describe_status
from jobproxy.ctl_parser import DEFAULT_ADMIN, make_parser
from jobproxy.util.tables import make_table
from tests.support.proxy import ProxyTestCase


class TableTests(SynchronousTestCase):
    def test_empty_columns_are_left_out(self) -> None:
        """Columns without a value are left out; the others are as wide as necessary."""
        rows: list[dict[str, Any]] = [{"a": "long one", "b": 1}, {"a": "x", "b": None}]
        expected = "A         B\nlong one  1\nx         -\n"
        self.assertEqual(make_table(("a", "b", "c"), rows), expected)

    def test_table_without_rows_has_a_header(self) -> None:
        """A table without rows has its header."""
        self.assertEqual(make_table(("job", "age"), []), "JOB  AGE\n")

    def test_control_characters_are_escaped(self) -> None:
        """A job server's text cannot send control characters to the terminal, or end a line."""
        table = make_table(("id",), [{"id": "\x1b[2J\nforged"}])
        self.assertNotIn("\x1b", table)
        self.assertEqual(len(table.splitlines()), 2)


class JobTests(ProxyTestCase):
    def test_text_has_the_timeline(self) -> None:
        """``jobs show`` prints what is known of a job, and each event in a line."""
        client = self.connect().request(headers={"X-Request-Id": "mine"})
        self.clock.advance(1.5)
        self.starts[0].respond(b'{"error": "no"}', 402)
        self.assertEqual(client.response.status, 402)
        text = describe_job(self.operate().get("/timelines/mine").response.json)
        self.assertIn("requestId  mine\n", text)
        self.assertRegex(text, r"\n[-0-9]{10} [:.0-9]{12}Z +\+0\.000 s  queued\n")
        self.assertIn("+1.500 s  ended: upstream-rejected\n", text)


class StatusTests(ProxyTestCase):
    def test_verdict_is_first_and_errors_are_listed(self) -> None:
        """A2: the first line is the verdict; each error of the last hour has a line."""
        self.has_descriptors = False
        self.connect().request(body=b"[]", headers={"X-Request-Id": "one"})
        lines = describe_status(self.operate().get("/status").response.json).splitlines()
        self.assertEqual(
            lines[0],
            "verdict    Down since 15:34 UTC: there are no free file descriptors. What to do: "
            "JobproxyFilesShort",
        )
        self.assertIn(
            "error      client 400 invalid-json: 1 in the last minute, 1 in the last hour; "
            "a request: one",
            lines,
        )

    def test_text_agrees_with_the_document(self) -> None:
        """The status as text agrees with the document."""
        client = self.submit()
        text = describe_status(self.operate().get("/status").response.json)
        self.assertIn("held       1 clients, at most 100\n", text)
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
        "status --admin 127.0.0.1:8082",
        "status --watch 0",
        "jobs show",
        "store check --admin http://127.0.0.1:8082 s.db",
    ],
)
def test_invalid_command_line_exits_with_2(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An invalid command line is refused with the usage and exit code 2."""
    with pytest.raises(SystemExit) as caught:
        make_parser().parse_args(words.split())
    assert caught.value.code == 2
    assert "usage: jobproxyctl" in capsys.readouterr().err


def test_flag_beats_environment_beats_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag beats the environment, which beats the default."""
    monkeypatch.delenv("JOBPROXY_ADMIN", raising=False)
    assert make_parser().parse_args(["status"]).admin == DEFAULT_ADMIN
    monkeypatch.setenv("JOBPROXY_ADMIN", "unix:/run/admin")
    assert make_parser().parse_args(["status"]).admin == "unix:/run/admin"
    assert make_parser().parse_args(["status", "--admin", "unix:x"]).admin == "unix:x"


def test_general_options_may_come_before_or_after_the_command() -> None:
    """``--json`` and ``--admin`` may come before or after the command, ``--version`` alone."""
    for words in (
        "--json --admin unix:x jobs show name",
        "jobs --json --admin unix:x show name",
        "jobs show name --json --admin unix:x",
    ):
        arguments = make_parser().parse_args(words.split())
        assert (arguments.action, arguments.json, arguments.admin) == ("show_job", True, "unix:x")
    assert not make_parser().parse_args(["store", "check", "x"]).json
    with pytest.raises(SystemExit) as caught:
        make_parser().parse_args(["--version"])
    assert caught.value.code == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completions_know_the_commands(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The completions for each shell contain the commands."""
    with pytest.raises(SystemExit) as caught:
        make_parser().parse_args(["--print-completion", shell])
    assert caught.value.code == 0
    assert "orphans" in capsys.readouterr().out
