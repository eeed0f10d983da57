"""Hides a secret in what the job server says, since clients get to read that."""

import re
import zlib
from base64 import b64encode
from collections.abc import Sequence
from functools import lru_cache, reduce

from attrs import define, evolve, field
from twisted.logger import Logger

from jobproxy.wire.bodies import JSON_TYPE, inflate
from jobproxy.wire.reports import Report

_log = Logger()

HIDDEN = b"[hidden]"

#: A character as JSON, a URL or HTML can spell it.
_ESCAPE = re.compile(
    rb"\\u00([0-9a-fA-F]{2})|%([0-9a-fA-F]{2})|&#[xX]0*([0-9a-fA-F]{2});|&#0*([0-9]{2,3});"
    rb"|&(?:amp;)+|\\(?=[/\\])"
)
#: How often a text may have been escaped.
MAX_ROUNDS = 6
#: How a body begins that is compressed: with gzip, or with zlib at any of its levels.
_COMPRESSED = re.compile(rb"\x1f\x8b|x[\x01\x5e\x9c\xda]")
#: What a body has that may have the secret in it, although not as it is: escapes, the zeros of
#: UTF-16, a run that is long enough to be in Base64 or in hexadecimal, or compression.
_UNCLEAR = re.compile(rb"[\\%%&\0]|[A-Za-z0-9]{28}|\A(?:%b)" % _COMPRESSED.pattern)
#: A run in Base64, for URLs or not, or in hexadecimal.
_RUN = re.compile(rb"[A-Za-z0-9+/_-]{28,}=*")


def hide(body: bytes, secret: str) -> bytes:
    """Return a body with a secret hidden, however it is spelled in it.

    If it was escaped more than once, the body is hidden as a whole.

    :param secret: in ASCII, as callback URLs and tokens are.
    """
    plain = secret.encode()
    body = body.replace(plain, HIDDEN)
    if not _UNCLEAR.search(body):
        return body
    # In UTF-16 or UTF-32 the characters have zeros between them.
    if b"\0" in body and _reveals(body.replace(b"\0", b""), secret):
        return HIDDEN
    if _has_needle(body, secret):
        body = _RUN.sub(lambda run: HIDDEN if _has_needle(run[0], secret) else run[0], body)
    if plain in _ESCAPE.sub(_unescape, body):
        body = _spellings(secret).sub(HIDDEN, body)
    return HIDDEN if _reveals(body, secret) else body


def hide_in_ack(ack: Report, secret: str) -> Report:
    """Return an ack with a secret hidden, also in its type and id, and in a compressed body.

    What cannot be decompressed is hidden as a whole: nobody knows what is in it.
    """
    body, coding = hide(ack.body, secret), ack.coding
    is_coded = coding and coding.lower() != b"identity"
    if is_coded or _COMPRESSED.match(body):
        inflated = _inflate(ack.body, coding if is_coded else b"")
        hidden = HIDDEN if inflated is None else hide(inflated, secret)
        if hidden != inflated:
            body, coding = hidden, b""
    content_type = hide(ack.content_type, secret)
    upstream_id = ack.upstream_id
    if upstream_id is not None and reveals(upstream_id, secret):
        upstream_id = None
    if (body, content_type, upstream_id) == (ack.body, ack.content_type, ack.upstream_id):
        return ack
    return evolve(ack, body=body, coding=coding, content_type=content_type, upstream_id=upstream_id)


def reveals(text: str, secret: str) -> bool:
    """Whether a text has a secret in it, however it is spelled."""
    data = text.encode("utf-8", "replace")
    return hide(data, secret) != data


@define(eq=False)
class Redactor:
    """Hides secrets in acks, and says once in the log that there are some."""

    _has_hidden: bool = field(default=False, init=False)

    def hide(self, ack: Report, secrets: Sequence[str]) -> Report:
        """Hide the secrets in an ack that quotes its start request: clients may get the ack."""
        # Mostly everything that a client may get of an ack is in its body, as it is.
        is_all = ack.status is None and not ack.coding and ack.content_type == JSON_TYPE
        if is_all and not _UNCLEAR.search(ack.body):
            text = ack.body.decode("latin-1")
            for secret in secrets:
                if secret in text:
                    break
            else:
                return ack
        hidden = reduce(hide_in_ack, secrets, ack)
        if hidden is not ack and not self._has_hidden:
            self._has_hidden = True
            _log.warn(
                "the job server's acks quote the callback URL or credentials; they are hidden from "
                "clients, who could forge results with them"
            )
        return hidden


def _inflate(body: bytes, coding: bytes) -> bytes | None:
    """Return a body decompressed; :data:`None`: it cannot be.

    :param coding: empty: it only looks as if it were compressed, so that it may be as it is.
    """
    try:
        return inflate(body, coding or b"deflate")
    except ValueError:
        if coding:
            return None
    # A client that decompresses may show what comes before the damage.
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)
    try:
        return None if inflater.decompress(body, 64) else body
    except zlib.error:
        return body


def _reveals(body: bytes, secret: str) -> bool:
    """Whether the secret is in a body, or in what it is without its escapes."""
    plain = secret.encode()
    for _ in range(MAX_ROUNDS):
        if plain in body or _has_needle(body, secret):
            return True
        clear = _ESCAPE.sub(_unescape, body)
        if clear == body:
            return False
        body = clear
    return False


def _has_needle(body: bytes, secret: str) -> bool:
    return any(needle in body for needle in _needles(secret))


def _unescape(match: re.Match[bytes]) -> bytes:
    code = match[1] or match[2] or match[3]
    if code is not None:
        return bytes([int(code, 16)])
    if match[4] is not None:
        return bytes([int(match[4]) & 0xFF])
    return b"&" if match[0][:1] == b"&" else b""


@lru_cache(maxsize=4)
def _needles(secret: str) -> tuple[bytes, ...]:
    """Return what a secret contributes to a text in hexadecimal or in Base64 that has it inside."""
    plain = secret.encode()
    digits = plain.hex()
    needles = [digits.encode(), digits.upper().encode()]
    for before in range(3):
        # The first and the last characters depend on what is around the secret.
        whole = b64encode(b"\0" * before + plain)
        start, end = (before * 8 + 5) // 6, (before + len(plain)) * 8 // 6
        needle = whole[start:end]
        needles += [needle, needle.translate(bytes.maketrans(b"+/", b"-_"))]
    return tuple(needles)


@lru_cache(maxsize=4)
def _spellings(secret: str) -> re.Pattern[bytes]:
    """Return a pattern that matches the secret, with any of its characters escaped."""
    characters = (
        rf"(?:{re.escape(character)}|\\u00(?i:{ord(character):02x})|%(?i:{ord(character):02x})"
        rf"|&#[xX]0*(?i:{ord(character):02x});|&#0*{ord(character)};"
        + (r"|\\/)" if character == "/" else ")")
        for character in secret
    )
    return re.compile("".join(characters).encode())
