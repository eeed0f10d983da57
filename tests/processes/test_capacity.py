"""Too much of everything: one account's flood, many accounts, many clients, no sockets left."""

import os
import re
import resource
import time
from pathlib import Path
from threading import Event

from jobproxy.daemon.process import raise_file_limit
from jobproxy.sandbox.processes import find_free_port
from tests.support.socket_client import Client, Response, result_of
from tests.support.stage import Stage, run_stage
from tests.support.waiting import wait_until

FULL = "urn:jobproxy:problem:account-queue-full"
OVERLOADED = "urn:jobproxy:problem:overloaded"


def finish(stage: Stage, clients: dict[int, Client]) -> None:
    """End all jobs, and check that each client gets the result of its own."""
    for number, client in clients.items():
        assert stage.call_back(number).status == 200
        response = client.receive()
        assert (response.status, response.body) == (200, result_of(number))


def split(clients: dict[int, Client]) -> tuple[dict[int, Client], list[Response]]:
    """Return the clients that are held, and the responses that the others got."""
    held = {number: client for number, client in clients.items() if not client.has_response()}
    return held, [client.receive() for number, client in clients.items() if number not in held]


def find_job_id(callback_url: str) -> str:
    return callback_url.rpartition("/")[2].partition(".")[0]


def list_starts(stage: Stage) -> list[str]:
    """Return the ids of the jobs that the proxy has started, in order."""
    return re.findall(r" job=(\S+) .* state=starting ", stage.proxy.log)


def test_a_flood_of_one_account_leaves_room_for_another() -> None:
    """L1: what is too much of one account is refused, and another's job is started at once."""
    with run_stage(starts_per_account="4", max_starts="5", queue_per_account="50") as stage:
        gate = stage.server.close_gate("flood")
        clients = {number: stage.send_job(number, "flood") for number in range(300)}
        stage.server.wait_for(4)
        (other,) = stage.hold(1_000)
        wait_until(lambda: sum(client.has_response() for client in clients.values()) == 246)
        held, refused = split(clients)
        assert {response.verdict for response in refused} == {(429, FULL, "no")}
        assert all(int(response.headers["Retry-After"]) >= 1 for response in refused)
        assert len(stage.server.callbacks) == 5
        finish(stage, {1_000: other})
        assert not any(client.has_response() for client in held.values())
        gate.set()
        stage.server.wait_for(55)
        finish(stage, held)


def test_accounts_take_turns_when_no_start_is_free() -> None:
    """L1: with no place left, an account with one job comes before the rest of one with many."""
    with run_stage(starts_per_account="2", max_starts="2") as stage:
        gate = stage.server.close_gate("flood")
        clients = {number: stage.send_job(number, "flood") for number in range(100)}
        stage.server.wait_for(2)
        clients[1_000] = stage.send_job(1_000, "other")
        assert stage.ready().status == 200
        gate.set()
        stage.server.wait_for(101)
        other = find_job_id(stage.server.callbacks[1_000])
        # The order in which the threads of the job server wake up is another one.
        assert list_starts(stage).index(other) <= 4
        finish(stage, clients)


def test_many_accounts_share_a_few_connections() -> None:
    """L2: as many accounts as clients are served over a few connections to the job server."""
    raise_file_limit()
    gate = Event()
    with run_stage(max_starts="8") as stage:
        stage.server.gates = dict.fromkeys((f"account {number}" for number in range(1_000)), gate)
        clients = {number: stage.send_job(number, f"account {number}") for number in range(1_000)}
        stage.server.wait_for(8)
        assert stage.ready().status == 200
        assert len(stage.server.callbacks) == stage.server.connections == 8
        gate.set()
        stage.server.wait_for(1_000)
        finish(stage, clients)


def test_one_client_too_many_is_refused() -> None:
    """L3: one client too many is refused at once, and the others stay held."""
    with run_stage(max_held="20") as stage:
        held = dict(enumerate(stage.hold(*range(20))))
        for number in range(20, 30):
            response = stage.send_job(number, f"account {number}").receive()
            assert response.verdict == (503, OVERLOADED, "no")
            assert int(response.headers["Retry-After"]) >= 1
            assert response.headers["Connection"] == "close"
        assert len(stage.server.callbacks) == 20
        assert not any(client.has_response() for client in held.values())
        finish(stage, {0: held.pop(0)})
        held.update(zip([30], stage.hold(30), strict=True))
        finish(stage, held)


def use_up_files(stage: Stage, spare: int) -> None:
    """Let the proxy have only so many sockets more, besides numbers that are free in between."""
    pid = stage.proxy.process.pid
    limit = max(int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()) + 1 + spare
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, limit))


def read_cpu_time(pid: int) -> float:
    """Return the seconds of CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def is_open(client: Client) -> bool:
    try:
        return not (client.has_response() and client.is_ended())
    except ConnectionError:
        return False


def test_held_clients_stay_held_without_free_sockets() -> None:
    """L5, S5: without sockets held clients stay held, new ones are let go, and nothing spins."""
    with run_stage(upstream_idle="0") as stage:
        held = dict(enumerate(stage.hold(*range(10))))
        sender = stage.connect()
        sender.ask("GET", "/healthz")
        assert sender.receive().status == 200
        # What is closed later would leave a number free for what must not have one.
        wait_until(lambda: stage.server.connections == 0)
        use_up_files(stage, spare=5)
        connected = [stage.connect() for _ in range(40)]
        wait_until(lambda: sum(map(is_open, connected)) <= 20)
        accepted = [client for client in connected if is_open(client)]
        assert len(accepted) >= 5
        asking = accepted[0]
        asking.send_job(100, "other")
        assert asking.receive().verdict == (503, OVERLOADED, "no")
        assert len(stage.server.callbacks) == 10

        pid = stage.proxy.process.pid
        before = read_cpu_time(pid)
        time.sleep(0.5)
        assert read_cpu_time(pid) - before < 0.1
        assert not any(client.has_response() for client in held.values())
        sender.call_back(stage.server.callbacks[0], 0)
        assert sender.receive().status == 200
        assert held.pop(0).receive().body == result_of(0)

        for client in connected:
            client.close()
        finish(stage, held)
        finish(stage, dict(zip([101], stage.hold(101), strict=True)))
        assert "Traceback" not in stage.proxy.log


def test_silent_clients_take_no_socket_of_a_callback() -> None:
    """L12: silent connections of clients leave room for callbacks, starts and the operator."""
    callbacks, admin = find_free_port(), find_free_port()
    ports = {
        "callback_url": f"http://127.0.0.1:{callbacks}/callback",
        "callback_listen": f"tcp:{callbacks}:interface=127.0.0.1",
        "admin_listen": f"tcp:{admin}:interface=127.0.0.1",
    }
    with run_stage(max_connections="20", **ports) as stage:
        held = dict(enumerate(stage.hold(*range(10))))
        use_up_files(stage, spare=60)
        silent = [stage.connect() for _ in range(40)]
        wait_until(lambda: sum(map(is_open, silent)) <= 10)
        assert stage.ready(f"http://127.0.0.1:{admin}").status == 200
        finish(stage, held)
        for client in silent:
            client.close()
