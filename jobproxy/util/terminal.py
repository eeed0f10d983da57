"""Text of others, made safe for a terminal."""

import re
import sys

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
