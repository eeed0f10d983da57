"""Start requests, made of a client's request by a profile."""

from collections.abc import Iterable
from hashlib import blake2b
from typing import Any

from jobproxy.profiles.assignments import (
    MissingValue,
    change_body,
    change_query,
    names_callback,
    write_header,
)
from jobproxy.profiles.expressions import Expression
from jobproxy.profiles.messages import Message, Scope
from jobproxy.profiles.paths import is_safe
from jobproxy.profiles.pointers import WrongPlace
from jobproxy.profiles.profile import Profile
from jobproxy.wire.headers import Headers
from jobproxy.wire.jobs import CONTROL, MAX_ACCOUNT
from jobproxy.wire.problems import FieldError, Kind, Problem, ProblemError
from jobproxy.wire.start_calls import StartCall
from jobproxy.wire.strict_json import decode, invalid, parse_strictly

#: The length from which a credential is hidden where the job server quotes it.
MIN_SECRET = 8


def read_account(profile: Profile, request: Message) -> str:
    """Return whose job a client's request is.

    :return: a header is mostly a credential, so that a hash of it stands for it.
    :raises ProblemError: if the request does not say it.
    """
    expression = profile.account
    account = expression.find(Scope(request))
    if not account or account[:1] in ("{", "["):
        raise _invalid(f"{expression.text} is missing: it says whose job this is.", expression.text)
    if expression.part in ("header", "query"):
        return blake2b(account.encode(), digest_size=8).hexdigest()
    if len(account) > MAX_ACCOUNT or CONTROL.search(account):
        detail = f"{expression.text} must have 1 to {MAX_ACCOUNT} characters, and no control ones."
        raise _invalid(detail, expression.text)
    return account


def check_request(profile: Profile, request: Message) -> None:
    """Check that a start request can be made of a client's request.

    :raises ProblemError: if not; it says what to change.
    """
    for name in profile.path.names:
        if not is_safe(request.path.get(name, "")):
            raise _invalid(f"{name} in the path must not be empty, '..' or encoded.", f"/{name}")
    is_read = is_body_read(profile)
    if is_read and request.coding:
        detail = "Send the body without a Content-Encoding."
        raise ProblemError(Problem(Kind.UNSUPPORTED_MEDIA_TYPE, detail))
    if is_read and not (request.is_form or request.was_read_in_steps) and request.body.strip():
        parse_strictly(decode(request.body))
    if is_read and request.is_form and request.has_twice(profile.account):
        raise _invalid("The field of the account is there twice.", profile.account.text)
    make_start(profile, request, "")


def make_start(profile: Profile, request: Message, callback_url: str) -> StartCall:
    """Return the start request.

    :param request: the client's.
    :param callback_url: of the job.
    :raises ProblemError: if something that it needs is not in the client's request.
    """
    rule, scope = profile.start, Scope(request, callback_url=callback_url)
    try:
        made = [(each.target, each.make(scope)) for each in rule.changes]
        parts = {
            part: [(target, value) for target, value in made if target.part == part]
            for part in ("body", "query", "header")
        }
        body = change_body(request, parts["body"])
        query = change_query(request.query if rule.forward_query else "", parts["query"])
        url = "" if rule.url is None else _make_url(profile, scope)
        headers = _make_headers(profile, request, parts["header"])
        secrets = _find_secrets(profile, request, scope)
    except WrongPlace as error:
        raise _invalid(f"The body has no place for what this proxy sets: {error}.", "") from None
    except MissingValue as error:
        raise _invalid(f"{error}.", "") from None
    except ValueError as error:
        raise invalid(f"The body is neither JSON nor a form: {error}.") from None
    if query:
        url += ("&" if "?" in url else "?") + query
    content_type = request.content_type or (b"application/json" if body else b"")
    if content_type:
        headers = (*headers, (b"Content-Type", content_type))
    coding = request.headers.get(b"content-encoding")
    if coding:
        headers = (*headers, (b"Content-Encoding", coding))
    return StartCall(body, headers, rule.method, url, secrets)


def make_follow_headers(profile: Profile, request: Message) -> Headers:
    """Return the headers of a request about a job: those of its start, as far as they concern it.

    :param request: the client's.
    """
    changes = [
        (each.target, each.make(Scope(request)))
        for each in profile.start.changes
        if each.target.part == "header" and not names_callback(each.value)
    ]
    return _make_headers(profile, request, changes)


def _make_headers(
    profile: Profile, request: Message, changes: Iterable[tuple[Expression, Any]]
) -> Headers:
    """Return the client's headers that go on, and those that the profile sets.

    :raises MissingValue: if a value cannot be in a header.
    """
    kept = {name: request.headers.get(name.encode()) for name in profile.start.forward}
    for target, value in changes:
        kept[target.name.lower()] = None if value is None else write_header(value)
    return tuple((name.encode(), value) for name, value in kept.items() if value is not None)


def _find_secrets(profile: Profile, request: Message, scope: Scope) -> tuple[str, ...]:
    """Return what nobody but the job server may read in a start request, in ASCII."""
    rule = profile.start
    sent = [request.headers.get(name.encode(), b"").decode("latin-1") for name in rule.forward]
    texts = (*sent, *rule.secrets, *(each.make(scope) for each in rule.encoded))
    return tuple(text for text in texts if len(text) >= MIN_SECRET and text.isascii())


def digest_request(profile: Profile, request: Message) -> bytes:
    """Return a hash of what a client's request asks for."""
    parts = (request.method.encode(), repr(sorted(request.path.items())).encode())
    # Nobody gets the result of a job that another credential has started.
    sent = repr([request.headers.get(name.encode()) for name in profile.start.forward]).encode()
    content = b"\0".join((*parts, sent, request.query.encode(), request.content_type, request.body))
    return blake2b(content, digest_size=16).digest()


def _make_url(profile: Profile, scope: Scope) -> str:
    template = profile.start.url
    assert template is not None
    wide = profile.path.wide
    url = template.render_url(scope, frozenset() if wide is None else frozenset({wide}))
    if url is None:
        raise MissingValue(f"something that {template.text} needs")
    return url


def is_body_read(profile: Profile) -> bool:
    """Whether the profile reads or changes members of the client's body."""
    expressions = [profile.account, *(each.target for each in profile.start.changes)]
    return any(each.part == "body" for each in expressions)


def _invalid(detail: str, pointer: str) -> ProblemError:
    errors = (FieldError(pointer, "is missing or wrong"),) if pointer else ()
    return ProblemError(Problem(Kind.INVALID_REQUEST, detail, errors=errors))
