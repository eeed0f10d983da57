"""The first mistake of many: a callback URL that the job server cannot reach."""

from twisted.logger import capturedLogs

from tests.support.callbacks import read_log
from tests.support.proxy import ProxyTestCase, result_of


class SilenceTests(ProxyTestCase):
    """Jobs whose callbacks do not come."""

    def run_jobs(self, number: int) -> list[str]:
        """Let so many jobs time out; return what their clients are told."""
        told = []
        for _ in range(number):
            client = self.submit()
            self.starts[-1].ack("1")
            self.clock.advance(30)
            problem = self.assert_problem(client.response, 504, "wait-over", started="yes")
            told.append(problem["detail"])
        return told

    def read_readiness(self) -> dict[str, object]:
        document: dict[str, object] = self.operate().get("/readyz").response.json
        return document

    def test_first_client_is_told_what_is_mostly_wrong(self) -> None:
        """B20: as long as no callback has ever come, a 504 says so; after one it does not."""
        (detail,) = self.run_jobs(1)
        self.assertIn("No callback has come to this proxy yet", detail)
        self.assertNotIn("/callback", detail)
        client = self.submit()
        self.call_back(self.starts[-1], result_of("1"))
        self.assertEqual(client.response.status, 200)
        (detail,) = self.run_jobs(1)
        self.assertNotIn("No callback", detail)

    def test_operator_is_told_once_and_as_long_as_it_lasts(self) -> None:
        """B20: after 20 acks without a callback there is one line, and a warning in /readyz."""
        with capturedLogs() as events:
            self.run_jobs(19)
            self.assertNotIn("warnings", self.read_readiness())
            self.run_jobs(5)
        self.assertEqual(read_log(events).count("no callback has ever come"), 1)
        ready = self.read_readiness()
        self.assertEqual((ready["status"], ready["warnings"]), ("ready", ["no-callback-yet"]))
        self.call_back(self.starts[-1], result_of("1"))
        self.assertNotIn("warnings", self.read_readiness())
