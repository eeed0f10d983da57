"""The text of a body, whatever its coding and its characters, and the fields of a form."""

import json
import zlib
from urllib.parse import parse_qsl

JSON_TYPE = b"application/json"
FORM_TYPE = b"application/x-www-form-urlencoded"
#: Fields of a form, or of a query, that are read.
MAX_FIELDS = 1_000
#: Bytes of a compressed body that are looked at.
MAX_INFLATED = 2**20


def is_form(content_type: bytes) -> bool:
    """Whether a body is a form, by its Content-Type."""
    return content_type.split(b";")[0].strip().lower() == FORM_TYPE


def guess_type(*, is_object: bool) -> bytes:
    """Return the type of a body that came without one.

    :param is_object: whether it is an object in JSON.
    """
    return JSON_TYPE if is_object else b"application/octet-stream"


def read_text(body: bytes, coding: bytes = b"") -> str:
    """Return a body as text, without its byte order mark.

    :param coding: its ``Content-Encoding``; a body that it does not fit is read as it is.
    """
    try:
        if coding:
            body = inflate(body, coding)
        text = body.decode()
    except ValueError:
        text = body.decode(json.detect_encoding(body), "replace")
    return text[1:] if text[:1] == "\ufeff" else text


def read_pairs(text: str) -> list[tuple[str, str]]:
    """Return the fields of a form, or of a query; none if there are too many."""
    try:
        return parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        return []


def inflate(body: bytes, coding: bytes) -> bytes:
    """Return a compressed body, as far as it is looked at.

    :raises ValueError: if the coding is not known, or the body is too large or damaged.
    """
    if coding.lower() not in (b"gzip", b"x-gzip", b"deflate"):
        raise ValueError("an unknown coding")
    inflated = b""
    while True:
        # A body in gzip may have several members (RFC 1952, section 2.2).
        inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)
        try:
            inflated += inflater.decompress(body, MAX_INFLATED - len(inflated) + 1)
        except zlib.error as error:
            raise ValueError(str(error)) from None
        if not inflater.eof or len(inflated) > MAX_INFLATED:
            raise ValueError("too large, or cut off")
        body = inflater.unused_data
        if not body.strip(b"\0"):
            return inflated
