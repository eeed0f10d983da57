"""Makes a profile of the keys of its file, one table after another."""

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from attrs import evolve

from jobproxy.profiles.assignments import (
    Array,
    Assignment,
    Base64,
    Constant,
    Table,
    Text,
    Value,
)
from jobproxy.profiles.expressions import (
    BadExpression,
    Expression,
    Source,
    Template,
    parse_expression,
    parse_template,
)
from jobproxy.profiles.header_names import find_header_names
from jobproxy.profiles.hosts import place_of
from jobproxy.profiles.keys import (
    Keys,
    choose,
    read_methods,
    read_number,
    read_optional_number,
    read_seconds,
    read_statuses,
)
from jobproxy.profiles.paths import PathPattern, parse_path
from jobproxy.profiles.profile import (
    BUSY,
    REJECTED,
    AckRule,
    CancelRule,
    Limits,
    MessageRule,
    PollRule,
    Profile,
    StartRule,
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
from jobproxy.wire.reports import PROGRESS

_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
#: Headers of a start request that are not the client's business, or ours.
_OWN_HEADERS = frozenset(
    {
        "connection", "content-encoding", "content-length", "content-type", "expect", "host",
        "idempotency-key", "keep-alive", "prefer", "te", "trailer", "transfer-encoding", "upgrade",
    }
)  # fmt: skip
#: The longest pattern, and the longest id that it is tried on.
MAX_PATTERN = 200


def make_profile(name: str, keys: Keys) -> Profile:
    """Return the profile in a file.

    :raises BadProfile: if something in it is wrong.
    """
    path = keys.parse("path", parse_path, parse_path("/proxy"))
    start = _make_start(keys, path)
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
        failed_status=read_number(keys, "result.failed-status", 200, 200, 599),
        poll=_make_poll(keys, callback),
        cancel=_make_cancel(keys),
        limits=_make_limits(keys, host),
    )
    return evolve(profile, headers=find_header_names(profile))


def _make_start(keys: Keys, path: PathPattern) -> StartRule:
    forward = tuple(each.lower() for each in keys.read_texts("start.forward", ()))
    for header in forward:
        if not _HEADER.fullmatch(header) or header in _OWN_HEADERS:
            raise keys.wrong("start.forward", f"{header!r} cannot be forwarded")
    changes = [
        *(
            Assignment(keys.parse_text("start.remove", text, _parse_target), None)
            for text in keys.read_texts("start.remove", ())
        ),
        *(
            Assignment(
                keys.parse_text(f"start.set.{target}", target, _parse_target),
                _make_value(keys, f"start.set.{target}", value, deep=0),
            )
            for target, value in keys.read("start.set", dict, {}).items()
        ),
    ]
    url = _read_url(keys, "start.url", (Source.REQUEST, Source.CALLBACK))
    if url is not None:
        _check_fixed_host(keys, url)
        for each in url.expressions:
            if each.part == "path" and each.name not in path.names:
                raise keys.wrong("start.url", f"{{{each.name}}} is not in path", each.text)
    return StartRule(
        method=read_methods(keys, "start.method", ("POST",))[0],
        url=url,
        forward=forward,
        forward_query=keys.read("start.forward-query", bool, default=False),
        changes=changes,
        busy=read_statuses(keys, "start.busy", BUSY),
        rejected=read_statuses(keys, "start.rejected", REJECTED),
    )


def _check_fixed_host(keys: Keys, url: Template) -> None:
    first = url.parts[0]
    parts = urlsplit(first) if isinstance(first, str) else None
    is_fixed = parts is not None and parts.hostname and (parts.path or len(url.parts) == 1)
    if parts is None or parts.scheme not in ("http", "https") or not is_fixed:
        raise keys.wrong("start.url", "must begin with http:// or https:// and a fixed host")
    if parts.username or parts.fragment:
        raise keys.wrong("start.url", "must have neither a user nor a fragment")


def _make_value(keys: Keys, name: str, value: Any, *, deep: int) -> Value:
    if deep > 16:
        raise keys.wrong(name, "is nested too deeply")
    if isinstance(value, bool | int | float):
        return Constant(value)
    if isinstance(value, str):
        return Text(keys.parse_text(name, value, _parse_start_template))
    if isinstance(value, list):
        return Array([_make_value(keys, name, each, deep=deep + 1) for each in value])
    if not isinstance(value, dict):
        raise keys.wrong(name, "must not be a date or a time")
    if set(value) == {"file"}:
        return Constant(keys.read_secret(name, value["file"]).decode("utf-8", "replace").strip())
    if set(value) == {"base64"}:
        return Base64(_make_value(keys, name, value["base64"], deep=deep + 1))
    members = {key: _make_value(keys, name, each, deep=deep + 1) for key, each in value.items()}
    return Table(members)


def _make_ack(keys: Keys) -> AckRule:
    sources = (Source.RESPONSE, Source.REQUEST)
    accepted = keys.read("ack.accepted", dict, {})
    condition = None
    if accepted:
        if set(accepted) != {"expression", "values"} or not isinstance(accepted["values"], list):
            raise keys.wrong("ack.accepted", "must be { expression = …, values = […] }")
        expression = keys.parse_text("ack.accepted", accepted["expression"], parse_expression)
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
        url=_read_url(keys, "result.url", (Source.RESPONSE, Source.MESSAGE, Source.REQUEST)),
    )


def _make_poll(keys: Keys, callback: MessageRule) -> PollRule | None:
    url = _read_url(keys, "poll.url", (Source.RESPONSE, Source.REQUEST))
    if url is None:
        if keys.find("poll") is not None:
            raise keys.wrong("poll", "needs a url")
        return None
    sources = (Source.MESSAGE,)
    body, result_url = callback.body, callback.url
    if keys.find("poll.body") is not None:
        body = _read_optional(keys, "poll.body", sources, "")
    if keys.find("poll.result-url") is not None:
        result_url = _read_url(keys, "poll.result-url", (Source.RESPONSE, Source.MESSAGE))
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
    url = _read_url(keys, "cancel.url", (Source.RESPONSE, Source.REQUEST))
    if url is None:
        if keys.find("cancel") is not None:
            raise keys.wrong("cancel", "needs a url")
        return None
    return CancelRule(url, read_methods(keys, "cancel.method", ("POST",))[0])


def _make_limits(keys: Keys, host: str | None) -> Limits:
    hosts = keys.read_texts("limits.hosts", () if host is None else (host,))
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
    if scheme is not Scheme.STANDARD_WEBHOOKS and not _HEADER.fullmatch(header):
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
    return keys.parse_text(name, text, lambda each: _from(sources, parse_expression(each)))


def _read_url(keys: Keys, name: str, sources: Sequence[Source]) -> Template | None:
    def parse(text: str) -> Template:
        template = parse_template(text)
        for each in template.expressions:
            _from(sources, each)
        return template

    return keys.parse(name, parse, None)


def _from(sources: Sequence[Source], expression: Expression) -> Expression:
    if expression.part != "constant" and expression.source not in sources:
        known = " or ".join(source.value for source in sources)
        raise BadExpression(f"{expression.text} is not known here; use {known}")
    return expression


def _parse_target(text: str) -> Expression:
    expression = _from((Source.REQUEST,), parse_expression(text))
    is_part = expression.part in ("query", "header") or bool(expression.names)
    if not is_part or (expression.part == "header" and expression.name.lower() in _OWN_HEADERS):
        raise BadExpression("must name a member of the body, a parameter of the query or a header")
    return expression


def _parse_start_template(text: str) -> Template:
    template = parse_template(text)
    for each in template.expressions:
        _from((Source.REQUEST, Source.CALLBACK), each)
    return template


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
