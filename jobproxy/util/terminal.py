"""Standard output: text of others is made safe for a terminal, and a closed pipe ends a command."""

import os
import re
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

#: What a shell adds to the number of the signal that ended a command.
SIGNALLED = 128

#: Control characters but for line breaks and tabs, what changes the direction of text, and the line
#: and paragraph separators. A terminal takes some of them as commands, others hide what is there.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def escape(text: str) -> str:
    r"""Return a text with unsafe characters as ``\x1b`` or ``\u202e``."""
    return _UNSAFE.sub(lambda match: ascii(match[0])[1:-1], text)


def write_output(data: bytes) -> None:
    """Write to standard output: each byte as it is, but to a terminal only safe text."""
    if sys.stdout.isatty():
        data = escape(data.decode("utf-8", "backslashreplace")).encode()
    sys.stdout.buffer.write(data)
    sys.stdout.flush()


def clear_screen() -> None:
    """Clear the terminal; what is no terminal gets an empty line."""
    sys.stdout.write("\x1b[H\x1b[2J" if sys.stdout.isatty() else "\n")
    sys.stdout.flush()


def run_until_closed(command: Callable[[], object]) -> None:
    """Run a command; end the process silently once nobody reads its output any more."""
    try:
        try:
            command()
        finally:
            # What is still buffered would otherwise fail where nobody can catch it.
            sys.stdout.flush()
    except BrokenPipeError:
        end_silently()


def end_silently() -> NoReturn:
    """End the process because nobody reads its output any more."""
    # Python flushes standard output once more as it ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(SIGNALLED + signal.SIGPIPE) from None
