"""Look for a body that costs more than its size should: requests, acks, callbacks, headers.

Each input is a random pattern, repeated until it is ``--size`` bytes large. Its cost is the CPU
time that it takes to read it, as a multiple of what an ordinary job of the same size takes; both
are measured in turns, and the least of several times counts, so that other load does not matter.
The worst inputs are printed. The exit code is 1 if one of them costs more than ``--bound`` times as
much.
"""

import argparse
import random
import sys
import time
from collections.abc import Callable
from contextlib import suppress

from attrs import frozen

from jobproxy.http1.body_budget import BodyBudget
from jobproxy.http1.limits import ServerLimits
from jobproxy.http1.request_parser import RequestParser
from jobproxy.wire.jobs import parse_job
from jobproxy.wire.preferences import parse_preferences
from jobproxy.wire.problems import ProblemError
from jobproxy.wire.reports import read_report

#: What patterns are made of.
ATOMS = (
    *'{}[]",:\\ \n\t/01e.-+x=;\x00\xe9',
    '\\"',
    "\\\\",
    "\\u00e9",
    "\\ud83d",
    "{}",
    "[]",
    '""',
    '"a":1',
    '"wait":true',
    '"callback":""',
    "null",
    "NaN",
    "1.5",
    "1e9",
    "\r\n",
)
#: What a body can begin with, so that the pattern is read at all.
HEADS = ("", '"', "{", "[", '{"account":"a",', '{"account":"a","x":', '{"account":"a","x":"')
TAILS = ("", "}", '"}', "]}", "1}")
#: Bytes of the headers of a request.
HEADERS = 8_192


@frozen
class Finding:
    """The cost of an input.

    :param ratio: how many times as much it costs as an ordinary job of that size.
    """

    ratio: float
    reader: str
    pattern: str


def make_plain_job(size: int) -> bytes:
    """Return an ordinary job: many members with short values."""
    members = ",".join(f'"name {number}":"value {number}"' for number in range(size // 24))
    return f'{{"account":"example",{members}}}'.encode()[:-1].ljust(size - 1) + b"}"


def read_request(body: bytes) -> None:
    """Read a request with this body, in chunks, and with some of it in a header."""
    value = bytes(byte for byte in body[:HEADERS] if 32 <= byte < 127)
    head = b"POST /proxy HTTP/1.1\r\nHost: a\r\nX-Any: %s\r\nContent-Length: %d\r\n\r\n"
    budget = BodyBudget(len(body))
    parser = RequestParser(ServerLimits(), lambda *_: budget)
    message = head % (value, len(body)) + body
    for at in range(0, len(message), 4_096):
        parser.feed(message[at : at + 4_096])
    parser.close()


def read_headers(body: bytes) -> None:
    """Read the headers that say what a client prefers."""
    value = body[:HEADERS]
    for name in (b"prefer", b"idempotency-key", b"traceparent", b"tracestate"):
        parse_preferences([(name, value)])


READERS: dict[str, Callable[[bytes], object]] = {
    "job": parse_job,
    "ack or callback": read_report,
    "request": read_request,
    "preferences": read_headers,
}


def measure(read: Callable[[bytes], object], body: bytes) -> float:
    """Return the seconds of CPU time that it takes to read a body."""
    began = time.process_time()
    with suppress(ProblemError, ValueError):
        read(body)
    return time.process_time() - began


def find_ratio(read: Callable[[bytes], object], body: bytes, plain: bytes, bound: float) -> float:
    """Return how many times as much as an ordinary job a body costs."""
    ratio = 0.0
    least, least_plain = float("inf"), float("inf")
    for attempt in range(12):
        least = min(least, measure(read, body))
        least_plain = min(least_plain, measure(parse_job, plain))
        ratio = least / least_plain
        if attempt and ratio < bound / 2:
            break
    return ratio


def make_pattern(source: random.Random) -> tuple[str, str, str]:
    """Return what a body begins with, what is repeated, and what it ends with."""
    unit = "".join(source.choice(ATOMS) for _ in range(source.randint(1, 5)))
    return source.choice(HEADS), unit, source.choice(TAILS)


def make_body(head: str, unit: str, tail: str, size: int) -> bytes:
    """Repeat a pattern until the body has a size, about."""
    count = max(1, (size - len(head) - len(tail)) // len(unit.encode()))
    return (head + unit * count + tail).encode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--size", type=int, default=65_536)
    parser.add_argument("--bound", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--top", type=int, default=10)
    arguments = parser.parse_args()
    source = random.Random(arguments.seed)
    plain = make_plain_job(arguments.size)
    worst: dict[str, Finding] = {}
    tried = 0
    until = time.monotonic() + arguments.seconds
    while time.monotonic() < until:
        head, unit, tail = make_pattern(source)
        body = make_body(head, unit, tail, arguments.size)
        for name, read in READERS.items():
            tried += 1
            ratio = find_ratio(read, body, plain, arguments.bound)
            finding = Finding(ratio, name, f"{head!r} {unit!r}* {tail!r}")
            if name not in worst or worst[name].ratio < ratio:
                worst[name] = finding
    print(f"{tried} inputs of {arguments.size} bytes; times what an ordinary job costs:")
    for finding in sorted(worst.values(), key=lambda finding: -finding.ratio)[: arguments.top]:
        print(f"{finding.ratio:8.2f}  {finding.reader}: {finding.pattern}")
    is_passed = all(finding.ratio <= arguments.bound for finding in worst.values())
    print("PASSED" if is_passed else "FAILED")
    sys.exit(not is_passed)


if __name__ == "__main__":
    main()
