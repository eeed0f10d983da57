"""Parses TOML, on all versions of Python, and refuses it in one way."""

import sys
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib


class BadToml(ValueError):
    """A text is not TOML; the message says where in it, and why."""


def parse_toml(text: str) -> dict[str, Any]:
    """Return the tables in a text.

    :raises BadToml: if it is not TOML, or it is nested too deep, or a number in it is too long.
    """
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadToml(str(error)) from None
