"""Hides a secret in what the job server says, since clients get to read that."""

import re
from functools import lru_cache

HIDDEN = b"[hidden]"

#: A character as JSON or a URL can spell it.
_ESCAPE = re.compile(rb"\\u00([0-9a-fA-F]{2})|%([0-9a-fA-F]{2})|\\/")


def hide(body: bytes, secret: str) -> bytes:
    """Return a body with a secret hidden, however its characters are escaped in it.

    :param secret: in ASCII, as callback URLs and tokens are.
    """
    plain = secret.encode()
    if b"\\" in body or b"%" in body:
        if plain in _ESCAPE.sub(_unescape, body):
            return _spellings(secret).sub(HIDDEN, body)
        return body
    return body.replace(plain, HIDDEN) if plain in body else body


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
