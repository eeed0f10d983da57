"""Kills a proxy with a store in a file, again and again, and counts what is lost or done twice.

In each round clients send jobs, half of them with an Idempotency-Key and held, half with
``Prefer: respond-async``. At a random moment the process is killed, and started again with the same
file; the clients whose connection ended come again with their keys, and the job server repeats each
callback until it gets 200. With ``--power-cut`` the process that starts again finds the files as
they were when they were last synced to the disk (``power_cut.c``, which needs a C compiler).

    python benchmarks/restarts.py --rounds 200 --jobs 1000

``--gently`` ends each process with SIGTERM instead, as an upgrade does.
"""

import argparse
import asyncio
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from attrs import define, field
from nodes import Connection, JobServer, make_result

from jobproxy.sandbox.processes import DaemonProcess, find_free_port

#: Seconds in which everything must have ended after a restart.
PATIENCE = 60.0
#: Seconds between two attempts of a client.
PAUSE = 0.1
#: Seconds of a job.
DURATION = 0.6
#: Accounts that share the jobs.
ACCOUNTS = 40


@define(eq=False)
class Round:
    """One life, one death, and the life after it.

    :param jobs: so many with a key, and as many that are told 202.
    :ivar found: what became of the jobs, by word.
    :ivar wrong: what must not be, by word.
    """

    number: int
    jobs: int
    port: int
    server: JobServer
    found: Counter[str] = field(factory=Counter)
    wrong: Counter[str] = field(factory=Counter)
    _told: dict[int, str] = field(factory=dict)

    async def run(self, proxy: "Proxy", delay: float) -> None:
        """Send all jobs, kill the proxy after a delay, and wait until every job has ended."""
        first = self.number * 1_000_000
        keyed = [self._hold(first + turn) for turn in range(self.jobs)]
        told = [self._poll(first + 500_000 + turn) for turn in range(self.jobs)]
        clients = asyncio.gather(*keyed, *told)
        await asyncio.sleep(delay)
        await asyncio.to_thread(proxy.kill)
        await asyncio.to_thread(proxy.start)
        await asyncio.wait_for(clients, PATIENCE)
        await asyncio.wait_for(self.server.finish(), PATIENCE)
        for tag, starts in self.server.starts.items():
            # A client without a key, whose 202 was lost, has started its job again itself.
            if starts > 1 and tag >= first and tag % 1_000_000 < 500_000:
                self.wrong["second start"] += 1

    async def _hold(self, tag: int) -> None:
        """Send a job with a key until there is a response."""
        await asyncio.sleep(random.random() * 0.5)
        headers = f"Idempotency-Key: key-{tag}\r\n"
        while True:
            status, _, body = await self._post(tag, headers)
            if status == 200:
                self.found["key: result"] += 1
                if body != make_result(tag):
                    self.wrong["wrong result"] += 1
                return
            problem = json.loads(body) if status else {}
            word = f"key: {status} {problem.get('type', '').rpartition(':')[2]}"
            self.found[word] += 1
            if status == 504 and problem["started"] == "unknown" and not self.server.starts[tag]:
                # The process was killed between its claim of the key and the start request.
                return
            if status not in {0, 503, 504}:
                self.wrong[word] += 1
                return
            await asyncio.sleep(PAUSE)

    async def _poll(self, tag: int) -> None:
        """Send a job for a 202, and ask for its result; without a 202 it is not counted."""
        await asyncio.sleep(random.random() * 0.5)
        status, head, _ = await self._post(tag, "Prefer: respond-async\r\n")
        if status != 202:
            self.found[f"202: {status}"] += 1
            return
        path = head.decode().partition("ocation: ")[2].partition("\r\n")[0]
        while True:
            status, body = await self._get(path)
            if status == 200:
                self.found["202: result"] += 1
                if body != make_result(tag):
                    self.wrong["wrong result"] += 1
                return
            if status not in {0, 202, 503}:
                self.wrong[f"202: {status}"] += 1
                return
            await asyncio.sleep(PAUSE)

    async def _post(self, tag: int, headers: str) -> tuple[int, bytes, bytes]:
        body = json.dumps({"account": f"a{tag % ACCOUNTS}", "tag": tag}).encode()
        connection = Connection(self.port)
        try:
            return await connection.post("/proxy", body, headers)
        except (OSError, asyncio.TimeoutError):
            return 0, b"", b""
        finally:
            connection.close()

    async def _get(self, path: str) -> tuple[int, bytes]:
        connection = Connection(self.port)
        try:
            status, _, body = await connection.get(path)
        except (OSError, asyncio.TimeoutError):
            return 0, b""
        finally:
            connection.close()
        return status, body


@define(eq=False)
class Proxy:
    """The proxy, which can be killed and started again on the same port with the same file."""

    port: int
    options: dict[str, str]
    folder: Path
    query: str
    has_power_cuts: bool
    is_gentle: bool
    _daemon: DaemonProcess | None = field(default=None, init=False)

    def start(self) -> None:
        store = self.folder / "store.db"
        variables = {}
        if self.has_power_cuts:
            library = self.folder / "power_cut.so"
            variables = {"LD_PRELOAD": str(library), "POWER_CUT_FILES": str(store)}
        options = {**self.options, "store": f"sqlite:{store}{self.query}"}
        self._daemon = DaemonProcess("jobproxy", options, self.port, logger="", variables=variables)
        self._daemon.__enter__()

    def kill(self) -> None:
        assert self._daemon is not None
        self._daemon.process.send_signal(signal.SIGTERM if self.is_gentle else signal.SIGKILL)
        self._daemon.process.wait()
        if self.has_power_cuts:
            self._lose_what_was_not_synced()

    def _lose_what_was_not_synced(self) -> None:
        for name in ("store.db", "store.db-wal", "store.db-shm"):
            path, synced = self.folder / name, self.folder / f"{name}.synced"
            path.unlink(missing_ok=True)
            if synced.exists():
                synced.rename(path)

    def stop(self) -> str:
        """Stop it; return what it has logged."""
        assert self._daemon is not None
        log = self._daemon.log
        self._daemon.stop()
        return log


async def run(arguments: argparse.Namespace, folder: Path) -> bool:
    """Run all rounds; return whether nothing went wrong."""
    port = find_free_port()
    server = JobServer(DURATION, lambda _, own: own)
    listening = await server.listen()
    options = {
        "callback-url": f"http://127.0.0.1:{port}/callback",
        "job-server-url": f"http://127.0.0.1:{server.port}/start",
        "starts-per-account": "1000",
        "retain": "60",
        "wait": "4",
    }
    proxy = Proxy(port, options, folder, arguments.query, arguments.power_cut, arguments.gently)
    await asyncio.to_thread(proxy.start)
    wrong: Counter[str] = Counter()
    found: Counter[str] = Counter()
    begun = time.monotonic()
    for number in range(1, arguments.rounds + 1):
        one = Round(number, arguments.jobs, port, server)
        try:
            await one.run(proxy, random.uniform(0.1, 1.4))
        except asyncio.TimeoutError:
            one.wrong["round did not end"] += 1
        wrong += one.wrong
        found += one.found
        server.starts.clear()
        if one.wrong:
            print(f"round {number}: {dict(one.wrong)}")
    wrong += Counter({"callback never accepted": len(server.undelivered)})
    log = await asyncio.to_thread(proxy.stop)
    listening.close()
    if "Traceback" in log:
        wrong["traceback in the log"] += 1
        print(log)
    for word, count in sorted(found.items()):
        print(f"{count:8} {word}")
    print(f"{arguments.rounds} ends in {time.monotonic() - begun:.0f} s")
    print(f"callbacks: {dict(server.receipts)}")
    print(f"wrong: {dict(wrong) or 0}")
    return not wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1000, help="of each kind, in each round")
    parser.add_argument("--power-cut", action="store_true", help="lose what was not synced")
    parser.add_argument("--gently", action="store_true", help="end each process with SIGTERM")
    parser.add_argument("--query", default="", help="of the store, like ?synchronous=normal")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="restarts-"))
    try:
        if arguments.power_cut:
            source = Path(__file__).with_name("power_cut.c")
            library = folder / "power_cut.so"
            subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
        is_right = asyncio.run(run(arguments, folder))
    finally:
        shutil.rmtree(folder)
    print("PASSED" if is_right else "FAILED")
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
