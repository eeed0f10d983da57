"""Random bytes and random requests for HTTP/1.1 servers, and random cuts through them."""

from itertools import pairwise
from random import Random

from attrs import field, frozen

from tests.support.http1_server import cut, head, post, post_chunked

_TOKEN = b"!#$%&'*+-.0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ^_`abcdefghijklmnopqrstuvwxyz|~"
_PATH = b"ABCabc019-._~!$&'()*+,;=:@%/"
_VALUE = bytes([*range(0x20, 0x7F), *range(0x80, 0x100), 0x09])
_METHODS = (b"GET", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"HEAD")

#: What mutations put where it does not belong.
PIECES = [
    *(
        b"\r\n|\r|\n|\r\n\r\n|\0| |\t|:|;|,|\xff|0|1| HTTP/1.1\r\n"
        b"|GET / HTTP/1.1\r\n|GET / HTTP/1.0\r\n|POST / HTTP/1.1\r\n|HEAD / HTTP/1.1\r\n"
        b"|CONNECT x:1 HTTP/1.1\r\n|PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n|Upgrade: x\r\n"
        b"|Content-Length: 5\r\n|Content-Length: 0\r\n|Content-Length: 65537\r\n|Host: x\r\n"
        b"|Connection: close\r\n|Connection: keep-alive\r\n|Connection: upgrade\r\n|X:\r\n"
        b"|Transfer-Encoding: chunked\r\n|Expect: 100-continue\r\n"
        b"|0\r\n\r\n|5\r\nhello\r\n|5;a=b\r\n|ffffffffffffffff\r\n"
    ).split(b"|"),
    b"X: " + b"y" * 3_000,
    b"X: y\r\n" * 101,
    b"x" * 20_000,
]
SEEDS = (
    head(start=b"GET /?a=b HTTP/1.1"),
    head(start=b"HEAD / HTTP/1.1"),
    b"POST / HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello",
    post(b"hello"),
    head(b"Connection: close", b"Content-Length: 5") + b"hello",
    head(b"Content-Length: 5", b"Expect: 100-continue") + b"hello",
    post_chunked(b"5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n"),
    post_chunked(b"a\r\n0123456789\r\n1\r\n!\r\n000\r\n\r\n"),
)


def choose_bytes(random: Random, alphabet: bytes, low: int, high: int) -> bytes:
    return bytes(random.choices(alphabet, k=random.randint(low, high)))


def cut_anywhere(random: Random, data: bytes) -> list[bytes]:
    """Return data in random pieces: one, many, or one for each byte."""
    kind = random.random()
    if kind < 0.2 or len(data) < 2:
        return [data]
    if kind < 0.4:
        return cut(data, random.choice((1, 2, 3, 7)) if len(data) < 500 else 1_000)
    count = min(random.choice((1, 2, 5, 20)), len(data) - 1)
    places = [0, *sorted(random.sample(range(1, len(data)), count)), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


def mutate(random: Random, data: bytes) -> bytes:
    """Return data with one thing wrong."""
    start = random.randint(0, len(data))
    end = min(len(data), start + random.choice((0, 1, 2, 5, 20)))
    kind = random.randrange(6)
    if kind == 0:
        return data[:start] + random.randbytes(random.randint(1, 4)) + data[end:]
    if kind == 1:
        return data[:start] + data[end:]
    if kind == 2:
        return data[:end] + data[start:]
    if kind == 3:
        return data[:start]
    return data[:start] + random.choice(PIECES) + data[end:]


def choose_stream(random: Random) -> bytes:
    """Return bytes that are, or once were, mostly requests."""
    if random.random() < 0.05:
        return random.randbytes(random.randint(0, 200))
    stream = b"".join(random.choices(SEEDS, k=random.randint(1, 4)))
    for _ in range(random.randint(0, 4)):
        stream = mutate(random, stream)
    return stream


@frozen
class Sent:
    """A valid request.

    :ivar lines: the headers, with lower-case names.
    :ivar data: all of it.
    """

    method: bytes
    uri: bytes
    lines: list[tuple[bytes, bytes]]
    body: bytes
    data: bytes = field(repr=False)


def choose_request(random: Random) -> Sent:
    """Return a request that is as odd as it may be."""
    method = random.choice(_METHODS)
    uri = b"/" + choose_bytes(random, _PATH, 0, 20)
    if random.random() < 0.3:
        uri += b"?" + choose_bytes(random, _PATH + b"?/", 0, 20)
    lines = [(random.choice((b"Host", b"host", b"HOST")), b"proxy.example")]
    lines += [
        (
            b"X" + choose_bytes(random, _TOKEN, 0, 8),
            choose_bytes(random, _VALUE, 0, 30).strip(b" \t"),
        )
        for _ in range(random.randint(0, 4))
    ]
    size = 66_000 if random.random() < 0.002 else random.randint(0, 40)
    body = random.randbytes(min(size, 65_536))
    sent = body
    if random.random() < 0.4:
        lines.append((b"Transfer-Encoding", random.choice((b"chunked", b"Chunked"))))
        sent = write_chunks(random, body)
    elif body or random.random() < 0.5:
        lines.append((b"Content-Length", b"%d" % len(body)))
    if random.random() < 0.1:
        lines.append((b"Expect", b"100-continue"))
    random.shuffle(lines)
    written = [
        b"%b:%b%b" % (name, random.choice((b"", b" ", b"\t", b" \t ")), value)
        for name, value in lines
    ]
    start = b"%b %b HTTP/1.1" % (method, uri)
    data = b"\r\n".join([start, *written, b"", sent])
    if random.random() < 0.1:
        data = b"\r\n" + data
    return Sent(method, uri, [(name.lower(), value) for name, value in lines], body, data)


def write_chunks(random: Random, body: bytes) -> bytes:
    """Return a body in random chunks, with extensions and trailers."""
    chunks = []
    for chunk in cut_anywhere(random, body):
        if chunk:
            size = random.choice((b"%x", b"%X", b"0%x")) % len(chunk)
            extension = random.choice((b"", b"", b";a", b";a=b", b';a="b;\\"c"', b";a=b;c=d"))
            chunks.append(size + extension + b"\r\n" + chunk + b"\r\n")
    trailers = random.choice((b"", b"", b"X: y\r\n", b"Host: evil.example\r\nX:\r\n"))
    return b"".join(chunks) + random.choice((b"0", b"000")) + b"\r\n" + trailers + b"\r\n"
