"""Hides a secret in what the job server says, since clients get to read that."""

import re
from collections.abc import Sequence
from functools import lru_cache, reduce

from attrs import define, evolve, field
from twisted.logger import Logger

from jobproxy.wire.bodies import inflate
from jobproxy.wire.reports import Report

_log = Logger()

HIDDEN = b"[hidden]"

#: A character as JSON or a URL can spell it.
_ESCAPE = re.compile(rb"\\u00([0-9a-fA-F]{2})|%([0-9a-fA-F]{2})|\\/")


def hide(body: bytes, secret: str) -> bytes:
    """Return a body with a secret hidden, however its characters are escaped in it.

    :param secret: in ASCII, as callback URLs and tokens are.
    """
    plain = secret.encode()
    if b"\0" in body and plain in body.replace(b"\0", b""):
        # In UTF-16 or UTF-32 its characters have zeros between them.
        return HIDDEN
    if b"\\" in body or b"%" in body:
        if plain in _ESCAPE.sub(_unescape, body):
            return _spellings(secret).sub(HIDDEN, body)
        return body
    return body.replace(plain, HIDDEN) if plain in body else body


def hide_in_ack(ack: Report, secret: str) -> Report:
    """Return an ack with a secret hidden, also in its type and in a compressed body.

    What cannot be decompressed is hidden as a whole: nobody knows what is in it.
    """
    body, coding = hide(ack.body, secret), ack.coding
    if coding and coding.lower() != b"identity":
        try:
            inflated = inflate(ack.body, coding)
            hidden = hide(inflated, secret)
        except ValueError:
            inflated, hidden = b"", HIDDEN
        if hidden != inflated:
            body, coding = hidden, b""
    content_type = hide(ack.content_type, secret)
    if body == ack.body and content_type == ack.content_type:
        return ack
    upstream_id = None if secret in (ack.upstream_id or "") else ack.upstream_id
    return evolve(ack, body=body, coding=coding, content_type=content_type, upstream_id=upstream_id)


@define(eq=False)
class Redactor:
    """Hides secrets in acks, and says once in the log that there are some."""

    _has_hidden: bool = field(default=False, init=False)

    def hide(self, ack: Report, secrets: Sequence[str]) -> Report:
        """Hide the secrets in an ack that quotes its start request: clients may get the ack."""
        hidden = reduce(hide_in_ack, secrets, ack)
        if hidden is not ack and not self._has_hidden:
            self._has_hidden = True
            _log.warn(
                "the job server's acks quote the callback URL or credentials; they are hidden from "
                "clients, who could forge results with them"
            )
        return hidden


def _unescape(match: re.Match[bytes]) -> bytes:
    code = match[1] or match[2]
    return b"/" if code is None else bytes([int(code, 16)])


@lru_cache(maxsize=1)
def _spellings(secret: str) -> re.Pattern[bytes]:
    """Return a pattern that matches the secret, with any of its characters escaped."""
    characters = (
        rf"(?:{re.escape(character)}|\\u00(?i:{ord(character):02x})|%(?i:{ord(character):02x})"
        + (r"|\\/)" if character == "/" else ")")
        for character in secret
    )
    return re.compile("".join(characters).encode())
