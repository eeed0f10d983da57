"""A secret in what the job server says: hidden however it is spelled, and nothing else is."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.upstream.redaction import HIDDEN, hide

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
