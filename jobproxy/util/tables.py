"""Tables of text for a terminal."""

from collections.abc import Sequence
from typing import Any


def make_table(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a table; columns without a value in any row are left out."""
    known = [column for column in columns if any(column in row for row in rows)] or columns
    cells = [[column.upper() for column in known]]
    cells += [[_escape(row.get(column)) for column in known] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        for line in cells
    )
    return "".join(f"{line.rstrip()}\n" for line in lines)


def list_counts(counts: dict[str, int]) -> str:
    """Return counts by name as one line."""
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"


def _escape(value: object) -> str:
    """Return a value as text without control characters."""
    text = "-" if value is None else str(value)
    return text if text.isprintable() else ascii(text)
