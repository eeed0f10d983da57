"""SIGTERM: every held client gets its response, and the process still ends in time."""

import signal
import time

import pytest

from jobproxy.daemon.process import raise_file_limit
from jobproxy.sandbox.processes import find_free_port
from tests.support.socket_client import BIG, request, result_of
from tests.support.stage import DRAINING, run_stage
from tests.support.waiting import wait_for_exit, wait_until


def test_every_held_client_gets_its_result() -> None:
    """G1: 1,000 clients are held at SIGTERM: all get their bytes, and the process ends in time."""
    raise_file_limit()
    with run_stage() as stage:
        clients = stage.hold(*range(1_000))
        stage.stop()
        refused = stage.send_job(1_000).receive()
        assert refused.verdict == (503, DRAINING, "no")
        assert refused.headers["Connection"] == "close"
        assert not any(client.has_response() for client in clients)
        assert {stage.call_back(number).status for number in range(1_000)} == {200}
        stage.wait_for_end()
        for number, client in enumerate(clients):
            response = client.receive()
            assert (response.status, response.body) == (200, result_of(number))
            assert response.headers["Connection"] == "close"
            assert client.is_ended()
        assert len(stage.server.callbacks) == 1_000


def test_queued_jobs_are_not_started() -> None:
    """G1: at SIGTERM a queued client is told that nothing was started; others are served."""
    with run_stage(starts_per_account="1") as stage:
        gate = stage.server.close_gate("example")
        clients = [stage.send_job(number) for number in range(3)]
        stage.server.wait_for(1)
        stage.stop()
        (first,) = stage.server.callbacks
        started = clients.pop(first)
        for client in clients:
            assert client.receive().verdict == (503, DRAINING, "no")
            assert client.is_ended()
        gate.set()
        stage.server.wait_for_acks([first])
        assert stage.ready().status == 503
        assert not started.has_response()
        assert stage.call_back(first).status == 200
        assert started.receive().body == result_of(first)
        stage.wait_for_end()
        assert len(stage.server.callbacks) == 1


def test_a_slow_client_gets_its_response_whole() -> None:
    """G1: the process does not end before a slow client has got all bytes of its response."""
    with run_stage(max_body=str(len(BIG))) as stage:
        (client,) = stage.hold(0)
        stage.stop()
        assert stage.call_back(0, BIG).status == 200
        wait_until(client.has_response)
        assert stage.proxy.process.poll() is None
        assert client.receive().body == BIG
        stage.wait_for_end()


def test_callbacks_and_health_are_served_to_the_end_on_ports_of_their_own() -> None:
    """G1, G16: callbacks and health are served to the end on their own ports; no client is."""
    callback, admin = find_free_port(), find_free_port()
    ports = {
        "callback_url": f"http://127.0.0.1:{callback}/callback",
        "callback_listen": f"tcp:{callback}:interface=127.0.0.1",
        "admin_listen": f"tcp:{admin}:interface=127.0.0.1",
    }
    with run_stage(**ports) as stage:
        clients = stage.hold(0, 1)
        health = f"http://127.0.0.1:{admin}"
        assert stage.ready(health).status == 200
        stage.stop(health)
        # The port for clients closes at once, so that a load balancer tries another node.
        with pytest.raises(ConnectionRefusedError):
            stage.connect()
        for number, client in enumerate(clients):
            assert stage.ready(health).status == 503
            assert stage.call_back(number).document == {"status": "accepted"}
            assert client.receive().body == result_of(number)
            assert client.is_ended()
        stage.wait_for_end()


def test_held_clients_get_a_problem_when_the_drain_has_to_end() -> None:
    """G1: a client still held when the drain has to end is told what is known of its job."""
    with run_stage(drain_timeout="0.5") as stage:
        stage.server.close_gate("account 2")
        clients = stage.hold(0, 1, 2)
        # The acks have been read by then.
        assert stage.ready().status == 200
        begin = time.monotonic()
        stage.proxy.process.send_signal(signal.SIGTERM)
        stage.wait_for_end()
        assert time.monotonic() - begin > 0.5
        responses = [client.receive() for client in clients]
        assert [response.document["started"] for response in responses] == ["yes", "yes", "unknown"]
        for response, client in zip(responses, clients, strict=True):
            assert response.verdict[:2] == (503, DRAINING)
            assert response.headers["Connection"] == "close"
            assert client.is_ended()


def test_jobs_are_accepted_until_the_delay_is_over() -> None:
    """G16: after SIGTERM the proxy is not ready, and accepts jobs until the second signal."""
    with run_stage(drain_delay="900") as stage:
        (first,) = stage.hold(0)
        stage.proxy.process.send_signal(signal.SIGTERM)
        wait_until(lambda: stage.ready().status == 503)
        (second,) = stage.hold(1)
        assert stage.call_back(1).status == 200
        response = second.receive()
        assert (response.status, response.body) == (200, result_of(1))
        assert response.headers["Connection"] == "close"
        stage.proxy.process.send_signal(signal.SIGTERM)
        assert first.receive().verdict == (503, DRAINING, "yes")
        stage.wait_for_end()


def test_a_client_that_leaves_is_not_waited_for() -> None:
    """G1: a drain ends with the last held client, also if that one just leaves."""
    with run_stage() as stage:
        stay, leave = stage.hold(0, 1)
        stage.stop()
        leave.close()
        assert stage.call_back(0).status == 200
        stage.wait_for_end()
        assert stay.receive().body == result_of(0)


def test_running_job_is_not_said_to_be_unstarted() -> None:
    """G1: a client that repeats a running job while draining is not told "not started"."""
    with run_stage() as stage:
        first = stage.send_job(0, Idempotency_Key="key")
        stage.server.wait_for(1)
        stage.stop()
        again = stage.send_job(0, Idempotency_Key="key")
        assert stage.ready().status == 503
        assert stage.call_back(0).status == 200
        assert first.receive().body == result_of(0)
        response = again.receive()
        assert response.body == result_of(0) or response.document["started"] != "no"


def test_idle_connections_are_closed_at_once() -> None:
    """G2: at SIGTERM connections on which nothing is under way end at once, and cleanly."""
    with run_stage() as stage:
        (held,) = stage.hold(0)
        silent = stage.connect()
        (kept,) = stage.hold(1)
        assert stage.call_back(1).status == 200
        assert kept.receive().headers["Connection"] is None
        asking = stage.connect()
        asking.write(b"POST /proxy HTTP/1.1\r\nHost: proxy\r\nContent-Length: 19\r\n")
        assert stage.ready().status == 200
        stage.stop()
        assert silent.is_ended()
        assert kept.is_ended()
        asking.write(b'\r\n{"account":"other"}')
        assert asking.receive().verdict == (503, DRAINING, "no")
        assert not held.has_response()
        late = stage.connect()
        assert stage.call_back(0).status == 200
        stage.wait_for_end()
        assert held.receive().body == result_of(0)
        assert late.is_ended()


def test_requests_that_have_arrived_get_a_response() -> None:
    """G1, G2: what has arrived when SIGTERM is seen is read, and its connection stays open."""
    with run_stage() as stage:
        (held,) = stage.hold(0)
        silent = stage.connect()
        (kept,) = stage.hold(1)
        assert stage.call_back(1).status == 200
        assert kept.receive().status == 200
        idle = stage.connect()
        idle.ask("GET", "/readyz")
        assert idle.receive().status == 200
        with stage.stall():
            kept.send_job(2)
            silent.send_job(3)
            new = stage.send_job(4)
            stage.proxy.process.send_signal(signal.SIGTERM)
        # From then on no connection is closed without a response, not even a new one.
        assert idle.is_ended()
        for number, client in enumerate((kept, silent, new), 2):
            # Whether the signal or the request is seen first is not said.
            if stage.is_started(number, client):
                assert stage.call_back(number).status == 200
                assert client.receive().body == result_of(number)
            else:
                assert client.receive().verdict == (503, DRAINING, "no")
        assert stage.call_back(0).status == 200
        assert held.receive().body == result_of(0)


def test_a_signal_after_an_operators_drain_is_the_first_one() -> None:
    """G8: SIGTERM after ``jobproxyctl drain`` throws no client out, as a preStop hook needs."""
    port = find_free_port()
    admin = f"http://127.0.0.1:{port}"
    with run_stage(admin_listen=f"tcp:{port}:interface=127.0.0.1") as stage:
        (client,) = stage.hold(0)
        assert request(f"{admin}/drain", b"", "POST").status == 202
        wait_until(lambda: stage.ready(admin).status == 503)
        stage.proxy.process.send_signal(signal.SIGTERM)
        # It has handled the signal before it responds again.
        assert stage.ready(admin).status == stage.ready(admin).status == 503
        assert not client.has_response()
        assert stage.call_back(0).status == 200
        assert client.receive().body == result_of(0)
        assert wait_for_exit(stage.proxy.process) == 0
