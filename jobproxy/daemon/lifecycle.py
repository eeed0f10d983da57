"""How a daemon of ours starts and ends: with all the sockets it may have, and an empty desk."""

import gc
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn, Protocol

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.logger import Logger

_log = Logger()


class Shutdown(Protocol):
    """What a daemon has to do before and after its services are stopped."""

    async def finish_jobs(self) -> None:
        """End the work, as long as all services still run."""

    async def flush(self) -> None:
        """See to it that everything that was said last is heard."""

    def hurry(self) -> None:
        """Wait no longer for anything."""


class Daemon(MultiService):
    """The parent of a daemon's services.

    :param program: the name that starts the line of an error.
    :ivar shutdown: what has to be done before the services, which stop all at once, are stopped.
    :ivar when_running: has a function called once the loop runs.
    :ivar wake: has a function called by the loop soon; may be called by a signal handler.
    """

    shutdown: Shutdown | None = None
    when_running: Callable[[Callable[[], object]], object]
    wake: Callable[[Callable[[], object]], object]

    def __init__(self, program: str) -> None:
        super().__init__()
        self._program = program
        self._handlers: dict[int, Any] = {}
        self._is_told = False

    def startService(self) -> None:
        super().startService()
        if self.shutdown is not None:
            self.when_running(self._watch_signals)

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

    def stopService(self) -> Any:
        """Stop in order: first the work, then the services, and last the connections.

        :return: fires when all is done; Twisted ends the process then.
        """
        if self.shutdown is None:
            return super().stopService()
        return Deferred.fromCoroutine(self._leave(self.shutdown))

    async def _leave(self, shutdown: Shutdown) -> None:
        self._is_told = True
        await shutdown.finish_jobs()
        await maybeDeferred(super().stopService)
        await shutdown.flush()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _watch_signals(self) -> None:
        """See every signal to stop before Twisted, which fails on one that comes while it stops."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._handlers[number] = signal.signal(number, self._take_signal)

    def _take_signal(self, number: int, frame: Any) -> None:
        assert self.shutdown is not None
        if self._is_told:
            self.wake(self.shutdown.hurry)
        else:
            self._is_told = True
            self._handlers[number](number, frame)

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
    gc.set_threshold(5_000, 20, 100)


def raise_file_limit() -> None:
    """Let this process have as many sockets open as it is allowed to ask for."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
