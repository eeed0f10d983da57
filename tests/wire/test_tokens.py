"""Tokens: only our own are verified."""

import hmac
import string

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.wire.tokens import TokenSigner

OLD, NEW = b"o" * 32, b"n" * 32


class TokenTests(SynchronousTestCase):
    """Tokens that are made and verified."""

    def test_verified_token_gives_its_job_id(self) -> None:
        """A verified token gives its job id, also after a restart with the same key."""
        token = TokenSigner([OLD]).mint()
        self.assertEqual(TokenSigner([OLD]).verify(token.text), token.job_id)
        self.assertTrue(token.text.startswith(token.job_id))

    def test_tokens_are_unique(self) -> None:
        """No two tokens are equal."""
        signer = TokenSigner([OLD])
        self.assertEqual(len({signer.mint().text for _ in range(1000)}), 1000)

    def test_token_needs_no_escaping_in_urls(self) -> None:
        """A token needs no escaping in a URL, and is short."""
        token = TokenSigner([OLD], entropy=lambda size: b"\xff" * size).mint()
        self.assertLessEqual(set(token.text), set(string.ascii_letters + string.digits + "-_."))
        self.assertLess(len(token.text), 70)

    def test_changed_token_is_not_verified(self) -> None:
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
    def test_any_other_text_is_not_verified(self, text: str) -> None:
        """B6: any other text is not verified, and raises nothing."""
        self.assertIsNone(TokenSigner([OLD]).verify(text))

    def test_token_of_another_key_is_not_verified(self) -> None:
        """A token that was signed with another key is not verified."""
        self.assertIsNone(TokenSigner([NEW]).verify(TokenSigner([OLD]).mint().text))

    def test_first_key_signs_and_both_verify(self) -> None:
        """Of two keys the first signs and both verify."""
        rotated = TokenSigner([NEW, OLD])
        old = TokenSigner([OLD]).mint()
        self.assertEqual(rotated.verify(old.text), old.job_id)
        new = rotated.mint()
        self.assertEqual(TokenSigner([NEW]).verify(new.text), new.job_id)

    def test_token_expires_after_its_lifetime(self) -> None:
        """A token is verified until its lifetime is over, and not after."""
        clock = Clock()
        clock.advance(1_800_000_000)
        signer = TokenSigner([OLD], lifetime=60, now=clock.seconds)
        token = signer.mint()
        clock.advance(60)
        self.assertEqual(signer.verify(token.text), token.job_id)
        clock.advance(1)
        self.assertIsNone(signer.verify(token.text))

    def test_lifetime_begins_with_the_second_of_the_token(self) -> None:
        """B6: the lifetime begins with the second in which a token was made."""
        clock = Clock()
        clock.advance(1_800_000_000.75)
        signer = TokenSigner([OLD], lifetime=60, now=clock.seconds)
        token = signer.mint()
        clock.advance(59.25)
        self.assertEqual(signer.verify(token.text), token.job_id)
        clock.advance(0.25)
        self.assertIsNone(signer.verify(token.text))

    def test_lifetime_is_a_day_by_default(self) -> None:
        """B3: by default a token is verified for a day."""
        clock = Clock()
        clock.advance(1_800_000_000)
        signer = TokenSigner([OLD], now=clock.seconds)
        token = signer.mint()
        clock.advance(86_400)
        self.assertEqual(signer.verify(token.text), token.job_id)
        clock.advance(1)
        self.assertIsNone(signer.verify(token.text))

    def test_wall_clock_step_of_an_hour_invalidates_no_token(self) -> None:
        """T1, T2: a step of the wall clock by an hour invalidates no token."""
        clock = Clock()
        clock.advance(1_800_000_000)
        signer = TokenSigner([OLD], now=clock.seconds)
        token = signer.mint()
        for step in (3_600, -7_200):
            clock.advance(step)
            self.assertEqual(signer.verify(token.text), token.job_id)

    def test_token_of_a_known_job_does_not_expire(self) -> None:
        """T5: the token of a job that is known does not expire; its signature is checked first."""
        clock = Clock()
        clock.advance(1_800_000_000)
        signer = TokenSigner([OLD], now=clock.seconds)
        token = signer.mint()
        clock.advance(172_800)

        def find(job_id: str) -> object:
            return job_id == token.job_id

        self.assertEqual(signer.verify(token.text, find), token.job_id)
        self.assertIsNone(signer.verify(token.text, lambda _: None))
        self.assertIsNone(signer.verify(f"{token.text[:-1]}x", find))

    def test_format_is_the_same_for_all_versions(self) -> None:
        """B3: a token is the same for every node and every version with the same key."""
        signer = TokenSigner(
            [OLD], lifetime=60, now=lambda: 1_800_000_000.5, entropy=lambda size: bytes(range(size))
        )
        text = "AABrSdI8only-oneAAECAwQFBgcICQoLDA0ODw.uVUbmWLl-WwPal8bdYyPVQ"
        self.assertEqual(signer.mint().text, text)
        self.assertEqual(signer.verify(text), "AABrSdI8only-oneAAECAwQFBgcICQoLDA0ODw")

    def test_signature_of_another_token_is_not_verified(self) -> None:
        """B6: the signature of one token is not verified for another."""
        signer = TokenSigner([OLD])
        (one, _), (_, other) = (signer.mint().text.split(".") for _ in range(2))
        self.assertIsNone(signer.verify(f"{one}.{other}"))

    def test_verification_compares_with_every_key(self) -> None:
        """B6: the time of a verification shows neither the key nor the number of right bytes."""
        signer = TokenSigner([NEW, OLD])
        compared: list[bytes] = []
        compare = hmac.compare_digest

        def watch(right: bytes, given: bytes) -> bool:
            compared.append(given)
            return compare(right, given)

        self.patch(hmac, "compare_digest", watch)
        texts = [key_holder.mint().text for key_holder in (signer, TokenSigner([OLD]))]
        for text in (*texts, "forged.mac", "forged", ""):
            compared.clear()
            signer.verify(text)
            self.assertEqual(compared, 2 * [text.partition(".")[2].encode()])

    def test_repr_has_no_secret(self) -> None:
        """The repr of a token has its job id only; that of a signer has no key."""
        signer = TokenSigner([OLD])
        token = signer.mint()
        self.assertIn(token.job_id, repr(token))
        self.assertNotIn(token.text, repr(token))
        self.assertNotIn("ooo", repr(signer))

    def test_short_key_is_refused(self) -> None:
        """A key of less than 32 bytes is refused."""
        for keys in ([], [b"short"], [OLD, b"short"], [b"x" * 31]):
            with self.assertRaises(ValueError):
                TokenSigner(keys)
        self.assertTrue(TokenSigner([b"x" * 32, b"y" * 33]).mint())
