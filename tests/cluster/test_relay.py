"""Callbacks that come to another node than the owner of the job."""

from jobproxy.upstream.retries import OnLost
from tests.support.cluster import ClusterTestCase
from tests.support.proxy import result_of


class RelayTests(ClusterTestCase):
    """Callbacks that end a job."""

    def test_callback_at_any_node_reaches_the_client(self) -> None:
        """B15: a client gets its result byte for byte whichever node is called back."""
        for number, node in enumerate(self.nodes):
            client = self.nodes[0].submit()
            self.starts[number].ack(f"{number}")
            receipt = node.call_back(self.starts[number], result_of(f"{number}"))
            self.assertEqual((receipt.status, receipt.json), (200, {"status": "accepted"}))
            self.cluster.settle()
            self.assert_result(client, result_of(f"{number}"))

    def test_callback_at_the_owner_needs_no_store(self) -> None:
        """A job whose callback comes to its own node costs the store nothing."""
        before = [sum(node.store.calls.values()) for node in self.nodes]
        client = self.nodes[0].submit()
        self.starts[0].ack("1")
        self.nodes[0].call_back(self.starts[0], result_of("1"))
        self.assert_result(client, result_of("1"))
        self.assertEqual([sum(node.store.calls.values()) for node in self.nodes], before)

    def test_relayed_callback_before_the_ack_is_the_response(self) -> None:
        """B15, B1: a callback before the ack is the response when it is relayed, too."""
        client = self.nodes[0].submit()
        self.nodes[1].call_back(self.starts[0], result_of("1"))
        self.cluster.settle()
        self.assert_result(client, result_of("1"))
        self.starts[0].ack("1")

    def test_result_of_a_failed_job_is_relayed(self) -> None:
        """A job that failed on the job server has a result like any other."""
        client = self.nodes[0].submit()
        self.starts[0].ack("1")
        self.nodes[2].call_back(self.starts[0], result_of("1", "failed"))
        self.cluster.settle()
        self.assert_result(client, result_of("1", "failed"))

    def test_callback_is_accepted_only_once_the_store_has_it(self) -> None:
        """The job server gets 200 for its callback only once the store has it."""
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

    def test_callback_is_relayed_although_its_connection_ends(self) -> None:
        """A callback is relayed although the job server closes before the response."""
        self.cluster.set_latency(0.1)
        client = self.nodes[0].submit()
        self.starts[0].ack("1")
        callback = self.nodes[1].connect()
        callback.request(self.starts[0].callback_path, result_of("1"))
        callback.leave()
        self.clock.advance(0.1)
        self.clock.advance(0.1)
        self.assert_result(client, result_of("1"))

    def test_late_relayed_result_is_an_orphan_for_all(self) -> None:
        """B15: a relayed result that comes after the deadline is an orphan at every node."""
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
        """Call nodes back, and return the response of each."""
        responses = []
        for number in numbers:
            response = self.nodes[number].call_back(self.start, body)
            responses.append((response.status, response.json.get("status", "")))
            self.cluster.settle()
        return responses

    def test_callback_again_is_a_duplicate_at_every_node(self) -> None:
        """B15, B4: the same callback once more is a duplicate at its own node and at others."""
        responses = self.call_back(1, 0, 2, 1)
        self.assertEqual(responses, [(200, "accepted"), *3 * [(200, "duplicate")]])
        self.assert_result(self.client, result_of("1"))

    def test_callback_that_the_owner_has_is_a_duplicate_elsewhere(self) -> None:
        """B15, B4: a callback that the owner has accepted changes nothing at another node."""
        responses = self.call_back(0, 1, 2)
        self.assertEqual({status for status, _ in responses}, {200})
        self.assertEqual(responses[2], (200, "duplicate"))
        self.assert_result(self.client, result_of("1"))
        self.assertEqual(self.nodes[1].list_orphans(), [])

    def test_other_result_is_a_duplicate_at_every_node(self) -> None:
        """B15, B5: another result than the first changes nothing anywhere; the first stays."""
        self.call_back(1)
        failed = result_of("1", "failed")
        responses = self.call_back(0, 1, 2, body=failed)
        self.assertEqual(responses, 3 * [(200, "duplicate")])
        self.assert_result(self.client, result_of("1"))
        for node in self.nodes:
            self.assert_result(node.poll(self.start.job_id), result_of("1"))

    def test_result_of_the_client_is_that_of_every_node(self) -> None:
        """B15, B5: all nodes send the result that the client got, whatever came elsewhere later."""
        self.call_back(0)
        self.call_back(1, body=result_of("1", "failed"))
        for node in self.nodes:
            poll = node.poll(self.start.job_id)
            self.cluster.settle()
            self.assert_result(poll, result_of("1"))

    def test_relayed_callback_with_another_upstream_id_ends_its_job(self) -> None:
        """B15, B8: the token names the job, at any node."""
        self.assertEqual(self.call_back(1, body=result_of("2")), [(200, "accepted")])
        self.assert_result(self.client, result_of("2"))

    def test_relayed_progress_changes_nothing(self) -> None:
        """B15, B7: progress changes nothing when it is relayed."""
        responses = self.call_back(1, 2, body=result_of("1", "running"))
        self.assertEqual(responses, 2 * [(200, "progress")])
        self.assertTrue(self.client.is_held)
        self.call_back(2)
        self.assert_result(self.client, result_of("1"))

    def test_relayed_result_keeps_its_content_type(self) -> None:
        """B15, B7: a result that is no JSON comes through the store as it is."""
        headers = {"Content-Type": "application/pdf", "Content-Encoding": "gzip"}
        sender = self.nodes[1].connect()
        sender.request(self.start.callback_path, b"\0%PDF\n", headers=headers)
        self.cluster.settle()
        for response in (self.client.response, self.nodes[2].poll(self.start.job_id).response):
            self.assertEqual(response.body, b"\0%PDF\n")
            self.assertEqual(response.headers["content-type"], "application/pdf")
            self.assertEqual(response.headers["content-encoding"], "gzip")

    def test_forged_token_is_not_found_without_the_store(self) -> None:
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

    def test_relayed_progress_keeps_a_job_from_being_lost(self) -> None:
        """B15: progress that came to another node keeps a job from being lost."""
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

    def test_first_result_of_a_restarted_job_is_that_of_every_node(self) -> None:
        """B15: when both starts of a job end, all nodes send the result that the client got."""
        client = self.nodes[0].submit()
        self.starts[0].ack("1")
        self.clock.advance(3)
        self.starts[1].ack("2")
        self.nodes[0].call_back(self.starts[1], result_of("2"))
        self.assert_result(client, result_of("2"))
        self.nodes[1].call_back(self.starts[0], result_of("1"))
        self.cluster.settle()
        for node in self.nodes:
            poll = node.poll(self.starts[0].job_id)
            self.cluster.settle()
            self.assert_result(poll, result_of("2"))


class OrphanTests(ClusterTestCase):
    """Results that no client waits for, wherever they came."""

    def make_orphan(self, node: int = 1) -> str:
        client = self.nodes[0].submit()
        start = self.starts[-1]
        start.ack("1")
        client.leave()
        self.nodes[node].call_back(start, result_of("1"))
        self.cluster.settle()
        return start.job_id

    def test_orphan_is_listed_by_every_node(self) -> None:
        """B15: an orphan is listed and shown by every node, wherever its callback came."""
        for number in range(3):
            job_id = self.make_orphan(number)
            for node in self.nodes:
                self.assertIn(job_id, node.list_orphans())
                shown = node.operate().get(f"/orphans/{job_id}").response
                self.assertEqual((shown.status, shown.body), (200, result_of("1")))

    def test_number_of_orphans_is_that_of_the_list(self) -> None:
        """B15: each node counts the orphans that the list has, also those of other nodes."""
        for node in self.nodes:
            node.proxy.watch.startService()
        listed = [self.make_orphan(number) for number in range(2)]
        self.cluster.clock.advance(5)
        for node in self.nodes:
            self.assertEqual(len(node.list_orphans()), 2)
            self.assertEqual(node.read_metric("jobproxy_orphans"), 2)
            self.assertEqual(node.operate().get("/status").response.json["orphans"], 2)
        self.nodes[0].operate().request(f"/orphans/{listed[0]}", None, method="DELETE")
        self.cluster.clock.advance(5)
        self.assertEqual({node.read_metric("jobproxy_orphans") for node in self.nodes}, {1.0})
        for node in self.nodes:
            node.proxy.watch.stopService()

    def test_orphan_that_a_client_asked_for_is_listed_by_no_node(self) -> None:
        """B15: a client can ask any node for an orphan, which is none any more then."""
        for number in range(3):
            job_id = self.make_orphan()
            poll = self.nodes[number].poll(job_id)
            self.cluster.settle()
            self.assert_result(poll, result_of("1"))
            for node in self.nodes:
                self.assertEqual(node.list_orphans(), [])

    def test_deleted_orphan_is_gone_from_every_node(self) -> None:
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
                self.assert_problem(poll.response, 404, "job-unknown", started="unknown")

    def test_callback_for_a_dead_owner_is_an_orphan(self) -> None:
        """B15: a callback for a node that has died is an orphan, which any other node sends."""
        self.nodes[0].submit()
        start = self.starts[0]
        start.ack("1")
        self.nodes[0].kill()
        receipt = self.nodes[1].call_back(start, result_of("1"))
        self.assertEqual(receipt.json, {"status": "late"})
        self.cluster.settle()
        self.assertEqual(self.nodes[2].list_orphans(), [start.job_id])
        self.assert_result(self.nodes[2].poll(start.job_id), result_of("1"))
        self.assertEqual(self.nodes[1].list_orphans(), [])
