"""That the look for secrets, which is made after every test, finds them."""

import pytest
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.wire.tokens import TokenSigner
from tests.support.proxy import KEY, ProxyTestCase, result_of
from tests.support.secrecy import collect_output, find_secrets


class FindingTests(SynchronousTestCase):
    def test_token(self) -> None:
        """A token is found, whatever is around it; a handle is none."""
        token = TokenSigner([KEY]).mint()
        for text in ("{}", "/callback/{}", '"{}"', "https://x.example/{}?a", "a {}."):
            self.assertEqual(find_secrets(text.format(token.text)), [token.text])
            self.assertEqual(find_secrets(text.format(token.job_id)), [])

    def test_proof(self) -> None:
        """A proof is found."""
        proof = "078DC91F2980650231E94E67777078D5C926B9A3"
        self.assertEqual(find_secrets(f'{{"proof":"{proof}"}}'), [proof])

    def test_account(self) -> None:
        """The names of our accounts are found, but the hosts that are called so are none."""
        text = 'account=example "account-12" http://proxy.example/callback jobs.example'
        self.assertEqual(find_secrets(text), ["example", "account-12"])


class CollectingTests(ProxyTestCase):
    """What comes by while a test runs."""

    def collect(self) -> list[str]:
        """Return what came by while one job was done."""
        patch = pytest.MonkeyPatch()
        with collect_output(patch) as texts:
            self.submit()
            self.starts[0].ack("1")
            self.call_back(self.starts[0], result_of("1"))
            self.operate().get("/metrics")
        patch.undo()
        return texts

    def test_all(self) -> None:
        """The events of a job, and the metrics, come by."""
        *events, metrics = self.collect()
        self.assertEqual(len(events), 4)
        self.assertIn("jobproxy_held 0.0", metrics)
