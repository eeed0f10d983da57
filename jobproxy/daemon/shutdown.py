"""The order in which a twistd service stops, what signals do, and how a failed start ends."""

import signal
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NoReturn, Protocol

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.logger import Logger

from jobproxy.daemon.process import raise_file_limit, tune_collector

_log = Logger()

#: Schedules a function on the reactor: ``callWhenRunning``, or ``callFromThread``.
Schedule = Callable[[Callable[[], object]], object]


class Shutdown(Protocol):
    """The work of a daemon around the stop of its services."""

    async def finish_jobs(self) -> None:
        """Finish the work in progress; all services still run."""

    async def flush(self) -> None:
        """Wait until all responses are sent; the services are stopped."""

    def hurry(self) -> None:
        """Cut both short: a second signal came."""


class Daemon(MultiService):
    """The parent of a daemon's services.

    :param program: begins the line of an error on standard error.
    :param shutdown: runs before and after the services are stopped; :data:`None`: they are stopped
        as Twisted does it.
    :param call_when_running: calls a function once the reactor runs.
    :param call_from_thread: calls a function soon in the reactor's thread; is used by a signal
        handler.
    """

    def __init__(
        self,
        program: str,
        shutdown: Shutdown | None,
        call_when_running: Schedule,
        call_from_thread: Schedule,
        reload: Callable[[], object] | None = None,
    ) -> None:
        super().__init__()
        self._program = program
        self._shutdown = shutdown
        self._call_when_running = call_when_running
        self._call_from_thread = call_from_thread
        self._reload = reload
        #: Twisted's signal handlers, by signal number.
        self._handlers: dict[int, Any] = {}
        self._is_stopping = False
        self._signals = 0

    def startService(self) -> None:
        super().startService()
        if self._shutdown is not None:
            self._call_when_running(self._install_handlers)

    def privilegedStartService(self) -> None:
        """Listen; if a port cannot be opened, write one line and end with exit code 1."""
        raise_file_limit()
        tune_collector()
        try:
            super().privilegedStartService()
        except CannotListenError as error:
            is_socket = isinstance(error.port, bytes)
            where = error.port.decode() if is_socket else f"{error.interface or '*'}:{error.port}"
            reason = getattr(error.socketError, "strerror", None) or error.socketError
            self._exit(f"cannot listen on {where}: {reason}")
        except OSError as error:
            self._exit(f"cannot listen on {_name_file(error)}: {error.strerror or error}")

    def stopService(self) -> Any:
        """Stop in order: the work, the services, the connections.

        A step that fails is logged, and the next one follows.

        :return: fires when all is stopped; Twisted ends the process then.
        """
        if self._shutdown is None:
            return super().stopService()
        return Deferred.fromCoroutine(self._stop(self._shutdown))

    async def _stop(self, shutdown: Shutdown) -> None:
        self._is_stopping = True
        try:
            await _attempt("finish the jobs", shutdown.finish_jobs)
            await _attempt("stop the services", partial(maybeDeferred, super().stopService))
            await _attempt("flush the responses", shutdown.flush)
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    def _install_handlers(self) -> None:
        """Handle signals before Twisted does, which fails on one that comes while it stops.

        A signal that is ignored stays ignored: a shell ignores SIGINT in what a script runs in the
        background.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._handlers[number] = signal.signal(number, self._handle_signal)

        if self._reload is not None and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            self._handlers[signal.SIGHUP] = signal.signal(signal.SIGHUP, self._handle_reload)

    def _handle_reload(self, number: int, frame: Any) -> None:  # noqa: ARG002 - signal's
        """SIGHUP never ends the process, as Twisted's default would."""
        assert self._reload is not None
        self._call_from_thread(self._reload)

    def _handle_signal(self, number: int, frame: Any) -> None:
        assert self._shutdown is not None
        self._signals += 1
        if self._signals > 1:
            self._call_from_thread(self._shutdown.hurry)
        elif not self._is_stopping:
            # If it stops already, an operator has asked for it: this is only the first signal.
            self._is_stopping = True
            self._handlers[number](number, frame)

    def _exit(self, message: str) -> NoReturn:
        _log.critical("{message}", message=message)
        # twistd has replaced sys.stderr by its log, which may be a file.
        assert sys.__stderr__ is not None
        sys.__stderr__.write(f"{self._program}: {message}\n")
        raise SystemExit(1)


def _name_file(error: OSError) -> str:
    """Return the file that an error is about: of a socket's lock, Twisted links it to its name."""
    name = error.filename2 or error.filename or "an endpoint"
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name)


async def _attempt(step: str, run: Callable[[], Awaitable[object]]) -> None:
    """Run a step of the stop; a failure is logged, as it must not prevent the next step."""
    try:
        await run()
    except Exception:
        _log.failure("the daemon cannot {step}, and stops all the same", step=step)
