"""What the operator sees of callbacks that do not do what their sender meant."""

from twisted.logger import capturedLogs

from tests.support.callbacks import CallbackTestCase, read_log
from tests.support.proxy import result_of

REFUSED = "a callback was refused"


class RefusedTests(CallbackTestCase):
    """Callbacks that are refused."""

    def test_refused_callback_is_logged_without_its_token(self) -> None:
        """B21: the line has the reason, the method, the sender and the type, but not the token."""
        client, start = self.run_job()
        bad = start.callback_path[:-1] + ("A" if start.callback_path[-1] != "A" else "B")
        for connection, path, method, reason in (
            (self.connect(), bad, "POST", "404 not-found to POST"),
            (self.connect(), start.callback_path, "PATCH", "405 method-not-allowed to PATCH"),
            (self.operate(), start.callback_path, "POST", "404 not-found to POST"),
            (self.connect(), f"/{start.callback_path}", "GET", "405 method-not-allowed to GET"),
        ):
            with capturedLogs() as events:
                connection.request(
                    path, b"{}", method=method, headers={"Content-Type": "text/plain"}
                )
            log = read_log(events)
            self.assertEqual(log.count(REFUSED), 1, log)
            self.assertIn(reason, log)
            self.assertIn("with Content-Type text/plain", log)
            self.assertNotIn(start.token[:-1], log)
        self.call_back(start, result_of("1"))
        self.assertEqual(client.response.status, 200)

    def test_other_refusals_are_not_logged(self) -> None:
        """B21: requests of clients are counted, but not logged."""
        with capturedLogs() as events:
            for path in ("/proxy", "/nothing", "/jobs/x"):
                self.connect().request(path, b"x")
        self.assertNotIn(REFUSED, read_log(events))

    def test_lines_are_few_however_many_are_refused(self) -> None:
        """B21: after ten lines there is one each six seconds, which says how many were left out."""
        with capturedLogs() as events:
            for _ in range(50):
                self.connect().request("/callback/x", b"{}")
        self.assertEqual(read_log(events).count(REFUSED), 10)
        self.clock.advance(6)
        with capturedLogs() as events:
            for _ in range(2):
                self.connect().request("/callback/x", b"{}")
        self.assertIn("; 40 more since the last line", read_log(events))
        self.assertEqual(read_log(events).count(REFUSED), 1)


class UnknownWordTests(CallbackTestCase):
    """States that nobody knows."""

    def test_unknown_word_is_named_once(self) -> None:
        """B22: a word that is neither progress nor an end is logged the first time."""
        with capturedLogs() as events:
            for word in ("Halfway", "halfway", "completed", "x" * 100):
                client, start = self.run_job()
                self.call_back(start, result_of("1", word))
                self.assertEqual(client.response.body, result_of("1", word))
        log = read_log(events)
        self.assertEqual(log.count("the state 'halfway' ended its job"), 1)
        self.assertEqual(log.count("ended its job"), 2)
        self.assertNotIn("x" * 51, log)
