"""Restarts: with a store in a file, what was promised before a restart holds after it.

The process is killed between two steps of a job, and another one begins with the same file. A key
never starts a second job, a result whose callback got 200 is there, and a job id that a client was
told can be asked for.
"""

from jobproxy.jobs.retention import Bounds
from jobproxy.store.inspection import inspect
from tests.support.proxy import result_of
from tests.support.restarts import RestartTestCase

ASYNC = {"Prefer": "respond-async"}


class KeyTests(RestartTestCase):
    """Idempotency keys over a restart."""

    def test_key_of_a_running_job_is_held_again_until_its_callback(self) -> None:
        """K1: the key joins the job of the process before, and gets the result of its callback."""
        self.node.submit(key="k")
        start = self.starts[0]
        start.ack("1")
        self.restart()
        client = self.node.submit(key="k")
        self.assertTrue(client.is_held)
        receipt = self.node.call_back(start, result_of("1"))
        self.assertEqual(receipt.json, {"status": "accepted"})
        self.cluster.settle()
        self.assert_result(client, result_of("1"))
        self.assertEqual(len(self.starts), 1)
        self.assertEqual(self.node.list_orphans(), [])

    def test_key_of_a_job_that_has_ended_replays_its_result(self) -> None:
        """K1: a result that a client got is replayed after a restart, even after two."""
        client = self.node.submit(key="k")
        self.starts[0].ack("1")
        self.node.call_back(self.starts[0], result_of("1"))
        self.assert_result(client, result_of("1"))
        for kill in (True, False):
            self.restart(kill=kill)
            self.assert_result(self.node.submit(key="k"), result_of("1"), is_replayed=True)
        other = self.node.submit(key="k", number=1).response
        self.assert_problem(other, 422, "idempotency-key-reused")
        self.assertEqual(len(self.starts), 1)

    def test_key_whose_result_is_not_kept_any_more_is_refused(self) -> None:
        """K1: after ``--retain`` the key says that its job was started, and starts none."""
        self.node.submit(key="k")
        self.node.call_back(self.starts[0], result_of("1"))
        self.clock.advance(301)
        self.restart()
        self.assert_problem(self.node.submit(key="k").response, 409, "result-gone", started="yes")
        self.assertEqual(len(self.starts), 1)

    def test_key_of_the_process_before_is_refused_once_its_result_is_gone(self) -> None:
        """K1: the callback came after the restart; after ``--retain`` the job was started."""
        self.node.submit(key="k")
        self.restart()
        self.node.call_back(self.starts[0], result_of("1"))
        self.clock.advance(301)
        self.restart()
        self.assert_problem(self.node.submit(key="k").response, 409, "result-gone", started="yes")
        self.assertEqual(len(self.starts), 1)

    def test_key_whose_start_was_cut_off_is_unknown_and_never_started_again(self) -> None:
        """K1: killed during its start request, a job may run: each client is held, then told."""
        self.node.submit(key="k")
        self.restart()
        for _ in range(2):
            client = self.node.submit(key="k")
            self.clock.advance(31)
            self.assert_problem(client.response, 504, "start-unknown", started="unknown")
        self.assertEqual(len(self.starts), 1)

    def test_key_of_a_queued_job_is_started_after_the_restart(self) -> None:
        """K2: a job that was still queued has no claim, so its key starts it."""
        first, second = self.node.submit(), self.node.submit()
        self.node.submit(key="k")
        self.assertEqual(len(self.starts), 2)
        self.restart()
        client = self.node.submit(key="k")
        self.assertEqual(len(self.starts), 3)
        self.node.call_back(self.starts[2], result_of("3"))
        self.assert_result(client, result_of("3"))
        for lost in (first, second):
            lost.leave()

    def test_key_of_a_job_that_was_put_off_is_started_after_the_restart(self) -> None:
        """K2: the job server refused the start unread; then the process died: the key is free."""
        self.node.submit(key="k")
        self.starts[0].respond(b"", 503, Retry_After="5")
        self.restart()
        client = self.node.submit(key="k")
        self.assertEqual(len(self.starts), 2)
        self.node.call_back(self.starts[1], result_of("2"))
        self.assert_result(client, result_of("2"))

    def test_drain_frees_the_keys_of_queued_jobs(self) -> None:
        """K2: a job that a drain has ended without a start is started by the next process."""
        for _ in range(2):
            self.node.submit()
        queued = self.node.submit(key="k")
        self.node.gateway.drain()
        self.assert_problem(queued.response, 503, "draining")
        self.restart(kill=False)
        self.node.submit(key="k")
        self.assertEqual(len(self.starts), 3)
        self.node.call_back(self.starts[2], result_of("3"))

    def test_ack_of_a_key_is_kept_once_its_job_takes_a_while(self) -> None:
        """K1: after a restart it is known that the job of the key was started, and its id."""
        self.node.submit(key="k")
        self.starts[0].ack("77")
        self.clock.advance(1)
        self.restart()
        client = self.node.submit(key="k")
        self.clock.advance(31)
        problem = self.assert_problem(client.response, 504, "wait-over", started="yes")
        self.assertEqual(problem["id"], "77")
        self.node.call_back(self.starts[0], result_of("77"))

    def test_job_that_ends_soon_is_not_noted(self) -> None:
        """A job with a key whose callback comes soon is written twice: its claim, its result."""
        self.node.submit(key="k")
        self.starts[0].ack("1")
        for seconds, noted in ((0.9, 0), (0.2, 1)):
            self.clock.advance(seconds)
            self.assertEqual(inspect(str(self.path))["running"], noted)
        self.node.call_back(self.starts[0], result_of("1"))
        self.assertEqual(inspect(str(self.path))["running"], 0)


class ToldTests(RestartTestCase):
    """Jobs that clients were told they can ask for."""

    def test_job_that_was_told_202_runs_on_after_the_restart(self) -> None:
        """K3: the job id of a 202 is known, is polled for, and gets the result."""
        client = self.node.connect().request(headers=ASYNC)
        self.starts[0].ack("1")
        path = client.response.headers["location"]
        self.restart()
        poll = self.node.connect().get(path).response
        self.assertEqual((poll.status, poll.json["state"]), (202, "running"))
        waiting = self.node.connect().get(path, Prefer="wait=20")
        self.assertTrue(waiting.is_held)
        receipt = self.node.call_back(self.starts[0], result_of("1"))
        self.assertEqual(receipt.json, {"status": "accepted"})
        self.cluster.settle()
        self.assertEqual(waiting.response.body, result_of("1"))
        self.restart()
        self.assertEqual(self.node.connect().get(path).response.body, result_of("1"))

    def test_job_of_the_process_before_is_known_after_the_next_restart(self) -> None:
        """K3: a job id that a client was told for its key is known to each later process."""
        for prefer, status in (("respond-async, wait=5", 202), ("wait=5", 504)):
            self.node.submit(key=f"{status}")
            start = self.starts[-1]
            self.restart()
            client = self.node.submit(key=f"{status}", Prefer=prefer)
            self.clock.advance(5)
            self.assertEqual(client.response.status, status)
            self.restart()
            self.assertEqual(self.node.connect().get(start.job_path).response.status, 202)
            self.node.call_back(start, result_of("1"))

    def test_202_waits_until_its_job_is_safe(self) -> None:
        """K3: a client is told 202 only when its job is in the store."""
        client = self.node.connect().request(headers=ASYNC)
        self.thread.hangs = True
        self.starts[0].ack("1")
        self.assertTrue(client.is_held)
        self.thread.go_on()
        self.assertEqual(client.response.status, 202)
        self.node.call_back(self.starts[0], result_of("1"))

    def test_202_that_cannot_be_kept_is_not_given(self) -> None:
        """K5: while the store is away a client is not told 202; that its job runs it is told."""
        client = self.node.connect().request(headers=ASYNC)
        self.thread.hangs = True
        self.starts[0].ack("1")
        self.clock.advance(2.1)
        problem = self.assert_problem(client.response, 503, "store-unreachable", started="yes")
        self.thread.go_on()
        self.clock.advance(4)
        self.node.call_back(self.starts[0], result_of("1"))
        poll = self.node.connect().get(f"/jobs/{problem['job']}").response
        self.assertEqual(poll.body, result_of("1"))

    def test_job_is_not_unknown_while_the_process_stops(self) -> None:
        """K3: a poll that comes when the table is closed already must not get 404."""
        client = self.node.connect().request(headers=ASYNC)
        self.starts[0].ack("1")
        path = client.response.headers["location"]
        node = self.node
        node.stop()
        poll = node.connect().get(path).response
        self.assert_problem(poll, 503, "store-unreachable", started="unknown")


class ShortMemoryTests(RestartTestCase):
    """A process that keeps only one record of each kind in memory."""

    bounds = Bounds(number=1, size=4_000)

    def test_result_that_does_not_fit_into_memory_is_safe_before_the_200(self) -> None:
        """K4, L8: a result that the memory has no room for is in the file before its 200."""
        self.node.connect().request(headers=ASYNC)
        self.starts[0].ack("1")
        self.thread.hangs = True
        body = result_of("1") + b" " * self.bounds.size
        callback = self.node.send_callback(self.starts[0], body)
        self.assertIsNone(self.node.table.find(self.starts[0].job_id))
        self.assertTrue(callback.is_held)
        self.thread.go_on()
        self.assertEqual(callback.response.status, 200)
        self.restart()
        poll = self.node.connect().get(self.starts[0].job_path).response
        self.assertEqual(poll.body, body)

    def test_result_that_was_pushed_out_of_memory_is_in_the_store(self) -> None:
        """L8: a result that others have pushed out of the memory is found in the file."""
        for number in range(2):
            self.node.connect().request(headers=ASYNC)
            self.starts[number].ack(f"{number}")
            self.node.call_back(self.starts[number], result_of(f"{number}"))
        self.assertIsNone(self.node.table.find(self.starts[0].job_id))
        for number, start in enumerate(self.starts):
            poll = self.node.connect().get(start.job_path).response
            self.assertEqual(poll.body, result_of(f"{number}"))


class CallbackTests(RestartTestCase):
    """Callbacks, and what becomes of their results."""

    def test_result_of_a_client_that_the_kill_cut_off_is_an_orphan(self) -> None:
        """K4: the callback of a held client without a key comes after the restart: an orphan."""
        self.node.submit()
        self.restart()
        receipt = self.node.call_back(self.starts[0], result_of("1"))
        self.assertEqual(receipt.json, {"status": "late"})
        (orphan,) = self.node.list_orphans()
        self.restart()
        self.assertEqual(self.node.list_orphans(), [orphan])
        found = self.node.operate().get(f"/orphans/{orphan}").response
        self.assertEqual(found.body, result_of("1"))

    def test_callback_gets_200_only_when_its_result_is_safe(self) -> None:
        """K4: until the result of a key is on the disk, its callback has no response."""
        client = self.node.submit(key="k")
        self.starts[0].ack("1")
        self.thread.hangs = True
        callback = self.node.send_callback(self.starts[0], result_of("1"))
        self.assert_result(client, result_of("1"))
        self.assertTrue(callback.is_held)
        self.restart()
        self.thread.go_on()
        again = self.node.submit(key="k")
        self.assertTrue(again.is_held)
        receipt = self.node.call_back(self.starts[0], result_of("1"))
        self.assertEqual(receipt.json, {"status": "accepted"})
        self.cluster.settle()
        self.assert_result(again, result_of("1"))

    def test_result_that_a_client_of_a_504_waits_for_is_safe(self) -> None:
        """K4: the client knows the job id from its 504, and waits for the result with it."""
        self.node.submit(Prefer="wait=1")
        self.starts[0].ack("1")
        self.clock.advance(1)
        poll = self.node.connect().get(self.starts[0].job_path, Prefer="wait=20")
        self.thread.hangs = True
        callback = self.node.send_callback(self.starts[0], result_of("1"))
        self.assertEqual(poll.response.body, result_of("1"))
        self.assertTrue(callback.is_held)
        self.thread.go_on()
        self.assertEqual(callback.response.json, {"status": "accepted"})
        self.assertEqual(self.node.list_orphans(), [])
        self.restart()
        again = self.node.connect().get(self.starts[0].job_path).response
        self.assertEqual(again.body, result_of("1"))

    def test_held_client_without_a_key_writes_nothing(self) -> None:
        """A held client without a key costs no call to the store at all."""
        before = dict(self.node.store.calls)
        client = self.node.submit()
        self.starts[0].ack("1")
        self.node.call_back(self.starts[0], result_of("1"))
        self.assert_result(client, result_of("1"))
        self.assertEqual(dict(self.node.store.calls), before)


class AwayTests(RestartTestCase):
    """A disk that does not respond."""

    def test_disk_that_hangs_stops_only_what_needs_it(self) -> None:
        """K5: held clients go on, new keys get 503, and all is well once the disk responds."""
        keyed, plain = self.node.submit(key="k"), self.node.submit()
        for number, start in enumerate(self.starts):
            start.ack(str(number))
        self.thread.hangs = True
        callback = self.node.send_callback(self.starts[0], result_of("0"))
        self.assert_result(keyed, result_of("0"))
        self.clock.advance(2.1)
        problem = self.assert_problem(callback.response, 503, "store-unreachable", started="yes")
        self.assertIn("try again", problem["detail"])
        new = self.node.submit(key="new").response
        self.assert_problem(new, 503, "store-unreachable", started="unknown")
        receipt = self.node.call_back(self.starts[1], result_of("1"))
        self.assertEqual(receipt.json, {"status": "accepted"})
        self.assert_result(plain, result_of("1"))
        self.assertEqual(self.node.read_metric("jobproxy_store_up"), 0.0)
        self.thread.go_on()
        self.clock.advance(2)
        self.assertEqual(self.node.read_metric("jobproxy_store_up"), 1.0)
        receipt = self.node.call_back(self.starts[0], result_of("0"))
        self.assertEqual(receipt.json, {"status": "duplicate"})
        self.restart()
        self.assert_result(self.node.submit(key="k"), result_of("0"), is_replayed=True)
