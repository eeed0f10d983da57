"""Options of a twistd plugin, from flags or environment variables, with one-line errors.

On a usage error twistd prints the whole help text to standard output. In the journal of a unit one
line is more useful, and an exit code that says that the configuration is wrong.
"""

import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, ClassVar, NoReturn, TypeVar, cast
from urllib.parse import urlsplit

from attrs import frozen
from twisted.internet.endpoints import serverFromString
from twisted.python import usage

from jobproxy import __version__

#: ``EX_CONFIG`` of sysexits.h: the exit code for a configuration error.
EX_CONFIG = 78

_HOST = re.compile(r"[A-Za-z0-9.:\[\]_-]+")
#: Bytes of a host name at most.
MAX_NAME = 253
#: Labels must neither begin nor end with a hyphen. Two in the third place are for names in IDNA.
_LABEL = r"(?!..--(?<!xn--))[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?", re.IGNORECASE)
_SWITCH = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}

Choice = TypeVar("Choice", bound=Enum)

_PATH = re.compile(r"[A-Za-z0-9._~/-]*")


@frozen
class Option:
    """One option.

    :param name: as on the command line, without the dashes.
    :param default: the text that is parsed when the option is not given; :data:`None`: the value
        is :data:`None` then.
    :param read: parses the text, or raises :class:`ValueError` with a message that follows the
        option's name.
    :param doc: the help text.
    :param required: whether the option must be given.
    :param aliases: other environment variables for the option.
    :param repeatable: whether the flag may be repeated; ``read`` then gets all texts joined by
        spaces, which is also the form of the environment variable.
    :param is_switch: whether the flag has no value, and stands for ``yes``.
    """

    name: str
    default: str | None
    read: Callable[[str], Any]
    doc: str
    required: bool = False
    aliases: tuple[str, ...] = ()
    repeatable: bool = False
    is_switch: bool = False


class DaemonOptions(usage.Options):
    """Options by flag, else by environment variable, else by default.

    Subclasses list them in :attr:`table` and set :attr:`program`, whose upper-case form is the
    prefix of the environment variables. Once parsed, the options map names to values.
    """

    program: ClassVar[str]
    optParameters: ClassVar[list[list[Any]]]
    table: ClassVar[tuple[Option, ...]]

    def __init_subclass__(cls) -> None:
        cls.optParameters = []
        for option in cls.table:
            doc = _document(option, cls.variable(option))
            if option.repeatable:
                setattr(cls, _method(option), _make_repeatable(option.name, doc))
            elif option.is_switch:
                setattr(cls, _method(option), _make_switch(option.name, doc))
            else:
                cls.optParameters.append([option.name, None, None, doc])

    @classmethod
    def variable(cls, option: Option) -> str:
        """Return the environment variable of an option."""
        return f"{cls.program}_{option.name}".upper().replace("-", "_")

    def parseOptions(self, options: Any = None) -> None:
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            self.refuse(str(error))

    def opt_version(self) -> NoReturn:
        """Display the version of jobproxy and exit."""
        sys.stdout.write(f"{self.program} {__version__}\n")
        raise SystemExit(0)

    def parseArgs(self, *args: str) -> None:
        if args:
            raise usage.UsageError(f"{args[0]!r} is not an option; see --help")

    def postOptions(self) -> None:
        self._texts: dict[str, str | None] = {}
        for option in self.table:
            source, text = self._find(option)
            self._texts[option.name] = text
            if text is None and option.required:
                raise usage.UsageError(f"--{option.name} is missing (or {self.variable(option)})")
            try:
                self[option.name] = None if text is None else option.read(text)
            except ValueError as error:
                raise usage.UsageError(f"{source} {error}") from error
        self.check()

    def check(self) -> None:
        """Check the combination of options; raise a :class:`usage.UsageError` if it is invalid."""

    def find_text(self, name: str) -> str | None:
        """Return the text of an option, before it was parsed."""
        return self._texts.get(name)

    def refuse(self, message: str) -> NoReturn:
        """End the process with one line on standard error and exit code 78."""
        sys.stderr.write(f"{self.program}: {message}\n")
        raise SystemExit(EX_CONFIG)

    def _find(self, option: Option) -> tuple[str, str | None]:
        given = self.get(option.name)
        if given is not None:
            return f"--{option.name}", given
        for variable in (self.variable(option), *option.aliases):
            if os.environ.get(variable):
                return variable, os.environ[variable]
        return f"--{option.name}", option.default


def _document(option: Option, variable: str) -> str:
    rest = "required" if option.required else f"default {option.default or 'none'}"
    return f"{option.doc} [{variable}; {rest}]"


def _method(option: Option) -> str:
    return f"opt_{option.name.replace('-', '_')}"


def _make_switch(name: str, doc: str) -> Callable[[DaemonOptions], None]:
    """Return the method that twistd's option parser calls for a flag without a value."""

    def switch(self: DaemonOptions) -> None:
        self[name] = "yes"

    switch.__doc__ = doc
    return switch


def _make_repeatable(name: str, doc: str) -> Callable[[DaemonOptions, str], None]:
    """Return the method that twistd's option parser calls for each use of a repeatable flag."""

    def append(self: DaemonOptions, text: str) -> None:
        before = self.get(name)
        self[name] = text if before is None else f"{before} {text}"

    append.__doc__ = doc
    return append


def read_seconds(text: str) -> float:
    """Parse a duration in seconds, above 0."""
    seconds = _read_number(text)
    if not seconds > 0:
        raise ValueError(f"must be a number of seconds above 0, not {text!r}")
    return seconds


def read_delay(text: str) -> float:
    """Parse a duration in seconds, 0 or more."""
    seconds = _read_number(text)
    if not seconds >= 0:
        raise ValueError(f"must be a number of seconds, 0 or more, not {text!r}")
    return seconds


def read_count(text: str) -> int:
    """Parse an integer above 0."""
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
        raise ValueError(f"must be a whole number above 0, not {text!r}")
    return int(text)


def read_switch(text: str) -> bool:
    """Parse yes or no."""
    if text.lower() not in _SWITCH:
        raise ValueError(f"must be yes or no, not {text!r}")
    return _SWITCH[text.lower()]


def reader_of(kind: type[Choice]) -> Callable[[str], Choice]:
    """Return a parser of the values of an enumeration."""

    def read(text: str) -> Choice:
        try:
            return kind(text)
        except ValueError:
            words = ", ".join(choice.value for choice in kind)
            raise ValueError(f"must be one of {words}, not {text!r}") from None

    return read


def read_url(text: str) -> str:
    """Parse an absolute http or https URL without query, fragment or credentials."""
    wrong = ValueError(f"must be a URL like http://host:port/path, not {text!r}")
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise wrong from None
    if url.scheme not in ("http", "https") or not url.hostname or port == 0:
        raise wrong
    if url.query or url.fragment or "?" in text or "#" in text:
        raise ValueError(f"must have no query and no fragment, not {text!r}")
    if not _HOST.fullmatch(url.netloc):
        raise wrong
    return text


def read_server_url(text: str) -> str:
    """Parse a URL, as :func:`read_url`, of a server that Twisted can connect to."""
    host = urlsplit(read_url(text)).hostname or ""
    is_address = ":" in host or not host.strip("0123456789.")
    if not is_address and (len(host) > MAX_NAME or not _NAME.fullmatch(host)):
        raise ValueError(
            "must have a host name of letters, digits and hyphens, with at most 63 in each part "
            f"(RFC 1123, section 2.1), not {host!r}; give the server another name, or use its "
            "address"
        )
    return text


def read_base_url(text: str) -> str:
    """Parse the base of URLs that the daemon serves; its path has unreserved characters only.

    :return: the URL without a trailing slash.
    """
    url = urlsplit(read_url(text))
    if not _PATH.fullmatch(url.path) or "//" in url.path:
        raise ValueError(f"must have a path of letters, digits and ._~-/ only, not {text!r}")
    return text.rstrip("/")


def read_endpoints(text: str) -> list[str]:
    """Parse server endpoint descriptions (strports) that are separated by spaces."""
    return list(_check_endpoints(text))


def read_origins(text: str) -> list[str]:
    """Parse origins of web pages (RFC 6454, section 6.2) that are separated by spaces."""
    origins = text.split()
    for origin in origins:
        url = urlsplit(origin)
        if f"{url.scheme}://{url.netloc}" != origin.lower() or not _HOST.fullmatch(url.netloc):
            raise ValueError(f"must be an origin like https://app.example, not {origin!r}")
    return [origin.lower() for origin in origins]


def _check_endpoints(text: str) -> Iterator[str]:
    for description in text.split():
        try:
            # This only parses the description; the reactor is not used before listen().
            serverFromString(cast(Any, None), description)
        except (ValueError, TypeError, LookupError, OSError) as error:
            raise ValueError(
                f"must be an endpoint like tcp:8080:interface=127.0.0.1, not {description!r}"
            ) from error
        yield description


def _read_number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan
