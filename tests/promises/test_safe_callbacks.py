"""Safe callbacks: a result whose callback got 200 can be asked for.

After the response 200 to a callback the job server may forget the result. So a result that got it
is there for ``--retain`` seconds: by its job id, by its key, and in the list of orphans if
no client waited for it. With several nodes a result that comes to a node which is not the owner is
in the store before the 200; if the store is away, the response is 503, and the job server sends the
callback again.
"""

from collections.abc import Callable
from typing import Any

from twisted.logger import capturedLogs

from tests.support.callbacks import RETAIN, ByIdTestCase, CallbackTestCase, read_log
from tests.support.clients import Client
from tests.support.cluster import ClusterTestCase, Node
from tests.support.job_server import Start
from tests.support.proxy import result_of

LIFETIME = 86_400


class RetainedTests(CallbackTestCase):
    """One node: results in all situations of their clients."""

    def test_result_that_got_200_can_be_polled_until_retain_is_over(self) -> None:
        """B4, B5: whatever has become of its client, a result that got 200 can be polled."""
        asynchronous = {"Prefer": "respond-async"}
        for headers, do in (
            ({}, lambda client: None),
            ({}, Client.leave),
            ({}, lambda client: self.clock.advance(30)),
            ({"Idempotency-Key": "k"}, lambda client: None),
            ({"Idempotency-Key": "l"}, Client.leave),
            (asynchronous, lambda client: None),
        ):
            client = self.connect().request(headers=headers)
            start = self.starts[-1]
            start.ack("1")
            do(client)
            self.assertEqual(self.call_back(start, result_of("1")).status, 200)
            for seconds in (0, RETAIN - 1):
                self.clock.advance(seconds)
                self.assertEqual(self.poll(start).body, result_of("1"))
                if "Idempotency-Key" in headers:
                    again = self.connect().request(headers=headers).response
                    self.assertEqual(again.body, result_of("1"))
            self.clock.advance(RETAIN)
        self.assertEqual(len(self.starts), 6)

    def test_refused_callback_can_be_sent_again(self) -> None:
        """B7, B8: a callback that is refused loses nothing: the right one is accepted later."""
        client, start = self.run_job()
        self.assertEqual(self.call_back(start, b"x" * 70_000).status, 413)
        self.assertTrue(client.is_held)
        self.check_receipt(self.call_back(start, result_of("1")), "accepted")
        self.assertEqual(client.response.body, result_of("1"))


class LateTests(CallbackTestCase):
    """One node: callbacks for which no client waits any more."""

    def test_callback_after_a_restart_is_an_orphan(self) -> None:
        """B3: a result with a good token that is not known here is an orphan."""
        token = self.signer.mint()
        sender = self.connect().request(f"/callback/{token.text}", result_of("7"))
        self.check_receipt(sender.response, "late")
        self.assertEqual(self.list_orphans(), ["7"])
        self.assertEqual(self.connect().get(f"/jobs/{token.job_id}").response.body, result_of("7"))

    def test_second_callback_after_a_restart_is_a_duplicate(self) -> None:
        """B2, B3: the second callback of a job that was not known is like any second one."""
        path = f"/callback/{self.signer.mint().text}"
        self.connect().request(path, result_of("7"))
        again = self.connect().request(path, result_of("7")).response
        self.check_receipt(again, "duplicate")
        other = self.connect().request(path, result_of("7", "failed")).response
        self.check_receipt(other, "duplicate")

    def test_progress_after_a_restart_is_not_retained(self) -> None:
        """B3: progress of a job that is not known is late, and nothing is retained."""
        token = self.signer.mint()
        sender = self.connect().request(f"/callback/{token.text}", result_of("7", "running"))
        self.check_receipt(sender.response, "late")
        self.assertEqual(self.list_orphans(), [])
        unknown = self.connect().get(f"/jobs/{token.job_id}").response
        self.assert_problem(unknown, 404, "job-unknown", started="unknown")

    def test_result_of_a_client_that_left_is_an_orphan(self) -> None:
        """B4: the result of a client that left is accepted, and is an orphan until it is polled."""
        client, start = self.run_job()
        client.leave()
        with capturedLogs() as events:
            self.check_receipt(self.call_back(start, result_of("1")), "accepted")
        self.assertIn("after its client had left", read_log(events))
        self.assertEqual(self.list_orphans(), ["1"])
        self.assertEqual(self.poll(start).body, result_of("1"))
        self.assertEqual(self.list_orphans(), [])

    def test_result_after_the_deadline_is_at_the_path_of_the_504(self) -> None:
        """B5: a result after the deadline is late, and is found at the path in the 504."""
        client, start = self.run_job()
        self.clock.advance(30)
        problem = self.assert_problem(client.response, 504, "wait-over", started="yes")
        self.assertEqual(self.connect().get(problem["instance"]).response.status, 202)
        self.clock.advance(1.5)
        with capturedLogs() as events:
            self.check_receipt(self.call_back(start, result_of("1")), "late")
        self.assertIn("1.500 s too late", read_log(events))
        self.assertEqual(self.list_orphans(), ["1"])
        found = self.connect().get(problem["instance"]).response
        self.assertEqual((found.status, found.body), (200, result_of("1")))
        self.assertEqual(found.headers["content-location"], problem["instance"])

    def test_result_is_not_late_while_another_client_polls(self) -> None:
        """B5: a result after the first client's deadline is not late if another client polls."""
        client, start = self.run_job()
        self.clock.advance(30)
        poll = self.connect().get(client.response.json["instance"], Prefer="wait=5")
        self.assertTrue(poll.is_held)
        self.check_receipt(self.call_back(start, result_of("1")), "accepted")
        self.assertEqual(poll.response.body, result_of("1"))
        self.assertEqual(self.list_orphans(), [])

    def test_job_without_a_callback_is_forgotten_with_its_token(self) -> None:
        """B11: a job whose callback never comes is forgotten when its token expires."""
        client, start = self.run_job()
        self.clock.advance(30)
        self.assertEqual(client.response.status, 504)
        self.clock.advance(LIFETIME - 1)
        self.assertEqual(self.poll(start).status, 202)
        self.clock.advance(1)
        self.assertEqual(self.poll(start).status, 404)


class ByIdTests(ByIdTestCase):
    """One node with ``correlate_by`` id."""

    def test_result_that_got_200_can_be_polled_by_id(self) -> None:
        """B4, B5: a result that got 200 is found at the path in the 504."""
        client = self.submit()
        self.starts[0].ack("1")
        self.clock.advance(30)
        problem = self.assert_problem(client.response, 504, "wait-over", started="yes")
        self.assertEqual(self.call_back_by_id(result_of("1")).json, {"status": "late"})
        self.clock.advance(RETAIN - 1)
        self.assertEqual(self.connect().get(problem["instance"]).response.body, result_of("1"))

    def test_parked_callback_without_an_ack_is_an_orphan(self) -> None:
        """B1, S8: a callback that got 200 and whose ack never comes is an orphan."""
        client = self.submit()
        self.assertEqual(self.call_back_by_id(result_of("1")).json, {"status": "parked"})
        self.clock.advance(10)
        (orphan,) = self.operate().get("/orphans").response.json["orphans"]
        found = self.connect().get(f"/jobs/{orphan['job']}").response
        self.assertEqual(found.body, result_of("1"))
        self.clock.advance(2)
        self.assert_problem(client.response, 504, "start-unknown", started="unknown")


class ClusterTests(ClusterTestCase):
    """Several nodes, of which any may die after the 200."""

    def begin_jobs(self) -> list[Start]:
        """Start jobs at the first node: with a key, async, and one whose client gets a 504."""
        self.nodes[0].submit(key="k")
        self.nodes[0].submit("account 1", Prefer="respond-async")
        self.nodes[0].submit("account 2", Prefer="wait=1")
        for number, start in enumerate(self.starts):
            start.ack(f"{number}")
        self.clock.advance(1)
        return list(self.starts)

    def check_results(self, starts: list[Start]) -> None:
        """Check that every living node has every result, and starts nothing again."""
        for node in self.cluster.living:
            for number, start in enumerate(starts):
                poll = node.poll(start.job_id)
                self.cluster.settle()
                self.assert_result(poll, result_of(f"{number}"))
            again = node.submit(key="k")
            self.cluster.settle()
            self.assertEqual(again.response.body, result_of("0"))
        self.assertEqual(len(self.starts), len(starts))

    def check_death(self, called: int, *dead: int) -> None:
        """Check that no result is lost if these nodes die right after one of them was called."""
        starts = self.begin_jobs()
        for number, start in enumerate(starts):
            receipt = self.nodes[called].call_back(start, result_of(f"{number}"))
            self.assertEqual(receipt.status, 200)
        for number in dead:
            self.nodes[number].kill()
        self.cluster.settle()
        self.check_results(starts)

    def test_no_result_is_lost_when_the_owner_dies(self) -> None:
        """B15: no result that another node responded to with 200 dies with the owner."""
        self.check_death(1, 0)

    def test_no_result_is_lost_when_the_called_node_dies(self) -> None:
        """B15: no result dies with the node that responded to its callback."""
        self.check_death(1, 1)

    def test_no_result_is_lost_when_both_die(self) -> None:
        """B15: no result dies with its owner and the node that responded together."""
        self.check_death(1, 0, 1)

    def test_no_result_of_an_owner_is_lost_when_it_dies(self) -> None:
        """B15: no result that can be asked for dies with an owner that responded itself."""
        self.check_death(0, 0)

    def test_result_without_a_client_is_not_lost_when_any_node_dies(self) -> None:
        """B4, B15: a result without a client is found by all other nodes, whichever node dies."""
        for dead in range(3):
            client = self.nodes[0].submit()
            start = self.starts[-1]
            start.ack("1")
            client.leave()
            self.nodes[1].call_back(start, result_of("1"))
            self.nodes[dead].kill()
            self.cluster.settle()
            for node in self.cluster.living:
                poll = node.poll(start.job_id)
                self.cluster.settle()
                self.assert_result(poll, result_of("1"))
            self.cluster.replace(self.nodes[dead])

    def test_orphan_is_listed_when_any_node_dies(self) -> None:
        """B4, B15: an orphan of which its owner knows is listed by all others if a node dies."""
        for dead in range(3):
            client = self.nodes[0].submit()
            start = self.starts[-1]
            start.ack("1")
            client.leave()
            self.nodes[1].call_back(start, result_of("1"))
            self.cluster.settle()
            self.nodes[dead].kill()
            for node in self.cluster.living:
                self.assertIn(start.job_id, node.list_orphans())
            self.cluster.replace(self.nodes[dead])


#: How clients send jobs whose result can be asked for; the last one leaves.
ASKED_FOR: tuple[dict[str, Any], ...] = ({"key": "k"}, {"Prefer": "respond-async"}, {})


class ConfirmedTests(ClusterTestCase):
    """Results that are not 200 before they are safe, or not confirmed by their node."""

    def test_200_comes_after_the_result_is_stored(self) -> None:
        """B16: what can be asked for is stored before its callback gets 200 from its owner."""
        for number, headers in enumerate(ASKED_FOR):
            client = self.nodes[0].submit(f"account {number}", **headers)
            start = self.starts[-1]
            start.ack(f"{number}")
            if not headers:
                client.leave()
            self.cluster.settle()
            self.nodes[0].store.latency = 0.1
            sender = self.nodes[0].send_callback(start, result_of(f"{number}"))
            self.clock.advance(0.1)
            self.assertTrue(sender.is_held)
            self.clock.advance(0.1)
            self.assertEqual(sender.response.status, 200)
            self.nodes[0].kill()
            poll = self.nodes[1].poll(start.job_id)
            self.cluster.settle()
            self.assert_result(poll, result_of(f"{number}"))
            self.cluster.replace(self.nodes[0])

    def test_result_of_a_held_client_needs_no_store(self) -> None:
        """B16: the result of a held client without a key is not stored, and gets 200 at once."""
        client = self.nodes[0].submit()
        self.starts[0].ack("1")
        self.nodes[0].store.latency = 0.1
        before = self.cluster.nodes[0].store.calls["ok"]
        self.assertEqual(self.nodes[0].call_back(self.starts[0], result_of("1")).status, 200)
        self.assert_result(client, result_of("1"))
        self.clock.advance(1)
        self.assertEqual(self.cluster.nodes[0].store.calls["ok"], before)

    def test_result_that_its_node_never_read_is_an_orphan_when_it_dies(self) -> None:
        """B17: a result that another node accepted is an orphan if its owner hangs and dies."""
        self.nodes[0].submit()
        self.starts[0].ack("1")
        # It receives nothing any more, but its lease has not ended.
        self.nodes[0].store.latency = 3600
        receipt = self.nodes[1].call_back(self.starts[0], result_of("1"))
        self.assertEqual(receipt.json, {"status": "accepted"})
        self.assertEqual(self.nodes[1].list_orphans(), [])
        self.nodes[0].kill()
        self.cluster.settle()
        job_id = self.starts[0].job_id
        self.assertEqual(self.nodes[2].list_orphans(), [job_id])
        poll = self.nodes[1].poll(job_id)
        self.cluster.settle()
        self.assert_result(poll, result_of("1"))

    def test_result_that_its_node_has_given_to_a_client_is_no_orphan_when_it_dies(self) -> None:
        """B17: a result that its owner has confirmed is none."""
        client = self.nodes[0].submit()
        self.starts[0].ack("1")
        self.nodes[1].call_back(self.starts[0], result_of("1"))
        self.cluster.settle()
        self.assert_result(client, result_of("1"))
        self.nodes[0].kill()
        self.assertEqual(self.nodes[1].list_orphans(), [])


class StoreAwayTests(ClusterTestCase):
    """Several nodes, whose store is away when the callback comes."""

    def test_callback_of_the_owner_is_sent_again(self) -> None:
        """B16: the owner refuses what can be asked for as long as the store is away."""
        for number, headers in enumerate(ASKED_FOR):
            client = self.nodes[0].submit(f"account {number}", **headers)
            start = self.starts[-1]
            start.ack("1")
            if not headers:
                client.leave()
            self.cluster.settle()
            self.check_resent(self.nodes[0], start, lambda: None)
            if headers:
                self.assertIn(client.response.status, {200, 202})
            self.nodes[0].kill()
            poll = self.nodes[1].poll(start.job_id)
            self.cluster.settle()
            self.assert_result(poll, result_of("1"))
            self.cluster.replace(self.nodes[0])

    def check_resent(self, node: Node, start: Start, lose: Callable[[], object]) -> None:
        """Check that a callback gets 503 while the store is away, and later 200."""
        self.cluster.go_away()
        lose()
        refused = node.call_back(start, result_of("1"))
        self.assert_problem(refused, 503, "store-unreachable", started="yes")
        self.assertEqual(refused.headers["retry-after"], "1")
        self.cluster.come_back()
        self.assertEqual(node.call_back(start, result_of("1")).status, 200)
        self.cluster.settle()

    def test_callback_of_another_node_is_sent_again(self) -> None:
        """X1: a callback for another node gets 503 until the store has the result."""
        for prefer in ("", "respond-async"):
            self.nodes[0].submit(key=f"k{prefer}", Prefer=prefer)
            start = self.starts[-1]
            start.ack("1")
            self.check_resent(self.nodes[1], start, lambda: None)
            for node in self.nodes:
                self.assert_result(node.poll(start.job_id), result_of("1"))

    def test_callback_of_a_dead_node_is_sent_again(self) -> None:
        """X1, B15: so does a callback whose owner has died meanwhile; it is an orphan then."""
        self.nodes[0].submit()
        (start,) = self.starts
        start.ack("1")
        self.check_resent(self.nodes[1], start, self.nodes[0].kill)
        self.assertEqual(self.nodes[2].list_orphans(), [start.job_id])
        self.assert_result(self.nodes[2].poll(start.job_id), result_of("1"))
