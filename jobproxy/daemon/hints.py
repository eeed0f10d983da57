"""What to write instead of a name that is no option, on the command line or in the environment."""

import os
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches

#: What Kubernetes sets for each service: for one with the daemon's name it looks like an option.
_SERVICE = re.compile(r"(?:.+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_.+)?|PORT(?:_[0-9]+_.+)?)")
_UNKNOWN_FLAG = re.compile(r"option (--?)(\S+) not recognized")
#: Options of twistd that people write behind the plugin's name.
_TWISTD = ("logfile", "logger", "n", "nodaemon", "pidfile", "rundir", "umask")


def explain_flag(message: str, program: str, names: Iterable[str]) -> str:
    """Return the message of the option parser, with what to change if a flag is unknown.

    :param names: of all options.
    """
    match = _UNKNOWN_FLAG.fullmatch(message)
    if match is None:
        return message
    flag = match[1] + match[2]
    if match[2] in _TWISTD:
        return f"{flag} is an option of twistd: write it before {program}"
    return f"{flag} is not an option; {advise(match[2], names, '--')}"


def find_unknown_variable(
    prefix: str, known: Iterable[str], environ: Mapping[str, str] = os.environ
) -> str | None:
    """Return what is wrong with an environment variable that looks like an option and is none.

    :param prefix: of the variables of the daemon.
    :param known: the variables of all options, and others of the project.
    """
    names = {name.removeprefix(prefix) for name in known}
    for variable in sorted(environ):
        name = variable.removeprefix(prefix)
        if name != variable and name not in names and not _SERVICE.fullmatch(name):
            advice = advise(name, names, prefix)
            return f"the environment variable {variable} is not an option; {advice}"
    return None


def advise(name: str, names: Iterable[str], before: str) -> str:
    """Return which of some names somebody may have meant, with what comes before it."""
    matches = get_close_matches(name, names, 1)
    return f"did you mean {before}{matches[0]}?" if matches else "see --help"
