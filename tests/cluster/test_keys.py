"""The same Idempotency-Key at several nodes: one job, and one result for all who ask."""

from tests.support.cluster import ClusterTestCase, Node, job_id_of
from tests.support.proxy import Client, result_of


class SameKeyTests(ClusterTestCase):
    """Clients of several nodes that send the same job."""

    def finish(self, node: Node) -> None:
        """Have the one start that there is acknowledged, and a node be called back."""
        (start,) = self.starts
        start.ack("1")
        node.call_back(start, result_of("1"))
        for _ in range(10):
            self.clock.advance(0.1)

    def test_at_once(self) -> None:
        """The same key at all nodes at the same time: one start, and the result for all."""
        for number, caller in enumerate(self.nodes):
            self.cluster.set_latency(0.1)
            clients = [node.submit(key=f"k{number}") for node in self.nodes for _ in range(2)]
            for _ in range(10):
                self.clock.advance(0.1)
            self.assertEqual(len(self.starts), 1)
            self.cluster.set_latency(0)
            self.finish(caller)
            for client in clients:
                self.assert_result(client, result_of("1"))
            self.starts.clear()

    def test_one_after_the_other(self) -> None:
        """Who sends the job to another node while it runs joins it there."""
        clients = [node.submit(key="k") for node in self.nodes]
        self.cluster.settle()
        clients += [node.submit(key="k") for node in self.nodes]
        self.finish(self.nodes[1])
        for client in clients:
            self.assert_result(client, result_of("1"))

    def test_replayed(self) -> None:
        """Who sends the job to another node once it has ended gets its result again."""
        first = self.nodes[0].submit(key="k")
        self.finish(self.nodes[0])
        self.assert_result(first, result_of("1"))
        for node in self.nodes:
            client = node.submit(key="k")
            self.cluster.settle()
            self.assert_result(client, result_of("1"), is_replayed=True)
        self.assertEqual(len(self.starts), 1)

    def test_other_job(self) -> None:
        """Another job with the same key is refused by every node."""
        self.nodes[0].submit(key="k")
        for node in self.nodes:
            other = node.submit(key="k", number=1)
            self.cluster.settle()
            self.assert_problem(other.response, 422, "idempotency-key-reused")
        self.finish(self.nodes[2])
        for node in self.nodes:
            other = node.submit(key="k", number=1)
            self.assert_problem(other.response, 422, "idempotency-key-reused")

    def test_other_job_at_once(self) -> None:
        """Of two jobs with the same key that are sent at once, one is refused."""
        self.cluster.set_latency(0.1)
        clients = [node.submit(key="k", number=n) for n, node in enumerate(self.nodes)]
        for _ in range(10):
            self.clock.advance(0.1)
        refused = [client for client in clients if not client.is_held]
        for client in refused:
            self.assert_problem(client.response, 422, "idempotency-key-reused")
        self.assertEqual(len(refused), 2)
        self.finish(self.nodes[0])
        (taken,) = (client for client in clients if client not in refused)
        self.assert_result(taken, result_of("1"))

    def test_another_account(self) -> None:
        """Keys of different accounts have nothing to do with each other."""
        self.nodes[0].submit("account 1", key="k").leave()
        self.nodes[1].submit("account 2", key="k").leave()
        self.assertEqual(len(self.starts), 2)
        for start in self.starts:
            start.ack()

    def test_refused_start(self) -> None:
        """A key whose job was certainly not started is free again at every node."""
        for node in self.nodes:
            client = self.nodes[0].submit(key="k")
            self.starts[-1].respond(b"", 409)
            self.assert_problem(client.response, 409, "upstream-rejected")
            self.cluster.settle()
            again = node.submit(key="k")
            self.starts[-1].respond(result_of("1"))
            self.assert_result(again, result_of("1"))
            self.clock.advance(302)
        self.assertEqual(len(self.starts), 6)

    def test_refused_start_of_others(self) -> None:
        """Who joined at another node is told when the job was not started, and can retry."""
        self.nodes[0].submit(key="k")
        joined = self.nodes[1].submit(key="k")
        self.cluster.settle()
        self.starts[0].respond(b"", 409)
        self.cluster.settle()
        problem = self.assert_problem(joined.response, 503, "upstream-unreachable")
        self.assertEqual(joined.response.headers["retry-after"], "1")
        self.assertEqual(problem["job"], job_id_of(self.starts[0]))
        again = self.nodes[1].submit(key="k")
        self.cluster.settle()
        self.starts[1].respond(result_of("1"))
        self.assert_result(again, result_of("1"))

    def test_retained(self) -> None:
        """Once a result is no longer retained, the key is free again at every node."""
        for node in self.nodes:
            self.nodes[0].submit(key="k")
            self.starts[-1].ack("1")
            self.nodes[0].call_back(self.starts[-1], result_of("1"))
            self.clock.advance(302)
            again = node.submit(key="k")
            self.cluster.settle()
            self.starts[-1].ack("2")
            self.nodes[0].call_back(self.starts[-1], result_of("2"))
            self.cluster.settle()
            self.assert_result(again, result_of("2"))
            self.clock.advance(302)
        self.assertEqual(len(self.starts), 6)

    def test_deadlines(self) -> None:
        """Who joins at another node has a deadline of its own, and is told which job it is."""
        self.nodes[0].submit(key="k")
        unknown = self.nodes[1].submit(key="k", Prefer="wait=1")
        self.cluster.settle()
        self.clock.advance(1)
        problem = self.assert_problem(unknown.response, 504, "start-unknown", started="unknown")
        self.assertEqual(problem["job"], job_id_of(self.starts[0]))
        self.starts[0].ack("1")
        self.cluster.settle()
        known = self.nodes[1].submit(key="k", Prefer="wait=1")
        self.cluster.settle()
        self.clock.advance(1)
        problem = self.assert_problem(known.response, 504, "wait-over", started="yes")
        self.assertEqual(problem["job"], job_id_of(self.starts[0]))
        last = self.nodes[2].submit(key="k")
        self.cluster.settle()
        self.nodes[2].call_back(self.starts[0], result_of("1"))
        self.cluster.settle()
        self.assert_result(last, result_of("1"))

    def test_respond_async(self) -> None:
        """Who wants no more than the ack gets it at any node, as soon as it is there."""
        clients = [node.submit(key="k", Prefer="respond-async") for node in self.nodes]
        self.cluster.settle()
        self.starts[0].ack("1")
        self.cluster.settle()
        clients += [node.submit(key="k", Prefer="respond-async") for node in self.nodes]
        self.cluster.settle()
        for client in clients:
            self.assertEqual(client.response.status, 202)
            self.assertEqual(client.response.json, {"state": "running", "id": "1"})
        self.nodes[1].call_back(self.starts[0], result_of("1"))
        self.cluster.settle()
        for client, node in zip(clients, 2 * self.nodes, strict=True):
            poll = node.poll(client.response.headers["location"].removeprefix("/jobs/"))
            self.cluster.settle()
            self.assert_result(poll, result_of("1"))

    def test_respond_async_at_once(self) -> None:
        """Who loses the right to start the job gets the ack of who has it."""
        self.cluster.set_latency(0.1)
        clients = [node.submit(key="k", Prefer="respond-async") for node in self.nodes]
        for _ in range(10):
            self.clock.advance(0.1)
        self.starts[0].ack("1")
        for _ in range(10):
            self.clock.advance(0.1)
        for client in clients:
            self.assertEqual(client.response.status, 202)
        self.finish_running()
        self.assertEqual(self.nodes[0].list_orphans(), [])

    def finish_running(self) -> None:
        self.nodes[0].call_back(self.starts[0], result_of("1"))
        for node in self.nodes:
            node.store.latency = 0
        self.cluster.settle()
        self.clock.advance(1)

    def test_joined_client_leaves(self) -> None:
        """A result that one client got is no orphan, although another one left at another node."""
        self.cluster.set_latency(0.1)
        clients = [node.submit(key="k") for node in self.nodes]
        for _ in range(10):
            self.clock.advance(0.1)
        clients[1].leave()
        clients[2].leave()
        self.starts[0].ack("1")
        self.finish_running()
        self.assert_result(clients[0], result_of("1"))
        self.assertEqual(self.nodes[0].list_orphans(), [])


class LaneTests(ClusterTestCase):
    """Keys of jobs that wait for their turn."""

    settings = {"starts_per_account": 1}

    def test_waits_elsewhere(self) -> None:
        """A job that waits in a lane of one node is started by another that has its turn."""
        self.nodes[0].submit()
        first = self.nodes[0].submit(key="k")
        second = self.nodes[1].submit(key="k")
        self.assertEqual(len(self.starts), 2)
        self.starts[0].respond(result_of("0"))
        self.assertEqual(len(self.starts), 2)
        self.starts[1].ack("1")
        self.nodes[0].call_back(self.starts[1], result_of("1"))
        self.cluster.settle()
        for client in (first, second):
            self.assert_result(client, result_of("1"))
        self.assertEqual(len(self.nodes[0].limiter), 0)

    def test_dies_before_the_start(self) -> None:
        """B15: a job that waited in a lane of a node that died is started by another, once."""
        self.nodes[0].submit()
        self.nodes[0].submit(key="k")
        self.nodes[0].kill()
        clients = [node.submit(key="k") for node in self.nodes[1:]]
        self.cluster.settle()
        self.assertEqual(len(self.starts), 2)
        self.starts[1].ack("1")
        self.nodes[2].call_back(self.starts[1], result_of("1"))
        self.cluster.settle()
        for client in clients:
            self.assert_result(client, result_of("1"))

    def test_dies_after_the_start(self) -> None:
        """B15: a job whose node died is not started again; its result is for who asks next."""
        self.nodes[0].submit(key="k")
        before = self.nodes[1].submit(key="k")
        self.cluster.settle()
        self.starts[0].ack("1")
        self.nodes[0].kill()
        after = [node.submit(key="k") for node in self.nodes[1:]]
        self.cluster.settle()
        self.assertEqual(len(self.starts), 1)
        self.nodes[2].call_back(self.starts[0], result_of("1"))
        self.cluster.settle()
        for client in (before, *after):
            self.assert_result(client, result_of("1"))
        self.assertEqual(self.nodes[1].list_orphans(), [])

    def test_dies_before_it_hears(self) -> None:
        """B15: a result that its node was told of, but never read, is there for who asks again."""
        self.nodes[0].submit(key="k")
        joined = self.nodes[1].submit(key="k", Prefer="wait=5")
        self.cluster.settle()
        self.starts[0].ack("1")
        self.cluster.settle()
        receipt = self.nodes[2].call_back(self.starts[0], result_of("1"))
        self.assertEqual(receipt.json, {"status": "accepted"})
        self.nodes[0].kill()
        self.clock.advance(5)
        self.assert_problem(joined.response, 504, "wait-over", started="yes")
        again = self.nodes[1].submit(key="k")
        self.cluster.settle()
        self.assert_result(again, result_of("1"), is_replayed=True)
        poll = self.nodes[1].poll(job_id_of(self.starts[0]))
        self.assert_result(poll, result_of("1"))


class LeaveTests(ClusterTestCase):
    """Clients that leave, or nodes that stop, while the right to start is asked for."""

    def ask(self, steps: int) -> Client:
        """Have a client send a job over a slow network, and leave some steps later."""
        self.cluster.set_latency(0.1)
        client = self.nodes[0].submit(key="k")
        for _ in range(steps):
            self.clock.advance(0.1)
        return client

    def test_leaves_no_claim(self) -> None:
        """B15: who leaves before its job is started leaves its key to others, at any time."""
        for steps in range(4):
            self.ask(steps).leave()
            for _ in range(10):
                self.clock.advance(0.1)
            self.assertEqual(self.starts, [])
            self.assertEqual(len(self.nodes[0].limiter), 0)
            self.cluster.set_latency(0)
            again = self.nodes[1].submit(key="k")
            self.cluster.settle()
            self.starts.pop().respond(result_of("1"))
            self.assert_result(again, result_of("1"))
            self.clock.advance(302)

    def test_deadline(self) -> None:
        """A deadline that passes while the right is asked for ends the job before its start."""
        self.cluster.set_latency(0.6)
        client = self.nodes[0].submit(key="k", Prefer="wait=1")
        for _ in range(24):
            self.clock.advance(0.1)
        self.assert_problem(client.response, 504, "wait-over")
        self.clock.advance(2)
        self.assertEqual(self.starts, [])

    def test_drain(self) -> None:
        """A node that drains starts no job whose right it was just given."""
        client = self.ask(3)
        self.nodes[0].gateway.drain()
        self.assert_problem(client.response, 503, "draining")
        self.clock.advance(1)
        self.cluster.set_latency(0)
        self.clock.advance(1)
        self.assertEqual(self.starts, [])
        again = self.nodes[1].submit(key="k")
        self.cluster.settle()
        self.starts[0].respond(result_of("1"))
        self.assert_result(again, result_of("1"))
