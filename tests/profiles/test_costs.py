"""What a body costs before anything in it is trusted: work is counted, not time."""

import json
import sys
from types import FrameType
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from jobproxy.profiles.job import make_job
from jobproxy.profiles.messages import Message
from jobproxy.wire.problems import ProblemError
from tests.support.profiles import parse_profile

PROFILE = """
account = "$request.body#/account"
[start]
url = "{URL}/x"
[start.set]
"$request.body#/hook/url" = "{$callback.url}"
"$request.body#/other" = 1
"""
FORM = {b"content-type": b"application/x-www-form-urlencoded"}


class CostTests(SynchronousTestCase):
    """One client's request."""

    def count(self, body: bytes, headers: dict[bytes, bytes] | None = None) -> int:
        """Return how many functions are called until the start request is made."""
        profile, calls = parse_profile(PROFILE), 0

        def note(frame: FrameType, event: str, argument: Any) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        sys.setprofile(note)
        try:
            make_job(profile, Message(body, headers or {})).to_start("http://proxy.example/t")
        except ProblemError:
            pass
        finally:
            sys.setprofile(None)
        return calls

    def test_work_does_not_grow_with_the_members(self) -> None:
        """They are read at once; each value that is set is put behind them."""
        small, large = (
            json.dumps({"account": "a", **{f"m{number}": number for number in range(count)}})
            for count in (10, 5_000)
        )
        self.assertLess(self.count(large.encode()), 2 * self.count(small.encode()) + 100)

    def test_form_with_many_fields_is_refused(self) -> None:
        """Without a look at each of them."""
        small, large = (b"account=a" + count * b"&x=1" for count in (1_000, 50_000))
        self.assertLess(self.count(large, FORM), self.count(small, FORM) + 100)
