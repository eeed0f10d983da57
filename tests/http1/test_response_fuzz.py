"""Whatever a server sends is a response or a BadResponse, and little of it is kept.

``python -m tests.http1.test_response_fuzz 100000`` tries that many random inputs.
"""

import sys
import tracemalloc
from itertools import pairwise
from random import Random
from time import monotonic

from attrs import frozen
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.http1.limits import ClientLimits
from jobproxy.http1.response import BadResponse, Response, ResponseParser

LIMITS = ClientLimits(head=2_000, body=3_000, interim=4)

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
#: Valid responses, of every kind of end.
SAMPLES = (
    OK + b"Content-Length: 5\r\n\r\nhello",
    OK + b"Content-Type: application/json\r\nContent-Length: 29\r\nX-A:  b \r\nX-Empty:\r\n\r\n"
    b'{"state":"running","id":"1a"}',
    CHUNKED + b'5\r\nhello\r\n7;a=b;c="d"\r\n, world\r\n0\r\n\r\n',
    CHUNKED + b"A\r\n0123456789\r\n0\r\nX-T: 1\r\nX-U: 2\r\n\r\n",
    OK + b"Connection: close\r\n\r\nuntil the end",
    b"HTTP/1.0 200 OK\r\nServer: old\r\n\r\nuntil the end",
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nX-A: b\r\n\r\n"
    + OK
    + b"Connection: x, Close\r\nContent-Length: 2\r\n\r\nhi",
    b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nwhatever",
    b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\n\x1f\x8b\x08",
)
#: What makes a difference to a parser, wherever it stands.
TOKENS = (
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b";",
    b",",
    b"0",
    b"-1",
    b"ffffffffffffffff",
    b"18446744073709551615",
    b"\xff",
    b"HTTP/1.1 ",
    b"HTTP/2.0 200 OK\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 101 Switching\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 99999\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip\r\n",
    b"Connection: close\r\n",
    b"Connection: upgrade\r\nUpgrade: x\r\n",
    b"X-Long: " + b"x" * 1_500 + b"\r\n",
    b"a" * 2_500,
    b"5\r\nhello\r\n",
    b"0\r\n\r\n",
)


@frozen
class Outcome:
    """What became of some bytes: a response, an error, or neither yet."""

    response: Response | None
    error: BadResponse | None

    @property
    def parts(self) -> tuple[object, ...]:
        """What has to be the same however the bytes arrive."""
        response = self.response
        if response is None:
            return (self.error is not None,)
        headers = list(response.headers.getAllRawHeaders())
        return (response.code, response.phrase, response.version, headers, response.body)


def read(data: bytes, cuts: list[int]) -> Outcome:
    """Read bytes that arrive in pieces, as a connection does that ends after them."""
    reader = ResponseParser(LIMITS)
    bounds = [0, *sorted(cuts), len(data)]
    try:
        for begin, end in pairwise(bounds):
            reader.feed(data[begin:end])
            if reader.response is not None:
                return Outcome(reader.response, None)
        return Outcome(reader.end(), None)
    except BadResponse as error:
        return Outcome(None, error)
    finally:
        reader.close()


def check(data: bytes, cuts: list[int]) -> Outcome:
    """Check all that holds for any bytes in any pieces; any exception is a failure."""
    whole, outcome = read(data, []), read(data, cuts)
    for response in (whole.response, outcome.response):
        if response is not None:
            assert 200 <= response.code <= 999
            assert len(response.body) <= LIMITS.body
            lines = [
                (name, value)
                for name, values in response.headers.getAllRawHeaders()
                for value in values
            ]
            assert sum(len(name) + len(value) for name, value in lines) <= LIMITS.head
            assert len(response.phrase) <= len(data)
    if len(data) <= LIMITS.head:
        # A head over its bound is found the later, the more of it comes at once.
        assert outcome.parts == whole.parts
    return outcome


def mutate(random: Random, data: bytes) -> bytes:
    """Change something about a response."""
    begin = random.randrange(len(data) + 1)
    end = min(len(data), begin + random.choice((0, 0, 1, 1, 2, 5, 20)))
    kind = random.randrange(6)
    if kind == 0:
        middle = random.choice(TOKENS)
    elif kind == 1:
        middle = random.randbytes(random.randrange(1, 5))
    elif kind == 2:
        middle = data[begin:end] * random.randrange(3)
    elif kind == 3:
        other = random.choice(SAMPLES)
        middle = other[random.randrange(len(other)) :]
    elif kind == 4:
        middle = bytes(byte ^ (1 << random.randrange(8)) for byte in data[begin:end])
    else:
        middle = data[begin:end].swapcase()
    return data[:begin] + middle + data[end:]


def make(random: Random) -> tuple[bytes, list[int]]:
    """Return random bytes, most of them nearly a response, and where they are cut."""
    if random.random() < 0.05:
        data = random.randbytes(random.randrange(200))
    else:
        data = random.choice(SAMPLES)
        for _ in range(random.choice((0, 1, 1, 1, 2, 3, 5))):
            data = mutate(random, data)
    cuts = [random.randrange(len(data) + 1) for _ in range(random.choice((1, 2, 3, 10, 50)))]
    return data, cuts


class FuzzTests(SynchronousTestCase):
    """S9, S20: random input."""

    def test_samples_are_responses(self) -> None:
        """The samples are responses, but for the one that changes protocols."""
        outcomes = [check(sample, list(range(len(sample)))) for sample in SAMPLES]
        bad = [sample for sample, outcome in zip(SAMPLES, outcomes, strict=True) if outcome.error]
        self.assertEqual([sample[:12] for sample in bad], [b"HTTP/1.1 101"])

    @given(st.binary(max_size=500), st.lists(st.integers(0, 500), max_size=20))
    @example(b"", [])
    @example(b"\r\n" * 2_000, [1, 999])
    def test_any_bytes_are_a_response_or_fail(self, data: bytes, cuts: list[int]) -> None:
        """Any bytes are a response, not yet one, or a BadResponse."""
        check(data, cuts)

    @given(st.randoms(use_true_random=False))
    def test_near_responses_are_a_response_or_fail(self, random: Random) -> None:
        """What is nearly a response is one, not yet one, or a BadResponse."""
        for _ in range(10):
            check(*make(random))

    @given(
        st.sampled_from(SAMPLES),
        st.lists(st.sampled_from(TOKENS), max_size=4),
        st.sampled_from(TOKENS),
        st.integers(0, 300),
        st.integers(1, 3_000),
    )
    def test_endless_input_stays_within_its_bounds(
        self, sample: bytes, tokens: list[bytes], token: bytes, cut: int, step: int
    ) -> None:
        """S20: of input without an end nothing but a response within its bounds comes."""
        data = sample[:cut] + b"".join(tokens) + token * (20_000 // len(token))
        check(data, list(range(0, len(data), step)))


class MemoryTests(SynchronousTestCase):
    """S20: what is kept of a response that has no end."""

    def test_memory_stays_within_the_bounds(self) -> None:
        """S20: whatever comes without an end, no more than the bounds of it is in memory."""
        limits = ClientLimits()
        for beginning, endless in (
            (OK, b"X-A: b\r\n"),
            (OK, b"a:\r\n"),
            (OK, b"x"),
            (OK + b"X-A: ", b"x"),
            (OK + b"X-A: ", b" "),
            (b"HTTP/1.1 200 ", b"x"),
            (b"", b"\r\n"),
            (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
            (OK + b"\r\n", b"x"),
            (OK + b"Content-Length: 1000000000\r\n\r\n", b"x"),
            (CHUNKED, b"1\r\nx\r\n"),
            (CHUNKED, b"1;a=b\r\nx\r\n"),
            (CHUNKED, b"0"),
            (CHUNKED + b"5;", b"x"),
            (CHUNKED + b"fffffffffff\r\n", b"x"),
            (CHUNKED + b"0\r\n", b"X-A: b\r\n"),
            (CHUNKED + b"0\r\n", b"x"),
            (CHUNKED + b"0\r\nX-A: ", b"x"),
        ):
            reader = ResponseParser(limits)
            tracemalloc.start()
            try:
                reader.feed(beginning)
                part = endless * (4_096 // len(endless))
                for _ in range(500):
                    reader.feed(part)
            except BadResponse:
                pass
            finally:
                _, peak = tracemalloc.get_traced_memory()
                tracemalloc.stop()
                reader.close()
            # Small objects cost more than the bytes in them.
            self.assertLess(peak, 2_000_000, (beginning, endless))


def main(count: int) -> None:
    """Try random inputs, and say how that went."""
    seed = int(monotonic() * 1_000)
    random = Random(seed)
    responses = errors = 0
    begin = monotonic()
    for number in range(count):
        data, cuts = make(random)
        try:
            outcome = check(data, cuts)
        except Exception:
            sys.stdout.write(f"Input {number} of seed {seed} fails: {data!r} cut at {cuts}\n")
            raise
        responses += outcome.response is not None
        errors += outcome.error is not None
    rate = count / (monotonic() - begin)
    sys.stdout.write(
        f"{count} inputs of seed {seed}, {rate:.0f} a second: {responses} responses, "
        f"{errors} refused, {count - responses - errors} not whole, nothing failed\n"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]))
