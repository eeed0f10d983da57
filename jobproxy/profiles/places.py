"""Where a mistake in a profile is, for messages; the parser of TOML does not say it."""

import re
from collections.abc import Sequence

_TABLE = re.compile(r"\s*\[([^\[\]]+)\]\s*(?:#.*)?")


class BadSyntax(ValueError):
    """An expression, a template or a path in a profile is wrong.

    :ivar at: the number of characters before the mistake.
    """

    def __init__(self, message: str, at: int = 0) -> None:
        super().__init__(message)
        self.at = at


def find_place(text: str, keys: Sequence[str]) -> tuple[int, int]:
    """Return the line and the column of the value of a key, from 1; of the key if it has none.

    :param keys: the names of the tables, and that of the key.
    """
    tables, key = list(keys[:-1]), keys[-1] if keys else ""
    current: list[str] = []
    first = (1, 1)
    for number, line in enumerate(text.splitlines(), 1):
        table = _TABLE.fullmatch(line)
        if table is not None:
            current = [part.strip().strip("\"'") for part in re.split(r"\.(?![^\"]*\"$)", table[1])]
            if current == list(keys):
                first = (number, line.index("[") + 1)
            continue
        match = re.match(
            rf"\s*(?:\"{re.escape(key)}\"|'{re.escape(key)}'|{re.escape(key)})\s*=\s*", line
        )
        if match is not None and current == tables:
            return number, match.end() + 1
    return first
