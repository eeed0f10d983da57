"""Makes a profile of the keys of its file, one table after another."""

import re
from collections.abc import Sequence
from typing import Any

from attrs import evolve

from jobproxy.profiles.expressions import (
    Expression,
    Source,
    parse_expression,
)
from jobproxy.profiles.header_names import find_header_names
from jobproxy.profiles.hosts import place_of
from jobproxy.profiles.keys import (
    Keys,
    check_source,
    choose,
    read_methods,
    read_number,
    read_optional_number,
    read_seconds,
    read_url,
)
from jobproxy.profiles.paths import parse_path
from jobproxy.profiles.profile import (
    AckRule,
    CancelRule,
    Limits,
    MessageRule,
    PollRule,
    Profile,
    Words,
)
from jobproxy.profiles.signatures import (
    ALGORITHMS,
    ENCODINGS,
    TOLERANCE,
    BadSecret,
    Scheme,
    Verifier,
    read_secrets,
)
from jobproxy.profiles.start_section import make_start
from jobproxy.wire.headers import HEADER_NAME
from jobproxy.wire.reports import PROGRESS

#: The longest pattern, and the longest id that it is tried on.
MAX_PATTERN = 200


def make_profile(name: str, keys: Keys) -> Profile:
    """Return the profile in a file.

    :raises BadProfile: if something in it is wrong.
    """
    path = keys.parse("path", parse_path, parse_path("/proxy"))
    start = make_start(keys, path)
    callback = _make_callback(keys)
    url = None if start.url is None else start.url.parts[0]
    host = place_of(url) if isinstance(url, str) else None
    correlates_by_id = keys.parse("correlate-by", choose("token", "id"), "token") == "id"
    if correlates_by_id and callback.id is None:
        raise keys.wrong("callback.id", 'correlate-by = "id" needs the id in the callback')
    profile = Profile(
        name=name,
        path=path,
        methods=read_methods(keys, "methods", ("POST",)),
        account=_read(keys, "account", (Source.REQUEST,), "$request.body#/account"),
        correlates_by_id=correlates_by_id,
        start=start,
        ack=_make_ack(keys),
        callback=callback,
        callback_methods=read_methods(keys, "callback.methods", ("POST", "PUT")),
        verifier=_make_verifier(keys),
        fetch_failed=keys.read("result.fetch-failed", bool, default=True),
        failed_status=_read_status(keys),
        poll=_make_poll(keys, callback),
        cancel=_make_cancel(keys),
        limits=_make_limits(keys, host),
    )
    return evolve(profile, headers=find_header_names(profile))


def _read_status(keys: Keys) -> int:
    status = read_number(keys, "result.failed-status", 200, 200, 599)
    if status in (204, 205, 304):
        raise keys.wrong("result.failed-status", f"must not be {status}, which has no body")
    return status


def _make_ack(keys: Keys) -> AckRule:
    sources = (Source.RESPONSE, Source.REQUEST)
    accepted = keys.read("ack.accepted", dict, {})
    condition = None
    if accepted:
        if set(accepted) != {"expression", "values"} or not isinstance(accepted["values"], list):
            raise keys.wrong("ack.accepted", "must be { expression = …, values = […] }")
        text = accepted["expression"]
        expression = keys.parse_text(
            "ack.accepted", text, lambda each: check_source(sources, parse_expression(each))
        )
        if any(isinstance(each, list | dict) for each in accepted["values"]):
            raise keys.wrong("ack.accepted", "must have texts, numbers, true or false as values")
        condition = (expression, frozenset(_write(each).lower() for each in accepted["values"]))
    return AckRule(
        accepted=condition,
        id=_read_optional(keys, "ack.id", sources, "$response.body#/id"),
        id_pattern=keys.parse("ack.id-pattern", _parse_pattern, None),
        state=_read_optional(keys, "ack.state", sources, "$response.body#/state"),
    )


def _make_callback(keys: Keys) -> MessageRule:
    sources = (Source.MESSAGE,)
    return MessageRule(
        id=_read_optional(keys, "callback.id", sources, "$message.payload#/id"),
        state=_read_optional(keys, "callback.state", sources, "$message.payload#/state"),
        words=_read_words(keys, "callback", Words()),
        body=_read_optional(keys, "result.body", sources, ""),
        url=read_url(keys, "result.url", (Source.RESPONSE, Source.MESSAGE, Source.REQUEST)),
    )


def _make_poll(keys: Keys, callback: MessageRule) -> PollRule | None:
    url = read_url(keys, "poll.url", (Source.RESPONSE, Source.REQUEST))
    if url is None:
        if keys.find("poll") is not None:
            raise keys.wrong("poll", "needs a url")
        return None
    sources = (Source.MESSAGE,)
    body, result_url = callback.body, callback.url
    if keys.find("poll.body") is not None:
        body = _read_optional(keys, "poll.body", sources, "")
    if keys.find("poll.result-url") is not None:
        result_url = read_url(keys, "poll.result-url", (Source.RESPONSE, Source.MESSAGE))
    state = callback.state
    if keys.find("poll.state") is not None:
        state = _read_optional(keys, "poll.state", sources, "")
    reads = MessageRule(
        id=None,
        state=state,
        words=_read_words(keys, "poll", callback.words),
        body=body,
        url=result_url,
    )
    return PollRule(
        url=url,
        method=read_methods(keys, "poll.method", ("GET",))[0],
        after=read_seconds(keys, "poll.after", 10.0) or 10.0,
        every=read_seconds(keys, "poll.every", 10.0) or 10.0,
        reads=reads,
    )


def _make_cancel(keys: Keys) -> CancelRule | None:
    url = read_url(keys, "cancel.url", (Source.RESPONSE, Source.REQUEST))
    if url is None:
        if keys.find("cancel") is not None:
            raise keys.wrong("cancel", "needs a url")
        return None
    return CancelRule(url, read_methods(keys, "cancel.method", ("POST",))[0])


def _make_limits(keys: Keys, host: str | None) -> Limits:
    hosts = keys.read_texts("limits.hosts", () if host is None else (host,))
    for each in hosts:
        if place_of(f"https://{each}") != each.lower():
            raise keys.wrong("limits.hosts", "must be hosts, like api.example or api.example:8443")
    return Limits(
        wait=read_seconds(keys, "limits.wait", None),
        retain=read_seconds(keys, "limits.retain", None),
        max_body=read_optional_number(keys, "limits.max-body"),
        starts_per_account=read_optional_number(keys, "limits.starts-per-account"),
        jobs_per_account=read_optional_number(keys, "limits.jobs-per-account"),
        hosts=frozenset(each.lower() for each in hosts),
    )


def _make_verifier(keys: Keys) -> Verifier | None:
    if keys.find("callback.verify") is None:
        return None
    name = "callback.verify"
    schemes = [each.value for each in Scheme]
    scheme = Scheme(
        keys.parse_text(f"{name}.scheme", keys.find(f"{name}.scheme"), choose(*schemes))
    )
    data = keys.read_secret(f"{name}.secret-file", keys.find(f"{name}.secret-file"))
    try:
        secrets = read_secrets(data, scheme)
    except BadSecret as error:
        raise keys.wrong(f"{name}.secret-file", str(error)) from None
    header = keys.read(f"{name}.header", str, "")
    if scheme is not Scheme.STANDARD_WEBHOOKS and not HEADER_NAME.fullmatch(header):
        raise keys.wrong(f"{name}.header", "must be the name of the header with the signature")
    return Verifier(
        scheme,
        secrets,
        header,
        keys.read(f"{name}.prefix", str, ""),
        keys.parse(f"{name}.algorithm", choose(*ALGORITHMS), "sha256"),
        keys.parse(f"{name}.encoding", choose(*ENCODINGS), "hex"),
        read_seconds(keys, f"{name}.tolerance", TOLERANCE) or TOLERANCE,
    )


def _read_words(keys: Keys, table: str, default: Words) -> Words:
    def read(name: str, known: frozenset[str]) -> frozenset[str]:
        words = keys.read_texts(f"{table}.{name}", tuple(known))
        return frozenset(word.lower() for word in words)

    words = Words(
        read("progress", default.progress or PROGRESS),
        read("succeeded", default.succeeded),
        read("failed", default.failed),
    )
    both = words.succeeded & words.failed
    if both:
        raise keys.wrong(f"{table}.failed", f"{min(both)!r} is in succeeded, too")
    # What is named as an end is no progress, whatever is usual.
    return Words(words.progress - words.succeeded - words.failed, words.succeeded, words.failed)


def _read(keys: Keys, name: str, sources: Sequence[Source], default: str) -> Expression:
    expression = _read_optional(keys, name, sources, default)
    if expression is None:
        raise keys.wrong(name, "must not be empty")
    return expression


def _read_optional(
    keys: Keys, name: str, sources: Sequence[Source], default: str
) -> Expression | None:
    """Return an expression; :data:`None`: the text is empty."""
    text = keys.find(name)
    text = default if text is None else text
    if text == "":
        return None
    return keys.parse_text(name, text, lambda each: check_source(sources, parse_expression(each)))


def _parse_pattern(text: str) -> re.Pattern[str] | None:
    if len(text) > MAX_PATTERN:
        raise ValueError(f"must have {MAX_PATTERN} characters at most")
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from None
    if not pattern.groups:
        raise ValueError("needs a group (…) for the id")
    return pattern


def _write(value: Any) -> str:
    """Return a value of an ack as an expression gives it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
