"""Tokens: only ours are verified."""

import string

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.tokens import TokenSigner

OLD, NEW = b"o" * 32, b"n" * 32


class TokenTests(SynchronousTestCase):
    """Minting and verifying."""

    def test_is_verified(self) -> None:
        """A token's verification gives its handle, also after a restart with the same key."""
        token = TokenSigner([OLD]).mint()
        self.assertEqual(TokenSigner([OLD]).verify(token.text), token.handle)
        self.assertTrue(token.text.startswith(token.handle))

    def test_is_unique(self) -> None:
        """No two tokens are alike."""
        signer = TokenSigner([OLD])
        self.assertEqual(len({signer.mint().text for _ in range(1000)}), 1000)

    def test_is_plain_in_urls(self) -> None:
        """A token needs no escaping in a path, and is short."""
        token = TokenSigner([OLD], entropy=lambda size: b"\xff" * size).mint()
        self.assertLessEqual(set(token.text), set(string.ascii_letters + string.digits + "-_."))
        self.assertLess(len(token.text), 70)

    def test_every_change_is_found(self) -> None:
        """B6: a token with any one character changed, left out or added is not verified."""
        signer = TokenSigner([OLD])
        text = signer.mint().text
        alphabet = string.ascii_letters + string.digits + "-_.=%/é\0"
        for at in range(len(text)):
            for other in alphabet:
                if other != text[at]:
                    self.assertIsNone(signer.verify(text[:at] + other + text[at + 1 :]))
                self.assertIsNone(signer.verify(text[:at] + other + text[at:]))
            self.assertIsNone(signer.verify(text[:at] + text[at + 1 :]))

    @given(st.text())
    def test_nothing_else_is_verified(self, text: str) -> None:
        """B6: any other text is not verified, and does no harm."""
        self.assertIsNone(TokenSigner([OLD]).verify(text))

    def test_other_keys(self) -> None:
        """A token that was signed with another key is not verified."""
        self.assertIsNone(TokenSigner([NEW]).verify(TokenSigner([OLD]).mint().text))

    def test_rotation(self) -> None:
        """Of two keys the first signs and both verify."""
        rotated = TokenSigner([NEW, OLD])
        old = TokenSigner([OLD]).mint()
        self.assertEqual(rotated.verify(old.text), old.handle)
        new = rotated.mint()
        self.assertEqual(TokenSigner([NEW]).verify(new.text), new.handle)

    def test_expires(self) -> None:
        """A token is verified until its lifetime is over, and not after."""
        clock = Clock()
        clock.advance(1_800_000_000)
        signer = TokenSigner([OLD], lifetime=60, now=clock.seconds)
        token = signer.mint()
        clock.advance(60)
        self.assertEqual(signer.verify(token.text), token.handle)
        clock.advance(1)
        self.assertIsNone(signer.verify(token.text))

    def test_is_not_shown(self) -> None:
        """What is logged of a token is its public part; of a signer, no key."""
        signer = TokenSigner([OLD])
        token = signer.mint()
        self.assertIn(token.handle, repr(token))
        self.assertNotIn(token.text, repr(token))
        self.assertNotIn("ooo", repr(signer))

    def test_short_keys(self) -> None:
        """A key that could be guessed is refused."""
        for keys in ([], [b"short"], [OLD, b"short"]):
            with self.assertRaises(ValueError):
                TokenSigner(keys)
