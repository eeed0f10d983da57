"""Acks that quote the start request, and clients that try to forge results with what they get."""

import asyncio
import gzip
import json
import random
import re
import zlib
from collections import Counter

from attrs import define, field
from keyed_server import Answer, KeyedServer, Start
from nodes import Connection
from wire import NotUnderstood

_ESCAPE = re.compile(rb"\\u00([0-9a-fA-F]{2})|%([0-9a-fA-F]{2})")
#: What may be a callback path in a response.
_PATH = re.compile(rb"/callback/[^\s\"'<>,;\\]+")


def _escape(text: str, pattern: str) -> str:
    return "".join(pattern % ord(character) for character in text)


@define(eq=False)
class Echoes:
    """Answers each start request with one kind of echo.

    :ivar kinds: the numbers of acks of each kind.
    """

    kinds: Counter[str] = field(factory=Counter)
    _random: random.Random = field(factory=lambda: random.Random(1))

    async def answer(self, start: Start) -> Answer:
        url, token = start.callback, start.token
        plain = json.dumps({"id": f"{start.tag:x}", "state": "running", "callback": url}).encode()
        escaped = plain.replace(token.encode(), _escape(token, "\\u%04x").encode())
        deflated = zlib.compress(plain)
        kinds: dict[str, tuple[str, str, bytes]] = {
            "whole request": ("", "application/json", start.raw),
            "member": ("", "application/json", plain),
            "id": ("", "application/json", json.dumps({"id": url, "state": "running"}).encode()),
            "token as id": ("", "application/json", b'{"id":"%b"}' % token.encode()),
            "escaped JSON": ("", "application/json", escaped),
            "JSON in JSON": ("", "application/json", json.dumps({"a": plain.decode()}).encode()),
            "URL-coded": ("", "text/plain", _escape(url, "%%%02X").encode()),
            "page": ("", "text/html", b'<a href="%b">job</a>' % url.encode()),
            "gzip": ("Content-Encoding: gzip\r\n", "application/json", gzip.compress(plain)),
            "deflate": ("Content-Encoding: deflate\r\n", "application/json", deflated),
            "UTF-16": ("", "text/plain; charset=utf-16", url.encode("utf-16")),
            "Content-Type": ("", f'text/plain; url="{url}"', b"started"),
            "Location": (f"Location: {url}\r\nLink: <{url}>\r\n", "text/plain", b"started"),
        }
        kind = self._random.choice(list(kinds))
        self.kinds[f"echo: {kind}"] += 1
        lines, content_type, body = kinds[kind]
        head = (
            f"HTTP/1.1 202 Accepted\r\nContent-Type: {content_type}\r\n{lines}"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return Answer(head.encode() + body)


def read_all(head: bytes, body: bytes) -> bytes:
    """Return all that a client can easily read in a response, without escapes."""
    found = [head, body]
    if b"content-encoding: gzip" in head.lower():
        found.append(gzip.decompress(body))
    if b"content-encoding: deflate" in head.lower():
        found.append(zlib.decompress(body))
    # What UTF-16 adds to ASCII.
    found.append(body.replace(b"\0", b""))
    text = b"\n".join(found)
    while (plain := _ESCAPE.sub(_unescape, text)) != text:
        text = plain
    return text


def _unescape(match: re.Match[bytes]) -> bytes:
    return bytes([int(match[1] or match[2], 16)])


@define(eq=False)
class Spies:
    """Look for tokens in responses, and try to end jobs with what they find.

    :ivar attempts: how many callbacks were forged.
    """

    port: int
    server: KeyedServer
    attempts: int = 0
    wrong: Counter[str] = field(factory=Counter)

    async def inspect(self, tag: int, head: bytes, body: bytes) -> None:
        text = read_all(head, body)
        callback = self.server.callbacks.get(tag, "")
        if callback and callback.rpartition("/")[2].encode() in text:
            kind = head[9:12].decode()
            self.wrong[f"token in a response with {kind}"] += 1
        job = re.search(rb"ocation: \S*/jobs/(\S+)", head)
        if job is None or head[9:12] != b"202":
            return
        paths = {f"/callback/{job[1].decode()}", f"/callback/{job[1].decode()}.{'A' * 22}"}
        paths |= {path.decode("latin-1") for path in _PATH.findall(text)}
        for path in paths:
            await self._forge(path)

    async def _forge(self, path: str) -> None:
        connection = Connection(self.port)
        self.attempts += 1
        try:
            status, _, _ = await connection.post(path, b'{"state":"completed","forged":true}')
        except (OSError, asyncio.TimeoutError, NotUnderstood):
            return
        finally:
            connection.close()
        if status < 300:
            self.wrong["forged result was accepted"] += 1
