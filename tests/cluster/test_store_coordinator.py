"""The shared coordinator as the operator sees it: readiness and metrics."""

from tests.support.cluster import ClusterTestCase
from tests.support.proxy import result_of


class StatusTests(ClusterTestCase):
    """What the operator sees of the other nodes."""

    def test_node_is_ready_once_it_has_joined(self) -> None:
        """X1: a node is ready once it has joined, and stays ready when the store is away."""
        node = self.cluster.add_node()
        not_ready = node.operate().get("/readyz").response
        self.assertEqual(not_ready.status, 503)
        self.assertEqual(not_ready.json["reasons"], ["store-unreachable"])
        self.assertEqual(node.read_metric("jobproxy_store_up"), 0)
        node.start()
        self.assertEqual(node.operate().get("/readyz").response.status, 200)
        self.assertEqual(node.read_metric("jobproxy_store_up"), 1)
        node.store.go_away()
        self.assertEqual(node.operate().get("/readyz").response.status, 200)
        self.assertEqual(node.read_metric("jobproxy_store_up"), 0)

    def test_relays_are_counted_by_what_became_of_them(self) -> None:
        """Callbacks of other nodes' jobs are counted by what became of them, each once."""
        node = self.nodes[1]
        self.nodes[0].submit()
        start = self.starts[0]
        start.ack("1")
        bodies = [result_of("1", "running"), result_of("1"), result_of("1")]
        for body in (*bodies, result_of("1", "failed")):
            node.call_back(start, body)
            self.cluster.settle()
        self.nodes[0].submit()
        self.starts[1].ack("1")
        self.nodes[0].kill()
        node.store.go_away()
        node.call_back(self.starts[1], result_of("1"))
        node.store.come_back()
        node.call_back(self.starts[1], result_of("1"))
        expected = {
            "progress": 1,
            "taken": 1,
            "duplicate": 1,
            "conflict": 1,
            "store-unreachable": 1,
            "orphaned": 1,
        }
        for result, number in expected.items():
            name = f'jobproxy_relays_total{{result="{result}"}}'
            self.assertEqual(node.read_metric(name), number)

    def test_gaps_and_messages_not_sent_are_counted(self) -> None:
        """X2: gaps, results found after them and messages that were not sent are counted."""
        node = self.nodes[0]
        self.assertEqual(self.count(), (1, 0, 0))
        node.submit(key="k")
        self.starts[0].ack("1")
        node.submit()
        self.starts[1].ack("2")
        node.store.go_away()
        node.call_back(self.starts[0], result_of("1"))
        self.assertEqual(self.count(), (1, 0, 2))
        self.nodes[1].call_back(self.starts[1], result_of("2"))
        node.store.come_back()
        self.assertEqual(self.count(), (2, 1, 2))

    def count(self) -> tuple[float, ...]:
        names = ("store_gaps_total", "store_found_total", "unsent_total")
        return tuple(self.nodes[0].read_metric(f"jobproxy_{name}") for name in names)

    def test_requests_to_the_store_are_counted_by_success(self) -> None:
        """X1: requests to the store are counted by whether it responded."""
        node = self.nodes[2]
        node.poll("A" * 38)
        ok = node.read_metric('jobproxy_store_calls_total{result="ok"}')
        self.assertGreater(ok, 0)
        node.store.go_away()
        node.poll("A" * 38)
        self.assertEqual(node.read_metric('jobproxy_store_calls_total{result="failed"}'), 1)
        self.assertEqual(node.read_metric('jobproxy_store_calls_total{result="ok"}'), ok)
