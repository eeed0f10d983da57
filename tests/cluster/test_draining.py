"""Nodes of a cluster that drain."""

from tests.support.cluster import ClusterTestCase


class DrainTests(ClusterTestCase):
    settings = {"starts_per_account": 1}

    def test_job_with_a_slot_makes_no_room_for_another(self) -> None:
        """G1: a job whose key is being claimed gives its slot back, and no queued job gets it."""
        self.nodes[0].store.latency = 0.1
        clients = [self.nodes[0].submit(key="k")]
        self.clock.pump([0.1, 0.1])
        clients.append(self.nodes[0].submit())
        self.assertEqual(self.starts, [])
        self.nodes[0].gateway.drain()
        self.clock.pump([0.1] * 4)
        self.assertEqual(self.starts, [])
        for client in clients:
            self.assert_problem(client.response, 503, "draining")
