"""Agents in memory."""

from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.web.iweb import IAgent
from zope.interface import implementer


@implementer(IAgent)
class FailingAgent:
    """Fails every request with the same error."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def request(self, *args: Any, **kwargs: Any) -> Deferred[Any]:
        return fail(self._error)
