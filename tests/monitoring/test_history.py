"""The history: what the page draws of the last hour and the last day."""

from typing import Any

from twisted.internet import error

from jobproxy.monitoring.counts import STEP
from jobproxy.monitoring.history import FIELDS, PARTS
from tests.support.proxy import EPOCH, ProxyTestCase, result_of


class HistoryTests(ProxyTestCase):
    settings = {"wait": 20.0}

    def setUp(self) -> None:
        super().setUp()
        self.proxy.watch.startService()

    def tearDown(self) -> None:
        self.proxy.watch.stopService()
        super().tearDown()

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds / STEP)):
            self.clock.advance(STEP)

    def read(self) -> Any:
        return self.operate().get("/history").response.json

    def read_points(self, part: str = "hour") -> list[dict[str, Any]]:
        """Return the points of a part, with the names of their numbers."""
        history = self.read()
        self.assertEqual(history["fields"], list(FIELDS))
        points = history[part]["points"]
        return [dict(zip(FIELDS, point, strict=True)) for point in points]

    def test_point_has_the_most_of_its_step(self) -> None:
        """A point has the most clients of its step, and the results, failures and times of it."""
        clients = [self.submit(account) for account in "aaabb"]
        self.pass_time(STEP)
        for start in self.starts[:4]:
            start.ack("1")
            self.call_back(start, result_of("1"))
        self.pass_time(STEP)
        (point,) = self.read_points()
        self.assertEqual(point["time"], EPOCH + 10)
        self.assertEqual((point["held"], point["queued"], point["results"]), (5, 1, 0.4))
        self.assertTrue(2.5 <= point["p50"] <= point["p99"] <= 5, point)
        self.pass_time(10)
        last = self.read_points()[-1]
        self.assertEqual((last["held"], last["results"], last["p50"]), (1, 0.0, None))
        for client in clients:
            client.leave()

    def test_failures_and_the_state_are_in_it(self) -> None:
        """A point has the 5xx a second, and the worst state of its step."""
        for _ in range(2):
            self.submit()
            self.starts[-1].ack("1")
        self.pass_time(30)
        last = self.read_points()[-1]
        self.assertEqual((last["failures"], last["state"]), (0.2, 1))

    def test_it_is_bounded(self) -> None:
        """The hour has 360 points and the day 288, however long the process runs."""
        self.pass_time(90_000)
        for part, (step, number) in PARTS.items():
            points = self.read_points(part)
            self.assertEqual(len(points), number)
            self.assertEqual(points[-1]["time"] - points[-2]["time"], step)
            self.assertEqual(points[-1]["time"], EPOCH + 90_000)

    def test_marks(self) -> None:
        """The start, each change of the circuit and the drain are marked, once each."""
        self.fail_starts(error.ConnectionRefusedError())
        for number in range(10):
            client = self.submit(f"account {number}")
        self.pass_time(10)
        self.assertEqual(client.response.status, 503)
        self.sender.failure = None
        client = self.submit()
        self.starts[-1].ack("1")
        self.call_back(self.starts[-1], result_of("1"))
        self.pass_time(10)
        self.gateway.drain()
        self.pass_time(10)
        marks = [(mark["time"] - EPOCH, mark["text"]) for mark in self.read()["marks"]]
        self.assertEqual(
            marks,
            [
                (0, "started"),
                (5, "circuit open: work-sample"),
                (15, "circuit closed: work-sample"),
                (25, "drain"),
            ],
        )

    def test_head_of_a_process_without_a_past(self) -> None:
        """A process that has just started has no points, and says when it did."""
        history = self.read()
        self.assertEqual((history["hour"]["points"], history["day"]["points"]), ([], []))
        self.assertEqual(history["marks"], [{"time": EPOCH, "text": "started"}])
