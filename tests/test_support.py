"""The checks that are made after every test: they find what they look for."""

import unittest

import pytest
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.wire.tokens import TokenSigner
from tests.support.proxy import KEY, ProxyTestCase, result_of
from tests.support.secrecy import collect_output, find_secrets


class HarnessTests(SynchronousTestCase):
    """The check for jobs that are left behind."""

    def test_held_client_is_found(self) -> None:
        """A test that leaves a job behind fails."""

        class Forgetful(ProxyTestCase):
            def test(self) -> None:
                self.submit()
                self.starts[0].ack()

        outcome = unittest.TestResult()
        Forgetful("test").run(outcome)
        self.assertEqual(len(outcome.failures) + len(outcome.errors), 1)


class FindingTests(SynchronousTestCase):
    """The search for secrets."""

    def test_token_is_found(self) -> None:
        """A token is found, whatever is around it; a job id is none."""
        token = TokenSigner([KEY]).mint()
        for text in ("{}", "/callback/{}", '"{}"', "https://x.example/{}?a", "a {}."):
            self.assertEqual(find_secrets(text.format(token.text)), [token.text])
            self.assertEqual(find_secrets(text.format(token.job_id)), [])

    def test_proof_is_found(self) -> None:
        """A proof is found."""
        proof = "078DC91F2980650231E94E67777078D5C926B9A3"
        self.assertEqual(find_secrets(f'{{"proof":"{proof}"}}'), [proof])

    def test_account_is_found(self) -> None:
        """The accounts of the tests are found, but not where they are part of a host name."""
        text = 'account=example "account-12" http://proxy.example/callback jobs.example'
        self.assertEqual(find_secrets(text), ["example", "account-12"])


class CollectingTests(ProxyTestCase):
    """The log and the metrics while a test runs."""

    def collect(self) -> list[str]:
        """Return what was collected while one job was done."""
        patch = pytest.MonkeyPatch()
        with collect_output(patch) as texts:
            self.submit()
            self.starts[0].ack("1")
            self.call_back(self.starts[0], result_of("1"))
            self.operate().get("/metrics")
        patch.undo()
        return texts

    def test_job_events_and_metrics_are_collected(self) -> None:
        """The events of a job and the metrics are collected."""
        *events, metrics = self.collect()
        self.assertEqual(len(events), 4)
        self.assertIn("jobproxy_held 0.0", metrics)
