"""What holds for every test: it ends, leaves no file descriptor behind, and tells no secret."""

import gc
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
import pytest_twisted
from hypothesis import settings
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory
from werkzeug.routing import Rule

from jobproxy.sandbox.processes import release_ports
from tests.support.identities import trusted  # noqa: F401
from tests.support.programs import fail_if_skipped
from tests.support.secrecy import collect_output, find_secrets
from tests.support.signals import reset_in_children
from tests.support.time_limit import limit_item

# werkzeug compiles code for each route, with which URLs could be made. Nothing here makes any, and
# the tests make thousands of proxies.
Rule._compile_builder = lambda *_: lambda *_: ("", "")  # type: ignore[method-assign]
settings.register_profile("suite", deadline=None, max_examples=50)
settings.load_profile("suite")
reset_in_children()


def pytest_itemcollected(item: pytest.Item) -> None:
    limit_item(item)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse two tests with one id, of which pytest-xdist would run only one.

    :raises pytest.UsageError: if there are some.
    """
    twice = [name for name, count in Counter(item.nodeid for item in items).items() if count > 1]
    if twice:
        raise pytest.UsageError(f"several tests have the id {', '.join(twice)}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    fail_if_skipped(report)
    return report


@pytest.fixture(scope="session", autouse=True)
def open_reactor() -> None:
    """Have the reactor open what it keeps open for good, before descriptors are counted."""

    async def listen() -> None:
        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(Factory())
        await port.stopListening()

    pytest_twisted.blockon(Deferred.fromCoroutine(listen()))


def list_descriptors() -> dict[str, str]:
    """Return what is open, by number; the look itself takes a descriptor, which is left out."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found[entry.name] = str(entry.readlink())
        except FileNotFoundError:
            continue
    return found


@pytest.fixture(autouse=True)
def no_leaked_descriptors() -> Iterator[None]:
    """Compare what is open before and after."""
    before = list_descriptors()
    yield
    release_ports()
    leaked = list_descriptors().keys() - before.keys()
    if leaked:
        gc.collect()
        after = list_descriptors()
        leaked = after.keys() - before.keys()
        assert not leaked, f"left open: {[after[number] for number in leaked]}"


@pytest.fixture(autouse=True)
def no_secrets(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Look for tokens, proofs and accounts in all that was logged, and in every metric."""
    with collect_output(monkeypatch) as texts:
        yield
    found = {secret for text in texts for secret in find_secrets(text)}
    assert not found, f"logged, or in a metric: {found}"
