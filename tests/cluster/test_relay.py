"""A callback that lands on a node that does not hold the client."""

from jobproxy.upstream.retries import OnLost
from tests.support.cluster import ClusterTestCase, job_id_of
from tests.support.proxy import result_of


class RelayTests(ClusterTestCase):
    """Callbacks that are right."""

    def test_any_node(self) -> None:
        """B15: a client gets its result byte for byte whichever node is called back."""
        for number, node in enumerate(self.nodes):
            client = self.nodes[0].submit()
            self.starts[number].ack(f"{number}")
            receipt = node.call_back(self.starts[number], result_of(f"{number}"))
            self.assertEqual((receipt.status, receipt.json), (200, {"status": "accepted"}))
            self.cluster.settle()
            self.assert_result(client, result_of(f"{number}"))

    def test_own_callback_asks_nothing(self) -> None:
        """A job whose callback comes to its own node costs the store nothing."""
        before = [sum(node.store.calls.values()) for node in self.nodes]
        client = self.nodes[0].submit()
        self.starts[0].ack("1")
        self.nodes[0].call_back(self.starts[0], result_of("1"))
        self.assert_result(client, result_of("1"))
        self.assertEqual([sum(node.store.calls.values()) for node in self.nodes], before)

    def test_before_the_ack(self) -> None:
        """B15, B1: a callback that overtakes the ack is the answer on the way over another node."""
        client = self.nodes[0].submit()
        self.nodes[1].call_back(self.starts[0], result_of("1"))
        self.cluster.settle()
        self.assert_result(client, result_of("1"))
        self.starts[0].ack("1")

    def test_failed_state(self) -> None:
        """A job that failed on the job server has a result like any other."""
        client = self.nodes[0].submit()
        self.starts[0].ack("1")
        self.nodes[2].call_back(self.starts[0], result_of("1", "failed"))
        self.cluster.settle()
        self.assert_result(client, result_of("1", "failed"))

    def test_far_store(self) -> None:
        """The job server is told that its callback was taken only once the store has it."""
        self.cluster.set_latency(0.1)
        client = self.nodes[0].submit()
        self.starts[0].ack("1")
        callback = self.nodes[1].connect()
        callback.request(self.starts[0].callback_path, result_of("1"))
        self.assertTrue(callback.is_held)
        self.clock.advance(0.1)
        self.assertTrue(callback.is_held)
        self.clock.advance(0.1)
        self.assertEqual(callback.response.json, {"status": "accepted"})
        self.assert_result(client, result_of("1"))

    def test_caller_leaves(self) -> None:
        """A job server that hangs up before its callback is acknowledged has still told it."""
        self.cluster.set_latency(0.1)
        client = self.nodes[0].submit()
        self.starts[0].ack("1")
        callback = self.nodes[1].connect()
        callback.request(self.starts[0].callback_path, result_of("1"))
        callback.leave()
        self.clock.advance(0.1)
        self.clock.advance(0.1)
        self.assert_result(client, result_of("1"))

    def test_late(self) -> None:
        """B15: a result that comes over another node after the deadline is an orphan for all."""
        client = self.nodes[0].submit(Prefer="wait=5")
        self.starts[0].ack("1")
        self.clock.advance(5)
        problem = self.assert_problem(client.response, 504, "wait-over", started="yes")
        self.nodes[1].call_back(self.starts[0], result_of("1"))
        self.cluster.settle()
        for node in self.nodes:
            self.assertEqual(node.list_orphans(), [problem["job"]])


class DuplicateTests(ClusterTestCase):
    """Callbacks that come twice."""

    def setUp(self) -> None:
        super().setUp()
        self.client = self.nodes[0].submit()
        self.start = self.starts[0]
        self.start.ack("1")

    def call_back(self, *numbers: int, body: bytes = result_of("1")) -> list[tuple[int, str]]:
        """Have nodes be called back, and return what each tells."""
        responses = []
        for number in numbers:
            response = self.nodes[number].call_back(self.start, body)
            responses.append((response.status, response.json.get("status", "")))
            self.cluster.settle()
        return responses

    def test_elsewhere_first(self) -> None:
        """B15, B4: the same callback once more is a duplicate at its own node and at others."""
        told = self.call_back(1, 0, 2, 1)
        self.assertEqual(told, [(200, "accepted"), *3 * [(200, "duplicate")]])
        self.assert_result(self.client, result_of("1"))

    def test_at_home_first(self) -> None:
        """B15, B4: a callback that its own node has taken changes nothing on another one."""
        told = self.call_back(0, 1, 2)
        self.assertEqual({status for status, _ in told}, {200})
        self.assertEqual(told[2], (200, "duplicate"))
        self.assert_result(self.client, result_of("1"))
        self.assertEqual(self.nodes[1].list_orphans(), [])

    def test_conflict(self) -> None:
        """B15, B5: another result than the first is refused everywhere; the first stays."""
        self.call_back(1)
        told = [self.call_back(number, body=result_of("1", "failed"))[0][0] for number in range(3)]
        self.assertEqual(told, [409, 409, 409])
        self.assert_result(self.client, result_of("1"))
        for node in self.nodes:
            self.assert_result(node.poll(job_id_of(self.start)), result_of("1"))

    def test_conflict_with_home(self) -> None:
        """B15, B5: all nodes tell the result that the client got, whatever came elsewhere later."""
        self.call_back(0)
        self.call_back(1, body=result_of("1", "failed"))
        for node in self.nodes:
            poll = node.poll(job_id_of(self.start))
            self.cluster.settle()
            self.assert_result(poll, result_of("1"))

    def test_other_id(self) -> None:
        """B15, B6: a callback about another job's id ends nothing; the right one is taken later."""
        self.call_back(1, body=result_of("2"))
        self.assertTrue(self.client.is_held)
        self.assertEqual(self.call_back(2), [(200, "accepted")])
        self.assert_result(self.client, result_of("1"))

    def test_progress(self) -> None:
        """B15, B7: what is no result changes nothing on its way over another node."""
        told = self.call_back(1, 2, body=result_of("1", "running"))
        self.assertEqual(told, 2 * [(200, "progress")])
        self.assertTrue(self.client.is_held)
        self.call_back(2)
        self.assert_result(self.client, result_of("1"))

    def test_malformed(self) -> None:
        """B15, B8: a callback that is no JSON is refused by any node, and the job goes on."""
        for number, node in enumerate(self.nodes):
            response = node.call_back(self.start, b"{")
            self.assert_problem(response, 400, "invalid-json", started=response.json["started"])
            self.assertTrue(self.client.is_held, number)
        self.call_back(1)
        self.assert_result(self.client, result_of("1"))

    def test_forged(self) -> None:
        """B15, B9: a token that is not ours is not found at any node; the store is not asked."""
        self.call_back(1)
        path = self.start.callback_path
        forged = path[:-1] + ("A" if path[-1] != "A" else "Q")
        calls = [dict(node.store.calls) for node in self.nodes]
        for node in self.nodes:
            response = node.connect().request(forged, result_of("1")).response
            self.assert_problem(response, 404, "not-found")
        self.clock.advance(86_401)
        for node in self.nodes:
            response = node.connect().request(path, result_of("1")).response
            self.assert_problem(response, 404, "not-found")
        self.assertEqual([dict(node.store.calls) for node in self.nodes], calls)


class RestartTests(ClusterTestCase):
    """Jobs that are started again when their callback does not come."""

    settings = {"on_lost": OnLost.RESTART, "lost_after": 3.0}

    def test_progress_counts(self) -> None:
        """B15: what another node hears of a job keeps it from being lost."""
        client = self.nodes[0].submit()
        self.starts[0].ack("1")
        self.clock.advance(2)
        self.nodes[1].call_back(self.starts[0], result_of("1", "running"))
        self.cluster.settle()
        self.clock.advance(2)
        self.assertEqual(len(self.starts), 1)
        self.clock.advance(1)
        self.assertEqual(len(self.starts), 2)
        self.nodes[2].call_back(self.starts[1], result_of("2"))
        self.cluster.settle()
        self.assert_result(client, result_of("2"))
        self.starts[1].ack("2")

    def test_both_end(self) -> None:
        """B15: when both starts of a job end, all nodes tell the result that the client got."""
        client = self.nodes[0].submit()
        self.starts[0].ack("1")
        self.clock.advance(3)
        self.starts[1].ack("2")
        self.nodes[0].call_back(self.starts[1], result_of("2"))
        self.assert_result(client, result_of("2"))
        self.nodes[1].call_back(self.starts[0], result_of("1"))
        self.cluster.settle()
        for node in self.nodes:
            poll = node.poll(job_id_of(self.starts[0]))
            self.cluster.settle()
            self.assert_result(poll, result_of("2"))


class OrphanTests(ClusterTestCase):
    """Results that nobody waits for, wherever they came."""

    def make_orphan(self, node: int = 1) -> str:
        client = self.nodes[0].submit()
        start = self.starts[-1]
        start.ack("1")
        client.leave()
        self.nodes[node].call_back(start, result_of("1"))
        self.cluster.settle()
        return job_id_of(start)

    def test_listed(self) -> None:
        """B15: an orphan is listed and shown by every node, wherever its callback came."""
        for number in range(3):
            job_id = self.make_orphan(number)
            for node in self.nodes:
                self.assertIn(job_id, node.list_orphans())
                shown = node.operate().get(f"/orphans/{job_id}").response
                self.assertEqual((shown.status, shown.body), (200, result_of("1")))

    def test_collected(self) -> None:
        """B15: whoever asks any node for an orphan gets it, and it is none any more."""
        for number in range(3):
            job_id = self.make_orphan()
            poll = self.nodes[number].poll(job_id)
            self.cluster.settle()
            self.assert_result(poll, result_of("1"))
            for node in self.nodes:
                self.assertEqual(node.list_orphans(), [])

    def test_deleted(self) -> None:
        """An orphan that is deleted on any node is gone from all."""
        for number in range(3):
            job_id = self.make_orphan()
            admin = (
                self.nodes[number].operate().request(f"/orphans/{job_id}", None, method="DELETE")
            )
            self.assertEqual(admin.transport.value().split()[1], b"204")
            self.cluster.settle()
            for node in self.nodes:
                self.assertEqual(node.list_orphans(), [])
                poll = node.poll(job_id)
                self.cluster.settle()
                self.assert_problem(poll.response, 404, "not-found")

    def test_owner_is_gone(self) -> None:
        """B15: a callback for a node that has died is an orphan, which any other node hands out."""
        self.nodes[0].submit()
        start = self.starts[0]
        start.ack("1")
        self.nodes[0].kill()
        receipt = self.nodes[1].call_back(start, result_of("1"))
        self.assertEqual(receipt.json, {"status": "late"})
        self.cluster.settle()
        self.assertEqual(self.nodes[2].list_orphans(), [job_id_of(start)])
        self.assert_result(self.nodes[2].poll(job_id_of(start)), result_of("1"))
        self.assertEqual(self.nodes[1].list_orphans(), [])
