"""Long work in short steps, between which everything else goes on."""

from collections.abc import Generator
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

Value = TypeVar("Value")


def run_in_steps(clock: IReactorTime, work: Generator[None, None, Value]) -> Deferred[Value]:
    """Run a generator, one step in each turn of the reactor's loop, the first one at once.

    :return: fires with what the generator returns, or fails with what it raises; cancel it to stop
        the work.
    """
    call: IDelayedCall | None = None

    def cancel(_: Deferred[Value]) -> None:
        work.close()
        if call is not None:
            call.cancel()

    done: Deferred[Value] = Deferred(cancel)

    def step() -> None:
        nonlocal call
        call = None
        try:
            next(work)
        except StopIteration as stop:
            done.callback(stop.value)
        except Exception:
            done.errback()
        else:
            call = clock.callLater(0, step)

    step()
    return done
