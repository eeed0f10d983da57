"""Tokens: which keys are accepted."""

from twisted.trial.unittest import SynchronousTestCase

from jobproxy.wire.tokens import TokenSigner


class KeyTests(SynchronousTestCase):
    """The length of keys."""

    def test_all_bytes_of_a_long_key_count(self) -> None:
        """B6: all bytes of a key that is longer than necessary count."""
        for length in (33, 64, 1_000):
            signer = TokenSigner([b"x" * length])
            token = signer.mint()
            self.assertEqual(signer.verify(token.text), token.job_id)
            other = TokenSigner([b"x" * (length - 1) + b"y"])
            self.assertIsNone(other.verify(token.text))
