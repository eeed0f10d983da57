"""Thin callbacks of a real proxy with a store in a file, killed while it fetches a result."""

from pathlib import Path

from jobproxy.sandbox.processes import find_free_port
from tests.support.socket_client import Client, request
from tests.support.stage import make_proxy
from tests.support.threaded_job_server import serve_jobs
from tests.support.waiting import wait_for_exit, wait_until

PROFILE = """
path = "/tasks"
account = "$request.body#/account"
[start]
url = "{URL}/start"
[start.set]
"$request.body#/callback" = "{$callback.url}"
[result]
url = "{URL}/results/{$response.body#/id}"
"""
THIN = b'{"state":"completed"}'


def send_job(client: Client, number: int) -> None:
    body = b'{"account":"account %d","number":%d}' % (number, number)
    client.ask("POST", "/tasks", body, Idempotency_Key=f'"{number}"')


def test_killed_process_loses_no_result_that_was_told_200(tmp_path: Path) -> None:
    """B23: one job is killed during its GET, another one after it; both are started once."""
    port, profile = find_free_port(), tmp_path / "api.toml"
    options = {"store": f"sqlite:{tmp_path / 'store.db'}", "profile": str(profile)}
    with serve_jobs() as server:
        profile.write_text(PROFILE.replace("{URL}", server.url))
        server.close_gate("/results/1")
        with (
            make_proxy(server.url, port, **options) as killed,
            Client(port) as fetched,
            Client(port) as cut_off,
            Client(port) as sender,
        ):
            send_job(fetched, 0)
            send_job(cut_off, 1)
            server.wait_for_acks([0, 1])
            assert request(server.callbacks[0], THIN, "POST").status == 200
            assert fetched.receive().body == b"result of /results/0"
            sender.ask("POST", "/" + server.callbacks[1].split("/", 3)[3], THIN)
            wait_until(lambda: "/results/1" in server.asked)
            assert not sender.has_response()
            killed.process.kill()
            wait_for_exit(killed.process)
        callbacks = dict(server.callbacks)
        with make_proxy(server.url, port, **options), Client(port) as again, Client(port) as late:
            send_job(again, 0)
            assert again.receive().body == b"result of /results/0"
            # The credentials to ask with have ended with the process.
            wait_until(lambda: request(callbacks[1], THIN, "POST").status == 200)
            send_job(late, 1)
            assert late.receive().body == THIN
        assert server.callbacks == callbacks
        assert sorted(server.asked) == ["/results/0", "/results/1"]
