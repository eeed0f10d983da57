"""What job servers and clients said, on a terminal."""

import os
import pty
import subprocess
import sys
from unicodedata import category

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.util.terminal import escape

#: A title, a clear screen, a C1 control sequence, and a change of direction.
UNSAFE = "\x1b]0;title\x07 \x1b[2J \x9b31m \u202eabc\u2066 \u2028 \r"
WRITE = "import sys; from jobproxy.util.terminal import write_output; write_output(%r)"


class EscapeTests(SynchronousTestCase):
    @given(st.text())
    def test_no_control_character_is_left(self, text: str) -> None:
        """A1: no control character but line breaks and tabs is left, and nothing else changes."""
        escaped = escape(text)
        for character in escaped:
            self.assertTrue(character in "\n\t" or category(character) not in {"Cc", "Zl", "Zp"})
        if text.isprintable():
            self.assertEqual(escaped, text)

    def test_unsafe_text_is_shown_as_escapes(self) -> None:
        """A1: what a terminal would obey is shown as in a Python string."""
        expected = "\\x1b]0;title\\x07 \\x1b[2J \\x9b31m \\u202eabc\\u2066 \\u2028 \\r"
        self.assertEqual(escape(UNSAFE), expected)


def run_on_terminal(data: bytes) -> bytes:
    """Write output on a terminal, and return what it got."""
    master, slave = pty.openpty()
    subprocess.run([sys.executable, "-c", WRITE % data], stdout=slave, check=True)
    os.close(slave)
    try:
        return os.read(master, 1_000)
    finally:
        os.close(master)


@pytest.mark.parametrize("data", [UNSAFE.encode(), b"\xff\x9b"])
def test_output_is_safe_on_a_terminal_and_exact_in_a_pipe(data: bytes) -> None:
    """A1: a terminal gets safe text; a pipe or a file gets each byte as it is."""
    shown = run_on_terminal(data)
    assert b"\x1b" not in shown
    assert all(category(character) != "Cc" for character in shown.decode())
    piped = subprocess.run([sys.executable, "-c", WRITE % data], stdout=subprocess.PIPE, check=True)
    assert piped.stdout == data
