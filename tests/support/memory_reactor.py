"""A reactor in memory, as far as the services of the daemon need one."""

from collections.abc import Callable

from twisted.internet.testing import MemoryReactorClock


class MemoryReactor(MemoryReactorClock):
    """Listens on nothing, and calls at once what a thread asks for."""

    def callFromThread(self, call: Callable[[], object]) -> None:
        call()
