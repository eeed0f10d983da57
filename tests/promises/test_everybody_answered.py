"""Everybody answered: each client gets one response, the right one, in time.

The response is the result of the client's own job, or a problem that says whether the job was
started. It comes at the client's deadline at the latest, also while the proxy drains or stops, and
also if the job's node has died or the store is away.
"""

from tests.support.callbacks import ByIdTestCase
from tests.support.cluster import ClusterTestCase
from tests.support.keys import KeyTestCase
from tests.support.proxy import ProxyTestCase, result_of


class ResultTests(ProxyTestCase):
    """Clients whose jobs end in time."""

    def test_each_client_gets_the_result_of_its_own_job(self) -> None:
        """Each client gets the result of its own job, in whatever order the jobs end."""
        clients = [self.submit(account) for account in "abcdef"]
        for number, start in enumerate(self.starts):
            start.ack(str(number))
        for number in (3, 0, 5, 1, 4, 2):
            self.call_back(self.starts[number], result_of(str(number)))
        self.assertEqual(
            [client.response.body for client in clients], [result_of(str(n)) for n in range(6)]
        )


class DeadlineTests(ProxyTestCase):
    """Clients whose job does not end in time."""

    def test_504_at_the_deadline_says_that_the_job_was_started(self) -> None:
        """B11: at the deadline a client gets a 504 that says that its job was started."""
        client = self.submit()
        self.starts[0].ack("1")
        self.clock.advance(29.9)
        self.assertTrue(client.is_held)
        self.clock.advance(0.1)
        problem = self.assert_problem(client.response, 504, "wait-over", started="yes")
        self.assertEqual(problem["id"], "1")
        self.assertIn(problem["job"], self.starts[0].callback_path)
        self.assertNotIn(self.starts[0].callback_path.split(".")[1], client.response.body.decode())

    def test_late_callback_changes_no_response(self) -> None:
        """B5: a callback after the deadline is accepted, and changes no response."""
        client = self.submit()
        self.starts[0].ack("1")
        self.clock.advance(30)
        receipt = self.call_back(self.starts[0], result_of("1"))
        self.assertEqual((receipt.status, receipt.json), (200, {"status": "late"}))
        self.assertEqual(client.response.status, 504)


class ShortWaitTests(ProxyTestCase):
    """Clients whose wait is shorter than ``--start-timeout``."""

    settings = {"wait": 5.0}

    def test_504_at_the_deadline_says_what_is_known_of_the_start(self) -> None:
        """At the deadline a queued job was not started; one without an ack may have been."""
        starting = [self.submit(), self.submit()]
        queued = self.submit()
        self.clock.advance(5)
        for client in starting:
            self.assert_problem(client.response, 504, "start-unknown", started="unknown")
        self.assert_problem(queued.response, 504, "wait-over", started="no")
        for start in self.starts:
            start.ack()
        self.assertEqual(len(self.starts), 2)


class StoppingTests(ProxyTestCase):
    """Held clients of a proxy that is stopped."""

    def test_503_to_all_clients_when_the_proxy_stops(self) -> None:
        """When the proxy stops, the problem says to each client whether its job was started."""
        clients = [self.submit() for _ in range(3)]
        self.starts[0].ack("1")
        # The first ack made room for the third start; it and the second have no ack yet.
        clients.append(self.submit())
        self.table.startService()
        self.table.stopService()
        for client, started in zip(clients, ("yes", "unknown", "unknown", "no"), strict=True):
            problem = self.assert_problem(client.response, 503, "draining", started=started)
            self.assertIn("job", problem)
        for start in self.starts[1:]:
            start.ack()


class NoRoomTests(KeyTestCase):
    """Clients that cannot be held for a job that runs already."""

    settings = {"max_held": 1}

    def test_503_for_a_job_that_runs_says_so(self) -> None:
        """L3: a client that cannot be held for a job that runs gets its id and started yes."""
        self.send()
        self.starts[0].ack("1")
        problem = self.assert_problem(self.send().response, 503, "overloaded", started="yes")
        self.assertEqual(problem["id"], "1")
        found = self.connect().get(problem["instance"]).response
        self.assertEqual((found.status, found.json), (202, {"state": "running", "id": "1"}))
        self.call_back(self.starts[0], result_of("1"))

    def test_result_is_replayed_without_room(self) -> None:
        """L3: a result is replayed although no more clients can be held."""
        self.run_job()
        self.submit()
        self.assert_result(self.send(), is_replayed=True)
        self.starts[1].respond(result_of("2"))


class ByIdTests(ByIdTestCase):
    """Clients with ``correlate_by`` id."""

    settings = {**ByIdTestCase.settings, "starts_per_account": 1}

    def test_every_client_gets_one_response_by_id(self) -> None:
        """B11, S6, S15: whatever happens to its job, a client gets one response in time."""
        accounts = ("done", "early", "refused", "ambiguous", "silent")
        clients = {name: self.submit(name) for name in accounts}
        done, early, refused, ambiguous, silent = self.starts
        queued = self.connect().request(body=b'{"account":"silent"}', headers={"Prefer": "wait=1"})
        done.ack("1")
        self.call_back_by_id(result_of("2"))
        early.ack("2")
        refused.respond(b"", 422)
        ambiguous.lose()
        self.call_back_by_id(result_of("1"))
        self.clock.advance(1)
        silent.ack("5")
        self.clock.advance(29)
        statuses = [clients[name].response.status for name in accounts]
        self.assertEqual(statuses, [200, 200, 422, 504, 504])
        started = [clients[name].response.json["started"] for name in accounts[2:]]
        self.assertEqual(started, ["no", "unknown", "yes"])
        self.assert_problem(queued.response, 504, "wait-over", started="no")
        self.assertEqual(clients["done"].response.body, result_of("1"))
        self.assertEqual(clients["early"].response.body, result_of("2"))


class ClusterTests(ClusterTestCase):
    """Clients of several nodes."""

    def test_clients_of_all_nodes_get_a_problem_when_the_owner_dies(self) -> None:
        """B11, B15: clients that joined at other nodes get a 504 at their own deadlines."""
        self.nodes[0].submit(key="k")
        joined = [node.submit(key="k", Prefer="wait=5") for node in self.nodes[1:]]
        self.cluster.settle()
        self.starts[0].ack("1")
        self.cluster.settle()
        polling = self.nodes[1].poll(self.starts[0].job_id, Prefer="wait=3")
        self.cluster.settle()
        self.nodes[0].kill()
        self.clock.advance(3)
        self.assertEqual(polling.response.status, 202)
        self.assertTrue(all(client.is_held for client in joined))
        self.clock.advance(2)
        for client in joined:
            problem = self.assert_problem(client.response, 504, "wait-over", started="yes")
            self.assertEqual(problem["job"], self.starts[0].job_id)

    def test_clients_get_a_problem_when_their_node_stops(self) -> None:
        """G1: a node that stops sends a problem to its own clients, and others keep theirs."""
        stopped = self.nodes[0].submit("account 1")
        other = self.nodes[1].submit("account 2")
        for number, start in enumerate(self.starts):
            start.ack(f"{number}")
        self.nodes[0].stop()
        self.assert_problem(stopped.response, 503, "draining", started="yes")
        self.nodes[2].call_back(self.starts[1], result_of("1"))
        self.cluster.settle()
        self.assert_result(other, result_of("1"))

    def test_clients_get_a_problem_while_the_store_is_away(self) -> None:
        """X1: without the store each client gets its result, or a problem at its deadline."""
        first = self.nodes[0].submit(key="k")
        joined = self.nodes[1].submit(key="k", Prefer="wait=5")
        self.cluster.settle()
        self.starts[0].ack("1")
        self.cluster.settle()
        self.cluster.go_away()
        self.nodes[0].call_back(self.starts[0], result_of("1"))
        self.assert_result(first, result_of("1"))
        new = self.nodes[2].submit(key="k")
        self.assert_problem(new.response, 503, "store-unreachable", started="unknown")
        self.clock.advance(5)
        self.assert_problem(joined.response, 504, "wait-over", started="yes")
        self.cluster.come_back()
