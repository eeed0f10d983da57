"""More connections than there may be."""

from typing import Any

from twisted.internet.address import IPv4Address, UNIXAddress

from jobproxy.wire.reports import read_report
from tests.support.http1_server import GET, RawClient, ServerTestCase, Wire, head, post
from tests.support.proxy import result_of


class CrowdTests(ServerTestCase):
    """A server with five connections for clients."""

    settings: dict[str, Any] = {"max_connections": 5}

    def test_oldest_connection_without_a_request_makes_room(self) -> None:
        """L12: at the limit the oldest connection that is silent, idle or slow is closed."""
        silent, idle, slow = (self.connect() for _ in range(3))
        idle.send(GET)
        slow.send(head()[:10])
        held = [self.hold(), self.hold()]
        for expected in (silent, idle, slow):
            self.assertTrue(expected.is_open)
            new = self.hold()
            self.assertFalse(expected.is_open)
            held.append(new)
        self.assertEqual(len(self.site.connections), 5)
        self.assertEqual(self.traffic.refused, {"crowded": 3})
        for number, client in enumerate(held):
            self.call_back_from_elsewhere(number)
            self.assertEqual(client.response.status, 200)

    def call_back_from_elsewhere(self, number: int) -> None:
        """Let a job end as a callback on another port does it."""
        token = self.starts[number].callback_path.rpartition("/")[2]
        self.gateway.deliver(self.gateway.verify(token), read_report(result_of("1")))

    def test_new_connection_is_refused_when_all_clients_are_held(self) -> None:
        """L12: held clients never make room for others."""
        held = [self.hold() for _ in range(5)]
        new = RawClient(self.site)
        self.assertFalse(new.is_open)
        for number, client in enumerate(held):
            self.assertTrue(client.is_held)
            self.call_back_from_elsewhere(number)
            self.assertEqual(client.response.status, 200)
        again = self.connect()
        again.send(post(b"{"))
        self.assertEqual(again.response.status, 400)


class AddressTests(ServerTestCase):
    """A server with two connections for each address."""

    settings: dict[str, Any] = {"max_connections_per_address": 2}

    def connect_from(self, address: object) -> RawClient:
        """Return a client with an address."""
        client = RawClient(self.site, Wire(peerAddress=address))
        self.clients.append(client)
        return client

    def test_address_that_has_its_share_is_refused(self) -> None:
        """L12: further connections of an address are reset, until it has closed one."""
        one, other = (IPv4Address("TCP", host, 1) for host in ("192.0.2.1", "192.0.2.2"))
        first, second, third = (self.connect_from(one) for _ in range(3))
        self.assertEqual((first.is_open, second.is_open, third.is_open), (True, True, False))
        self.assertEqual(self.traffic.refused, {"address": 1})
        self.assertTrue(self.connect_from(other).is_open)
        first.leave()
        self.assertTrue(self.connect_from(one).is_open)
        self.assertFalse(self.connect_from(one).is_open)

    def test_unix_socket_has_no_share(self) -> None:
        """Clients of a Unix socket have no address, and so no limit of their own."""
        clients = [self.connect_from(UNIXAddress("")) for _ in range(5)]
        self.assertTrue(all(client.is_open for client in clients))


class ReserveTests(ServerTestCase):
    """What the limit of open files leaves for clients."""

    def test_callbacks_and_the_operator_have_no_limit(self) -> None:
        """L12: only clients have a limit; the operator's port has none."""
        self.assertIsNotNone(self.proxy.admin)
        admin: Any = self.proxy.admin
        clients: Any = self.proxy.clients
        self.assertEqual(admin._max_connections, float("inf"))
        self.assertLess(clients._max_connections, float("inf"))
