"""A secret in what the job server says: hidden however it is spelled, and nothing else is."""

import gzip
import html
import json
import zlib
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, unquote

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.upstream.redaction import HIDDEN, hide, hide_in_ack
from jobproxy.wire.reports import Report, read_report

SECRET = "http://a.example/callback/x7Kq-_.Z"

spellings = st.sampled_from(
    [
        lambda character: character,
        lambda character: f"\\u{ord(character):04x}",
        lambda character: f"\\u{ord(character):04X}",
        lambda character: f"%{ord(character):02x}",
        lambda character: f"%{ord(character):02X}",
        lambda character: "\\/" if character == "/" else character,
    ]
)
#: No text of these characters has the secret in it.
#: What programs do to a text that they quote; each of them may come on top of the others.
WRAPS: list[Callable[[str], str]] = [
    json.dumps,
    lambda text: quote(text, safe=""),
    lambda text: html.escape(text).replace(".", "&#46;").replace("-", "&#x2D;"),
    lambda text: "".join(f"\\u{ord(character):04x}" for character in text),
]
ENCODINGS: list[Callable[[bytes], bytes]] = [
    b64encode,
    urlsafe_b64encode,
    lambda data: data.hex().encode(),
    lambda data: data.hex().upper().encode(),
]
TOKEN_PART = "x7Kq-_Zr93bVhQpT0aLmYw"
others = st.text(st.sampled_from('ab\\/%u0"{}41 é')).map(str.encode)


class HideTests(SynchronousTestCase):
    @given(st.lists(spellings, min_size=len(SECRET), max_size=len(SECRET)), others, others)
    def test_secret_is_hidden_however_it_is_spelled(
        self, spelled: list[Any], before: bytes, after: bytes
    ) -> None:
        """S27: each character of the secret may be escaped in any way that JSON or a URL knows."""
        pairs = zip(spelled, SECRET, strict=True)
        secret = "".join(spell(character) for spell, character in pairs).encode()
        hidden = hide(before + b" " + secret + b" " + after, SECRET)
        self.assertEqual(hidden, before + b" " + HIDDEN + b" " + after)

    @given(others)
    def test_body_without_the_secret_is_unchanged(self, body: bytes) -> None:
        """A body without the secret is the same object, so that nothing is copied."""
        self.assertIs(hide(body, SECRET), body)

    def test_secret_in_utf_16_hides_the_whole_body(self) -> None:
        """S27: the zeros between the characters do not save the secret."""
        for encoding in ("utf-16", "utf-16-be", "utf-32"):
            self.assertEqual(hide(f"at {SECRET}".encode(encoding), SECRET), HIDDEN)

    def test_secret_in_a_compressed_ack_is_hidden(self) -> None:
        """S27: the ack is then no longer compressed; its id and state are kept."""
        body = b'{"id":"a","state":"running","callback":"%b"}' % SECRET.encode()
        for coding, data in ((b"gzip", gzip.compress(body)), (b"deflate", zlib.compress(body))):
            ack = hide_in_ack(read_report(data, b"application/json", coding), SECRET)
            self.assertEqual(ack.body, body.replace(SECRET.encode(), HIDDEN))
            self.assertEqual((ack.coding, ack.upstream_id, ack.state), (b"", "a", "running"))

    def test_compressed_ack_without_the_secret_is_unchanged(self) -> None:
        """A compressed ack without the secret is passed on as it came."""
        ack = read_report(gzip.compress(b'{"id":"a"}'), b"application/json", b"gzip")
        self.assertIs(hide_in_ack(ack, SECRET), ack)

    def test_ack_in_an_unknown_coding_is_hidden_as_a_whole(self) -> None:
        """S27: what cannot be looked into may have the secret in it."""
        ack = hide_in_ack(read_report(b"???", b"text/plain", b"br"), SECRET)
        self.assertEqual((ack.body, ack.coding), (HIDDEN, b""))

    @given(st.lists(st.sampled_from(WRAPS), max_size=3), st.sampled_from(ENCODINGS), st.booleans())
    def test_secret_is_hidden_however_often_it_is_wrapped(
        self, wraps: list[Callable[[str], str]], encode: Callable[[bytes], bytes], is_encoded: bool
    ) -> None:
        """S27: escapes of escapes, Base64 and hexadecimal do not save the secret."""
        text = f"callback={TOKEN_PART}"
        for wrap in wraps:
            text = wrap(text)
        data = text.encode()
        if is_encoded and not wraps:
            data = encode(b'{"callback":"' + data + b'"}')
        hidden = hide(b"you sent: " + data, TOKEN_PART)
        self.assertIn(HIDDEN, hidden)
        for _ in range(4):
            self.assertNotIn(TOKEN_PART.encode(), hidden)
            hidden = html.unescape(unquote(hidden.decode())).encode()

    @given(st.binary(max_size=4), st.sampled_from(ENCODINGS), st.binary(max_size=4))
    def test_secret_in_an_encoded_text_is_hidden(
        self, before: bytes, encode: Callable[[bytes], bytes], after: bytes
    ) -> None:
        """S27: wherever in a text in Base64 or hexadecimal the secret is, the text is hidden."""
        encoded = encode(before + TOKEN_PART.encode() + after)
        hidden = hide(b'{"id":"1","sent":"' + encoded + b'"}', TOKEN_PART)
        self.assertEqual(hidden, b'{"id":"1","sent":"' + HIDDEN + b'"}')

    def test_compressed_ack_without_a_word_of_it_is_hidden(self) -> None:
        """S27: gzip that no header names, and gzip in several members, are looked into."""
        body = b'{"callback":"%b"}' % SECRET.encode()
        for coding, data in (
            (b"", gzip.compress(body)),
            (b"identity", gzip.compress(body)),
            (b"", zlib.compress(body)),
            (b"gzip", gzip.compress(body[:20]) + gzip.compress(body[20:])),
            (b"gzip", gzip.compress(b"{}") + body),
            (b"identity, gzip", gzip.compress(body)),
            (b"", gzip.compress(body)[:-9]),
        ):
            ack = hide_in_ack(read_report(data, b"application/json", coding), SECRET)
            self.assertEqual(ack.coding, b"")
            self.assertIn(HIDDEN, ack.body)
            self.assertNotIn(SECRET.encode(), ack.body)

    def test_id_with_the_secret_in_it_is_dropped(self) -> None:
        """S27: the id of a job is shown and logged; the secret must not be, in whatever form."""
        for upstream_id in (
            TOKEN_PART,
            quote(TOKEN_PART.replace("-", "%2D"), safe=""),
            b64encode(TOKEN_PART.encode()).decode(),
            f"job {TOKEN_PART.encode().hex()}",
        ):
            ack = Report(b"ok", upstream_id, "running")
            self.assertIsNone(hide_in_ack(ack, TOKEN_PART).upstream_id)
        self.assertEqual(hide_in_ack(Report(b"ok", "1", None), TOKEN_PART).upstream_id, "1")

    def test_secret_in_the_content_type_is_hidden(self) -> None:
        """S27: clients get the Content-Type too."""
        ack = hide_in_ack(read_report(b"ok", b"text/plain; of=%b" % SECRET.encode()), SECRET)
        self.assertEqual(ack.content_type, b"text/plain; of=%b" % HIDDEN)
