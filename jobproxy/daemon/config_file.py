"""Options from a file: TOML, with the names of the options."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobproxy.util.toml import BadToml, parse_toml


class BadConfig(ValueError):
    """The file cannot be used; the message follows the name of the option."""


def read_config(path: str) -> Mapping[str, str]:
    """Return the options in a file as the texts that a command line has.

    Booleans are switches, numbers are as they are written in decimal, and arrays stand for options
    that are given several times.

    :raises BadConfig: if it cannot be read, or a value is of another kind.
    """
    try:
        found = parse_toml(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise BadConfig(f"names {path}, which cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadConfig(f"names {path}, which is not UTF-8") from error
    except BadToml as error:
        raise BadConfig(f"names {path}, which is not TOML: {error}") from error
    return {name: _write(path, name, value) for name, value in found.items()}


def _write(path: str, name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str | int | float):
        return str(value)
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return " ".join(value)
    raise BadConfig(
        f"names {path}, where {name} must be a text in quotes, a number, true or false, or an "
        "array of texts"
    )
