"""What may never be in a log or a metric, and where the whole suite's logs and metrics go by."""

import re
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import cast

import pytest
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher

import jobproxy.monitoring.metrics
from jobproxy.logs import format_json, make_record
from jobproxy.sandbox.processes import DaemonProcess

#: A token is whatever looks like one: 21 bytes, a dot, and 16 bytes, all in base64.
_TOKEN = re.compile(r"(?<![\w-])[\w-]{38}\.[\w-]{22}(?![\w-])", re.ASCII)
_PROOF = re.compile(r"(?<![0-9A-Fa-f])[0-9A-F]{40}(?![0-9A-Fa-f])")
#: The names that our tests give to accounts, where they are no part of a host's name.
_ACCOUNT = re.compile(r"(?<![\w./-])(?:example|account[- ]?\d+|somebody[\w-]*)(?![\w.-])")


def find_secrets(text: str) -> list[str]:
    """Return the tokens, proofs and accounts in what was logged or told as a metric."""
    return [found for secret in (_TOKEN, _PROOF, _ACCOUNT) for found in secret.findall(text)]


@contextmanager
def collect_output(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Collect all that is logged, and all metrics that are told, while the context lasts.

    That is, here and by every proxy that runs in a process of its own. Events that are meant to
    have an account in them are left out.
    """
    texts: list[str] = []

    def observe(event: LogEvent) -> None:
        if "account" not in event:
            texts.append(format_json(make_record(event)))

    def render(registry: object) -> bytes:
        data = original_render(registry)  # type: ignore[arg-type]
        texts.append(data.decode())
        return data

    def stop(daemon: DaemonProcess) -> None:
        if daemon.plugin == "jobproxy":
            if daemon.process.poll() is None:
                with (
                    suppress(OSError),
                    urllib.request.urlopen(f"{daemon.url}/metrics", None, 1) as m,
                ):
                    texts.append(m.read().decode())
            texts.append(daemon.log)
        original_stop(daemon)

    original_render, original_stop = jobproxy.monitoring.metrics.render_metrics, DaemonProcess.stop
    monkeypatch.setattr("jobproxy.api.admin.render_metrics", render)
    monkeypatch.setattr(DaemonProcess, "stop", stop)
    observer = cast(ILogObserver, observe)
    globalLogPublisher.addObserver(observer)
    try:
        yield texts
    finally:
        globalLogPublisher.removeObserver(observer)


def _fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=1) as response:
        text: str = response.read().decode()
        return text
