"""The HTTP side under random bytes, random requests, and random cuts through them.

``python -m tests.http1.test_server_fuzz COUNT [SEED]`` runs COUNT inputs, and says how fast.
"""

import re
import sys
from collections.abc import Callable
from random import Random
from time import perf_counter
from typing import Any

from attrs import define
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import NOT_DONE_YET

from jobproxy.http1.request import Request
from jobproxy.monitoring.traffic import Traffic
from tests.support.http1_fuzz import PIECES, SEEDS, choose_request, choose_stream, cut_anywhere
from tests.support.http1_server import (
    CONTINUE,
    Keeper,
    RawClient,
    make_server,
    no_failures,
)

_HEAD = re.compile(
    rb"HTTP/1\.1 (\d{3}) [A-Za-z' -]+\r\n(?:[A-Za-z-]+: [^\r\n\0]*\r\n)*?"
    rb"Content-Length: (\d+)\r\n\r\n"
)


class FuzzResource(Keeper):
    """Responds to each request with its own body, at once or later.

    :param is_held: says of each request whether it gets its response later.
    """

    def __init__(self, is_held: Callable[[], bool]) -> None:
        super().__init__()
        self._is_held = is_held
        self.held: list[Request] = []
        #: How each request ended: with its response, or with its client's leaving.
        self.ends: list[tuple[Request, bool]] = []

    def render(self, request: Request) -> Any:
        super().render(request)
        request.when_gone(lambda: self.ends.append((request, False)))
        if self._is_held():
            self.held.append(request)
        else:
            self.respond(request)
        return NOT_DONE_YET

    def respond(self, request: Request) -> None:
        request.write(request.body)
        request.finish()
        if not request.is_gone:
            self.ends.append((request, True))

    def respond_to_held(self, count: int = 100) -> None:
        """Respond to those that are held, the first ones first; others may be held meanwhile."""
        while self.held and count:
            self.respond(self.held.pop(0))
            count -= 1


@define
class Outcome:
    """What came of a stream of bytes.

    :ivar seen: the requests that the resource was given.
    :ivar statuses: of the responses, without leave to go on.
    """

    seen: list[Request]
    statuses: list[int]

    def end(self) -> int | None:
        """Return the refusal that ended the connection.

        What is both malformed and too large may be found to be the one or the other first.
        """
        last = self.statuses[-1] if self.statuses else 200
        return {200: None, 431: 400}.get(last, last)


def read_statuses(data: bytes, seen: list[Request]) -> list[int]:
    """Read responses, each to its end, and the requests' own bodies in them."""
    statuses: list[int] = []
    place = 0
    while place < len(data):
        if data.startswith(CONTINUE, place):
            place += len(CONTINUE)
            continue
        found = _HEAD.match(data, place)
        assert found is not None, f"not a response: {data[place : place + 200]!r}"
        status, length = int(found[1]), int(found[2])
        request = seen[len(statuses)] if len(statuses) < len(seen) else None
        place = found.end()
        if status == 200:
            assert request is not None, "a response to nobody"
            assert length == len(request.body)
            if request.method != b"HEAD":
                assert data.startswith(request.body, place)
                place += length
        else:
            assert b"\r\nConnection: close\r\n" in found[0]
            assert place + length == len(data), "more after what ends the connection"
            place += length
        assert place <= len(data), "a response that is not whole"
        statuses.append(status)
    return statuses


def exchange(pieces: list[bytes], random: Random, *, is_tame: bool) -> Outcome:
    """Send pieces, and check all that holds whatever they are.

    :param random: decides what the client, the server and time do meanwhile.
    :param is_tame: whether they do nothing: no time passes, and every response comes at once.
    """
    clock = Clock()
    held_share = 0.0 if is_tame else random.choice((0.0, 0.2, 0.9))
    resource = FuzzResource(lambda: random.random() < held_share)
    traffic = Traffic(clock.seconds)
    site = make_server(resource, clock, traffic)
    client = RawClient(site)
    if is_tame:
        client.send_all(pieces)
    else:
        live(client, resource, clock, pieces, random)
    client.leave()
    assert site.connections == {}
    assert clock.getDelayedCalls() == []
    resource.respond_to_held()
    ended = [request for request, _ in resource.ends]
    assert len(ended) == len(resource.requests)
    assert set(ended) == set(resource.requests)
    statuses = read_statuses(client.transport.value(), resource.requests)
    responded = [request for request, is_responded in resource.ends if is_responded]
    assert statuses.count(200) == len(responded)
    assert len(statuses) - len(responded) <= traffic.refused.total() <= 1
    return Outcome(resource.requests, statuses)


def live(
    client: RawClient, resource: FuzzResource, clock: Clock, pieces: list[bytes], random: Random
) -> None:
    """Send pieces while all kinds of things happen."""
    if random.random() < 0.2:
        client.transport.is_read = False
        client.transport.room = random.choice((0, 500, 65_536))
    for piece in pieces:
        client.send(piece)
        choice = random.random()
        if choice < 0.05:
            clock.advance(random.choice((0.1, 5, 12, 40)))
        elif choice < 0.4:
            resource.respond_to_held(1)
        elif choice < 0.5:
            client.transport.drain()
    if random.random() < 0.5:
        if random.random() < 0.5:
            client.transport.drain()
        resource.respond_to_held()
        for _ in range(4):
            clock.advance(31)
        assert not client.is_open, "a connection that does not end"


def check_stream(random: Random) -> None:
    """Whatever is sent, the server does not fail, and how it is cut makes no difference."""
    stream = choose_stream(random)
    pieces = cut_anywhere(random, stream)
    exchange(pieces, random, is_tame=False)
    if len(stream) < 3_000:
        whole = exchange([stream], random, is_tame=True)
        in_pieces = exchange(pieces, random, is_tame=True)
        assert in_pieces.end() == whole.end()
        for one, other in zip(in_pieces.seen, whole.seen, strict=True):
            assert one.method == other.method
            assert one.uri == other.uri
            assert one.body == other.body


def check_requests(random: Random) -> None:
    """The requests that are seen are just those that were sent."""
    sent = [choose_request(random) for _ in range(random.randint(1, 6))]
    pieces = cut_anywhere(random, b"".join(request.data for request in sent))
    outcome = exchange(pieces, random, is_tame=True)
    assert outcome.statuses == [200] * len(sent), outcome.statuses
    for request, seen in zip(sent, outcome.seen, strict=True):
        assert (seen.method, seen.uri, seen.body) == (request.method, request.uri, request.body)
        for name, value in dict(request.lines).items():
            assert seen.getHeader(name) == value
        values = [value for name, value in request.lines if name == request.lines[0][0]]
        name = request.lines[0][0].lower()
        assert [value for other, value in seen.headers if other == name] == values


def check(random: Random) -> None:
    """Check one random input."""
    if random.random() < 0.7:
        check_stream(random)
    else:
        check_requests(random)


_BYTES = st.binary(min_size=1, max_size=100) | st.sampled_from([*PIECES, *SEEDS])


class FuzzTests(SynchronousTestCase):
    """What holds for all that a client can send."""

    @settings(max_examples=200)
    @given(st.lists(_BYTES, max_size=10), st.randoms(use_true_random=True))
    @example([b"GET / HTTP/1.1\r\n", b"Host: x\r\n\r\n"], Random(0))
    def test_any_bytes_get_whole_responses(self, pieces: list[bytes], random: Random) -> None:
        """Bytes that are nothing at all get whole responses or none, and leave nothing."""
        exchange(pieces, random, is_tame=False)

    @settings(max_examples=200)
    @given(st.randoms(use_true_random=True))
    def test_mistakes_get_the_same_responses_however_cut(self, random: Random) -> None:
        """Q10: requests with mistakes get whole responses, the same however they are cut."""
        check_stream(random)

    @settings(max_examples=200)
    @given(st.randoms(use_true_random=True))
    def test_requests_arrive_as_they_were_sent_however_cut(self, random: Random) -> None:
        """Q19: the requests that arrive are those that were sent, however they are cut."""
        check_requests(random)


def main(count: int, seed: int) -> None:
    """Check so many inputs; each has a seed of its own, which is named if it fails."""
    begin = perf_counter()
    with no_failures() as failures:
        for number in range(seed, seed + count):
            try:
                check(Random(number))
                assert failures == []
            except BaseException:
                sys.stdout.write(f"failed: python -m tests.http1.test_server_fuzz 1 {number}\n")
                raise
    took = perf_counter() - begin
    sys.stdout.write(f"{count} inputs, nothing failed; {count / took:.0f} per second\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
