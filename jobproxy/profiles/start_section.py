"""Makes the rule of how a job is started of the table ``start`` of a file."""

import math
from typing import Any
from urllib.parse import urlsplit

from jobproxy.profiles.assignments import (
    Array,
    Assignment,
    Base64,
    Constant,
    Secret,
    Table,
    Text,
    Value,
    names_callback,
)
from jobproxy.profiles.expressions import (
    Expression,
    Source,
    Template,
    parse_expression,
    parse_template,
)
from jobproxy.profiles.hosts import place_of
from jobproxy.profiles.keys import (
    Keys,
    check_source,
    read_methods,
    read_statuses,
    read_url,
)
from jobproxy.profiles.parts import find_parts
from jobproxy.profiles.paths import PathPattern
from jobproxy.profiles.places import BadSyntax
from jobproxy.profiles.profile import StartRule
from jobproxy.wire.headers import HEADER_NAME, OWN_HEADERS
from jobproxy.wire.refusals import BUSY, REJECTED


def make_start(keys: Keys, path: PathPattern) -> StartRule:
    """Return the rule of the table ``start``.

    :param path: of the clients, for the variables in the URL.
    """
    forward = tuple(each.lower() for each in keys.read_texts("start.forward", ()))
    for header in forward:
        if not HEADER_NAME.fullmatch(header) or header in OWN_HEADERS:
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
    url = read_url(keys, "start.url", (Source.REQUEST, Source.CALLBACK))
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
        secrets=[each.value for each in find_parts(changes, Secret)],
        encoded=[each for each in find_parts(changes, Base64) if _has_secret(each)],
    )


def _has_secret(value: Base64) -> bool:
    return names_callback(value) or any(find_parts(value.value, Secret))


def _check_fixed_host(keys: Keys, url: Template) -> None:
    first = url.parts[0]
    parts = urlsplit(first) if isinstance(first, str) else None
    is_fixed = parts is not None and (parts.path or len(url.parts) == 1)
    if not isinstance(first, str) or place_of(first.split("?")[0]) is None or not is_fixed:
        if parts is not None and "@" in parts.netloc:
            raise keys.wrong("start.url", "must have neither a user nor a fragment")
        raise keys.wrong("start.url", "must begin with http:// or https:// and a fixed host")
    if parts is not None and parts.fragment:
        raise keys.wrong("start.url", "must have neither a user nor a fragment")


def _make_value(keys: Keys, name: str, value: Any, *, deep: int) -> Value:
    if deep > 16:
        raise keys.wrong(name, "is nested too deeply")
    if isinstance(value, float) and not math.isfinite(value):
        raise keys.wrong(name, "must not be nan or inf, which JSON does not have")
    if isinstance(value, bool | int | float):
        return Constant(value)
    if isinstance(value, str):
        return Text(keys.parse_text(name, value, _parse_start_template))
    if isinstance(value, list):
        return Array([_make_value(keys, name, each, deep=deep + 1) for each in value])
    if not isinstance(value, dict):
        raise keys.wrong(name, "must not be a date or a time")
    if set(value) == {"file"}:
        return Secret(keys.read_secret(name, value["file"]).decode("utf-8", "replace").strip())
    if set(value) == {"base64"}:
        return Base64(_make_value(keys, name, value["base64"], deep=deep + 1))
    members = {key: _make_value(keys, name, each, deep=deep + 1) for key, each in value.items()}
    return Table(members)


def _parse_target(text: str) -> Expression:
    expression = check_source((Source.REQUEST,), parse_expression(text))
    is_part = expression.part in ("query", "header") or bool(expression.names)
    if not is_part or (expression.part == "header" and expression.name.lower() in OWN_HEADERS):
        raise BadSyntax("must name a member of the body, a parameter of the query or a header")
    return expression


def _parse_start_template(text: str) -> Template:
    template = parse_template(text)
    for each in template.expressions:
        check_source((Source.REQUEST, Source.CALLBACK), each)
    return template
