"""The simulator: its faults."""

from typing import Any, cast

from twisted.internet.error import ConnectionLost

from tests.support.clients import JSON, Client
from tests.support.simulator import FakePort, SimulatorTestCase


class DropTests(SimulatorTestCase):
    """The fault drop."""

    faults = "drop=1"

    def test_drop_sends_no_callback(self) -> None:
        """The start request gets its ack and the job ends, but no callback is sent."""
        self.assert_ack(self.start().response)
        self.pass_time(120)
        self.assertEqual(self.callbacks, [])
        self.assert_stats(started=1, completed=1, most_queued=1, faults={"drop": 1})


class DuplicateTests(SimulatorTestCase):
    """The fault duplicate."""

    faults = "duplicate=1"

    def test_duplicate_sends_the_callback_twice(self) -> None:
        """The same callback is sent twice."""
        self.start()
        self.pass_time(0.5)
        first, second = self.callbacks
        self.assertEqual((first.name, first.raw), (second.name, second.raw))
        self.assert_result(first.json)
        self.assert_stats(
            started=1,
            completed=1,
            callbacks_sent=2,
            callbacks_accepted=2,
            most_queued=1,
            faults={"duplicate": 1},
        )

    def test_second_callback_is_sent_after_a_failure(self) -> None:
        """The second callback is sent even if the first one was not delivered."""
        self.start()
        self.fail_callbacks(ConnectionLost())
        self.pass_time(0.5)
        self.assertEqual((self.stats.callbacks_sent, self.stats.callbacks_accepted), (2, 0))


class EarlyTests(SimulatorTestCase):
    """The fault early."""

    faults = "early=1"

    def test_early_callback_is_before_the_ack(self) -> None:
        """The callback is sent at once, and the ack only after its response."""
        self.receiver.held = []
        client = self.start()
        (callback,) = self.callbacks
        job = self.assert_result(callback.json)
        self.assertTrue(client.is_held)
        self.pass_time(5)
        self.assertTrue(client.is_held)
        self.receiver.respond()
        self.assertEqual(self.assert_ack(client.response), job.job_id)
        self.pass_time(60)
        self.assertEqual(len(self.callbacks), 1)
        self.assert_stats(
            started=1,
            completed=1,
            callbacks_sent=1,
            callbacks_accepted=1,
            most_queued=1,
            faults={"early": 1},
        )

    def test_ack_is_sent_after_an_undelivered_early_callback(self) -> None:
        """The ack is sent even if the callback was not delivered."""
        self.fail_callbacks(ConnectionLost())
        self.assert_ack(self.start().response)
        self.assertEqual((self.stats.callbacks_sent, self.stats.callbacks_accepted), (1, 0))


class EarlyLatencyTests(SimulatorTestCase):
    """The fault early, with a latency."""

    faults = "early=1"
    latency = 0.125

    def test_early_callback_takes_three_latencies(self) -> None:
        """The callback arrives three latencies after its start request, and the ack one later."""
        client = self.start()
        self.pass_time(6 * 0.125)
        self.assertEqual([callback.moment for callback in self.callbacks], [6 * 0.125])
        self.assertTrue(client.is_held)
        self.pass_time(0.125)
        self.assert_ack(client.response)


class LateTests(SimulatorTestCase):
    """The fault late."""

    faults = "late=1"

    def test_late_callback_takes_35_seconds_more(self) -> None:
        """The callback is sent 35 seconds after the end of the job."""
        self.assert_ack(self.start().response)
        self.pass_time(0.5)
        self.assertEqual(self.stats.completed, 1)
        self.pass_time(34.5)
        self.assertEqual(self.callbacks, [])
        self.pass_time(0.5)
        self.assertEqual([callback.moment for callback in self.callbacks], [35.5])
        self.assertEqual(self.stats.faults, {"late": 1})


class ShortLateTests(SimulatorTestCase):
    """The fault late, with another duration."""

    faults = "late=1:2"

    def test_late_callback_takes_the_given_seconds_more(self) -> None:
        """The callback is sent the given seconds after the end of the job."""
        self.start()
        self.pass_time(10)
        self.assertEqual([callback.moment for callback in self.callbacks], [2.5])


class ResetTests(SimulatorTestCase):
    """The fault reset."""

    faults = "reset=1"

    def test_reset_replaces_the_ack(self) -> None:
        """The connection is reset instead of an ack; the job runs and its callback is sent."""
        client = self.start()
        self.assertTrue(client.transport.disconnected)
        self.assertFalse(client.transport.connected)
        self.assertEqual(client.transport.value(), b"")
        self.pass_time(0.5)
        (callback,) = self.callbacks
        self.assert_result(callback.json)
        self.assert_stats(
            started=1,
            completed=1,
            callbacks_sent=1,
            callbacks_accepted=1,
            most_queued=1,
            faults={"reset": 1},
        )

    def test_reset_frees_the_slot(self) -> None:
        """The account's next job is served."""
        self.start()
        client = self.wait()
        self.pass_time(0.5)
        self.assert_result(client.response.json)


class ResetLatencyTests(SimulatorTestCase):
    """The fault reset, with a latency."""

    faults = "reset=1"
    latency = 0.125

    def test_reset_arrives_when_the_ack_would(self) -> None:
        """The reset arrives when the ack would have arrived."""
        client = self.start()
        self.pass_time(3.75 * 0.125)
        self.assertTrue(client.is_held)
        self.pass_time(0.25 * 0.125)
        self.assertTrue(client.transport.disconnected)
        self.pass_time(2)
        self.assertEqual([callback.moment for callback in self.callbacks], [0.5 + 6 * 0.125])


class BusyTests(SimulatorTestCase):
    """The fault busy."""

    faults = "busy=1"

    def test_busy_refuses_with_503_and_retry_after(self) -> None:
        """No job is run; the response is a 503 with Retry-After."""
        for client in (self.start(), self.wait()):
            self.assertEqual(client.response.status, 503)
            self.assertEqual(client.response.headers["retry-after"], "1")
            self.assertEqual(client.response.headers["content-type"], JSON)
            self.assertEqual(client.response.json, {"error": "busy"})
        self.pass_time(60)
        self.assertEqual(self.callbacks, [])
        self.assert_stats(most_queued=1, faults={"busy": 2})

    def test_retry_after_busy_is_no_repeated_callback_url(self) -> None:
        """A start request that is sent again after a 503 does not count as repeated."""
        for _ in range(2):
            self.start()
        self.assertEqual(self.stats.repeated_callback_urls, 0)


class ShortBusyTests(SimulatorTestCase):
    """The fault busy, with a duration of zero."""

    faults = "busy=1:0"

    def test_retry_after_may_be_zero(self) -> None:
        """Retry-After is 0."""
        self.assertEqual(self.start().response.headers["retry-after"], "0")


class LongBusyTests(SimulatorTestCase):
    """The fault busy, with a duration of a fraction."""

    faults = "busy=1:1.5"

    def test_retry_after_is_rounded_up(self) -> None:
        """Retry-After is rounded up to a whole second."""
        self.assertEqual(self.start().response.headers["retry-after"], "2")


class RefusedTests(SimulatorTestCase):
    """The fault refused."""

    faults = "refused=1:0.25"

    def start_on(self, port: FakePort, name: str) -> Client:
        client = self.connect()
        cast(Any, client.transport).server = port
        url = f"http://proxy.example/callback/{name}"
        return client.start(account="a", callback=url)

    def test_refused_closes_the_port_for_some_time(self) -> None:
        """The port is closed for the given time; open connections are served."""
        port = FakePort()
        self.assert_ack(self.start_on(port, "1").response)
        self.assertEqual(port.log, ["accept", "stop", "close"])
        self.pass_time(0.1875)
        self.assertFalse(port.connected)
        self.pass_time(0.0625)
        self.assertEqual(port.log, ["accept", "stop", "close", "open"])
        self.pass_time(0.25)
        (callback,) = self.callbacks
        self.assert_result(callback.json)
        self.assertEqual(self.stats.faults, {"refused": 1})

    def test_start_on_an_open_connection_is_served(self) -> None:
        """A start request on an open connection is served, and the port opens in time."""
        port = FakePort()
        self.start_on(port, "1")
        self.pass_time(0.125)
        self.assert_ack(self.start_on(port, "2").response)
        self.pass_time(0.125)
        self.assertEqual(port.log, ["accept", "stop", "close", "open"])
        self.pass_time(0.5)
        self.assertEqual([callback.name for callback in self.callbacks], ["1", "2"])
        self.assertTrue(port.connected)


class ErrorTests(SimulatorTestCase):
    """The fault error."""

    faults = "error=1"

    def test_error_responds_with_500(self) -> None:
        """No job is run; the response is a 500."""
        for client in (self.start(), self.wait()):
            self.assertEqual(client.response.status, 500)
            self.assertNotIn("retry-after", client.response.headers)
            self.assertEqual(client.response.json, {"error": "internal error"})
        self.pass_time(60)
        self.assertEqual(self.callbacks, [])
        self.assert_stats(most_queued=1, faults={"error": 2})

    def test_retry_after_error_is_a_repeated_callback_url(self) -> None:
        """A start request that is sent again after a 500 counts as repeated."""
        for _ in range(2):
            self.start()
        self.assert_stats(most_queued=1, repeated_callback_urls=1, faults={"error": 2})


class GarbageTests(SimulatorTestCase):
    """The fault garbage."""

    faults = "garbage=1"

    def test_garbage_ack_is_not_json(self) -> None:
        """The ack is not JSON; the job runs and its callback is sent."""
        client = self.start()
        self.assertEqual(client.response.status, 200)
        self.assertEqual(client.response.headers["content-type"], JSON)
        with self.assertRaises(ValueError):
            client.response.json  # noqa: B018
        self.pass_time(0.5)
        (callback,) = self.callbacks
        self.assert_result(callback.json)
        self.assertEqual(self.stats.faults, {"garbage": 1})


class SlowTests(SimulatorTestCase):
    """The fault slow."""

    faults = "slow=1"

    def test_slow_ack_takes_12_seconds(self) -> None:
        """The ack takes 12 seconds; the job runs and its callback is sent meanwhile."""
        client = self.start()
        self.pass_time(0.5)
        (callback,) = self.callbacks
        self.pass_time(11)
        self.assertTrue(client.is_held)
        self.pass_time(0.5)
        self.assertEqual(self.assert_ack(client.response), callback.json["id"])
        self.assertEqual(self.stats.faults, {"slow": 1})

    def test_slow_ack_holds_the_slot(self) -> None:
        """An ack that is delayed holds its account's slot."""
        self.start("1")
        self.start("2")
        self.start("3", "other")
        self.pass_time(24)
        self.assertEqual([c.name for c in self.callbacks], ["1", "3", "2"])
        self.assertEqual([c.moment for c in self.callbacks], [0.5, 0.5, 12.5])

    def test_client_that_leaves_a_slow_ack_frees_the_slot(self) -> None:
        """A client that leaves before the ack frees the slot, and its callback is sent."""
        client = self.start("1")
        self.start("2", "example")
        self.pass_time(0.25)
        client.leave()
        self.pass_time(12)
        self.assertEqual([c.name for c in self.callbacks], ["1", "2"])
        self.assertEqual([c.moment for c in self.callbacks], [0.5, 0.75])


class FailedTests(SimulatorTestCase):
    """The fault failed."""

    faults = "failed=1"

    def test_failed_jobs_end_with_state_failed(self) -> None:
        """Jobs end with the state failed, with a client that waits or a callback."""
        self.start()
        client = self.wait()
        self.pass_time(0.5)
        (callback,) = self.callbacks
        self.assert_result(callback.json, "failed")
        self.assert_result(client.response.json, "failed")
        self.assert_stats(
            started=2,
            failed=2,
            callbacks_sent=1,
            callbacks_accepted=1,
            most_queued=1,
            faults={"failed": 2},
        )


class SomeFaultsTests(SimulatorTestCase):
    """Faults of some of the jobs."""

    faults = "failed=0.5,drop=0.25"

    def test_each_job_has_its_own_faults(self) -> None:
        """Each job has its own faults, and the counts agree with what happened."""
        for number in range(200):
            self.start(str(number))
        self.pass_time(0.5)
        stats = self.read_stats()
        self.assertEqual(stats["failed"], stats["faults"]["failed"])
        self.assertEqual(stats["completed"] + stats["failed"], 200)
        self.assertEqual(stats["callbacks_sent"], 200 - stats["faults"]["drop"])
        self.assertEqual(len(self.callbacks), stats["callbacks_accepted"])
        self.assertTrue(70 < stats["faults"]["failed"] < 130)
        self.assertTrue(30 < stats["faults"]["drop"] < 70)


class CombinedFaultsTests(SimulatorTestCase):
    """Several faults of one job."""

    faults = "early=1,reset=1,failed=1"

    def test_faults_can_be_combined(self) -> None:
        """A failed job can have an early callback and a reset instead of its ack."""
        client = self.start()
        (callback,) = self.callbacks
        self.assert_result(callback.json, "failed")
        self.assertTrue(client.transport.disconnected)
        self.assertEqual(client.transport.value(), b"")
        self.assertEqual(self.stats.faults, {"early": 1, "reset": 1, "failed": 1})

    def test_client_that_leaves_before_the_reset_is_ignored(self) -> None:
        """A client that leaves before its connection is reset causes no error."""
        self.receiver.held = []
        client = self.start()
        client.leave()
        self.assertEqual(self.stats.callbacks_accepted, 0)
