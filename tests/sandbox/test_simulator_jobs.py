"""The simulator: jobs that clients wait for, jobs with a callback, and the latency."""

from jobproxy.sandbox.slots import Holding
from tests.support.clients import JSON
from tests.support.simulator import RESULT, SimulatorTestCase


class WaitTests(SimulatorTestCase):
    """Jobs whose clients wait."""

    def test_client_that_waits_gets_the_result(self) -> None:
        """A client that waits gets the result after half a second."""
        client = self.wait()
        self.pass_time(0.4375)
        self.assertTrue(client.is_held)
        self.pass_time(0.0625)
        self.assertEqual(client.response.status, 200)
        self.assertEqual(client.response.headers["content-type"], JSON)
        job = self.assert_result(client.response.json)
        self.assertEqual(job.started_at, "2015-06-29T15:28:55.500Z")
        self.assertEqual(self.callbacks, [])
        self.assert_stats(started=1, completed=1, most_queued=1)

    def test_wait_sends_no_callback(self) -> None:
        """A job whose client waits sends no callback."""
        client = self.connect().start(
            account="a", wait=True, callback="http://proxy.example/callback/1"
        )
        self.pass_time(0.5)
        self.assert_result(client.response.json)
        self.pass_time(60)
        self.assertEqual(self.callbacks, [])

    def test_jobs_of_one_account_run_one_after_another(self) -> None:
        """50 jobs of one account take 25 seconds, one after another in order."""
        clients = [self.wait() for _ in range(50)]
        for number in range(50):
            self.assertTrue(clients[number].is_held)
            self.pass_time(0.5)
            self.assertEqual([b.is_held for b in clients].index(False), 0)
            self.assertEqual(sum(not b.is_held for b in clients), number + 1)
            self.assert_result(clients[number].response.json)
        self.assertEqual(self.clock.seconds(), 25)
        self.assertEqual(len({b.response.json["id"] for b in clients}), 50)
        self.assert_stats(started=50, completed=50, most_queued=50)

    def test_jobs_of_different_accounts_run_at_once(self) -> None:
        """50 jobs of 50 accounts take half a second."""
        clients = [self.wait(f"account {number}") for number in range(50)]
        self.pass_time(0.5)
        for client in clients:
            self.assert_result(client.response.json)
        self.assert_stats(started=50, completed=50, most_queued=1)

    def test_start_time_is_when_the_job_begins(self) -> None:
        """A job's start time is when its turn comes, not when it was requested."""
        first, second = self.wait(), self.wait()
        self.pass_time(1)
        self.assertEqual(first.response.json["startedAt"], "2015-06-29T15:28:55.500Z")
        self.assertEqual(second.response.json["startedAt"], "2015-06-29T15:28:56.000Z")

    def test_client_that_leaves_the_queue_starts_no_job(self) -> None:
        """A client that leaves while it is queued starts no job, and blocks no other."""
        self.wait()
        self.wait().leave()
        third = self.wait()
        self.pass_time(1)
        self.assert_result(third.response.json)
        self.assert_stats(started=2, completed=2, most_queued=2)

    def test_client_that_leaves_frees_its_slot(self) -> None:
        """A client that leaves while its job runs frees the slot at once."""
        first, second = self.wait(), self.wait()
        self.pass_time(0.25)
        first.leave()
        self.pass_time(0.5)
        self.assert_result(second.response.json)
        self.assert_stats(started=2, completed=1, most_queued=2)

    def test_connection_is_kept_alive(self) -> None:
        """A connection can be used for one job after another."""
        client = self.connect()
        for number in range(3):
            client.start(account="a", wait=True)
            self.pass_time(0.5)
            self.assertEqual(len(client.responses), number + 1)
        self.assertTrue(client.transport.connected)

    def test_idle_connection_holds_no_slot(self) -> None:
        """An idle connection does not hold the account's slot."""
        first, second = self.wait(), self.wait()
        self.pass_time(1)
        self.assertTrue(first.transport.connected)
        self.assert_result(second.response.json)


class ConnectionHoldingTests(SimulatorTestCase):
    """A simulator where a connection holds its account's slot until its close."""

    holding: Holding = "connection"

    def test_connection_holds_the_slot_until_its_close(self) -> None:
        """Another connection of the account is served once the first one is closed."""
        first, second = self.wait(), self.wait()
        self.pass_time(10)
        self.assert_result(first.response.json)
        self.assertTrue(second.is_held)
        first.start(account="example", wait=True)
        self.pass_time(0.5)
        self.assertEqual(len(first.responses), 2)
        first.leave()
        self.pass_time(0.5)
        self.assert_result(second.response.json)

    def test_connection_close_frees_the_slot_with_the_response(self) -> None:
        """Connection: close frees the slot with the response."""
        first = self.connect()
        body = b'{"account":"example","wait":true}'
        first.send(
            b"POST /start HTTP/1.1\r\nHost: jobs.example\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        second = self.wait()
        self.pass_time(0.5)
        self.assert_result(first.response.json)
        self.assertFalse(first.transport.connected)
        self.assertTrue(second.is_held)
        self.pass_time(0.5)
        self.assert_result(second.response.json)


class JitterTests(SimulatorTestCase):
    """A simulator whose jobs take different times."""

    jitter = 0.25

    def test_jitter_varies_the_duration(self) -> None:
        """Jobs take half a second, plus or minus the jitter."""
        for number in range(50):
            self.start(f"{number}", f"account {number}")
        self.pass_time(0.25)
        self.assertEqual(self.callbacks, [])
        self.pass_time(0.5)
        moments = [callback.moment for callback in self.callbacks]
        self.assertEqual(len(moments), 50)
        self.assertEqual(len(set(moments)), 50)
        self.assertLess(min(moments), 0.375)
        self.assertGreater(max(moments), 0.625)


class StartTests(SimulatorTestCase):
    """Jobs with a callback."""

    def test_start_gets_an_ack_and_a_callback(self) -> None:
        """A start request gets its ack at once, and its callback half a second later."""
        client = self.start()
        job_id = self.assert_ack(client.response)
        self.pass_time(0.4375)
        self.assertEqual(self.callbacks, [])
        self.pass_time(0.0625)
        (callback,) = self.callbacks
        self.assertEqual(callback.name, "1")
        self.assertEqual(callback.request.getHeader("content-type"), JSON)
        self.assertEqual(callback.request.getHeader("content-length"), str(len(callback.raw)))
        self.assertEqual(self.assert_result(callback.json).job_id, job_id)
        self.assert_stats(
            started=1, completed=1, callbacks_sent=1, callbacks_accepted=1, most_queued=1
        )

    def test_slot_is_freed_by_the_ack(self) -> None:
        """50 start requests of one account get their acks at once, and their callbacks at once."""
        ids = {str(n): self.assert_ack(self.start(str(n)).response) for n in range(50)}
        self.pass_time(0.5)
        self.assertEqual({c.name: c.json["id"] for c in self.callbacks}, ids)
        self.assertEqual(len(set(ids.values())), 50)
        self.assert_stats(
            started=50, completed=50, callbacks_sent=50, callbacks_accepted=50, most_queued=1
        )

    def test_start_queues_behind_jobs_that_are_waited_for(self) -> None:
        """A start request takes its turn among jobs whose clients wait."""
        first, client, last = self.wait(), self.start(), self.wait()
        self.assertTrue(client.is_held)
        self.pass_time(0.5)
        self.assert_result(first.response.json)
        self.assert_ack(client.response)
        self.assertTrue(last.is_held)
        self.pass_time(0.5)
        self.assert_result(last.response.json)
        self.assertEqual([callback.moment for callback in self.callbacks], [1])

    def test_callback_is_sent_after_the_client_left(self) -> None:
        """A client that leaves after its ack gets its callback."""
        self.start().leave()
        self.pass_time(0.5)
        self.assertEqual(len(self.callbacks), 1)

    def test_callback_url_may_be_https(self) -> None:
        """A callback URL may use HTTPS."""
        self.connect().start(account="a", callback="https://proxy.example/callback/1")
        self.pass_time(0.5)
        self.assertEqual(len(self.callbacks), 1)

    def test_repeated_callback_url_is_counted(self) -> None:
        """A start request with the callback URL of an earlier one is counted, and served."""
        for name in ("1", "2", "1", "1"):
            self.assert_ack(self.start(name).response)
        self.pass_time(0.5)
        self.assertEqual([callback.name for callback in self.callbacks], ["1", "2", "1", "1"])
        self.assertEqual(self.stats.repeated_callback_urls, 2)

    def test_tag_is_copied_to_the_result(self) -> None:
        """A tag, of any type, is copied to the result and not to the ack."""
        url = "http://proxy.example/callback/1"
        waiting = self.connect().start(account="a", wait=True, tag={"number": 1})
        self.assert_ack(self.connect().start(account="b", callback=url, tag="x").response)
        self.pass_time(0.5)
        self.assertEqual(list(waiting.response.json), [*RESULT, "tag"])
        self.assertEqual(waiting.response.json["tag"], {"number": 1})
        (callback,) = self.callbacks
        self.assertEqual(callback.json["tag"], "x")

    def test_last_start_of_a_queue_gets_its_ack(self) -> None:
        """A start request that is the last in its account's queue gets its ack."""
        first, second = self.wait(), self.start()
        self.pass_time(0.5)
        self.assert_result(first.response.json)
        self.assert_ack(second.response)
        self.pass_time(0.5)
        self.assertEqual(len(self.callbacks), 1)


class LatencyTests(SimulatorTestCase):
    """A simulator behind a network with latency."""

    latency = 0.125

    def test_ack_takes_four_latencies_or_two(self) -> None:
        """An ack takes four latencies on a new connection, and two on an established one."""
        client = self.start()
        self.pass_time(0.46875)
        self.assertTrue(client.is_held)
        self.pass_time(0.03125)
        self.assert_ack(client.response)
        client.start(account="example", callback="http://proxy.example/callback/2")
        self.pass_time(0.21875)
        self.assertEqual(len(client.responses), 1)
        self.pass_time(0.03125)
        self.assertEqual(len(client.responses), 2)
        self.pass_time(1)

    def test_result_takes_four_latencies_more(self) -> None:
        """A result takes the job's duration and four latencies on a new connection."""
        client = self.wait()
        self.pass_time(0.96875)
        self.assertTrue(client.is_held)
        self.pass_time(0.03125)
        self.assert_result(client.response.json)

    def test_callback_arrives_three_latencies_after_the_end(self) -> None:
        """A callback arrives three latencies after the end of its job."""
        self.start()
        self.pass_time(3 * 0.125)
        self.assertEqual(self.stats.started, 1)
        self.pass_time(0.5)
        self.assert_stats(started=1, completed=1, most_queued=1)
        self.pass_time(3 * 0.125)
        self.assertEqual([callback.moment for callback in self.callbacks], [0.5 + 6 * 0.125])

    def test_slot_is_free_when_the_response_is_sent(self) -> None:
        """A slot is free when the response is sent, not when it arrives."""
        clients = [self.wait() for _ in range(3)]
        for number in range(3):
            self.pass_time(0.5 if number else 1)
            self.assertEqual([b.is_held for b in clients].count(False), number + 1)

    def test_client_close_frees_the_slot_after_one_latency(self) -> None:
        """A client's close arrives after one latency, and frees the slot then."""
        first, second = self.wait(), self.wait()
        self.pass_time(3 * 0.125)
        self.assertEqual(self.stats.started, 1)
        first.leave()
        self.pass_time(0.0625)
        self.assertEqual(self.stats.started, 1)
        self.pass_time(0.0625)
        self.assertEqual(self.stats.started, 2)
        self.pass_time(0.5 + 0.125)
        self.assert_result(second.response.json)
