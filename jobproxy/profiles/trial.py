"""Tries a profile on messages in files, without a network: what would be sent, and what is read."""

import time
from collections.abc import Iterator
from urllib.parse import unquote

from attrs import evolve

from jobproxy.profiles.hosts import is_allowed
from jobproxy.profiles.http_text import RequestText
from jobproxy.profiles.job import make_job
from jobproxy.profiles.messages import Message, Scope
from jobproxy.profiles.paths import match_path
from jobproxy.profiles.profile import Profile
from jobproxy.profiles.readings import COMPLETED, FAILED, is_accepted, read_ack, read_message
from jobproxy.wire.problems import Kind, ProblemError
from jobproxy.wire.refusals import choose_refusals
from jobproxy.wire.reports import Report

#: Stands for the callback URL that a job would have.
CALLBACK_URL = "https://proxy.example/callback/{name}/TOKEN"
_REFUSED = {
    Kind.UPSTREAM_BUSY: "busy: the start request is sent again, after Retry-After",
    Kind.UPSTREAM_REJECTED: "rejected: the client gets {status}, started no",
    Kind.UPSTREAM_AUTH: "refused: the client gets 502, started no",
    Kind.UPSTREAM_REDIRECT: "refused: the client gets 502, started no",
}
_MEANINGS = {COMPLETED: "the job has ended well", FAILED: "the job has failed"}


class WrongMessage(Exception):
    """The profile cannot do anything with a message; the message says why."""


def try_request(profile: Profile, request: RequestText) -> tuple[Message, Iterator[str]]:
    """Return the client's request as the profile reads it, and what would be sent.

    :raises WrongMessage: if the client would get an error.
    """
    path = request.target.partition("?")[0]
    variables = match_path(profile.path, path)
    if variables is None:
        raise WrongMessage(f"the path {path} is not that of the profile: {profile.path.text}")
    if request.message.method not in profile.methods:
        raise WrongMessage(f"the method must be {' or '.join(profile.methods)}")
    decoded = {name: unquote(value) for name, value in variables.items()}
    message = evolve(request.message, path=decoded)
    try:
        job = make_job(profile, message)
        start = job.to_start(CALLBACK_URL.format(name=profile.name))
    except ProblemError as error:
        raise WrongMessage(f"the client would get: {error.problem.detail}") from None
    return message, iter(
        [
            f"account    {job.account}",
            "",
            f"{start.method} {start.url or '(the URL of --job-server-url)'}",
            *(f"{name.decode()}: {value.decode('latin-1')}" for name, value in start.headers),
            "",
            *_show_body(start.body),
        ]
    )


def try_ack(profile: Profile, request: Message, ack: Message) -> Iterator[str]:
    """Yield what the response to the start request says."""
    scope = Scope(request, ack)
    refusals = choose_refusals(profile.start.busy, profile.start.rejected)
    if ack.status in refusals:
        yield _REFUSED[refusals[ack.status]].format(status=ack.status)
    elif not 200 <= ack.status < 300:
        yield "ambiguous: the job may have been started; a callback is waited for"
    elif not is_accepted(profile, scope):
        yield "rejected, as ack.accepted says: the client gets 422, started no"
    else:
        report = read_ack(profile, scope)
        word = None if profile.ack.state is None else profile.ack.state.find(scope)
        yield f"id         {report.upstream_id or 'none'}"
        yield f"state      {_explain(word, report)}"
        for name, template in (
            ("poll", profile.poll and profile.poll.url),
            ("cancel", profile.cancel and profile.cancel.url),
        ):
            if template:
                yield f"{name:11}{_show_url(profile, template.render_url(scope))}"
        if report.is_ended:
            yield from _show_result(report)


def try_callback(
    profile: Profile, request: Message, ack: Message | None, callback: Message
) -> Iterator[str]:
    """Yield what a callback says."""
    if profile.verifier is not None:
        is_right = profile.verifier.verify(callback, time.time())
        words = "right" if is_right else "wrong: the callback gets 401, and changes nothing"
        yield f"signature  {words}"
    reading = read_message(profile, profile.callback, Scope(request, ack, callback))
    yield f"id         {reading.report.upstream_id or 'none: it is not compared'}"
    if not reading.is_known:
        yield f"state      {reading.word}: not in the profile, so that it changes nothing"
        return
    yield f"state      {_explain(reading.word, reading.report)}"
    if reading.result_url is not None:
        yield f"result     GET {_show_url(profile, reading.result_url)}"
    elif reading.report.is_ended:
        yield from _show_result(reading.report)


def _explain(word: str | None, report: Report) -> str:
    meaning = _MEANINGS.get(report.state or "", "the job goes on")
    return f"{'none' if word is None else word}: {meaning}"


def _show_url(profile: Profile, url: str | None) -> str:
    if url is None:
        return "none: a value in its URL is not there"
    start = profile.start.url
    is_good = is_allowed(url, profile.limits.hosts, "" if start is None else start.text)
    return url if is_good else f"{url} (not allowed: add its host to limits.hosts)"


def _show_result(report: Report) -> Iterator[str]:
    yield ""
    yield f"the client gets {report.status or 200}"
    yield f"content-type: {report.content_type.decode('latin-1')}"
    yield ""
    yield from _show_body(report.body)


def _show_body(body: bytes) -> list[str]:
    try:
        return body.decode().splitlines()
    except UnicodeDecodeError:
        return [f"({len(body)} bytes that are no text)"]
