"""docs/faults.rst: every fault is in it, with a test that proves what it says."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
TABLE = (TESTS.parent / "docs" / "faults.rst").read_text(encoding="utf-8")
#: How many rows there are of each kind.
ROWS = {"S": 32, "B": 26, "Q": 32, "L": 18, "G": 17, "T": 7, "K": 6, "X": 11, "A": 2}
_ROW = re.compile(r"\b([SBQLGTKXA][1-9][0-9]?)\b")


def read_table() -> dict[str, list[str]]:
    """Return the tests that each row names, as ``folder/module::test``."""
    rows = re.split(r"^   \* - (?=[A-Z][0-9]+\n)", TABLE, flags=re.MULTILINE)[1:]
    return {row.split("\n")[0]: re.findall(r"``([\w/]+::test_\w+)``", row) for row in rows}


def read_tests() -> Iterator[tuple[str, set[str]]]:
    """Yield the name of each test, and the rows that its docstring says it proves."""
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                claim = (ast.get_docstring(node) or "").partition(":")[0]
                if node.name.startswith("test_") and re.fullmatch(r"[A-Z0-9, ]+", claim):
                    name = path.relative_to(TESTS).with_suffix("")
                    yield f"{name}::{node.name}", set(_ROW.findall(claim))


PROVED = read_table()
CLAIMS: dict[str, set[str]] = {}
for _test, _rows in read_tests():
    CLAIMS.setdefault(_test, set()).update(_rows)


def test_every_row_is_there_in_order() -> None:
    """Every row is there, in order."""
    expected = [f"{kind}{number + 1}" for kind, count in ROWS.items() for number in range(count)]
    assert list(PROVED) == expected, (
        "docs/faults.rst: the rows of each kind are numbered in order; after a new row, raise its "
        "number in ROWS of tests/test_fault_table.py"
    )


@pytest.mark.parametrize("row", PROVED)
def test_every_row_names_tests_that_name_it(row: str) -> None:
    """Each row names tests, which exist and name the row."""
    assert PROVED[row], f"docs/faults.rst, {row}: name a test as ``folder/module::test``"
    for test in PROVED[row]:
        assert row in CLAIMS.get(test, set()), (
            f"docs/faults.rst, {row}: there is no {test} whose docstring begins with the row"
        )


def test_no_test_names_an_unknown_row() -> None:
    """No test names a row that does not exist."""
    claimed = {row: test for test, rows in CLAIMS.items() for row in rows}
    unknown = {row: test for row, test in claimed.items() if row not in PROVED}
    assert not unknown, f"docs/faults.rst has no such rows; they are in docstrings: {unknown}"
