"""Options that are parsed in an environment of the test's own."""

import io
import os
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from jobproxy import tap
from jobproxy.daemon.options import DaemonOptions

#: The options without which no proxy starts.
REQUIRED = ["--callback-url=http://proxy.example/callback"]


class OptionsTestCase(SynchronousTestCase):
    """Parses options in an environment of its own."""

    def parse(
        self, *arguments: str, kind: type[DaemonOptions] = tap.Options, **environment: str
    ) -> DaemonOptions:
        options = kind()
        with mock.patch.dict(os.environ, environment, clear=True):
            options.parseOptions(list(arguments))
        return options

    def write_file(self, content: bytes) -> str:
        """Return the path of a file with this content, which is removed after the test."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = Path(folder.name, "file")
        path.write_bytes(content)
        return str(path)

    def check_refused(
        self,
        arguments: list[str],
        line: str,
        kind: type[DaemonOptions] = tap.Options,
        **environment: str,
    ) -> None:
        """Check that the process ends with exactly one line, and exit code 78."""
        self.assertEqual(self.find_refusal(arguments, kind, **environment), line)

    def find_refusal(
        self, arguments: list[str], kind: type[DaemonOptions] = tap.Options, **environment: str
    ) -> str:
        """Return the one line with which the process ends, with exit code 78."""
        errors, output = io.StringIO(), io.StringIO()
        with (
            redirect_stderr(errors),
            redirect_stdout(output),
            self.assertRaises(SystemExit) as caught,
        ):
            self.parse(*arguments, kind=kind, **environment)
        self.assertEqual(caught.exception.code, 78)
        self.assertEqual(output.getvalue(), "")
        (line,) = errors.getvalue().splitlines()
        self.assertTrue(line.startswith(f"{kind.program}: "), line)
        return line.removeprefix(f"{kind.program}: ")
