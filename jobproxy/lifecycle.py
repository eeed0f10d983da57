"""How a daemon of ours starts: with all the sockets it may have, or not at all."""

import gc
import resource
import sys
from typing import NoReturn

from twisted.application.service import MultiService
from twisted.internet.error import CannotListenError
from twisted.logger import Logger

_log = Logger()


class Daemon(MultiService):
    """The parent of a daemon's services.

    :param program: the name that starts the line of an error.
    """

    def __init__(self, program: str) -> None:
        super().__init__()
        self._program = program

    def privilegedStartService(self) -> None:
        """Listen; a port that cannot be had ends the process with one line and exit code 1."""
        raise_file_limit()
        calm_collector()
        try:
            super().privilegedStartService()
        except CannotListenError as error:
            where = f"{error.interface or '*'}:{error.port}"
            reason = getattr(error.socketError, "strerror", None) or error.socketError
            self._give_up(f"cannot listen on {where}: {reason}")
        except OverflowError as error:
            self._give_up(f"cannot listen: {error}")

    def _give_up(self, message: str) -> NoReturn:
        _log.critical("{message}", message=message)
        # twistd has put its log in the place of sys.stderr by now, and that may be a file.
        assert sys.__stderr__ is not None
        sys.__stderr__.write(f"{self._program}: {message}\n")
        raise SystemExit(1)


def calm_collector() -> None:
    """Have Python look for circular garbage less often, and not among what is there for good.

    A job leaves next to none of it, but each look stops the loop for as long as it takes to visit
    every held client.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def raise_file_limit() -> None:
    """Let this process have as many sockets open as it is allowed to ask for."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
