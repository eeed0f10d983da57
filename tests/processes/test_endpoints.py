"""Every way to listen: clients, callbacks, the operator and the drain, on a real proxy."""

import signal
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.processes import run
from tests.support.socket_client import result_of
from tests.support.threaded_job_server import serve_jobs
from tests.support.waiting import PATIENT, wait_for_exit
from tests.support.ways import KINDS, Way, run_on

CLIENTS, CALLBACKS, OPERATOR = range(3)
#: More than the buffers of a connection take.
LARGE = b'{"state":"completed","more":"%b"}' % (b"x" * 8_000_000)


@pytest.mark.parametrize("kind", KINDS)
def test_jobs_are_served_on_every_kind_of_endpoint(kind: str, tmp_path: Path) -> None:
    """A job that is held, a slow client, one that is told 202, ``jobproxyctl``, and the drain."""
    with closing(Way(kind, tmp_path)) as way:
        check(way)


def check(way: Way) -> None:
    listen = {name: way.add() for name in ("listen", "callback-listen", "admin-listen")}
    with serve_jobs() as server:
        options = {
            **listen,
            "callback-url": "http://127.0.0.1:1/callback",
            "job-server-url": f"{server.url}/start",
            "max-body": "9000000",
            **PATIENT,
        }

        def call_back(number: int, body: bytes) -> int:
            with way.connect(CALLBACKS) as sender:
                path = "/" + server.callbacks[number].split("/", 3)[3]
                sender.ask("POST", path, body, Connection="close")
                return sender.receive().status

        with (
            run_on(way, options, OPERATOR) as proxy,
            way.connect(CLIENTS) as held,
            way.connect(CLIENTS) as slow,
            way.connect(CLIENTS) as told,
        ):
            held.send_job(0)
            slow.send_job(1)
            told.send_job(2, Prefer="respond-async")
            server.wait_for_acks(range(3))
            # Nothing of it is read before all of it is sent as far as it can be.
            assert call_back(1, LARGE) == 200
            accepted = told.receive()
            assert accepted.status == 202
            assert [call_back(number, result_of(number)) for number in (0, 2)] == [200, 200]
            assert held.receive().body == result_of(0)
            told.ask("GET", accepted.headers["Location"])
            assert told.receive().body == result_of(2)
            assert slow.receive().body == LARGE
            if way.urls[OPERATOR]:
                trusted = str(way.authority)
                shown = run(
                    "jobproxyctl", "status", "--admin", way.urls[OPERATOR], SSL_CERT_FILE=trusted
                )
                assert (shown.returncode, shown.stderr) == (0, ""), shown.stderr
                assert "ready" in shown.stdout
            with way.connect(CLIENTS) as last:
                last.send_job(3)
                server.wait_for_acks([3])
                proxy.send_signal(signal.SIGTERM)
                assert call_back(3, result_of(3)) == 200
                assert last.receive().body == result_of(3)
            assert wait_for_exit(proxy) == -signal.SIGTERM
