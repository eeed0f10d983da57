"""What nodes count has one meaning, on one node and on several."""

from tests.support.cluster import ClusterTestCase
from tests.support.proxy import result_of


class CountTests(ClusterTestCase):
    """The counts of nodes that share a store."""

    size = 2

    def read_callbacks(self, number: int, result: str) -> float:
        return self.nodes[number].read_metric(f'jobproxy_callbacks_total{{result="{result}"}}')

    def test_callback_of_another_nodes_job_is_counted_where_it_comes(self) -> None:
        """A callback is counted by the node to which it comes, whose job it may not be."""
        owner, other = self.nodes
        owner.submit()
        self.starts[0].ack("1")
        other.send_callback(self.starts[0], result_of("1"))
        self.cluster.settle()
        self.assertEqual(self.read_callbacks(0, "accepted"), 0)
        self.assertEqual(self.read_callbacks(1, "accepted"), 1)

    def test_node_whose_callbacks_come_to_another_has_heard_of_them(self) -> None:
        """No node is without callbacks because the load balancer sends them to another one."""
        owner, other = self.nodes
        for number in range(20):
            owner.submit(f"account {number}")
            self.starts[number].ack(str(number))
        self.assertEqual(owner.read_metric("jobproxy_unheard"), 1)
        for number, start in enumerate(self.starts):
            other.send_callback(start, result_of(str(number)))
        self.cluster.settle()
        self.assertEqual(owner.read_metric("jobproxy_unheard"), 0)

    def test_job_that_is_asked_for_elsewhere_is_counted_once(self) -> None:
        """A job is counted and listed by the node that has it, not where it is asked for too."""
        owner, other = self.nodes
        owner.submit(Prefer="respond-async")
        self.starts[0].ack("1")
        self.cluster.settle()
        (job,) = owner.operate().get("/jobs").response.json["jobs"]
        other.poll(job["job"], Prefer="wait=5")
        self.cluster.settle()
        self.assertEqual(other.table.clients.held, 1)
        self.assertEqual([node.read_metric("jobproxy_jobs") for node in self.nodes], [1, 0])
        self.assertEqual(other.operate().get("/jobs").response.json["total"], 0)
        owner.send_callback(self.starts[0], result_of("1"))
        self.cluster.settle()
        self.assertEqual([node.read_metric("jobproxy_jobs") for node in self.nodes], [0, 0])
        self.cluster.check_end()
        self.assertEqual([len(node.table) for node in self.nodes], [0, 0])
