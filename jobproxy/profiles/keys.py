"""The keys of a profile's file, and errors that say where in it something is wrong."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from attrs import define

from jobproxy.profiles.expressions import (
    Expression,
    Source,
    Template,
    parse_template,
)
from jobproxy.profiles.places import BadSyntax, find_place

_METHOD = re.compile(r"[A-Z]{1,20}")

Kind = TypeVar("Kind")


class BadProfile(Exception):
    """A profile cannot be used; the message says which file, where in it, and why."""


@define(eq=False)
class Keys:
    """The keys of a file, each read once.

    :param path: of the file.
    :param folder: where its secrets are, unless ``$CREDENTIALS_DIRECTORY`` says it.
    :param text: all of it.
    """

    path: Path
    folder: Path
    text: str
    _tables: Mapping[str, Any]

    def find(self, name: str) -> Any:
        """Return the value of a key (``start.url``); :data:`None`: it is not there."""
        value: Any = self._tables
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value

    def read(self, name: str, kind: type[Kind], default: Kind) -> Kind:
        """Return the value of a key.

        :raises BadProfile: if it is of another kind.
        """
        value = self.find(name)
        if value is None:
            return default
        # A boolean is an integer to Python.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.wrong(name, f"must be {_KINDS[kind]}")
        return value

    def parse(self, name: str, parse: Callable[[str], Kind], default: Kind) -> Kind:
        """Return what a function makes of the text of a key.

        :raises BadProfile: if it is no text, or the function refuses it.
        """
        text = self.find(name)
        return default if text is None else self.parse_text(name, text, parse)

    def parse_text(self, name: str, text: Any, parse: Callable[[str], Kind]) -> Kind:
        """Return what a function makes of a text in the value of a key."""
        if not isinstance(text, str):
            raise self.wrong(name, "must be a text in quotes")
        try:
            return parse(text)
        except BadSyntax as error:
            raise self.wrong(name, str(error), text, error.at) from None
        except ValueError as error:
            raise self.wrong(name, str(error), text) from None

    def read_texts(self, name: str, default: tuple[str, ...]) -> tuple[str, ...]:
        """Return an array of texts."""
        values: list[Any] = self.read(name, list, list(default))
        if not all(isinstance(value, str) for value in values):
            raise self.wrong(name, "must be an array of texts in quotes")
        return tuple(values)

    def read_secret(self, name: str, path: Any) -> bytes:
        """Return the content of a file; a relative path is one in the folder of secrets."""
        if not isinstance(path, str) or not path:
            raise self.wrong(name, "must be the name of a file")
        place = Path(os.environ.get("CREDENTIALS_DIRECTORY") or self.folder, path)
        try:
            return place.read_bytes()
        except (OSError, ValueError) as error:
            words = getattr(error, "strerror", None) or str(error)
            folder = "CREDENTIALS_DIRECTORY names the folder of secrets"
            reason = f"{place} cannot be read: {words}; {folder}"
            raise self.wrong(name, reason) from None

    def wrong(self, name: str, reason: str, text: str = "", at: int = 0) -> BadProfile:
        """Return the error of a key.

        :param text: in the value, in which the mistake is.
        :param at: how many characters of it are before the mistake.
        """
        line, column = find_place(self.text, _split(name))
        if text:
            content = self.text.splitlines()[line - 1] if self.text else ""
            column = content.find(text, column - 1) + 1 + at or column
        return BadProfile(f"{self.path}:{line}:{column}: {name}: {reason}")


_KINDS: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    list: "an array",
    dict: "a table",
    str: "a text in quotes",
}


def read_methods(keys: Keys, name: str, default: tuple[str, ...]) -> tuple[str, ...]:
    """Return the methods in an array or a text."""
    value = keys.find(name)
    methods = (value,) if isinstance(value, str) else keys.read_texts(name, default)
    if not methods or not all(_METHOD.fullmatch(method) for method in methods):
        raise keys.wrong(name, "must be a method, like POST")
    return methods


def read_statuses(keys: Keys, name: str, default: frozenset[int]) -> frozenset[int]:
    """Return an array of HTTP statuses."""
    values: list[Any] = keys.read(name, list, sorted(default))
    if not all(isinstance(each, int) and 200 <= each <= 599 for each in values):
        raise keys.wrong(name, "must be an array of statuses, 200 to 599")
    return frozenset(values)


def read_number(keys: Keys, name: str, default: int, least: int, most: int) -> int:
    """Return a whole number between two others."""
    number = keys.read(name, int, default)
    if not least <= number <= most:
        raise keys.wrong(name, f"must be {least} to {most}")
    return number


def read_optional_number(keys: Keys, name: str) -> int | None:
    """Return a whole number above 0, if the key is there."""
    return None if keys.find(name) is None else read_number(keys, name, 1, 1, 2**31)


def read_seconds(keys: Keys, name: str, default: float | None) -> float | None:
    """Return a duration in seconds."""
    value = keys.find(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 604_800:
        raise keys.wrong(name, "must be a number of seconds above 0, and a week at most")
    return float(value)


def choose(*words: str) -> Callable[[str], str]:
    """Return a function that refuses any other text."""

    def check(text: str) -> str:
        if text not in words:
            raise ValueError(f"must be {', '.join(words[:-1])} or {words[-1]}")
        return text

    return check


def read_url(keys: Keys, name: str, sources: Sequence[Source]) -> Template | None:
    """Return the template of a URL, whose values may come from some sources alone."""

    def parse(text: str) -> Template:
        template = parse_template(text)
        for each in template.expressions:
            check_source(sources, each)
        plain = "".join(part for part in template.parts if isinstance(part, str))
        if not plain.isascii() or not plain.isprintable() or " " in plain:
            raise ValueError("must be ASCII without spaces; write others percent-encoded")
        if template.sole is None and not text.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://, or be one expression")
        try:
            urlsplit(plain)
        except ValueError as error:
            raise ValueError(f"is no URL: {error}") from None
        return template

    return keys.parse(name, parse, None)


def check_source(sources: Sequence[Source], expression: Expression) -> Expression:
    """Return an expression.

    :raises BadSyntax: if its value does not come from one of these sources.
    """
    if expression.part != "constant" and expression.source not in sources:
        known = " or ".join(source.value for source in sources)
        raise BadSyntax(f"{expression.text} is not known here; use {known}")
    return expression


def _split(name: str) -> list[str]:
    """Return the tables and the key of a name; what follows ``start.set`` is one key."""
    if name.startswith("start.set."):
        return ["start", "set", name.removeprefix("start.set.")]
    if name.startswith("callback.verify."):
        return ["callback", "verify"]
    return name.split(".")
