"""``jobproxyctl``: the operator's command line for a running proxy."""

import argparse
import json
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote, urlencode

from attrs import define
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater, react

from jobproxy.ctl_callback import check_callback
from jobproxy.ctl_client import Failed, Proxy
from jobproxy.ctl_parser import make_parser
from jobproxy.ctl_profiles import FailedTrial, check_profiles, run_trial
from jobproxy.store.inspection import export, inspect
from jobproxy.store.sqlite_errors import BadStore
from jobproxy.util.tables import list_counts, make_table
from jobproxy.util.terminal import (
    clear_screen,
    end_silently,
    escape,
    run_until_closed,
    write_output,
)

#: Seconds between two checks whether a draining proxy still runs.
INTERVAL = 0.5


@define(eq=False)
class Command:
    """One run of jobproxyctl.

    :param write: writes to standard output.
    """

    _reactor: Any
    _proxy: Proxy
    _arguments: argparse.Namespace
    _write: Callable[[bytes], object]

    async def run(self) -> None:
        """Run the action of the arguments.

        :raises Failed: if it fails.
        """
        action, pause = getattr(self, self._arguments.action), self._arguments.watch
        await action()
        while pause:
            await _sleep(self._reactor, pause)
            clear_screen()
            try:
                await action()
            except Failed as error:
                # The proxy may be restarted at the moment.
                self._write(f"{error}\n".encode())

    async def show_status(self) -> None:
        status = await self._proxy.read("/status")
        self._print(status, lambda: describe_status(status))

    async def list_jobs(self) -> None:
        query = {"limit": self._arguments.limit}
        if self._arguments.state:
            query["state"] = self._arguments.state
        listed = await self._proxy.read(f"/jobs?{urlencode(query)}")
        columns = ("job", "state", "age", "waiting", "id", "requestId", "account")
        self._print(listed, lambda: make_table(columns, listed["jobs"]))

    async def show_job(self) -> None:
        name = self._arguments.name
        job = await self._proxy.read(f"/timelines/{quote(name, safe='')}")
        self._print(job, lambda: describe_job(job))

    async def list_orphans(self) -> None:
        orphans: list[dict[str, Any]] = []
        page, is_partial = {"next": ""}, False
        while page["next"] is not None:
            page = await self._proxy.read(f"/orphans?limit=1000&after={page['next']}")
            orphans += page["orphans"]
            is_partial |= page.get("partial", False)
        more = "the store cannot be reached: these are the orphans of this node only\n"
        self._print(
            {"orphans": orphans, "partial": is_partial},
            lambda: make_table(("job", "age", "bytes", "id"), orphans) + more * is_partial,
        )

    async def show_orphan(self) -> None:
        # The result of a job is written as it is, also with --json.
        self._write(await self._proxy.call("GET", self._orphan))

    async def drop_orphan(self) -> None:
        await self._proxy.call("DELETE", self._orphan)
        self._print({"dropped": self._arguments.job_id}, lambda: "dropped\n")

    async def check_callback(self) -> None:
        url = self._arguments.url
        await check_callback(self._reactor, url)
        text = f"{url} reaches a jobproxy: it has refused a callback with a wrong token\n"
        self._print({"url": url, "reached": True}, lambda: text)

    async def check_store(self) -> None:
        path = self._arguments.path
        try:
            found = inspect(path)
        except BadStore as error:
            raise Failed(f"{path} {error}") from error
        counts = {name: found[name] for name in ("claims", "running", "results", "orphans")}
        self._print(found, lambda: f"sound, {found['bytes']} bytes: {list_counts(counts)}\n")

    async def export_store(self) -> None:
        path = self._arguments.path
        try:
            for row in export(path):
                self._write(json.dumps(row).encode() + b"\n")
        except BadStore as error:
            raise Failed(f"{path} {error}") from error

    async def check_profiles(self) -> None:
        found = list(check_profiles(self._arguments.files))
        listed = [{"profile": name, "error": error or None} for name, error in found]
        lines = [error or f"{name}: right" for name, error in found]
        self._print({"profiles": listed}, lambda: "\n".join(lines) + "\n")
        wrong = [name for name, error in found if error]
        if wrong:
            raise Failed(f"{len(wrong)} of {len(found)} profiles cannot be used")

    async def try_profile(self) -> None:
        chosen = self._arguments
        try:
            for line in run_trial(chosen.file, chosen.request, chosen.ack, chosen.callback):
                self._write(f"{line}\n".encode())
        except FailedTrial as error:
            raise Failed(str(error)) from error

    async def drain(self) -> None:
        """Drain the proxy, and wait until its process has ended."""
        draining = json.loads(await self._proxy.call("POST", "/drain"))
        self._print(draining, lambda: f"draining, {draining['held']} clients held\n")
        while not self._arguments.no_wait:
            try:
                await self._proxy.call("GET", "/healthz")
            except Failed:
                return
            await _sleep(self._reactor, INTERVAL)

    @property
    def _orphan(self) -> str:
        return f"/orphans/{quote(self._arguments.job_id, safe='')}"

    def _print(self, document: Any, describe: Callable[[], str]) -> None:
        text = json.dumps(document) + "\n" if self._arguments.json else describe()
        self._write(text.encode())


def describe_status(status: dict[str, Any]) -> str:
    """Return the status as text."""
    ready = "ready" if status["ready"] else f"not ready: {', '.join(status['reasons'])}"
    rows = [
        ("verdict", status["verdict"]["text"]),
        ("version", f"{status['version']}, up {status['uptime']:.0f} s, {ready}"),
        ("held", f"{status['held']} clients, at most {status['maxHeld']}"),
        ("jobs", f"{status['jobs']} have not ended"),
        ("queued", f"{status['queued']} in {status['accounts']['count']} accounts"),
        ("starting", str(status["starting"])),
        ("circuit", status["circuit"]),
        ("orphans", str(status["orphans"])),
        ("retained", f"{status['retained']} results"),
        ("starts", list_counts(status["starts"])),
        ("callbacks", list_counts(status["callbacks"])),
        (
            "responses",
            list_counts(
                {
                    f"{each['status']} {each['outcome']}": each["count"]
                    for each in status["responses"]
                }
            ),
        ),
        ("refused", list_counts(status["refused"])),
        *(("error", _describe_error(each)) for each in status["errors"] if each["hour"]),
        *((each["name"], _describe_profile(each)) for each in status.get("profiles", ())),
    ]
    return "".join(f"{name:10} {value}\n" for name, value in rows)


def describe_job(job: dict[str, Any]) -> str:
    """Return the timeline of a job as text."""
    hidden = ("events", "outcome", "bytes")
    rows = [(name, value) for name, value in job.items() if name not in hidden]
    if job["bytes"] is not None:
        rows.append(("result", f"{job['bytes']} bytes"))
    lines = [f"{name:10} {'-' if value is None else value}\n" for name, value in rows]
    for event in job["events"]:
        at = datetime.fromtimestamp(event["time"], tz=timezone.utc).isoformat(" ", "milliseconds")
        lines.append(f"{at[:-6]}Z  {event['after']:+10.3f} s  {event['event']}\n")
    return "".join(lines)


def _sleep(reactor: Any, seconds: float) -> Deferred[None]:
    return deferLater(reactor, seconds)


def _describe_error(found: dict[str, Any]) -> str:
    counts = f"{found['minute']} in the last minute, {found['hour']} in the last hour"
    look = f"; runbook: {found['runbook']}" if found["runbook"] else ""
    name = f"{found['side']} {found['status']} {found['type']}".strip()
    return f"{name}: {counts}; a request: {found['requestId']}{look}"


def _describe_profile(found: dict[str, Any]) -> str:
    counts = f"circuit {found['circuit']}, {found['queued']} queued, {found['starting']} starting"
    starts, callbacks = list_counts(found["starts"]), list_counts(found["callbacks"])
    return f"{counts}; starts: {starts}; callbacks: {callbacks}"


def run_command() -> None:
    """Run the command; a closed output ends it silently."""
    arguments = make_parser().parse_args()

    async def run(reactor: Any) -> None:
        try:
            proxy = Proxy(reactor, arguments.admin)
            await Command(reactor, proxy, arguments, write_output).run()
        except Failed as error:
            sys.stderr.write(escape(f"jobproxyctl: {error}\n"))
            raise SystemExit(1) from None
        except BrokenPipeError:
            end_silently()

    react(lambda reactor: Deferred.fromCoroutine(run(reactor)))


def main() -> None:
    """Run the command; if nobody reads its output any more, end silently."""
    run_until_closed(run_command)
