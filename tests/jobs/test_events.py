"""Job events: one line in the log for each change of a job's state."""

from collections.abc import Sequence
from typing import Any

from twisted.internet import error
from twisted.logger import LogEvent, capturedLogs

from tests.support.proxy import ProxyTestCase, result_of

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class JobEventsTestCase(ProxyTestCase):
    """Collects the job events."""

    def setUp(self) -> None:
        super().setUp()
        capture = capturedLogs()
        self.logged: Sequence[LogEvent] = capture.__enter__()
        self.addCleanup(capture.__exit__, None, None, None)

    @property
    def events(self) -> list[LogEvent]:
        return [event for event in self.logged if event["log_namespace"] == "jobproxy.jobs"]

    def read(self, name: str) -> list[Any]:
        return [event.get(name) for event in self.events]


class StateTests(JobEventsTestCase):
    def test_states_are_logged_in_order(self) -> None:
        """A job is logged as queued, starting, running, and ended with its result."""
        client = self.submit()
        self.clock.advance(1)
        self.starts[0].ack("4499")
        self.clock.advance(2)
        self.call_back(self.starts[0], result_of("4499"))
        self.assertEqual(self.read("state"), ["queued", "starting", "running", "ended"])
        self.assertEqual(self.read("id"), [None, None, "4499", "4499"])
        self.assertEqual(self.read("request_id"), [client.response.headers["x-request-id"]] * 4)
        job_id = client.response.headers["content-location"].removeprefix("/jobs/")
        self.assertEqual(self.read("job"), [job_id] * 4)
        end = self.events[-1]
        self.assertEqual((end["outcome"], end["seconds"], end["waiting"]), ("result", 3.0, 1))

    def test_each_event_has_the_trace_id(self) -> None:
        """Each event of a job has the id of its trace."""
        self.connect().request(headers={"traceparent": PARENT})
        self.starts[0].ack("1")
        self.call_back(self.starts[0], result_of("1"))
        self.assertEqual(set(self.read("trace_id")), {"0af7651916cd43dd8448eb211c80319c"})

    def test_each_start_attempt_is_logged(self) -> None:
        """S1: each start attempt is logged, and the end says why there was no start."""
        self.fail_starts(error.ConnectionRefusedError())
        self.submit()
        self.clock.pump([0.2, 0.4])
        states = ["queued", "starting"] * 3 + ["queued", "ended"]
        self.assertEqual(self.read("state"), states)
        self.assertEqual(self.events[-1]["outcome"], "upstream-unreachable")
        self.assertEqual(self.events[-1]["started"], "no")
        (warning,) = [event for event in self.logged if event["log_level"].name == "warn"]
        self.assertEqual(warning["request_id"], self.events[0]["request_id"])

    def test_passed_deadline_and_late_result_are_logged(self) -> None:
        """B3: a client whose deadline has passed is logged, and so is the late result."""
        self.submit()
        self.starts[0].ack("1")
        self.clock.advance(31)
        self.assertEqual(self.events[-1]["end"], "has waited for as long as it may")
        self.assertEqual(self.events[-1]["state"], "running")
        self.call_back(self.starts[0], result_of("1"))
        self.assertEqual(self.events[-1]["outcome"], "result")
        self.assertEqual(self.events[-1]["waiting"], 0)

    def test_job_whose_client_leaves_while_queued_is_withdrawn(self) -> None:
        """Q15: a client that leaves while its job is queued withdraws the job."""
        clients = [self.submit() for _ in range(3)]
        clients[2].leave()
        self.assertEqual(self.events[-1]["outcome"], "withdrawn")
        self.assertEqual(self.events[-1]["started"], "no")
        for client in clients[:2]:
            client.leave()

    def test_client_that_leaves_a_running_job_is_logged(self) -> None:
        """Q16: a client that leaves later is logged, and its job continues to run."""
        client = self.submit()
        self.starts[0].ack("1")
        client.leave()
        self.assertEqual((self.events[-1]["end"], self.events[-1]["state"]), ("left", "running"))

    def test_result_of_an_unknown_job_is_logged_as_its_end(self) -> None:
        """B3: the result of a job that is not known is logged as its end."""
        token = self.signer.mint()
        self.connect().request(f"/callback/{token.text}", result_of("1"))
        self.assertEqual(self.read("state"), ["ended"])
        self.assertEqual(self.read("job"), [token.job_id])

    def test_account_is_not_logged_by_default(self) -> None:
        """By default no event has the account of its job."""
        self.submit("somebody-special")
        self.starts[0].ack("1")
        self.call_back(self.starts[0], result_of("1"))
        self.assertNotIn("somebody-special", str(self.events))


class AccountTests(JobEventsTestCase):
    settings = {"log_accounts": True}

    def test_account_is_logged_if_asked_for(self) -> None:
        """With log_accounts each event has the account of its job."""
        self.submit("somebody-special")
        self.starts[0].ack("1")
        self.call_back(self.starts[0], result_of("1"))
        self.assertEqual(self.read("account"), ["somebody-special"] * 4)
