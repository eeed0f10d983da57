"""Options of a twistd plugin, from flags or environment variables, with one-line errors.

On a usage error twistd prints the whole help text to standard output. In the journal of a unit one
line is more useful, and an exit code that says that the configuration is wrong.
"""

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NoReturn

from attrs import frozen
from twisted.python import usage

from jobproxy import __version__, logs
from jobproxy.daemon.config_file import BadConfig, read_config
from jobproxy.daemon.hints import advise, explain_flag, find_unknown_variable

#: ``EX_CONFIG`` of sysexits.h: the exit code for a configuration error.
EX_CONFIG = 78
#: The option that names a file with others.
CONFIG = "config"


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

    :cvar other_variables: with the same prefix, which are for other commands.
    """

    program: ClassVar[str]
    other_variables: ClassVar[tuple[str, ...]] = ()
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
            names = [option.name for option in self.table]
            self.refuse(explain_flag(str(error), self.program, names))

    def opt_version(self) -> NoReturn:
        """Display the version of jobproxy and exit."""
        sys.stdout.write(f"{self.program} {__version__}\n")
        raise SystemExit(0)

    def parseArgs(self, *args: str) -> None:
        if args:
            raise usage.UsageError(f"{args[0]!r} is not an option; see --help")

    def postOptions(self) -> None:
        self._texts: dict[str, str | None] = {}
        variables = [self.variable(option) for option in self.table]
        unknown = find_unknown_variable(
            f"{self.program.upper()}_", (*variables, *self.other_variables)
        )
        if unknown is not None:
            raise usage.UsageError(unknown)
        self._check_log()
        config = self._read_config()
        for option in self.table:
            source, text = self._find(option, config)
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

    def _check_log(self) -> None:
        """Refuse options of ``twistd`` itself with which all lines of the log would be lost."""
        twistd = getattr(self, "parent", None) or {}
        if not str(twistd.get("logger")).startswith(f"{logs.__name__}."):
            return
        if twistd.get("logfile"):
            raise usage.UsageError(
                "--logfile has no effect with this --logger, which writes to standard output: "
                "append that to the file, with >> FILE"
            )
        if not twistd.get("nodaemon"):
            raise usage.UsageError(
                "this --logger writes to standard output, which a daemon has not: use --nodaemon"
            )

    def find_text(self, name: str) -> str | None:
        """Return the text of an option, before it was parsed."""
        return self._texts.get(name)

    def refuse(self, message: str) -> NoReturn:
        """End the process with one line on standard error and exit code 78."""
        sys.stderr.write(f"{self.program}: {message}\n")
        raise SystemExit(EX_CONFIG)

    def _read_config(self) -> Mapping[str, str]:
        """Return the texts of the options in the file of ``--config``, if there is one."""
        option = next((each for each in self.table if each.name == CONFIG), None)
        path = None if option is None else self._find(option, {})[1]
        if path is None:
            return {}
        try:
            found = read_config(path)
        except BadConfig as error:
            raise usage.UsageError(f"--{CONFIG} {error}") from error
        names = {each.name for each in self.table} - {CONFIG}
        for name in found:
            if name not in names:
                advice = advise(name, names, "")
                raise usage.UsageError(
                    f"--{CONFIG} names {path}, where {name} is not an option; {advice}"
                )
        return found

    def _find(self, option: Option, config: Mapping[str, str]) -> tuple[str, str | None]:
        given = self.get(option.name)
        if given is not None:
            return f"--{option.name}", given
        for variable in (self.variable(option), *option.aliases):
            if os.environ.get(variable):
                return variable, os.environ[variable]
        if option.name in config:
            return f"{option.name} in the file of --{CONFIG}", config[option.name]
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
