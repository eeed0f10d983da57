"""Tokens: which keys are taken."""

from twisted.trial.unittest import SynchronousTestCase

from jobproxy.wire.tokens import TokenSigner


class KeyTests(SynchronousTestCase):
    """How long a key may be."""

    def test_long_keys(self) -> None:
        """B6: a key may be longer than it has to be, and all of it counts."""
        for length in (33, 64, 1_000):
            signer = TokenSigner([b"x" * length])
            token = signer.mint()
            self.assertEqual(signer.verify(token.text), token.job_id)
            other = TokenSigner([b"x" * (length - 1) + b"y"])
            self.assertIsNone(other.verify(token.text))
