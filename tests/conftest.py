"""What holds for every test: it leaves no file descriptor behind, and tells no secret."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted
from hypothesis import settings
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory

from tests.support.identities import trusted  # noqa: F401
from tests.support.secrecy import collect_output, find_secrets
from tests.support.stores import errors  # noqa: F401

settings.register_profile("suite", deadline=None, max_examples=50)
settings.load_profile("suite")


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
