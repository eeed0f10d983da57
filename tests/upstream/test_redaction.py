"""A secret in what the job server says: hidden however it is spelled, and nothing else is."""

import gzip
import zlib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.upstream.redaction import HIDDEN, hide, hide_in_ack
from jobproxy.wire.reports import read_report

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

    def test_secret_in_the_content_type_is_hidden(self) -> None:
        """S27: clients get the Content-Type too."""
        ack = hide_in_ack(read_report(b"ok", b"text/plain; of=%b" % SECRET.encode()), SECRET)
        self.assertEqual(ack.content_type, b"text/plain; of=%b" % HIDDEN)
